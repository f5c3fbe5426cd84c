"""Relabelling: what was done for one goal teaches about others.

Both kinds need the rule of the rewards, the same dynamics for all goals, and a method that learns from a memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from quickstudy.core import GoalEnvironment, InputError, Replayed
from quickstudy.methods.rl._replay import Replay
from quickstudy.tasks.acting import sent

Relabel = Callable[[Replay, Tensor, Tensor, Replayed, torch.Generator], Replayed]


def want(environment: GoalEnvironment, steps: Replayed, goal: Tensor, chosen: Tensor) -> Replayed:
    """The same steps with another goal desired where ``chosen``.

    Reward and end are those of what the step led to: the goal that the NEXT observation has achieved.

    Shape:
        goal ``[n, 1, g]``, chosen ``[n, 1]``.
    """
    _, after = steps.ends()
    reward, terminated = environment.outcome(environment.goals(after)[0], goal)
    here = chosen.view(*chosen.shape, *(1 for _ in range(steps.observation.ndim - 2)))
    old_end, _ = steps.ends()
    terminated = terminated.to(steps.reward.dtype).where(chosen, old_end)
    return replace(
        steps,
        observation=environment.relabel(steps.observation, goal).where(here, steps.observation),
        after=environment.relabel(after, goal).where(here, after),
        reward=reward.to(steps.reward.dtype).where(chosen, steps.reward),
        terminated=terminated,
        done=torch.maximum(terminated, steps.done.where(~chosen, 0)),
    )


@dataclass(frozen=True)
class Hindsight:
    """Hindsight experience replay: a goal that was reached later in the same episode is taken for the one desired.

    ``final``: what the last step of the episode led to, or the last that is known while it goes on. ``future``: what
    this or any later step led to, all alike likely.

    Args:
        environment: knows which goal an observation achieves and how a step is judged.
        strategy: which goal.
        share: of the draws that are relabelled; k of the paper is ``share / (1 - share)``.
        length: steps of an episode at most.

    Reference:
        Andrychowicz et al. 2017, Hindsight experience replay, section 4.5, arXiv:1707.01495. Departs from it: goals
        are drawn anew whenever a step is, in place of k copies in the memory.
    """

    environment: GoalEnvironment
    strategy: Literal["future", "final"] = "future"
    share: float = 0.8
    length: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.strategy not in ("future", "final"):
            raise InputError(
                f"Expected a share in [0, 1] and 'future' or 'final'. Found {self.share} and {self.strategy!r}."
            )

    def __call__(
        self, memory: Replay, slot: Tensor, row: Tensor, steps: Replayed, generator: torch.Generator
    ) -> Replayed:
        """The drawn steps, most of them with a goal that was reached."""
        slots, within = memory.rest(slot, row, self.length or self.environment.horizon)
        left = within.sum(1)
        if self.strategy == "final":
            ahead = left - 1
        else:
            part = sent(torch.rand(len(left), generator=generator, device=generator.device), left)
            ahead = (part * left).long()
        then = slots.gather(1, ahead.unsqueeze(1)).squeeze(1)
        goal = self.environment.goals(memory.parts["after"][then, row])[0].unsqueeze(1)
        chance = sent(torch.rand(len(left), 1, generator=generator, device=generator.device), left)
        return want(self.environment, steps, goal, chance < self.share)


@dataclass(frozen=True)
class Windows:
    """Learning from play: a window is laid over the log, and where it ends is the goal of every step in it.

    Play is one long log in which nobody said what was wanted. The window's length is drawn between ``shortest`` and
    ``longest``, and the step's place in it, all alike likely; so goals near in time are met more often than far ones.
    Where the log or an episode ends within the window, so does the window. All draws are relabelled.

    Args:
        environment: knows which goal an observation achieves and how a step is judged.
        shortest: steps of a window at least.
        longest: and at most.

    Reference:
        Lynch et al. 2019, Learning latent plans from play, arXiv:1903.01973: its goal-conditioned behaviour cloning
        (Play-GCBC). Departs from it: single steps of windows are drawn, not whole windows, which is the same in the
        mean for a policy without a memory; latent plans (Play-LMP) are not here.
    """

    environment: GoalEnvironment
    shortest: int
    longest: int

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise InputError(f"Expected 1 <= shortest <= longest. Found {self.shortest} and {self.longest}.")

    def __call__(
        self, memory: Replay, slot: Tensor, row: Tensor, steps: Replayed, generator: torch.Generator
    ) -> Replayed:
        """The drawn steps, each with the goal that its window ends in."""
        slots, within = memory.rest(slot, row, self.longest)
        chance = sent(torch.rand(2, len(slot), generator=generator, device=generator.device), slot)
        length = self.shortest + (chance[0] * (self.longest + 1 - self.shortest)).long()
        ahead = (chance[1] * length).long().minimum(within.sum(1) - 1)
        then = slots.gather(1, ahead.unsqueeze(1)).squeeze(1)
        goal = self.environment.goals(memory.parts["after"][then, row])[0].unsqueeze(1)
        return want(self.environment, steps, goal, torch.ones_like(goal[..., 0], dtype=torch.bool))


@dataclass(frozen=True)
class TaskRelabelling:
    """Multi-task relabelling: a step goes to the task, of some that are drawn, that it served best.

    Candidates are the desired goals of other draws; each is judged by what the rest of the episode would have earned
    for it, discounted and until it would have ended. The task that was meant is one of them, and keeps ties.

    Args:
        environment: knows how a step is judged for any task.
        candidates: how many other tasks are tried.
        share: of the draws that are relabelled.
        discount: of the rest of the episode.
        length: how far to look ahead; None stands for a whole trial.

    Reference:
        Kaelbling 1993, Learning to achieve goals; Li, Pinto, Abbeel 2020, Generalized hindsight for reinforcement
        learning, arXiv:2002.11708. Departs from the latter: judged by the return itself, not by its rank among other
        trajectories' returns for that task.
    """

    environment: GoalEnvironment
    candidates: int = 8
    share: float = 0.5
    discount: float = 0.98
    length: int | None = None

    def __call__(
        self, memory: Replay, slot: Tensor, row: Tensor, steps: Replayed, generator: torch.Generator
    ) -> Replayed:
        """The drawn steps, some of them for another task."""
        n, length = len(slot), self.length or self.environment.horizon
        own = self.environment.goals(steps.observation)[1]  # [n, 1, g]
        other = sent(torch.randint(n, (n, self.candidates), generator=generator, device=generator.device), slot)
        goals = torch.cat([own, own[:, 0][other]], 1)  # [n, 1 + candidates, g]
        slots, within = memory.rest(slot, row, length)
        achieved = self.environment.goals(memory.parts["after"][slots, row.unsqueeze(1)])[0]  # [n, length, g]
        shape = (n, goals.shape[1], length, goals.shape[-1])
        reward, ended = self.environment.outcome(achieved.unsqueeze(1).expand(shape), goals.unsqueeze(2).expand(shape))
        over = ended.to(reward.dtype)
        going = torch.cat([torch.ones_like(over[..., :1]), (1 - over[..., :-1]).cumprod(-1)], -1)
        pace = self.discount ** torch.arange(length, device=slot.device, dtype=reward.dtype)
        earned = (reward * pace * going * within.unsqueeze(1)).sum(-1)  # [n, 1 + candidates]
        best = earned.argmax(1)
        goal = goals[torch.arange(n, device=slot.device), best].unsqueeze(1)
        chance = sent(torch.rand(n, 1, generator=generator, device=generator.device), slot)
        gains = earned.amax(1) > earned[:, 0]
        return want(self.environment, steps, goal, (chance < self.share) & gains.unsqueeze(1))
