"""MAML one task after another, in plain PyTorch, in the manner of learn2learn: the other side of the ratios.

Every task gets a copy of the network whose parameters are no leaves but clones of the shared ones, so that the
gradient of the query's loss flows back through the inner steps to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from quickstudy.core import Episodes

Loss = Callable[[Tensor, Tensor], Tensor]


def clone(module: nn.Module) -> nn.Module:
    """A copy whose parameters are clones of the module's own, joined to them by the graph."""
    copy = module.__new__(type(module))
    copy.__dict__ = module.__dict__.copy()
    copy._parameters = {k: None if p is None else p.clone() for k, p in module._parameters.items()}  # type: ignore[misc]
    copy._buffers = {k: None if b is None else b.clone() for k, b in module._buffers.items()}
    copy._modules = {k: None if m is None else clone(m) for k, m in module._modules.items()}
    return copy


def move(module: nn.Module, gradients: Sequence[Tensor], rate: float) -> None:
    """One step of gradient descent that stays in the graph; parameters in the order of ``module.parameters()``."""
    step = iter(gradients)
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = value - rate * next(step)  # type: ignore[assignment]


def loop_maml(net: nn.Module, loss: Loss, episodes: Episodes, *, steps: int, inner_lr: float) -> Iterator[Tensor]:
    """The query's loss of one task after another after ``steps`` inner steps, second order.

    One at a time, so that the caller may take its gradient and drop its graph before the next task's is built.
    """
    for t in range(episodes.n_tasks):
        learner = clone(net)
        for _ in range(steps):
            error = loss(learner(episodes.support.x[t]), episodes.support.y[t])
            gradients = torch.autograd.grad(error, list(learner.parameters()), create_graph=True)
            move(learner, gradients, inner_lr)
        yield loss(learner(episodes.query.x[t]), episodes.query.y[t])
