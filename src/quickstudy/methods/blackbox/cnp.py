"""Conditional neural process: one pass of an encoder over the support is all the learning there is."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from quickstudy.core import Batch, Episodes, Method, Prediction, Predictor, Problem
from quickstudy.methods._embed import NEVER, class_means, embed, known
from quickstudy.nets import MLP, encoder_for


class CNP(Method):
    r"""Encode each example, average, decode.

    .. math::
        r = \frac{1}{n} \sum_i h_\theta(x_i, y_i), \qquad
        p(y \mid x, D^{tr}) = N(\mu, \sigma^2), \quad (\mu, s) = g_\theta(x, r), \quad
        \sigma = 0.1 + 0.9\, \mathrm{softplus}(s)

    Classification: :math:`r_k` is the mean over the support of class k, and the logit of class k is
    :math:`g_\theta(h(x), r_k)` with the same g for all classes.

    Args:
        problem: what the tasks look like.
        width: numbers in r.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``; gives a Normal over ``[T, m, d]``, or logits ``[T, m, N]``; a
        class without support is never chosen.

    Reference:
        Garnelo et al. 2018, Conditional Neural Processes, arXiv:1807.01613; sigma as in the released code. Departs
        in classification: there the decoder sees all r_k side by side, hence the order of the classes; here a
        permutation of labels permutes the logits.
    """

    name: ClassVar[str] = "cnp"
    summary: ClassVar[str] = "an encoder's mean over the examples conditions a decoder"
    standard: ClassVar[bool] = True
    expressive: ClassVar[bool] = True
    uncertain: ClassVar[bool] = True  # of numbers, a Normal that the support narrows
    reference: ClassVar[str] = "Garnelo et al. 2018, arXiv:1807.01613"

    def __init__(self, problem: Problem, *, width: int = 128, generator: torch.Generator | None = None) -> None:
        super().__init__(problem)
        if problem.kind == "classification" or len(problem.x_shape) == 3:
            self.features, size = encoder_for(problem, generator=generator)
        else:  # the numbers themselves
            self.features, size = nn.Flatten(), torch.Size(problem.x_shape).numel()
        regression = problem.kind == "regression"
        given = size + problem.n_outputs if regression else size
        self.encoder = MLP((given, width, width, width), generator)
        self.decoder = MLP((size + width, width, width, 2 * problem.n_outputs if regression else 1), generator)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Average the encoded support."""
        return self._regress(support) if self.problem.kind == "regression" else self._classify(support)

    def losses(self, episodes: Episodes) -> Tensor:
        """-log p of the query; in classification over the examples whose class is in the support."""
        return super().losses(known(self.problem, episodes))

    def _regress(self, support: Batch) -> Predictor:
        w = support.weights.unsqueeze(-1)
        code = self.encoder(torch.cat([embed(self.features, support.x), support.y], -1))
        r = (code * w).sum(1, keepdim=True) / w.sum(1, keepdim=True).clamp_min(1e-12)

        def predict(x: Tensor) -> Distribution:
            h = embed(self.features, x)
            mean, raw = self.decoder(torch.cat([h, r.expand(-1, h.shape[1], -1)], -1)).chunk(2, -1)
            return Normal(mean, 0.1 + 0.9 * F.softplus(raw), validate_args=False)

        return predict

    def _classify(self, support: Batch) -> Predictor:
        n_classes = self.problem.n_outputs
        r, present = class_means(self.encoder(embed(self.features, support.x)), support, n_classes)

        def predict(x: Tensor) -> Prediction:
            h = embed(self.features, x).unsqueeze(2).expand(-1, -1, n_classes, -1)
            pair = torch.cat([h, r.unsqueeze(1).expand(-1, h.shape[1], -1, -1)], -1)
            return self.decoder(pair).squeeze(-1).masked_fill(~present.unsqueeze(1), NEVER)

        return predict
