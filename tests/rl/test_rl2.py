"""RL2 and its loop: right gradient, no leaks between tasks, learns what is easy, goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from quickstudy.core import InputError, Problem, RunError, Trajectory
from quickstudy.methods.rl.rl2 import RL2
from quickstudy.tasks.bandits import BernoulliBandits, RandomArm, Thompson
from quickstudy.training.fit_rl import collect, fit_rl


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class OnePays(BernoulliBandits):
    """One arm always pays, the others never do."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.eye(self.arms)[torch.randint(self.arms, (n,), generator=generator)]


def pick(trial: Trajectory, index: slice) -> Trajectory:
    return Trajectory(*(value[index] for value in vars(trial).values()))


def logits(method: RL2, trial: Trajectory) -> Tensor:
    found = method.adapt(trial)(torch.zeros(len(trial.action), 1, 0))
    assert isinstance(found, Tensor)
    return found


def test_the_gradient_is_the_policy_gradient_of_one_pull() -> None:
    """With one task an arm, weighted by the policy, the loss's gradient is minus that of ``sum_a pi_a p_a``."""
    method = RL2(BernoulliBandits(3, 1).problem, value_weight=0.0, entropy_weight=0.0, generator=generator(1)).double()
    p = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    policy = method.explorer()
    seen = method.see(torch.zeros(1, 0), policy.start(1))
    pi = method.policy_head(seen[:, : method.width]).softmax(-1).squeeze(0)
    each = Trajectory(
        observation=torch.zeros(3, 1, 0, dtype=torch.float64),
        action=torch.arange(3).unsqueeze(1),
        reward=p.unsqueeze(1),
        done=torch.ones(3, 1, dtype=torch.float64),
        log_prob=pi.detach().log().unsqueeze(1),
    )
    parameters = [*method.memory.parameters(), *method.policy_head.parameters()]
    found = torch.autograd.grad((pi.detach() * method.losses(each)).sum(), parameters)
    expected = torch.autograd.grad(-(pi * p).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)
    assert max(float(b.abs().max()) for b in expected) > 1e-3


def test_advantages_are_those_of_the_definition() -> None:
    method = RL2(BernoulliBandits(2, 4).problem, discount=0.9, gae=0.7)
    reward, value = torch.rand(2, 4, generator=generator(0)), torch.rand(2, 4, generator=generator(1))
    after = torch.cat([value[:, 1:], torch.zeros(2, 1)], 1)
    surprise = reward + 0.9 * after - value
    expected = torch.zeros(2, 4)
    for s in range(4):
        for k in range(4 - s):
            expected[:, s] += 0.63**k * surprise[:, s + k]
    torch.testing.assert_close(method._advantage(reward, value), expected)


def test_what_is_read_is_what_was_done() -> None:
    """The probabilities that the loss sees are those at which the actions were taken, at every step."""
    bandits = BernoulliBandits(4, 7)
    method = RL2(bandits.problem, generator=generator(2))
    trial = collect(bandits, method.explorer(), bandits.sample(6, generator(0)), generator(0))
    log_pi = method.policy_head(method.memory(method._inputs(trial))[0]).log_softmax(-1)
    now = log_pi.gather(-1, trial.action.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(now, trial.log_prob)


def test_adapting_to_a_history_is_to_have_lived_it() -> None:
    bandits = BernoulliBandits(3, 8)
    method = RL2(bandits.problem, generator=generator(3))
    trial = collect(bandits, method.explorer(), bandits.sample(5, generator(0)), generator(0))
    start = Trajectory(*(value[:, :5] for value in vars(trial).values()))
    expected = logits(method, start).log_softmax(-1).squeeze(1).gather(1, trial.action[:, 5:6])
    torch.testing.assert_close(expected.squeeze(1), trial.log_prob[:, 5])


def test_tasks_do_not_leak() -> None:
    bandits = BernoulliBandits(3, 6)
    method = RL2(bandits.problem, generator=generator(4))
    trial = collect(bandits, method.explorer(), bandits.sample(5, generator(0)), generator(0))
    losses, adapted = method.losses(trial), logits(method, trial)
    for t in range(5):
        alone = pick(trial, slice(t, t + 1))
        torch.testing.assert_close(method.losses(alone), losses[t : t + 1])
        torch.testing.assert_close(logits(method, alone), adapted[t : t + 1])


def test_a_new_task_begins_with_an_empty_memory() -> None:
    """What was seen in one call of ``collect`` leaves no trace in the next."""
    bandits = OnePays(2, 5)
    method = RL2(bandits.problem, generator=generator(5))
    tasks = bandits.sample(4, generator(0))
    first = collect(bandits, method.explorer(), tasks, generator(1))
    collect(bandits, method.explorer(), 1 - tasks, generator(2))
    again = collect(bandits, method.explorer(), tasks, generator(1))
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))


def test_memory_goes_on_and_the_episode_starts_anew_when_one_ends_within_the_trial() -> None:
    class Short(BernoulliBandits):
        """Episodes of two pulls within trials of five; the observation is the pull within the episode."""

        @property
        def problem(self) -> Problem:
            return Problem((1,), "classification", self.arms)

        def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return torch.zeros(len(tasks), dtype=torch.long), tasks.new_zeros(len(tasks), 1)

        def step(
            self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
        ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
            state, _, reward, _, _ = super().step(state, action, tasks, generator)
            return state, state.unsqueeze(1).float(), reward, state == 2, torch.zeros_like(state).bool()

    bandits = Short(2, 5)
    method = RL2(bandits.problem, generator=generator(6))
    trial = collect(bandits, method.explorer(), bandits.sample(3, generator(0)), generator(0))
    assert trial.observation[0, :, 0].tolist() == [0, 1, 0, 1, 0]
    assert trial.done[0].tolist() == [0, 1, 0, 1, 0]
    log_pi = method.policy_head(method.memory(method._inputs(trial))[0]).log_softmax(-1)
    torch.testing.assert_close(log_pi.gather(-1, trial.action.unsqueeze(-1)).squeeze(-1), trial.log_prob)


def test_learns_which_arm_pays() -> None:
    """One arm always pays: the best policy loses half of the first pull only."""
    bandits = OnePays(2, 5)
    method = RL2(bandits.problem, width=32, discount=1.0, generator=generator(0))
    test = bandits.sample(500, generator(9))
    before = float(collect(bandits, method.explorer(), test, generator(9)).reward.sum(1).mean())
    history = fit_rl(method, bandits, steps=60, tasks=128, passes=4, every=30, generator=generator(0))
    after = float(collect(bandits, method.explorer(), test, generator(9)).reward.sum(1).mean())
    assert before < 2.9 and after > 4.3  # chance 2.5, best 4.5
    assert history.step == [30, 60] and history.score[1] > history.score[0]


class Killed(Exception):
    pass


def test_a_killed_and_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    bandits, file = BernoulliBandits(3, 4), tmp_path / "run.safetensors"

    def run(resume: bool, stop: int, checkpoint: Path | None) -> tuple[RL2, object]:
        def progress(done: int, steps: int) -> None:
            if done == stop:
                raise Killed

        method = RL2(bandits.problem, width=16, generator=generator(0))
        return method, fit_rl(
            method,
            bandits,
            steps=9,
            tasks=8,
            passes=3,
            every=2,
            generator=generator(1),
            checkpoint=checkpoint,
            resume=resume,
            progress=progress,
        )

    whole, history = run(False, -1, None)
    with pytest.raises(Killed):
        run(False, 5, file)
    resumed, after = run(True, -1, file)
    assert after == history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_on_a_policy_without_probabilities_stops() -> None:
    class Blind(RL2):
        def explorer(self) -> Thompson:  # type: ignore[override]
            return Thompson(2)

    with pytest.raises(RunError, match="Expected finite losses. Found nan at step 0"):
        fit_rl(Blind(BernoulliBandits(2, 3).problem), BernoulliBandits(2, 3), steps=1, tasks=2)


def test_says_what_it_cannot_do() -> None:
    with pytest.raises(InputError, match=r"Expected discrete actions.*Found 'regression'"):
        RL2(Problem((3,), "regression", 2))
    assert "acting in an environment" in RL2.refuses(Problem((3,), "classification", 2))


def test_policies_of_one_environment_are_interchangeable() -> None:
    bandits = BernoulliBandits(3, 4)
    tasks = bandits.sample(6, generator(0))
    for policy in (RandomArm(3), RL2(bandits.problem).explorer()):
        trial = collect(bandits, policy, tasks, generator(0))
        assert trial.action.shape == trial.reward.shape == trial.log_prob.shape == (6, 4)
