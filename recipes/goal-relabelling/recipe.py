"""Bit-flip with 15 bits, start and goal uniform: DQN reaches every goal with relabelling, and none without.

    python recipes/goal-relabelling/recipe.py           # 10 training runs, a minute or two each on one core

A goal is one of 32,768 and the reward is -1 until it is reached: without relabelling, hardly any step ever says what
is good. With hindsight relabelling (`future`, four of five draws) every episode has reached the goals that it came by.
Both learn from equally many steps with equal settings; the only difference is the relabelling. A third kind gives
steps to the task that they served best (multi-task relabelling by reward). Test goals and starts are drawn from other
generators than training's, and each run is judged once, with no exploration. A killed recipe goes on where it was: runs
are saved in ``runs/goal-relabelling``.
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

from quickstudy.evaluation.claims import Row, record
from quickstudy.methods import DQN
from quickstudy.methods.rl._policies import best_of
from quickstudy.methods.rl.relabel import Hindsight, Relabel, TaskRelabelling
from quickstudy.tasks.bitflip import BitFlip
from quickstudy.training import collect, fit_off_policy

BITS, TASKS, STEPS, UPDATES, TEST = 15, 16, 1000, 4, 2000
FLIPS = BitFlip(BITS)
RUNS, FOLDER = Path("runs/goal-relabelling"), Path(__file__).parent
KINDS: dict[str, Relabel | None] = {
    "with relabelling": Hindsight(FLIPS, "future"),
    "without relabelling": None,
    "relabelled by reward": TaskRelabelling(FLIPS, candidates=64, share=0.8),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def success(method: DQN, seed: int, n: int) -> float:
    """In which share of n episodes the goal was reached, doing what looks best."""
    trials = collect(FLIPS, best_of(method), FLIPS.sample(n, generator(seed)), generator(seed + 1))
    return float((trials.ends()[0].sum(1) > 0).float().mean())


def train(kind: str, seed: int) -> tuple[DQN, list[tuple[int, float]], float]:
    """A run, its curve (environment steps, success in 200 episodes of its own), and its minutes."""
    method = DQN(
        FLIPS.problem, width=256, discount=0.98, explore=0.2, rate=0.02, bounds=(-50.0, 0.0), generator=generator(seed)
    )
    name = f"{kind.replace(' ', '-')}-{seed}"
    notes = RUNS / f"{name}.json"
    known = json.loads(notes.read_text()) if notes.is_file() else {"curve": [], "minutes": 0.0}
    curve, before, begin = dict(known["curve"]), known["minutes"], time.perf_counter()

    def progress(done: int, steps: int) -> None:
        if done % 250 == 0:
            curve[done * TASKS] = success(method, 9000 + seed, 200)
            minutes = before + (time.perf_counter() - begin) / 60
            notes.parent.mkdir(parents=True, exist_ok=True)
            notes.write_text(json.dumps({"curve": sorted(curve.items()), "minutes": minutes}))
            print(f"{name}: {done}/{steps}, success {curve[done * TASKS]:.3f}", flush=True)

    fit_off_policy(
        method, FLIPS, steps=STEPS, tasks=TASKS, memory=200_000, batch=256, updates=UPDATES, warmup=1000,
        relabel=KINDS[kind], lr=1e-3, every=250, generator=generator(100 + seed),
        checkpoint=RUNS / f"{name}.safetensors", resume=True, progress=progress,
    )  # fmt: skip
    return method, sorted(curve.items()), json.loads(notes.read_text())["minutes"]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over seeds, cut to [0, 1]."""
    t = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}[len(values)]
    mean, half = float(np.mean(values)), t * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)


def main() -> None:
    """Train, test, record, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    rows = []
    targets = {"with relabelling": (0.98, "higher"), "without relabelling": (0.05, "lower")}
    for kind in KINDS:
        runs = [train(kind, seed) for seed in range(seeds)]
        found = [success(method, 500 + seed, TEST) for seed, (method, _, _) in enumerate(runs)]
        mean, low, high = interval(found)
        print(f"{kind}: {mean:.4f} [{low:.4f}, {high:.4f}] of {[round(x, 4) for x in found]}")
        curves = np.array([[y for _, y in curve] for _, curve, _ in runs])
        x = [at for at, _ in runs[0][1]]
        axes.plot(x, curves.mean(0), label=f"DQN {kind}")
        axes.fill_between(x, curves.min(0), curves.max(0), alpha=0.2)
        target, better = targets.get(kind, (0.98, "higher"))
        rows.append(
            Row(
                "goal-relabelling", f"bit-flip, {BITS} bits, start and goal uniform: DQN {kind}", "success", mean, low,
                high, n=TEST, seeds=seeds, target=target, better="higher" if better == "higher" else "lower",
                source="issue target" if kind in targets else "computed: that of hindsight relabelling", tier="cpu",
                minutes=sum(minutes for _, _, minutes in runs),
                command="python recipes/goal-relabelling/recipe.py",
            )
        )  # fmt: skip
    axes.set(xlabel="environment steps", ylabel="share of goals reached", ylim=(-0.02, 1.02))
    axes.set_title(f"Bit-flip, {BITS} bits; mean and range of {seeds} seeds", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "goal-relabelling", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / "figure.svg", metadata={"Date": None})
    record(FOLDER, rows)


if __name__ == "__main__":
    main()
