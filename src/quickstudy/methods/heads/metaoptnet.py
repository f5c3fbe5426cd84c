"""MetaOptNet: a linear support vector machine on a learned embedding, differentiated at its solution."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, InputError, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, answerable, class_means, embed
from quickstudy.methods._solve import solve
from quickstudy.nets import encoder_for


class MetaOptNet(Method):
    r"""Each task's head is the multi-class SVM of Crammer and Singer; the encoder learns through its solution.

    .. math::
        \min_{w, \xi} \frac12 \sum_k \lVert w_k \rVert^2 + C \sum_i \xi_i \quad \text{s.t.} \quad
        w_{y_i}^\top x_i - w_k^\top x_i \ge 1 - [y_i = k] - \xi_i

    and its dual, a quadratic programme in :math:`\alpha [n, N]`, :math:`w_k = \sum_i \alpha_{ik} x_i`:

    .. math::
        \min_\alpha \frac12 \sum_k \alpha_k^\top K \alpha_k - \sum_i \alpha_{i y_i} \quad \text{s.t.} \quad
        \alpha_{ik} \le C [y_i = k], \quad \sum_k \alpha_{ik} = 0, \qquad K = X X^\top

    Logits are :math:`\gamma\, w_k^\top x` with a learned :math:`\gamma`.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        c: C, the price of a violated margin.
        scale: gamma before training.
        generator: draws the first weights.

    Raises:
        InputError: c is not positive.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class without support is never chosen,
        and takes no part in the margins.

    Reference:
        Lee, Maji, Ravichandran, Soatto 2019, Meta-Learning with Differentiable Convex Optimization, arXiv:1904.03758;
        Crammer, Singer 2001, JMLR 2:265-292. C = 0.1 as released. The solver is one of our own, :func:`crammer_singer`
        (there: OptNet's, for any quadratic programme); gamma starts at 10 (there: 1).
        The encoder, augmentation and label smoothing of the paper's figures are no part of the method here.
    """

    name: ClassVar[str] = "metaoptnet"
    summary: ClassVar[str] = "a support vector machine, differentiated at its solution, on a learned embedding"
    reference: ClassVar[str] = "Lee et al. 2019, arXiv:1904.03758"
    expressive: ClassVar[bool] = False  # it fits the support, whatever was learned
    consistent = False  # a head is bound by what the encoder kept

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        c: float = 0.1,
        scale: float = 10.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if c <= 0:
            raise InputError(f"Expected c, the price of a violated margin, above 0. Found {c}. The paper takes 0.1.")
        self.encoder = encoder_for(problem, generator=generator)[0] if encoder is None else encoder
        self.c = c
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Margins are between classes."""
        return "" if problem.kind == "classification" else "needs classes; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Solve each task's quadratic programme."""
        features = embed(self.encoder, support.x)
        _, present = class_means(features, support, self.problem.n_outputs)
        member = F.one_hot(support.y, self.problem.n_outputs)
        alpha = crammer_singer(features @ features.mT, member, support.weights, self.c)
        w = self.log_scale.exp() * (alpha.mT @ features)  # [T, N, f]
        return lambda x: (embed(self.encoder, x) @ w.mT).masked_fill(~present.unsqueeze(1), NEVER)

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's cross-entropy, over the examples whose class is in the support."""
        return super().losses(answerable(episodes, self.problem.n_outputs))


def crammer_singer(
    kernel: Tensor, member: Tensor, weight: Tensor, c: float, *, steps: int = 25, barrier: float = 1e-9
) -> Tensor:
    r"""The dual of the multi-class SVM by a primal-dual interior point method, T tasks at once, differentiable.

    With slacks :math:`S = C Y - \alpha` and multipliers Z of :math:`S \ge 0`, the solution is where

    .. math::
        K \alpha - Y + Z + \nu 1^\top = 0, \qquad \alpha 1 = 0, \qquad S \circ Z = \mu

    for a vanishing :math:`\mu`. A Newton step eliminates Z; what remains falls apart into one system
    :math:`K + \mathrm{diag}(Z_k / S_k)` of n unknowns for each class, and one of n unknowns for :math:`\nu`.

    The gradient is that of the implicit function theorem on these equations, exact for the ``barrier`` at hand: steps
    to the solution are taken without history, and one more with the kernel's history but a constant Newton matrix.
    It moves nothing, and its derivative is that of the solution.

    Args:
        kernel: inner products of all pairs of examples.
        member: 1 where an example is of a class, else 0.
        weight: each example's share of C; 0 leaves it out, and classes of which no example is left take no part.
        c: the price of a violated margin.
        steps: Newton steps.
        barrier: the last mu, in units of C.

    Shape:
        ``kernel [T, n, n]``, ``member [T, n, N]``, ``weight [T, n]``; gives alpha ``[T, n, N]``.
    """
    # double precision, for the systems are nearly singular at the solution; alpha in units of C, so that 0 <= S <= 1
    w = weight.to(torch.float64).unsqueeze(-1)
    k = c * w * kernel.to(torch.float64) * w.mT
    y = member.to(torch.float64)
    free = ((y * w).sum(1, keepdim=True) > 0).expand_as(y)  # what a class without examples would get stays at 0
    one = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    empty = (~free).all(-1).all(-1)[:, None, None] * one  # a task without examples has no equations either

    def step(k: Tensor, alpha: Tensor, z: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """Newton's direction for alpha and Z; the matrix is a constant."""
        s = (y - alpha).where(free, 1.0)
        # K may have any rank and scale: what rounding would leave of its zero eigenvalues must not be negative
        ridge = 1e-13 * k.detach().diagonal(dim1=1, dim2=2).amax(-1)[:, None, None, None]
        matrix = k.detach().unsqueeze(1) + torch.diag_embed((z / s).where(free, 1.0).mT) + ridge * one  # [T, N, n, n]
        # by triangles: torch.cholesky_inverse cannot be captured as a CUDA graph
        root = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(matrix.detach())[0], one, upper=False)
        inverse = root.mT @ root * free.mT.unsqueeze(-1)
        down = -(k @ alpha - w * y + mu / s)
        # rows of alpha sum to 0 from the start; what rounding adds is taken back
        total = torch.einsum("tkij,tjk->ti", inverse, down) + alpha.sum(-1)
        nu = solve(inverse.sum(1) + empty, total.unsqueeze(-1))
        d_alpha = torch.einsum("tkij,tjk->tik", inverse, down - nu)
        return d_alpha, (mu + z * d_alpha) / s - z

    with torch.no_grad():
        alpha = (y - 1 / free.sum(-1, keepdim=True).clamp_min(1).to(k.dtype)).where(free, 0.0)
        z = free.to(k.dtype)
        for _ in range(steps):
            gap = ((y - alpha) * z).where(free, 0.0).sum((1, 2)) / free.sum((1, 2)).clamp_min(1)
            mu = (0.1 * gap).clamp_min(barrier)[:, None, None]
            d_alpha, d_z = step(k, alpha, z, mu)
            # as far as slacks and multipliers stay positive, and no further than the full step
            worst = torch.maximum(d_alpha / (y - alpha), -d_z / z).where(free, 0.0).amax((1, 2), keepdim=True)
            far = (0.995 / worst.clamp_min(1e-12)).clamp_max(1.0)
            alpha, z = alpha + far * d_alpha, z + far * d_z
    mu = torch.full_like(mu, barrier)
    return (c * w * (alpha + step(k, alpha, z, mu)[0])).to(kernel.dtype)
