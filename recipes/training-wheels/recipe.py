"""Training wheels: with help that fades, learners do what they do not learn without; shaping changes no optimum.

    python recipes/training-wheels/recipe.py           # 50 training runs of half a minute each on one core
    python recipes/training-wheels/recipe.py exact     # what shaping does to the optimum, in seconds

Snake: 31 cells in a winding corridor, 28 steps from the start to the goal, which alone is rewarded; 100 steps an
episode. PPO sees the cell. Chance does not come to the goal, so PPO learns nothing. Three wheels: a head start (an
oracle goes the first steps), breadcrumbs (minus the distance as a potential), coarser time (an action is repeated up to
8 times, so a decision takes as many steps of the world).

The total reward that ``Fading`` hears is not discounted, and with a potential below 0 standing still earns
(1 - gamma) of it a step, 2 h in all. What is enough has to lie above that: .8 + 1.3 h. With .8 + .8 h, tried first, one
seed of 5 lost its help before the point had ever arrived. Now one other seed of 5 keeps all its help and stands still:
shaping changes no optimum, but PPO may stop short of it.

T-maze: a sign says where to turn after a corridor of 30 steps. RL2 (a GRU) has to remember it. The wheel shows the sign
again at each step with a probability. (While RL2's first values were fifty times a reward, two seeds of 5 lost all help
within ten steps of training and never learned to remember.)

Grid: 24 x 24 cells one-hot, start anywhere, goal in the middle, and every step earns how much nearer it came. So
nothing needs to be found, but there are 576 cells to learn from 60 trials of 60 steps. The wheel blurs cells to blocks
of 4 x 4: the mean of a block's cells, which gives each of them what the block learns. With the goal in a corner, and
rewarded alone, blurring gained nothing: what lacked there was a reward to learn from. With the wheel it comes to .88
[.75, 1], a little below the .9 that was aimed at: seeds differ.

Lock: a dial that has to be turned to eight places one after another, each to within .05 of a half turn, in 30 steps; a
wrong turn costs a step, and the last right one alone is rewarded. PPO begins by turning eight right in one episode of
10,000, and with five coarse places, at full help, in every other one; as help fades it has to turn exactly.

Each wheel fades where the mean reward says so (``Fading``). Scores are those of the mode of the policy (RL2: of its
draws) without any help. Settings were tried on seed 0, the grid's and the lock's on 0 and 1. Finished runs are kept in
``runs/training-wheels``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from quickstudy.core import Environment, Policy, Problem
from quickstudy.curricula import Fading, Taught
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import PPO, RL2
from quickstudy.methods.rl._policies import best_of
from quickstudy.tasks.acting import Wrapped
from quickstudy.tasks.grids import Maze, geometry, open_grid
from quickstudy.tasks.tabular import TabularMDPs, value_iteration
from quickstudy.tasks.tmaze import TMaze
from quickstudy.tasks.wheels import Breadcrumbs, CoarserActions, CoarserStates, CoarserTime, HeadStart, ShownMore
from quickstudy.training import collect, first_returns, fit_rl

LAYOUT = (".........", "########.", ".........", ".########", ".........")
SIDE, BLOCK, DISCOUNT, FAR = 24, 4, 0.98, 28
SPARSE = {"elsewhere": 0.0, "at_goal": 1.0, "shows_goal": False}
SNAKE = Maze(LAYOUT, (0, 0), ((4, 8),), length=100, **SPARSE)  # type: ignore[arg-type]
GRID = Maze(open_grid(SIDE, SIDE), None, ((SIDE // 2, SIDE // 2),), length=60, **SPARSE)  # type: ignore[arg-type]
SIGN = TMaze(30, length=100)
CODE, WITHIN = (0.5, -0.5, 0.0, 0.5, -0.5, 0.0, -0.5, 0.5), 0.05
TEST = 200
RUNS, FOLDER = Path("runs/training-wheels"), Path(__file__).parent
COMMAND = "python recipes/training-wheels/recipe.py"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Lock:
    """A dial to be turned to the places of a code, one a step; 1 for the last of them.

    Shape:
        tasks ``[T, 1]`` (there is but one), state ``[T, 2]`` (places that are done, steps so far), observation
        ``[T, places]`` (which is next, one-hot), action ``[T, 1]``.
    """

    length: int = 30

    @property
    def problem(self) -> Problem:
        return Problem((len(CODE),), "regression", 1)

    @property
    def horizon(self) -> int:
        return self.length

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(n, 1)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        state = tasks.new_zeros(len(tasks), 2)
        return state, self.see(state)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        place, time = state.unbind(1)
        right = (action[:, 0] - torch.tensor(CODE)[place.long()]).abs() <= WITHIN
        state = torch.stack([place + right, time + 1], 1)
        terminated = state[:, 0] == len(CODE)
        return state, self.see(state), terminated.float(), terminated, (state[:, 1] >= self.length) & ~terminated

    def see(self, state: Tensor) -> Tensor:
        return F.one_hot(state[:, 0].long().clamp_max(len(CODE) - 1), len(CODE)).float()


LOCK = Lock()


def near(state: Tensor, tasks: Tensor) -> Tensor:
    """The potential: 0 at the goal, -1 at the start."""
    return -SNAKE.distance(state, tasks) / FAR


@dataclass(frozen=True)
class Nearing(Wrapped):
    """A maze in which a step also earns how much nearer it came: nothing has to be found."""

    environment: Maze

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        there, seen, reward, *ends = self.environment.step(state, action, tasks, generator)
        nearer = self.environment.distance(state, tasks) - self.environment.distance(there, tasks)
        return (there, seen, reward + nearer / BLOCK, *ends)  # type: ignore[return-value]


def blocks(observation: Tensor) -> Tensor:
    """One-hot cells to the mean of their block's cells."""
    grid = observation.unflatten(1, (SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK))
    return grid.mean((2, 4), keepdim=True).expand_as(grid).flatten(1)


def with_crumbs(help: float) -> float:
    """Enough with breadcrumbs: more than the 2 h of standing still; arriving earns 1, and at least 1.3 h."""
    return 0.8 + 1.3 * help


# world, its wheel, reward that is enough, what is taken away at once, episodes judged, training steps, their trials
Wheel = Callable[[], Environment]
Enough = float | Callable[[float], float]
SETTINGS: dict[str, tuple[Any, Wheel, Enough, float, int, int, int]] = {
    "head start": (SNAKE, lambda: HeadStart(SNAKE, SNAKE.oracle, FAR - 1), 0.8, 0.05, 32, 70, 16),
    "breadcrumbs": (SNAKE, lambda: Breadcrumbs(SNAKE, near, DISCOUNT), with_crumbs, 0.1, 32, 70, 16),
    "coarser time": (SNAKE, lambda: CoarserTime(SNAKE, 8), 0.8, 0.1, 32, 70, 16),
    "shown more": (SIGN, lambda: ShownMore(SIGN, SIGN.shown), 0.8, 0.1, 32, 70, 32),
    "coarser actions": (LOCK, lambda: CoarserActions(LOCK, 5), 0.8, 0.1, 32, 105, 16),
    "coarser states": (GRID, lambda: CoarserStates(Nearing(GRID), blocks), 2.5, 0.1, 2, 30, 2),
}
PLAIN = {"snake": "head start", "t-maze": "shown more", "lock": "coarser actions", "grid": "coarser states"}
FAILS = {"snake": 0.1, "t-maze": 0.1, "lock": 0.1, "grid": 0.5}
NOTE = 5


def where_kept(name: str, kind: str, seed: int) -> Path:
    """The notes of a run."""
    return RUNS / f"{name.replace(' ', '-')}-{kind}-{seed}.json"


def train(name: str, kind: str, seed: int) -> dict[str, Any]:
    """One run: its score without help, its curve, its minutes. ``kind``: faded or plain."""
    notes = where_kept(name, kind, seed)
    if notes.is_file():
        return dict(json.loads(notes.read_text()))
    world, wheel, enough, delta, needed, steps, tasks = SETTINGS[PLAIN[name] if kind == "plain" else name]
    environment, fading = Nearing(GRID) if world is GRID else world, None
    if kind == "faded":
        fading = Fading(wheel(), enough=enough, delta=delta, needed=needed)
        environment = Taught(fading.environment, fading)
    if world is SIGN:
        method: PPO | RL2 = RL2(world.problem, width=32, discount=DISCOUNT, gae=0.95, generator=generator(seed))
    else:
        discount = 0.9 if world is GRID else DISCOUNT
        entropy = 0.0 if world is LOCK else 0.01  # a turn has to become exact
        method = PPO(world.problem, discount=discount, entropy_weight=entropy, generator=generator(seed))
    test, begin, curve = world.sample(TEST, generator(1)), time.perf_counter(), []

    def score() -> float:
        policy: Policy = best_of(method) if isinstance(method, PPO) else method.explorer()
        few = test[:1] if world in (SNAKE, LOCK) else test  # one task, no chance: once is enough
        with torch.no_grad():
            return float(first_returns(collect(world, policy, few, generator(2))).mean())

    def progress(done: int, steps: int) -> None:
        if done % NOTE == 0:
            curve.append((done, score(), None if fading is None else float(fading.help)))

    passes, lr = {SIGN: (8, 5e-3), LOCK: (10, 6e-3)}.get(world, (10, 3e-3))
    fit_rl(
        method, environment, steps=steps, tasks=tasks, passes=passes, lr=lr, generator=generator(100 + seed),
        progress=progress,
    )  # fmt: skip
    found = {"score": score(), "curve": curve, "minutes": (time.perf_counter() - begin) / 60}
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_text(json.dumps(found))
    print(f"{name}, {kind}, seed {seed}: {found['score']:.3f}, help {curve[-1][2]}, {found['minutes']:.2f} min")
    return found


def changed(p: Tensor, reward: Tensor, other: Tensor, discount: float) -> tuple[Tensor, Tensor, Tensor]:
    """Values by both rewards, and the share of states whose best action is not best by the first one."""
    q, new = value_iteration(p, reward, discount, 1e-13), value_iteration(p, other, discount, 1e-13)
    loss = q.amax(-1) - q.gather(-1, new.argmax(-1, keepdim=True)).squeeze(-1)
    return q, new, (loss > 1e-9).double().mean()


def exact() -> list[Row]:
    """What shaping does to the optimum, by value iteration in double precision."""
    begin, rows = time.perf_counter(), []
    mdps, chance = TabularMDPs(), generator(0)
    p, r = (part.double() for part in mdps.model(mdps.sample(200, chance)))
    p = p / p.sum(-1, keepdim=True)
    potential = 5 * torch.randn(200, 10, generator=chance, dtype=torch.float64)
    rise = 0.9 * potential[:, None, None, :] - potential[:, :, None, None]  # [T, S, 1, S]
    q, new, moved = changed(p, r, r + (p * rise).sum(-1), 0.9)
    gap = float((new - (q - potential.unsqueeze(-1))).abs().max())
    unpaid = changed(p, r, r + (p * rise.clamp_min(0)).sum(-1), 0.9)[2]
    moves, earns = (part.double() for part in SNAKE.model(SNAKE.sample(1, chance)))
    close = -5 * geometry(LAYOUT, torch.device("cpu")).distance[:, -1].double() / FAR  # worth more than the goal
    ahead = DISCOUNT * torch.einsum("tsaz,z->tsa", moves, close) - close.view(1, -1, 1)
    share = {}
    for name, extra in (("paid back", ahead), ("not paid back", ahead.clamp_min(0))):
        best = value_iteration(moves, earns + extra, DISCOUNT, 1e-13).argmax(-1)
        cell, arrived = torch.arange(len(close)), torch.zeros(len(close), dtype=torch.bool)
        for _ in range(SNAKE.length):  # everybody walks by it, from every cell
            there = geometry(LAYOUT, torch.device("cpu")).after[cell, best[0, cell]]
            cell, arrived = there.where(~arrived, cell), arrived | (there == len(close) - 1)
        share[name] = float(arrived.double().mean())
    minutes = (time.perf_counter() - begin) / 60

    def row(what: str, metric: str, value: float, target: float, better: str, n: int, source: str) -> None:
        print(f"{what}: {value:.3g}")
        rows.append(
            Row(
                "training-wheels", what, metric, value, None, None, n=n, seeds=1, target=target,
                better=better, source=source, tier="cpu", minutes=minutes, command=COMMAND + " exact",
            )  # type: ignore[arg-type]
        )  # fmt: skip

    ng = "Ng et al. 1999, theorem 1"
    row("200 random MDPs, random potentials: values are off Q - potential by", "largest error", gap, 1e-9, "lower",
        200, ng)  # fmt: skip
    row("200 random MDPs, random potentials: states whose best action changed", "share", float(moved), 0.0, "lower",
        2000, ng)  # fmt: skip
    row("the same, a rise that is not paid back when going down: states whose best action changed", "share",
        float(unpaid), 0.1, "higher", 2000, "computed: another shaping changes it")  # fmt: skip
    row("snake, best policy with breadcrumbs worth 5 goals: cells from which it comes to the goal", "share",
        share["paid back"], 1.0, "higher", 31, ng)  # fmt: skip
    row("snake, best policy where nearing is not paid back: cells from which it comes to the goal", "share",
        share["not paid back"], 0.1, "lower", 31, "computed: another shaping changes it")  # fmt: skip
    return rows


def main() -> None:
    """Train, test, record, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("only", nargs="*", help="exact, or the wheels and worlds to train; others wait")
    parser.add_argument("--finished", action="store_true", help="train nothing, record what is finished")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only == ["exact"]:
        record(FOLDER, exact())
        return
    every = wanted = [(name, "faded") for name in SETTINGS] + [(name, "plain") for name in PLAIN]
    if options.finished:
        wanted = [key for key in every if all(where_kept(*key, seed).is_file() for seed in range(options.seeds))]
    if options.only:
        wanted = [(name, kind) for name, kind in wanted if name in options.only]
    runs = {key: [train(*key, seed) for seed in range(options.seeds)] for key in wanted}
    if options.only:
        return
    rows, worlds = exact(), {SNAKE: "snake", SIGN: "t-maze", LOCK: "lock", GRID: "grid"}

    def claim(what: str, values: list[float], target: float, better: str, source: str, took: float) -> None:
        over = between_seeds(values, TEST, -1.0, 1.0)
        print(f"{what}: {over} of {[round(x, 3) for x in values]}")
        rows.append(
            Row(
                "training-wheels", what, "reward of an episode without help, of 1", over.mean, over.low, over.high,
                n=TEST, seeds=over.seeds, target=target, better=better, source=source, tier="cpu", minutes=took,
                command=COMMAND,
            )  # type: ignore[arg-type]
        )  # fmt: skip

    minutes = lambda *keys: sum(run["minutes"] for key in keys for run in runs[key])  # noqa: E731
    scores = lambda *key: [run["score"] for run in runs[key]]  # noqa: E731
    for name in [name for name in PLAIN if (name, "plain") in runs]:
        claim(
            f"{name}: plain learner", scores(name, "plain"), FAILS[name], "lower", "computed: it fails",
            minutes((name, "plain")),
        )  # fmt: skip
    for name, (world, *_) in SETTINGS.items():
        where = worlds[world]
        if (name, "faded") not in runs:
            continue
        words = f"{where}: {name}, faded out"
        claim(words, scores(name, "faded"), 0.9, "higher", "this recipe's own bar", minutes((name, "faded")))
        if (where, "plain") not in runs:
            continue
        gain = [a - b for a, b in zip(scores(name, "faded"), scores(where, "plain"), strict=True)]
        claim(
            f"{words}, minus plain learner", gain, 0.0, "higher", "computed: better",
            minutes((name, "faded"), (where, "plain")),
        )  # fmt: skip
    record(FOLDER, rows)
    if len(runs) == len(every):
        with rc_context({"svg.hashsalt": "training-wheels", "svg.fonttype": "none"}):
            draw(runs).savefig(FOLDER / "figure.svg", metadata={"Date": None})


def draw(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> Figure:
    """What is earned without help, and how much help there still is, over training."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06)  # type: ignore[union-attr]
    columns = figure.subplots(2, 4, sharex="col", sharey="row", gridspec_kw={"height_ratios": (1.6, 1)})
    colours = ("#0072B2", "#D55E00", "#009E73")
    snake = ("head start", "breadcrumbs", "coarser time")
    of = {"snake": snake, "t-maze": ("shown more",), "lock": ("coarser actions",), "grid": ("coarser states",)}
    for (top, bottom), (world, names) in zip(columns.T, of.items(), strict=True):
        longest = SETTINGS[names[0]][5]
        lines = [(name, "faded", colour) for name, colour in zip(names, colours, strict=False)]
        for name, kind, colour in [*lines, (world, "plain", "0.4")]:
            curves = [[point for point in run["curve"] if point[0] <= longest] for run in runs[name, kind]]
            x = [point[0] for point in curves[0]]
            y = np.array([[point[1] for point in curve] for curve in curves])
            top.plot(x, y.mean(0), color=colour, label=name if kind == "faded" else "plain")
            top.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.15, lw=0)
            if kind == "faded":
                bottom.plot(x, np.mean([[point[2] for point in curve] for curve in curves], 0), color=colour)
        top.set_title(
            {"snake": "Snake", "t-maze": "T-maze", "lock": "Lock", "grid": "Grid"}[world], fontsize=10, pad=36
        )
        top.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        bottom.set(xlabel="training step", ylim=(-0.03, 1.03))
        for axes in (top, bottom):
            axes.spines[["top", "right"]].set_visible(False)
    columns[0, 0].set_ylabel("reward without help")
    columns[1, 0].set_ylabel("help")
    return figure


if __name__ == "__main__":
    main()
