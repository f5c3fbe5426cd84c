"""What a policy does and earns: trials with the states they went through, scores with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quickstudy.core import Environment, Estimate, Policy
from quickstudy.evaluation.statistics import estimate
from quickstudy.tasks.acting import Wrapped
from quickstudy.training.fit_rl import collect, first_episode, first_returns


@dataclass(frozen=True)
class Played:
    """Trials with the environment's own states, which policies do not see.

    Args:
        before: the state that each step began in.
        after: the state that it led to.
        action: what was done.
        reward: what was earned.
        done: whether an episode ended with the step.

    Shape:
        ``before`` and ``after`` ``[T, time, *s]``, ``action [T, time]`` or ``[T, time, a]``, the others ``[T, time]``.
    """

    before: Tensor
    after: Tensor
    action: Tensor
    reward: Tensor
    done: Tensor

    @property
    def first(self) -> Tensor:
        """Whether a step belongs to its trial's first episode. Shape: ``[T, time]``, bool."""
        return first_episode(self.done)

    def paths(self) -> list[Tensor]:
        """The states of each trial's first episode, its first and its last included: T times ``[steps + 1, *s]``."""
        steps = self.first.sum(1).tolist()
        return [torch.cat([self.before[i, :1], self.after[i, :n]]) for i, n in enumerate(steps)]

    def returns(self) -> Tensor:
        """Total reward of the first episodes. Shape: ``[T]``."""
        return (self.reward * self.first).sum(1)


@torch.no_grad()
def play(
    environment: Environment,
    policy: Policy,
    tasks: Tensor,
    generator: torch.Generator,
    start: tuple[Tensor, Tensor] | None = None,
) -> Played:
    """One trial of every task, as :func:`quickstudy.training.collect`, with the states noted.

    Args:
        environment: where to act.
        policy: who acts.
        tasks: in which tasks.
        generator: the environment's and the policy's chance.
        start: state and observation to begin with; None resets.
    """
    noted = _Noted(environment, start)
    trial = collect(noted, policy, tasks, generator)
    before, after = (torch.stack(part, 1) for part in zip(*noted.states, strict=True))
    return Played(before, after, trial.action, trial.reward, trial.done.bool())


class _Noted(Wrapped):
    """The same environment for one trial, whose states are kept; may begin where it is told."""

    def __init__(self, environment: Environment, start: tuple[Tensor, Tensor] | None) -> None:
        self.environment, self.start = environment, start
        self.states: list[tuple[Tensor, Tensor]] = []

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The given start at first, then as it was."""
        start, self.start = self.start, None
        return self.environment.reset(tasks, generator) if start is None else start

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As it was; noted."""
        result = self.environment.step(state, action, tasks, generator)
        self.states.append((state, result[0]))
        return result


def trial_scores(environment: Environment, policy: Policy, tasks: Tensor, generator: torch.Generator) -> Tensor:
    """What a policy earns in each task: the whole trial where it has several episodes, else its episode. ``[T]``."""
    trial = collect(environment, policy, tasks, generator)
    return trial.reward.sum(1) if episodes_of(environment) > 1 else first_returns(trial)


def episodes_of(environment: Environment) -> int:
    """How many episodes a trial is meant to have, in which a policy may learn the task."""
    inside = getattr(environment, "environment", None)
    return int(getattr(environment, "episodes", 1)) if inside is None else episodes_of(inside)


def evaluate_acting(
    environment: Environment, policy: Policy, *, tasks: int = 200, seed: int = 0, draw: int = 500
) -> Estimate:
    """Mean total reward over new tasks, with its 95 % interval from a bootstrap over tasks.

    Args:
        environment: where to act.
        policy: who acts.
        tasks: how many.
        seed: of the bootstrap.
        draw: seed of the tasks and of all chance in them.
    """
    generator = torch.Generator().manual_seed(draw)
    scores = trial_scores(environment, policy, environment.sample(tasks, generator), generator)
    return estimate(np.asarray(scores.double())[None], np.ones(len(scores)), np.random.default_rng(seed))
