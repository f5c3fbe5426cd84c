"""Active matching networks: choose which labels of a pool to read, then answer by attention over what was read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, embed, n_features
from quickstudy.nets import encoder_for
from quickstudy.nets.basic import initialise

Choose = Callable[[Tensor], Tensor]  # scores [T, n] to the chosen items [T]


class Reading(NamedTuple):
    """What a controller found out about T pools.

    Args:
        x: the embedded pool, ``[T, n, f]``.
        label: its labels, one-hot, ``[T, n, N]``; to be looked at where ``known`` only.
        known: whose labels were read, bool ``[T, n]``.
        state: the controller's, after the last label, ``[T, s]``.
        log_policy: log-probability of each choice, ``[T, steps]``; 0 where nothing was left to choose.
        value: what the baseline expected before each choice, ``[T, steps]``.
        fast: mean log-probability of the labels not yet read, after each choice, ``[T, steps]``.
    """

    x: Tensor
    label: Tensor
    known: Tensor
    state: Tensor
    log_policy: Tensor
    value: Tensor
    fast: Tensor


class ActiveMatching(Method):
    r"""Read a pool's labels one by one, each chosen by a learned policy, up to a budget.

    The support is a pool whose labels are hidden until they are asked for. An LSTM, the controller, with state h:

    - *selects* an item i whose label is hidden, by a gated sum of similarities (cosines c; K what is known, U what is
      not; each in units of its spread over U),

      .. math::
          \pi(i) \propto \exp\Big(w^\top \big(\sigma(G h) \odot
          [\max_K c, \operatorname{mean}_K c, \min_K c, \max_U c, \operatorname{mean}_U c, \min_U c, c(x_i, W h)]\big)
          \Big)

    - *reads* it: :math:`h \leftarrow \mathrm{LSTM}(R [x_i, y_i], h)`;
    - *predicts fast* the labels still hidden, :math:`p(y_j = k) \propto \sum_{i \in K, y_i = k} e^{s(h) c_{ij}}`,

    and after the last label *predicts slowly* the query: its embedding attends to what is known for some steps of
    another LSTM whose memory starts from h, and then votes as above. Votes are mixed with a uniform distribution, so
    that the label of a class never read has a probability too.

    Trained on the log-probabilities of fast and slow predictions, which are the rewards as well: choices are sampled
    and their gradient is REINFORCE's,

    .. math::
        \nabla \mathbb{E} \sum_t r_t = \mathbb{E} \sum_t A_t \nabla \log \pi(i_t), \qquad
        A_t = \sum_{k \ge 0} \lambda^k (r_{t+k} + V_{t+k+1} - V_{t+k})

    with V a linear baseline on h. :meth:`adapt` takes the most probable item each time.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        budget: labels to read; None reads as many as there are classes. May be changed after training.
        size: numbers of the controller's state.
        steps: of attention in the slow prediction.
        trace: :math:`\lambda`; 1 is the plain return, less the value.
        uniform: weight of the uniform distribution in the votes.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``, log-probabilities.

    Reference:
        Bachman, Sordoni, Trischler 2017, Learning Algorithms for Active Learning, arXiv:1708.00088. Departs in items
        that are embedded on their own (the paper's bidirectional LSTM over the pool changed little on Omniglot), so
        that the pool's order is without effect; in the units of the similarities; in the uniform part of the votes.
        Sampled choices follow from a count of the training steps, which starts at a number that ``generator`` draws
        and is saved with the parameters.
    """

    name: ClassVar[str] = "active-matching"
    summary: ClassVar[str] = "chooses which labels of the support to read, answers by attention"
    reference: ClassVar[str] = "Bachman et al. 2017, arXiv:1708.00088"
    label_equivariant: ClassVar[bool] = False
    exact_gradient: bool = False
    draws: Tensor

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        budget: int | None = None,
        size: int = 64,
        steps: int = 2,
        trace: float = 0.95,
        uniform: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.encoder = encoder_for(problem, generator=generator)[0] if encoder is None else encoder
        self.budget = problem.n_outputs if budget is None else budget
        self.size, self.steps, self.trace, self.uniform = size, steps, trace, uniform
        features = n_features(self.encoder, problem)
        self.read = nn.Linear(features + problem.n_outputs, size)
        self.controller = nn.LSTMCell(size, size)
        self.wanted, self.gate, self.score = nn.Linear(size, features), nn.Linear(size, 7), nn.Linear(7, 1, bias=False)
        self.sharpen, self.baseline = nn.Linear(size, 2), nn.Linear(size, 1)
        self.recall, self.attend = nn.Linear(size, features), nn.LSTMCell(2 * features, features)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        for part in (self.read, self.wanted, self.gate, self.score, self.sharpen, self.baseline, self.recall):
            initialise(part, generator)
        for cell in (self.controller, self.attend):
            for value in cell.parameters():
                nn.init.uniform_(value, -(cell.hidden_size**-0.5), cell.hidden_size**-0.5, generator=generator)
        with torch.no_grad():
            self.sharpen.weight.mul_(0.1)
            self.sharpen.bias.fill_(math.log(10.0))
        self.register_buffer("draws", torch.randint(2**40, (), generator=generator))

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Votes are for classes."""
        return "" if problem.kind == "classification" else "needs classes to vote for; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Read the labels that the policy finds most worth reading; the others are not looked at."""
        return self._predictor(self.explore(support, lambda score: score.argmax(1)))

    def losses(self, episodes: Episodes) -> Tensor:
        """Prediction losses, fast and slow, and the surrogate whose gradient is the policy's; choices are sampled.

        In eval mode the choices are those of :meth:`adapt`.
        """
        reading = self.explore(episodes.support, self._sampler() if self.training else lambda score: score.argmax(1))
        slow = self.problem.losses(self._predictor(reading)(episodes.query.x), episodes.query)
        return slow - reading.fast.mean(1) + self.surrogate(reading, -slow)

    def surrogate(self, reading: Reading, slow: Tensor) -> Tensor:
        """The policy's and the baseline's loss, for rewards ``reading.fast`` and at the end ``slow [T]`` too."""
        reward = reading.fast.detach().clone()
        reward[:, -1] += slow.detach()
        advantage = advantages(reward, reading.value.detach(), self.trace)
        surprise = advantage + reading.value.detach() - reading.value
        return (0.5 * surprise.square() - reading.log_policy * advantage).sum(1)

    def explore(self, support: Batch, choose: Choose) -> Reading:
        """Select and read, label after label.

        Args:
            support: the pool.
            choose: makes choices of scores ``[T, n]``, which are very low where a label is known or there is no item.
        """
        x = embed(self.encoder, support.x)
        label = F.one_hot(support.y, self.problem.n_outputs).to(x.dtype)
        real = support.weights > 0
        unit = F.normalize(x, dim=-1)
        near = unit @ unit.mT
        known = torch.zeros_like(real)
        state = memory = x.new_zeros(len(x), self.size)
        log_policy, value, fast = [], [], []
        for _ in range(min(self.budget, support.n)):
            hidden = real & ~known
            score = self._score(state, unit, near, known, hidden).masked_fill(~hidden, NEVER * 1e3)
            new = F.one_hot(choose(score), support.n).bool() & hidden  # none where all is known
            log_policy.append((score.log_softmax(1) * new).sum(1))
            value.append(self.baseline(state.detach()).squeeze(-1) * hidden.any(1))
            known = known | new
            item = (torch.cat([x, label], -1) * new.unsqueeze(-1)).sum(1)
            after = self.controller(self.read(item), (state, memory))
            more = new.any(1, keepdim=True)
            state, memory = after[0].where(more, state), after[1].where(more, memory)
            left = (real & ~known).to(x.dtype)
            log_p = (self._votes(near, known, label, state, 0) * label).sum(-1)
            fast.append((log_p * left).sum(1) / left.sum(1).clamp_min(1))
        columns = (torch.stack(steps, 1) for steps in (log_policy, value, fast))
        return Reading(x, label, known, state, *columns)

    def _score(self, state: Tensor, unit: Tensor, near: Tensor, known: Tensor, hidden: Tensor) -> Tensor:
        """How much each item's label is wanted. Shape: ``state [T, s]``, all else ``[T, n, ...]``; gives ``[T, n]``."""
        itself = torch.eye(near.shape[1], dtype=torch.bool, device=near.device)
        wanted = F.normalize(self.wanted(state), dim=-1)
        parts = [*_spread(near, known), *_spread(near, hidden.unsqueeze(1) & ~itself)]
        facts = torch.stack([*parts, (unit @ wanted.unsqueeze(-1)).squeeze(-1)], -1)
        w = hidden.to(near.dtype).unsqueeze(-1)
        count = w.sum(1, keepdim=True).clamp_min(1)
        facts = facts - (facts * w).sum(1, keepdim=True) / count
        facts = facts / ((facts.square() * w).sum(1, keepdim=True) / count + 1e-4).sqrt()
        score: Tensor = self.score(torch.sigmoid(self.gate(state)).unsqueeze(1) * facts).squeeze(-1)
        return score

    def _votes(self, near: Tensor, known: Tensor, label: Tensor, state: Tensor, which: int) -> Tensor:
        """Log-probabilities, of a fast (0) or slow (1) prediction. Shape: cosines ``[T, m, n]`` to ``[T, m, N]``."""
        sharp = self.sharpen(state)[:, which].exp().view(-1, 1, 1)
        attention = (sharp * near).masked_fill(~known.unsqueeze(1), NEVER * 1e3).softmax(-1) * known.unsqueeze(1)
        return ((1 - self.uniform) * attention @ label + self.uniform / self.problem.n_outputs).log()

    def _predictor(self, reading: Reading) -> Predictor:
        """The slow prediction."""
        unit, known = F.normalize(reading.x, dim=-1), reading.known

        def predict(x: Tensor) -> Tensor:
            asked = embed(self.encoder, x)
            flat = h = asked.flatten(0, 1)
            c = self.recall(reading.state).repeat_interleave(x.shape[1], 0)
            cosine = lambda h: F.normalize(h, dim=-1).view_as(asked) @ unit.mT  # noqa: E731
            for _ in range(self.steps):
                sharp = self.sharpen(reading.state)[:, 1].exp().view(-1, 1, 1)
                score = (sharp * cosine(h)).masked_fill(~known.unsqueeze(1), NEVER * 1e3)
                seen = (score.softmax(-1) * known.unsqueeze(1)) @ reading.x
                out, c = self.attend(torch.cat([flat, seen.flatten(0, 1)], -1), (h, c))
                h = out + flat
            return self._votes(cosine(h), known, reading.label, reading.state, 1)

        return predict

    def _sampler(self) -> Choose:
        """Draws items in proportion to their probability (the largest score with Gumbel noise), anew in every step."""
        self.draws += 1
        generator = torch.Generator().manual_seed(int(self.draws))

        def choose(score: Tensor) -> Tensor:
            u = torch.rand(score.shape, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
            return (score + -(-u.log()).log().to(score)).argmax(1)

        return choose


def advantages(reward: Tensor, value: Tensor, trace: float) -> Tensor:
    """Generalised advantages without discount, :math:`A_t = d_t + lambda A_{t+1}`. Shape: ``[T, steps]`` each."""
    after = F.pad(value[:, 1:], (0, 1))
    surprise = reward + after - value
    found = [surprise[:, -1]]
    for t in reversed(range(reward.shape[1] - 1)):
        found.append(surprise[:, t] + trace * found[-1])
    return torch.stack(found[::-1], 1)


def _spread(near: Tensor, of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest, mean and smallest similarity to some of the items; 0 where there are none.

    Shape:
        ``near [T, n, n]``, ``of`` bool ``[T, n]`` or ``[T, n, n]``; gives ``[T, n]`` each.
    """
    of = of.unsqueeze(1) if of.ndim == 2 else of
    some = of.any(-1)
    mean = (near * of).sum(-1) / of.sum(-1).clamp_min(1)
    large = near.masked_fill(~of, -2.0).amax(-1).where(some, 0.0)
    small = near.masked_fill(~of, 2.0).amin(-1).where(some, 0.0)
    return large, mean, small
