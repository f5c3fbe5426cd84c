"""SNAIL: temporal convolutions and attention in turn, over the support as a sequence that the query ends."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, InputError, Method, Predictor, Problem
from quickstudy.methods._embed import embed, known, mask_absent
from quickstudy.methods.blackbox._reading import features_for, label_size, labels_of, real_first, softmax_over
from quickstudy.nets.basic import initialise


class SNAIL(Method):
    r"""Read (example, label) pairs in order, then the query with its label zeroed; no place sees later ones.

    Three attention blocks with two TC blocks between them. Each layer appends its output to its input z:

    .. math::
        \text{dense, dilation } d: \quad [z_t, \tanh(F) \circ \sigma(G)], \quad (F, G) = A z_t + B z_{t-d} + c

        \text{attention}: \quad [z_t, \sum_{s \le t} a_{ts} V z_s], \quad
        a_t = softmax_{s \le t}((Q z_t)^\top K z_s / \sqrt{keys})

    A TC block has dense layers of dilation 1, 2, 4, ... until they reach over ``length`` places.

    What the support computes does not depend on the query, so it is computed once, and all queries of a task read it.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        length: places that the convolutions reach over, best N K + 1; attention reaches over any number.
        filters: of each dense layer.
        keys: numbers in a key, of each attention block.
        values: numbers that each attention block appends.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, N]`` or ``[T, m, d]``; a class without
        support is never chosen.

    Raises:
        InputError: ``length`` is below 2.

    Reference:
        Mishra et al. 2018, A Simple Neural Attentive Meta-Learner, arXiv:1707.03141; 128 filters, keys 64, 256, 512,
        values 32, 128, 256 there. Departs: smaller blocks by default, and dilations that begin at 1.
    """

    name: ClassVar[str] = "snail"
    summary: ClassVar[str] = "convolutions and attention over the examples in order"
    reference: ClassVar[str] = "Mishra et al. 2018, arXiv:1707.03141"
    expressive: ClassVar[bool] = True  # convolutions and attention over the examples and the query
    consistent = False  # it has learned the tasks it was trained on
    order_free: bool = False
    label_equivariant: ClassVar[bool] = False  # each label has its own input and output weights

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        length: int = 32,
        filters: int = 32,
        keys: tuple[int, int, int] = (64, 64, 64),
        values: tuple[int, int, int] = (32, 32, 32),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if length < 2:
            raise InputError(f"Expected a length of at least 2, an example and a query. Found {length}. Take N K + 1.")
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.features, size = features_for(problem, encoder, generator)
        size += label_size(problem)
        blocks: list[_Dense | _Attention] = []
        for i, (key, value) in enumerate(zip(keys, values, strict=True)):
            blocks.append(_Attention(size, key, value, generator))
            size += value
            for power in range((length - 1).bit_length() if i < 2 else 0):
                blocks.append(_Dense(size, filters, 2**power, generator))
                size += filters
        self.blocks = nn.ModuleList(blocks)
        self.answer = nn.Linear(size, problem.n_outputs)
        initialise(self.answer, generator)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Read the support; what is learned of a task is what its places hold before each block."""
        sequence, length = real_first(support)
        z = torch.cat([embed(self.features, sequence.x), labels_of(self.problem, sequence)], -1)
        held = []
        for block in self._blocks():
            held.append(z)
            z = block.read(z)
        blank = z.new_zeros(label_size(self.problem))

        def predict(x: Tensor) -> Tensor:
            q = torch.cat([embed(self.features, x), blank.expand(*x.shape[:2], -1)], -1)
            for block, places in zip(self._blocks(), held, strict=True):
                q = block.ask(q, places, length)
            return mask_absent(self.problem, self.answer(q), support)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's loss; in classification over the examples whose class is in the support."""
        return super().losses(known(self.problem, episodes))

    def _blocks(self) -> list[_Dense | _Attention]:
        return [block for block in self.blocks if isinstance(block, _Dense | _Attention)]


class _Dense(nn.Module):
    """A causal convolution of two taps with a gate, appended to its input. Padding comes last, so nothing sees it."""

    def __init__(self, size: int, filters: int, dilation: int, generator: torch.Generator) -> None:
        super().__init__()
        self.dilation = dilation
        self.now, self.before = nn.Linear(size, 2 * filters), nn.Linear(size, 2 * filters, bias=False)
        _draw(self, generator)

    def read(self, z: Tensor) -> Tensor:
        """Each place of the support with the one ``dilation`` before it. Shape: ``[T, n, size]``, more at the end."""
        return self._append(z, F.pad(z, (0, 0, self.dilation, 0))[:, : z.shape[1]])

    def ask(self, q: Tensor, places: Tensor, length: Tensor) -> Tensor:
        """The same for queries ``[T, m, size]``, each at place ``length [T]`` after ``places [T, n, size]``."""
        where = (length - self.dilation).view(-1, 1, 1)
        row = places.gather(1, where.clamp_min(0).expand(-1, 1, places.shape[-1]))
        return self._append(q, row.where(where >= 0, 0.0))

    def _append(self, z: Tensor, earlier: Tensor) -> Tensor:
        f, g = (self.now(z) + self.before(earlier)).chunk(2, -1)
        return torch.cat([z, f.tanh() * g.sigmoid()], -1)


class _Attention(nn.Module):
    """Causal attention with one head, appended to its input."""

    def __init__(self, size: int, keys: int, values: int, generator: torch.Generator) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(size, keys), nn.Linear(size, keys), nn.Linear(size, values)
        _draw(self, generator)

    def read(self, z: Tensor) -> Tensor:
        """Each place of the support looks at itself and those before. Shape: ``[T, n, size]``, more at the end."""
        earlier = torch.ones(z.shape[1], z.shape[1], dtype=torch.bool, device=z.device).tril()
        weight = softmax_over(self._scale(self.query(z) @ self.key(z).mT), earlier)
        return torch.cat([z, weight @ self.value(z)], -1)

    def ask(self, q: Tensor, places: Tensor, length: Tensor) -> Tensor:
        """Each query ``[T, m, size]`` looks at the first ``length [T]`` of ``places [T, n, size]`` and at itself."""
        query, value = self.query(q), self.value(q)
        itself = (query * self.key(q)).sum(-1, keepdim=True)
        scores = self._scale(torch.cat([query @ self.key(places).mT, itself], -1))
        real = torch.arange(places.shape[1], device=q.device) < length.unsqueeze(1)
        weight = softmax_over(scores, F.pad(real, (0, 1), value=True).unsqueeze(1))
        return torch.cat([q, weight[..., :-1] @ self.value(places) + weight[..., -1:] * value], -1)

    def _scale(self, scores: Tensor) -> Tensor:
        return scores / self.key.out_features**0.5


def _draw(module: nn.Module, generator: torch.Generator) -> None:
    """Xavier's weights, for gates and scores that ought not to start at their ends; no bias."""
    for part in module.children():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
