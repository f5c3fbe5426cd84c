"""Domain randomisation: physics drawn from ranges, which are given or grow as the policy copes with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core import Environment, InputError, Problem
from quickstudy.tasks.acting import uniform


@dataclass(frozen=True)
class RandomPhysics:
    r"""The same environment, its physics multiplied: each quantity by :math:`e^{u}`, u uniform in a range of its own.

    The policy does not see the physics. With a policy that remembers, this is meta-learning over simulators; with one
    that does not, it learns to be robust to all of them.

    Args:
        environment: tasks are positive quantities, ``[T, q]``.
        low: least u of each quantity.
        high: largest u; where it equals ``low``, the quantity stays as it is.

    Raises:
        InputError: ranges of other lengths than the environment has quantities, or ends in the wrong order.

    Reference:
        Tobin et al. 2017, Domain randomization for transferring deep neural networks from simulation to the real
        world, arXiv:1703.06907; Peng et al. 2018, Sim-to-real transfer of robotic control with dynamics randomization,
        arXiv:1710.06537 (dynamics, memory).
    """

    environment: Environment
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        check_ends(self.environment, self.low, self.high)

    @property
    def problem(self) -> Problem:
        """As it was."""
        return self.environment.problem

    @property
    def horizon(self) -> int:
        """As it was."""
        return self.environment.horizon

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N physics."""
        tasks = self.environment.sample(n, generator)
        low, high = (torch.tensor(end, device=tasks.device) for end in (self.low, self.high))
        return tasks * uniform(low, high, (n, len(self.low)), generator).exp()

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As it was."""
        return self.environment.reset(tasks, generator)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As it was."""
        return self.environment.step(state, action, tasks, generator)


class AdaptiveRanges:
    r"""Automatic domain randomisation: ranges that start at a point and grow where the policy copes with their ends.

    A share of the tasks has one quantity at an end of its range. What the policy earns there is kept for each end; when
    ``needed`` trials are there, their mean decides and they are forgotten:

    .. math::
        \bar p \ge t_H: \; \phi \leftarrow \phi \pm \Delta \text{ (wider)}, \qquad
        \bar p \le t_L: \; \phi \leftarrow \phi \mp \Delta \text{ (narrower)}

    (algorithm 1 of the paper). Ranges are of :math:`u`, by whose exponential a quantity is multiplied, so that twice
    and half are equally far away.

    Steps and resets are pure; what is drawn hangs on how policies fared. So it has a state, which belongs to the run:
    :meth:`state` and :meth:`restore`. It watches the steps of the tasks drawn last, and what they earned counts when
    the next tasks are drawn, so loops need not know of it.

    Args:
        environment: tasks are positive quantities, ``[T, q]``.
        moves: which quantities have ranges; the others stay as they are.
        thresholds: :math:`t_L` and :math:`t_H`, in total reward of an episode.
        delta: how far an end moves.
        share: of the tasks that are drawn at an end.
        needed: trials at an end before it is judged.
        most: no end is farther than this from the start.

    Raises:
        InputError: settings that make no sense.

    Reference:
        OpenAI 2019, Solving Rubik's cube with a robot hand, section 5, arXiv:1910.07113. Departs from it: ends are
        moved by a factor; tasks at an end are trained on like all others, as the paper's are, but judged by the
        exploring policy's own episodes.
    """

    def __init__(
        self,
        environment: Environment,
        moves: Sequence[int],
        thresholds: tuple[float, float],
        *,
        delta: float = 0.15,
        share: float = 0.5,
        needed: int = 8,
        most: float = math.log(8),
    ) -> None:
        example = environment.sample(1, torch.Generator().manual_seed(0))
        self.quantities, self.moves = example.shape[1], list(moves)
        wrong = [i for i in self.moves if not 0 <= i < self.quantities]
        if wrong or not self.moves or len({*self.moves}) < len(self.moves):
            raise InputError(
                f"Expected different quantities from 0 to {self.quantities - 1} to move. Found {self.moves}."
            )
        if not thresholds[0] < thresholds[1] or delta <= 0 or not 0 < share <= 1 or needed < 1 or most < delta:
            raise InputError(
                "Expected thresholds (low, high) in this order, a delta above 0 and at most `most`, a share in (0, 1] "
                f"and at least 1 trial. Found {thresholds}, {delta}, {most}, {share} and {needed}."
            )
        self.environment, self.thresholds, self.delta = environment, thresholds, delta
        self.share, self.needed, self.most = share, needed, most
        # ends as [q, 2]: how far down, how far up, both as distances from the start
        self.reach = torch.zeros(self.quantities, 2)
        self.kept = [[[0.0, 0.0] for _ in range(2)] for _ in range(self.quantities)]  # sum and number of trials
        self.at: Tensor | None = None  # at which end each task that was drawn last is; -1 at none
        self.forget()

    @property
    def problem(self) -> Problem:
        """As it was."""
        return self.environment.problem

    @property
    def horizon(self) -> int:
        """As it was."""
        return self.environment.horizon

    @property
    def low(self) -> tuple[float, ...]:
        """The least u of each quantity at present."""
        return tuple((-self.reach[:, 0]).tolist())

    @property
    def high(self) -> tuple[float, ...]:
        """The largest u of each quantity at present."""
        return tuple(self.reach[:, 1].tolist())

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N physics from the ranges as they are now, after what the last ones earned was counted."""
        self.judge()
        tasks = self.environment.sample(n, generator)
        device = tasks.device
        reach = self.reach.to(device)
        u = uniform(-reach[:, 0], reach[:, 1], (n, self.quantities), generator)
        which = torch.tensor(self.moves, device=device)[
            torch.randint(len(self.moves), (n,), generator=generator, device=device)
        ]
        side = torch.randint(2, (n,), generator=generator, device=device)
        chosen = torch.rand(n, generator=generator, device=device) < self.share
        end = (2 * side - 1) * reach[which, side]
        u = u.scatter(1, which.unsqueeze(1), end.where(chosen, u.gather(1, which.unsqueeze(1)).squeeze(1)).unsqueeze(1))
        self.at = torch.where(chosen, 2 * which + side, -1)
        self.earned, self.going = u.new_zeros(n), torch.ones(n, dtype=torch.bool, device=device)
        self.begun = False
        return tasks * u.exp()

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As it was."""
        return self.environment.reset(tasks, generator)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As it was; the first episode's reward is noted."""
        result = self.environment.step(state, action, tasks, generator)
        if self.at is not None and len(self.at) == len(tasks):
            _, _, reward, terminated, truncated = result
            self.earned = self.earned + reward.where(self.going, 0)
            self.going, self.begun = self.going & ~(terminated | truncated), True
        return result

    def judge(self) -> None:
        """Count what the tasks drawn last earned at ends, and move ends that have been tried often enough.

        Episodes that are still going on count as far as they got.
        """
        if self.at is None or not self.begun:
            return
        for end, earned in zip(self.at.tolist(), self.earned.tolist(), strict=True):
            if end >= 0:
                cell = self.kept[end // 2][end % 2]
                cell[0], cell[1] = cell[0] + earned, cell[1] + 1
        for i in self.moves:
            for side in range(2):
                total, trials = self.kept[i][side]
                if trials < self.needed:
                    continue
                mean, far = total / trials, float(self.reach[i, side])
                far += self.delta * ((mean >= self.thresholds[1]) - (mean <= self.thresholds[0]))
                self.reach[i, side] = min(max(far, 0.0), self.most)
                self.kept[i][side] = [0.0, 0.0]
        self.forget()

    def forget(self) -> None:
        """Nothing is being watched."""
        self.at = None
        self.earned, self.going, self.begun = torch.zeros(0), torch.zeros(0, dtype=torch.bool), False

    def fixed(self) -> RandomPhysics:
        """The ranges as they are now, for good."""
        return RandomPhysics(self.environment, self.low, self.high)

    def state(self) -> dict[str, Tensor]:
        """Ranges and what is kept of trials, to be saved. Trials that are going on are not in it."""
        return {"reach": self.reach.clone(), "kept": torch.tensor(self.kept)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave."""
        self.reach, self.kept = state["reach"].clone(), state["kept"].tolist()
        self.forget()


def check_ends(environment: Environment, low: tuple[float, ...], high: tuple[float, ...]) -> None:
    """Refuse ranges that do not fit.

    Raises:
        InputError: says what they should be.
    """
    quantities = environment.sample(1, torch.Generator().manual_seed(0)).shape[1]
    if len(low) != quantities or len(high) != quantities or any(a > b for a, b in zip(low, high, strict=True)):
        raise InputError(
            f"Expected low and high ends of {quantities} ranges, low <= high. Found {low} and {high}. Give (0, 0) for "
            "what stays as it is."
        )
