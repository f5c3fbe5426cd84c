"""Graph neural networks: the support's labels reach a query by messages along learned edges."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, answerable, embed, mask_absent, n_features
from quickstudy.nets import encoder_for
from quickstudy.nets.basic import initialise


class Graph(Method):
    r"""Let a query and its support exchange messages, and read the query's label off its node.

    Each query is a graph of its own: its node and one for each support example, all joined. A node begins as its
    embedding beside its label, one-hot in the support and uniform for the query,

    .. math::
        x_i^{(0)} = \big(\phi(x_i), h(l_i)\big), \qquad h(l_{query}) = K^{-1} 1_K,

    and every layer learns its edges anew and adds to what the node knows (dense concatenation):

    .. math::
        \tilde A^{(k)}_{ij} = \operatorname{softmax}_{j \ne i}
        \mathrm{MLP}_k\big(\lvert x_i^{(k)} - x_j^{(k)} \rvert\big), \qquad
        x^{(k+1)} = \big[x^{(k)}, \rho\big(x^{(k)} \theta_1 + \tilde A^{(k)} x^{(k)} \theta_2\big)\big]

    with :math:`\rho` a leaky ReLU. The last layer has N outputs and no :math:`\rho`; those of the query's node are the
    logits. With that layer alone, a kernel that falls with distance and weights that pick the label out, this is a
    matching network.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        features: numbers that an embedding is projected to before it is a node.
        layers: graph convolutions before the last one.
        width: numbers that each of them adds to a node.
        hidden: widths of the nets that make edges.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class without support is never chosen.

    Reference:
        Garcia, Bruna 2018, Few-Shot Learning with Graph Neural Networks, arXiv:1711.04043. As in the released code
        edges to oneself count nothing and all but the last layer are batch-normalised. Departs in narrower nets for
        the edges (there four layers as wide as two nodes and one), which are most of the time; there is no dropout.
        Labels enter as features, so classes are not treated alike: training shuffles them.
    """

    name: ClassVar[str] = "graph"
    summary: ClassVar[str] = "messages between a query and its support along learned edges"
    reference: ClassVar[str] = "Garcia, Bruna 2018, arXiv:1711.04043"
    label_equivariant: ClassVar[bool] = False
    expressive: ClassVar[bool] = True

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        features: int = 64,
        layers: int = 2,
        width: int = 48,
        hidden: tuple[int, ...] = (64, 32),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.encoder = encoder_for(problem, generator=generator)[0] if encoder is None else encoder
        self.project = nn.Sequential(nn.Linear(n_features(self.encoder, problem), features), nn.BatchNorm1d(features))
        self.edges, self.messages = nn.ModuleList(), nn.ModuleList()
        size = features + problem.n_outputs
        for layer in range(layers + 1):
            self.edges.append(_edges(size, hidden))
            last = layer == layers
            linear = nn.Linear(2 * size, problem.n_outputs if last else width)
            self.messages.append(linear if last else nn.Sequential(linear, nn.BatchNorm1d(width), nn.LeakyReLU()))
            size += width
        for part in (self.project, self.edges, self.messages):
            initialise(part, generator)

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Nodes carry one-hot labels."""
        return "" if problem.kind == "classification" else "needs classes to pass on; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Embed the support; its labels are read when a query joins it."""
        n_classes = self.problem.n_outputs
        known = torch.cat([self._embed(support.x), F.one_hot(support.y, n_classes).to(support.x.dtype)], -1)
        real = support.weights > 0

        def predict(x: Tensor) -> Tensor:
            asked = F.pad(self._embed(x), (0, n_classes), value=1 / n_classes)
            # graphs [T * m] of n + 1 nodes, the query's first
            graphs = [asked.unsqueeze(2), known.unsqueeze(1).expand(-1, x.shape[1], -1, -1)]
            nodes = torch.cat(graphs, 2).flatten(0, 1)
            there = F.pad(real, (1, 0), value=True).repeat_interleave(x.shape[1], 0)
            logits = self._last(nodes, there).unflatten(0, x.shape[:2])
            return mask_absent(self.problem, logits, support)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's cross-entropy, over the examples whose class is in the support."""
        return super().losses(answerable(episodes, self.problem.n_outputs))

    def _embed(self, x: Tensor) -> Tensor:
        projected: Tensor = self.project(embed(self.encoder, x).flatten(0, 1))
        return projected.unflatten(0, x.shape[:2])

    def _last(self, nodes: Tensor, there: Tensor) -> Tensor:
        """What the query's node holds in the end. Shape: ``[G, n + 1, f]``, bool ``[G, n + 1]`` to ``[G, N]``."""
        joined = there.unsqueeze(1) & ~torch.eye(nodes.shape[1], dtype=torch.bool, device=nodes.device)
        for edges, message in zip(self.edges, self.messages, strict=True):
            apart = (nodes.unsqueeze(2) - nodes.unsqueeze(1)).abs()
            score = edges(apart.flatten(0, 2)).view(joined.shape).masked_fill(~joined, NEVER * 1e3)
            # a node that is joined to none hears nothing
            adjacency = score.softmax(-1) * joined
            both = torch.cat([nodes, adjacency @ nodes], -1)
            heard = message(both.flatten(0, 1)).unflatten(0, nodes.shape[:2])
            nodes = torch.cat([nodes, heard], -1)
        return heard[:, 0]


def _edges(size: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """The net that says how close two nodes are. Shape: ``[pairs, size]`` to ``[pairs, 1]``."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip((size, *hidden[:-1]), hidden, strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], 1))
