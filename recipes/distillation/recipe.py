"""One policy from ten: distilled from a teacher a task, with wrong teachers and unrelated tasks beside.

    python recipes/distillation/recipe.py            # five seeds, a few minutes on one core

Ten goals in conflict (`ConflictingGoals`: opposite goals, mirrored robots, rewards 1 to 100 apart), ten teachers
trained by PPO, each a net of its own that has seen its task alone (`heads=10, share="nothing"`). A student of the
size of one teacher, which sees the task's identity, is distilled from them by KL (`Distillation`; in `fit_imitation`
the student acts after the first round). What PPO itself cannot learn in one net (see recipes/multi-task-rl),
distillation can: the divergences of all tasks have one scale, whatever the scale of their rewards.

What can go wrong, by the lecture:

- *a wrong teacher*: three tasks with one goal, robots that are faster or slower, and a student that does not see which
  task it is in. The teachers agree, and the student is as good as they are. Then one of the three is replaced by a
  policy that was trained to get away from the goal, and the student takes its share of that in all tasks.
  Missed: only one seed of five loses its tasks (all of them). A normal student takes the mean of its teachers' pushes,
  each counted by its length, also beyond the 1 at which the environment clips it: two right teachers, which push by 4.3
  to 5.4 at the start, outweigh a wrong one that pushes by 3.8 to 4.1. Tested: the same wrong teacher with its pushes
  doubled, which alone moves the robot nearly as before, for both are clipped. Then .87 [.50, 1] of the tasks are lost
  (tried on seeds 0 and 1 first).
- *unrelated tasks compete*: the same ten teachers, or ten whose goals stand close together (an eighth of the circle, no
  robot mirrored), distilled into students of SMALL hidden units a layer.

The figures are shares of tasks whose goal the robot stands at (within 0.1) after the last step, doing the middle of
what it might do; intervals over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from quickstudy.core import Environment
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import PPO, Distillation
from quickstudy.methods.rl._policies import Memoryless, best_of
from quickstudy.methods.rl.distillation import Adviser
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.tasks.point import ConflictingGoals
from quickstudy.training import collect, fit_imitation, fit_rl

K, SMALL, FOLDER, RUNS = 10, 5, Path(__file__).parent, Path("runs/distillation")
Better = Literal["higher", "lower"]
DOUBLED = "same: 1 wrong, its pushes doubled"


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

    def __post_init__(self) -> None:
        """Any number of tasks, also an odd one."""

    def known(self, device: torch.device | str = "cpu") -> Tensor:
        gain = torch.linspace(0.6, 1, self.tasks, device=device)
        ones = torch.ones_like(gain)
        return torch.stack([ones, 0 * ones, gain, -ones if self.away else ones], 1)


GOALS, COUSINS = ConflictingGoals(tasks=K), Cousins(tasks=K)
SAME, AWAY = OneGoal(tasks=3), OneGoal(tasks=3, away=True)


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
    """Teachers of a student that does not see the task: they are told it. The first ``wrong`` ones are others, whose
    pushes are multiplied by ``strength``.
    """

    def __init__(self, method: PPO, identity: Tensor, other: PPO, wrong: int, strength: float = 1.0) -> None:
        self.identity, self.other, self.strength = identity, other, strength
        self.swap = identity[:, :wrong].sum(1, keepdim=True) > 0
        super().__init__(method)

    def advise(self, observation: Tensor) -> Tensor:
        told = torch.cat([observation, self.identity], 1)
        mean, log_deviation = Adviser(self.other).advise(told).chunk(2, -1)
        other = torch.cat([self.strength * mean, log_deviation], -1)
        return torch.where(self.swap, other, Adviser(self.method).advise(told))

    def chosen(self, observation: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, log_deviation = self.advise(observation).chunk(2, -1)
        action = mean + log_deviation.exp() * torch.randn(mean.shape, generator=chance)
        return action, torch.full((len(action),), torch.nan)


def distilled(env: Environment, teacher, seed: int, width: int = 64) -> Distillation:  # type: ignore[no-untyped-def]
    """The student: one net; it acts after the first round."""
    method = Distillation(env.problem, width=width, decay=0.0, generator=generator(200 + seed))
    fit_imitation(method, env, teacher, rounds=4, tasks=60, passes=150, lr=1e-2, generator=generator(300 + seed))
    return method


def success(env: Environment, goals: ConflictingGoals, policy: Memoryless) -> float:
    """Share of tasks whose robot is at the goal in the end."""
    tasks = goals.known()
    trials = collect(env, policy, tasks, generator(0))
    return float(goals.success(trials.ends()[1][:, -1, :2], tasks).float().mean())


def one_seed(seed: int) -> dict[str, float]:
    """All that is measured; kept in a file, so that a run that was stopped goes on."""
    file = RUNS / f"seed-{seed}.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    if DOUBLED in found:
        return found
    begin, before = time.perf_counter(), found.get("minutes", 0.0)
    for name, goals in (("unrelated", GOALS), ("related", COUSINS)):
        if f"{name}: {SMALL}" in found:
            continue
        env = SeesIdentity(goals)
        teacher = teachers(name, goals, seed)
        found[f"{name}: teachers"] = success(env, goals, best_of(teacher))
        for width in (64, SMALL):
            student = distilled(env, lambda _, of=teacher: Adviser(of), seed, width)  # type: ignore[misc]
            found[f"{name}: {width}"] = success(env, goals, best_of(student))
    right, wrong = teachers("same", SAME, seed), teachers("away", AWAY, seed)
    seen = SeesIdentity(SAME)
    found["same: teachers"] = success(seen, SAME, best_of(right))
    blind = Blind(seen, SAME.tasks)
    identity = lambda tasks: torch.eye(SAME.tasks)[torch.cdist(tasks, SAME.known()).argmin(1)]  # noqa: E731
    for what, many, strength in (("same: 0 wrong", 0, 1.0), ("same: 1 wrong", 1, 1.0), (DOUBLED, 1, 2.0)):
        student = distilled(
            blind,
            lambda tasks, n=many, s=strength: Told(right, identity(tasks), wrong, n, s),  # type: ignore[misc]
            seed,
        )
        found[what] = success(blind, SAME, best_of(student))
    found["minutes"] = before + (time.perf_counter() - begin) / 60
    file.write_text(json.dumps(found))
    return found


def main() -> None:
    """Train, distil, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    found = []
    for seed in range(seeds):
        found.append(one_seed(seed))
        print(f"seed {seed}:", found[-1], flush=True)
    minutes = sum(one["minutes"] for one in found)

    def row(what: str, metric: str, values: list[float], n: int, target: float, better: Better, source: str) -> Row:
        result = between_seeds(values, n, -1.0, 1.0)
        print(f"{what}: {result} of {values}", flush=True)
        return Row(
            "policy-distillation", what, metric, result.mean, result.low, result.high, n=n, seeds=seeds, target=target,
            better=better, source=source, tier="cpu", minutes=minutes,
            command="python recipes/distillation/recipe.py",
        )  # fmt: skip

    of = lambda key: [one[key] for one in found]  # noqa: E731
    share = [a / b for a, b in zip(of("unrelated: 64"), of("unrelated: teachers"), strict=True)]
    fall = [a - b for a, b in zip(of("same: 0 wrong"), of("same: 1 wrong"), strict=True)]
    doubled = [a - b for a, b in zip(of("same: 0 wrong"), of(DOUBLED), strict=True)]
    lead = [a - b for a, b in zip(of(f"related: {SMALL}"), of(f"unrelated: {SMALL}"), strict=True)]
    record(FOLDER, [
        row(f"{K} goals in conflict: one distilled net's success as a share of its {K} teachers'", "ratio", share, K,
            0.97, "higher", "issue target"),
        row("three teachers that agree: success of a student that does not see the task", "success",
            of("same: 0 wrong"), 3, 0.97, "higher", "computed: the teachers' is 1"),
        row("one of the three teachers is wrong: what all tasks lose by it", "success", fall, 3, 0.5, "higher",
            "issue: one wrong teacher shown to hurt"),
        row("one of the three teachers is wrong and its pushes are doubled: what all tasks lose by it", "success",
            doubled, 3, 0.5, "higher", "issue: one wrong teacher shown to hurt"),
        row(f"students of {SMALL} hidden units: success in related tasks less that in unrelated ones", "success", lead,
            K, 0.2, "higher", "issue: unrelated tasks shown to hurt"),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
