"""Gradient steps inside ``adapt``: T tasks at once, each with its own copy of some parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, grad, grad_and_value, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm as AnyInstanceNorm
from torch.nn.parameter import is_lazy

from quickstudy.core import Batch, InputError, Problem
from quickstudy.nets import net_for
from quickstudy.nets.basic import _BatchNorm

Params = dict[str, Tensor]
TaskLoss = Callable[[Params, Tensor, Tensor, Tensor | None], Tensor]


def trainable(module: nn.Module) -> Params:
    """The parameters that may move, by name. Frozen ones stay where they are, in every task."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def net_to_adapt(problem: Problem, net: nn.Module | None, generator: torch.Generator | None) -> nn.Module:
    """The net that inner loops adapt: the one that suits the inputs, or a user's own (:func:`for_tasks`)."""
    if net is not None:
        return for_tasks(net)
    # tasks of a table are padded to one length, and batch statistics would count the padding
    return net_for(problem, "none" if problem.n_tasks else "batch", generator)


def default_rate(problem: Problem) -> float:
    """An inner step size where nobody names one: on 5-way Omniglot 0.4 of the mean cross-entropy; elsewhere 0.1."""
    return 0.4 if problem.kind == "classification" and not problem.shared_labels else 0.1


def for_tasks(net: nn.Module) -> nn.Module:
    """A user's net made fit to run for all tasks at once (``torch.func.vmap``), second derivatives included.

    - Parameters are the very ones given: training trains the user's net. Frozen ones are the same in every task.
    - BatchNorm and InstanceNorm normalise by the data at hand, of one task, at test too, and neither read nor write
      running statistics; frozen ones (``requires_grad`` False) with running statistics keep to these. LayerNorm is
      written out. In all three PyTorch's fused kernels either write in place or have wrong second derivatives under
      ``vmap`` (torch 2.13). What calls ``F.layer_norm`` and the like by itself goes unnoticed.
    - Attention runs in elementary operations (:func:`run`): the fused kernels have no second derivative.
    - Dropout draws another mask for each task, in training mode, from torch's global generator: it has no other.
    - Any other state that ``forward`` writes is refused when it is written (:func:`run`).

    Raises:
        InputError: recurrent layers, lazy layers, or normalisation with a ``forward`` of its own.
    """
    fused = AnyBatchNorm | AnyInstanceNorm | nn.LayerNorm
    for name, part in net.named_modules():
        what = f"{type(part).__name__} at {name!r}" if name else type(part).__name__
        if isinstance(part, nn.RNNBase | nn.RNNCellBase):
            raise InputError(
                f"Expected a net that runs for all tasks at once (torch.func.vmap). Found {what}, whose kernel PyTorch "
                "cannot batch over tasks. Write the recurrence with nn.Linear, or use convolution or attention."
            )
        if any(is_lazy(value) for value in part.parameters(recurse=False)):
            raise InputError(f"Expected a net whose parameters exist. Found {what} unused. Call the net on data once.")
        own = type(part).forward not in (AnyBatchNorm.forward, AnyInstanceNorm.forward, nn.LayerNorm.forward)
        if isinstance(part, fused) and own:
            raise InputError(
                f"Expected PyTorch's own forward in normalisation layers, which are written anew for many tasks at "
                f"once. Found another in {what}. Write it as a plain nn.Module, in elementary operations."
            )
    if not any(isinstance(part, fused) for part in net.modules()):
        return net
    if isinstance(net, fused):
        return _Norm(net)
    # a copy of the structure only: what stands in a parameter's place is that parameter
    net = copy.deepcopy(net, {id(value): value for value in net.parameters()})
    for part in list(net.modules()):
        for name, child in part.named_children():
            if isinstance(child, fused):
                setattr(part, name, _Norm(child))
    return net


class _Norm(nn.Module):
    """A normalisation layer written out, with the scale and shift of the one it stands for, under their names."""

    def __init__(self, old: AnyBatchNorm | AnyInstanceNorm | nn.LayerNorm) -> None:
        super().__init__()
        self.register_parameter("weight", old.weight)
        self.register_parameter("bias", old.bias)
        self.eps = old.eps
        self.dims = len(old.normalized_shape) if isinstance(old, nn.LayerNorm) else 0
        self.over: Literal["batch", "example", "none"] = "batch" if isinstance(old, AnyBatchNorm) else "example"
        frozen = old.weight is not None and not old.weight.requires_grad
        if frozen and not isinstance(old, nn.LayerNorm) and old.running_mean is not None:
            self.over = "none"
            self.register_buffer("running_mean", old.running_mean)
            self.register_buffer("running_var", old.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: as the input."""
        room = (-1, *(1,) * (x.ndim - 2)) if not self.dims else x.shape[x.ndim - self.dims :]
        if self.over == "none":
            centred = x - self.get_buffer("running_mean").view(room)
            scale = (self.get_buffer("running_var").view(room) + self.eps).rsqrt()
        else:
            first = x.ndim - self.dims if self.dims else 2
            axes = (*((0,) if self.over == "batch" else ()), *range(first, x.ndim))
            centred = x - x.mean(axes, keepdim=True)
            scale = (centred.square().mean(axes, keepdim=True) + self.eps).rsqrt()
        y: Tensor = centred * scale
        weight, bias = self._parameters["weight"], self._parameters["bias"]  # None where the layer learns neither
        y = y if weight is None else y * weight.view(room)
        return y if bias is None else y + bias.view(room)


def uses_batch_statistics(net: nn.Module) -> bool:
    """Whether a prediction depends on the other inputs of its task."""
    return any(isinstance(part, _BatchNorm) or getattr(part, "over", "") == "batch" for part in net.modules())


def at_rest(module: nn.Module) -> nn.Module:
    """A copy in eval mode, for inner loops: running statistics are read and never written."""
    return copy.deepcopy(module).eval()


def run(module: nn.Module, params: Params, x: Tensor) -> Tensor:
    """One task's pass with the task's own parameters, inside ``vmap``. Shape: ``[n, *x]`` to ``[n, out]``.

    Raises:
        InputError: the module writes to state of its own, which tasks would share, or cannot be run for all at once.
    """
    before = [(value, value._version) for value in module.buffers()]
    try:
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            prediction: Tensor = functional_call(module, params, (x,))
    except RuntimeError as error:
        if not any(word in str(error) for word in ("vmap", "atching rule", "captured Tensor")):
            raise
        raise InputError(
            "Expected a net that runs for all tasks at once (torch.func.vmap). Found "
            f"{type(module).__name__}, which stopped with: {' '.join(str(error).split())} Give up state that forward "
            "writes to (track_running_stats=False, no counters), and branches that depend on the data."
        ) from error
    after = list(module.buffers())
    for (value, version), now in zip(before, after, strict=False):
        if now is not value or now._version != version:
            name = next(name for name, buffer in module.named_buffers() if buffer is now)
            raise InputError(
                f"Expected a net that keeps nothing of what it sees: all tasks would share it. Found that forward of "
                f"{type(module).__name__} changes the buffer {name!r}. Compute it anew in each call, or keep it fixed."
            )
    return prediction


def task_loss(module: nn.Module, problem: Problem) -> TaskLoss:
    """One task's loss as a function of the parameters: ``(params, x [n, *x], y, weight) -> []``."""

    def loss(params: Params, x: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        return problem.loss(run(module, params, x), y, weight)

    return loss


def predict_each(module: nn.Module, params: Params, x: Tensor) -> Tensor:
    """Each task's inputs through the task's own parameters. Shape: ``[T, m, *x]`` to ``[T, m, out]``."""
    call = vmap(lambda p, one: run(module, p, one), randomness="different")
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
    if looking():
        find_trouble(loss, start, support, steps, rate)
    gradient = grad(loss)

    def one(x: Tensor, y: Tensor, weight: Tensor | None) -> Params:
        phi = start(x, y, weight) if callable(start) else start
        for _ in range(steps):
            g = gradient(phi, x, y, weight)
            if first_order:
                g = {name: value.detach() for name, value in g.items()}
            if not isinstance(rate, dict):
                phi = {name: torch.sub(value, g[name], alpha=rate) for name, value in phi.items()}
            else:
                phi = {name: value - rate[name] * g[name] for name, value in phi.items()}
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
        beta1: how much of the mean gradient is kept a step; 0 is Adam without momentum.

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
                m[i].lerp_(g[name], 1 - beta1)
                v[i].lerp_(g[name].square(), 0.001)
                m_hat, v_hat = m[i] / (1 - beta1 ** (step + 1)), v[i] / (1 - 0.999 ** (step + 1))
                phi[i].mul_(1 - rate * decay).sub_(rate * m_hat / (v_hat.sqrt() + 1e-8))
    return dict(zip(names, phi, strict=True))


# --- the same steps backwards, without their graph --------------------------------------------------------------------


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


def each_gradient(loss: TaskLoss, phi: Params, support: Batch, shared: bool = False) -> tuple[Params, Tensor]:
    """Each task's gradient ``[T, *p]`` and loss ``[T]``; ``shared`` as in :func:`product_with_hessian`."""
    axes = (None if shared else 0, 0, 0, None if support.weight is None else 0)
    found: tuple[Params, Tensor] = vmap(grad_and_value(loss), in_dims=axes)(phi, support.x, support.y, support.weight)
    return found


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
            g, losses = each_gradient(loss, phi, support, shared=step == 0 and not own)
            check_step(step, steps, losses, phi)
            phi = {n: phi[n] - (rate if isinstance(rate, float) else rate[n]) * g[n] for n in phi}
