"""Implicit MAML: the meta-gradient from where adaptation ends, whatever way it went there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import vmap

from quickstudy.core import Batch, InputError, Method, Predictor, Problem
from quickstudy.methods._adjoint import no_history_of, product_with_hessian
from quickstudy.methods._inner import Randomness, check_step, each_gradient, looking
from quickstudy.methods._nets import (
    Params,
    SameDraws,
    TaskLoss,
    draws,
    net_to_adapt,
    predict_each,
    spread,
    task_loss,
    trainable,
    uses_batch_statistics,
)

Product = Callable[[Params], Params]
LENGTHS = (1.0, 0.5, 0.2, 0.05, 0.01, 0.001, 0.0)  # of a Newton step; the best of them is taken, none if all are worse


class IMAML(Method):
    r"""Learn the point :math:`\theta` that tasks are regularised to, from the optimum that adaptation finds.

    .. math::
        \phi_t^* = \arg\min_\phi L_t(\phi, D_t^{tr}) + \tfrac{\lambda}{2} \|\phi - \theta\|^2 \quad \text{(eq. 3)},
        \qquad
        \frac{d L_t(\phi_t^*, D_t^{test})}{d\theta} =
        \Big(I + \tfrac{1}{\lambda} \nabla^2 L_t(\phi_t^*, D_t^{tr})\Big)^{-1} \nabla_\phi L_t(\phi_t^*, D_t^{test})
        \quad \text{(eq. 6)}

    The inverse is applied by conjugate gradient on products with the Hessian, so that memory doesn't grow with the
    inner steps. The gradient is that of the optimum: of what ``adapt`` gives it is an approximation, as good as the
    inner problem is solved and as ``cg_steps`` allow.

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]``; by default the net that suits the inputs. Batch normalisation
            uses each task's own batch: :func:`~quickstudy.methods._nets.for_tasks` says what becomes of such parts.
            Dropout draws one mask a task and call of ``adapt``, for all steps and the gradient: eq. 3 has to be one
            problem to have an optimum.
        proximal: lambda, how strongly a task is held to theta.
        solver: ``"newton"`` (the paper's Hessian-free one: each step's direction by conjugate gradient, its length
            the best of ``LENGTHS``, so that no step makes eq. 3 worse) or ``"gradient"`` (gradient descent).
        steps: inner steps in training; gradient descent needs more (the paper takes 16), each much cheaper.
        inner_lr: step size of gradient descent; it diverges where ``inner_lr * (curvature + proximal) > 2``.
        test_steps: inner steps at test; 0 stands for ``steps``.
        cg_steps: conjugate gradient steps, for the meta-gradient and for a direction of Newton's; 0 ignores the
            curvature (first order).
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Raises:
        InputError: ``proximal`` is not positive: without it the optimum forgets theta, and nothing is to be learned.

    Reference:
        Rajeswaran, Finn, Kakade, Levine 2019, Meta-Learning with Implicit Gradients, arXiv:1909.04630. Departs from
        the released code, which pulls phi to theta once, after all steps on the bare loss, and damps the Hessian: here
        the inner problem is that of the paper. Conjugate gradient ends for a task where it meets negative curvature,
        which nets have away from the optimum and eq. 6 does not foresee.
    """

    name: ClassVar[str] = "imaml"
    summary: ClassVar[str] = "MAML's initialisation by implicit differentiation"
    reference: ClassVar[str] = "Rajeswaran et al. 2019, arXiv:1909.04630"
    # not shown to be expressive: the construction for MAML is of a step, not of an optimum
    consistent = False  # the pull towards theta does not fade as K grows
    label_equivariant: ClassVar[bool] = False  # each label starts from its own row of the head
    exact_gradient: bool = False  # that of the inner optimum, which finitely many steps only come near
    settings: dict[str, tuple[float, ...]] = {"test_steps": (3, 10)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Module | None = None,
        *,
        proximal: float = 2.0,
        solver: Literal["newton", "gradient"] = "newton",
        steps: int = 3,
        inner_lr: float = 0.01,
        test_steps: int = 0,
        cg_steps: int = 5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if proximal <= 0:
            raise InputError(
                f"Expected proximal > 0. Found {proximal}. Without the pull towards theta, the inner optimum does not "
                "depend on it; for free gradient steps take MAML."
            )
        if solver not in ("gradient", "newton"):
            raise InputError(f"Expected solver 'gradient' or 'newton'. Found {solver!r}.")
        self.net = net_to_adapt(problem, net, generator)
        self.proximal, self.solver, self.inner_lr, self.cg_steps = proximal, solver, inner_lr, cg_steps
        self.steps, self.test_steps = steps, test_steps
        self.transductive = uses_batch_statistics(self.net)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Solve each task's regularised problem, from theta."""
        no_history_of(support)
        steps = self.steps if self.training or not self.test_steps else int(self.test_steps)
        loss, theta = task_loss(self.net, self.problem), trainable(self.net)
        randomness: Randomness = "error"
        if draws(self.net):
            loss, randomness = with_same_draws(loss, support.x.device), "different"

        def solve(start: Params) -> Params:
            return self._solve(loss, start, support, steps, randomness)

        def matrix(phi: Params) -> Product:
            return one_plus_curvature(loss, phi, support, self.proximal, randomness)

        ends: tuple[Tensor, ...] = _Implicit.apply(solve, matrix, self.cg_steps, list(theta), *theta.values())
        phi = dict(zip(theta, ends, strict=True))
        return lambda x: predict_each(self.net, phi, x)

    def _solve(self, loss: TaskLoss, theta: Params, support: Batch, steps: int, randomness: Randomness) -> Params:
        """The minimum of eq. 3, nearly."""
        random = randomness == "different"  # a shared point is passed in another shape, and draws otherwise
        phi = spread(theta, support.n_tasks) if random else theta
        for step in range(steps):
            g, losses = each_gradient(loss, phi, support, step == 0 and not random, randomness)
            check_step(step, steps, losses, phi)
            g = {name: g[name] + self.proximal * (phi[name] - theta[name]) for name in phi}
            if self.solver == "gradient":
                phi = {name: value - self.inner_lr * g[name] for name, value in phi.items()}
                continue
            phi = spread(phi, support.n_tasks) if step == 0 and not random else phi
            # (H + lambda) way = g, that is (I + H / lambda) way = g / lambda
            right = {name: value / self.proximal for name, value in g.items()}
            curvature = one_plus_curvature(loss, phi, support, self.proximal, randomness)
            way = conjugate_gradient(curvature, right, self.cg_steps)
            phi = self._best_length(loss, theta, phi, way, support, randomness)
        if steps == 0:
            phi = {name: value.clone() for name, value in spread(theta, support.n_tasks).items()}
        elif looking():
            check_step(steps, steps, each_gradient(loss, phi, support, randomness=randomness)[1], phi)
        return phi

    def _best_length(
        self, loss: TaskLoss, theta: Params, phi: Params, way: Params, support: Batch, randomness: Randomness
    ) -> Params:
        """Each task's ``phi - length * way`` of least value in eq. 3."""
        axes = (0, 0, 0, None if support.weight is None else 0)
        value_of = vmap(loss, in_dims=axes, randomness=randomness)
        values = []
        for length in LENGTHS:
            there = {name: value - length * way[name] for name, value in phi.items()}
            away = {name: value - theta[name] for name, value in there.items()}
            value = value_of(there, support.x, support.y, support.weight) + self.proximal / 2 * dot(away, away)
            values.append(value.where(torch.isfinite(value), torch.inf))
        lengths = torch.stack([torch.full_like(values[0], length) for length in LENGTHS])
        best = lengths.gather(0, torch.stack(values).argmin(0, keepdim=True)).squeeze(0)
        return {name: value - scaled(way[name], best) for name, value in phi.items()}


class _Implicit(torch.autograd.Function):
    """The solution forwards, eq. 6 backwards."""

    @staticmethod
    def forward(
        ctx: Any,
        solve: Callable[[Params], Params],
        matrix: Callable[[Params], Product],
        cg_steps: int,
        names: list[str],
        *theta: Tensor,
    ) -> tuple[Tensor, ...]:
        phi = tuple(solve(dict(zip(names, theta, strict=True))).values())
        ctx.save_for_backward(*phi)
        ctx.facts = matrix, cg_steps, names
        return phi

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *ends: Tensor) -> tuple[Tensor | None, ...]:
        matrix, cg_steps, names = ctx.facts
        phi = dict(zip(names, ctx.saved_tensors, strict=True))
        solution = conjugate_gradient(matrix(phi), dict(zip(names, ends, strict=True)), cg_steps)
        return None, None, None, None, *(solution[name].sum(0) for name in names)


def with_same_draws(loss: TaskLoss, device: torch.device) -> TaskLoss:
    """The loss under one draw of dropout's masks."""
    masks = SameDraws(device)

    def same(params: Params, x: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        with masks:
            return loss(params, x, y, weight)

    return same


def one_plus_curvature(
    loss: TaskLoss, phi: Params, support: Batch, proximal: float, randomness: Randomness = "error"
) -> Product:
    """``v -> (I + H(phi) / lambda) v``, each task its own."""
    product = product_with_hessian(loss, randomness=randomness)

    def times(v: Params) -> Params:
        curved, _ = product(phi, v, support)
        return {name: value + curved[name] / proximal for name, value in v.items()}

    return times


def conjugate_gradient(matrix: Product, b: Params, steps: int) -> Params:
    """Each task's ``matrix^-1 b``, nearly: b itself after no steps. Shape: ``[T, *p]``.

    A task ends early where it is done, and where it meets a direction of negative curvature: what it has so far is the
    best that can be said then, and b if it has nothing.
    """
    x = {name: torch.zeros_like(value) for name, value in b.items()}
    residual, direction, size = b, b, dot(b, b)
    enough, began = 1e-24 * size, size > 0
    for step in range(steps):
        product = matrix(direction)
        bend = dot(direction, product)
        going = (bend > 0) & (size > enough)
        length = torch.where(going, size / bend.where(going, 1.0), 0.0)
        began = going if step == 0 else began
        x = {name: value + scaled(direction[name], length) for name, value in x.items()}
        residual = {name: value - scaled(product[name], length) for name, value in residual.items()}
        before, size = size, dot(residual, residual)
        ratio = torch.where(going, size / before.where(going, 1.0), 0.0)
        # a direction of zero bends nothing: a task that has ended stays where it is
        direction = {
            name: scaled(value, going.to(value.dtype)) + scaled(direction[name], ratio)
            for name, value in residual.items()
        }
    if steps == 0:
        return b
    return {name: torch.where(shaped(began, value), value, b[name]) for name, value in x.items()}


def dot(a: Params, b: Params) -> Tensor:
    """Each task's inner product over all parameters. Shape: ``[T]``."""
    each = [(value * b[name]).flatten(1).sum(1) for name, value in a.items()]
    return torch.stack(each).sum(0)


def shaped(of_task: Tensor, value: Tensor) -> Tensor:
    """``[T]`` with as many axes as ``[T, *p]`` has."""
    return of_task.view(-1, *(1,) * (value.ndim - 1))


def scaled(value: Tensor, by: Tensor) -> Tensor:
    """Shape: ``[T, *p]`` times ``[T]``."""
    return value * shaped(by, value)
