"""Cart-pole and pendulum: equal to Gymnasium step by step, and an oracle that knows the physics solves them."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from quickstudy.core import InputError
from quickstudy.tasks.acting import at_random
from quickstudy.tasks.classic import CartPole, Pendulum
from quickstudy.training.fit_rl import collect

WIDE = CartPole(gravity=(4.0, 20.0), cart=(0.5, 2.0), pole=(0.05, 0.5), half_length=(0.25, 1.0))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("family", [CartPole(), WIDE], ids=["default", "varied"])
def test_cart_pole_is_gymnasiums(family: CartPole) -> None:
    tasks = family.sample(4, generator(0)).double()
    for i in range(len(tasks)):
        theirs = gymnasium.make("CartPole-v1")
        inner, task = theirs.unwrapped, tasks[i : i + 1]
        gravity, cart, pole, half = task[0].tolist()
        inner.gravity, inner.masscart, inner.masspole, inner.length = gravity, cart, pole, half  # type: ignore[attr-defined]
        inner.total_mass, inner.polemass_length = cart + pole, pole * half  # type: ignore[attr-defined]
        theirs.reset(seed=i)
        state = torch.zeros(1, 5).double()
        state[0, :4] = torch.as_tensor(np.asarray(inner.state))  # type: ignore[attr-defined]
        actions = torch.randint(2, (500,), generator=generator(i))
        for action in actions:
            observation, reward, terminated, truncated, _ = theirs.step(int(action))
            state, seen, *ours = family.step(state, action.view(1), task, generator(0))
            np.testing.assert_allclose(seen[0].numpy(), observation, rtol=1e-6, atol=1e-7)
            assert [bool(ours[1]), bool(ours[2])] == [terminated, truncated] and ours[0].item() == reward
            if terminated or truncated:
                break
        assert terminated


def test_pendulum_is_gymnasiums() -> None:
    family = Pendulum(gravity=(6.0, 12.0), mass=(0.5, 1.5), rod=(0.7, 1.3))
    tasks = family.sample(3, generator(0)).double()
    for i in range(len(tasks)):
        theirs, task = gymnasium.make("Pendulum-v1"), tasks[i : i + 1]
        inner = theirs.unwrapped
        inner.g, inner.m, inner.l = task[0].tolist()  # type: ignore[attr-defined]
        theirs.reset(seed=i)
        state = torch.cat([torch.as_tensor(inner.state), torch.zeros(1).double()]).unsqueeze(0)  # type: ignore[attr-defined]
        actions = 2.4 * torch.rand(200, 1, generator=generator(i)).double() - 1.2  # some beyond the bounds
        for time, action in enumerate(actions):
            observation, reward, terminated, truncated, _ = theirs.step(2 * action.numpy())
            state, seen, *ours = family.step(state, action.unsqueeze(0), task, generator(0))
            np.testing.assert_allclose(seen[0].numpy(), observation, rtol=1e-5, atol=1e-6)
            assert ours[0].item() == pytest.approx(float(reward), rel=1e-9)
            assert [bool(ours[1]), bool(ours[2])] == [terminated, truncated] == [False, time == 199]


def test_the_oracle_keeps_every_pole_up_and_chance_does_not() -> None:
    tasks = WIDE.sample(300, generator(0))
    trial = collect(WIDE, WIDE.oracle(tasks), tasks, generator(1))
    assert trial.done.sum(1).tolist() == [1.0] * 300 and bool((trial.done[:, -1] == 1).all())
    chance = collect(WIDE, at_random(WIDE.problem), tasks, generator(1))
    assert 500 / float(chance.done.sum(1).mean()) < 50  # steps of an episode


def test_the_plan_swings_the_pendulum_up_and_gets_what_it_promises() -> None:
    family = Pendulum()
    tasks = family.sample(1, generator(0)).repeat(60, 1)
    plan = family.plan(tasks[:1])
    state, _ = family.reset(tasks, generator(1))
    plan.tasks, plan.value = tasks, plan.value.expand(60, -1)
    promised, total = plan(state[:, 0], state[:, 1]), torch.zeros(60)
    for _ in range(200):
        state, _, reward, _, _ = family.step(state, plan.act(state[:, 0], state[:, 1]), tasks, generator(0))
        total += reward
    assert bool((state[:, 0].cos() > 0.99).all())
    assert float((total - promised).abs().mean()) < 0.1 * float(promised.abs().mean())
    assert float(total.mean()) > -200


def test_an_oracle_of_several_physics_does_well_in_each() -> None:
    family = Pendulum(gravity=(8.0, 11.0), mass=(0.8, 1.1), rod=(0.8, 1.1))
    tasks = family.sample(4, generator(0))
    trial = collect(family, family.oracle(tasks), tasks, generator(1))
    assert bool((trial.reward[:, -20:].sum(1) > -1).all())
    assert bool((collect(family, at_random(family.problem), tasks, generator(1)).reward.sum(1) < -600).all())


def test_the_same_generator_state_gives_the_same_trial() -> None:
    for family in (WIDE, Pendulum()):
        tasks = family.sample(4, generator(0))
        first, second = (collect(family, at_random(family.problem), tasks, generator(5)) for _ in range(2))
        assert torch.equal(first.observation, second.observation) and torch.equal(first.reward, second.reward)
        assert first.observation.dtype == torch.float32


def test_bad_physics_and_bad_actions_are_refused() -> None:
    with pytest.raises(InputError, match=r"Expected gravity as \(low, high\).*Found \(10.0, 5.0\)"):
        CartPole(gravity=(10.0, 5.0))
    family = Pendulum()
    tasks = family.sample(2, generator(0))
    state, _ = family.reset(tasks, generator(0))
    with pytest.raises(InputError, match=r"finite actions. Found \[nan\] for task 1"):
        family.step(state, torch.tensor([[0.0], [torch.nan]]), tasks, generator(0))
    with pytest.raises(InputError, match=r"Expected 1 numbers a task"):
        family.step(state, torch.zeros(2), tasks, generator(0))
