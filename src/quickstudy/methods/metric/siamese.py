"""Siamese networks: learn whether two examples are of one class, answer with the best match."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, embed
from quickstudy.nets import encoder_for
from quickstudy.nets.basic import initialise


class Siamese(Method):
    r"""Verify pairs; at test, take the class of the support example that most surely is of the query's class.

    .. math::
        p(\text{same} \mid x_1, x_2) = \sigma\Big(\sum_j \alpha_j \lvert h_j(x_1) - h_j(x_2) \rvert + b\Big), \qquad
        \hat y(x) = y_{i^*}, \quad i^* = \arg\max_i p(\text{same} \mid x, x_i)

    Trained on all pairs of a query and a support example by binary cross-entropy, pairs of one class and pairs of two
    counting alike in sum. The logit of class k is the largest log-odds of its examples, so test is N-way where
    training is two-way.

    Args:
        problem: what the tasks look like.
        width: sigmoid units h that are compared.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class without support is never chosen.

    Reference:
        Koch, Zemel, Salakhutdinov 2015, Siamese Neural Networks for One-shot Image Recognition, ICML Deep Learning
        Workshop. Departs in the size of the net (there 4096 sigmoid units on images of 105 x 105), in drawing pairs
        within an episode, and in taking the same optimiser for all layers.
    """

    name: ClassVar[str] = "siamese"
    summary: ClassVar[str] = "learned verification of pairs, nearest match at test"
    reference: ClassVar[str] = "Koch et al. 2015, ICML Deep Learning Workshop"
    expressive: ClassVar[bool] = False  # a class's logit sees its own examples, one by one
    consistent = False  # bound by what the encoder kept

    def __init__(self, problem: Problem, *, width: int = 128, generator: torch.Generator | None = None) -> None:
        super().__init__(problem)
        self.encoder, size = encoder_for(problem, generator=generator)
        self.units, self.alpha = nn.Linear(size, width), nn.Linear(width, 1)
        initialise(self.units, generator)
        with torch.no_grad():  # the further apart, the less the same
            self.alpha.weight.fill_(-8 / width)
            self.alpha.bias.zero_()

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Pairs are of one class or of two."""
        return "" if problem.kind == "classification" else "needs classes to match; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Embed the support."""
        known = self._embed(support.x)
        real = support.weights > 0
        member = F.one_hot(support.y, self.problem.n_outputs).bool() & real.unsqueeze(-1)  # [T, n, N]

        def predict(x: Tensor) -> Tensor:
            same = self._same(self._embed(x), known)
            return same.unsqueeze(-1).where(member.unsqueeze(1), NEVER).amax(2)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """Binary cross-entropy of all pairs; a half of the weight is on pairs of one class."""
        support, query = episodes.support, episodes.query
        odds = self._same(self._embed(query.x), self._embed(support.x))
        same = (query.y.unsqueeze(2) == support.y.unsqueeze(1)).to(odds.dtype)
        each = F.binary_cross_entropy_with_logits(odds, same, reduction="none")
        weight = query.weights.unsqueeze(2) * support.weights.unsqueeze(1)
        mean = lambda w: (each * w).sum((1, 2)) / w.sum((1, 2)).clamp_min(1e-12)  # noqa: E731
        return (mean(weight * same) + mean(weight * (1 - same))) / 2

    def _embed(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.units(embed(self.encoder, x)))

    def _same(self, a: Tensor, b: Tensor) -> Tensor:
        """Log-odds that two examples are of one class. Shape: ``[T, m, f], [T, n, f]`` to ``[T, m, n]``."""
        odds: Tensor = self.alpha((a.unsqueeze(2) - b.unsqueeze(1)).abs()).squeeze(-1)
        return odds
