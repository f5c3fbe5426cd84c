"""How the losses of T tasks become the one number that a step descends: any function ``[T] -> []``."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from quickstudy.combine.pcgrad import PCGrad

__all__ = ["ByTask", "PCGrad", "mean", "worst"]


@runtime_checkable
class ByTask(Protocol):
    """A combination that has to know which loss is of which of its ``tasks`` tasks; loops tell it."""

    tasks: int

    def __call__(self, losses: Tensor, task: Tensor | None = None) -> Tensor:
        """One number. Shape: losses and task ids both ``[T]``."""


def mean(losses: Tensor) -> Tensor:
    """All tasks alike: ``1/T sum_t L_t``."""
    return losses.mean()


def worst(losses: Tensor) -> Tensor:
    """The task that is served worst: ``max_t L_t``."""
    return losses.max()
