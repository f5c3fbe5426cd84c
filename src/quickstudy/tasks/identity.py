"""Known tasks that show which one they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core import Environment, Problem
from quickstudy.tasks.acting import Rule, Wrapped


class KnowsItsTasks(Environment, Protocol):
    """An environment whose tasks can be listed."""

    def known(self) -> Tensor:
        """All tasks, in the order of their ids. Shape: ``[K, *task]``."""


@dataclass(frozen=True)
class SeesIdentity(Wrapped):
    """The same environment, which shows which of its K known tasks it is: one-hot, behind the observation.

    All tasks come equally often: the first K draws are tasks 0 to K - 1, and so on in turn. So trial i is of task
    ``i % K``, also where a loop draws anew for some of its trials.

    Args:
        environment: observations ``[T, o]``.
    """

    environment: KnowsItsTasks

    @property
    def problem(self) -> Problem:
        """More is seen; the same is done."""
        problem = self.environment.problem
        return replace(problem, x_shape=(problem.x_shape[0] + len(self.environment.known()),))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """The known tasks in turn."""
        known = self.environment.known().to(generator.device)
        return known[torch.arange(n, device=generator.device) % len(known)]

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """State, and what is seen with the identity behind."""
        state, observation = self.environment.reset(tasks, generator)
        return state, self.see(observation, tasks)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step, and what is seen with the identity behind."""
        state, observation, *rest = self.environment.step(state, action, tasks, generator)
        return (state, self.see(observation, tasks), *rest)  # type: ignore[return-value]

    @property
    def oracle(self) -> Callable[[Tensor], Rule]:
        """What it is inside, which does not see the identity; an environment without one has none here either."""
        inside: Callable[[Tensor], Rule] = self.environment.oracle  # type: ignore[attr-defined]
        k = len(self.environment.known())

        def told(tasks: Tensor) -> Rule:
            rule = inside(tasks).rule
            return Rule(lambda seen, generator: rule(seen[:, :-k], generator))

        return told

    def see(self, observation: Tensor, tasks: Tensor) -> Tensor:
        """With the identity behind. Shape: ``[T, o + K]``."""
        known = self.environment.known().to(tasks)
        which = torch.cdist(tasks.flatten(1), known.flatten(1)).argmin(1)
        return torch.cat([observation, F.one_hot(which, len(known)).to(observation)], 1)
