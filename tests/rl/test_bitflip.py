"""Bit-flip: start and goal uniform, the optimum is the Hamming distance, relabelling reads the next observation."""

from __future__ import annotations

import pytest
import torch

from quickstudy.core import GoalEnvironment
from quickstudy.tasks.acting import at_random
from quickstudy.tasks.bitflip import BitFlip
from quickstudy.training.fit_rl import collect


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_start_and_goal_are_both_uniform() -> None:
    game = BitFlip(6)
    tasks = game.sample(20_000, generator(0))
    _, seen = game.reset(tasks, generator(1))
    torch.testing.assert_close(seen.mean(0), torch.full((12,), 0.5), atol=0.02, rtol=0)
    distance = (seen[:, :6] != seen[:, 6:]).float().sum(1)  # Binomial(6, 1/2) if they are independent
    assert float(distance.mean()) == pytest.approx(3, abs=0.05) and float(distance.var()) == pytest.approx(1.5, abs=0.1)


def test_the_oracle_needs_as_many_steps_as_bits_differ() -> None:
    game: GoalEnvironment = BitFlip(8)
    tasks = game.sample(500, generator(0))
    state, seen = game.reset(tasks, generator(1))
    steps, total = BitFlip(8).optimal_steps(seen), torch.zeros(500)
    assert torch.equal(steps[steps > 2], (seen[:, :8] != tasks).sum(1)[steps > 2])
    rule, took = BitFlip(8).oracle(tasks), torch.zeros(500).long()
    live = torch.ones(500, dtype=torch.bool)
    for time in range(1, 9):
        action, _, _ = rule.act(seen, rule.start(500), generator(2))
        state, seen, reward, terminated, truncated = game.step(state, action, tasks, generator(3))
        assert not bool((terminated & truncated).any())
        total += reward.where(live, 0)
        took = took.where(~(live & terminated), time)
        live &= ~terminated
    assert torch.equal(took, steps) and torch.equal(total, 1 - steps.float())


def test_time_cuts_off_what_did_not_reach_the_goal() -> None:
    game = BitFlip(3)
    tasks = torch.zeros(1, 3)
    state = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    for time in range(3):
        state, _, reward, terminated, truncated = game.step(state, torch.tensor([2]), tasks, generator(0))
        assert reward.tolist() == [-1] and not bool(terminated) and bool(truncated) == (time == 2)


def test_a_relabelled_step_earns_and_ends_by_where_it_led() -> None:
    game = BitFlip(4)
    tasks = game.sample(64, generator(0))
    trial = collect(game, at_random(game.problem), tasks, generator(1))
    before, after = trial.observation[:, 0], trial.observation[:, 1]  # where the first step led: 4 bits, no end by then
    kept = trial.done[:, 0] == 0
    achieved, _ = game.goals(after)
    reward, terminated = game.outcome(achieved, achieved)
    assert bool((reward == 0).all()) and bool(terminated.all())
    reward, terminated = game.outcome(game.goals(before)[0], achieved)  # where it started is never where it led
    assert bool((reward[kept] == -1).all()) and not bool(terminated[kept].any())
    relabelled = game.relabel(before, achieved)
    assert torch.equal(game.goals(relabelled)[1], achieved)
    assert torch.equal(game.goals(relabelled)[0], game.goals(before)[0])
    # the environment itself, with the new goal as its task, says the same
    state = torch.cat([game.goals(before)[0], torch.zeros(64, 1)], 1)
    _, seen, reward, terminated, _ = game.step(state[kept], trial.action[kept, 0], achieved[kept], generator(2))
    assert torch.equal(seen, game.relabel(after, achieved)[kept])
    assert bool((reward == 0).all()) and bool(terminated.all())
