"""Prototypical networks that unlabelled examples refine, by soft k-means."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, InputError, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, answerable, class_means, embed, squared_distance
from quickstudy.nets import encoder_for
from quickstudy.nets.basic import initialise

Refinement = Literal["soft", "cluster", "masked"]


class SemiSupervisedProto(Method):
    r"""Class means in a learned embedding h, moved by the unlabelled examples that lie close to them.

    .. math::
        \tilde p_c = \frac{\sum_i h(x_i) z_{ic} + \sum_j h(\tilde x_j) \tilde z_{jc} m_{jc}}
                          {\sum_i z_{ic} + \sum_j \tilde z_{jc} m_{jc}}, \qquad
        \tilde z_{jc} \propto \exp(-\lVert h(\tilde x_j) - p_c \rVert^2)

    - ``"soft"``: all :math:`m_{jc} = 1`; every unlabelled example is taken to be of one of the classes;
    - ``"cluster"``: one more cluster at the origin, of learned radius r, takes in what is of no class:
      :math:`\tilde z_{j,N+1} \propto \exp(-\lVert h(\tilde x_j) \rVert^2 / r^2 - \log r)`;
    - ``"masked"``: :math:`m_{jc} = \sigma(-\gamma_c (\tilde d_{jc} - \beta_c))`, with :math:`\tilde d_{jc}` the squared
      distance over its mean over j, and :math:`\beta_c, \gamma_c` from a small net on the minimum, maximum, variance,
      skewness and kurtosis of :math:`\tilde d_{jc}` over j.

    Without unlabelled examples each of them is a prototypical network.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        refinement: which of the three.
        steps: how often the prototypes are refined.
        radius: where r starts. A net whose distances are small against :math:`2 \log r` gives all to the cluster, and
            little gradient tells it otherwise: choose it for a net that is trained already.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, support.unlabelled ``[T, u, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class
        without support is never chosen.

    Raises:
        InputError: another refinement.

    Reference:
        Ren et al. 2018, Meta-Learning for Semi-Supervised Few-Shot Classification, arXiv:1803.00676. As in the released
        code beta and gamma are positive, the small net has 20 tanh units, no gradient passes the statistics, r starts
        at 100, and one step is taken. Departs from that code in following the paper where they differ: distances are
        not halved and the mask is applied once. The cluster at the origin is no answer to a query.
    """

    name: ClassVar[str] = "semi-supervised-proto"
    summary: ClassVar[str] = "prototypes that unlabelled examples refine, by soft k-means"
    reference: ClassVar[str] = "Ren et al. 2018, arXiv:1803.00676"
    expressive: ClassVar[bool] = False  # the nearest mean names the class
    consistent = False  # right where classes are round in the embedding

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        refinement: Refinement = "masked",
        steps: int = 1,
        radius: float = 100.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if refinement not in ("soft", "cluster", "masked"):
            raise InputError(
                f"Expected the refinement 'soft', 'cluster' or 'masked'. Found {refinement!r}. Name one of the three."
            )
        self.encoder = encoder_for(problem, generator=generator)[0] if encoder is None else encoder
        self.refinement, self.steps = refinement, steps
        if refinement == "cluster":
            self.log_radius = nn.Parameter(torch.tensor(math.log(radius)))
        if refinement == "masked":
            self.exact_gradient = False  # none passes the statistics
            last = nn.Linear(20, 2)
            self.mask = nn.Sequential(nn.Linear(5, 20), nn.Tanh(), last)
            initialise(self.mask, generator)
            with torch.no_grad():
                last.weight.mul_(0.01)  # beta and gamma start at 1: what is closer than average counts more

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Numbers to predict have no classes to average."""
        return "" if problem.kind == "classification" else "needs classes; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Average the embedded support of each class; let the unlabelled examples move the averages."""
        n_classes = self.problem.n_outputs
        if support.unlabelled is None or not support.unlabelled.shape[1]:
            prototypes, present = class_means(embed(self.encoder, support.x), support, n_classes)
        else:
            # in one call, so that batch normalisation treats labelled and unlabelled examples alike
            features = embed(self.encoder, torch.cat([support.x, support.unlabelled], 1))
            known, more = features[:, : support.n], features[:, support.n :]
            prototypes, present = class_means(known, support, n_classes)
            size = (F.one_hot(support.y, n_classes) * support.weights.unsqueeze(-1)).sum(1)  # [T, N]
            total = prototypes * size.unsqueeze(-1)
            cut = self._cut(more, prototypes) if self.refinement == "masked" else None
            for _ in range(self.steps):
                share = self._share(more, prototypes, present, cut)  # [T, u, N]
                mass = (size + share.sum(1)).clamp_min(1e-12).unsqueeze(-1)
                prototypes = (total + share.mT @ more) / mass

        def predict(x: Tensor) -> Tensor:
            logits = -squared_distance(embed(self.encoder, x), prototypes)
            return logits.masked_fill(~present.unsqueeze(1), NEVER)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's cross-entropy, over the examples whose class has a prototype."""
        return super().losses(answerable(episodes, self.problem.n_outputs))

    def _share(self, more: Tensor, prototypes: Tensor, present: Tensor, cut: Tensor | None) -> Tensor:
        """How much of each unlabelled example counts for each class. Shape: gives ``[T, u, N]``."""
        distance = squared_distance(more, prototypes)
        near = (-distance).masked_fill(~present.unsqueeze(1), -torch.inf)
        if self.refinement == "cluster":
            origin = -more.square().sum(-1, keepdim=True) * (-2 * self.log_radius).exp() - self.log_radius
            return torch.cat([near, origin], -1).softmax(-1)[..., :-1]
        share = near.softmax(-1)
        if cut is None:
            return share
        beta, gamma = cut.unsqueeze(1).unbind(-1)  # [T, 1, N] each
        return share * torch.sigmoid(-gamma * (_relative(distance) - beta))

    def _cut(self, more: Tensor, prototypes: Tensor) -> Tensor:
        """Each class's beta and gamma, from how far the unlabelled examples are. Shape: gives ``[T, N, 2]``."""
        d = _relative(squared_distance(more, prototypes)).detach()  # [T, u, N]
        centred = d - d.mean(1, keepdim=True)
        variance = centred.square().mean(1)
        spread = variance.clamp_min(1e-6)  # one unlabelled example varies by nothing
        skewness = centred.pow(3).mean(1) / spread.pow(1.5)
        kurtosis = centred.pow(4).mean(1) / spread.square() - 3
        facts = torch.stack([d.amin(1), d.amax(1), variance, skewness, kurtosis], -1)
        cut: Tensor = self.mask(facts).exp()
        return cut


def _relative(distance: Tensor) -> Tensor:
    """Distances over their mean over the unlabelled examples. Shape: ``[T, u, N]``."""
    return distance / distance.mean(1, keepdim=True).clamp_min(1e-12)
