"""Early stopping is a prior: which Gaussian a few steps of gradient descent stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from quickstudy.core import InputError


def implied_precision(hessian: Tensor, steps: int, rate: float) -> Tensor:
    r"""The prior under which ``steps`` steps of gradient descent on a quadratic loss give the MAP estimate.

    .. math::
        \phi_s = \theta - \alpha \sum_{i < s} \nabla L(\phi_i) = \arg\min_\phi L(\phi)
        + \tfrac12 (\phi - \theta)^\top P (\phi - \theta), \qquad
        P = Q \,\mathrm{diag}\!\left(\frac{w_j c_j}{1 - c_j}\right) Q^\top, \quad c_j = (1 - \alpha w_j)^s

    with :math:`H = Q\,\mathrm{diag}(w) Q^\top`. The shared start is the prior's mean; more steps, or larger ones, are
    a wider prior, and each direction has a width of its own: where the data say much (large w) the prior says little.
    Exact for linear models with squared error; where a net is curved it holds to first order around theta. Where
    the loss is a mean over n examples and the noise has variance s2, ``-log p`` is ``n / (2 s2)`` times the loss plus
    a constant, and the prior's precision that many times P.

    Args:
        hessian: H of the loss that is descended.
        steps: s; at least 1.
        rate: alpha.

    Returns:
        P, for the loss as it is descended. Along directions that the data leave open (w = 0) any finite precision
        gives the same estimate; the limit 1 / (s alpha) is taken.

    Shape:
        ``hessian [..., f, f]`` to ``[..., f, f]``.

    Raises:
        InputError: a step of ``alpha w >= 1`` goes past the minimum, and no prior does that.

    Reference:
        Santos 1996, Equivalence of regularization and truncated iteration for general ill-posed problems, Linear
        Algebra Appl. 236:25-33; Grant et al. 2018, Recasting Gradient-Based Meta-Learning as Hierarchical Bayes,
        arXiv:1801.08930, section 3.2.
    """
    if steps < 1:
        raise InputError(f"Expected at least 1 step (0 steps stand for a prior without width). Found {steps}.")
    w, q = torch.linalg.eigh(hessian)
    w = w.clamp_min(0.0)
    if float(w.max()) * rate >= 1:
        raise InputError(
            f"Expected a rate below 1 over the largest curvature, {1 / float(w.max()):.4g}: larger steps go past the "
            f"minimum, which no prior does. Found {rate:g}. Lower it."
        )
    log_c = steps * torch.log1p(-rate * w)
    flat = w * rate * steps < 1e-12
    precision = w * log_c.exp() / -torch.expm1(log_c).where(~flat, -1.0)
    return q @ torch.diag_embed(precision.where(~flat, 1 / (steps * rate))) @ q.mT


def map_estimate(x: Tensor, y: Tensor, theta: Tensor, precision: Tensor) -> Tensor:
    r"""Linear regression under a Gaussian prior.

    .. math::
        \arg\min_\phi \tfrac1n \lVert y - X\phi \rVert^2 + \tfrac12 (\phi - \theta)^\top P (\phi - \theta)

    Shape:
        ``x [..., n, f]``, ``y [..., n, d]``, ``theta [..., f, d]``, ``precision [..., f, f]``; gives ``[..., f, d]``.
    """
    n = x.shape[-2]
    return theta + torch.linalg.solve(2 / n * x.mT @ x + precision, 2 / n * x.mT @ (y - x @ theta))
