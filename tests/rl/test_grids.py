"""Mazes: walls hold, and shortest paths, value iteration and acting give the same optimum."""

from __future__ import annotations

import pytest
import torch

from quickstudy.core import InputError
from quickstudy.tasks.acting import at_random
from quickstudy.tasks.grids import FOUR_ROOMS, TWO_PASSAGES, U_MAZE, Layout, Maze, grid_navigation, open_grid
from quickstudy.tasks.tabular import backward_induction, value_iteration
from quickstudy.training.fit_rl import collect

LAYOUTS = {"u": U_MAZE, "rooms": FOUR_ROOMS, "passages": TWO_PASSAGES, "open": open_grid(4, 3)}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_walls_and_edges_hold() -> None:
    maze = Maze(U_MAZE, start=(0, 0))
    tasks = maze.sample(5, generator(0))
    state, _ = maze.reset(tasks, generator(0))
    state, _, _, _, _ = maze.step(state, torch.arange(5), tasks, generator(0))
    # stay, up (edge), down (wall), left (edge), right
    assert state[:, 0].tolist() == [0, 0, 0, 0, maze.index((0, 1))] and state[:, 1].tolist() == [1] * 5


def test_the_way_around_the_u_is_the_one_counted_by_hand() -> None:
    maze = Maze(U_MAZE, start=(0, 0), goals_at=((2, 0),))
    tasks = maze.sample(1, generator(0))
    state, _ = maze.reset(tasks, generator(0))
    assert maze.distance(state, tasks).tolist() == [10]  # 4 right, 2 down, 4 left
    assert maze.optimal_return(state, tasks).tolist() == [-9]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_shortest_paths_are_what_value_iteration_finds(layout: Layout) -> None:
    maze = Maze(layout)
    tasks = torch.eye(maze.n_cells)  # every goal
    q = value_iteration(*maze.model(tasks.double()), 1.0)
    for cell in range(maze.n_cells):
        state = torch.tensor([[cell, 0]]).expand(maze.n_cells, -1)
        torch.testing.assert_close(q[:, cell].amax(-1), maze.optimal_return(state, tasks.double()))


def test_with_a_goal_that_does_not_end_it_the_optimum_is_backward_inductions() -> None:
    maze = Maze(open_grid(3, 3), length=3, elsewhere=-0.1, at_goal=1.0, ends=False)
    tasks = torch.eye(9).double()
    q = backward_induction(*maze.model(tasks), 3)[:, 0].amax(-1)
    for cell in range(9):
        state = torch.tensor([[cell, 0]]).expand(9, -1)  # some goals are too far for three steps
        torch.testing.assert_close(q[:, cell], maze.optimal_return(state, tasks))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_oracle_gets_the_optimum(layout: Layout) -> None:
    maze = Maze(layout)
    tasks = maze.sample(200, generator(0))
    state, _ = maze.reset(tasks, generator(1))  # the start that collect draws as well
    trial = collect(maze, maze.oracle(tasks), tasks, generator(1))
    first = (trial.done.cumsum(1) - trial.done == 0).float()  # the first episode of the trial
    assert torch.equal((trial.reward * first).sum(1), maze.optimal_return(state, tasks))


def test_grid_navigation_pays_an_agent_that_knows_the_goal_what_was_published() -> None:
    maze = grid_navigation()
    tasks = torch.eye(25)[[maze.index(cell) for cell in maze.goals_at or ()]]
    assert len(tasks) == 21 and maze.problem.x_shape == (25,)
    trial = collect(maze, maze.oracle(tasks), tasks, generator(0))
    assert float(trial.reward.sum(1).mean()) == pytest.approx(44.3, abs=0.05)
    assert trial.done.sum(1).tolist() == [4.0] * 21


def test_a_relabelled_step_is_the_environments_own_with_that_goal() -> None:
    maze = Maze(FOUR_ROOMS, length=20)
    tasks = maze.sample(50, generator(0))
    state, seen = maze.reset(tasks, generator(1))
    action = torch.randint(5, (50,), generator=generator(2))
    _, after, _, _, _ = maze.step(state, action, tasks, generator(3))
    for goal in (maze.goals(after)[0], maze.goals(seen)[0], maze.sample(50, generator(4))):
        reward, terminated = maze.outcome(maze.goals(after)[0], goal)
        _, again, expected, ended, _ = maze.step(state, action, goal, generator(3))
        assert torch.equal(reward, expected) and torch.equal(terminated, ended)
        assert torch.equal(maze.relabel(after, goal), again)


def test_time_cuts_off_and_the_goal_ends_and_never_both() -> None:
    maze = Maze(U_MAZE, length=4)
    tasks = maze.sample(400, generator(0))
    state, _ = maze.reset(tasks, generator(1))
    policy, live = at_random(maze.problem), torch.ones(400, dtype=torch.bool)
    for time in range(1, 5):
        action, _, _ = policy.act(torch.zeros(400, 1), torch.zeros(400, 0), generator(time))
        state, _, reward, terminated, truncated = maze.step(state, action, tasks, generator(0))
        assert torch.equal(terminated, state[:, 0] == tasks.argmax(1)) and torch.equal(reward, terminated.float() - 1)
        assert torch.equal(truncated, ~terminated if time == 4 else torch.zeros_like(terminated))
        live &= ~terminated
    assert 0 < int(live.sum()) < 400


def test_bad_mazes_are_refused() -> None:
    with pytest.raises(InputError, match="all connected"):
        Maze((".#.",))
    with pytest.raises(InputError, match=r"rows of '\.' and '#'"):
        Maze(("..", "."))
    with pytest.raises(InputError, match=r"Expected a free cell.*Found \(1, 0\)"):
        Maze(U_MAZE, start=(1, 0))
