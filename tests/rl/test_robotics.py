"""Goal environments of Gymnasium: relabelled steps are judged by their own rules, and time is no end."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit

from quickstudy.core import InputError, RunError
from quickstudy.methods.rl._replay import Replay
from quickstudy.methods.rl.relabel import Hindsight, want
from quickstudy.tasks.acting import at_random, standardised
from quickstudy.tasks.robotics import GoalsFromGymnasium, fetch
from quickstudy.training import collect

PUSHES = """
import gymnasium, numpy as np
import gymnasium_robotics
gymnasium.register_envs(gymnasium_robotics)
env = gymnasium.make("FetchReach-v4", disable_env_checker=True)
seen, _ = env.reset(seed=3)
for action in np.random.default_rng(0).uniform(-1, 1, (30, 4)).astype("float32"):
    seen, reward, *_ = env.step(action)
print(seen["observation"].tobytes().hex(), seen["desired_goal"].tobytes().hex(), reward)
"""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Line(gymnasium.Env[Any, Any]):
    """A point on a line; nearness ends the episode; rules are written for one goal, as Gymnasium's words have it."""

    def __init__(self, fault: str = "") -> None:
        row = lambda n: gymnasium.spaces.Box(-np.inf, np.inf, (n,), np.float64)  # noqa: E731
        goal = row(2 if fault == "sizes" else 1)
        self.observation_space = gymnasium.spaces.Dict(observation=row(2), achieved_goal=row(1), desired_goal=goal)
        if fault == "no dict":
            self.observation_space = row(2)
        self.action_space, self.fault = gymnasium.spaces.Box(-1, 1, (1,)), fault

    def seen(self) -> Any:
        return {"observation": np.array([self.x, 7.0]), "achieved_goal": np.array([self.x]), "desired_goal": self.goal}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.goal = 0.0, self.np_random.uniform(-2, 2, 1)
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, bool, dict[str, Any]]:
        self.x += float(action[0])
        pair = np.array([self.x]), self.goal
        effort = float(np.square(action).sum()) if self.fault == "effort" else 0.0
        info = {"scale": 2.0} if self.fault == "info" else {}
        reward, over = self.compute_reward(*pair, info) - effort, self.compute_terminated(*pair, info)
        return self.seen(), reward, over, False, info

    def compute_reward(self, achieved: Any, desired: Any, info: dict[str, Any]) -> float:
        scale = info["scale"] if self.fault == "info" else 1.0
        return 0.0 if abs(float(achieved[0]) - float(desired[0])) < 0.3 else -scale

    def compute_terminated(self, achieved: Any, desired: Any, info: dict[str, Any]) -> bool:
        return bool(abs(float(achieved[0]) - float(desired[0])) < 0.3)


def line(fault: str = "", n: int = 3, length: int = 8) -> GoalsFromGymnasium:
    return GoalsFromGymnasium(lambda: TimeLimit(Line(fault), length), n, horizon=40)


@pytest.fixture(scope="module")
def reach() -> GoalsFromGymnasium:
    return fetch("FetchReach-v4", n=2)


def remembered(environment: Any, seed: int = 0) -> tuple[Replay, int]:
    """A trial of random actions in a memory, and how many environments there are."""
    tasks = environment.sample(environment.copies.envs.num_envs, generator(0))
    trial = collect(environment, at_random(environment.problem), tasks, generator(seed))
    return Replay.of(trial), len(tasks)


def test_a_relabelled_step_earns_what_fetch_says(reach: GoalsFromGymnasium) -> None:
    memory, n = remembered(reach)
    slot, row = memory.draw(400, generator(1))
    steps = Hindsight(reach, "future", share=1.0)(memory, slot, row, memory.take(slot, row), generator(2))
    terminated, after = steps.ends()
    achieved, desired = reach.goals(after)
    judge = reach.judge.rule
    expected = [judge.compute_reward(*pair, {}) for pair in zip(achieved.numpy(), desired.numpy(), strict=True)]
    assert steps.reward.flatten().tolist() == np.array(expected).flatten().tolist()
    assert 0.1 < float((steps.reward == 0).float().mean()) < 0.9  # goals that were reached later: some now, some not
    assert not bool(terminated.any())
    old = memory.take(slot, row)
    assert torch.equal(steps.observation[..., :-3], old.observation[..., :-3])  # only what is desired was changed
    assert torch.equal(reach.outcome(reach.goals(old.ends()[1])[0], reach.goals(old.observation)[1])[0], old.reward)


def test_fetch_ends_by_time_alone_and_draws_new_goals(reach: GoalsFromGymnasium) -> None:
    tasks = reach.sample(2, generator(0))
    assert reach.problem.x_shape == (16,) and reach.problem.n_outputs == 4 and reach.horizon == 50
    state, first = reach.reset(tasks, generator(3))
    for time in range(1, 51):
        state, seen, _, terminated, truncated = reach.step(state, torch.ones(2, 4), tasks, generator(0))
        assert not bool(terminated.any()) and truncated.tolist() == [time == 50] * 2
    assert torch.equal(reach.goals(seen)[1], reach.goals(first)[1])  # the last step's own, not the next episode's
    assert bool((reach.goals(seen)[0] - reach.goals(first)[0]).norm(dim=1).min() > 0.1)
    _, again = reach.reset(tasks, generator(4))
    torch.testing.assert_close(reach.goals(again)[0], reach.goals(first)[0], atol=1e-6, rtol=0)
    assert float((reach.goals(again)[1] - reach.goals(first)[1]).norm(dim=1).min()) > 0.01


def test_fetch_is_mended_and_not_changed(reach: GoalsFromGymnasium) -> None:
    """The package's own code with its assertions left out (python -O), and ours: the same, bit for bit."""
    own = subprocess.run([sys.executable, "-W", "ignore", "-O", "-c", PUSHES], capture_output=True, text=True)
    env = reach.judge.env
    seen, _ = env.reset(seed=3)
    for action in np.random.default_rng(0).uniform(-1, 1, (30, 4)).astype("float32"):
        seen, reward, *_ = env.step(action)
    ours = f"{seen['observation'].tobytes().hex()} {seen['desired_goal'].tobytes().hex()} {reward}"
    assert own.stdout.strip() == ours, own.stderr


def test_ends_are_relabelled_too_where_the_rule_is_written_for_one_goal() -> None:
    env = line()
    assert not env.by_rows
    memory, _ = remembered(env)
    slot, row = memory.draw(200, generator(1))
    steps = memory.take(slot, row)
    assert bool((steps.ends()[0] == 1).any()) and bool((steps.done > steps.ends()[0]).any())  # ends and cuts
    goal = env.goals(steps.ends()[1])[0] + 0.6 * torch.rand(200, 1, 1, generator=generator(2))
    found = want(env, steps, goal, torch.ones(200, 1, dtype=torch.bool))
    near = (goal - env.goals(steps.ends()[1])[0]).abs().squeeze(-1) < 0.3
    assert torch.equal(found.reward, near.float() - 1) and torch.equal(found.ends()[0], near.float())


@pytest.mark.parametrize(
    "fault, message",
    [
        ("no dict", r"Expected observations as a dict of observation, achieved_goal, desired_goal"),
        ("sizes", "Expected goals of one size. Found 1 numbers achieved and 2 desired"),
        ("info", r"Expected compute_reward\(achieved, desired, \{\}\) to give a number. Found KeyError"),
    ],
)
def test_what_cannot_be_relabelled_is_refused(fault: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        line(fault)


def test_a_reward_that_hangs_on_more_than_goals_is_named() -> None:
    env = line("effort")
    with pytest.raises(RunError, match=r"Expected reward -?\d.*as compute_reward says.*in step 1 of"):
        collect(env, at_random(env.problem), env.sample(3, generator(0)), generator(0))


def test_environments_without_a_rule_are_refused() -> None:
    class Mute(gymnasium.Wrapper[Any, Any, Any, Any]):
        unwrapped = property(lambda self: object())

    with pytest.raises(InputError, match="Expected compute_reward and compute_terminated"):
        GoalsFromGymnasium(lambda: Mute(Line()), horizon=5)
    with pytest.raises(InputError, match="Expected a time limit"):
        GoalsFromGymnasium(Line)


def test_fetch_names_what_there_is() -> None:
    with pytest.raises(InputError, match="FetchPush-v4, .*FetchReach-v4.*Found 'FetchFly-v4'"):
        fetch("FetchFly-v4")


def test_standardised_observations_keep_goals_in_their_units() -> None:
    plain = line(n=4)
    tasks = plain.sample(4, generator(0))
    trial = collect(plain, at_random(plain.problem), tasks, generator(1))
    same = standardised(plain, trial.observation)
    again = collect(same, at_random(same.problem), tasks, generator(1))
    assert torch.equal(again.reward, trial.reward) and torch.equal(again.done, trial.done)
    spread = again.observation.flatten(0, 1)
    torch.testing.assert_close(spread.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(spread.std(0), torch.tensor([1.0, 0.0, 1.0, 1.0]), atol=1e-4, rtol=0)  # 7 stays 7
    for one, other in zip(same.goals(again.observation), plain.goals(trial.observation), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    goal = torch.full_like(trial.observation[..., :1], 0.5)
    torch.testing.assert_close(
        same.relabel(again.observation, goal), same.seen(plain.relabel(trial.observation, goal)), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(same.outcome(goal, goal)[0], plain.outcome(goal, goal)[0])
