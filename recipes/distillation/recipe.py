"""One policy from ten: distilled from a teacher a task, with wrong teachers and unrelated tasks beside.

    python recipes/distillation/recipe.py            # five seeds, a few minutes on one core

Ten goals in conflict (`ConflictingGoals`: opposite goals, mirrored robots, rewards 1 to 100 apart), ten teachers
trained by PPO, each a net of its own that has seen its task alone (`heads=10, share="nothing"`). A student of the
size of one teacher, which sees the task's identity, is distilled from them by KL (`Distillation`; in `fit_imitation`
the student acts after the first round). What PPO itself cannot learn in one net (see recipes/multi-task-rl),
distillation can: the divergences of all tasks have one scale, whatever the scale of their rewards.

What can go wrong, by the lecture:

- *a wrong teacher*: five tasks with one goal, robots that are faster or slower, and a student that does not see which
  task it is in. The teachers agree, and the student is as good as they are. Then one of the five is replaced by a
  policy that was trained to get away from the goal, and the student takes its share of that in all tasks.
- *unrelated tasks compete*: the same ten teachers, or ten whose goals stand close together (an eighth of the circle, no
  robot mirrored), distilled into students of two hidden units a layer.

The figures are shares of tasks whose goal the robot stands at (within 0.1) after the last step, doing the middle of
what it might do; intervals over seeds.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quickstudy.core import Environment
from quickstudy.methods import PPO, Distillation
from quickstudy.methods.rl._policies import Memoryless, best_of
from quickstudy.methods.rl.distillation import Adviser
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.tasks.point import ConflictingGoals
from quickstudy.training import collect, fit_imitation, fit_rl

K, SMALL, FOLDER, RUNS = 10, 2, Path(__file__).parent, Path("runs/distillation")


@dataclass(frozen=True)
class Cousins(ConflictingGoals):
    """Goals on an eighth of the circle, no robot mirrored: what is right in one task is nearly right in all."""

    def known(self, device: torch.device | str = "cpu") -> Tensor:
        angle = math.pi / 4 * torch.arange(self.tasks, device=device) / (self.tasks - 1)
        ones = torch.ones_like(angle)
        return torch.stack([angle.cos(), angle.sin(), ones, ones], 1)


@dataclass(frozen=True)
class OneGoal(ConflictingGoals):
    """One goal for all; robots differ in what a push does (gains .6 to 1). Rewards may be those of getting away."""

    away: bool = False

    def known(self, device: torch.device | str = "cpu") -> Tensor:
        gain = torch.linspace(0.6, 1, self.tasks, device=device)
        ones = torch.ones_like(gain)
        return torch.stack([ones, 0 * ones, gain, -ones if self.away else ones], 1)


GOALS, COUSINS = ConflictingGoals(tasks=K), Cousins(tasks=K)
SAME, AWAY = OneGoal(tasks=6), OneGoal(tasks=6, away=True)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def teachers(name: str, env: ConflictingGoals, seed: int) -> PPO:
    """A net a task, none of which has seen another's."""
    seen = SeesIdentity(env)
    method = PPO(seen.problem, heads=env.tasks, share="nothing", discount=0.9, generator=generator(seed))
    fit_rl(
        method, seen, steps=150, tasks=8 * env.tasks, passes=5, lr=5e-3, every=150, generator=generator(100 + seed),
        checkpoint=RUNS / f"{name}-{seed}.safetensors", resume=True,
    )  # fmt: skip
    return method


class Blind:
    """The environment as it is seen without the identity; the teachers are told it all the same."""

    def __init__(self, env: Environment, tasks: int) -> None:
        self.env, self.tasks = env, tasks
        self.problem = replace(env.problem, x_shape=(env.problem.x_shape[0] - tasks,))
        self.horizon, self.sample = env.horizon, env.sample

    def reset(self, tasks: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        state, seen = self.env.reset(tasks, chance)
        return state, seen[:, : -self.tasks]

    def step(self, state, action, tasks, chance):  # type: ignore[no-untyped-def]
        state, seen, *rest = self.env.step(state, action, tasks, chance)
        return state, seen[:, : -self.tasks], *rest


class Told(Adviser):
    """Teachers of a student that does not see the task: they are told it. The first ``wrong`` ones are others."""

    def __init__(self, method: PPO, identity: Tensor, other: PPO, wrong: int) -> None:
        self.identity, self.other = identity, other
        self.swap = identity[:, :wrong].sum(1, keepdim=True) > 0
        super().__init__(method)

    def advise(self, observation: Tensor) -> Tensor:
        told = torch.cat([observation, self.identity], 1)
        return torch.where(self.swap, Adviser(self.other).advise(told), Adviser(self.method).advise(told))

    def chosen(self, observation: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, log_deviation = self.advise(observation).chunk(2, -1)
        action = mean + log_deviation.exp() * torch.randn(mean.shape, generator=chance)
        return action, torch.full((len(action),), torch.nan)


def distilled(env: Environment, teacher, seed: int, width: int = 64) -> Distillation:  # type: ignore[no-untyped-def]
    """The student: one net; it acts after the first round."""
    method = Distillation(env.problem, width=width, decay=0.0, generator=generator(200 + seed))
    fit_imitation(
        method, env, teacher, rounds=6, tasks=60, passes=250, lr=1e-2, generator=generator(300 + seed)
    )
    return method


def success(env: Environment, goals: ConflictingGoals, policy: Memoryless) -> np.ndarray:
    """Of each task: whether the robot is at the goal in the end."""
    tasks = goals.known()
    trials = collect(env, policy, tasks, generator(0))
    return goals.success(trials.ends()[1][:, -1, :2], tasks).float().numpy()


def one_seed(seed: int) -> dict[str, float]:
    """All that is measured."""
    found = {}
    for name, goals in (("conflict", GOALS), ("cousins", COUSINS)):
        env = SeesIdentity(goals)
        teacher = teachers(name, goals, seed)
        found[f"{name} teachers"] = float(success(env, goals, best_of(teacher)).mean())
        for width in (64, SMALL):
            student = distilled(env, lambda _, of=teacher: Adviser(of), seed, width)
            found[f"{name} {width}"] = float(success(env, goals, best_of(student)).mean())
    right, wrong = teachers("same", SAME, seed), teachers("away", AWAY, seed)
    seen = SeesIdentity(SAME)
    found["same teachers"] = float(success(seen, SAME, best_of(right)).mean())
    blind = Blind(seen, SAME.tasks)
    identity = lambda tasks: torch.eye(SAME.tasks)[torch.cdist(tasks, SAME.known()).argmin(1)]  # noqa: E731
    for name, other in (("all right", None), ("one wrong", wrong)):
        student = distilled(blind, lambda tasks, of=other: Told(right, identity(tasks), of, 2), seed)  # type: ignore[misc]
        found[name] = float(success(blind, SAME, best_of(student)).mean())
    return found


def main() -> None:
    """Train, distil, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    begin = time.perf_counter()
    found = []
    for seed in range(seeds):
        found.append(one_seed(seed))
        print(f"seed {seed} ({(time.perf_counter() - begin) / 60:.1f} min):", found[-1], flush=True)


if __name__ == "__main__":
    main()
