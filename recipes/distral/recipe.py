"""Eight goals in the next room: Distral beside independent learners and beside nets that share parameters.

    python recipes/distral/recipe.py                 # 136 training runs, seconds each on one core

Two rooms of nine cells and a passage; the robot starts in a corner of one room, the goal is one of the eight cells of
the other that do not lie in its door. A step that leads to the goal earns 1, every other nothing, and an episode has 40
steps: a walk by chance is seldom there. The way through the passage is what the tasks share; where to go then is
each one's own. Teh et al. 2017 (arXiv:1707.04175) show their method on two rooms as well, by soft Q-learning.

- ``distral``: alpha .5;
- ``alone``: the same with alpha 0, which are eight learners whose entropy is rewarded and who share nothing;
- ``heads``: PPO with hidden layers that all tasks share and a last layer a task;
- ``one net``: PPO, one net that sees the task's identity.

All have the same trials and steps; 1 / beta is the weight of the entropy for PPO. Each takes the setting (three betas
by three step sizes) that was best for it by the speed in one run of a seed apart. *Speed* is the share of the eight
goals that are reached by doing what a policy thinks best, mean over all of the training (every fifth step). *Robust*
is the share that is reached in the end, mean over all nine settings.

Found: Distral is faster than learners that share nothing and than heads, and needs its settings chosen less. Missed:
one net that sees the task is as fast. Likely, and not tested: these tasks agree on nearly every move, so that none is
in another's way in that net; where tasks conflict, one net lags behind (recipes/multi-task-rl).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import PPO, Distral
from quickstudy.methods.rl._policies import best_of
from quickstudy.tasks.grids import MOVES, Maze, geometry
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.training import collect, fit_rl


@dataclass(frozen=True)
class Rooms(Maze):
    """A maze whose tasks can be listed: its goals, in order."""

    def known(self) -> Tensor:
        cells = [self.index(cell) for cell in self.goals_at or ()]
        return torch.eye(self.n_cells)[cells]


LAYOUT = ("...###...", ".........", "...###...")
GOALS = tuple((row, column) for row in range(3) for column in (6, 7, 8) if (row, column) != (1, 6))
ROOMS = Rooms(LAYOUT, (0, 0), GOALS, length=40, elsewhere=0.0, at_goal=1.0, shows_goal=False)
SEEN, K = SeesIdentity(ROOMS), len(GOALS)
STEPS, TRIALS, PASSES, EVERY, DISCOUNT = 40, 4 * K, 5, 5, 0.97
SETTINGS = tuple(product((30.0, 100.0, 300.0), (1e-3, 3e-3, 1e-2)))  # beta, step size
KINDS = {"distral": "#0072B2", "alone": "#D55E00", "heads": "#009E73", "one net": "0.5"}
APART = 99  # the seed that settings are chosen by
RUNS, FOLDER, COMMAND = Path("runs/distral"), Path(__file__).parent, "python recipes/distral/recipe.py"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(kind: str, beta: float, seed: int) -> PPO | Distral:
    chance = generator(seed)
    if kind in ("distral", "alone"):
        alpha = 0.5 if kind == "distral" else 0.0
        return Distral(SEEN.problem, heads=K, alpha=alpha, beta=beta, discount=DISCOUNT, generator=chance)
    heads = K if kind == "heads" else 0
    return PPO(SEEN.problem, heads=heads, discount=DISCOUNT, entropy_weight=1 / beta, generator=chance)


def reached(method: PPO | Distral) -> float:
    """Share of the goals that are reached. Nothing is left to chance: the start is always the same."""
    trials = collect(SEEN, best_of(method), ROOMS.known(), generator(0))
    return float((trials.ends()[0].sum(1) > 0).float().mean())


def train(kind: str, setting: tuple[float, float], seed: int) -> dict[str, Any]:
    """One run: how many goals it reached as it went on, its minutes, the shared policy. Finished runs are kept."""
    beta, lr = setting
    notes = RUNS / f"{kind.replace(' ', '-')}-{beta:g}-{lr:g}-{seed}.json"
    if notes.is_file():
        return json.loads(notes.read_text())
    begin, method = time.perf_counter(), make(kind, beta, seed)
    curve: list[float] = []

    def progress(done: int, steps: int) -> None:
        if done % EVERY == 0:
            curve.append(reached(method))

    fit_rl(
        method, SEEN, steps=STEPS, tasks=TRIALS, passes=PASSES, lr=lr, every=STEPS, generator=generator(100 + seed),
        progress=progress,
    )  # fmt: skip
    result: dict[str, Any] = {"curve": curve}
    if isinstance(method, Distral):
        everywhere = torch.cat([torch.eye(ROOMS.n_cells), torch.zeros(ROOMS.n_cells, K)], 1)
        result["shared"] = method.distilled(everywhere).exp().tolist()
    result["minutes"] = (time.perf_counter() - begin) / 60
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_text(json.dumps(result))
    return result


def speed(run: dict[str, Any]) -> float:
    return float(np.mean(run["curve"]))


def draw_rooms(axes: Axes, shared: Tensor) -> None:
    """What the shared policy would do in each cell: an arrow's length is how much likelier that way is than back."""
    rows, columns = len(LAYOUT), len(LAYOUT[0])
    walls = np.array([[kind == "#" for kind in row] for row in LAYOUT])
    axes.imshow(walls, cmap="Greys", vmin=0, vmax=1.6, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
    where = geometry(LAYOUT, torch.device("cpu")).cell
    for row, column in GOALS:
        axes.plot(column, row, "s", ms=11, color="#F0E442", zorder=1)
    axes.plot(0, 0, "o", ms=9, mfc="none", mec="k", zorder=1)
    push = shared @ torch.tensor(MOVES, dtype=shared.dtype)
    axes.quiver(
        where[:, 1], where[:, 0], push[:, 1], push[:, 0], angles="xy", scale_units="xy", scale=1.6, width=0.006,
        pivot="mid", zorder=2,
    )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.set_title("The shared policy (circle: start, squares: goals)", fontsize=10)


def draw(curves: dict[str, list[list[float]]], shared: Tensor) -> Figure:
    """Goals reached while learning; what all tasks would do."""
    figure = Figure(figsize=(7.6, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 1.3)})
    at = EVERY * (1 + np.arange(STEPS // EVERY))
    for kind, colour in KINDS.items():
        left.plot(at, np.mean(curves[kind], 0), color=colour, label=kind, lw=1.8)
    left.set(xlabel="training step", ylabel="share of the goals reached", ylim=(0, 1.03))
    left.legend(frameon=False, fontsize=8, loc="lower right")
    left.spines[["top", "right"]].set_visible(False)
    draw_rooms(right, shared)
    return figure


def main() -> None:
    """Choose settings, train, record, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    chosen = {kind: max(SETTINGS, key=lambda one, k=kind: speed(train(k, one, APART))) for kind in KINDS}  # type: ignore[misc]
    runs = {kind: [train(kind, chosen[kind], seed) for seed in range(seeds)] for kind in KINDS}
    every = {k: [[train(k, one, s) for one in SETTINGS] for s in range(seeds)] for k in ("distral", "alone")}
    rows = []

    def claim(what: str, metric: str, values: list[float], target: float, source: str, took: float) -> None:
        over = between_seeds(values, K, -1.0, 1.0)
        print(f"{what}: {over} of {[round(one, 3) for one in values]}", flush=True)
        rows.append(
            Row(
                "policy-distillation", f"{K} goals in the next room: {what}", metric, over.mean, over.low, over.high,
                n=K, seeds=seeds, target=target, better="higher", source=source, tier="cpu", minutes=took,
                command=COMMAND,
            )
        )  # fmt: skip

    for kind, setting in chosen.items():
        print(f"{kind}: beta {setting[0]:g}, step size {setting[1]:g}; speed {[speed(run) for run in runs[kind]]}")
    minutes = lambda kind: sum(run["minutes"] for run in runs[kind])  # noqa: E731
    claim(
        "Distral, goals reached in the end", "share of goals reached", [run["curve"][-1] for run in runs["distral"]],
        0.97, "plan of this project", minutes("distral"),
    )  # fmt: skip
    words = {"alone": "learners that share nothing", "heads": "PPO with heads", "one net": "PPO in one net"}
    for kind, other in words.items():
        gain = [speed(a) - speed(b) for a, b in zip(runs["distral"], runs[kind], strict=True)]
        claim(
            f"Distral less {other}, speed", "share of goals reached, mean over training", gain, 0.0,
            "computed; Teh et al. 2017: faster than learners that share nothing or parameters (no figure for a maze)",
            minutes("distral") + minutes(kind),
        )  # fmt: skip
    ends = {k: [float(np.mean([run["curve"][-1] for run in one])) for one in every[k]] for k in every}
    print(f"in the end, mean over all settings: {ends}")
    claim(
        "Distral less learners that share nothing, mean over nine settings (robust)", "share of goals reached",
        [a - b for a, b in zip(ends["distral"], ends["alone"], strict=True)], 0.0,
        "computed; Teh et al. 2017: more robust to settings",
        sum(run["minutes"] for of in every.values() for one in of for run in one),
    )  # fmt: skip
    with rc_context({"svg.hashsalt": "distral", "svg.fonttype": "none"}):
        curves = {kind: [run["curve"] for run in of] for kind, of in runs.items()}
        draw(curves, torch.tensor(runs["distral"][0]["shared"])).savefig(FOLDER / "figure.svg", metadata={"Date": None})
    record(FOLDER, rows)


if __name__ == "__main__":
    main()
