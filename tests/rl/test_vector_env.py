"""Gymnasium both ways: its checker passes, no transition is made up, and what breaks the contract is named."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from quickstudy.core import Environment, InputError, RunError
from quickstudy.tasks import vector_env
from quickstudy.tasks.acting import Rule, at_random
from quickstudy.tasks.bitflip import BitFlip
from quickstudy.tasks.classic import CartPole, Pendulum
from quickstudy.tasks.grids import Maze
from quickstudy.tasks.point import PointMaze, PointRobot
from quickstudy.tasks.tabular import TabularMDPs
from quickstudy.tasks.vector_env import FromGymnasium, OneToGymnasium, ToGymnasium
from quickstudy.training.fit_rl import collect

MODES = list(AutoresetMode)
OURS: dict[str, Environment] = {
    "tabular": TabularMDPs(4, 3, length=5),
    "maze": Maze(length=6),
    "bits": BitFlip(3),
    "point": PointRobot(length=5),
    "point maze": PointMaze(length=6),
    "cart-pole": CartPole(length=25),
    "pendulum": Pendulum(length=5),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cart_poles(n: int, mode: AutoresetMode, **more: Any) -> SyncVectorEnv:
    envs = gymnasium.make_vec(
        "CartPole-v1", n, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **more
    )
    assert isinstance(envs, SyncVectorEnv)
    return envs


@pytest.mark.parametrize("environment", OURS.values(), ids=OURS)
@pytest.mark.filterwarnings("ignore:.*(not within the observation space|Box observation space m).*")
def test_gymnasiums_checker_passes(environment: Environment) -> None:
    check_env(OneToGymnasium(environment), skip_render_check=True)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=lambda mode: mode.value)
@pytest.mark.parametrize("environment", OURS.values(), ids=OURS)
def test_ours_behaves_as_gymnasiums_own_vector_environment_does(environment: Environment, mode: AutoresetMode) -> None:
    """The same spaces, shapes, types and words, and after each end what the mode says."""
    ours = ToGymnasium(environment, 4, mode)
    theirs = SyncVectorEnv([lambda: OneToGymnasium(environment)] * 4, autoreset_mode=mode)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    ours.action_space.seed(0)
    for envs in (ours, theirs):
        observation, infos = envs.reset(seed=0)
        assert observation in envs.observation_space and infos == {}
        ended = np.zeros(4, dtype=bool)
        for _ in range(30):
            before = observation
            observation, reward, terminated, truncated, infos = envs.step(ours.action_space.sample())
            assert observation in envs.observation_space and observation is not before
            assert reward.shape == terminated.shape == truncated.shape == (4,)
            assert reward.dtype == np.float64 and terminated.dtype == truncated.dtype == bool
            if mode is AutoresetMode.NEXT_STEP:
                assert not (ended & (terminated | truncated)).any() and (reward[ended] == 0).all() and infos == {}
            ended = terminated | truncated
            if mode is AutoresetMode.SAME_STEP and ended.any():
                assert infos["_final_obs"].tolist() == ended.tolist()
                assert all((infos["final_obs"][i] is not None) == ended[i] for i in range(4))
        assert not (terminated & truncated).any()


def test_a_seed_fixes_everything_and_its_lack_does_not() -> None:
    def run(seed: int | None) -> np.ndarray[Any, Any]:
        envs = ToGymnasium(CartPole(length=20), 3)
        envs.action_space.seed(1)
        seen = [envs.reset(seed=seed)[0]]
        return np.stack(seen + [envs.step(envs.action_space.sample())[0] for _ in range(60)])

    assert np.array_equal(run(5), run(5)) and not np.array_equal(run(5), run(6))
    assert not np.array_equal(run(None), run(None))


def test_the_last_observation_is_the_episodes_own() -> None:
    """A pole that fell lies beyond 12 degrees or the track's end; the first observation of the next stands."""
    envs = ToGymnasium(CartPole(), 5, AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    fell = 0
    for _ in range(60):
        observation, _, terminated, _, infos = envs.step(np.ones(5, dtype=np.int64))
        for i in terminated.nonzero()[0]:
            last = infos["final_obs"][i]
            assert abs(last[0]) > 2.4 or abs(last[2]) > 12 * 2 * np.pi / 360
            assert np.abs(observation[i]).max() <= 0.05
            fell += 1
    assert fell > 10


def test_wrappers_of_gymnasium_count_our_episodes() -> None:
    envs = RecordEpisodeStatistics(ToGymnasium(BitFlip(3), 6, AutoresetMode.SAME_STEP))
    envs.reset(seed=0)
    length = []
    for _ in range(40):
        *_, terminated, truncated, infos = envs.step(np.zeros(6, dtype=np.int64))
        done = terminated | truncated
        if done.any():
            length += infos["episode"]["l"][done].tolist()
    assert set(length) <= {1, 2, 3} and len(length) > 60


def test_resets_by_mask_leave_the_others_alone() -> None:
    envs = ToGymnasium(Pendulum(length=3), 2, AutoresetMode.DISABLED)
    before, _ = envs.reset(seed=0)
    after, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert not np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1])
    for _ in range(3):
        *_, truncated, _ = envs.step(np.zeros((2, 1), dtype=np.float32))
    assert truncated.all()
    with pytest.raises(InputError, match=r"tasks that ended to be reset. Found task 0 at step 4"):
        envs.step(np.zeros((2, 1), dtype=np.float32))


def test_bad_actions_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="Expected a reset before the first step"):
        ToGymnasium(CartPole(), 2).step(np.zeros(2, dtype=np.int64))
    envs = ToGymnasium(CartPole(), 2)
    envs.reset(seed=0)
    with pytest.raises(InputError, match="actions 0 to 1. Found 2 for task 1"):
        envs.step(np.array([0, 2]))
    with pytest.raises(InputError, match=r"actions of 2 tasks. Found shape \(3,\)"):
        envs.step(np.array([0, 1, 0]))
    pendulums = ToGymnasium(Pendulum(), 2)
    pendulums.reset(seed=0)
    with pytest.raises(InputError, match=r"in \[-1, 1\]. Found \[1.5\] for task 0 at step 1"):
        pendulums.step(np.array([[1.5], [0.0]], dtype=np.float32))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_no_transition_is_made_up(mode: AutoresetMode) -> None:
    """Every step within an episode is one of cart-pole's own, which our equal of it can check."""
    theirs, ours = FromGymnasium(cart_poles(3, mode), horizon=120), CartPole()
    tasks = theirs.sample(3, generator(0))
    trial = collect(theirs, at_random(theirs.problem), tasks, generator(1))
    physics = ours.sample(1, generator(0))
    within = trial.done[:, :-1] == 0
    before, action, after = trial.observation[:, :-1][within], trial.action[:, :-1][within], trial.observation[:, 1:]
    state = torch.cat([before, torch.zeros(len(before), 1)], 1)
    _, expected, *_ = ours.step(state, action, physics.expand(len(before), -1), generator(0))
    torch.testing.assert_close(expected, after[within], atol=1e-5, rtol=1e-5)
    assert bool((trial.reward == 1).all())  # a step spent on resetting would earn 0
    assert float(after[~within].abs().max()) <= 0.05  # after an end comes a first observation
    assert bool((trial.done.sum(1) > 2).all())


def test_all_modes_give_the_same_episodes() -> None:
    trials = [
        collect(env, at_random(env.problem), env.sample(4, generator(0)), generator(1))
        for env in (FromGymnasium(cart_poles(4, mode), horizon=80) for mode in MODES)
    ]
    assert all(torch.equal(trials[0].observation, other.observation) for other in trials[1:])


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_the_last_step_leads_to_the_last_observation_and_truncation_is_not_termination(mode: AutoresetMode) -> None:
    env = FromGymnasium(cart_poles(2, mode, max_episode_steps=5))
    tasks = env.sample(2, generator(0))
    state, first = env.reset(tasks, generator(0))
    for time in range(1, 6):
        state, seen, _, terminated, truncated = env.step(state, torch.tensor([0, 1]), tasks, generator(0))
        assert terminated.tolist() == [False] * 2 and truncated.tolist() == [time == 5] * 2
    assert bool((seen[:, 1].abs() > 0.5).all())  # five pushes of one kind: fast by now, as no first observation is
    state, again = env.reset(tasks, generator(1))
    assert float(again.abs().max()) <= 0.05 and not torch.equal(first, again)


def test_pendulum_through_gymnasium_is_ours() -> None:
    envs = gymnasium.make_vec("Pendulum-v1", 2, vectorization_mode="sync")
    theirs, ours = FromGymnasium(envs), Pendulum()
    assert theirs.problem == ours.problem and theirs.horizon == 200
    tasks = theirs.sample(2, generator(0))
    state, seen = theirs.reset(tasks, generator(1))
    mine = torch.stack([torch.atan2(seen[:, 1], seen[:, 0]), seen[:, 2], torch.zeros(2)], 1)
    physics = ours.sample(2, generator(0))
    for time in range(5):
        action = 2.4 * torch.rand(2, 1, generator=generator(time)) - 1.2
        state, seen, reward, _, _ = theirs.step(state, action, tasks, generator(0))
        mine, expected, earned, _, _ = ours.step(mine, action, physics, generator(0))
        torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(reward, earned, atol=1e-3, rtol=1e-4)


def test_there_and_back_is_the_same_environment() -> None:
    ours = BitFlip(4)
    goals = ours.sample(50, generator(0))
    back = FromGymnasium(ToGymnasium(ours, goals, AutoresetMode.SAME_STEP), horizon=8)
    oracle = ours.oracle(goals)
    trial = collect(back, Rule(oracle.rule), back.sample(50, generator(0)), generator(1))
    steps = ours.optimal_steps(trial.observation[:, 0])
    assert torch.equal(trial.done.argmax(1) + 1, steps)  # every episode takes as many steps as bits differ


def test_an_observation_of_kinds_becomes_one_hot() -> None:
    env = FromGymnasium(gymnasium.make_vec("CliffWalking-v1", 2, vectorization_mode="sync"), horizon=5)
    tasks = env.sample(2, generator(0))
    state, seen = env.reset(tasks, generator(0))
    assert env.problem.x_shape == (48,) and seen.argmax(1).tolist() == [36, 36] and seen.sum().item() == 2
    state, seen, _, _, _ = env.step(state, torch.tensor([0, 0]), tasks, generator(0))
    assert seen.argmax(1).tolist() == [24, 24]


def test_going_back_in_time_is_refused() -> None:
    env = FromGymnasium(cart_poles(2, AutoresetMode.NEXT_STEP))
    tasks = env.sample(2, generator(0))
    state, _ = env.reset(tasks, generator(0))
    env.step(state, torch.tensor([0, 1]), tasks, generator(0))
    with pytest.raises(InputError, match=r"Expected the latest state, that after step 1. Found \[0, 0\]"):
        env.step(state, torch.tensor([0, 1]), tasks, generator(0))
    with pytest.raises(InputError, match=r"draw all 2 sub-environments. Found 3"):
        env.sample(3, generator(0))


class Faulty(VectorEnv[Any, Any, Any]):
    """Two environments that do wrong in the third step."""

    def __init__(self, fault: str) -> None:
        self.fault, self.num_envs, self.time = fault, 2, 0
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(2)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros((2, 3), np.float32), {}

    def step(self, actions: Any) -> Any:
        self.time += 1
        seen, reward, no = np.zeros((2, 3), np.float32), np.zeros(2), np.zeros(2, dtype=bool)
        if self.time < 3:
            return seen, reward, no, no, {}
        return {
            "four": (seen, reward, no, {}),
            "shape": (seen[:, :2], reward, no, no, {}),
            "too many": (np.zeros((3, 3), np.float32), reward, no, no, {}),
            "ragged": ([[0.0, 0.0, 0.0], [0.0]], reward, no, no, {}),
            "words": (np.full((2, 3), "a"), reward, no, no, {}),
            "one reward": (seen, 0.0, no, no, {}),
            "numbers for bools": (seen, reward, np.zeros(2), no, {}),
            "no final": (seen, reward, np.array([False, True]), no, {}),
            "nan": (seen, np.array([0, np.nan]), no, no, {}),
        }[self.fault]


@pytest.mark.parametrize(
    "fault, message",
    [
        ("four", r"step to give \(observations, .*not 4 things. .*breaks Gymnasium's contract at step 3"),
        ("shape", r"observations of shape \(2, 3\) as in Box\(.*not float32 \(2, 2\).*at step 3"),
        ("too many", r"observations of shape \(2, 3\) as in Box\(.*not float32 \(3, 3\).*at step 3"),
        ("ragged", r"all of one shape, not shapes that differ.*at step 3"),
        ("words", r"observations of shape \(2, 3\) as in Box\(.*not <U1 \(2, 3\).*at step 3"),
        ("one reward", r"rewards of 2 numbers, not float64 \(\)"),
        ("numbers for bools", r"terminations of 2 bools, not float64 \(2,\)"),
        ("no final", r"infos\['final_obs'\] for every episode that ended"),
        ("nan", r"The reward should be finite. Found nan for task 1 .* at step 3"),
    ],
)
def test_what_breaks_the_contract_is_named(fault: str, message: str) -> None:
    env = FromGymnasium(Faulty(fault), horizon=10)
    with pytest.raises(RunError, match=message):
        collect(env, at_random(env.problem), env.sample(2, generator(0)), generator(0))


def test_a_reset_that_breaks_the_contract_is_named() -> None:
    class Bare(Faulty):
        def reset(self, **_: Any) -> Any:
            return np.zeros((2, 3), np.float32) if self.fault == "no infos" else (np.full((2, 3), np.nan), {})

    with pytest.raises(RunError, match=r"reset to give \(observations, infos\), not ndarray.*at step 0"):
        FromGymnasium(Bare("no infos"), horizon=3).reset(torch.zeros(2, 1), generator(0))
    with pytest.raises(RunError, match="The observation after a reset should be finite. Found .*nan.* for task 0"):
        FromGymnasium(Bare("nan"), horizon=3).reset(torch.zeros(2, 1), generator(0))


def test_a_kind_that_there_is_not_is_named() -> None:
    env = FromGymnasium(gymnasium.make_vec("CliffWalking-v1", 2, vectorization_mode="sync"), horizon=5)
    with pytest.raises(RunError, match=r"observations as in Discrete\(48\), not 48"):
        env.numbers(np.array([3, 48]))


def test_actions_that_are_no_numbers_are_refused() -> None:
    envs = ToGymnasium(BitFlip(4), 2)
    envs.reset(seed=0)
    with pytest.raises(InputError, match=r"actions of 2 tasks, as numbers. Found NoneType"):
        envs.step(None)
    with pytest.raises(InputError, match=r"actions of 2 tasks, as numbers. Found list"):
        envs.step([[0, 1], [0]])


def test_what_cannot_be_served_is_refused() -> None:
    silent = Faulty("nan")
    silent.metadata = {}
    with pytest.raises(InputError, match="by which a vector environment says how it resets"):
        FromGymnasium(silent, horizon=3)
    next_step = Faulty("nan")
    next_step.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    with pytest.raises(InputError, match=r"resets in the same step.*Make it with AutoresetMode.SAME_STEP"):
        FromGymnasium(next_step, horizon=3)
    with pytest.raises(InputError, match="Expected a time limit"):
        FromGymnasium(Faulty("nan"))
    odd = Faulty("nan")
    odd.single_action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(InputError, match="a Box with bounds"):
        FromGymnasium(odd, horizon=3)
    blackjack = gymnasium.make_vec("Blackjack-v1", 2, vectorization_mode="sync")
    with pytest.raises(InputError, match="FlattenObservation"):
        FromGymnasium(blackjack, horizon=3)


def test_a_missing_extra_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(InputError, match=r"pip install quickstudy\[rl\]"):
        importlib.reload(vector_env)
