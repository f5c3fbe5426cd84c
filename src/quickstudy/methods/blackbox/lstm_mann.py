"""A recurrent net reads the support as a sequence; an external memory holds what it must not forget."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, InputError, Method, Predictor, Problem
from quickstudy.methods._embed import embed, known, mask_absent
from quickstudy.methods.blackbox._reading import features_for, label_size, labels_of, real_first
from quickstudy.nets.basic import initialise

DECAY = 0.95  # gamma, how much of a slot's use is remembered
FAINT = 1e-3  # a slot that holds next to nothing resembles no key; cosine alone would take it for a full match


class LSTMMANN(Method):
    r"""Read the examples with an LSTM, each beside its label; the query comes last, its label zeroed.

    .. math::
        h_t, c_t = LSTM([x_t, y_t, r_{t-1}], h_{t-1}, c_{t-1}), \quad k_t = \tanh(A h_t), \qquad
        \hat{y} = V [h_q, r_q]

    With ``memory`` the key reads the slots it resembles and is then stored, in the slot read last or in the one used
    least; what is read enters the next step and the answer:

    .. math::
        w^r_t = softmax_i(\beta \cos(k_t, M_{t-1}(i))), \quad r_t = \sum_i w^r_t(i) M_{t-1}(i), \quad
        w^w_t = \sigma(\alpha) w^r_{t-1} + (1 - \sigma(\alpha)) w^{lu}_{t-1}

        M_t(i) = (1 - w^{lu}_{t-1}(i)) M_{t-1}(i) + w^w_t(i) k_t, \quad
        w^u_t = \gamma w^u_{t-1} + w^r_t + w^w_t, \quad w^{lu}_t = onehot(\arg\min_i w^u_t(i))

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        memory: with the external memory; without, the LSTM's own state is all that is kept.
        width: numbers in the LSTM's state.
        slots: of the memory.
        slot_width: numbers in a slot.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, N]`` or ``[T, m, d]``, memory
        ``[T, slots, slot_width]``; a class without support is never chosen.

    Raises:
        InputError: fewer than two slots.

    Reference:
        Santoro et al. 2016, One-shot Learning with Memory-Augmented Neural Networks, arXiv:1605.06065; 128 slots of
        40 and 200 units there. Departs: labels come with their inputs, not one step late, and only queries are
        judged, each as if it came right after the support (so that none is stored); one read head; a learned
        sharpness beta; reading comes before writing.
    """

    name: ClassVar[str] = "lstm-mann"
    summary: ClassVar[str] = "an LSTM with an external memory reads the examples in order"
    reference: ClassVar[str] = "Santoro et al. 2016, arXiv:1605.06065"
    expressive: ClassVar[bool] = True  # a recurrent net of the examples and the query
    consistent = False  # it has learned the tasks it was trained on
    order_free: bool = False
    label_equivariant: ClassVar[bool] = False  # each label has its own input and output weights

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        memory: bool = True,
        width: int = 128,
        slots: int = 32,
        slot_width: int = 40,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if slots < 2:
            raise InputError(f"Expected at least 2 slots. Found {slots}. Without a memory, say memory=False.")
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.memory, self.slots, self.slot_width = memory, slots, slot_width
        self.features, size = features_for(problem, encoder, generator)
        read = slot_width if memory else 0
        self.cell = nn.LSTMCell(size + label_size(problem) + read, width)
        for name, value in self.cell.named_parameters():
            if "bias" in name:
                nn.init.zeros_(value)
            else:
                for gate in value.chunk(4):
                    nn.init.xavier_uniform_(gate.data, generator=generator)
        with torch.no_grad():
            self.cell.bias_hh[width : 2 * width].fill_(1.0)  # forget little at first
        self.answer = nn.Linear(width + read, problem.n_outputs)
        initialise(self.answer, generator)
        if memory:
            self.key = nn.Linear(width, slot_width)
            nn.init.xavier_uniform_(self.key.weight, generator=generator)
            nn.init.zeros_(self.key.bias)
            self.gate = nn.Parameter(torch.zeros(()))  # alpha
            self.log_sharpness = nn.Parameter(torch.tensor(2.0))  # log beta

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Read the support in its order; what is learned of a task is the state and the memory after it."""
        sequence, length = real_first(support)
        h = embed(self.features, sequence.x)
        inputs = torch.cat([h, labels_of(self.problem, sequence)], -1)
        state = self._start(h)
        for t, x in enumerate(inputs.unbind(1)):
            real = t < length
            new = self._step(x, state)
            # a task that has ended waits for the others
            state = [torch.where(real.view(-1, *(1,) * (a.ndim - 1)), a, b) for a, b in zip(new, state, strict=True)]
        blank = inputs.new_zeros(label_size(self.problem))

        def predict(x: Tensor) -> Tensor:
            m = x.shape[1]
            query = torch.cat([embed(self.features, x), blank.expand(*x.shape[:2], -1)], -1).flatten(0, 1)
            hidden, cell, *rest = state
            each = [value.repeat_interleave(m, 0) for value in (hidden, cell)]
            if not self.memory:
                out, _ = self.cell(query, (each[0], each[1]))
            else:
                last_read, slots = rest[0], rest[1]
                out, _ = self.cell(torch.cat([query, last_read.repeat_interleave(m, 0)], -1), (each[0], each[1]))
                key = self.key(out).tanh().unflatten(0, (-1, m))
                found = self._look(key, slots) @ slots  # all queries of a task look into its one memory
                out = torch.cat([out, found.flatten(0, 1)], -1)
            return mask_absent(self.problem, self.answer(out).unflatten(0, (-1, m)), support)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's loss; in classification over the examples whose class is in the support."""
        return super().losses(known(self.problem, episodes))

    def _start(self, like: Tensor) -> list[Tensor]:
        """Nothing read: ``h, c``, and with a memory what was read, the slots, how they were read, how used."""
        n_tasks, width = len(like), self.cell.hidden_size
        sizes: list[tuple[int, ...]] = [(width,), (width,)]
        if self.memory:
            sizes += [(self.slot_width,), (self.slots, self.slot_width), (self.slots,), (self.slots,)]
        return [like.new_zeros(n_tasks, *size) for size in sizes]

    def _step(self, x: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The state after one example ``[T, inputs]``."""
        if not self.memory:
            return list(self.cell(x, (state[0], state[1])))
        hidden, cell, read, slots, read_weight, use = state
        hidden, cell = self.cell(torch.cat([x, read], -1), (hidden, cell))
        key = self.key(hidden).tanh()
        least = F.one_hot(use.argmin(-1), self.slots).to(slots.dtype)
        gate = self.gate.sigmoid()
        write_weight = gate * read_weight + (1 - gate) * least
        read_weight = self._look(key.unsqueeze(1), slots).squeeze(1)
        read = (read_weight.unsqueeze(1) @ slots).squeeze(1)
        slots = slots * (1 - least).unsqueeze(-1) + write_weight.unsqueeze(-1) * key.unsqueeze(1)
        return [hidden, cell, read, slots, read_weight, DECAY * use + read_weight + write_weight]

    def _look(self, key: Tensor, slots: Tensor) -> Tensor:
        """Where a key reads. Shape: ``[T, m, slot_width], [T, slots, slot_width]`` to ``[T, m, slots]``."""
        unit = lambda a: a * (a.square().sum(-1, keepdim=True) + FAINT).rsqrt()  # noqa: E731
        scores: Tensor = self.log_sharpness.exp() * unit(key) @ unit(slots).mT
        return scores.softmax(-1)
