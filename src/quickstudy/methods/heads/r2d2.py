"""R2-D2: ridge regression on a learned embedding, solved in closed form and differentiated."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import embed, known, mask_absent
from quickstudy.methods.joint.mean_ridge import ridge
from quickstudy.nets import encoder_for


class R2D2(Method):
    r"""Each task's head is ridge regression; the encoder learns what that head does well on.

    .. math::
        W = \arg\min_W \lVert X W - Y \rVert^2 + \lambda \lVert W \rVert^2
        = X^\top (X X^\top + \lambda I)^{-1} Y, \qquad \hat Y = \alpha X' W + \beta

    with X the embedded support and a column of ones. The second form (Woodbury) inverts as many numbers as there are
    examples; where there are more of them than features, :math:`(X^\top X + \lambda I)^{-1} X^\top Y` is solved.
    Classification: Y is one-hot, and :math:`\hat Y` are logits. Regression: Y are the numbers, and there is nothing
    to calibrate (:math:`\alpha = 1, \beta = 0`).

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        strength: lambda before training.
        scale: alpha before training.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``; gives logits ``[T, m, N]`` or numbers ``[T, m, d]``; a class
        without support is never chosen.

    Reference:
        Bertinetto et al. 2019, Meta-learning with differentiable closed-form solvers, arXiv:1805.08136. lambda, alpha
        and beta are learned, the first two through their logarithms; alpha starts at 10, as in the released Omniglot
        script. Departs from the released code in three ways: lambda is on the sum over examples, as the paper writes
        it (there: on their mean); beta is one number for each class where labels mean the same in every task (one
        number for all, as in the paper, cancels in the softmax); training episodes are the problem's (there: 60 ways).
    """

    name: ClassVar[str] = "r2d2"
    summary: ClassVar[str] = "ridge regression, solved in closed form, on a learned embedding"
    reference: ClassVar[str] = "Bertinetto et al. 2019, arXiv:1805.08136"
    expressive: ClassVar[bool] = False  # affine in the labels
    consistent = False  # a head is bound by what the encoder kept

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        strength: float = 1.0,
        scale: float = 10.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.encoder = encoder_for(problem, generator=generator)[0] if encoder is None else encoder
        self.log_strength = nn.Parameter(torch.tensor(math.log(strength)))
        if problem.kind == "classification":
            self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
            self.bias = nn.Parameter(torch.zeros(problem.n_outputs if problem.shared_labels else 1))

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Solve for each task's head."""
        features = embed(self.encoder, support.x)
        penalty = self.log_strength.exp().expand(features.shape[-1] + 1)
        if self.problem.kind == "regression":
            head = ridge(features, support.y, support.weights, penalty)
            return lambda x: embed(self.encoder, x) @ head[:, :-1] + head[:, -1:]

        member = F.one_hot(support.y, self.problem.n_outputs).to(features.dtype)
        head = ridge(features, member, support.weights, penalty)

        def predict(x: Tensor) -> Tensor:
            score = embed(self.encoder, x) @ head[:, :-1] + head[:, -1:]
            return mask_absent(self.problem, self.log_scale.exp() * score + self.bias, support)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's loss; in classification over the examples whose class is in the support."""
        return super().losses(known(self.problem, episodes))
