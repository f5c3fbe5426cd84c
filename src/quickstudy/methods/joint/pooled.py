"""One net for the examples of all tasks together, blind to which task they are from."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import embed
from quickstudy.nets import net_for


class Pooled(Method):
    r"""Train one net on everything; adaptation does nothing.

    .. math::
        \min_\theta \sum_t L_t(\theta, D_t)

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]``; by default the net that suits the inputs.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.
    """

    name: ClassVar[str] = "pooled"
    summary: ClassVar[str] = "one net for all tasks, blind to the task"
    standard: ClassVar[bool] = True

    def __init__(
        self, problem: Problem, net: nn.Module | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(problem)
        self.net = net_for(problem, generator=generator) if net is None else net

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """One net cannot give the same input different labels."""
        return "" if problem.shared_labels else "labels mean something else in every task; one net for all cannot fit"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """The net as it is."""
        return lambda x: embed(self.net, x)

    def losses(self, episodes: Episodes) -> Tensor:
        """The net on all examples of each episode: it adapts to none of them, so all may train it."""
        both = episodes.support.join(episodes.query)
        return self.problem.losses(embed(self.net, both.x), both)
