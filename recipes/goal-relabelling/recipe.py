"""Goals that are hardly ever reached by chance: with relabelling they are learned, and without they are not.

    python recipes/goal-relabelling/recipe.py --only flips    # 15 training runs, a minute or two each on one core
    python recipes/goal-relabelling/recipe.py --only few      # 10 training runs, half a minute each on one core
    python recipes/goal-relabelling/recipe.py --only fetch    # 10 training runs, a minute each; needs quickstudy[rl]

**Bit-flip** with 15 bits, start and goal uniform.

A goal is one of 32,768 and the reward is -1 until it is reached: without relabelling, hardly any step ever says what
is good. With hindsight relabelling (`future`, four of five draws) every episode has reached the goals that it came by.
Both learn from equally many steps with equal settings; the only difference is the relabelling. A third kind gives
steps to the task that they served best (multi-task relabelling by reward): it chooses among 64 goals that others had,
of 32,768, and hardly any of them was ever met, so that here it learns nothing; it is made for tasks that are few. Test
goals and starts are drawn from other generators than training's, and each run is judged once, with no exploration. A
killed recipe goes on where it was: runs are saved in ``runs/goal-relabelling``.

**Few tasks**: 9 bits, and 8 goals that are known, which is what relabelling by reward is made for. A random episode
meets its own goal once in 60, and another task's seven times as often; each step goes, four times of five, to the task
that the rest of its episode served best. Judged from 25 random starts for each goal.

**FetchReach** (Gymnasium-Robotics, v4): a robot arm's gripper to a point in the air, -1 a step until it is within 5 cm.
DDPG with `future` and k = 4 for 20,000 environment steps, 8 robots side by side, an update for every 4 steps; the first
trial of each, at random, tells the scale of what is seen (400 of the steps). A run is judged in 50 episodes, each with
a goal of its own: success is to be there when time is up. Gymnasium's environments cannot be put back to a state, so
here runs that ended are kept, and a run that was killed begins anew.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import DDPG, DQN
from quickstudy.methods.rl._policies import best_of
from quickstudy.methods.rl.relabel import Hindsight, Relabel, TaskRelabelling
from quickstudy.tasks.acting import Standardised, at_random, standardised
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


FEW_BITS, FEW_GOALS, FEW_STEPS, STARTS = 9, 8, 1200, 25


class FewGoals(BitFlip):
    """The same bits, with goals that are few and known."""

    def known(self) -> torch.Tensor:
        """All of them. Shape: ``[K, bits]``."""
        return (torch.rand(FEW_GOALS, self.bits, generator=generator(77)) < 0.5).float()

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Any of them."""
        return self.known()[torch.randint(FEW_GOALS, (n,), generator=generator)]


FEW = FewGoals(FEW_BITS)


def train_few(relabels: bool, seed: int) -> tuple[float, float]:
    """A run's success and its minutes."""
    notes = RUNS / f"few-{'with' if relabels else 'without'}-{seed}.json"
    if not notes.is_file():
        begin = time.perf_counter()
        method = DQN(
            FEW.problem, width=128, discount=0.98, explore=0.2, rate=0.02, bounds=(-50.0, 0.0),
            generator=generator(seed),
        )  # fmt: skip
        fit_off_policy(
            method, FEW, steps=FEW_STEPS, tasks=TASKS, memory=200_000, batch=256, updates=2, warmup=1000, lr=1e-3,
            relabel=TaskRelabelling(FEW, candidates=FEW_GOALS, share=0.8) if relabels else None,
            generator=generator(100 + seed),
        )  # fmt: skip
        trials = collect(FEW, best_of(method), FEW.known().repeat(STARTS, 1), generator(500))
        found = float((trials.ends()[0].sum(1) > 0).double().mean())
        notes.parent.mkdir(parents=True, exist_ok=True)
        notes.write_text(json.dumps({"found": found, "minutes": (time.perf_counter() - begin) / 60}))
        print(f"{notes.stem}: {found:.3f}", flush=True)
    known = json.loads(notes.read_text())
    return known["found"], known["minutes"]


def main_few(seeds: int) -> list[Row]:
    """Few known goals, relabelled by reward and not: rows."""
    runs = {relabels: [train_few(relabels, seed) for seed in range(seeds)] for relabels in (True, False)}
    found = {relabels: [success for success, _ in runs[relabels]] for relabels in runs}
    gain = [a - b for a, b in zip(found[True], found[False], strict=True)]
    minutes = {relabels: sum(took for _, took in runs[relabels]) for relabels in runs}
    rows, where = [], f"{FEW_GOALS} known goals of {FEW_BITS} bits: DQN"
    for what, values, target, better, source, took, least in (
        ("relabelled by reward", found[True], 0.9, "higher", "this recipe's own bar", minutes[True], 0.0),
        ("without relabelling", found[False], 0.5, "lower", "computed: it fails", minutes[False], 0.0),
        ("relabelled by reward, minus without", gain, 0.0, "higher", "computed: better", sum(minutes.values()), -1.0),
    ):
        over = between_seeds(values, FEW_GOALS * STARTS, least, 1.0)
        print(f"{where} {what}: {over} of {[round(x, 3) for x in values]}")
        rows.append(
            Row(
                "goal-relabelling", f"{where} {what}", "success", over.mean, over.low, over.high,
                n=FEW_GOALS * STARTS, seeds=seeds, target=target, better=better, source=source, tier="cpu",
                minutes=took, command="python recipes/goal-relabelling/recipe.py --only few",
            )  # type: ignore[arg-type]
        )  # fmt: skip
    return rows


ROBOTS, ROBOT_STEPS, EPISODES = 8, 20_000, 50


def reached(method: DDPG, environment: Standardised, seed: int, n: int) -> float:
    """The share of n episodes at whose end the goal is reached, doing what looks best."""
    tasks = environment.sample(ROBOTS, generator(0))
    found = [collect(environment, best_of(method), tasks, generator(seed + i)) for i in range(-(-n // ROBOTS))]
    return float(torch.cat([trial.reward[:, -1] == 0 for trial in found])[:n].float().mean())


def train_fetch(relabels: bool, seed: int) -> dict[str, object]:
    """A run: its curve (environment steps, success in 8 episodes), its success in test, its minutes."""
    from quickstudy.tasks.robotics import fetch

    notes = RUNS / f"fetch-{'with' if relabels else 'without'}-{seed}.json"
    if notes.is_file():
        return dict(json.loads(notes.read_text()))
    begin, curve = time.perf_counter(), []
    robots, others = fetch("FetchReach-v4", ROBOTS), fetch("FetchReach-v4", ROBOTS)
    at_first = collect(robots, at_random(robots.problem), robots.sample(ROBOTS, generator(0)), generator(200 + seed))
    seen = standardised(robots, at_first.observation)
    judged = replace(seen, environment=others)
    method = DDPG(
        seen.problem, width=128, discount=0.98, explore=0.2, rate=0.02, bounds=(-50.0, 0.0), generator=generator(seed)
    )
    before = at_first.reward.numel()

    def progress(done: int, steps: int) -> None:
        if done % 245 == 0:
            curve.append((before + done * ROBOTS, reached(method, judged, 9000 + 100 * seed, 8)))
            print(f"{notes.stem}: {curve[-1][0]} steps, success {curve[-1][1]:.3f}", flush=True)

    fit_off_policy(
        method, seen, steps=(ROBOT_STEPS - before) // ROBOTS, tasks=ROBOTS, memory=ROBOT_STEPS, batch=256, updates=2,
        warmup=400, relabel=Hindsight(seen, "future", length=50) if relabels else None, lr=1e-3, every=10_000,
        generator=generator(100 + seed), progress=progress,
    )  # fmt: skip
    found = reached(method, judged, 50_000 + 100 * seed, EPISODES)
    minutes = (time.perf_counter() - begin) / 60
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_text(json.dumps({"curve": curve, "found": found, "minutes": minutes}))
    return {"curve": curve, "found": found, "minutes": minutes}


def main_fetch(seeds: int) -> list[Row]:
    """FetchReach with and without relabelling: rows and a figure."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes, rows = figure.subplots(), []
    for relabels in (True, False):
        runs = [train_fetch(relabels, seed) for seed in range(seeds)]
        found, word = [float(str(run["found"])) for run in runs], "with" if relabels else "without"
        over = between_seeds(found, EPISODES, 0.0, 1.0)
        print(f"FetchReach {word} relabelling: {over} of {found}")
        curves = np.array([run["curve"] for run in runs])
        axes.plot(curves[0, :, 0], curves[..., 1].mean(0), label=f"DDPG {word} relabelling")
        axes.fill_between(curves[0, :, 0], curves[..., 1].min(0), curves[..., 1].max(0), alpha=0.2)
        rows.append(
            Row(
                "goal-relabelling", f"FetchReach-v4, 20,000 steps: DDPG {word} relabelling"
                + (" (future, k = 4)" if relabels else ""), "success", over.mean, over.low, over.high,
                n=EPISODES, seeds=seeds, target=0.95, better="higher" if relabels else "lower",
                source="issue target" if relabels else "computed: what is asked of DDPG with relabelling", tier="cpu",
                minutes=sum(float(str(run["minutes"])) for run in runs),
                command="python recipes/goal-relabelling/recipe.py --only fetch",
            )
        )  # fmt: skip
    axes.set(xlabel="environment steps", ylabel="share of goals reached at the end", ylim=(-0.02, 1.02))
    axes.set_title(f"FetchReach; mean and range of {seeds} seeds", fontsize=10)
    save(figure, axes, "fetch.svg")
    return rows


def save(figure: Figure, axes: Axes, name: str) -> None:
    """A figure in the recipe's folder, the same bytes for the same numbers."""
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "goal-relabelling", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / name, metadata={"Date": None})


def main_flips(seeds: int) -> list[Row]:
    """Bit-flip with both ways of relabelling and without: rows and a figure."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    rows = []
    targets = {"with relabelling": (0.98, "higher"), "without relabelling": (0.05, "lower")}
    for kind in KINDS:
        runs = [train(kind, seed) for seed in range(seeds)]
        found = [success(method, 500 + seed, TEST) for seed, (method, _, _) in enumerate(runs)]
        over = between_seeds(found, TEST, 0.0, 1.0)
        print(f"{kind}: {over} of {[round(x, 4) for x in found]}")
        curves = np.array([[y for _, y in curve] for _, curve, _ in runs])
        x = [at for at, _ in runs[0][1]]
        axes.plot(x, curves.mean(0), label=f"DQN {kind}")
        axes.fill_between(x, curves.min(0), curves.max(0), alpha=0.2)
        target, better = targets.get(kind, (0.98, "higher"))
        rows.append(
            Row(
                "goal-relabelling", f"bit-flip, {BITS} bits, start and goal uniform: DQN {kind}", "success", over.mean,
                over.low, over.high, n=TEST, seeds=seeds, target=target,
                better="higher" if better == "higher" else "lower", tier="cpu",
                source="issue target" if kind in targets else "computed: that of hindsight relabelling",
                minutes=sum(minutes for _, _, minutes in runs),
                command="python recipes/goal-relabelling/recipe.py --only flips",
            )
        )  # fmt: skip
    axes.set(xlabel="environment steps", ylabel="share of goals reached", ylim=(-0.02, 1.02))
    axes.set_title(f"Bit-flip, {BITS} bits; mean and range of {seeds} seeds", fontsize=10)
    save(figure, axes, "figure.svg")
    return rows


def main() -> None:
    """Train, test, record, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=("flips", "few", "fetch"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, part in (("flips", main_flips), ("few", main_few), ("fetch", main_fetch)):
        if given.only in (None, name):
            record(FOLDER, part(given.seeds))


if __name__ == "__main__":
    main()
