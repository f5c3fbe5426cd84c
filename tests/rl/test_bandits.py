"""Bandits: the environment pays what it says, and the ways to play stand in the order that theory gives them."""

from __future__ import annotations

import pytest
import torch

from quickstudy.core import InputError
from quickstudy.tasks.bandits import (
    UCB1,
    BernoulliBandits,
    CountingPolicy,
    Gittins,
    Greedy,
    RandomArm,
    Thompson,
    optimal_reward,
)
from quickstudy.training.fit_rl import collect


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def total(policy: CountingPolicy, bandits: BernoulliBandits, n: int) -> tuple[float, float]:
    """Mean total reward of n tasks, and its standard error."""
    reward = collect(bandits, policy, bandits.sample(n, generator(1)), generator(2)).reward.sum(1)
    return float(reward.mean()), float(reward.std() / n**0.5)


def test_an_arm_pays_as_often_as_its_mean_says() -> None:
    bandits, tasks = BernoulliBandits(2, 1), torch.tensor([[0.2, 0.9]]).repeat(20_000, 1)
    state, _ = bandits.reset(tasks, generator(0))
    for arm, mean in enumerate((0.2, 0.9)):
        action = torch.full((len(tasks),), arm)
        _, _, reward, terminated, truncated = bandits.step(state, action, tasks, generator(arm))
        assert float(reward.mean()) == pytest.approx(mean, abs=4 * (mean * (1 - mean) / len(tasks)) ** 0.5)
        assert bool(terminated.all()) and not bool(truncated.any())


def test_the_same_generator_state_gives_the_same_trial() -> None:
    bandits = BernoulliBandits(3, 6)
    tasks = bandits.sample(5, generator(0))
    first, second = (collect(bandits, Thompson(3), tasks, generator(4)) for _ in range(2))
    assert torch.equal(first.action, second.action) and torch.equal(first.reward, second.reward)


def test_a_trial_ends_once_and_at_the_horizon() -> None:
    bandits = BernoulliBandits(3, 4)
    trial = collect(bandits, RandomArm(3), bandits.sample(2, generator(0)), generator(0))
    assert trial.done.tolist() == [[0, 0, 0, 1]] * 2
    assert trial.observation.shape == (2, 4, 0)


def test_the_optimum_of_small_bandits_is_the_one_found_by_hand() -> None:
    assert optimal_reward(2, 1) == pytest.approx(1 / 2)
    # two pulls: after a win (1/2) pull the same arm, worth 2/3; after a loss the other, worth 1/2
    assert optimal_reward(2, 2) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3 + 1 / 2 * 1 / 2)


def test_gittins_index_is_the_one_found_by_hand() -> None:
    index = Gittins(2, 3).index
    assert index[1, 2, 0].item() == pytest.approx(3 / 4)  # one pull to go: the posterior mean
    # two to go from Beta(1, 1): 1/2 - v + 1/2 (2/3 - v) = 0
    assert index[2, 0, 0].item() == pytest.approx(5 / 9, abs=1e-4)
    assert bool((index[3, 0, 0] > index[2, 0, 0]) & (index[2, 0, 0] > index[1, 0, 0]))


def test_ways_to_play_stand_in_their_order_and_below_the_optimum() -> None:
    bandits, n = BernoulliBandits(5, 10), 20_000
    best = optimal_reward(5, 10)
    gittins, greedy, thompson, chance = (
        total(policy, bandits, n) for policy in (Gittins(5, 10), Greedy(5), Thompson(5), RandomArm(5))
    )
    assert chance[0] == pytest.approx(5, abs=4 * chance[1])
    assert gittins[0] == pytest.approx(best, abs=4 * gittins[1])
    for better, worse in ((gittins, thompson), (greedy, thompson), (thompson, chance)):
        assert better[0] - worse[0] > 4 * (better[1] + worse[1])


def test_gittins_is_close_to_the_optimum_over_a_longer_trial() -> None:
    value, error = total(Gittins(2, 30), BernoulliBandits(2, 30), 20_000)
    assert value == pytest.approx(optimal_reward(2, 30), abs=4 * error)


def test_greedy_solves_the_deterministic_bandit() -> None:
    class Certain(BernoulliBandits):
        def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
            return torch.eye(2)[torch.randint(2, (n,), generator=generator)]

    trial = collect(Certain(2, 6), Greedy(2), Certain(2, 6).sample(200, generator(0)), generator(0))
    assert bool((trial.reward[:, 1:] == 1).all())  # one pull tells which arm pays
    assert 0 < float(trial.reward[:, 0].mean()) < 1


def test_ucb1_is_the_formula() -> None:
    wins, losses = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([[1.0, 1.0]]).double()
    expected = torch.tensor([[3 / 5, 1 / 3]]).double() + (2 * torch.tensor(5.0).log() / torch.tensor([[5, 3]])).sqrt()
    torch.testing.assert_close(UCB1(2).value(wins, losses, generator(0)), expected.double(), atol=1e-6, rtol=0)


def test_thompson_draws_from_the_posterior() -> None:
    wins, losses = torch.full((40_000, 2), 3.0).double(), torch.full((40_000, 2), 1.0).double()
    draw = Thompson(2).value(wins, losses, generator(0))
    assert float(draw.mean()) == pytest.approx(4 / 6, abs=0.003)  # Beta(4, 2)
    assert float(draw.var()) == pytest.approx(4 * 2 / (36 * 7), abs=0.001)


def test_one_arm_is_no_bandit() -> None:
    with pytest.raises(InputError, match=r"Expected at least 2 arms.*Found 1 arms.*Raise"):
        BernoulliBandits(1, 10)
