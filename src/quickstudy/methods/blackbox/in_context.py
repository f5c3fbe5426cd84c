"""In-context learning: a transformer reads the support as tokens and answers each query apart."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, InputError, Method, Predictor, Problem
from quickstudy.methods._embed import embed, known, mask_absent, members
from quickstudy.methods.blackbox._reading import attend, features_for
from quickstudy.nets import MLP


class InContext(Method):
    r"""A transformer without positions; examples look at each other, a query looks at the examples.

    .. math::
        s_i = A x_i + B y_i, \quad q = A x + c, \qquad
        z \leftarrow z + Att(z, s, s), \quad z \leftarrow z + MLP(z) \quad \text{for } z \in \{s_1, ..., s_n, q\}

    Regression: the answer is a linear map of the last q. Classification: a token holds no label, since labels mean
    nothing beyond which examples share one; two examples of one class add a learned number to their attention score,
    one for each head and layer, and the logit of class k is :math:`q^\top C \bar{s}_k / \sqrt{width}` with
    :math:`\bar{s}_k` the mean of its last tokens.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        width: numbers in a token.
        layers: rounds of attention.
        heads: of each attention.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, N]`` or ``[T, m, d]``; a class without
        support is never chosen.

    Raises:
        InputError: ``heads`` does not divide ``width``.

    Reference:
        Müller et al. 2022, Transformers Can Do Bayesian Inference, arXiv:2112.10510 (no positions; queries see the
        support alone); Garg et al. 2022, arXiv:2208.01066 (linear regression in context). Departs in its answer,
        for regression the mean alone, and in how it reads classes: a permutation of labels permutes the logits.
    """

    name: ClassVar[str] = "in-context"
    summary: ClassVar[str] = "a transformer reads the examples as tokens"
    reference: ClassVar[str] = "Müller et al. 2022, arXiv:2112.10510"
    expressive: ClassVar[bool] = True  # a transformer of the examples and the query
    consistent = False  # it has learned the tasks it was trained on

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if width % heads:
            raise InputError(f"Expected heads that divide width = {width}. Found {heads}. Take 1, 2, 4, ...")
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.features, size = features_for(problem, encoder, generator)
        regression = problem.kind == "regression"
        self.read_x = nn.Linear(size, width)
        self.read_y = nn.Linear(problem.n_outputs, width) if regression else None
        self.layers = nn.ModuleList(_Layer(width, heads, generator) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        self.answer = nn.Linear(width, problem.n_outputs if regression else width)
        for part in (self.read_x, self.read_y, self.answer):
            if part is not None:
                _draw(part, 1.0, generator)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Read the support; what is learned of a task is the tokens of its examples at every layer."""
        seen = (support.weights > 0).unsqueeze(1)  # [T, 1, n]
        s = self.read_x(embed(self.features, support.x))
        same = None
        if self.read_y is not None:
            s = s + self.read_y(support.y)
        else:
            same = (support.y.unsqueeze(2) == support.y.unsqueeze(1)).to(s.dtype)
        memory = []  # what queries look at: the tokens before each layer
        for layer in self.layers:
            memory.append(s)
            s = layer(s, s, seen, same)
        s = self.last(s)

        def predict(x: Tensor) -> Tensor:
            q = self.read_x(embed(self.features, x))
            for layer, tokens in zip(self.layers, memory, strict=True):
                q = layer(q, tokens, seen)
            answer: Tensor = self.answer(self.last(q))
            if self.problem.kind == "regression":
                return answer
            member = members(self.problem, support).to(s.dtype)
            means = member @ s / member.sum(-1, keepdim=True).clamp_min(1)
            return mask_absent(self.problem, answer @ means.mT / math.sqrt(s.shape[-1]), support)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's loss; in classification over the examples whose class is in the support."""
        return super().losses(known(self.problem, episodes))


class _Layer(nn.Module):
    """Attention to the support, then a perceptron, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = MLP((width, 2 * width, width), generator)
        self.same = nn.Parameter(torch.zeros(heads))
        for part, scale in ((self.query, 1.0), (self.key, 1.0), (self.value, 1.0), (self.out, 0.5)):
            _draw(part, scale, generator)

    def forward(self, z: Tensor, tokens: Tensor, seen: Tensor, same: Tensor | None = None) -> Tensor:
        """Shape: ``z [T, m, width]`` looks at ``tokens [T, n, width]``; ``same [T, m, n]``."""
        look, shown = self.before(z), self.before(tokens)
        bias = 0.0 if same is None else self.same.view(-1, 1, 1) * same.unsqueeze(1)
        found = attend(self.query(look), self.key(shown), self.value(shown), seen, self.heads, bias)
        z = z + self.out(found)
        after: Tensor = z + self.mlp(self.between(z))
        return after


def _draw(linear: nn.Linear, scale: float, generator: torch.Generator) -> None:
    """Weights that keep the size of normalised inputs, times ``scale``; no bias."""
    with torch.no_grad():
        linear.weight.normal_(0, scale / math.sqrt(linear.in_features), generator=generator)
        linear.bias.zero_()
