"""Grids and mazes: go from cell to cell to a goal, around walls; shortest paths are the optimum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from quickstudy.core import InputError, Problem
from quickstudy.tasks.acting import Rule, check_action

Layout = tuple[str, ...]
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # stay, up, down, left, right

U_MAZE: Layout = (
    ".....",
    "####.",
    ".....",
)
FOUR_ROOMS: Layout = (
    ".....#.....",
    ".....#.....",
    "...........",
    ".....#.....",
    ".....#.....",
    "#.####.....",
    ".....###.##",
    ".....#.....",
    ".....#.....",
    "...........",
    ".....#.....",
)
TWO_PASSAGES: Layout = (
    "...#...",
    ".......",
    "...#...",
    "...#...",
    "...#...",
    ".......",
    "...#...",
)


def open_grid(rows: int, columns: int) -> Layout:
    """No walls."""
    return ("." * columns,) * rows


@dataclass(frozen=True)
class Maze:
    """Go to a goal cell. Actions: 0 stay, 1 up, 2 down, 3 left, 4 right; a wall or an edge leaves one where one is.

    A task is its goal, any free cell unless told otherwise. A step that leads to the goal earns ``at_goal``, every
    other ``elsewhere``; the goal ends the episode, unless told otherwise. A trial is ``episodes`` episodes.

    Args:
        layout: rows of ``.`` (free) and ``#`` (wall), all free cells connected.
        start: (row, column) of the start; None draws a free cell anew for every episode.
        goals_at: cells that may be goals; None is all free ones.
        length: steps after which an episode is cut off.
        episodes: episodes of a trial.
        elsewhere: reward of a step that does not lead to the goal.
        at_goal: reward of one that does; not less.
        ends: whether the goal ends the episode (terminated).
        shows_goal: whether the goal is seen. Where not, it must be found.

    Shape:
        S free cells, in reading order. Tasks ``[T, S]`` (one-hot goal), state ``[T, 2]`` (cell, steps so far),
        observation ``[T, S]`` (one-hot) or ``[T, 2 S]`` with the goal behind, action ``[T]``; goals of
        relabelling ``[..., S]``.
    """

    layout: Layout = U_MAZE
    start: tuple[int, int] | None = None
    goals_at: tuple[tuple[int, int], ...] | None = None
    length: int = 50
    episodes: int = 1
    elsewhere: float = -1.0
    at_goal: float = 0.0
    ends: bool = True
    shows_goal: bool = True

    def __post_init__(self) -> None:
        if len(set(map(len, self.layout))) != 1 or set("".join(self.layout)) - set(".#"):
            raise InputError(f"Expected rows of '.' and '#', all equally long. Found {self.layout}.")
        distance = geometry(self.layout, torch.device("cpu")).distance
        if not distance.numel() or bool((distance < 0).any()):
            raise InputError(f"Expected free cells that are all connected. Found {self.layout}. Open a wall.")
        for cell in (*(self.goals_at or ()), *([self.start] if self.start is not None else [])):
            self.index(cell)
        if self.at_goal < self.elsewhere or min(self.length, self.episodes) < 1:
            raise InputError(
                "Expected at_goal >= elsewhere, and at least 1 step and 1 episode. Found "
                f"{self.at_goal}, {self.elsewhere}, {self.length} and {self.episodes}."
            )

    @property
    def n_cells(self) -> int:
        """S, how many cells are free."""
        return "".join(self.layout).count(".")

    @property
    def problem(self) -> Problem:
        """Where one is, perhaps the goal; five moves."""
        return Problem((self.n_cells * (1 + self.shows_goal),), "classification", len(MOVES))

    @property
    def horizon(self) -> int:
        """All episodes of a trial."""
        return self.length * self.episodes

    def index(self, cell: tuple[int, int]) -> int:
        """The number of a free cell.

        Raises:
            InputError: it is a wall or outside.
        """
        row, column = cell
        inside = 0 <= row < len(self.layout) and 0 <= column < len(self.layout[0])
        if not inside or self.layout[row][column] != ".":
            raise InputError(f"Expected a free cell (row, column) of the maze. Found {cell}.")
        return "".join(self.layout)[: row * len(self.layout[0]) + column].count(".")

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N goals."""
        cells = range(self.n_cells) if self.goals_at is None else [self.index(cell) for cell in self.goals_at]
        some = torch.tensor(list(cells), device=generator.device)
        drawn = some[torch.randint(len(some), (n,), generator=generator, device=generator.device)]
        return torch.nn.functional.one_hot(drawn, self.n_cells).to(torch.get_default_dtype())

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Every task at the start."""
        if self.start is None:
            cell = torch.randint(self.n_cells, (len(tasks),), generator=generator, device=tasks.device)
        else:
            cell = torch.full((len(tasks),), self.index(self.start), device=tasks.device)
        return torch.stack([cell, torch.zeros_like(cell)], 1), self.see(cell, tasks)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One move of every task."""
        check_action(self.problem, action)
        cell, time = geometry(self.layout, tasks.device).after[state[:, 0], action], state[:, 1] + 1
        observation = self.see(cell, tasks)
        reward, terminated = self._outcome(tasks.gather(1, cell.unsqueeze(1)).squeeze(1) > 0, tasks.dtype)
        truncated = (time >= self.length) & ~terminated
        return torch.stack([cell, time], 1), observation, reward, terminated, truncated

    def see(self, cell: Tensor, tasks: Tensor) -> Tensor:
        """One-hot, with the goal behind where it is shown."""
        here = tasks.new_zeros(len(tasks), self.problem.x_shape[0]).scatter_(1, cell.unsqueeze(1), 1)
        if self.shows_goal:
            here[:, self.n_cells :] = tasks
        return here

    def goals(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Where one is, and where one is to be."""
        return observation[..., : self.n_cells], observation[..., self.n_cells :]

    def relabel(self, observation: Tensor, goal: Tensor) -> Tensor:
        """The same place, with another goal."""
        return torch.cat([observation[..., : self.n_cells], goal], -1) if self.shows_goal else observation

    def outcome(self, achieved: Tensor, desired: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and end of a step that led to ``achieved``."""
        return self._outcome((achieved * desired).sum(-1) > 0, achieved.dtype)

    def _outcome(self, reached: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        reward = self.elsewhere + (self.at_goal - self.elsewhere) * reached.to(dtype)
        return reward, reached & self.ends

    def distance(self, state: Tensor, tasks: Tensor) -> Tensor:
        """Steps of a shortest path to the goal; none are needed at the goal itself. Shape: ``[T]``."""
        return geometry(self.layout, tasks.device).distance[state[:, 0], tasks.argmax(1)]

    def optimal_return(self, state: Tensor, tasks: Tensor) -> Tensor:
        """The best total reward of an episode that begins in ``state``. Shape: ``[T]``.

        At the goal already, it takes one step that stays there.
        """
        steps = self.distance(state, tasks).clamp_min(1)
        late = steps > self.length
        there = torch.ones_like(steps) if self.ends else self.length - steps + 1
        best = self.elsewhere * (steps - 1) + self.at_goal * there
        return best.to(tasks.dtype).where(~late, self.elsewhere * self.length)

    def model(self, tasks: Tensor) -> tuple[Tensor, Tensor]:
        """What planners read (:mod:`quickstudy.tasks.tabular`): transitions, 0 where the goal ends it; rewards.

        Shape:
            ``[T, S, A, S]`` and ``[T, S, A]``.
        """
        moves = torch.nn.functional.one_hot(geometry(self.layout, tasks.device).after, self.n_cells).to(tasks.dtype)
        reached = torch.einsum("saz,tz->tsa", moves, tasks) > 0
        reward, ended = self._outcome(reached, tasks.dtype)
        return moves * ~ended.unsqueeze(-1), reward

    def oracle(self, tasks: Tensor) -> Rule:
        """Follows a shortest path; waits at the goal."""
        world, goal = geometry(self.layout, tasks.device), tasks.argmax(1)

        def rule(observation: Tensor, generator: torch.Generator) -> Tensor:
            cell = observation[:, : self.n_cells].argmax(1)
            return world.distance[world.after[cell], goal.unsqueeze(1)].argmin(1)

        return Rule(rule)


def grid_navigation(size: int = 5, length: int = 15, episodes: int = 4) -> Maze:
    """An open grid with a goal to find: -0.1 a step, 1 at the goal, where one may stay; four episodes of 15 steps.

    The goal is any cell but the start, a corner, and its three neighbours. An agent that knows it gets 44.3 in
    the mean.

    Reference:
        Zintgraf et al. 2020, VariBAD, section 5.1, arXiv:1910.08348.
    """
    goals = tuple((r, c) for r in range(size) for c in range(size) if max(r, c) > 1)
    return Maze(open_grid(size, size), (0, 0), goals, length, episodes, -0.1, 1.0, ends=False, shows_goal=False)


@dataclass(frozen=True)
class Geometry:
    """Where moves lead, and how far cells are apart.

    Args:
        cell: row and column of each free cell, ``[S, 2]``.
        after: the cell after each move, ``[S, 5]``.
        distance: steps of a shortest path between cells, ``[S, S]``; -1 where there is none.
    """

    cell: Tensor
    after: Tensor
    distance: Tensor


@cache
def geometry(layout: Layout, device: torch.device) -> Geometry:
    """Made once for each layout and device."""
    free = [(r, c) for r, row in enumerate(layout) for c, kind in enumerate(row) if kind == "."]
    number = {cell: i for i, cell in enumerate(free)}
    after = torch.tensor([[number.get((r + dr, c + dc), i) for dr, dc in MOVES] for i, (r, c) in enumerate(free)])
    n = len(free)
    distance, seen = torch.full((n, n), -1), torch.eye(n)  # breadth first from all cells at once
    near = torch.nn.functional.one_hot(after, n).sum(1).clamp(max=1).to(seen) if n else seen
    steps = 0
    while n:
        distance[(seen > 0) & (distance < 0)] = steps
        wider = (seen @ near > 0).to(seen)
        if torch.equal(wider, seen):
            break
        seen, steps = wider, steps + 1
    return Geometry(*(part.to(device) for part in (torch.tensor(free), after, distance)))
