"""Gradients of the validation loss in what is not trained: implicit differentiation at a minimum."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.func import grad

from quickstudy.methods._solve import conjugate_gradients

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
    most = 2 * w.numel() if iterations is None else iterations
    v = conjugate_gradients(times_hessian, of_w, most, tolerance**2 * of_w.square().sum())
    through: Tensor = grad(lambda at: (grad(inner)(w, at) * v).sum())(hyper)
    gradient: Tensor = direct - through
    return gradient
