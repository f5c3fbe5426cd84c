"""How the losses of T tasks become the one number that a step descends: any function ``[T] -> []``."""

from __future__ import annotations

from torch import Tensor

from quickstudy.combine.pcgrad import PCGrad

__all__ = ["PCGrad", "mean", "worst"]


def mean(losses: Tensor) -> Tensor:
    """All tasks alike: ``1/T sum_t L_t``."""
    return losses.mean()


def worst(losses: Tensor) -> Tensor:
    """The task that is served worst: ``max_t L_t``."""
    return losses.max()
