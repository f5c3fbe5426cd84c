"""Skew-Fit: what exact densities come to, a VAE whose density is known, and goals that a VAE imagines."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from quickstudy.core import InputError
from quickstudy.curricula import Counted, Imagined, LatentGoals, SkewFit, Taught, skewed
from quickstudy.methods import PPO
from quickstudy.nets.vae import VAE
from quickstudy.tasks.grids import open_grid
from quickstudy.tasks.point import PointMaze
from quickstudy.training import collect, fit_rl

ROOM = PointMaze(open_grid(4, 4), within=1e-6, length=10)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def entropy(p: Tensor) -> float:
    return float(-(p * p.log()).sum())


@pytest.mark.parametrize("alpha", [-1.0, -0.5, -0.1])
def test_with_the_exact_density_rounds_come_to_uniform(alpha: float) -> None:
    """Who reaches every goal: each round raises the density to the power 1 + alpha, and its entropy never falls."""
    p = torch.rand(30, generator=generator(0), dtype=torch.float64) ** 6 + 1e-5
    first = p = p / p.sum()
    model = Counted(30, floor=0.0).double()
    states = torch.eye(30, dtype=torch.float64)
    for t in range(1, 200):
        model.fit(states, p, generator(0))
        # each state stands for its share p of what was reached, and counts by its weight besides
        weight = p * skewed(model.log_prob(states, generator(0)), alpha)
        model.fit(states, weight / weight.sum(), generator(0))
        before, p = p, model.share.clone()
        assert entropy(p) >= entropy(before) - 1e-12
        if t <= 5:
            closed = first ** ((1 + alpha) ** t)
            torch.testing.assert_close(p, closed / closed.sum(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(p, torch.full_like(p, 1 / 30), rtol=1e-6, atol=0)


def test_without_skew_nothing_changes() -> None:
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    weight = p * skewed(p.log(), 0.0)
    torch.testing.assert_close(weight / weight.sum(), p)


@pytest.mark.parametrize("alpha", [-1.5, 0.5])
def test_other_powers_are_refused(alpha: float) -> None:
    with pytest.raises(InputError, match=r"alpha in \[-1, 0\]"):
        skewed(torch.zeros(3), alpha)


@pytest.mark.parametrize("alpha, low, high", [(-1.0, 0.95, 1.0), (0.0, 0.0, 0.8)])
def test_goals_spread_over_what_was_reached(alpha: float, low: float, high: float) -> None:
    """A walk on a line that ends at its goal or one beside it: skewed goals cover it, plain ones stay near home."""
    n, chance = 20, generator(1)
    first = nn.functional.one_hot(torch.tensor([0] * 30 + [1] * 3), n).float()
    goals = SkewFit(Counted(n), lambda last: last, first=first, alpha=alpha, every=100, room=400)
    for _ in range(40):
        tasks = goals.sample(100, chance)
        there = (tasks.argmax(1) + torch.randint(-1, 2, (100,), generator=chance)).clamp(0, n - 1)
        goals.met(tasks, torch.zeros(100), nn.functional.one_hot(there, n).float(), chance)
    share = goals.model.share.clamp_min(1e-12)  # type: ignore[attr-defined]
    assert low <= entropy(share) / math.log(n) <= high


def linear() -> tuple[VAE, MultivariateNormal]:
    """A VAE that is linear, with its exact posterior as the encoder, and its density."""
    vae = VAE(3, 2, deviation=0.5).double()
    w = torch.randn(3, 2, generator=generator(0), dtype=torch.float64)
    b = torch.randn(3, generator=generator(1), dtype=torch.float64)
    precision = torch.eye(2, dtype=torch.float64) + w.mT @ w / 0.25
    # an encoder can be exact only where the posterior's axes are the codes': turn them there
    values, turn = torch.linalg.eigh(precision)
    w = w @ turn
    gain = (w.mT / 0.25) / values.unsqueeze(1)

    class Exact(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = (x - b) @ gain.mT
            return torch.cat([mean, (-0.5 * values.log()).expand_as(mean)], -1)

    class Linear(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z @ w.mT + b

    vae.encoder, vae.decoder = Exact(), Linear()
    return vae, MultivariateNormal(b, w @ w.mT + 0.25 * torch.eye(3, dtype=torch.float64))


def test_the_density_of_a_linear_vae_is_exact() -> None:
    """With the true posterior each draw of importance sampling gives log p(x), and the bound is tight in the mean."""
    vae, exact = linear()
    x = torch.randn(7, 3, generator=generator(2), dtype=torch.float64)
    noise = torch.randn(1, 7, 2, generator=generator(3), dtype=torch.float64)
    torch.testing.assert_close(vae.log_prob(x, noise), exact.log_prob(x))
    many = torch.randn(200_000, 1, 2, generator=generator(4), dtype=torch.float64)
    bound = torch.stack([vae.losses(x[:1], part) for part in many[:2000]]).mean()
    torch.testing.assert_close(-bound, exact.log_prob(x[0]), atol=0.1, rtol=0)


def test_a_fit_raises_the_density_of_what_has_weight() -> None:
    chance = generator(0)
    model = Imagined(VAE(2, 2, width=16, generator=generator(1)), updates=300, lr=3e-3)
    goals = torch.cat([torch.full((90, 2), -0.5), torch.full((10, 2), 0.5)])
    goals = goals + 0.1 * torch.randn(goals.shape, generator=chance)
    rare = torch.cat([torch.zeros(90), torch.full((10,), 0.1)])  # weights of the few alone
    model.fit(goals, torch.full((100,), 0.01), chance)
    density = lambda of: float(model.log_prob(goals[of], chance).mean())  # noqa: E731
    few, many = slice(90, None), slice(90)
    assert density(few) < density(many)
    model.fit(goals, rare, chance)
    assert density(few) > density(many) + 1
    assert float((model.sample(1000, chance) > 0).float().mean()) > 0.9  # what is drawn follows


def images(place: Tensor) -> Tensor:
    """A bump on 4 x 4 pixels."""
    axis = torch.arange(4.0) + 0.5
    near = lambda x: (-(x.unsqueeze(-1) - axis).square()).exp()  # noqa: E731
    return (near(place[..., 1]).unsqueeze(-1) * near(place[..., 0]).unsqueeze(-2)).flatten(-2)


def imagined() -> tuple[LatentGoals, VAE]:
    vae = VAE(16, 2, width=8, generator=generator(0))
    return LatentGoals(ROOM, vae, nowhere=torch.tensor([-9.0, -9.0]), look=images), vae


def test_a_step_earns_minus_the_distance_of_the_codes() -> None:
    """Of what it led to, also after relabelling; and episodes end by time only."""
    env, vae = imagined()
    tasks = env.sample(5, generator(1))
    policy = PPO(env.problem, width=8).explorer()
    trials = collect(env, policy, tasks, generator(2))
    _, after = trials.ends()
    seen, goal = env.goals(after)
    torch.testing.assert_close(goal, tasks.unsqueeze(1).expand_as(goal))
    far = (vae.encode(seen)[0] - vae.encode(goal)[0]).norm(dim=-1)
    torch.testing.assert_close(trials.reward, -far.detach())
    assert not bool(trials.terminated is None or trials.terminated.any())
    assert trials.done[:, -1].all() and trials.done.sum() == 5
    at = env.relabel(after, seen)  # a goal that is where one is
    assert float(env.outcome(*env.goals(at))[0].abs().max()) == 0


def test_imagined_goals_train_with_the_policy() -> None:
    """The same VAE tells goals and rewards: it is fitted by what episodes end with, and saved once."""
    env, vae = imagined()
    seen = env.seen(collect(ROOM, PPO(ROOM.problem).explorer(), ROOM.sample(4, generator(0)), generator(1)).observation)
    goals = SkewFit(Imagined(vae, updates=5), lambda last: env.goals(last)[0], first=seen.flatten(0, 1), every=16)
    taught = Taught(env, goals)
    before = vae.decoder.state_dict()["0.weight"].clone()
    fit_rl(PPO(env.problem, width=8), taught, steps=2, tasks=16, passes=1, generator=generator(3))
    assert int(goals.n_memory) == len(seen.flatten(0, 1)) + 32
    assert not torch.equal(before, vae.decoder.state_dict()["0.weight"])
    assert sum("encoder.0.weight" in name for name in taught.state_dict()) == 1


def test_a_vae_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="Expected a VAE for the 2 numbers that are seen. Found one for 3"):
        LatentGoals(ROOM, VAE(3, 2), nowhere=torch.tensor([-9.0, -9.0]))
