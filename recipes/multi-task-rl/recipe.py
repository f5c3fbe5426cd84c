"""Ten goals in conflict, rewards 1 to 100 apart: one shared net, heads, and PCGrad on actor and critic.

    python recipes/multi-task-rl/recipe.py           # 20 training runs, under a minute each on one core

The robot starts in the same place in all tasks, every other one is mirrored, and opposite goals ask for opposite moves
(`ConflictingGoals`). All runs are PPO with equal budgets and settings: `blind` does not see the task, `one net` sees
its identity, `heads` has a last layer a task on top, `PCGrad` is the one net whose conflicting gradients give way, in
actor and critic apart. The figure is the share of the ten tasks whose goal the robot stands at (within 0.1) after
the last step, doing the middle of what it might do; mean over seeds.

How far one net gets hangs on its budget: after twice the steps it came to .88 [.72, 1.00], PCGrad and heads to 1.00.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from quickstudy.combine import PCGrad, mean
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import PPO
from quickstudy.methods.rl._policies import best_of
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.tasks.point import ConflictingGoals
from quickstudy.training import collect, fit_rl

K, STEPS, TRIALS, PASSES = 10, 150, 80, 5
GOALS = ConflictingGoals(tasks=K)
SEEN = SeesIdentity(GOALS)
RUNS, FOLDER = Path("runs/multi-task-rl"), Path(__file__).parent
KINDS = {"blind": (0.7, "lower"), "one net": (0.7, "lower"), "heads": (0.95, "higher"), "PCGrad": (0.95, "higher")}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train(kind: str, seed: int, steps: int = STEPS) -> PPO:
    """One run."""
    env = GOALS if kind == "blind" else SEEN
    heads = K if kind == "heads" else 0
    method = PPO(env.problem, heads=heads, width=64, discount=0.9, generator=generator(seed))
    parts = [list(method.actor.parameters()), list(method.value.parameters())]
    combine = PCGrad(parts, K, generator(200 + seed)) if kind == "PCGrad" else mean
    file = RUNS / f"{kind.replace(' ', '-')}-{seed}.safetensors"
    fit_rl(
        method, env, steps=steps, tasks=TRIALS, passes=PASSES, lr=5e-3, every=steps, combine=combine,
        generator=generator(100 + seed), checkpoint=file, resume=True,
    )  # fmt: skip
    return method


def success(kind: str, method: PPO) -> float:
    """Share of tasks whose goal is reached. Nothing is left to chance: the start is always the same."""
    tasks = GOALS.known()
    trials = collect(GOALS if kind == "blind" else SEEN, best_of(method), tasks, generator(0))
    return float(GOALS.success(trials.ends()[1][:, -1, :2], tasks).float().mean())


def main() -> None:
    """Train, test, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    rows = []
    for kind, (target, better) in KINDS.items():
        begin = time.perf_counter()
        found = [success(kind, train(kind, seed)) for seed in range(seeds)]
        over = between_seeds(found, K, 0.0, 1.0)
        print(f"{kind}: {over} of {found}", flush=True)
        rows.append(
            Row(
                "multi-task-rl", f"{K} goals in conflict, rewards 1 to 100: PPO, {kind}", "share of goals reached",
                over.mean, over.low, over.high, n=K, seeds=seeds, target=target,
                better="higher" if better == "higher" else "lower", source="issue target", tier="cpu",
                minutes=(time.perf_counter() - begin) / 60,
                command="python recipes/multi-task-rl/recipe.py",
            )
        )  # fmt: skip
    record(FOLDER, rows)


if __name__ == "__main__":
    main()
