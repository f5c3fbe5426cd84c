"""Compounding error, shown and cured: cloning and DAgger on cart-pole, with equally many answers of the teacher.

    python recipes/imitation/recipe.py           # under 3 minutes on one core

The teacher is the linear-quadratic regulator. A round is one trial of 500 steps, whose answers are learned
from with those of all rounds before; the clone only ever sees the teacher's trials, DAgger from the second round on its
own. After 1, 2, 4 and 8 rounds each is judged by how long it keeps the pole up from 100 starts, doing what looks best;
all seeds and both methods meet the same starts. Each number of rounds is a training run of its own.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import BehaviourCloning, DAgger
from quickstudy.methods.rl._policies import best_of
from quickstudy.progress import Watch
from quickstudy.tasks.classic import CartPole
from quickstudy.training import collect, first_returns, fit_imitation

FOLDER, POLE, ROUNDS, TEST = Path(__file__).parent, CartPole(), (1, 2, 4, 8), 100
KINDS = {"behaviour-cloning": BehaviourCloning, "dagger": DAgger}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def balanced(kind: str, seed: int, rounds: int) -> float:
    """How long a trained policy keeps the pole up, mean over starts; steps of 500."""
    method = KINDS[kind](POLE.problem, width=32, generator=generator(seed))
    fit_imitation(
        method, POLE, POLE.oracle, rounds=rounds, tasks=1, passes=300 // rounds, generator=generator(100 + seed)
    )
    trials = collect(POLE, best_of(method), POLE.sample(TEST, generator(9)), generator(8))
    return float(first_returns(trials).mean())


def main() -> None:
    """Train, test, record, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    begin, found, total = time.process_time(), {}, len(KINDS) * len(ROUNDS) * seeds
    with Watch(Console()) as watch:
        for kind in KINDS:
            table = np.zeros((seeds, len(ROUNDS)))
            for seed in range(seeds):
                for i, rounds in enumerate(ROUNDS):
                    table[seed, i] = balanced(kind, seed, rounds)
                    watch("imitation", len(found) * len(ROUNDS) * seeds + seed * len(ROUNDS) + i + 1, total)
            found[kind] = table
    minutes = (time.process_time() - begin) / 60

    def row(what: str, values: NDArray[np.float64], target: float) -> Row:
        over = between_seeds(list(values), TEST, high=500.0)
        return Row(
            "imitation", what, "steps of 500", over.mean, over.low, over.high, n=over.n, seeds=over.seeds,
            target=target, better="higher", source="computed", tier="cpu", minutes=minutes,
            command="python recipes/imitation/recipe.py",
        )  # fmt: skip

    clone, dagger = found["behaviour-cloning"], found["dagger"]
    rows = [
        row("cart-pole, 4 trials of answers: DAgger's minus the clone's time upright", (dagger - clone)[:, 2], 1.0),
        row("cart-pole, 8 trials of answers: DAgger's time upright", dagger[:, 3], 475.0),
    ]
    print(*rows, sep="\n")
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.subplots()
    for kind, table in found.items():
        axes.plot(ROUNDS, table.mean(0), marker="o", label=kind)
        axes.fill_between(ROUNDS, table.min(0), table.max(0), alpha=0.2)
    axes.set(xlabel="trials with the teacher's answers", ylabel="steps upright, of 500", xticks=ROUNDS, ylim=(0, 510))
    axes.set_title(f"Cart-pole; mean and range of {seeds} seeds", fontsize=10)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "imitation", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / "figure.svg", metadata={"Date": None})
    record(FOLDER, rows)


if __name__ == "__main__":
    main()
