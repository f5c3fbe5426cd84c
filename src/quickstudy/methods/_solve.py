"""Linear systems: given as a matrix, or known by its products alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quickstudy.core import RunError


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """``torch.linalg.solve`` without its look at how it went, for which a CUDA device would stop all else.

    Where a matrix is singular, what comes out is not finite.
    """
    solution: Tensor = torch.linalg.solve_ex(matrix, right)[0]
    return solution


def conjugate_gradients(
    times: Callable[[Tensor], Tensor], b: Tensor, iterations: int, enough: float | Tensor
) -> Tensor:
    """Solve ``times(x) = b`` for a positive definite matrix, from zero.

    Args:
        times: the matrix times a vector.
        b: right-hand side.
        iterations: at most so many products.
        enough: the squared residual to stop at.

    Shape:
        ``b``, and what is given back, of any one shape.

    Raises:
        RunError: a direction in which the matrix does not curve upwards.
    """
    x = torch.zeros_like(b)
    residual = b.clone()
    direction = residual
    square = residual.square().sum()
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
        x = x + step * direction
        residual = residual - step * product
        before, square = square, residual.square().sum()
        direction = residual + square / before * direction
    return x
