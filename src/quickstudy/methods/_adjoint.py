"""The steps of gradient descent taken backwards, without keeping their graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import grad, vjp, vmap

from quickstudy.core import Batch, InputError
from quickstudy.methods._inner import each_gradient, find_trouble, looking
from quickstudy.methods._nets import Params, TaskLoss, spread


def product_with_hessian(loss: TaskLoss, shared: bool = False) -> Callable[..., tuple[Params, Params]]:
    """``(phi, v, x, y, weight or None) -> (H(phi) v, grad L(phi))``, all tasks at once.

    Reverse over reverse: what plain back-propagation through a step does, and on small nets on CPU faster than forward
    over reverse. Dropout would draw other masks than the step did: refused by ``vmap``.

    Args:
        loss: one task's loss.
        shared: phi is one point for all tasks, ``[*p]`` (the first step: a plain batched pass).
    """
    gradient = grad(loss)

    def one(phi: Params, v: Params, x: Tensor, y: Tensor, weight: Tensor | None) -> tuple[Params, Params]:
        g, back, *_ = vjp(lambda at: gradient(at, x, y, weight), phi)
        return back(v)[0], g

    def every(phi: Params, v: Params, support: Batch) -> tuple[Params, Params]:
        axes = (None if shared else 0, 0, 0, 0, None if support.weight is None else 0)
        found: tuple[Params, Params] = vmap(one, in_dims=axes)(phi, v, support.x, support.y, support.weight)
        return found

    return every


def no_history_of(support: Batch) -> None:
    """Refuse inputs that something trained has made: the steps' own backward pass does not reach it."""
    if support.x.requires_grad or support.y.requires_grad:
        raise InputError(
            "Expected support examples without history. Found some that depend on trained parameters, whose gradient "
            "would be lost. Put what makes them into the net, or back-propagate through the steps (adjoint=False)."
        )


def descend_adjoint(loss: TaskLoss, start: Params, support: Batch, steps: int, rate: float | Params) -> Params:
    r"""What :func:`descend` computes, with the same gradient in ``start`` and ``rate``, without the steps' graph.

    Saved are only the weights :math:`\phi_0 \ldots \phi_S`; the backward pass takes each step's part again,

    .. math::
        \lambda_S = \nabla_\phi L^{test}(\phi_S), \qquad
        \lambda_s = \lambda_{s+1} - H(\phi_s)\, (\alpha \lambda_{s+1}), \qquad
        \frac{dL^{test}}{d\theta} = \lambda_0, \qquad
        \frac{dL^{test}}{d\alpha} = -\sum_s \lambda_{s+1} \cdot \nabla L(\phi_s)

    Args:
        loss: one task's loss; it depends on nothing trained but its parameters, and draws nothing at random.
        start: where all tasks begin, ``[*p]`` each.
        support: the tasks' examples.
        steps: how many steps.
        rate: step size; or one for each parameter, broadcast against it.

    Returns:
        Each task's parameters, ``[T, *p]``. They can be differentiated once.

    Raises:
        InputError: the support depends on trained parameters.
    """
    no_history_of(support)
    if looking():
        find_trouble(loss, start, support, steps, rate)
    if steps == 0:
        return spread(start, support.n_tasks)
    names = list(start)
    rates = [] if isinstance(rate, float) else [rate[name] for name in names]
    fixed = rate if isinstance(rate, float) else None
    ends: tuple[Tensor, ...] = _Adjoint.apply(loss, support, steps, fixed, names, *start.values(), *rates)
    return dict(zip(names, ends, strict=True))


class _Adjoint(torch.autograd.Function):
    """The steps of :func:`descend_adjoint` forwards and backwards."""

    @staticmethod
    def forward(
        ctx: Any, loss: TaskLoss, support: Batch, steps: int, fixed: float | None, names: list[str], *given: Tensor
    ) -> tuple[Tensor, ...]:
        size = len(names)
        rates: Sequence[Any] = [fixed] * size if fixed is not None else given[size:]
        phi, path = dict(zip(names, given[:size], strict=True)), list(given)
        for step in range(steps):
            if step:
                path.extend(phi.values())
            g, _ = each_gradient(loss, phi, support, shared=step == 0)
            phi = {name: phi[name] - r * g[name] for name, r in zip(names, rates, strict=True)}
        ctx.save_for_backward(*path)
        ctx.facts = loss, support, steps, fixed, names, len(given)
        return tuple(phi.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *ends: Tensor) -> tuple[Tensor | None, ...]:
        loss, support, steps, fixed, names, n_given = ctx.facts
        size, saved = len(names), ctx.saved_tensors
        each: Sequence[Any] = [fixed] * size if fixed is not None else saved[size:n_given]
        rates = dict(zip(names, each, strict=True))
        slopes = [] if fixed is not None else [torch.zeros_like(r) for r in rates.values()]
        lam = dict(zip(names, ends, strict=True))
        for step in reversed(range(steps)):
            at = n_given + (step - 1) * size if step else 0
            phi = dict(zip(names, saved[at : at + size], strict=True))
            turned, g = product_with_hessian(loss, shared=step == 0)(
                phi, {name: rates[name] * value for name, value in lam.items()}, support
            )
            for slope, name in zip(slopes, names, strict=False):
                slope -= (lam[name] * g[name]).sum(0).sum_to_size(slope.shape)
            lam = {name: value - turned[name] for name, value in lam.items()}
        return None, None, None, None, None, *(value.sum(0) for value in lam.values()), *slopes
