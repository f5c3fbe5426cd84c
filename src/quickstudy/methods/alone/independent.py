"""From scratch: every task has a net of its own and shares nothing. What sharing has to beat."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._inner import settle
from quickstudy.methods._nets import Params, predict_each, spread, task_loss
from quickstudy.nets import net_for


class Independent(Method):
    r"""Train one net a task, on that task's examples alone.

    .. math::
        \min_{\phi_1, \dots, \phi_T} \sum_t L_t(\phi_t, D_t)

    All nets start from the same weights. Known tasks' nets are the parameters, stacked, and training moves them;
    a new task's net takes Adam steps from the same start on its support.

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]``; by default the net that suits the inputs. Where all tasks are
            new, a convolutional one is 16 wide: on few examples as good as 64, at a tenth of the time.
        steps: Adam steps on a new task's support.
        inner_lr: their step size.
        generator: draws the first weights.

    Shape:
        parameters ``[n_tasks, *p]``; support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.
    """

    name: ClassVar[str] = "scratch"
    summary: ClassVar[str] = "a net for each task, nothing shared"
    standard: ClassVar[bool] = True
    shares: ClassVar[bool] = False
    uses_task: ClassVar[bool] = True
    label_equivariant: ClassVar[bool] = False  # each label starts from its own row of the head
    consistent = True
    settings: dict[str, tuple[float, ...]] = {"steps": (30, 150)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Module | None = None,
        *,
        steps: int = 30,
        inner_lr: float = 3e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.steps, self.inner_lr = steps, inner_lr
        if net is None:
            net = net_for(problem, "none", generator, width=32 if problem.n_tasks else 16)
        if problem.n_tasks:
            self.nets = _stack(net, problem.n_tasks)
        self.start = _freeze(copy.deepcopy(net))

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """A known task's own net, or a new net trained on the support."""
        if task is None:
            names = [name for name, _ in self.start.named_buffers()]
            start = spread({name: self.start.get_buffer(name) for name in names}, support.n_tasks)
            phi = settle(task_loss(self.start, self.problem), start, support, int(self.steps), self.inner_lr)
        else:
            phi = self._nets_of(task)
        return lambda x: predict_each(self.start, phi, x)

    def losses(self, episodes: Episodes) -> Tensor:
        """Each task's own net on all examples of its episode; tasks without an id have nothing to train."""
        if episodes.task is None:
            return super().losses(episodes)
        both = episodes.support.join(episodes.query)
        return self.problem.losses(predict_each(self.start, self._nets_of(episodes.task), both.x), both)

    def _nets_of(self, task: Tensor) -> Params:
        return {name: value[task] for name, value in self.nets.named_parameters()}


def _stack(net: nn.Module, n_tasks: int) -> nn.Module:
    """The net with each parameter repeated along a leading task axis; names stay."""
    stacked = copy.deepcopy(net)
    for module in stacked.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(value.detach().repeat(n_tasks, *(1,) * value.ndim)))
    return stacked


def _freeze(net: nn.Module) -> nn.Module:
    """The net with buffers in place of parameters, so that nothing can train it; names stay."""
    for module in net.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, value.detach())
    return net
