"""Gradient steps inside ``adapt``: T tasks at once, each with its own copy of some parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from quickstudy.core import Batch, Problem

Params = dict[str, Tensor]
TaskLoss = Callable[[Params, Tensor, Tensor, Tensor | None], Tensor]


def trainable(module: nn.Module) -> Params:
    """The parameters that may move, by name. Frozen ones stay where they are, in every task."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def at_rest(module: nn.Module) -> nn.Module:
    """A copy in eval mode, for inner loops: running statistics are read and never written."""
    return copy.deepcopy(module).eval()


def task_loss(module: nn.Module, problem: Problem) -> TaskLoss:
    """One task's loss as a function of the parameters: ``(params, x [n, *x], y, weight) -> []``."""

    def loss(params: Params, x: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        return problem.loss(functional_call(module, params, (x,)), y, weight)

    return loss


def predict_each(module: nn.Module, params: Params, x: Tensor) -> Tensor:
    """Each task's inputs through the task's own parameters. Shape: ``[T, m, *x]`` to ``[T, m, out]``."""
    call = vmap(lambda p, one: functional_call(module, p, (one,)), randomness="different")
    prediction: Tensor = call(params, x)
    return prediction


def spread(params: Params, n_tasks: int) -> Params:
    """A copy for each task, without the memory: ``[*p]`` to ``[T, *p]``."""
    return {name: value.expand(n_tasks, *value.shape) for name, value in params.items()}


def descend(
    loss: TaskLoss,
    start: Params | Callable[[Tensor, Tensor, Tensor | None], Params],
    support: Batch,
    steps: int,
    rate: float | Params,
    *,
    first_order: bool = False,
) -> Params:
    """Plain gradient descent, differentiable: ``phi_t <- phi_t - rate * grad L(phi_t, support_t)``.

    Args:
        loss: one task's loss.
        start: where all tasks begin, ``[*p]`` each; or a function that makes it of one task's x, y and weight.
        support: the tasks' examples.
        steps: how many steps.
        rate: step size; or one for each parameter, broadcast against it.
        first_order: take the inner gradients as constants when differentiating through the steps.

    Returns:
        Each task's parameters, ``[T, *p]``.
    """
    gradient = grad(loss)

    def one(x: Tensor, y: Tensor, weight: Tensor | None) -> Params:
        phi = start(x, y, weight) if callable(start) else start
        for _ in range(steps):
            g = gradient(phi, x, y, weight)
            if first_order:
                g = {name: value.detach() for name, value in g.items()}
            if isinstance(rate, float):
                phi = {name: torch.sub(value, g[name], alpha=rate) for name, value in phi.items()}
            else:
                phi = {name: value - rate[name] * g[name] for name, value in phi.items()}
        return phi

    # one vmap around all steps: the first then starts from one shared point, a plain batched pass for all tasks
    weighted = None if support.weight is None else 0
    fast: Params = vmap(one, in_dims=(0, 0, weighted), randomness="different")(support.x, support.y, support.weight)
    return fast


def settle(
    loss: Callable[[Params, Tensor, Tensor, Tensor], Tensor],
    start: Params,
    support: Batch,
    steps: int,
    rate: float,
    *,
    rows: int = 256,
    decay: float = 0.0,
) -> Params:
    """Adam on each task's examples, not differentiable: what a person does with one data set.

    Supports larger than ``rows`` are walked through in their given order, ``rows`` examples a step; tasks that have
    no more than that always use all of theirs.

    Args:
        loss: one task's loss.
        start: each task's first parameters, ``[T, *p]``.
        support: the tasks' examples.
        steps: how many steps.
        rate: Adam's step size.
        rows: examples of a step.
        decay: decoupled weight decay a step, relative to ``rate``.

    Returns:
        Each task's parameters, ``[T, *p]``, without history.
    """
    names = list(start)
    phi = [start[name].detach().clone() for name in names]
    m = [torch.zeros_like(p) for p in phi]
    v = [torch.zeros_like(p) for p in phi]
    gradient = vmap(grad(loss), randomness="different")
    weights = support.weights
    task = torch.arange(support.n_tasks, device=weights.device).unsqueeze(1)
    real_first = (weights <= 0).to(torch.uint8).argsort(dim=1, stable=True)
    count = (weights > 0).sum(1, keepdim=True).clamp_min(1)
    window = torch.arange(rows, device=weights.device)
    with torch.no_grad():
        for step in range(steps):
            x, y, w = support.x, support.y, weights
            if support.n > rows:
                place = real_first.gather(1, (step * rows + window) % count)
                # a small task's window would run over its end: nothing counts twice
                x, y, w = x[task, place], y[task, place], w[task, place] * (window < count)
            g = gradient(dict(zip(names, phi, strict=True)), x, y, w)
            for i, name in enumerate(names):
                m[i].lerp_(g[name], 0.1)
                v[i].lerp_(g[name].square(), 0.001)
                m_hat, v_hat = m[i] / (1 - 0.9 ** (step + 1)), v[i] / (1 - 0.999 ** (step + 1))
                phi[i].mul_(1 - rate * decay).sub_(rate * m_hat / (v_hat.sqrt() + 1e-8))
    return dict(zip(names, phi, strict=True))
