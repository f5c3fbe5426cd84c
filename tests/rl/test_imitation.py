"""Imitation: the closed forms of cloning, who acts and who is asked, and what that does to errors that compound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quickstudy.core import Explorer, InputError, Problem, Trajectory
from quickstudy.methods import PPO, BehaviourCloning, DAgger
from quickstudy.methods.rl._policies import best_of
from quickstudy.tasks.acting import Rule, at_random
from quickstudy.tasks.bitflip import BitFlip
from quickstudy.tasks.classic import Pendulum
from quickstudy.tasks.tabular import TabularMDPs
from quickstudy.training import collect, first_returns, fit_imitation
from quickstudy.training.fit_imitation import taught


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def descend(method: Explorer, trials: Trajectory) -> None:
    """To the bottom of the losses."""
    solver = torch.optim.LBFGS(
        method.parameters(), max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = method.losses(trials).mean()
        value.backward()
        return value

    solver.step(loss)


def test_cloning_a_continuous_teacher_is_least_squares() -> None:
    env = Pendulum(length=40)
    wish = torch.tensor([0.3, -0.5, 0.1])

    def rule(seen: Tensor, chance: torch.Generator) -> Tensor:
        return (seen @ wish + 0.1 + 0.2 * torch.randn(len(seen), generator=chance)).unsqueeze(1)

    found = collect(env, Rule(rule), env.sample(6, generator(0)), generator(1))
    trials = Trajectory(**{k: v.double() for k, v in vars(found).items()})
    method = BehaviourCloning(env.problem, linear=True).double()
    descend(method, trials)
    x = torch.cat([trials.observation.flatten(0, 1), torch.ones(240, 1).double()], 1)
    y = trials.action.flatten(0, 1)
    expected = torch.linalg.lstsq(x, y).solution.squeeze(1)
    layer = method.actor.net[0]  # type: ignore[index]
    assert isinstance(layer, torch.nn.Linear)
    weight = torch.cat([layer.weight.detach().squeeze(0), layer.bias.detach()])
    torch.testing.assert_close(weight, expected, atol=1e-6, rtol=1e-6)
    spread = (y.squeeze(1) - x @ expected).square().mean().sqrt()  # and the deviation is that of what is left
    torch.testing.assert_close(method.actor.log_deviation.detach().exp().squeeze(), spread, atol=1e-6, rtol=1e-6)


def test_cloning_a_discrete_teacher_is_counting() -> None:
    env = TabularMDPs(states=3, actions=4, length=100)
    trials = collect(env, at_random(env.problem), env.sample(5, generator(0)).double(), generator(1))
    method = BehaviourCloning(env.problem, linear=True).double()
    descend(method, trials)
    did = torch.nn.functional.one_hot(trials.action, 4).double()
    counts = torch.einsum("tis,tia->sa", trials.observation, did)
    found = method.adapt(trials)(torch.eye(3).double().unsqueeze(0)).softmax(-1).detach()[0]  # type: ignore[union-attr]
    torch.testing.assert_close(found, counts / counts.sum(1, keepdim=True), atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_teacher_is_asked_everywhere_and_acts_as_often_as_said(share: float) -> None:
    env = BitFlip(8)
    tasks = env.sample(400, generator(0))
    trials = taught(env, at_random(env.problem), env.oracle(tasks), tasks, share, generator(1))
    advice, _, _ = env.oracle(tasks).act(trials.observation.flatten(0, 1), torch.zeros(0), generator(0))
    assert torch.equal(trials.action.flatten(), advice)
    _, after = trials.ends()
    did = (env.goals(after)[0] - env.goals(trials.observation)[0]).abs().argmax(-1)
    followed = float((did == trials.action).float().mean())
    assert followed == pytest.approx(share + (1 - share) / 8, abs=0.03)  # chance agrees in one of eight


@dataclass(frozen=True)
class Lane:
    """Each step shows one of many scenes, which has its own right action; a wrong one leads into the ditch.

    In the ditch one action leads back and nothing is earned. Who never errs never sees it.
    """

    scenes: int = 100
    horizon: int = 50

    @property
    def problem(self) -> Problem:
        return Problem((self.scenes + 1,), "classification", 16)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(n, 1)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        state = torch.stack(
            [torch.randint(self.scenes, (len(tasks),), generator=generator), torch.zeros(len(tasks)).long()], 1
        )
        return state, self.see(state)

    def see(self, state: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(state[:, 0], self.scenes + 1).float()

    def right(self, scene: Tensor) -> Tensor:
        return (7 * scene + scene // 3) % 16

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        scene, time = state.unbind(1)
        good = action == self.right(scene)
        earned = good & (scene < self.scenes)
        fresh = torch.randint(self.scenes, scene.shape, generator=generator)
        state = torch.stack([fresh.where(good, self.scenes), time + 1], 1)
        return state, self.see(state), earned.float(), torch.zeros_like(good), time + 1 >= self.horizon

    def oracle(self, tasks: Tensor) -> Rule:
        return Rule(lambda seen, generator: self.right(seen.argmax(1)))


@pytest.mark.parametrize("seed", [0, 1])
def test_dagger_cures_errors_that_compound(seed: int) -> None:
    """Equally many labels: the clone stays in the first ditch, who asked there comes back."""
    env, reached = Lane(), {}
    for cls in (BehaviourCloning, DAgger):
        method = cls(env.problem, generator=generator(seed))
        fit_imitation(method, env, env.oracle, rounds=4, tasks=1, passes=60, lr=1e-2, generator=generator(10 + seed))
        trials = collect(env, best_of(method), env.sample(300, generator(0)), generator(5))
        reached[cls] = float(first_returns(trials).mean()) / env.horizon
    assert reached[BehaviourCloning] < 0.4 and reached[DAgger] > 0.5


class Killed(Exception):
    pass


def test_a_killed_and_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    env, file = Lane(scenes=5, horizon=6), tmp_path / "run.safetensors"

    def run(resume: bool, stop: int, checkpoint: Path | None) -> tuple[DAgger, object]:
        def progress(done: int, rounds: int) -> None:
            if done == stop:
                raise Killed

        method = DAgger(env.problem, width=8, decay=0.5, generator=generator(0))
        return method, fit_imitation(
            method, env, env.oracle, rounds=4, tasks=3, passes=5, generator=generator(1), checkpoint=checkpoint,
            resume=resume, progress=progress,
        )  # fmt: skip

    whole, history = run(False, -1, None)
    with pytest.raises(Killed):
        run(False, 2, file)
    resumed, after = run(True, -1, file)
    assert after == history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_shares_of_the_teacher() -> None:
    problem = Problem((2,), "classification", 2)
    assert [DAgger(problem).teacher_share(i) for i in range(3)] == [1, 0, 0]
    assert [DAgger(problem, decay=0.5).teacher_share(i) for i in range(3)] == [1, 0.5, 0.25]
    assert BehaviourCloning(problem).teacher_share(7) == 1


def test_a_method_without_a_teacher_is_refused() -> None:
    env = Lane()
    with pytest.raises(InputError, match=r"learns from a teacher.*Found PPO"):
        fit_imitation(PPO(env.problem), env, env.oracle)
