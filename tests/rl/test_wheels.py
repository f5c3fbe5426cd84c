"""Training wheels: without help nothing changes; with it, what each promises; and help that fades when it should."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from quickstudy.core import Environment, InputError
from quickstudy.curricula import Fading, Taught
from quickstudy.methods import PPO
from quickstudy.tasks.acting import Rule, at_random
from quickstudy.tasks.grids import Maze
from quickstudy.tasks.point import PointRobot
from quickstudy.tasks.tabular import TabularMDPs, value_iteration
from quickstudy.tasks.tmaze import TMaze
from quickstudy.tasks.wheels import (
    Breadcrumbs,
    CoarserActions,
    CoarserStates,
    CoarserTime,
    HeadStart,
    ShownMore,
    apart,
    helped,
)
from quickstudy.tasks.worlds import bare
from quickstudy.training import collect, first_returns, fit_rl

CORRIDOR = Maze((".......",), (0, 0), ((0, 6),), length=20, elsewhere=0.0, at_goal=1.0)
SIGN = TMaze(3)
ROBOT = PointRobot(length=6)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(state: Tensor, tasks: Tensor) -> Tensor:
    return -CORRIDOR.distance(state, tasks).to(tasks.dtype)


def right(environment: Environment) -> Rule:
    return Rule(lambda seen, _: torch.full((len(seen),), 4))


WHEELS: dict[str, Environment] = {
    "head start": HeadStart(CORRIDOR, CORRIDOR.oracle, 5),
    "breadcrumbs": Breadcrumbs(CORRIDOR, near, 0.9),
    "coarser states": CoarserStates(CORRIDOR, torch.zeros_like),
    "coarser actions": CoarserActions(ROBOT, 3),
    "coarser time": CoarserTime(CORRIDOR, 3),
    "shown more": ShownMore(SIGN, SIGN.shown),
    "two of them": CoarserTime(Breadcrumbs(CORRIDOR, near, 0.9), 3),
}


@pytest.mark.parametrize("wheel", WHEELS.values(), ids=WHEELS)
def test_without_help_an_episode_is_that_of_the_world_and_with_help_it_is_not(wheel: Environment) -> None:
    world = bare(wheel)
    tasks = world.sample(6, generator(0))
    without = collect(world, at_random(world.problem), tasks, generator(1))
    deep = 2 if wheel is WHEELS["two of them"] else 1
    for help, same in ((0.0, True), (1.0, False)):
        given = tasks
        for _ in range(deep):
            given = helped(given, help)
        trials = collect(wheel, at_random(world.problem), given, generator(1))
        equal = [torch.equal(getattr(without, name), getattr(trials, name))
                 for name in ("observation", "action", "reward", "done", "terminated", "after")]  # fmt: skip
        assert all(equal) is same
    drawn = wheel.sample(5, generator(2))
    assert drawn.shape[1] == tasks.shape[1] + deep and bool((drawn[:, -deep:] == 0).all())
    assert wheel.problem == world.problem and wheel.horizon == world.horizon


def test_tasks_that_are_no_rows_of_numbers_are_refused() -> None:
    for tasks in (torch.zeros(3, 2, 2), torch.zeros(3, 2, dtype=torch.long), torch.zeros(3)):
        with pytest.raises(InputError, match=re.escape(str(tuple(tasks.shape)))):
            helped(tasks, 1.0)
        with pytest.raises(InputError, match="Flatten them"):
            apart(tasks)


def test_a_head_start_is_as_long_as_the_help_says_and_takes_its_time() -> None:
    wheel = HeadStart(CORRIDOR, CORRIDOR.oracle, 4)
    help = torch.tensor([0.0, 0.25, 0.5, 1.0])
    state, seen = wheel.reset(helped(CORRIDOR.sample(4, generator(0)), help), generator(1))
    assert state.tolist() == [[0, 0], [1, 1], [2, 2], [4, 4]]
    assert seen[:, :7].argmax(1).tolist() == [0, 1, 2, 4]


def test_a_guide_stops_before_it_is_over() -> None:
    """The corridor takes 6 steps, and 20 are the most: a guide for 50 stands one step before the end of either."""
    tasks = helped(CORRIDOR.sample(2, generator(0)), 1.0)
    state, _ = HeadStart(CORRIDOR, CORRIDOR.oracle, 50).reset(tasks, generator(1))
    assert state.tolist() == [[5, 5], [5, 5]]
    state, _ = HeadStart(CORRIDOR, lambda _: Rule(lambda seen, __: torch.zeros(len(seen), dtype=torch.long)), 50).reset(
        tasks, generator(1)
    )
    assert state.tolist() == [[0, 19], [0, 19]]


def test_breadcrumbs_telescope() -> None:
    r"""Discounted, they add up to :math:`\gamma^n \Phi(s_n) - \Phi(s_0)`, times the help; 0 follows the goal."""
    help = torch.tensor([0.0, 0.5, 1.0])
    tasks = helped(CORRIDOR.sample(3, generator(0)), help)
    wheel = Breadcrumbs(CORRIDOR, near, 0.9)
    trials = collect(wheel, right(wheel), tasks, generator(1))
    powers = 0.9 ** torch.arange(6)
    whole = (trials.reward[:, :6] * powers).sum(1)
    torch.testing.assert_close(whole, 0.9**5 + help * 6)  # the goal, and from -6 to nothing
    part = (trials.reward[:, :4] * powers[:4]).sum(1)
    torch.testing.assert_close(part, help * (0.9**4 * -2 + 6))


def test_what_is_best_stays_best_with_breadcrumbs_and_not_with_a_bonus_that_is_not_paid_back() -> None:
    """Theorem 1 of Ng et al. 1999: values fall by the potential, for every action alike."""
    mdps, chance = TabularMDPs(), generator(0)
    p, r = (part.double() for part in mdps.model(mdps.sample(50, chance)))
    p = p / p.sum(-1, keepdim=True)
    potential = 5 * torch.randn(50, 10, generator=chance, dtype=torch.float64)
    rise = 0.9 * potential[:, None, None, :] - potential[:, :, None, None]
    solve = lambda reward: value_iteration(p, reward, 0.9, 1e-13)  # noqa: E731
    q, shaped, other = (solve(r + (p * extra).sum(-1)) for extra in (0 * rise, rise, rise.clamp_min(0)))
    torch.testing.assert_close(shaped, q - potential.unsqueeze(-1), atol=1e-9, rtol=0)
    assert torch.equal(shaped.argmax(-1), q.argmax(-1))
    assert float((other.argmax(-1) != q.argmax(-1)).double().mean()) > 0.1


def test_breadcrumbs_as_they_are_earned_are_those_that_were_solved() -> None:
    """The wheel's own steps, in all states and actions of a maze, make a reward whose optimum is that of the maze."""
    world = Maze(length=99, goals_at=((2, 0),))
    tasks, n = world.sample(1, generator(0)), world.n_cells
    potential = 3 * torch.randn(n, generator=generator(1))
    potential[tasks[0].argmax()] = 7.0  # what stands at the goal is of no account: it terminates
    wheel = Breadcrumbs(world, lambda state, _: potential[state[:, 0]], 0.9)
    state = torch.stack([torch.arange(n).repeat_interleave(5), torch.zeros(5 * n, dtype=torch.long)], 1)
    many = helped(tasks.expand(5 * n, -1), 1.0)
    reward = wheel.step(state, torch.arange(5).repeat(n), many, generator(2))[2].view(1, n, 5)
    p, r = world.model(tasks)
    q, shaped = (value_iteration(p.double(), x.double(), 0.9, 1e-13) for x in (r, reward))
    torch.testing.assert_close(shaped, q - potential.double().view(1, n, 1), atol=1e-5, rtol=0)


def test_blurred_is_between_what_is_there_and_the_coarser_view() -> None:
    world = PointRobot(shows_goal=True)
    wheel = CoarserStates(world, lambda seen: (seen / 0.25).round() * 0.25)
    tasks, help = world.sample(3, generator(0)), torch.tensor([0.0, 0.5, 1.0])
    push = torch.tensor([[0.9, -0.4]]).expand(3, 2)
    state, _ = wheel.reset(helped(tasks, help), generator(1))
    _, seen, *_ = wheel.step(state, push, helped(tasks, help), generator(1))
    fine = torch.cat([0.1 * push, tasks], 1)
    coarse = (fine / 0.25).round() * 0.25
    torch.testing.assert_close(seen, torch.stack([fine[0], (fine[1] + coarse[1]) / 2, coarse[2]]))


def test_what_is_done_is_between_what_was_chosen_and_the_level_next_to_it() -> None:
    wheel = CoarserActions(ROBOT, 5)
    tasks = helped(torch.zeros(4, 2), torch.tensor([0.0, 0.5, 1.0, 1.0]))
    push = torch.tensor([[0.3, -0.9], [0.3, -0.9], [0.3, -0.9], [-1.7, 0.2]])
    state, _ = wheel.reset(tasks, generator(1))
    _, seen, *_ = wheel.step(state, push, tasks, generator(1))
    expected = torch.tensor([[0.3, -0.9], [0.4, -0.95], [0.5, -1.0], [-1.0, 0.0]])
    torch.testing.assert_close(seen, 0.1 * expected)


def test_a_decision_lasts_as_long_as_the_help_says_but_not_beyond_the_end() -> None:
    wheel = CoarserTime(CORRIDOR, 5)
    tasks = helped(CORRIDOR.sample(4, generator(0)), torch.tensor([0.0, 0.25, 0.75, 1.0]))
    state, _ = wheel.reset(tasks, generator(1))
    action = torch.full((4,), 4)
    state, _, reward, terminated, truncated = wheel.step(state, action, tasks, generator(1))
    assert state[:, 0].tolist() == [1, 2, 4, 5] and reward.tolist() == [0.0] * 4 and not bool(terminated.any())
    state, seen, reward, terminated, truncated = wheel.step(state, action, tasks, generator(1))
    assert state.tolist() == [[2, 2], [4, 4], [6, 6], [6, 6]]  # the goal is 6 steps off and ends it
    assert reward.tolist() == [0.0, 0.0, 1.0, 1.0] and terminated.tolist() == [False, False, True, True]
    assert seen[:, :7].argmax(1).tolist() == [2, 4, 6, 6] and not bool(truncated.any())


def test_rewards_of_one_decision_add_up() -> None:
    world = Maze((".......",), (0, 0), ((0, 6),), length=3)
    wheel, tasks = CoarserTime(world, 5), helped(world.sample(1, generator(0)), 1.0)
    state, _ = wheel.reset(tasks, generator(1))
    _, _, reward, terminated, truncated = wheel.step(state, torch.tensor([0]), tasks, generator(1))
    assert (reward.item(), terminated.item(), truncated.item()) == (-3.0, False, True)


def test_the_hidden_is_shown_as_often_as_the_help_says() -> None:
    world = TMaze(8)
    wheel, tasks = ShownMore(world, world.shown), world.sample(4000, generator(0))
    help = torch.tensor([0.0, 0.3, 1.0]).repeat_interleave(4000)
    given = helped(tasks.repeat(3, 1), help)
    state, _ = wheel.reset(given, generator(1))
    _, seen, *_ = wheel.step(state, torch.zeros(12_000, dtype=torch.long), given, generator(1))
    shown = (seen[:, 0] != 0).view(3, 4000).float().mean(1)
    assert shown[0] == 0 and shown[1].item() == pytest.approx(0.3, abs=0.03) and shown[2] == 1
    assert bool((seen[8000:, 0] == tasks[:, 0]).all())


def test_the_t_maze_pays_for_the_side_of_the_sign() -> None:
    world = TMaze(4)
    tasks = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])
    assert torch.equal(first_returns(collect(world, world.oracle(tasks), tasks, generator(0))), torch.ones(4))
    left = Rule(lambda seen, _: (seen[:, 2] > 0).long())
    trials = collect(world, left, tasks, generator(0))
    assert first_returns(trials).tolist() == [1.0, -1.0, 1.0, -1.0]
    assert trials.done[:, :5].tolist() == [[0.0] * 4 + [1.0]] * 4 and torch.equal(trials.done, trials.ends()[0])
    assert trials.observation[:, 0].tolist() == [[s, 1.0, 0.0] for s in (-1.0, 1.0, -1.0, 1.0)]
    assert bool((trials.observation[:, 1:5, 0] == 0).all()) and trials.observation[0, 4].tolist() == [0.0, 0.0, 1.0]
    stays = collect(world, Rule(lambda seen, _: torch.ones(len(seen), dtype=torch.long)), tasks, generator(0))
    assert bool((stays.done.sum(1) == 1).all()) and not bool(stays.reward.any())  # turns in the corridor lose time
    assert stays.terminated is not None and not bool(stays.terminated.any())
    with pytest.raises(InputError, match="time to walk it"):
        TMaze(10, length=10)


def test_help_fades_where_it_is_mastered_and_never_comes_back() -> None:
    wheel = CoarserTime(CORRIDOR, 3)
    fading, chance = Fading(wheel, enough=0.5, delta=0.3, needed=10), generator(0)

    def met(reward: float, n: int = 10) -> float:
        tasks = fading.sample(n, chance)
        fading.met(tasks, torch.full((n,), reward), torch.zeros(n, 14), chance)
        return round(float(fading.help), 6)

    assert bool((fading.sample(3, chance)[:, -1] == 1).all())
    assert [met(0.4), met(0.6, 9), met(0.6, 1), met(0.0), met(0.5)] == [1.0, 1.0, 0.7, 0.7, 0.4]
    assert [met(1.0), met(1.0), met(-9.0)] == [0.1, 0.0, 0.0]
    again = Fading(wheel, enough=0.5)
    again.load_state_dict(fading.state_dict())
    assert torch.equal(again.sample(4, generator(3)), fading.sample(4, generator(3)))


def test_what_is_enough_may_hang_on_the_help() -> None:
    fading, chance = Fading(CoarserTime(CORRIDOR, 3), enough=lambda help: 1 + help, delta=0.5, needed=4), generator(0)
    found = []
    for reward in (1.9, 2.0, 1.4, 1.5):
        fading.met(fading.sample(4, chance), torch.full((4,), reward), torch.zeros(4, 14), chance)
        found.append(float(fading.help))
    assert found == [1.0, 0.5, 0.5, 0.0]


def test_standing_still_earns_what_the_docstring_says() -> None:
    wheel = Breadcrumbs(CORRIDOR, near, 0.9)
    tasks = helped(CORRIDOR.sample(1, generator(0)), 0.5)
    still = collect(wheel, Rule(lambda seen, _: torch.zeros(len(seen), dtype=torch.long)), tasks, generator(1))
    torch.testing.assert_close(still.reward, torch.full((1, 20), (1 - 0.9) * 0.5 * 6))


def test_only_episodes_with_the_least_help_are_judged() -> None:
    fading = Fading(CoarserTime(CORRIDOR, 3), enough=0.5, delta=0.5, needed=20, back=0.5)
    fading.help.fill_(0.5)
    tasks = fading.sample(400, generator(0))
    more = tasks[:, -1] > 0.5 + 1e-6
    assert 0.4 < float(more.float().mean()) < 0.6 and bool((tasks[:, -1] <= 1).all())
    fading.met(tasks, more.float(), torch.zeros(400, 14), generator(1))  # good with more help, bad with as much
    assert float(fading.help) == 0.5
    fading.met(tasks, 1 - more.float(), torch.zeros(400, 14), generator(1))
    assert float(fading.help) == 0.0


def test_two_wheels_fade_together() -> None:
    both = CoarserTime(Breadcrumbs(CORRIDOR, near, 0.9), 3)
    tasks = Fading(both, enough=0.5, wheels=2).sample(4, generator(0))
    assert tasks.shape == (4, 7 + 2) and bool((tasks[:, -2:] == 1).all())


def test_a_learner_loses_its_wheels_and_goes_on_without() -> None:
    """A corridor too long for chance: 16 steps, 40 at most, of which two in five lead nowhere and one back."""
    world = Maze(("." * 17,), (0, 0), ((0, 16),), length=40, elsewhere=0.0, at_goal=1.0, shows_goal=False)
    fading = Fading(HeadStart(world, world.oracle, 15), enough=0.8, delta=0.125, needed=16)
    method = PPO(world.problem, discount=0.97, generator=generator(0))
    fit_rl(method, Taught(fading.environment, fading), steps=20, tasks=16, lr=1e-2, generator=generator(1))
    assert float(fading.help) == 0.0
    tasks = world.sample(32, generator(2))
    assert float(first_returns(collect(world, method.explorer(), tasks, generator(3))).mean()) > 0.8
    chance = collect(world, at_random(world.problem), tasks, generator(3))
    assert float(first_returns(chance).mean()) < 0.1


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1 steps of the guide"):
        HeadStart(CORRIDOR, CORRIDOR.oracle, 0)
    with pytest.raises(InputError, match="discount from 0 to 1"):
        Breadcrumbs(CORRIDOR, near, 1.1)
    with pytest.raises(InputError, match="at least 2 levels"):
        CoarserActions(ROBOT, 1)
    with pytest.raises(InputError, match="continuous actions to make coarser. Found 'classification'"):
        CoarserActions(CORRIDOR)
    with pytest.raises(InputError, match="at least 2 steps of a decision"):
        CoarserTime(CORRIDOR, 1)
    with pytest.raises(InputError, match="delta"):
        Fading(CoarserTime(CORRIDOR), enough=1.0, delta=0.0)
