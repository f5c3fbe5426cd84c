"""Domain randomisation: physics drawn from given ranges; for those that grow see `quickstudy.curricula`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core import Environment, InputError
from quickstudy.tasks.acting import Wrapped, uniform


@dataclass(frozen=True)
class RandomPhysics(Wrapped):
    r"""The same environment, its physics multiplied: each quantity by :math:`e^{u}`, u uniform in a range of its own.

    The policy does not see the physics. With a policy that remembers, this is meta-learning over simulators; with one
    that does not, it learns to be robust to all of them.

    Args:
        environment: tasks are positive quantities, ``[T, q]``.
        low: least u of each quantity.
        high: largest u; where it equals ``low``, the quantity stays as it is.

    Raises:
        InputError: ranges of other lengths than the environment has quantities, or ends in the wrong order.

    Reference:
        Tobin et al. 2017, Domain randomization for transferring deep neural networks from simulation to the real
        world, arXiv:1703.06907; Peng et al. 2018, Sim-to-real transfer of robotic control with dynamics randomization,
        arXiv:1710.06537 (dynamics, memory).
    """

    environment: Environment
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        check_ends(self.environment, self.low, self.high)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N physics."""
        tasks = self.environment.sample(n, generator)
        low, high = (torch.tensor(end, device=tasks.device) for end in (self.low, self.high))
        return tasks * uniform(low, high, (n, len(self.low)), generator).exp()


def check_ends(environment: Environment, low: tuple[float, ...], high: tuple[float, ...]) -> None:
    """Refuse ranges that do not fit.

    Raises:
        InputError: says what they should be.
    """
    quantities = environment.sample(1, torch.Generator().manual_seed(0)).shape[1]
    if len(low) != quantities or len(high) != quantities or any(a > b for a, b in zip(low, high, strict=True)):
        raise InputError(
            f"Expected low and high ends of {quantities} ranges, low <= high. Found {low} and {high}. Give (0, 0) for "
            "what stays as it is."
        )
