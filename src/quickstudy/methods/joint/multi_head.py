"""A trunk that all tasks share and a linear head for each task."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import embed
from quickstudy.methods._heads import Head, apply, fit_heads, fresh_heads
from quickstudy.nets import net_for


class MultiHead(Method):
    r"""Share the features, not what is made of them.

    .. math::
        f_t(x) = W_t h_\theta(x) + b_t, \qquad \min_{\theta, W, b} \sum_t L_t(f_t, D_t)

    A new task gets a new head, fitted on its support by Adam while the trunk rests. It starts from the mean of the
    known heads; where labels mean something else in every task, from the nearest class mean (numbers: from zero).

    Args:
        problem: what the tasks look like.
        net: trunk ``[n, *x] -> [n, features]`` and ``nn.Linear`` head, in a Sequential of two; by default the net
            that suits the inputs.
        steps: Adam steps on a new task's head.
        inner_lr: their step size.
        generator: draws the first weights.

    Shape:
        ``weight [n_tasks, outputs, features]``, ``bias [n_tasks, outputs]``; support.x ``[T, n, *x]``,
        query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Reference:
        Caruana 1997, Multitask Learning, Machine Learning 28:41-75.
    """

    name: ClassVar[str] = "multi-head"
    summary: ClassVar[str] = "shared features, a linear head for each task"
    standard: ClassVar[bool] = True
    reference: ClassVar[str] = "Caruana 1997, Machine Learning 28:41-75"
    uses_task: ClassVar[bool] = True
    settings: dict[str, tuple[float, ...]] = {"steps": (0, 10, 50, 200)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Sequential | None = None,
        *,
        steps: int = 10,
        inner_lr: float = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.steps, self.inner_lr = steps, inner_lr
        net = net_for(problem, generator=generator) if net is None else net
        self.trunk, head = net[0], cast(nn.Linear, net[1])
        # all heads start alike, so that at first all tasks pull the trunk the same way
        self.weight = nn.Parameter(head.weight.detach().repeat(problem.n_tasks, 1, 1))
        self.bias = nn.Parameter(head.bias.detach().repeat(problem.n_tasks, 1))

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """A head needs a task that is met again."""
        return "" if problem.n_tasks else "needs training tasks that have an identity; here every episode is a new task"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """A known task's own head, or a new one fitted on the support."""
        head = self._new(support) if task is None else {"weight": self.weight[task], "bias": self.bias[task]}
        return lambda x: apply(head, embed(self.trunk, x))

    def losses(self, episodes: Episodes) -> Tensor:
        """Each task's head on all examples of its episode; tasks without an id train the trunk under a new head."""
        if episodes.task is None:
            return super().losses(episodes)
        both = episodes.support.join(episodes.query)
        return self.problem.losses(self.adapt(both, episodes.task)(both.x), both)

    def _new(self, support: Batch) -> Head:
        features = embed(self.trunk, support.x)
        if self.problem.shared_labels:
            n = support.n_tasks
            start = {"weight": self.weight.mean(0).expand(n, -1, -1), "bias": self.bias.mean(0).expand(n, -1)}
        else:
            start = fresh_heads(self.problem, features, support)
        return fit_heads(self.problem, start, features, support, int(self.steps), self.inner_lr)
