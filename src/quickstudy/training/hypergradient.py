"""Gradients of the validation loss in what is not trained: implicit differentiation at a minimum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from quickstudy.core import RunError

Loss = Callable[[Tensor, Tensor], Tensor]


def hypergradient(
    inner: Loss, outer: Loss, w: Tensor, hyper: Tensor, *, iterations: int | None = None, tolerance: float = 1e-10
) -> Tensor:
    r"""How the outer loss at the inner minimum changes with the hyperparameters.

    .. math::
        w^*(\lambda) = \arg\min_w G(w, \lambda), \qquad
        \frac{d}{d\lambda} F(w^*(\lambda), \lambda) = \partial_\lambda F
        - \partial_\lambda \left\langle \nabla_w G, v \right\rangle, \qquad \nabla^2_w G\, v = \nabla_w F

    v comes from conjugate gradients, which need products with the Hessian only; how w was found is without effect,
    and its path is not kept.

    Args:
        inner: G(w, hyper), smooth, a scalar; usually a training loss with its penalty.
        outer: F(w, hyper), a scalar; usually a validation loss.
        w: the minimum of G at ``hyper``.
        hyper: the hyperparameters.
        iterations: of conjugate gradients; None stands for twice the size of w, more than exact arithmetic needs.
        tolerance: stop when the residual is this small, relative to the right-hand side.

    Returns:
        The derivative, of the shape of ``hyper``.

    Shape:
        w and hyper of any shape each.

    Raises:
        RunError: G curves downwards at w, which is therefore no minimum.

    Reference:
        Bengio 2000, Gradient-Based Optimization of Hyperparameters, Neural Computation 12:1889-1900; Pedregosa 2016,
        Hyperparameter optimization with approximate gradient, arXiv:1602.02355 (conjugate gradients).
    """
    w, hyper = w.detach(), hyper.detach()

    def times_hessian(v: Tensor) -> Tensor:
        product: Tensor = grad(lambda at: (grad(inner)(at, hyper) * v).sum())(w)
        return product

    of_w, direct = grad(outer, argnums=(0, 1))(w, hyper)
    v = _solve(times_hessian, of_w, 2 * w.numel() if iterations is None else iterations, tolerance)
    through: Tensor = grad(lambda at: (grad(inner)(w, at) * v).sum())(hyper)
    gradient: Tensor = direct - through
    return gradient


def _solve(times: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Conjugate gradients for ``times(v) = b`` from zero."""
    v = torch.zeros_like(b)
    residual = b.clone()
    direction = residual
    square = residual.square().sum()
    enough = tolerance**2 * square
    for _ in range(iterations):
        if square <= enough:
            break
        product = times(direction)
        curvature = (direction * product).sum()
        if not curvature > 0:
            raise RunError(
                "Expected an inner loss that curves upwards at its minimum. Found a curvature of "
                f"{float(curvature):.3g}. Train to the end, or add a penalty."
            )
        step = square / curvature
        v = v + step * direction
        residual = residual - step * product
        before, square = square, residual.square().sum()
        direction = residual + square / before * direction
    return v
