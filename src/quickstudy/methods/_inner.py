"""Gradient steps inside ``adapt``: T tasks at once, each with its own copy of some parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from quickstudy.core import Batch
from quickstudy.methods._nets import Params, TaskLoss


def descend(
    loss: TaskLoss,
    start: Params | Callable[[Tensor, Tensor, Tensor | None], Params],
    support: Batch,
    steps: int,
    rate: float | Params,
    *,
    later: float | None = None,
    first_order: bool = False,
) -> Params:
    """Plain gradient descent, differentiable: ``phi_t <- phi_t - rate * grad L(phi_t, support_t)``.

    Args:
        loss: one task's loss.
        start: where all tasks begin, ``[*p]`` each; or a function that makes it of one task's x, y and weight.
        support: the tasks' examples.
        steps: how many steps.
        rate: step size; or one for each parameter, broadcast against it.
        later: step size of all steps but the first; None stands for ``rate``.
        first_order: take the inner gradients as constants when differentiating through the steps.

    Returns:
        Each task's parameters, ``[T, *p]``.
    """
    if looking():
        find_trouble(loss, start, support, steps, rate, later)
    gradient = grad(loss)

    def one(x: Tensor, y: Tensor, weight: Tensor | None) -> Params:
        phi = start(x, y, weight) if callable(start) else start
        for step in range(steps):
            g = gradient(phi, x, y, weight)
            if first_order:
                g = {name: value.detach() for name, value in g.items()}
            alpha = rate if later is None or step == 0 else later
            if not isinstance(alpha, dict):
                phi = {name: torch.sub(value, g[name], alpha=alpha) for name, value in phi.items()}
            else:
                phi = {name: value - alpha[name] * g[name] for name, value in phi.items()}
        return phi

    # one vmap around all steps: the first then starts from one shared point, a plain batched pass for all tasks
    weighted = None if support.weight is None else 0
    fast: Params = vmap(one, in_dims=(0, 0, weighted), randomness="different")(support.x, support.y, support.weight)
    return fast


def take_step(
    loss: TaskLoss,
    phi: Params,
    support: Batch,
    rate: float | Params,
    *,
    shared: bool = False,
    order: Tensor | None = None,
) -> Params:
    """One step of :func:`descend`, for methods whose steps differ.

    Args:
        loss: one task's loss.
        phi: each task's parameters ``[T, *p]``, or one point for all.
        support: the tasks' examples.
        rate: step size; or one for each parameter, broadcast against it.
        shared: whether phi is one point for all tasks, ``[*p]``.
        order: 0 takes the inner gradients as constants, 1 differentiates through them; None stands for 1.
            A number and no choice of code, so that it may change while a compiled program runs.

    Returns:
        Each task's parameters, ``[T, *p]``.
    """
    axes = (None if shared else 0, 0, 0, None if support.weight is None else 0)
    g = vmap(grad(loss), in_dims=axes, randomness="different")(phi, support.x, support.y, support.weight)
    if order is not None:
        g = {name: value.detach() + order * (value - value.detach()) for name, value in g.items()}
    return {name: value - (rate[name] if isinstance(rate, dict) else rate) * g[name] for name, value in phi.items()}


def straight_through(start: Params, fast: Params) -> Params:
    """``fast`` in value, ``start`` in gradient: the Jacobian of adaptation is taken as the identity.

    Shape:
        ``start [*p]``, ``fast [T, *p]``; gives ``[T, *p]``.
    """
    return {name: value + (fast[name] - value).detach() for name, value in start.items()}


def settle(
    loss: Callable[[Params, Tensor, Tensor, Tensor], Tensor],
    start: Params,
    support: Batch,
    steps: int,
    rate: float,
    *,
    rows: int = 256,
    decay: float = 0.0,
    beta1: float = 0.9,
    adam: bool = True,
) -> Params:
    """Adam, or plain descent, on each task's examples, not differentiable: what a person does with one data set.

    Supports larger than ``rows`` are walked through in their given order, ``rows`` examples a step; tasks that have
    no more than that always use all of theirs.

    Args:
        loss: one task's loss.
        start: each task's first parameters, ``[T, *p]``.
        support: the tasks' examples.
        steps: how many steps.
        rate: the step size.
        rows: examples of a step.
        decay: decoupled weight decay a step, relative to ``rate``.
        beta1: how much of Adam's mean gradient is kept a step; 0 is Adam without momentum.
        adam: whether steps are Adam's; else they follow the gradient.

    Returns:
        Each task's parameters, ``[T, *p]``, without history.
    """
    names = list(start)
    phi = [start[name].detach().clone() for name in names]
    m, v = ([torch.zeros_like(p) for p in phi] if adam else [] for _ in range(2))
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
                if not adam:
                    phi[i].mul_(1 - rate * decay).sub_(rate * g[name])
                    continue
                m[i].lerp_(g[name], 1 - beta1)
                v[i].lerp_(g[name].square(), 0.001)
                m_hat, v_hat = m[i] / (1 - beta1 ** (step + 1)), v[i] / (1 - 0.999 ** (step + 1))
                phi[i].mul_(1 - rate * decay).sub_(rate * m_hat / (v_hat.sqrt() + 1e-8))
    return dict(zip(names, phi, strict=True))


Randomness = Literal["error", "different"]  # of vmap: what is drawn within is refused, or drawn for each task


def each_gradient(
    loss: TaskLoss, phi: Params, support: Batch, shared: bool = False, randomness: Randomness = "error"
) -> tuple[Params, Tensor]:
    """Each task's gradient ``[T, *p]`` and loss ``[T]``; ``shared`` as in :func:`product_with_hessian`."""
    axes = (None if shared else 0, 0, 0, None if support.weight is None else 0)
    every = vmap(grad_and_value(loss), in_dims=axes, randomness=randomness)
    found: tuple[Params, Tensor] = every(phi, support.x, support.y, support.weight)
    return found


# --- where an inner loop went wrong -----------------------------------------------------------------------------------


class Trouble(NamedTuple):
    """Where an inner loop first met a number that is not finite: the task's place in the step, and what it was."""

    task: int | None
    what: str


_troubles: ContextVar[list[Trouble] | None] = ContextVar("troubles", default=None)


@contextmanager
def looking_for_trouble() -> Iterator[list[Trouble]]:
    """While this lasts, inner loops check every step, which they are too fast to do otherwise.

    Yields:
        What was found; empty, or where it began.
    """
    found: list[Trouble] = []
    token = _troubles.set(found)
    try:
        yield found
    finally:
        _troubles.reset(token)


def looking() -> bool:
    """Whether somebody wants to know where an inner loop goes wrong, so that checks are worth their time."""
    return _troubles.get() is not None


def check_step(step: int, steps: int, losses: Tensor, phi: Params) -> None:
    """Note the first task whose loss or parameters are not finite; nothing unless somebody is looking for trouble.

    Args:
        step: which inner step is about to be taken, counted from 0.
        steps: how many there are.
        losses: of the support at ``phi``, ``[T]``.
        phi: parameters before the step, ``[T, *p]``; before the first, ``[*p]`` will do.
    """
    found = _troubles.get()
    if found is None or found:
        return
    bad = ~torch.isfinite(losses)
    if step:
        for p in phi.values():
            bad = bad | ~torch.isfinite(p.flatten(1)).all(1)
    elif not all(bool(torch.isfinite(p).all()) for p in phi.values()):
        found.append(Trouble(None, "the trained parameters are not finite: the gradient of the step before overflowed"))
        return
    if bool(bad.any()):
        task = int(bad.nonzero()[0])
        when = "before the first inner step" if step == 0 else f"after inner step {step} of {steps}"
        found.append(Trouble(task, f"the support loss is {float(losses[task])} {when}"))


def find_trouble(
    loss: TaskLoss,
    start: Params | Callable[[Tensor, Tensor, Tensor | None], Params],
    support: Batch,
    steps: int,
    rate: float | Params,
    later: float | None = None,
) -> None:
    """Take the steps of :func:`descend` once more, one by one, and note where they first go wrong."""
    with torch.no_grad():
        own = callable(start)  # each task begins at a point of its own
        if callable(start):
            weighted = None if support.weight is None else 0
            begin = vmap(start, in_dims=(0, 0, weighted), randomness="different")
            phi = begin(support.x, support.y, support.weight)
        else:
            phi = {name: value.detach() for name, value in start.items()}
        for step in range(steps + 1):
            g, losses = each_gradient(loss, phi, support, step == 0 and not own, "different")
            check_step(step, steps, losses, phi)
            alpha = rate if later is None or step == 0 else later
            phi = {n: phi[n] - (alpha[n] if isinstance(alpha, dict) else alpha) * g[n] for n in phi}
