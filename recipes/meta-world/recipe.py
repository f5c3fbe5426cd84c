"""Meta-World: do the scripted experts solve all fifty tasks, and does a clone of one do as well?

    make metaworld                                   # once: Meta-World and its MuJoCo, in a folder of their own
    PYTHONPATH=.metaworld python recipes/meta-world/recipe.py

Experts: the package's own, on MT50, GOALS of the fifty goals of each environment, 500 steps. Both kinds of success are
told: in the end, and at any step, which is what the benchmark counts. Those whose expert fails are named by the run.
At any step they succeed in .98; in the end in .61: nothing ends an episode at success, and in 17 of the fifty
(coffee-button, door-open, push, sweep-into among them) at least three of four goals were met on the way and no longer
are at the last step. What the arm does after success was not looked at.

Clone: behaviour cloning of the expert of MT1 reach on 100 steps of each of the fifty goals (the teacher acts in the
first round, the learner in two more: DAgger), judged for 500 steps on the same fifty goals, as MT1 is, and on fifty
that it never met (ML1's test goals, shown). Intervals over seeds.

Splits: how many of ML1's test goals are among its training goals (the released Gymnasium id: all of them).
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import DAgger
from quickstudy.methods.rl._policies import best_of
from quickstudy.tasks.metaworld import MetaWorld
from quickstudy.training import collect, fit_imitation

GOALS, FOLDER, RUNS = 4, Path(__file__).parent, Path("runs/meta-world")
COMMAND = "PYTHONPATH=.metaworld python recipes/meta-world/recipe.py"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def experts() -> tuple[np.ndarray, float]:
    """In the end and at any step, of each environment: shares of goals, ``[50, 2]``; minutes."""
    file = RUNS / "experts.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    env = MetaWorld("MT50")
    for number, name in enumerate(env.names):
        if name in found:
            continue
        begin = time.perf_counter()
        tasks = torch.tensor([[number, goal] for goal in range(GOALS)]).float()
        collect(env, env.oracle(tasks), tasks, generator(0))
        success = env.success()
        env.idle.clear()  # robots are large
        shares = float(success[:, -1].float().mean()), float(success.any(1).float().mean())
        found[name] = [*shares, (time.perf_counter() - begin) / 60]
        print(f"{name}: {shares[0]:.2f} in the end, {shares[1]:.2f} at any step", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found))
    every = np.array([found[name] for name in env.names])
    return every[:, :2], float(every[:, 2].sum())


def clone(seed: int) -> list[float]:
    """In the end and at any step, on the goals of training and on others."""
    env = MetaWorld("MT1", "reach", length=100)
    method = DAgger(env.problem, width=64, generator=generator(seed))
    fit_imitation(
        method, env, env.oracle, rounds=3, tasks=50, passes=300, lr=3e-3, generator=generator(100 + seed),
        checkpoint=RUNS / f"clone-{seed}.safetensors", resume=True,
    )  # fmt: skip
    shares = []
    for judged in (MetaWorld("MT1", "reach"), MetaWorld("ML1", "reach", split="test", shows_goal=True)):
        collect(judged, best_of(method), judged.known(), generator(0))
        success = judged.success()
        shares += [float(success[:, -1].float().mean()), float(success.any(1).float().mean())]
    return shares


def row(what: str, values: np.ndarray, n: int, seeds: int, target: float, source: str, minutes: float) -> Row:
    result = between_seeds(values.tolist(), n, 0.0, 1.0)  # or between environments
    print(f"{what}: {result}", flush=True)
    return Row(
        "meta-world", what, "success", result.mean, result.low, result.high, n=n, seeds=seeds, target=target,
        better="higher", source=source, tier="cpu", minutes=minutes, command=COMMAND,
    )  # fmt: skip


def main() -> None:
    """Act, clone, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["experts", "clone", "splits"], default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Constant")  # the experts' moves are cut off at the bounds
    if options.only in (None, "splits"):
        begin = time.perf_counter()
        places = [MetaWorld("ML1", "reach", split=split).tasks.places() for split in ("train", "test")]
        common = sum(any(np.array_equal(a, b, equal_nan=True) for b in places[0]) for a in places[1])
        record(FOLDER, [Row(
            "meta-world", "ML1 reach: test goals among the training goals, of 50", "goals", common, None, None, n=50,
            seeds=1, target=0, better="lower", source="computed", tier="cpu",
            minutes=(time.perf_counter() - begin) / 60, command=COMMAND,
        )])  # fmt: skip
    if options.only in (None, "experts"):
        shares, minutes = experts()
        for i, when in enumerate(("in the end", "at any step")):
            what = f"scripted experts on the 50 environments of MT50, {GOALS} goals each: success {when}"
            record(FOLDER, [row(what, shares[:, i], 50, 1, 0.95, "issue: experts succeed", minutes)])
    if options.only in (None, "clone"):
        begin = time.perf_counter()
        found = np.array([clone(seed) for seed in range(options.seeds)])
        minutes = (time.perf_counter() - begin) / 60
        rows = []
        for i, (goals, when) in enumerate(
            (goals, when) for goals in ("its 50 goals", "50 goals never met") for when in ("in the end", "at any step")
        ):
            what = f"clone of the expert of MT1 reach on {goals}: success {when}"
            rows.append(row(what, found[:, i], 50, options.seeds, 0.9, "issue: MT3-easy at least .9", minutes))
        record(FOLDER, rows)


if __name__ == "__main__":
    main()
