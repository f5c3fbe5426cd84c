"""RL2 and its loop: right gradient, no leaks between tasks, learns what is easy, goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from quickstudy.core import InputError, Problem, RunError, Trajectory
from quickstudy.methods.rl._returns import returns_to_go
from quickstudy.methods.rl.rl2 import RL2
from quickstudy.tasks.bandits import BernoulliBandits, RandomArm, Thompson
from quickstudy.tasks.classic import CartPole
from quickstudy.tasks.point import PointRobot
from quickstudy.training.fit_rl import collect, fit_rl


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class OnePays(BernoulliBandits):
    """One arm always pays, the others never do."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.eye(self.arms)[torch.randint(self.arms, (n,), generator=generator)]


class HiddenNumber:
    """Episodes of one step: say the number that is the task, which earns minus the squared error. Three a trial."""

    problem = Problem((0,), "regression", 1)
    horizon = 3

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(n, 1, generator=generator) - 1

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return tasks.new_zeros(len(tasks), 0), tasks.new_zeros(len(tasks), 0)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        never = torch.zeros(len(tasks), dtype=torch.bool)
        return state, state, -(action.clamp(-1, 1) - tasks).square().squeeze(1), ~never, never


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


def test_the_gradient_is_the_policy_gradient_of_a_continuous_action() -> None:
    r"""With :math:`r = -(a - c)^2`, :math:`E r = -(\mu - c)^2 - \sigma^2`; quadrature makes the expectation exact."""
    method = RL2(HiddenNumber().problem, value_weight=0.0, entropy_weight=0.0, generator=generator(1)).double()
    with torch.no_grad():
        method.policy_head.bias.fill_(0.3)
    policy = method.explorer()
    seen = method.see(torch.zeros(1, 0), policy.start(1))
    mean, deviation = method.policy_head(seen[:, : method.width]).squeeze(), method.log_deviation.exp().squeeze()
    node, weight = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(8))
    action = (mean + deviation * node).detach()
    each = Trajectory(
        observation=torch.zeros(8, 1, 0, dtype=torch.float64),
        action=action.view(8, 1, 1),
        reward=-(action - 0.7).square().unsqueeze(1),
        done=torch.ones(8, 1, dtype=torch.float64),
        log_prob=Normal(mean, deviation).log_prob(action).detach().unsqueeze(1),
    )
    parameters = [*method.memory.parameters(), *method.policy_head.parameters(), method.log_deviation]
    found = torch.autograd.grad((weight / weight.sum() * method.losses(each)).sum(), parameters)
    expected = torch.autograd.grad((mean - 0.7).square() + deviation.square(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)
    assert float(expected[-1]) == pytest.approx(2 * 0.6**2)


def values(method: RL2, trial: Trajectory) -> Tensor:
    return method.value_head(method.value_memory(method._inputs(trial))[0]).squeeze(-1)


def test_advantages_are_those_of_the_definition() -> None:
    bandits = BernoulliBandits(2, 4)
    method = RL2(bandits.problem, discount=0.9, gae=0.7, generator=generator(0))
    trial = collect(bandits, method.explorer(), bandits.sample(2, generator(0)), generator(1))
    value = values(method, trial).detach()
    after = torch.cat([value[:, 1:], torch.zeros(2, 1)], 1)
    surprise = trial.reward + 0.9 * after - value
    expected = torch.zeros(2, 4)
    for s in range(4):
        for k in range(4 - s):
            expected[:, s] += 0.63**k * surprise[:, s + k]
    torch.testing.assert_close(method._judge(trial)[1], expected)


def test_the_value_net_says_what_a_step_earns() -> None:
    """A reward of 1 a step for ever is worth 1 / (1 - gamma); the net's own number for it is 1, and so is its error."""
    bandits = BernoulliBandits(2, 4)
    method = RL2(bandits.problem, discount=0.99, value_weight=1.0, entropy_weight=0.0, generator=generator(0))
    trial = collect(bandits, method.explorer(), bandits.sample(3, generator(0)), generator(1))
    with torch.no_grad():
        weight, bias = method.value_head.parameters()
        weight.zero_()
        bias.fill_(1.0)
    torch.testing.assert_close(values(method, trial), torch.full((3, 4), 100.0))
    advantage = method._judge(trial)[1]
    torch.testing.assert_close(method.losses(trial), (-advantage + (0.01 * advantage).square()).mean(1))


class Falls(CartPole):
    """A cart-pole whose trials are many short episodes, some cut off after three steps."""

    @property
    def horizon(self) -> int:
        return 12


def test_an_episodes_credit_ends_with_it() -> None:
    """Against the definition: no sum over an end; where time was up, the value of what was seen last stands in."""
    pole = Falls(length=3)
    method = RL2(pole.problem, discount=0.9, gae=0.7, credit="episode", generator=generator(0))
    trial = collect(pole, method.explorer(), pole.sample(4, generator(0)), generator(1))
    trial = replace(trial, terminated=trial.done * (torch.arange(12) < 6))  # the first two falls, then time is up
    assert trial.done[0].tolist() == [0, 0, 1] * 4
    value, (terminated, after) = values(method, trial).detach(), trial.ends()
    following = torch.empty(4, 12)
    for s in range(12):  # the history up to s, with what step s led to behind
        longer = Trajectory(
            observation=torch.cat([trial.observation[:, : s + 1], after[:, s : s + 1]], 1),
            **{name: getattr(trial, name)[:, : s + 2] for name in ("action", "reward", "done", "log_prob")},
        )
        if s == 11:  # what is done next does not matter; there is none
            names = ("action", "reward", "done", "log_prob")
            longer = replace(
                longer, **{k: torch.cat([getattr(longer, k), getattr(longer, k)[:, :1]], 1) for k in names}
            )
        following[:, s] = values(method, longer).detach()[:, -1]
    surprise = trial.reward + 0.9 * (1 - terminated) * following - value
    expected = torch.zeros(4, 12)
    for s in range(12):
        for k in range(3 - s % 3):
            expected[:, s] += 0.63**k * surprise[:, s + k]
    torch.testing.assert_close(method._judge(trial)[1], expected)


def test_only_an_episodes_credit_sees_a_fall() -> None:
    """Each step of a cart-pole earns 1 and a fall begins anew: a trial earns the same, an episode does not."""
    pole = CartPole(length=60)
    fallen = {}
    for credit in ("trial", "episode"):
        method = RL2(pole.problem, width=16, discount=1.0, gae=1.0, credit=credit, generator=generator(0))
        trial = collect(pole, method.explorer(), pole.sample(16, generator(0)), generator(1))
        with torch.no_grad():
            next(method.value_head.parameters()).zero_()
        fallen[credit] = method._judge(trial)[1]
    left = (60 - torch.arange(60.0)).expand(16, 60)
    torch.testing.assert_close(fallen["trial"], left)  # what is left of the trial, whatever was done
    assert trial.done[:, :30].any(1).float().mean() > 0.5
    torch.testing.assert_close(fallen["episode"], returns_to_go(trial.reward, trial.done, 1.0))


def test_what_is_read_is_what_was_done() -> None:
    """The probabilities that the loss sees are those at which the actions were taken, at every step."""
    bandits = BernoulliBandits(4, 7)
    method = RL2(bandits.problem, generator=generator(2))
    trial = collect(bandits, method.explorer(), bandits.sample(6, generator(0)), generator(0))
    log_pi = method.policy_head(method.memory(method._inputs(trial))[0]).log_softmax(-1)
    now = log_pi.gather(-1, trial.action.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(now, trial.log_prob)


def test_a_continuous_action_is_read_as_it_was_done() -> None:
    """Its probability is that of the number drawn; what the nets read is what the environment did, within bounds."""
    world = PointRobot(length=3, episodes=2)
    method = RL2(world.problem, deviation=2.0, generator=generator(2))
    trial = collect(world, method.explorer(), world.sample(6, generator(0)), generator(0))
    assert (trial.action.abs() > 1).any() and trial.done[0].tolist() == [0, 0, 1] * 2
    inputs = method._inputs(trial)
    assert torch.equal(inputs[:, 1:, 2:4], trial.action[:, :-1].clamp(-1, 1)) and not inputs[:, 0, 2:].any()
    assert torch.equal(inputs[:, 1:, 4], trial.reward[:, :-1]) and torch.equal(inputs[:, 1:, 5], trial.done[:, :-1])
    torch.testing.assert_close(method._policy(method.memory(inputs)[0], trial.action)[0], trial.log_prob)


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


def test_each_episode_comes_nearer_to_a_hidden_number() -> None:
    """Blind, -1/3 is the best that there is on average. Only what came of earlier episodes tells more."""
    world = HiddenNumber()
    method = RL2(world.problem, width=32, discount=1.0, entropy_weight=0.0, generator=generator(0))
    fit_rl(method, world, steps=100, tasks=128, passes=8, lr=1e-2, generator=generator(1))
    trial = collect(world, method.explorer(), world.sample(1000, generator(9)), generator(9))
    first, second, third = trial.reward.mean(0).tolist()
    assert first < second < third and second > -1 / 3 + 0.05 and third > -0.1


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
    with pytest.raises(InputError, match=r"Expected credit 'trial' or 'episode'. Found 'step'"):
        RL2(Problem((3,), "classification", 2), credit="step")  # type: ignore[arg-type]
    assert "acting in an environment" in RL2.refuses(Problem((3,), "classification", 2))


def test_policies_of_one_environment_are_interchangeable() -> None:
    bandits = BernoulliBandits(3, 4)
    tasks = bandits.sample(6, generator(0))
    for policy in (RandomArm(3), RL2(bandits.problem).explorer()):
        trial = collect(bandits, policy, tasks, generator(0))
        assert trial.action.shape == trial.reward.shape == trial.log_prob.shape == (6, 4)
