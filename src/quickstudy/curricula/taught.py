"""An environment whose tasks a curriculum chooses, and the plainest choice there is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quickstudy.core import Environment, InputError
from quickstudy.tasks.acting import Wrapped


class Curriculum(nn.Module):
    """Draws tasks to meet next, and is told what came of those that were met.

    What it learns is kept in parameters and buffers, so that it is saved with a run. It owns no randomness.
    """

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N tasks. Shape: ``[n, *task]``."""
        raise NotImplementedError

    def met(self, tasks: Tensor, returns: Tensor, last: Tensor, generator: torch.Generator) -> None:
        """An episode of each of these tasks ended with this total reward, and led to this observation.

        Shape:
            tasks ``[n, *task]``, returns ``[n]``, last ``[n, *o]``.
        """


class Anywhere(Curriculum):
    """No curriculum: uniform over a box of tasks.

    Args:
        low: the box's lowest corner, ``[d]``.
        high: its highest.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        low, high = box(low, high)
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Uniform over the box."""
        return anywhere(self.low, self.high, n, generator)


class Taught(Wrapped, nn.Module):
    """The same environment, whose tasks a curriculum chooses; training loops tell it what came of them.

    Args:
        environment: where to act; tasks ``[T, *task]``.
        curriculum: which tasks to meet.
    """

    def __init__(self, environment: Environment, curriculum: Curriculum) -> None:
        super().__init__()
        self.environment, self.curriculum = environment, curriculum

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """What the curriculum would have met next."""
        return self.curriculum.sample(n, generator)

    @torch.no_grad()
    def met(self, tasks: Tensor, returns: Tensor, last: Tensor, generator: torch.Generator) -> None:
        """The curriculum learns from it."""
        self.curriculum.met(tasks, returns, last, generator)


def box(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The corners, checked.

    Raises:
        InputError: not two rows of numbers of one length, or nothing lies between them.
    """
    if low.ndim != 1 or low.shape != high.shape or not bool((low < high).all()):
        raise InputError(
            f"Expected the lowest and the highest corner of a box of tasks, [d] each. Found {low.tolist()} and "
            f"{high.tolist()}. Each number of the first must be below its partner."
        )
    return low.clone(), high.clone()


def anywhere(low: Tensor, high: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Uniform over a box. Shape: ``[n, d]``."""
    return low + (high - low) * torch.rand(n, len(low), generator=generator, device=low.device)


def nearest(points: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """How far the nearest of what is known is from each point, and which it is. Shape: both ``[n]``."""
    found = torch.cdist(points, known).min(1)
    return found.values, found.indices
