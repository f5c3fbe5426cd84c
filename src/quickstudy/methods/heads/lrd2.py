"""LR-D2: logistic regression on a learned embedding, a few Newton steps that are differentiated."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import answerable, embed, mask_absent
from quickstudy.methods._solve import solve
from quickstudy.nets import encoder_for


class LRD2(Method):
    r"""Each task's head is logistic regression, found by Newton's method (iteratively reweighted least squares).

    .. math::
        w = \arg\min_w \sum_i \log(1 + e^{-y_i x_i^\top w}) + \frac{\lambda}{2} \lVert w \rVert^2, \qquad
        w_{j+1} = X^\top (X X^\top + \lambda S_j^{-1})^{-1} z_j

    with :math:`\mu_j = \sigma(X w_j)`, :math:`S_j = \mathrm{diag}(\mu_j (1 - \mu_j))`,
    :math:`z_j = X w_j + S_j^{-1}(y - \mu_j)`, from :math:`w_0 = 0`; X has a column of ones. Several classes: one
    against the rest, one w for each class, and its score :math:`x^\top w_k` is the logit. Two classes: logits
    :math:`\pm x^\top w / 2`, whose softmax is :math:`\sigma(x^\top w)`.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        strength: lambda before training; it is learned.
        steps: Newton steps.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class without support is never chosen.
        Solves N systems of n unknowns a task and step.

    Reference:
        Bertinetto et al. 2019, Meta-learning with differentiable closed-form solvers, arXiv:1805.08136; one
        against the rest as in the released code. Departs in form: the step is written without dividing by S, which
        vanishes for examples that are fitted well (Rasmussen, Williams 2006, algorithm 3.1); the steps are the same.
    """

    name: ClassVar[str] = "lr-d2"
    summary: ClassVar[str] = "logistic regression by Newton's method on a learned embedding"
    reference: ClassVar[str] = "Bertinetto et al. 2019, arXiv:1805.08136"
    expressive: ClassVar[bool] = False  # it fits the support, whatever was learned
    consistent = False  # a head is bound by what the encoder kept

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        strength: float = 1.0,
        steps: int = 5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.encoder = encoder_for(problem, generator=generator)[0] if encoder is None else encoder
        self.log_strength = nn.Parameter(torch.tensor(math.log(strength)))
        self.steps = steps

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Logistic regression predicts classes."""
        return "" if problem.kind == "classification" else "needs classes; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Take Newton steps on each task's head."""
        features = embed(self.encoder, support.x)
        x = F.pad(features, (0, 1), value=1.0)
        y = F.one_hot(support.y, self.problem.n_outputs).to(x.dtype).mT  # [T, N, n]
        w = logistic(x, y, support.weights, self.log_strength.exp(), self.steps)
        if self.problem.n_outputs == 2:
            w = w / 2  # the two problems mirror each other, and softmax takes the difference

        def predict(x: Tensor) -> Tensor:
            logits = F.pad(embed(self.encoder, x), (0, 1), value=1.0) @ w.mT
            return mask_absent(self.problem, logits, support)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's cross-entropy, over the examples whose class is in the support."""
        return super().losses(answerable(episodes, self.problem.n_outputs))


def logistic(x: Tensor, y: Tensor, weight: Tensor, strength: Tensor, steps: int) -> Tensor:
    r"""Newton's method for regularised logistic regression, T tasks and N outputs at once, differentiable.

    The unknowns are :math:`a` with :math:`w = X^\top a / \lambda`, hence :math:`f = K a`, :math:`K = X X^\top /
    \lambda`. A step: :math:`b = S f + (y - \mu)`, :math:`a = b - S^{1/2} (I + S^{1/2} K S^{1/2})^{-1} S^{1/2} K b`.

    Args:
        x: inputs.
        y: 1 or 0.
        weight: of the examples.
        strength: lambda.
        steps: how many.

    Shape:
        ``x [T, n, f]``, ``y [T, N, n]``, ``weight [T, n]``; gives ``[T, N, f]``.
    """
    # double precision: long features and a small lambda leave nothing of the identity in single
    dtype, x, y = x.dtype, x.to(torch.float64), y.to(torch.float64)
    kernel = (x @ x.mT / strength).unsqueeze(1)  # [T, 1, n, n]
    weight = weight.to(torch.float64).unsqueeze(1)
    one = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    f = torch.zeros_like(y)
    a = f
    for _ in range(steps):
        # the root of mu (1 - mu) through logarithms: its derivative is finite wherever mu is
        root = weight.sqrt() * (0.5 * (F.logsigmoid(f) + F.logsigmoid(-f))).exp()  # [T, N, n]
        b = root.square() * f + weight * (y - f.sigmoid())
        spread = root.unsqueeze(-1) * kernel * root.unsqueeze(-2)
        inner = root * (kernel @ b.unsqueeze(-1)).squeeze(-1)
        a = b - root * solve(one + spread, inner)
        f = (kernel @ a.unsqueeze(-1)).squeeze(-1)
    return (a @ x / strength).to(dtype)
