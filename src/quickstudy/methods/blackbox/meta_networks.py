"""Meta networks: loss gradients, mapped by a learned net, become fast weights beside the slow ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import embed, known, mask_absent
from quickstudy.methods._nets import Params
from quickstudy.methods.blackbox._reading import features_for, softmax_over
from quickstudy.nets import MLP
from quickstudy.nets.basic import initialise

FINE = 7.0  # gradients below exp(-7) are told apart by their value, those above by their order of size
FAINT = 1e-6  # keeps the length of an embedding that is all zero away from zero


class MetaNetworks(Method):
    r"""Each example's loss gradient is what it teaches; a learned map turns gradients into weights for the task.

    .. math::
        \text{embedding:} \quad Q^* = \frac{1}{n} \sum_i d(\nabla_Q L(C u(x_i; Q), y_i)), \quad
        r'_i = u(x_i; Q, Q^*)

        \text{base:} \quad W^*_i = m(\nabla_W L(b(x_i; W), y_i)) \quad \text{(stored beside } r'_i)

        \text{query:} \quad a = softmax_i(\beta \cos(r'(x), r'_i)), \quad W^*(x) = \sum_i a_i W^*_i, \quad
        \hat{y}(x) = b(x; W, W^*(x))

    A layer with slow and fast weights (layer augmentation) adds both paths behind their activations:
    :math:`relu(W z) + relu(W^* z)`, and the last layer :math:`W z + W^* z`. Both u and b stand on shared features;
    u has one layer, b has two. The maps d and m work on every number of a gradient alike, one net for each layer.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        width: hidden numbers of b, and numbers of the embedding u.
        map_width: hidden numbers of the maps d and m.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, N]`` or ``[T, m, d]``, fast weights
        ``[T, n, *W]``; a class without support is never chosen.

    Reference:
        Munkhdalai, Yu 2017, Meta Networks, arXiv:1703.00837. Simplified: fast weights for the layers on top of the
        features, not for convolutions; d maps each gradient and averages (there: an LSTM over some of the examples),
        so that order has no effect; u learns by the task's loss through a slow last layer C; a learned sharpness
        beta. Gradients enter as logarithm and sign, Andrychowicz et al. 2016, arXiv:1606.04474, appendix A,
        with p = 7 for their 10.
    """

    name: ClassVar[str] = "meta-networks"
    summary: ClassVar[str] = "loss gradients become fast weights, picked by attention"
    reference: ClassVar[str] = "Munkhdalai, Yu 2017, arXiv:1703.00837"
    # not shown to be expressive: each weight's own gradient, through one map for a layer, is all that examples say
    consistent = False  # what a gradient changes was learned
    label_equivariant: ClassVar[bool] = False  # each label has its own slow weights

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        width: int = 32,
        map_width: int = 8,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.features, size = features_for(problem, encoder, generator)
        self.embedding = nn.Linear(size, width, bias=False)  # Q
        self.judge = nn.Linear(width, problem.n_outputs, bias=False)  # C
        self.hidden = nn.Linear(size, width, bias=False)  # W, first layer
        self.head = nn.Linear(width, problem.n_outputs, bias=False)  # W, last layer
        for part in (self.embedding, self.judge, self.hidden, self.head):
            initialise(part, generator)
        self.maps = nn.ModuleDict({key: _GradientMap(map_width, generator) for key in ("embedding", "hidden", "head")})
        self.log_sharpness = nn.Parameter(torch.tensor(1.5))  # log beta

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Write each example's fast weights into the memory, under its embedding."""
        h = embed(self.features, support.x)
        weights = support.weights
        taught = self._gradients(self._judged, {"embedding": self.embedding.weight}, h, support)
        fast = self.maps["embedding"](taught["embedding"])
        share = (weights / weights.sum(1, keepdim=True).clamp_min(1e-12))[:, :, None, None]
        fast_q = (fast * share).sum(1)  # Q*, [T, width, features]
        index = self._embed(h, fast_q)
        base = self._gradients(self._base, {"hidden": self.hidden.weight, "head": self.head.weight}, h, support)
        memory = {key: self.maps[key](value) for key, value in base.items()}  # W*, [T, n, *W]

        def predict(x: Tensor) -> Tensor:
            z = embed(self.features, x)
            scores = self.log_sharpness.exp() * self._embed(z, fast_q) @ index.mT
            a = softmax_over(scores, (weights > 0).unsqueeze(1))
            # a query's fast weights are a mixture, and a layer is linear in them: mix what the layers give
            mix = lambda key, z: (torch.einsum("tnof,tmf->tmno", memory[key], z) * a.unsqueeze(-1)).sum(2)  # noqa: E731
            hidden = self.hidden(z).relu() + mix("hidden", z).relu()
            answer = self.head(hidden) + mix("head", hidden)
            return mask_absent(self.problem, answer, support)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's loss; in classification over the examples whose class is in the support."""
        return super().losses(known(self.problem, episodes))

    def _embed(self, h: Tensor, fast: Tensor) -> Tensor:
        """Embeddings of length one. Shape: ``[T, m, features], [T, width, features]`` to ``[T, m, width]``."""
        u = self.embedding(h).relu() + (h @ fast.mT).relu()
        return u * (u.square().sum(-1, keepdim=True) + FAINT).rsqrt()

    def _judged(self, params: Params, h: Tensor) -> Tensor:
        logits: Tensor = self.judge(F.linear(h, params["embedding"]).relu())
        return logits

    def _base(self, params: Params, h: Tensor) -> Tensor:
        return F.linear(F.linear(h, params["hidden"]).relu(), params["head"])

    def _gradients(self, net: Callable[[Params, Tensor], Tensor], params: Params, h: Tensor, support: Batch) -> Params:
        """Each example's own loss gradient. Shape: ``[T, n, *p]``."""

        def loss(params: Params, one: Tensor, y: Tensor) -> Tensor:
            return self.problem.loss(net(params, one.unsqueeze(0)), y.unsqueeze(0))

        each = vmap(vmap(grad(loss), in_dims=(None, 0, 0)), in_dims=(None, 0, 0))
        gradients: Params = each(params, h, support.y)
        return gradients


class _GradientMap(nn.Module):
    """A small net from a gradient to a fast weight, the same for every number of a layer."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.net = MLP((2, width, 1), generator)
        with torch.no_grad():  # fast weights begin small beside the slow ones
            list(self.net.parameters())[-2].mul_(0.1)

    def forward(self, gradient: Tensor) -> Tensor:
        """Shape: any, kept."""
        size = gradient.abs()
        large = size >= math.exp(-FINE)
        # the branch that is not taken must have a finite gradient as well
        log = torch.where(large, size, 1.0).log() / FINE
        pair = torch.stack(
            [torch.where(large, log, -1.0), torch.where(large, gradient.sign(), gradient * math.exp(FINE))], -1
        )
        mapped: Tensor = self.net(pair).squeeze(-1)
        return mapped
