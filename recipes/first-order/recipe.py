"""Where first-order MAML fails: tasks that a step oversets, by the inner step size.

    python recipes/first-order/recipe.py           # under 3 minutes on one core; writes figure.svg

Most tasks are flat and around one point, a fifth of them is steep and around the opposite one
(:class:`quickstudy.tasks.toy.UnlikeCurvature`). From rates of 1 / 6 on a step goes past the minimum of the steep ones;
the exact gradient of the adapted loss knows that, the first-order one points away from them. Both are trained alike,
five seeds each, on a linear model, where the best start is known in closed form. With small steps the two are the same.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods import MAML
from quickstudy.nets import MLP
from quickstudy.tasks.toy import UnlikeCurvature
from quickstudy.training import fit

FOLDER = Path(__file__).parent
FAMILY = UnlikeCurvature()
RATES, SEEDS, STEPS, TEST = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3), 5, 300, 1000
CLAIM = 0.25


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_losses(rate: float, first_order: bool, seed: int) -> np.ndarray:
    """Train, then the loss of each test task after its step. Shape: ``[TEST]``."""
    net = MLP((FAMILY.size, 1), generator(seed))
    net[0].bias.requires_grad_(False)  # it starts at zero, where the closed form has it
    method = MAML(FAMILY.problem, net, inner_lr=rate, first_order=first_order)
    fit(method, FAMILY, steps=STEPS, tasks=32, lr=0.1, generator=generator(100 + seed))
    test = FAMILY.sample(TEST, generator(9))
    with torch.no_grad():
        return method.losses(test).double().numpy()


def main() -> None:
    """Train all, record, draw."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    found: dict[tuple[float, bool], np.ndarray] = {}
    for rate in RATES:
        for first in (False, True):
            found[rate, first] = np.stack([test_losses(rate, first, seed) for seed in range(SEEDS)])
            means = found[rate, first].mean(1)
            name = "first-order" if first else "exact"
            best = FAMILY.loss(FAMILY.best_start(rate), rate)
            span = f"({means.min():.3f} to {means.max():.3f})"
            print(f"rate {rate:g} {name:11s} {means.mean():9.4f} {span}; best {best:.3f}", flush=True)
    minutes = (time.perf_counter() - begin) / 60
    best = FAMILY.loss(FAMILY.best_start(CLAIM), CLAIM)
    rows = []
    for first, target, better in ((False, 1.1, "lower"), (True, 2.0, "higher")):
        ours = estimate(found[CLAIM, first] / best, np.ones(TEST), np.random.default_rng(0))
        name, what = ("first-order", "is to fail") if first else ("exact", "is to succeed")
        rows.append(
            Row("fomaml", f"tasks of unlike curvature, inner rate {CLAIM:g}: {name} MAML's loss on the query, in units "
                "of the best start's", "ratio", ours.mean, ours.low, ours.high, TEST, SEEDS, target, better,
                f"computed: closed form; {name} {what}",
                "cpu", round(minutes, 1), "python recipes/first-order/recipe.py")
        )  # fmt: skip
    record(FOLDER, rows)
    draw(found)


def draw(found: dict[tuple[float, bool], np.ndarray]) -> None:
    """Loss by inner rate."""
    figure = Figure((5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    fine = np.linspace(RATES[0], RATES[-1], 100)
    axes.plot(fine, [FAMILY.loss(FAMILY.best_start(r), r) for r in fine], color="0.6", linewidth=4, alpha=0.5,
              label="best start, closed form")  # fmt: skip
    for first, colour, name in ((False, "#3b6ea5", "MAML"), (True, "#c4572e", "first-order MAML")):
        means = np.stack([found[rate, first].mean(1) for rate in RATES])
        axes.plot(RATES, means.mean(1), color=colour, linewidth=1.2, label=name)
        axes.plot(np.repeat(RATES, SEEDS), means.flatten(), color=colour, linestyle="", marker="o", markersize=3)
    past = 1 / FAMILY.curvature[1]
    axes.axvline(past, color="0.7", linewidth=0.8, linestyle=":")
    axes.annotate("steps go past the\nsteep tasks' minimum", (past, 1), (4, -4), xycoords=("data", "axes fraction"),
                  textcoords="offset points", fontsize=8, va="top")  # fmt: skip
    axes.set_yscale("log")
    axes.set(xlabel="inner step size", ylabel="loss on the query after one step")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "first-order", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / "figure.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
