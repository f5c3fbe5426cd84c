"""Point robots in the plane: navigation, a sparse semicircle, goals in conflict, a maze. Optima in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from quickstudy.core import InputError, Problem
from quickstudy.tasks.acting import Rule, check_action, uniform
from quickstudy.tasks.grids import U_MAZE, Layout, geometry

SPEED = 0.1  # a step moves each coordinate by at most this


@dataclass(frozen=True)
class PointRobot:
    r"""Start at the origin and go to a goal: a step moves each coordinate by at most 0.1.

    The reward follows the distance :math:`d` after the step: :math:`-d`, or, where it is sparse, :math:`1 - d` within
    ``radius`` and 0 elsewhere. The task is the goal: uniform in the square :math:`[-0.5, 0.5]^2`, or on the upper half
    of the unit circle. The episode is cut off after ``length`` steps.

    Args:
        goals_in: where goals are drawn.
        radius: None rewards distance; a number rewards only within it (sparse).
        length: steps of an episode.
        episodes: episodes of a trial.
        ends_within: distance at which the episode ends (terminated); None never ends it.
        shows_goal: whether the goal is seen.

    Shape:
        tasks ``[T, 2]``, state ``[T, 3]`` (position, steps so far), observation ``[T, 2]``, or ``[T, 4]`` with the
        goal behind; action ``[T, 2]``; goals of relabelling ``[..., 2]``.

    Reference:
        Finn et al. 2017, section 5.3, arXiv:1703.03400 (square, 100 steps); Rakelly et al. 2019, PEARL, section 6.3,
        arXiv:1903.08254 (semicircle, 20 steps).
    """

    goals_in: Literal["square", "semicircle"] = "square"
    radius: float | None = None
    length: int = 100
    episodes: int = 1
    ends_within: float | None = None
    shows_goal: bool = False

    def __post_init__(self) -> None:
        bad = [name for name in ("radius", "ends_within") if (getattr(self, name) or 1) <= 0]
        if bad or min(self.length, self.episodes) < 1 or self.goals_in not in ("square", "semicircle"):
            raise InputError(
                "Expected goals in 'square' or 'semicircle', distances above 0, and at least 1 step and 1 episode. "
                f"Found {self}."
            )

    @property
    def problem(self) -> Problem:
        """Where one is, perhaps the goal; how to move."""
        return Problem((2 + 2 * self.shows_goal,), "regression", 2)

    @property
    def horizon(self) -> int:
        """All episodes of a trial."""
        return self.length * self.episodes

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N goals."""
        if self.goals_in == "square":
            return uniform(-0.5, 0.5, (n, 2), generator)
        angle = uniform(0, math.pi, (n,), generator)
        return torch.stack([angle.cos(), angle.sin()], 1)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Every task at the origin."""
        state = tasks.new_zeros(len(tasks), 3)
        return state, self.see(state, tasks)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One move of every task."""
        check_action(self.problem, action)
        state = torch.cat([state[:, :2] + SPEED * action.clamp(-1, 1), state[:, 2:] + 1], 1)
        reward, terminated = self.outcome(state[:, :2], tasks)
        truncated = (state[:, 2] >= self.length) & ~terminated
        return state, self.see(state, tasks), reward, terminated, truncated

    def see(self, state: Tensor, tasks: Tensor) -> Tensor:
        """Position, with the goal behind where it is shown."""
        return torch.cat([state[:, :2], tasks], 1) if self.shows_goal else state[:, :2]

    def goals(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Where one is, and where one is to be."""
        return observation[..., :2], observation[..., 2:]

    def relabel(self, observation: Tensor, goal: Tensor) -> Tensor:
        """The same place, with another goal."""
        return torch.cat([observation[..., :2], goal], -1) if self.shows_goal else observation

    def outcome(self, achieved: Tensor, desired: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and end of a step that led to ``achieved``."""
        far = (achieved - desired).norm(dim=-1)
        reward = -far if self.radius is None else (1 - far).where(far <= self.radius, 0)
        ended = torch.zeros_like(far, dtype=torch.bool) if self.ends_within is None else far <= self.ends_within
        return reward, ended

    def optimal_return(self, tasks: Tensor) -> Tensor:
        """The best total reward of an episode, exactly. Shape: ``[T]``.

        Going straight is the nearest that one can be at every time, in both coordinates at once; every reward here
        only grows with nearness.
        """
        steps = torch.arange(1, self.length + 1, device=tasks.device)
        rest = (tasks.abs().unsqueeze(1) - SPEED * steps.view(1, -1, 1)).clamp_min(0)
        reward, ended = self.outcome(rest, torch.zeros_like(rest))
        return (reward * (ended.cumsum(1) - ended.long() == 0)).sum(1)

    def oracle(self, tasks: Tensor) -> Rule:
        """Goes straight to the goal and stays."""
        return Rule(lambda seen, generator: ((tasks - seen[:, :2]) / SPEED).clamp(-1, 1))


@dataclass(frozen=True)
class ConflictingGoals:
    """K known tasks that look alike: the same start, goals all around it, every other robot mirrored.

    Goals stand evenly on the unit circle. What is best in one task is worst in the opposite one at the same
    observation, and where a robot is mirrored (gain -1) the same push moves it the other way. So a policy that does
    not see the task can do no better than stay. Rewards ``-d * scale`` grow from the first task to the last by a
    factor of ``scales``, so that a loss summed over tasks hears the last ones only.

    Args:
        tasks: K, an even number.
        scales: the largest reward scale; the smallest is 1.
        mirrored: whether every other task's robot is mirrored.
        length: steps of an episode; 10 are enough.

    Shape:
        tasks ``[T, 4]`` (goal, gain, scale), state ``[T, 3]`` (position, steps so far), observation ``[T, 2]``, action
        ``[T, 2]``. :meth:`known` lists the tasks; a task's id is its row there.
    """

    tasks: int = 10
    scales: float = 100.0
    mirrored: bool = True
    length: int = 20

    def __post_init__(self) -> None:
        if self.tasks < 2 or self.tasks % 2 or self.scales < 1 or self.length < 1:
            raise InputError(f"Expected an even number of tasks, scales of 1 or more, and a step. Found {self}.")

    @property
    def problem(self) -> Problem:
        """Where one is, how to move."""
        return Problem((2,), "regression", 2, n_tasks=self.tasks)

    @property
    def horizon(self) -> int:
        """One episode."""
        return self.length

    def known(self, device: torch.device | str = "cpu") -> Tensor:
        """All tasks, in the order of their ids. Shape: ``[K, 4]``."""
        i = torch.arange(self.tasks, device=device)
        angle = 2 * math.pi * i / self.tasks
        # pairs of opposite goals have the same gain, or mirroring would undo their conflict
        gain = 1 - 2.0 * (i % (self.tasks // 2) % 2) * self.mirrored
        return torch.stack([angle.cos(), angle.sin(), gain, self.scales ** (i / (self.tasks - 1))], 1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Any of the known tasks."""
        known = self.known(generator.device)
        return known[torch.randint(self.tasks, (n,), generator=generator, device=generator.device)]

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Every task at the origin."""
        state = tasks.new_zeros(len(tasks), 3)
        return state, state[:, :2]

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One move of every task."""
        check_action(self.problem, action)
        place = state[:, :2] + SPEED * tasks[:, 2:3] * action.clamp(-1, 1)
        reward = -(place - tasks[:, :2]).norm(dim=1) * tasks[:, 3]
        state = torch.cat([place, state[:, 2:] + 1], 1)
        truncated = state[:, 2] >= self.length
        return state, place, reward, torch.zeros_like(truncated), truncated

    def success(self, observation: Tensor, tasks: Tensor, within: float = 0.1) -> Tensor:
        """Whether one is at the goal; ask after the last step. Shape: ``[T]``, bool."""
        return (observation - tasks[:, :2]).norm(dim=-1) <= within

    def optimal_return(self, tasks: Tensor) -> Tensor:
        """The best total reward of an episode, exactly. Shape: ``[T]``."""
        return PointRobot(length=self.length).optimal_return(tasks[:, :2]) * tasks[:, 3]

    def oracle(self, tasks: Tensor) -> Rule:
        """Goes straight to the goal and stays."""
        return Rule(lambda seen, generator: ((tasks[:, :2] - seen) / SPEED * tasks[:, 2:3]).clamp(-1, 1))


@dataclass(frozen=True)
class PointMaze:
    """A point among walls, with a goal to reach: cells are 1 wide, a step moves each coordinate by at most 0.25.

    A coordinate whose move would end in a wall stays, the other moves (first across columns, then across rows).
    A step earns 0 within ``within`` of the goal, which ends the episode, else -1. The task is the goal, uniform over
    the free area; goals of a curriculum may lie anywhere, in walls as well, where nobody can get.

    Args:
        layout: rows of ``.`` (free) and ``#`` (wall).
        start: the cell in whose middle episodes begin, (row, column); None draws a free place.
        within: what counts as reached.
        length: steps after which an episode is cut off.

    Shape:
        tasks ``[T, 2]`` (x along columns, y along rows, in cells from the corner), state ``[T, 3]`` (place, steps so
        far), observation ``[T, 4]`` (place, goal), action ``[T, 2]``; goals of relabelling ``[..., 2]``.
    """

    layout: Layout = U_MAZE
    start: tuple[int, int] | None = (0, 0)
    within: float = 0.3
    length: int = 80

    SPEED = 0.25

    def __post_init__(self) -> None:
        if len(set(map(len, self.layout))) != 1 or set("".join(self.layout)) - set(".#") or not self.free("cpu").any():
            raise InputError(f"Expected rows of '.' and '#', all equally long, some free. Found {self.layout}.")
        rows, columns = len(self.layout), len(self.layout[0])
        inside = self.start is None or (0 <= self.start[0] < rows and 0 <= self.start[1] < columns)
        if self.start is not None and not (inside and self.layout[self.start[0]][self.start[1]] == "."):
            raise InputError(f"Expected a free cell (row, column) to start from. Found {self.start}.")
        if self.within <= 0 or self.length < 1:
            raise InputError(f"Expected a distance above 0 and at least 1 step. Found {self.within}, {self.length}.")

    @property
    def problem(self) -> Problem:
        """Place and goal; how to move."""
        return Problem((4,), "regression", 2)

    @property
    def horizon(self) -> int:
        """One episode of full length."""
        return self.length

    def free(self, device: torch.device | str) -> Tensor:
        """Which cells are free. Shape: ``[rows, columns]``, bool."""
        return free_cells(self.layout, torch.device(device))

    def somewhere(self, n: int, generator: torch.Generator) -> Tensor:
        """Uniform over the free area. Shape: ``[n, 2]``."""
        cells = self.free(generator.device).nonzero()
        cell = cells[torch.randint(len(cells), (n,), generator=generator, device=generator.device)]
        return cell.flip(1) + uniform(0, 1, (n, 2), generator)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N goals that can be reached."""
        return self.somewhere(n, generator)

    def feasible(self, goals: Tensor) -> Tensor:
        """Whether a goal lies in a free cell. Shape: ``[..., 2]`` to ``[...]``, bool."""
        return self.is_free(goals[..., 0], goals[..., 1])

    def is_free(self, x: Tensor, y: Tensor) -> Tensor:
        """Whether places are inside and in no wall."""
        free = self.free(x.device)
        row, column = y.floor().long(), x.floor().long()
        inside = (row >= 0) & (row < free.shape[0]) & (column >= 0) & (column < free.shape[1])
        return inside & free[row.clamp(0, free.shape[0] - 1), column.clamp(0, free.shape[1] - 1)]

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Every task at the start."""
        if self.start is None:
            place = self.somewhere(len(tasks), generator).to(tasks)
        else:
            place = torch.tensor(self.start[::-1], device=tasks.device).expand(len(tasks), 2).to(tasks) + 0.5
        return torch.cat([place, torch.zeros_like(place[:, :1])], 1), torch.cat([place, tasks], 1)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One move of every task."""
        check_action(self.problem, action)
        x, y, time = state.unbind(1)
        move = self.SPEED * action.clamp(-1, 1)
        across = x + move[:, 0]
        x = across.where(self.is_free(across, y), x)
        along = y + move[:, 1]
        y = along.where(self.is_free(x, along), y)
        state = torch.stack([x, y, time + 1], 1)
        reward, terminated = self.outcome(state[:, :2], tasks)
        truncated = (time + 1 >= self.length) & ~terminated
        return state, torch.cat([state[:, :2], tasks], 1), reward, terminated, truncated

    def goals(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Where one is, and where one is to be."""
        return observation[..., :2], observation[..., 2:]

    def relabel(self, observation: Tensor, goal: Tensor) -> Tensor:
        """The same place, with another goal."""
        return torch.cat([observation[..., :2], goal], -1)

    def outcome(self, achieved: Tensor, desired: Tensor) -> tuple[Tensor, Tensor]:
        """0 and the end near the goal, else -1."""
        reached = (achieved - desired).norm(dim=-1) <= self.within
        return reached.to(achieved.dtype) - 1, reached

    def oracle(self, tasks: Tensor) -> Rule:
        """Walks from middle to middle along a shortest path of cells, then straight to the goal.

        Reaches every goal that can be reached, if not in the fewest steps: the best way cuts corners closer.
        """
        world = geometry(self.layout, tasks.device)
        number = torch.zeros_like(self.free(tasks.device), dtype=torch.long)
        number[world.cell[:, 0], world.cell[:, 1]] = torch.arange(len(world.cell), device=tasks.device)
        cell_of = lambda place: number[place[:, 1].floor().long(), place[:, 0].floor().long()]  # noqa: E731
        goal = cell_of(tasks)

        def rule(observation: Tensor, generator: torch.Generator) -> Tensor:
            place = observation[:, :2]
            here = cell_of(place)
            middle = lambda cell: world.cell[cell].flip(1).to(place.dtype) + 0.5  # noqa: E731
            ahead = world.after[here].gather(1, world.distance[world.after[here], goal.unsqueeze(1)].argmin(1, True))
            # two cells side by side are a rectangle: no wall between a place in one and the middle of the other
            target = tasks.where((here == goal).unsqueeze(1), middle(ahead.squeeze(1)))
            return ((target - place) / self.SPEED).clamp(-1, 1)

        return Rule(rule)


@cache
def free_cells(layout: Layout, device: torch.device) -> Tensor:
    """Made once for each layout and device. Shape: ``[rows, columns]``, bool."""
    return torch.tensor([[kind == "." for kind in row] for row in layout], device=device)
