"""Matching networks: a soft nearest neighbour in a learned embedding."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, answerable, embed, n_features
from quickstudy.nets import encoder_for


class Matching(Method):
    r"""Average the support's labels, each weighed by how similar its example is to the query.

    .. math::
        p(y = k \mid x) = \sum_{i: y_i = k} a(x, x_i) \quad \text{(eq. 1)}, \qquad
        a(x, x_i) = \frac{\exp(s \cos(f(x), g(x_i)))}{\sum_j \exp(s \cos(f(x), g(x_j)))} \quad \text{(section 2.1.1)}

    With full context embeddings g reads the whole support by a bidirectional LSTM and f attends to it for some steps:

    .. math::
        g(x_i) = \overrightarrow h_i + \overleftarrow h_i + g'(x_i), \qquad
        \hat h_k, c_k = \mathrm{LSTM}(f'(x), [h_{k-1}, r_{k-1}], c_{k-1}), \quad h_k = \hat h_k + f'(x), \quad
        r_k = \sum_i \mathrm{softmax}_i(h_k^\top g(x_i)) \, g(x_i)

    A class of more examples has more votes: uneven supports are a prior over classes here.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        full_context: embed in the context of the whole support; its order then matters.
        steps: how often f attends to the support.
        scale: s; 1 is the paper's, and bounds how sure an answer can be.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]`` (log p up to a constant); a class without
        support is never chosen.

    Reference:
        Vinyals et al. 2016, Matching Networks for One Shot Learning, arXiv:1606.04080, sections 2.1 and A. Departs in
        the scale s, learned by no one and 10 by default. f' and g' are one encoder.
    """

    name: ClassVar[str] = "matching"
    summary: ClassVar[str] = "soft nearest neighbour by cosine in a learned embedding"
    reference: ClassVar[str] = "Vinyals et al. 2016, arXiv:1606.04080"
    expressive: ClassVar[bool] = False  # the labels' average, whatever weighs them
    consistent = False  # bound by what the encoder kept

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        full_context: bool = False,
        steps: int = 5,
        scale: float = 10.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.full_context, self.steps, self.scale = full_context, steps, scale
        self.encoder = encoder_for(problem, generator=generator)[0] if encoder is None else encoder
        if full_context:
            size = n_features(self.encoder, problem)
            self.order_free = False  # an LSTM reads the support in order
            self.forwards, self.backwards = nn.LSTMCell(size, size), nn.LSTMCell(size, size)
            # a hidden state [h, r] of an LSTM whose output is h: r enters as an input, which is the same sum
            self.attend = nn.LSTMCell(2 * size, size)
            _initialise((self.forwards, self.backwards, self.attend), generator)

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Votes are for classes."""
        return "" if problem.kind == "classification" else "needs classes to vote for; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Embed the support, on its own or in context."""
        real = support.weights > 0
        known = embed(self.encoder, support.x)
        if self.full_context:
            known = known + self._read(self.forwards, known, real) + self._read(self.backwards, known, real, True)
        member = F.one_hot(support.y, self.problem.n_outputs).bool() & real.unsqueeze(-1)  # [T, n, N]
        present = member.any(1, keepdim=True)

        def predict(x: Tensor) -> Tensor:
            asked = embed(self.encoder, x)
            if self.full_context:
                asked = self._attend(asked, known, real)
            cosine = F.normalize(asked, dim=-1) @ F.normalize(known, dim=-1).mT  # [T, m, n]
            votes = (self.scale * cosine).unsqueeze(-1).where(member.unsqueeze(1), 2 * NEVER)
            return votes.logsumexp(2).where(present, NEVER)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """-log p of the query, over the examples whose class is in the support."""
        return super().losses(answerable(episodes, self.problem.n_outputs))

    def _read(self, cell: nn.LSTMCell, x: Tensor, real: Tensor, backwards: bool = False) -> Tensor:
        """The LSTM's output at each support example; padding passes it by. Shape: ``[T, n, f]`` to ``[T, n, f]``."""
        h = c = x.new_zeros(x.shape[0], x.shape[2])
        outputs = []
        for i in reversed(range(x.shape[1])) if backwards else range(x.shape[1]):
            new_h, new_c = cell(x[:, i], (h, c))
            here = real[:, i : i + 1]
            h, c = new_h.where(here, h), new_c.where(here, c)
            outputs.append(h)
        return torch.stack(outputs[::-1] if backwards else outputs, 1)

    def _attend(self, x: Tensor, known: Tensor, real: Tensor) -> Tensor:
        """Each query in the context of the support. Shape: ``[T, m, f], [T, n, f]`` to ``[T, m, f]``."""
        flat = x.flatten(0, 1)
        h = c = r = torch.zeros_like(flat)
        for _ in range(self.steps):
            out, c = self.attend(torch.cat([flat, r], -1), (h, c))
            h = out + flat
            score = (h.view_as(x) @ known.mT).masked_fill(~real.unsqueeze(1), 2 * NEVER)
            r = (score.softmax(-1) @ known).flatten(0, 1)
        return h.view_as(x)


def _initialise(cells: tuple[nn.LSTMCell, ...], generator: torch.Generator | None) -> None:
    """Draw an LSTM's weights as PyTorch does, uniform within 1 / sqrt(f), from a generator of one's own."""
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    for cell in cells:
        for value in cell.parameters():
            bound = cell.hidden_size**-0.5
            nn.init.uniform_(value, -bound, bound, generator=generator)
