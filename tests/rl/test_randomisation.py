"""Ranges of physics: what is drawn, and how far adaptive ranges grow where the answer is known."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quickstudy.core import InputError, Problem
from quickstudy.curricula import AdaptiveRanges, Taught
from quickstudy.methods import PPO
from quickstudy.tasks.acting import Rule
from quickstudy.tasks.classic import CartPole, Pendulum
from quickstudy.tasks.randomisation import RandomPhysics
from quickstudy.training import collect, first_returns, fit_rl


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Limits:
    """Two quantities, 1 each; a step pays 1 while the first is in [1/2, 3] and the second at most 2."""

    problem = Problem((1,), "classification", 2)
    horizon = 4

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.ones(n, 2)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(tasks), 1), torch.zeros(len(tasks), 1)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        a, b = tasks.unbind(1)
        reward = ((a >= 0.5) & (a <= 3) & (b <= 2)).float()
        ended = torch.zeros(len(tasks), dtype=torch.bool)
        return state + 1, state + 1, reward, ended, state[:, 0] + 1 >= self.horizon


STILL = Rule(lambda seen, chance: torch.zeros(len(seen), dtype=torch.long))


def test_fixed_ranges_are_uniform_in_the_logarithm() -> None:
    env = RandomPhysics(Pendulum(), (0.0, -1.0, 0.0), (0.0, 0.5, 0.0))
    u = (env.sample(20_000, generator(0)) / torch.tensor([10.0, 1.0, 1.0])).log()
    assert float(u[:, [0, 2]].abs().max()) < 1e-6
    assert u[:, 1].min() >= -1 and u[:, 1].max() <= 0.5
    assert float(u[:, 1].mean()) == pytest.approx(-0.25, abs=0.02)
    assert float(u[:, 1].var()) == pytest.approx(1.5**2 / 12, abs=0.01)


ONE = torch.ones(2)


def meet(ranges: AdaptiveRanges, tasks: int, chance: torch.Generator) -> None:
    """A round of training, without the learning."""
    drawn = ranges.sample(tasks, chance)
    trials = collect(Limits(), STILL, drawn, chance)
    ranges.met(drawn, first_returns(trials), trials.observation[:, -1], chance)


def test_ends_stop_where_the_policy_fails() -> None:
    """Each end grows to the last place that is coped with, or swings around it by one delta; the bound holds."""
    ranges, chance = AdaptiveRanges(ONE, (0, 1), (1.0, 3.0), delta=0.1, needed=8, most=1.0), generator(0)
    for _ in range(150):
        meet(ranges, 64, chance)
    (low, least), (high, wide) = ranges.low, ranges.high
    assert low == pytest.approx(-math.log(2), abs=0.11)
    assert high == 1.0  # log 3 is beyond the bound
    assert wide == pytest.approx(math.log(2), abs=0.11)
    assert least == -1.0


def test_nothing_grows_for_a_policy_that_fails_and_ranges_shrink() -> None:
    ranges, chance = AdaptiveRanges(ONE, (0,), (5.0, 6.0), needed=4), generator(0)  # more than can be earned
    ranges.reach[0] = torch.tensor([0.5, 0.4])
    for _ in range(20):
        meet(ranges, 32, chance)
    assert ranges.low == (0.0, 0.0) and ranges.high == (0.0, 0.0)


def test_a_share_of_the_tasks_is_at_an_end() -> None:
    ranges = AdaptiveRanges(ONE, (0, 1), (1.0, 3.0), share=0.25)
    ranges.reach = torch.tensor([[0.5, 1.0], [0.25, 2.0]])
    u = ranges.sample(20_000, generator(0)).log()
    ends = torch.tensor([[-0.5, 1.0], [-0.25, 2.0]])
    at = (u.unsqueeze(-1) - ends).abs() < 1e-5
    assert float(at.any(-1).any(-1).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert torch.allclose(at.float().mean(0), torch.full((2, 2), 0.0625), atol=0.006)
    assert bool((u >= ends[:, 0] - 1e-5).all() and (u <= ends[:, 1] + 1e-5).all())


def test_what_stays_as_it_is_has_no_ends() -> None:
    ranges, chance = AdaptiveRanges(ONE, (0,), (1.0, 3.0), needed=1), generator(0)
    for _ in range(5):
        meet(ranges, 16, chance)
    assert float(ranges.reach[0].min()) > 0 and not bool(ranges.reach[1].any())


def test_it_is_saved_with_the_run(tmp_path: Path) -> None:
    """A run that stopped and went on has the ranges of an unbroken one."""

    def run(stop: int | None, file: Path | None, resume: bool = False) -> AdaptiveRanges:
        ranges = AdaptiveRanges(ONE, (0, 1), (1.0, 3.0), needed=4)

        def progress(done: int, steps: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        fit_rl(
            PPO(Limits.problem, width=4), Taught(Limits(), ranges), steps=8, tasks=16, passes=1, every=2,
            checkpoint=file, resume=resume, progress=progress,
        )  # fmt: skip
        return ranges

    whole, file = run(None, None), tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(4, file)
    again = run(None, file, resume=True)
    assert float(whole.reach.sum()) > 0 and torch.equal(whole.reach, again.reach)
    assert torch.equal(whole.total, again.total) and again.fixed(Limits()).high == whole.high


def test_steps_are_those_of_the_environment() -> None:
    ours, plain = RandomPhysics(CartPole(), (0, 0, 0, -1), (0, 0, 0, 1)), CartPole()
    tasks = ours.sample(5, generator(0))
    assert len({*tasks[:, 3].tolist()}) == 5 and len({*tasks[:, 0].tolist()}) == 1
    one, other = (collect(env, plain.oracle(tasks), tasks, generator(1)) for env in (ours, plain))
    assert torch.equal(one.observation, other.observation) and ours.problem == plain.problem


def test_says_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"ends of 4 ranges.*Found \(0,\)"):
        RandomPhysics(CartPole(), (0,), (1,))
    with pytest.raises(InputError, match="quantities from 0 to 3 to move. Found"):
        AdaptiveRanges(torch.ones(4), (4,), (1.0, 2.0))
    with pytest.raises(InputError, match=r"thresholds \(low, high\) in this order.*Found \(2.0, 1.0\)"):
        AdaptiveRanges(torch.ones(4), (3,), (2.0, 1.0))
    with pytest.raises(InputError, match="all above 0"):
        AdaptiveRanges(torch.zeros(4), (3,), (1.0, 2.0))
