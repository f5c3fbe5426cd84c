"""Point robots: known optima, walls that hold, tasks that conflict unless they are seen, and relabelling."""

from __future__ import annotations

import pytest
import torch

from quickstudy.core import Environment, InputError, RunError
from quickstudy.tasks.acting import Checked, Rule, SeesTask, at_random
from quickstudy.tasks.grids import FOUR_ROOMS
from quickstudy.tasks.point import ConflictingGoals, PointMaze, PointRobot
from quickstudy.training.fit_rl import collect


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def total(environment: Environment, policy: Rule, tasks: torch.Tensor) -> torch.Tensor:
    return collect(environment, policy, tasks, generator(1)).reward.sum(1)


FAMILIES = {
    # what an agent gets that knows the goal, and one that stays; computed independently by others
    "navigation": (PointRobot(), -0.51, -38.4),
    "sparse .2": (PointRobot("semicircle", 0.2, 20), 13.38, 0.0),
    "sparse .8": (PointRobot("semicircle", 0.8, 20), 16.03, 0.0),
    "dense": (PointRobot("semicircle", None, 20), -3.84, -20.0),
}


@pytest.mark.parametrize("family, best, stays", FAMILIES.values(), ids=FAMILIES)
def test_the_optimum_is_the_known_one_and_the_oracle_gets_it(family: PointRobot, best: float, stays: float) -> None:
    tasks = family.sample(20_000, generator(0))
    optimum = family.optimal_return(tasks)
    assert float(optimum.mean()) == pytest.approx(best, abs=0.02)
    torch.testing.assert_close(total(family, family.oracle(tasks), tasks), optimum, atol=1e-4, rtol=1e-4)
    stay = total(family, Rule(lambda seen, _: torch.zeros(len(seen), 2)), tasks)
    assert float(stay.mean()) == pytest.approx(stays, abs=0.3)
    assert bool((total(family, at_random(family.problem), tasks[:500]) <= optimum[:500] + 1e-4).all())


def test_the_goal_ends_it_where_it_should() -> None:
    family = PointRobot(length=8, ends_within=0.05, shows_goal=True)
    tasks = torch.tensor([[0.2, 0.0], [0.5, 0.5]])
    assert family.optimal_return(tasks)[0].item() == pytest.approx(-0.1)
    state, seen = family.reset(tasks, generator(0))
    rule, ends = family.oracle(tasks), []
    for _ in range(8):
        action, _, _ = rule.act(seen, rule.start(2), generator(0))
        state, seen, _, terminated, truncated = family.step(state, action, tasks, generator(0))
        ends.append((terminated.tolist(), truncated.tolist()))
    assert ends[0] == ([False, False], [False, False]) and ends[1] == ([True, False], [False, False])
    assert ends[4] == ([True, True], [False, False]) and ends[7] == ([True, True], [False, False])


def test_conflicting_tasks_oppose_each_other_at_the_same_observation() -> None:
    family = ConflictingGoals()
    tasks = family.known()
    _, seen = family.reset(tasks, generator(0))
    assert bool((seen == seen[0]).all())
    action = family.oracle(tasks).rule(seen, generator(0))
    torch.testing.assert_close(action[:5], -action[5:], atol=1e-5, rtol=0)
    assert tasks[:, 2].unique().tolist() == [-1, 1] and tasks[:, 3].max() == 100
    # the best of one action for all is to stay: any push is undone by the opposite task's
    assert float(action.mean(0).abs().max()) < 1e-5


def test_conflicting_tasks_are_all_solved_once_the_task_is_seen() -> None:
    family = ConflictingGoals()
    tasks = family.known()
    sees = SeesTask(family, tasks[:1])
    assert sees.problem.x_shape == (6,)

    def rule(seen: torch.Tensor, _: torch.Generator) -> torch.Tensor:
        place, goal, gain = seen[:, :2], seen[:, 2:4], seen[:, 4:5]
        return ((goal - place) * gain / 0.1).clamp(-1, 1)

    trial = collect(sees, Rule(rule), tasks, generator(0))
    torch.testing.assert_close(trial.reward.sum(1), family.optimal_return(tasks), atol=1e-3, rtol=1e-4)
    assert bool(family.success(trial.observation[:, -1, :2], tasks).all())
    blind = collect(family, Rule(lambda seen, _: torch.ones(len(seen), 2)), tasks, generator(0))
    assert not bool(family.success(blind.observation[:, -1], tasks).any())


def test_walls_of_a_point_maze_hold() -> None:
    maze = PointMaze(FOUR_ROOMS, start=None)
    tasks = maze.sample(300, generator(0))
    assert bool(maze.feasible(tasks).all())
    trial = collect(maze, at_random(maze.problem), tasks, generator(1))
    place, _ = maze.goals(trial.observation)
    assert bool(maze.feasible(place).all())
    moved = (place[:, 1:] - place[:, :-1]).abs().amax(-1)[trial.done[:, :-1] == 0]
    assert float(moved.max()) <= 0.25 + 1e-5


@pytest.mark.parametrize("maze", [PointMaze(), PointMaze(FOUR_ROOMS, start=None, length=200)], ids=["u", "rooms"])
def test_the_oracle_reaches_every_goal_of_a_point_maze(maze: PointMaze) -> None:
    tasks = maze.sample(300, generator(0))
    trial = collect(maze, maze.oracle(tasks), tasks, generator(1))
    # terminated at the first try: the reward 0 comes before the first time that the episode ends
    first = (trial.done.cumsum(1) - trial.done) == 0
    assert bool(((trial.reward == 0) & first).any(1).all())
    chance = collect(maze, at_random(maze.problem), tasks, generator(1))
    assert float(((chance.reward == 0).any(1)).float().mean()) < 0.8


def test_the_far_end_of_the_u_takes_as_long_as_its_way_is() -> None:
    maze = PointMaze()
    tasks = torch.tensor([[0.5, 2.5]])
    trial = collect(maze, maze.oracle(tasks), tasks, generator(1))
    steps = int(trial.done[0].argmax()) + 1
    assert 33 <= steps <= 39  # ten cells of four steps, less the radius, less a corner cut twice


@pytest.mark.parametrize(
    "family", [PointRobot(radius=0.2, ends_within=0.2, shows_goal=True), PointMaze(start=None)], ids=["robot", "maze"]
)
def test_a_relabelled_step_is_the_environments_own_with_that_goal(family: PointRobot | PointMaze) -> None:
    tasks = family.sample(50, generator(0))
    state, _ = family.reset(tasks, generator(1))
    action = 2 * torch.rand(50, 2, generator=generator(2)) - 1
    _, after, _, _, _ = family.step(state, action, tasks, generator(3))
    for goal in (family.goals(after)[0], family.sample(50, generator(4))):
        reward, terminated = family.outcome(family.goals(after)[0], goal)
        _, again, expected, ended, _ = family.step(state, action, goal, generator(3))
        assert torch.equal(reward, expected) and torch.equal(terminated, ended)
        assert torch.equal(family.relabel(after, goal), again)
    assert bool(family.outcome(family.goals(after)[0], family.goals(after)[0])[1].all())


def test_an_action_beyond_the_bounds_counts_as_the_bound_unless_checked() -> None:
    family = PointRobot()
    tasks = family.sample(2, generator(0))
    state, _ = family.reset(tasks, generator(0))
    action = torch.tensor([[0.5, 0.5], [3.0, 0.0]])
    after, _, _, _, _ = family.step(state, action, tasks, generator(0))
    assert after[1].tolist() == pytest.approx([0.1, 0, 1])
    with pytest.raises(InputError, match=r"in \[-1, 1\]. Found \[3.0, 0.0\] for task 1 at step 1"):
        Checked(family).step(state, action, tasks, generator(0))


def test_a_nan_is_named_with_its_task_and_step() -> None:
    class Breaks(PointRobot):
        def step(
            self, state: torch.Tensor, action: torch.Tensor, tasks: torch.Tensor, generator: torch.Generator
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
            state, seen, reward, *ends = super().step(state, action, tasks, generator)
            return state, seen, reward / (tasks[:, 0] != 0.25) / (state[:, 2] < 3), *ends  # type: ignore[return-value]

    family = Checked(Breaks())
    with pytest.raises(RunError, match=r"reward should be finite. Found -inf for task 1 \(\[0.25, 0.0\]\) at step 1"):
        collect(family, at_random(family.problem), torch.tensor([[0.5, 0.0], [0.25, 0.0]]), generator(0))
    with pytest.raises(RunError, match=r"Found -inf for task 0 .* at step 3"):
        collect(Checked(Breaks()), at_random(family.problem), torch.tensor([[0.5, 0.0]]), generator(0))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="even number of tasks"):
        ConflictingGoals(tasks=3)
    with pytest.raises(InputError, match=r"free cell.*Found \(1, 0\)"):
        PointMaze(start=(1, 0))
    with pytest.raises(InputError, match="distances above 0"):
        PointRobot(radius=-0.2)
