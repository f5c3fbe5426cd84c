"""Pendulum by SAC: at least -200 after 20,000 steps.

    python recipes/max-entropy/recipe.py           # 5 training runs, two minutes each on one core

The return is the mean of 100 episodes of 200 steps, doing the middle of what the policy might do; the same start
states for all seeds. What a plan that knows the physics reaches there (value iteration on a grid) is printed beside
it. A killed recipe goes on where it was: runs are saved in ``runs/max-entropy``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from quickstudy.core import Policy
from quickstudy.evaluation.claims import Row, record
from quickstudy.methods import SAC
from quickstudy.methods.rl._policies import best_of
from quickstudy.tasks.acting import Rule, at_random
from quickstudy.tasks.classic import Pendulum
from quickstudy.training import collect, fit_off_policy

TASKS, STEPS, TEST = 2, 10_000, 100
PENDULUM = Pendulum()
RUNS, FOLDER = Path("runs/max-entropy"), Path(__file__).parent


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def returns(policy: Policy, seed: int, n: int) -> float:
    """Mean return of n episodes."""
    return float(collect(PENDULUM, policy, PENDULUM.sample(n, generator(0)), generator(seed)).reward.sum(1).mean())


def oracle() -> Rule:
    """A plan that knows the physics, which are the same in all episodes: one plan serves them all."""
    tasks = PENDULUM.sample(TEST, generator(0))
    plan = PENDULUM.plan(tasks[:1])
    plan.tasks, plan.value = tasks, plan.value.expand(TEST, -1)
    return Rule(lambda seen, chance: plan.act(torch.atan2(seen[:, 1], seen[:, 0]), seen[:, 2]))


def train(seed: int) -> tuple[SAC, list[tuple[int, float]], float]:
    """A run, its curve (environment steps, return of 20 episodes of its own), and its minutes."""
    method = SAC(PENDULUM.problem, width=64, discount=0.98, rate=0.01, generator=generator(seed))
    notes = RUNS / f"{seed}.json"
    known = json.loads(notes.read_text()) if notes.is_file() else {"curve": [], "minutes": 0.0}
    curve, before, begin = dict(known["curve"]), known["minutes"], time.perf_counter()

    def progress(done: int, steps: int) -> None:
        if done % 500 == 0:
            curve[done * TASKS] = returns(best_of(method), 9000 + seed, 20)
            minutes = before + (time.perf_counter() - begin) / 60
            notes.parent.mkdir(parents=True, exist_ok=True)
            notes.write_text(json.dumps({"curve": sorted(curve.items()), "minutes": minutes}))
            print(f"seed {seed}: {done * TASKS} steps, return {curve[done * TASKS]:.0f}", flush=True)

    fit_off_policy(
        method, PENDULUM, steps=STEPS, tasks=TASKS, memory=20_000, batch=128, warmup=1000, lr=2e-3, every=500,
        generator=generator(100 + seed), checkpoint=RUNS / f"{seed}.safetensors", resume=True, progress=progress,
    )  # fmt: skip
    return method, sorted(curve.items()), json.loads(notes.read_text())["minutes"]


def main() -> None:
    """Train, test, record, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    runs = [train(seed) for seed in range(seeds)]
    found = [returns(best_of(method), 500, TEST) for method, _, _ in runs]
    t = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}[seeds]
    mean, half = float(np.mean(found)), t * float(np.std(found, ddof=1)) / seeds**0.5
    best, floor = returns(oracle(), 500, TEST), returns(at_random(PENDULUM.problem), 500, TEST)
    print(f"SAC: {mean:.1f} [{mean - half:.1f}, {mean + half:.1f}] of {[round(x, 1) for x in found]}")
    print(f"a plan that knows the physics: {best:.1f}; at random: {floor:.1f}")
    row = Row(
        "max-entropy", f"Pendulum, {STEPS * TASKS} steps: SAC (a plan that knows the physics: {best:.0f})", "return",
        mean, mean - half, mean + half, n=TEST, seeds=seeds, target=-200.0, better="higher", source="issue target",
        tier="cpu", minutes=sum(minutes for _, _, minutes in runs), command="python recipes/max-entropy/recipe.py",
    )  # fmt: skip
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    curves, x = np.array([[y for _, y in curve] for _, curve, _ in runs]), [at for at, _ in runs[0][1]]
    axes.plot(x, curves.mean(0), label="SAC")
    axes.fill_between(x, curves.min(0), curves.max(0), alpha=0.2)
    axes.axhline(best, color="0.4", linestyle="--", label="a plan that knows the physics")
    axes.set(xlabel="environment steps", ylabel="return of an episode")
    axes.set_title(f"Pendulum; mean and range of {seeds} seeds", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "max-entropy", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / "figure.svg", metadata={"Date": None})
    record(FOLDER, [row])


if __name__ == "__main__":
    main()
