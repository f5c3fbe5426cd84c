"""Attentive neural process, its deterministic path: each query averages the examples that are near it."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from quickstudy.core import Batch, Episodes, InputError, Method, Prediction, Predictor, Problem
from quickstudy.methods._embed import embed, known, mask_absent, members
from quickstudy.methods.blackbox._reading import attend, features_for
from quickstudy.nets import MLP


class AttentiveCNP(Method):
    r"""A conditional neural process whose mean over examples is weighted by attention, anew for each query.

    .. math::
        r_*(x) = \sum_i a_i(x)\, r_i, \quad r_i = h_\theta(x_i, y_i), \quad
        a(x) = softmax_i(k_\theta(x)^\top k_\theta(x_i) / \sqrt{d}) \text{ in each head}

        p(y \mid x, D^{tr}) = N(\mu, \sigma^2), \quad (\mu, s) = g_\theta(x, r_*(x)), \quad
        \sigma = 0.1 + 0.9\, \mathrm{softplus}(s)

    Classification: :math:`r_k(x)` attends to the examples of class k alone, whose :math:`r_i` hold no label, and the
    logit of class k is :math:`g_\theta(x, r_k(x))` with the same g for all classes.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        width: numbers in r, in a key, and in hidden layers.
        heads: of the attention.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``; gives a Normal over ``[T, m, d]``, or logits ``[T, m, N]``; a
        class without support is never chosen.

    Raises:
        InputError: ``heads`` does not divide ``width``.

    Reference:
        Kim et al. 2019, Attentive Neural Processes, arXiv:1901.05761. Departs: no latent path, no self-attention
        among the examples; heads are slices of the keys and values, without a projection of their own. The paper
        does not classify.
    """

    name: ClassVar[str] = "attentive-cnp"
    summary: ClassVar[str] = "a neural process whose queries attend to the examples"
    reference: ClassVar[str] = "Kim et al. 2019, arXiv:1901.05761"
    expressive: ClassVar[bool] = True  # any function of a sum over examples, anew for each query
    consistent = False  # it has learned the tasks it was trained on
    uncertain: ClassVar[bool] = True  # of numbers: trained on -log p

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        width: int = 64,
        heads: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if width % heads:
            raise InputError(f"Expected heads that divide width = {width}. Found {heads}. Take 1, 2, 4, ...")
        self.heads = heads
        self.features, size = features_for(problem, encoder, generator)
        regression = problem.kind == "regression"
        self.key = MLP((size, width, width), generator)
        self.encoder = MLP((size + problem.n_outputs * regression, width, width, width), generator)
        self.decoder = MLP((size + width, width, width, 2 * problem.n_outputs if regression else 1), generator)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Encode each example; which of them matter is left to the query."""
        h = embed(self.features, support.x)
        key = self.key(h)
        if self.problem.kind == "regression":
            return self._regress(key, self.encoder(torch.cat([h, support.y], -1)), support)
        return self._classify(key, self.encoder(h), support)

    def losses(self, episodes: Episodes) -> Tensor:
        """-log p of the query; in classification over the examples whose class is in the support."""
        return super().losses(known(self.problem, episodes))

    def _regress(self, key: Tensor, r: Tensor, support: Batch) -> Predictor:
        seen = (support.weights > 0).unsqueeze(1)

        def predict(x: Tensor) -> Distribution:
            h = embed(self.features, x)
            near = attend(self.key(h), key, r, seen, self.heads)
            mean, raw = self.decoder(torch.cat([h, near], -1)).chunk(2, -1)
            return Normal(mean, 0.1 + 0.9 * F.softplus(raw), validate_args=False)

        return predict

    def _classify(self, key: Tensor, r: Tensor, support: Batch) -> Predictor:
        n_classes = self.problem.n_outputs
        # each class's examples in turn, for all queries: [T * N, 1, n]
        seen = members(self.problem, support).flatten(0, 1).unsqueeze(1)
        key, r = key.repeat_interleave(n_classes, 0), r.repeat_interleave(n_classes, 0)

        def predict(x: Tensor) -> Prediction:
            h = embed(self.features, x)
            near = attend(self.key(h).repeat_interleave(n_classes, 0), key, r, seen, self.heads)
            logits = (
                self.decoder(torch.cat([h.repeat_interleave(n_classes, 0), near], -1))
                .squeeze(-1)
                .unflatten(0, (-1, n_classes))
                .mT
            )
            return mask_absent(self.problem, logits, support)

        return predict
