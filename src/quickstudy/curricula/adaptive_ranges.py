"""Automatic domain randomisation: ranges of physics that grow as the policy copes with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quickstudy.core import Environment, InputError
from quickstudy.curricula.taught import Curriculum
from quickstudy.tasks.acting import uniform
from quickstudy.tasks.randomisation import RandomPhysics

NEAR = 1e-4  # how close to an end is at it, in u: rounding, not chance


class AdaptiveRanges(Curriculum):
    r"""Ranges that start at a point and grow where the policy copes with their ends.

    A quantity is its usual value times :math:`e^u`, u uniform between two ends, so that twice and half are equally far
    away. A share of the tasks has one quantity at an end. What episodes there earn is kept for each end; when
    ``needed`` are there, their mean decides and they are forgotten:

    .. math::
        \bar p \ge t_H: \; \phi \leftarrow \phi \pm \Delta \text{ (wider)}, \qquad
        \bar p \le t_L: \; \phi \leftarrow \phi \mp \Delta \text{ (narrower)}

    (algorithm 1 of the paper).

    Args:
        usual: the quantities to start from, positive.
        moves: which of them have ranges; the others stay as they are.
        thresholds: :math:`t_L` and :math:`t_H`, in total reward of an episode.
        delta: how far an end moves.
        share: of the tasks that are drawn at an end.
        needed: episodes at an end before it is judged.
        most: no end is farther than this from the start.

    Shape:
        usual ``[q]``, tasks ``[n, q]``.

    Raises:
        InputError: settings that make no sense.

    Reference:
        OpenAI 2019, Solving Rubik's cube with a robot hand, section 5, arXiv:1910.07113. Departs from it: ends are
        moved by a factor; tasks at an end are judged by the exploring policy's own episodes.
    """

    usual: Tensor
    reach: Tensor  # how far down and how far up, both as distances from the start, [q, 2]
    total: Tensor  # what was earned at each end, and in how many episodes
    episodes: Tensor

    def __init__(
        self,
        usual: Tensor,
        moves: Sequence[int],
        thresholds: tuple[float, float],
        *,
        delta: float = 0.15,
        share: float = 0.5,
        needed: int = 8,
        most: float = math.log(8),
    ) -> None:
        super().__init__()
        if usual.ndim != 1 or not bool((usual > 0).all()):
            raise InputError(f"Expected usual quantities, [q], all above 0. Found {usual.tolist()}.")
        wrong = [i for i in moves if not 0 <= i < len(usual)]
        if wrong or not moves or len({*moves}) < len(moves):
            raise InputError(f"Expected different quantities from 0 to {len(usual) - 1} to move. Found {list(moves)}.")
        if not thresholds[0] < thresholds[1] or delta <= 0 or not 0 < share <= 1 or needed < 1 or most < delta:
            raise InputError(
                "Expected thresholds (low, high) in this order, a delta above 0 and at most `most`, a share in (0, 1] "
                f"and at least 1 episode. Found {thresholds}, {delta}, {most}, {share} and {needed}."
            )
        self.moves, self.thresholds, self.delta = list(moves), thresholds, delta
        self.share, self.needed, self.most = share, needed, most
        self.register_buffer("usual", usual.clone())
        for name in ("reach", "total", "episodes"):
            self.register_buffer(name, torch.zeros(len(usual), 2))

    @property
    def low(self) -> tuple[float, ...]:
        """The least u of each quantity at present."""
        return tuple((-self.reach[:, 0]).tolist())

    @property
    def high(self) -> tuple[float, ...]:
        """The largest u of each quantity at present."""
        return tuple(self.reach[:, 1].tolist())

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N physics from the ranges as they are now."""
        device = self.usual.device
        u = uniform(-self.reach[:, 0], self.reach[:, 1], (n, len(self.usual)), generator)
        draw = lambda high: torch.randint(high, (n,), generator=generator, device=device)  # noqa: E731
        which, side = torch.tensor(self.moves, device=device)[draw(len(self.moves))], draw(2)
        chosen = torch.rand(n, generator=generator, device=device) < self.share
        row = torch.arange(n, device=device)
        u[row, which] = ((2 * side - 1) * self.reach[which, side]).where(chosen, u[row, which])
        return self.usual * u.exp()

    def met(self, tasks: Tensor, returns: Tensor, last: Tensor, generator: torch.Generator) -> None:
        """Count what was earned at ends, and move those that have been tried often enough."""
        u = (tasks / self.usual).log()
        ends = torch.stack([-self.reach[:, 0], self.reach[:, 1]], 1)
        at = ((u.unsqueeze(2) - ends).abs() < NEAR).to(returns.dtype)  # [n, q, 2]; a range of one point has both ends
        still = torch.ones(len(self.usual), dtype=torch.bool, device=u.device)
        still[self.moves] = False
        at[:, still] = 0
        self.total += (at * returns.view(-1, 1, 1)).sum(0)
        self.episodes += at.sum(0)
        judged = self.episodes >= self.needed
        mean = self.total / self.episodes.clamp_min(1)
        step = self.delta * ((mean >= self.thresholds[1]).float() - (mean <= self.thresholds[0]).float())
        self.reach = (self.reach + step).clamp(0, self.most).where(judged, self.reach)
        self.total, self.episodes = (kept.masked_fill(judged, 0.0) for kept in (self.total, self.episodes))

    def fixed(self, environment: Environment) -> RandomPhysics:
        """An environment with the ranges as they are now, for good."""
        return RandomPhysics(environment, self.low, self.high)
