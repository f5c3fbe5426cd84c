"""MuJoCo's robots: equal to Gymnasium's v5 step by step, pure, and rewarded as each task says."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from quickstudy.core import InputError
from quickstudy.tasks.acting import at_random
from quickstudy.tasks.mujoco import BODIES, PHYSICS, Engine, Robots
from quickstudy.training.fit_rl import collect

THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "half-cheetah": ("HalfCheetah-v5", {}),
    "ant": ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0}),
    "walker": ("Walker2d-v5", {}),
    "hopper": ("Hopper-v5", {}),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo warns of Gymnasium's files by writing a log to where one is."""
    monkeypatch.chdir(tmp_path)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def state_of(env: Any, steps: int) -> torch.Tensor:
    return torch.as_tensor(np.concatenate([[env.data.time], env.data.qpos, env.data.qvel, [steps]])).unsqueeze(0)


@pytest.mark.parametrize("body", BODIES)
def test_every_step_is_gymnasiums(body: Any) -> None:
    """From the same state, and along the whole way while it stays together."""
    name, options = THEIRS[body]
    theirs = gymnasium.make(name, **options)
    inner: Any = theirs.unwrapped
    ours = Robots(body, "forward", length=1000)
    tasks = ours.sample(1, generator(0)).double()
    ended = 0
    for episode in range(3):
        seen, _ = theirs.reset(seed=episode)
        along = state_of(inner, 0)
        np.testing.assert_allclose(ours.see(along, tasks)[0].numpy(), seen, atol=1e-12)
        for time in range(60):
            action = 2 * torch.rand(1, inner.model.nu, generator=generator(100 * episode + time)).double() - 1
            before = state_of(inner, time)
            x = inner.data.qpos[0]
            seen, reward, terminated, truncated, infos = theirs.step(action[0].numpy())
            _, mine, earned, *ends = ours.step(before, action, tasks, generator(0))
            np.testing.assert_allclose(mine[0].numpy(), seen, atol=1e-9)
            if body == "ant":  # its speed there is that of a place left over by the integrator
                reward = float(reward) - infos["reward_forward"] + (inner.data.qpos[0] - x) / inner.dt
            assert earned.item() == pytest.approx(float(reward), abs=1e-9)
            assert [bool(end) for end in ends] == [terminated, truncated]
            along, mine, *_ = ours.step(along, action, tasks, generator(0))
            if time < 20:
                np.testing.assert_allclose(mine[0].numpy(), seen, atol=1e-6)
            if terminated:
                ended += 1
                break
    if body != "ant":  # that falls too rarely
        assert ended == {"half-cheetah": 0, "walker": 3, "hopper": 3}[body]


@pytest.mark.parametrize("body", BODIES)
def test_episodes_start_as_gymnasiums_do(body: Any) -> None:
    name, options = THEIRS[body]
    theirs = gymnasium.make(name, **options)
    ours = Robots(body, "forward")
    _, seen = ours.reset(ours.sample(4000, generator(0)), generator(1))
    given = torch.as_tensor(np.stack([theirs.reset(seed=seed)[0] for seed in range(300)])).float()
    assert ours.problem.x_shape == theirs.observation_space.shape
    error = 5 * BODIES[body].noise / 300**0.5
    torch.testing.assert_close(seen.mean(0), given.mean(0), atol=error, rtol=0)
    torch.testing.assert_close(seen.std(0), given.std(0), atol=error, rtol=0)


def test_robots_at_once_are_robots_one_by_one_on_any_number_of_threads() -> None:
    one, two = Robots(threads=1), Robots(threads=2)
    tasks = one.sample(7, generator(0))
    state, _ = one.reset(tasks, generator(1))
    for time in range(5):
        action = 2 * torch.rand(7, 6, generator=generator(time)) - 1
        first, second = (robots.step(state, action, tasks, generator(0)) for robots in (one, two))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        for i in range(7):
            alone = one.step(state[i : i + 1], action[i : i + 1], tasks[i : i + 1], generator(0))
            assert all(torch.equal(a[i : i + 1], b) for a, b in zip(first, alone, strict=True))
        state = first[0]


def test_the_same_generator_state_gives_the_same_trial_which_time_cuts_off() -> None:
    robots = Robots(length=10)
    tasks = robots.sample(3, generator(0))
    first, second = (collect(robots, at_random(robots.problem), tasks, generator(5)) for _ in range(2))
    assert torch.equal(first.observation, second.observation) and torch.equal(first.reward, second.reward)
    assert first.done.tolist() == [[0.0] * 9 + [1.0]] * 3 and first.observation.dtype == torch.float32


def test_each_task_pays_for_what_it_says() -> None:
    """The same moves in tasks that differ: what is earned differs by what the tasks say, and by nothing else."""
    action, n = torch.rand(1, 6, generator=generator(3)).repeat(2, 1), 2
    rewards = {}
    for task, given in (
        ("forward", torch.zeros(2, 0)),
        ("direction", torch.tensor([[1.0, 0.0], [-1.0, 0.0]])),
        ("velocity", torch.tensor([[0.0], [2.0]])),
    ):
        robots = Robots("half-cheetah", task)  # type: ignore[arg-type]
        state, _ = robots.reset(given[:1], generator(0))
        after, _, rewards[task], _, _ = robots.step(state.repeat(n, 1), action, given, generator(0))
    speed = (after[:, 1] - state[0, 1]).float() / 0.05
    cost = 0.1 * action.square().sum(1)
    torch.testing.assert_close(rewards["forward"], speed - cost)
    torch.testing.assert_close(rewards["direction"], torch.tensor([1.0, -1.0]) * speed - cost)
    torch.testing.assert_close(rewards["velocity"], -(speed - torch.tensor([0.0, 2.0])).abs() - cost)


def test_an_ant_that_leaves_its_height_has_fallen() -> None:
    ants = Robots("ant", "forward")
    state, _ = ants.reset(ants.sample(3, generator(0)), generator(1))
    state[:, 3] = torch.tensor([0.1, 0.6, 1.1]).double()
    assert ants.stands(state).tolist() == [False, True, False]


def test_an_ant_with_a_goal_sees_where_it_is_and_is_paid_by_its_distance() -> None:
    ants = Robots("ant", "goal", control_cost=0.1)
    tasks = ants.sample(50, generator(0))
    assert float(tasks.norm(dim=1).max()) <= 3 and ants.problem.x_shape == (29,)
    state, seen = ants.reset(tasks, generator(1))
    action = torch.zeros(50, 8)
    for _ in range(20):
        state, seen, reward, terminated, _ = ants.step(state, action, tasks, generator(0))
        torch.testing.assert_close(reward, -(seen[:, :2] - tasks).abs().sum(1), atol=1e-5, rtol=1e-5)
        assert not bool(terminated.any())


def test_directions_and_velocities_are_drawn_as_stated() -> None:
    two = Robots("half-cheetah", "direction").sample(4000, generator(0))
    assert sorted({tuple(row) for row in two.round().tolist()}) == [(-1.0, 0.0), (1.0, 0.0)]
    assert float(two[:, 0].mean()) == pytest.approx(0, abs=0.08)
    around = Robots("ant", "direction").sample(4000, generator(0))
    torch.testing.assert_close(around.norm(dim=1), torch.ones(4000))
    assert float(around.mean(0).abs().max()) < 0.06
    fast = Robots("half-cheetah", "velocity").sample(4000, generator(0))
    assert float(fast.min()) >= 0 and 2.9 < float(fast.max()) <= 3


@pytest.mark.parametrize("body", ["walker", "hopper"])
def test_random_physics_is_gymnasiums_with_the_model_altered(body: Any) -> None:
    robots = Robots(body, "physics", length=1000)
    tasks = robots.sample(2, generator(0)).double()
    states = []
    for task in tasks:
        theirs = gymnasium.make(THEIRS[body][0])
        inner: Any = theirs.unwrapped
        start = 0
        for name, base in PHYSICS.items():
            field = getattr(inner.model, name)
            power = task[start : start + field.size].numpy().reshape(field.shape)
            assert np.abs(power).max() <= 3
            field[:] = field * base**power
            start += field.size
        assert start == len(task)
        mujoco.mj_setConst(inner.model, mujoco.MjData(inner.model))
        theirs.reset(seed=0)
        states.append((theirs, inner, state_of(inner, 0)))
    for time in range(10):
        action = 2 * torch.rand(2, inner.model.nu, generator=generator(time)).double() - 1
        before = torch.cat([state_of(env, time) for _, env, _ in states])
        _, mine, earned, _, _ = robots.step(before, action, tasks, generator(0))
        for i, (theirs, _, _) in enumerate(states):
            seen, reward, *_ = theirs.step(action[i].numpy())
            np.testing.assert_allclose(mine[i].numpy(), seen, atol=1e-8)
            assert earned[i].item() == pytest.approx(float(reward), abs=1e-8)
    assert not torch.allclose(mine[0], mine[1], atol=1e-2)  # the physics matters


def test_loading_a_robot_leaves_nothing_behind() -> None:
    assert Robots("half-cheetah").engine.model.nu == 6
    assert list(Path().iterdir()) == []


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="'goal' for the ant only"):
        Robots("hopper", "goal")
    with pytest.raises(InputError, match="Expected 6 numbers a task"):
        robots = Robots()
        tasks = robots.sample(2, generator(0))
        robots.step(robots.reset(tasks, generator(0))[0], torch.zeros(2, 3), tasks, generator(0))


def test_a_missing_extra_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("mujoco"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install quickstudy\[rl\]"):
        Engine(BODIES["ant"], 1)
