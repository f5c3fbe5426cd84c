"""The steps of gradient descent taken backwards, without keeping their graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import grad, vjp, vmap

from quickstudy.core import Batch, InputError, Problem, RunError
from quickstudy.methods._inner import Randomness, each_gradient, find_trouble, looking
from quickstudy.methods._nets import Params, SameDraws, TaskLoss, draws, spread, task_loss
from quickstudy.methods._program import MOST_SHAPES, Program, compiled


def product_with_hessian(
    loss: TaskLoss, shared: bool = False, randomness: Randomness = "error"
) -> Callable[..., tuple[Params, Params]]:
    """``(phi, v, x, y, weight or None) -> (H(phi) v, grad L(phi))``, all tasks at once.

    Reverse over reverse: what plain back-propagation through a step does, and on small nets on CPU faster than forward
    over reverse. Dropout has to draw the masks that the step had (:class:`SameDraws`).

    Args:
        loss: one task's loss.
        shared: phi is one point for all tasks, ``[*p]`` (the first step: a plain batched pass).
        randomness: what becomes of what is drawn within, as ``vmap`` names it.
    """
    gradient = grad(loss)

    def one(phi: Params, v: Params, x: Tensor, y: Tensor, weight: Tensor | None) -> tuple[Params, Params]:
        g, back, *_ = vjp(lambda at: gradient(at, x, y, weight), phi)
        return back(v)[0], g

    def every(phi: Params, v: Params, support: Batch) -> tuple[Params, Params]:
        axes = (None if shared else 0, 0, 0, 0, None if support.weight is None else 0)
        both = vmap(one, in_dims=axes, randomness=randomness)
        found: tuple[Params, Params] = both(phi, v, support.x, support.y, support.weight)
        return found

    return every


def no_history_of(support: Batch) -> None:
    """Refuse inputs that something trained has made: the steps' own backward pass does not reach it."""
    if support.x.requires_grad or support.y.requires_grad:
        raise InputError(
            "Expected support examples without history. Found some that depend on trained parameters, whose gradient "
            "would be lost. Put what makes them into the net, or back-propagate through the steps (adjoint=False)."
        )


class Steps:
    """One step of gradient descent for all tasks, forwards and backwards.

    Args:
        loss: one task's loss.
        net: what it runs, if that may draw at random: each step backwards then draws what it drew forwards.
    """

    def __init__(self, loss: TaskLoss, net: nn.Module | None = None) -> None:
        self.loss, self.random = loss, net is not None and draws(net)
        self.randomness: Randomness = "different" if self.random else "error"

    def same_draws(self, device: torch.device) -> AbstractContextManager[None]:
        """What a step draws, forwards and backwards the same."""
        return SameDraws(device) if self.random else nullcontext()

    def down(self, phi: Params, rates: Params | dict[str, float], support: Batch, shared: bool) -> Params:
        """From the weights before the step, ``[T, *p]`` (``shared``: ``[*p]``), to those after it."""
        g, _ = each_gradient(self.loss, phi, support, shared, self.randomness)
        return {name: value - rates[name] * g[name] for name, value in phi.items()}

    def up(
        self, phi: Params, lam: Params, rates: Params | dict[str, float], slopes: Params, support: Batch, shared: bool
    ) -> tuple[Params, Params]:
        """From the gradient in the weights after the step to that in those before it; adds to that in the rates."""
        turned, g = product_with_hessian(self.loss, shared, self.randomness)(
            phi, {name: rates[name] * value for name, value in lam.items()}, support
        )
        slopes = {n: s - (lam[n] * g[n]).sum(0).sum_to_size(s.shape) for n, s in slopes.items()}
        return {name: value - turned[name] for name, value in lam.items()}, slopes


def learns(rates: Params | dict[str, float]) -> bool:
    """Whether the step sizes are trained, and want a gradient."""
    return any(isinstance(rate, Tensor) for rate in rates.values())


def in_order(value: Tensor) -> Tensor:
    """The same numbers, laid out as a fresh tensor has them: axes of length one differ else, and compile anew."""
    return value.contiguous().flatten().view(value.shape)


class CompiledSteps(Steps):
    """:class:`Steps` as two programs, compiled once for each shape of the tasks: any number of steps is taken by them.

    All tasks begin with a copy of the weights, so that the first step is as all others. A method may keep this: it
    holds the net and no weights, and a copy of the method compiles anew.

    Args:
        net: what the loss runs; its frozen parameters and buffers are read at each step.
        problem: what the loss is.

    Raises:
        InputError: the net has dropout, in training mode: a program cannot draw the same masks again.
        RunError: a step cannot be compiled, or supports have more than ``MOST_SHAPES`` different shapes.
    """

    def __init__(self, net: nn.Module, problem: Problem) -> None:
        super().__init__(task_loss(net, problem))
        self.net, self.problem = net, problem
        self._programs: dict[tuple[object, ...], tuple[Program, Program]] = {}

    def __reduce__(self) -> tuple[type[CompiledSteps], tuple[nn.Module, Problem]]:
        return CompiledSteps, (self.net, self.problem)

    def down(self, phi: Params, rates: Params | dict[str, float], support: Batch, shared: bool) -> Params:
        if shared:
            phi = spread(phi, support.n_tasks)
        given = self._flat(phi, rates, support)
        return dict(zip(phi, self._made(phi, given, learns(rates))[0](*given), strict=True))

    def up(
        self, phi: Params, lam: Params, rates: Params | dict[str, float], slopes: Params, support: Batch, shared: bool
    ) -> tuple[Params, Params]:
        if shared:
            phi = spread(phi, support.n_tasks)
        given = self._flat(phi, rates, support)
        ends = [in_order(value) for value in lam.values()]
        found = self._made(phi, given, learns(rates))[1](*given, ends, list(slopes.values()))
        return dict(zip(lam, found, strict=False)), dict(zip(slopes, found[len(lam) :], strict=True))

    def _flat(self, phi: Params, rates: Params | dict[str, float], support: Batch) -> list[list[Tensor | None]]:
        """Weights, rates, what is fixed in the net, and data, without history and each of one piece."""
        like = next(iter(phi.values()))
        every: list[list[Tensor | None]] = [
            list(phi.values()),
            [torch.as_tensor(rate, dtype=like.dtype, device=like.device) for rate in rates.values()],
            list(self._fixed(phi).values()),
            [support.x, support.y, support.weight],
        ]
        return [[None if v is None else in_order(v.detach()) for v in values] for values in every]

    def _fixed(self, phi: Params) -> Params:
        state = dict(self.net.named_parameters()) | dict(self.net.named_buffers())
        return {name: value for name, value in state.items() if name not in phi}

    def _made(self, phi: Params, given: list[list[Tensor | None]], learned: bool) -> tuple[Program, Program]:
        if draws(self.net):
            raise InputError(
                "Expected a net that draws nothing at random with adjoint='compiled', whose program backwards cannot "
                f"draw the masks that the one forwards had. Found dropout in {type(self.net).__name__}. Take "
                "adjoint=True, or leave dropout out."
            )
        shapes = tuple(None if value is None else (value.shape, value.dtype) for values in given for value in values)
        key = (*phi, self.net.training, learned, *shapes)
        if key not in self._programs:
            if len(self._programs) == MOST_SHAPES:
                raise RunError(
                    f"Expected supports of at most {MOST_SHAPES} different shapes to compile inner steps for. Found "
                    "one more. Give tasks of one size, or take adjoint=True."
                )
            self._programs[key] = self._compile(list(phi), list(self._fixed(phi)), given, learned)
        return self._programs[key]

    def _compile(
        self, names: list[str], fixed: list[str], given: list[list[Tensor | None]], learned: bool
    ) -> tuple[Program, Program]:
        def plain(rest: list[Tensor]) -> Steps:
            still = dict(zip(fixed, rest, strict=True))
            return Steps(lambda params, x, y, weight: self.loss(still | params, x, y, weight))

        def down(phi: list[Tensor], rates: list[Tensor], rest: list[Tensor], data: list[Any]) -> list[Tensor]:
            at, rate = (dict(zip(names, values, strict=True)) for values in (phi, rates))
            return list(plain(rest).down(at, rate, Batch(*data), False).values())

        def up(
            phi: list[Tensor], rates: list[Tensor], rest: list[Tensor], data: list[Any], *more: list[Tensor]
        ) -> list[Tensor]:
            at, rate, lam, slopes = (dict(zip(names, values, strict=False)) for values in (phi, rates, *more))
            before, slopes = plain(rest).up(at, lam, rate, slopes, Batch(*data), False)
            return [*before.values(), *slopes.values()]

        call = {"what": "inner steps", "whose": type(self.net).__name__}
        ones: list[list[Any]] = [[torch.ones_like(value) for value in values if value is not None] for values in given]
        return compiled(down, *given, **call), compiled(up, *given, ones[0], ones[1] if learned else [], **call)


def descend_adjoint(loss: TaskLoss | Steps, start: Params, support: Batch, steps: int, rate: float | Params) -> Params:
    r"""What :func:`descend` computes, with the same gradient in ``start`` and ``rate``, without the steps' graph.

    Saved are only the weights :math:`\phi_0 \ldots \phi_S`; the backward pass takes each step's part again,

    .. math::
        \lambda_S = \nabla_\phi L^{test}(\phi_S), \qquad
        \lambda_s = \lambda_{s+1} - H(\phi_s)\, (\alpha \lambda_{s+1}), \qquad
        \frac{dL^{test}}{d\theta} = \lambda_0, \qquad
        \frac{dL^{test}}{d\alpha} = -\sum_s \lambda_{s+1} \cdot \nabla L(\phi_s)

    Args:
        loss: one task's loss; it depends on nothing trained but its parameters, and draws nothing at random. Or steps
            down it, which may draw, or be compiled.
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
    one = loss if isinstance(loss, Steps) else Steps(loss)
    if looking():
        find_trouble(one.loss, start, support, steps, rate)
    if steps == 0:
        return spread(start, support.n_tasks)
    names = list(start)
    rates = [] if isinstance(rate, float) else [rate[name] for name in names]
    fixed = rate if isinstance(rate, float) else None
    ends: tuple[Tensor, ...] = _Adjoint.apply(one, support, steps, fixed, names, *start.values(), *rates)
    return dict(zip(names, ends, strict=True))


class _Adjoint(torch.autograd.Function):
    """The steps of :func:`descend_adjoint` forwards and backwards."""

    @staticmethod
    def forward(
        ctx: Any, one: Steps, support: Batch, steps: int, fixed: float | None, names: list[str], *given: Tensor
    ) -> tuple[Tensor, ...]:
        size = len(names)
        each: Sequence[Any] = [fixed] * size if fixed is not None else given[size:]
        rates = dict(zip(names, each, strict=True))
        phi, path = dict(zip(names, given[:size], strict=True)), list(given)
        same = [one.same_draws(support.x.device) for _ in range(steps)]
        for step in range(steps):
            if step:
                path.extend(phi.values())
            with same[step]:
                phi = one.down(phi, rates, support, step == 0)
        ctx.save_for_backward(*path)
        ctx.facts = one, support, steps, fixed, names, len(given), same
        return tuple(phi.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *ends: Tensor) -> tuple[Tensor | None, ...]:
        one, support, steps, fixed, names, n_given, same = ctx.facts
        size, saved = len(names), ctx.saved_tensors
        each: Sequence[Any] = [fixed] * size if fixed is not None else saved[size:n_given]
        rates = dict(zip(names, each, strict=True))
        slopes = {} if fixed is not None else {name: torch.zeros_like(rate) for name, rate in rates.items()}
        lam = dict(zip(names, ends, strict=True))
        for step in reversed(range(steps)):
            at = n_given + (step - 1) * size if step else 0
            phi = dict(zip(names, saved[at : at + size], strict=True))
            with same[step]:
                lam, slopes = one.up(phi, lam, rates, slopes, support, step == 0)
        return None, None, None, None, None, *(value.sum(0) for value in lam.values()), *slopes.values()
