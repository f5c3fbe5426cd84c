"""Relation networks: a learned comparison of a query with each class."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, answerable, class_means, embed
from quickstudy.nets import MLP, encoder_for
from quickstudy.nets.basic import WIDTH, initialise, is_image


class Relation(Method):
    r"""Score how well a query and a class go together, by a net that reads the embeddings of both.

    .. math::
        r_k(x) = \sigma\big(g_\phi([f_\theta(x), c_k])\big) \quad \text{(eq. 1)}, \qquad
        \min \sum_x \sum_k \big(r_k(x) - 1[y = k]\big)^2 \quad \text{(eq. 2)}

    with :math:`c_k` the mean embedding of class k. The logits are :math:`g_\phi` before the sigmoid: they rank the
    classes as the scores do, and each is the log-odds of its own score; their softmax was not trained to be a
    probability. Images are compared as feature maps, by convolutions; all else as vectors, by two linear layers.

    Args:
        problem: what the tasks look like.
        width: filters of each block (images), or hidden units of the comparison.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class without support is never chosen.

    Reference:
        Sung et al. 2018, Learning to Compare: Relation Network for Few-Shot Learning, arXiv:1711.06025. Departs in
        strides for pooling, and in the mean over a class's examples for their sum, so that unequal shots compare.
    """

    name: ClassVar[str] = "relation"
    summary: ClassVar[str] = "a learned comparison of a query with each class"
    reference: ClassVar[str] = "Sung et al. 2018, arXiv:1711.06025"
    expressive: ClassVar[bool] = False  # a class's logit sees its own mean alone
    consistent = False  # the comparison was learned, on other tasks

    def __init__(self, problem: Problem, *, width: int = 0, generator: torch.Generator | None = None) -> None:
        super().__init__(problem)
        self.map: tuple[int, ...] = ()  # the shape of one embedding that is a feature map
        if is_image(problem):
            width = width or WIDTH
            channels, *sides = problem.x_shape
            # two blocks keep their size: the comparison still has a map to look at
            blocks = [_block(channels, width, 2), *(_block(width, width, stride) for stride in (2, 1, 1))]
            self.encoder: nn.Module = nn.Sequential(*blocks)
            sides = [_halved(_halved(side)) for side in sides]
            self.map = (width, *sides)
            left = width * _halved(_halved(sides[0])) * _halved(_halved(sides[1]))
            self.compare: nn.Module = nn.Sequential(
                _block(2 * width, width, 2), _block(width, width, 2), nn.Flatten(), MLP((left, 8, 1))
            )
            initialise(self.encoder, generator)
            initialise(self.compare, generator)
        else:
            self.encoder, size = encoder_for(problem, generator=generator)
            self.compare = MLP((2 * size, width or 64, 1), generator)

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Scores are for classes."""
        return "" if problem.kind == "classification" else "needs classes to compare; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Average the embedded support of each class."""
        means, present = class_means(embed(self.encoder, support.x), support, self.problem.n_outputs)

        def predict(x: Tensor) -> Tensor:
            h = embed(self.encoder, x)
            size = (*h.shape[:2], means.shape[1], h.shape[2])
            shape = self.map or h.shape[2:]
            both = [h.unsqueeze(2).expand(size), means.unsqueeze(1).expand(size)]
            pair = torch.cat([part.reshape(-1, *shape) for part in both], 1)  # channels, or features, side by side
            logits: Tensor = self.compare(pair).view(size[:3])
            return logits.masked_fill(~present.unsqueeze(1), NEVER)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """Squared error of the scores, mean over classes, over the queries whose class is in the support."""
        query = answerable(episodes, self.problem.n_outputs).query
        logits = self.adapt(episodes.support, episodes.task)(query.x)
        assert isinstance(logits, Tensor)
        right = torch.nn.functional.one_hot(query.y, self.problem.n_outputs)
        each = (torch.sigmoid(logits) - right).square().mean(-1)
        return (each * query.weights).sum(1) / query.weights.sum(1).clamp_min(1e-12)


def _block(inputs: int, width: int, stride: int) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def _halved(side: int) -> int:
    """What a stride of 2 leaves of a side."""
    return (side + 1) // 2
