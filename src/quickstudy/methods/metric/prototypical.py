"""Prototypical networks: a class is the mean of its embedded examples."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, answerable, class_means, embed, squared_distance
from quickstudy.nets import encoder_for


class Prototypical(Method):
    r"""Classify by the nearest class mean in a learned embedding.

    .. math::
        c_k = \frac{1}{|S_k|} \sum_{(x, y) \in S_k} f_\theta(x) \quad (1) \qquad
        p(y = k \mid x) \propto \exp(-\lVert f_\theta(x) - c_k \rVert^2) \quad (2)

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class without support is never chosen.

    Reference:
        Snell, Swersky, Zemel 2017, Prototypical Networks for Few-shot Learning, arXiv:1703.05175.
        Distances are squared.
    """

    name: ClassVar[str] = "prototypical"
    summary: ClassVar[str] = "nearest class mean in a learned embedding"
    standard: ClassVar[bool] = True
    reference: ClassVar[str] = "Snell et al. 2017, arXiv:1703.05175"
    expressive: ClassVar[bool] = False  # the nearest mean names the class
    consistent = False  # right where classes are round in the embedding

    def __init__(
        self, problem: Problem, encoder: nn.Module | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(problem)
        self.encoder = encoder_for(problem, generator=generator)[0] if encoder is None else encoder

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Numbers to predict have no classes to average."""
        return "" if problem.kind == "classification" else "needs classes; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Average the embedded support of each class."""
        prototypes, present = class_means(embed(self.encoder, support.x), support, self.problem.n_outputs)

        def predict(x: Tensor) -> Tensor:
            logits = -squared_distance(embed(self.encoder, x), prototypes)
            return logits.masked_fill(~present.unsqueeze(1), NEVER)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's cross-entropy, over the examples whose class has a prototype."""
        return super().losses(answerable(episodes, self.problem.n_outputs))
