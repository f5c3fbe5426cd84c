"""An environment that breaks down costs what came after, not what was learned before."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quickstudy.core import Explorer, RunError
from quickstudy.methods import DQN, PPO, BehaviourCloning
from quickstudy.tasks.bitflip import BitFlip
from quickstudy.training import collect, fit_imitation, fit_off_policy, fit_rl
from quickstudy.training.checkpoint import load_checkpoint


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass
class Breaks:
    """Bit-flip whose task 1 gives a NaN in a certain call of ``step`` or ``reset``; it can be mended."""

    call: int
    what: str
    mended: bool = False
    inner: BitFlip = field(default_factory=lambda: BitFlip(3))
    calls: dict[str, int] = field(default_factory=lambda: {"step": 0, "reset": 0})

    def __post_init__(self) -> None:
        self.problem, self.horizon, self.sample = self.inner.problem, self.inner.horizon, self.inner.sample
        self.oracle, self.goals = self.inner.oracle, self.inner.goals

    def spoil(self, name: str, *values: Tensor) -> tuple[Tensor, ...]:
        self.calls[name] += 1
        which = {"observation": 1, "reward": 2, "reset": 1}[self.what]
        if not self.mended and self.calls[name] == self.call and (name == "reset") == (self.what == "reset"):
            values = tuple(value.clone() for value in values)
            values[which][1] = torch.nan
        return values

    def reset(self, tasks: Tensor, generator: torch.Generator) -> Any:
        return self.spoil("reset", *self.inner.reset(tasks, generator))

    def step(self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator) -> Any:
        return self.spoil("step", *self.inner.step(state, action, tasks, generator))


def by_trials(env: Any, **options: Any) -> Explorer:
    method = PPO(env.problem, width=4, generator=generator(0))
    fit_rl(method, env, steps=4, tasks=3, passes=1, every=4, generator=generator(1), **options)
    return method


def by_memory(env: Any, **options: Any) -> Explorer:
    method = DQN(env.problem, width=4, generator=generator(0))
    fit_off_policy(method, env, steps=20, tasks=3, batch=4, warmup=6, every=20, generator=generator(1), **options)
    return method


def by_teacher(env: Any, **options: Any) -> Explorer:
    method = BehaviourCloning(env.problem, width=4, generator=generator(0))
    fit_imitation(method, env, env.oracle, rounds=4, tasks=3, passes=2, generator=generator(1), **options)
    return method


LOOPS = [
    pytest.param(by_trials, 8, 2, r"for task 1 .* at step 2", id="fit_rl"),
    pytest.param(by_memory, 8, 7, r"for task 1 .* at step 7", id="fit_off_policy"),
    pytest.param(by_teacher, 8, 2, r"for task 1 .* at step 2", id="fit_imitation"),
]


@pytest.mark.parametrize("what", ["observation", "reward"])
@pytest.mark.parametrize(("fit", "call", "step", "message"), LOOPS)
def test_names_task_and_step_saves_and_goes_on_once_mended(
    fit: Callable[..., Explorer], call: int, step: int, message: str, what: str, tmp_path: Path
) -> None:
    whole, path = fit(Breaks(0, what)), tmp_path / "run.safetensors"
    broken = Breaks(call, what)
    with pytest.raises(
        RunError, match=rf"The {what} .*Found .*nan.*{message}.*in step {step} of training.*run.safetens"
    ):
        fit(broken, checkpoint=path)
    assert load_checkpoint(path)[1]["step"] == step
    broken.mended = True
    resumed = fit(broken, checkpoint=path, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("call", [1, 3])
def test_a_reset_may_break_as_well(call: int) -> None:
    env = Breaks(call, "reset")
    tasks = env.sample(3, generator(0))
    with pytest.raises(RunError, match="The observation after a reset should be finite. Found .*nan.* for task 1"):
        for seed in range(4):
            collect(env, env.oracle(tasks), tasks, generator(seed))


def test_without_a_checkpoint_nothing_is_promised() -> None:
    with pytest.raises(RunError, match=r"in step 2 of training\.$"):
        by_trials(Breaks(8, "reward"))
