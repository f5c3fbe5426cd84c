"""Tabular MDPs: the three planners agree with each other and with answers found by hand, and acting reaches them."""

from __future__ import annotations

import pytest
import torch

from quickstudy.core import InputError, RunError
from quickstudy.tasks.acting import at_random
from quickstudy.tasks.tabular import TabularMDPs, backward_induction, policy_iteration, value_iteration
from quickstudy.training.fit_rl import collect


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain() -> tuple[torch.Tensor, torch.Tensor]:
    """States 0 and 1; action 1 moves from 0 to 1 for nothing; in state 1, action 0 earns 1 and stays."""
    p, r = torch.zeros(1, 2, 2, 2).double(), torch.zeros(1, 2, 2).double()
    p[0, 0, 0, 0] = p[0, 0, 1, 1] = p[0, 1, 0, 1] = p[0, 1, 1, 0] = 1
    r[0, 1, 0] = 1
    return p, r


def test_planners_find_what_is_found_by_hand() -> None:
    p, r = chain()
    q = value_iteration(p, r, 0.9, tolerance=1e-12)
    # 1 / (1 - .9) = 10 from state 1, .9 of it from state 0; the other actions lose one step more
    torch.testing.assert_close(q[0], torch.tensor([[8.1, 9.0], [10.0, 8.1]]).double())
    policy, value = policy_iteration(p, r, 0.9)
    assert policy.tolist() == [[1, 0]]
    torch.testing.assert_close(value[0], torch.tensor([9.0, 10.0]).double())
    assert backward_induction(p, r, 5)[0, 0].amax(-1).tolist() == [4, 5]


def test_value_and_policy_iteration_agree_on_random_tasks() -> None:
    mdps = TabularMDPs(7, 4)
    p, r = mdps.model(mdps.sample(20, generator(0)).double())
    policy, value = policy_iteration(p, r, 0.95)
    q = value_iteration(p, r, 0.95, tolerance=1e-12)
    assert torch.equal(policy, q.argmax(-1))
    torch.testing.assert_close(value, q.amax(-1))


def test_an_episode_that_may_end_needs_no_discount() -> None:
    """A step costs 1 and is the last with probability 1/4: four steps in the mean."""
    p, r = torch.full((1, 1, 1, 1), 0.75).double(), -torch.ones(1, 1, 1).double()
    assert value_iteration(p, r, 1.0, tolerance=1e-12).item() == pytest.approx(-4)


def test_value_iteration_that_cannot_settle_says_so() -> None:
    with pytest.raises(RunError, match=r"settle within 50 backups.*changed a value by 1.*Lower the discount"):
        value_iteration(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1), 1.0, most=50)


def test_tasks_are_drawn_as_stated() -> None:
    p, r = (part.double() for part in TabularMDPs(5, 3).model(TabularMDPs(5, 3).sample(4000, generator(0))))
    torch.testing.assert_close(p.sum(-1), torch.ones_like(r))
    # Dirichlet(1) over 5: variance of one entry (1/5)(4/5)/6; the rewards N(1, 1)
    assert float(p.var()) == pytest.approx(4 / 25 / 6, rel=0.02)
    assert float(r.mean()) == pytest.approx(1, abs=0.02) and float(r.std()) == pytest.approx(1, abs=0.02)


def test_the_next_state_and_the_reward_are_drawn_as_the_task_says() -> None:
    mdps = TabularMDPs(4, 2, noise=0.5)
    one = mdps.sample(1, generator(3))
    tasks, n = one.repeat(40_000, 1, 1, 1), 40_000
    state, _ = mdps.reset(tasks, generator(0))
    after, seen, reward, terminated, truncated = mdps.step(state, torch.ones(n).long(), tasks, generator(1))
    torch.testing.assert_close(seen.mean(0), one[0, 0, 1, :4], atol=0.01, rtol=0)
    assert torch.equal(seen.argmax(1), after[:, 0])
    assert float(reward.mean()) == pytest.approx(float(one[0, 0, 1, 4]), abs=0.01)
    assert float(reward.std()) == pytest.approx(0.5, abs=0.01)
    assert not bool(terminated.any() | truncated.any())


def test_the_oracle_gets_the_optimum_and_chance_gets_less() -> None:
    mdps = TabularMDPs(episodes=2)
    tasks = mdps.sample(4000, generator(0))
    best = 2 * mdps.optimal_return(tasks)
    trial = collect(mdps, mdps.oracle(tasks), tasks, generator(1))
    gap = trial.reward.sum(1) - best
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 4000**0.5
    assert float(collect(mdps, at_random(mdps.problem), tasks, generator(1)).reward.sum(1).mean()) < 25
    assert trial.done.sum(1).tolist() == [2.0] * 4000 and bool((trial.done[:, [9, 19]] == 1).all())


def test_time_cuts_off_and_never_terminates() -> None:
    mdps = TabularMDPs(3, 2, length=2)
    tasks = mdps.sample(5, generator(0))
    state, _ = mdps.reset(tasks, generator(0))
    for expected in (False, True):
        state, _, _, terminated, truncated = mdps.step(state, torch.zeros(5).long(), tasks, generator(1))
        assert truncated.tolist() == [expected] * 5 and not bool(terminated.any())


def test_the_same_generator_state_gives_the_same_trial() -> None:
    mdps = TabularMDPs()
    tasks = mdps.sample(6, generator(0))
    first, second = (collect(mdps, at_random(mdps.problem), tasks, generator(5)) for _ in range(2))
    assert torch.equal(first.observation, second.observation) and torch.equal(first.reward, second.reward)


def test_an_action_that_there_is_not_is_refused() -> None:
    mdps = TabularMDPs()
    tasks = mdps.sample(2, generator(0))
    state, _ = mdps.reset(tasks, generator(0))
    with pytest.raises(InputError, match=r"actions 0 to 4. Found 5 for task 1"):
        mdps.step(state, torch.tensor([0, 5]), tasks, generator(0))
