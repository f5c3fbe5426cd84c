"""Infinite mixture prototypes: as many prototypes a class as its examples ask for."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, answerable, class_means, embed, squared_distance
from quickstudy.nets import encoder_for


class InfiniteMixture(Method):
    r"""Classify by the nearest cluster, where a class has one cluster or several.

    A class begins with one cluster at its mean. While one of its examples is further than :math:`\lambda` (squared
    distance) from all clusters of its class, the furthest of them founds a new one. Then, over a class's clusters,

    .. math::
        \lambda = -2 \sigma \log \alpha + d \sigma \log(1 + \rho / \sigma), \qquad
        z_{ic} \propto \exp(-\lVert h(x_i) - \mu_c \rVert^2 / 2 \sigma), \quad
        \mu_c = \frac{\sum_i z_{ic} h(x_i)}{\sum_i z_{ic}}, \qquad
        p(y = k \mid x) \propto \max_{c \in k} \exp(-\lVert h(x) - \mu_c \rVert^2 / 2 \sigma)

    with :math:`\rho` the variance of the class means and d the number of features. Clusters that no example falls to
    are left out. The variance :math:`\sigma` is learned.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        alpha: concentration: the smaller, the fewer clusters. Near 0 this is a prototypical network; above 1 by far,
            a nearest neighbour.
        sigma: where the variance starts; 1/2 makes a class of one cluster a prototypical network's.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class without support is never chosen.

    Reference:
        Allen et al. 2019, Infinite Mixture Prototypes for Few-Shot Learning, arXiv:1902.04552. Departs from the
        released code, which visits examples in their order: here the furthest comes first, so that the support's order
        is without effect. Assignments have a gradient. Unlabelled examples are not used.
    """

    name: ClassVar[str] = "infinite-mixture"
    summary: ClassVar[str] = "nearest cluster in a learned embedding, as many a class as it needs"
    reference: ClassVar[str] = "Allen et al. 2019, arXiv:1902.04552"
    expressive: ClassVar[bool] = False  # the nearest cluster names the class
    consistent = False  # bound by what the encoder kept

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        alpha: float = 0.1,
        sigma: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.encoder = encoder_for(problem, generator=generator)[0] if encoder is None else encoder
        self.alpha = alpha
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)))

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Numbers to predict have no classes to cluster."""
        return "" if problem.kind == "classification" else "needs classes; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Cluster the embedded support of each class."""
        n_classes = self.problem.n_outputs
        h, sigma = embed(self.encoder, support.x), self.log_sigma.exp()
        member = F.one_hot(support.y, n_classes).bool() & (support.weights > 0).unsqueeze(-1)  # [T, n, N]
        means, present = class_means(h, support, n_classes)
        founders = self._founders(h, means, member, present)  # [T, n]
        # candidates: N means and n examples, few of which are clusters; each belongs to one class
        centres = torch.cat([means, h], 1)
        owner = torch.cat([torch.eye(n_classes, device=h.device).bool().expand(h.shape[0], -1, -1), member], 1)
        active = torch.cat([present, founders], 1)  # [T, N + n]
        own = (member.to(h.dtype) @ owner.mT.to(h.dtype) > 0) & active.unsqueeze(1)  # [T, n, N + n]
        near = (-squared_distance(h, centres) / (2 * sigma)).masked_fill(~own, NEVER * 1e3)
        z = near.softmax(-1) * own * support.weights.unsqueeze(-1)
        mass = z.sum(1)
        clusters = z.mT @ h / mass.clamp_min(1e-12).unsqueeze(-1)
        # a mean between two clusters keeps no example
        kept = active & (mass > 1e-3)
        of_class = (owner & kept.unsqueeze(-1)).unsqueeze(1)  # [T, 1, N + n, N]

        def predict(x: Tensor) -> Tensor:
            score = -squared_distance(embed(self.encoder, x), clusters) / (2 * sigma)
            best = score.unsqueeze(-1).masked_fill(~of_class, -torch.inf).amax(2)
            return best.where(present.unsqueeze(1), NEVER)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's cross-entropy, over the examples whose class has a cluster."""
        return super().losses(answerable(episodes, self.problem.n_outputs))

    @torch.no_grad()
    def _founders(self, h: Tensor, means: Tensor, member: Tensor, present: Tensor) -> Tensor:
        """Which support examples found a cluster beside their class's mean. Shape: bool ``[T, n]``."""
        sigma, count = self.log_sigma.exp(), present.sum(1)
        shown = present.unsqueeze(-1).to(h.dtype)
        middle = (means * shown).sum(1, keepdim=True) / count.clamp_min(1).view(-1, 1, 1)
        rho = ((means - middle).square() * shown).sum(1).mean(-1) / (count - 1).clamp_min(1)
        far = -2 * sigma * math.log(self.alpha) + h.shape[-1] * sigma * (1 + rho / sigma).log()  # [T]
        classes = member.to(h.dtype)
        away = (squared_distance(h, means) * classes).sum(-1)  # from the nearest cluster of the own class, [T, n]
        mutual = squared_distance(h, h).masked_fill(classes @ classes.mT == 0, torch.inf)
        founders = torch.zeros_like(away, dtype=torch.bool)
        for _ in range(h.shape[1]):  # each round every class takes its furthest example, if that is far
            of_class = away.unsqueeze(-1).where(member, -torch.inf)  # [T, n, N]
            furthest = F.one_hot(of_class.argmax(1), h.shape[1]).mT.bool() & member  # [T, n, N]
            new = furthest.any(-1) & (away > far.unsqueeze(1))
            founders = founders | new
            away = away.minimum(mutual.masked_fill(~new.unsqueeze(1), torch.inf).amin(2))
        return founders
