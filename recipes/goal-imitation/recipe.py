"""U-maze: goals are reached by imitating what reached them, from wandering alone; beside it, hindsight with values.

    python recipes/goal-imitation/recipe.py           # 5 seeds of 5 kinds, 10 to 30 seconds each on one core

**Cells.** A U of 11 cells, any start and any goal, 20 steps for a way that takes 10 at most. The data are 64,000 steps
of random moves, in trials of 100 steps; nobody wanted anything. GCSL makes what was done likelier for what it reached
(windows of at most 60 steps), and then does the likeliest. DQN with hindsight relabelling (`future`) learns values
from the same data with as many optimiser steps. Then both act for themselves, for as many steps (k = 4 for DQN). Values
know that soon is better than late; GCSL learns p(a | s, g reached later) of data that dawdle. So it is behind: .96
against 1.00 from the wandering, and .83 from its own steps, where .9 was aimed at. That dawdling is the reason is the
likely one, and was not tested.

**Play.** A point in a U of the same cells, 80 steps from one end to any place (the far end is 40 steps away at best),
3 x 3 actions. The log is 64,000 steps of someone who walks to a place that comes to mind, and on to another; the places
are not noted. GCSL learns from windows of at most 40 steps.

Every run is judged on 1,000 goals, each tried once, doing what looks best; goals and starts are drawn from other
generators than the data. Finished runs stay in ``runs/goal-imitation``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from quickstudy.core import Environment, Trajectory
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import DQN, GCSL
from quickstudy.methods.rl._policies import best_of
from quickstudy.methods.rl._replay import Replay
from quickstudy.methods.rl.relabel import Hindsight, Relabel, Windows
from quickstudy.tasks.acting import Discretised, Rule, at_random
from quickstudy.tasks.grids import Maze
from quickstudy.tasks.point import PointMaze
from quickstudy.training import collect, first_episode, fit_off_policy, fit_offline

CELLS = Maze(length=20)
WANDERED = Maze(length=100, ends=False)  # nothing ends a trial but time
TRIALS, STEPS, GOALS = 640, 2000, 1000
U = PointMaze()
POINT = Discretised(U)
PLAYED = Discretised(replace(U, start=None, within=1e-6, length=1000))
RUNS, FOLDER = Path("runs/goal-imitation"), Path(__file__).parent


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def success(trials: Trajectory) -> torch.Tensor:
    """Whether the goal was reached within the first episode."""
    return ((trials.ends()[0] > 0) & first_episode(trials.done)).any(1)


def wandering(seed: int) -> Replay:
    """Random moves."""
    tasks = WANDERED.sample(TRIALS, generator(seed))
    return Replay.of(collect(WANDERED, at_random(WANDERED.problem), tasks, generator(seed + 1)))


def play(seed: int) -> Replay:
    """Someone walks to a place and, once there, to another: the places are not noted."""
    wanted = U.somewhere(64, generator(seed))

    def rule(seen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        nonlocal wanted
        there = (seen[:, :2] - wanted).norm(dim=1) <= U.within
        wanted = U.somewhere(64, generator).where(there.unsqueeze(1), wanted)
        return PLAYED.nearest(U.oracle(wanted).rule(seen, generator))

    return Replay.of(collect(PLAYED, Rule(rule), wanted, generator(seed + 1)))


def imitates(seed: int, environment: Environment = CELLS) -> GCSL:
    return GCSL(environment.problem, width=128, generator=generator(seed))


def values(seed: int) -> DQN:
    return DQN(
        CELLS.problem, width=128, discount=0.98, explore=0.2, rate=0.02, bounds=(-50.0, 0.0), generator=generator(seed)
    )


def from_log(method: GCSL | DQN, log: Replay, relabel: Relabel, seed: int, **more: int) -> GCSL | DQN:
    """Learn without acting."""
    given = {"steps": STEPS, "batch": 256} | more
    fit_offline(method, log, relabel=relabel, lr=3e-3, generator=generator(100 + seed), **given)  # type: ignore
    return method


def acting(method: GCSL | DQN, seed: int, share: float) -> GCSL | DQN:
    """64,000 steps of its own and as many optimiser steps."""
    fit_off_policy(
        method, CELLS, steps=1000, tasks=64, memory=64_000, batch=256, updates=STEPS // 1000, warmup=64 * 20,
        relabel=Hindsight(CELLS, "future", share=share), lr=3e-3, generator=generator(100 + seed),
    )  # fmt: skip
    return method


KINDS: dict[str, Callable[[int], GCSL | DQN]] = {
    "GCSL from 64,000 steps of wandering alone": lambda seed: from_log(
        imitates(seed), wandering(1000 + seed), Windows(CELLS, 1, 60), seed
    ),
    "DQN with hindsight from the same wandering": lambda seed: from_log(
        values(seed), wandering(1000 + seed), Hindsight(CELLS, "future", share=1.0, length=100), seed
    ),
    "GCSL, 64,000 steps of its own": lambda seed: acting(imitates(seed), seed, 1.0),
    "DQN with hindsight, 64,000 steps of its own": lambda seed: acting(values(seed), seed, 0.8),
    "point: GCSL from 64,000 steps of play, windows": lambda seed: from_log(
        imitates(seed, POINT), play(1000 + seed), Windows(POINT, 1, 40), seed, steps=2500, batch=512
    ),
}


def run(kind: str, seed: int) -> tuple[float, float]:
    """Success on the test goals, and minutes."""
    notes = RUNS / f"{list(KINDS).index(kind)}-{seed}.json"
    if not notes.is_file():
        begin = time.perf_counter()
        method = KINDS[kind](seed)
        where: Environment = POINT if kind.startswith("point") else CELLS
        tasks = where.sample(GOALS, generator(50_000 + 10 * seed))
        trials = collect(where, best_of(method), tasks, generator(50_001 + 10 * seed))
        found = float(success(trials).float().mean())
        notes.parent.mkdir(parents=True, exist_ok=True)
        notes.write_text(json.dumps([found, (time.perf_counter() - begin) / 60]))
    found, minutes = json.loads(notes.read_text())
    print(f"{kind}, seed {seed}: {found:.3f}, {minutes:.2f} min", flush=True)
    return found, minutes


def main() -> None:
    """Train, test, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    for name, where in (("cells", CELLS), ("point", POINT)):
        chance = collect(where, at_random(where.problem), where.sample(GOALS, generator(1)), generator(2))
        print(f"{name}, by chance: {float(success(chance).float().mean()):.3f}")
    results = {kind: [run(kind, seed) for seed in range(seeds)] for kind in KINDS}
    command, rows = "python recipes/goal-imitation/recipe.py", []
    for i, (kind, runs) in enumerate(results.items()):
        over = between_seeds([found for found, _ in runs], GOALS, 0.0, 1.0)
        print(f"{kind}: {over}")
        rows.append(
            Row(
                "goal-imitation", f"U-maze: {kind}", "share of goals reached", over.mean, over.low, over.high,
                n=GOALS, seeds=seeds, target=0.9, better="higher",
                source="computed: what is asked of GCSL from wandering" if i else "issue target", tier="cpu",
                minutes=sum(minutes for _, minutes in runs), command=command,
            )
        )  # fmt: skip
    every = list(results.values())
    for what, one, other in (("the same wandering", 0, 1), ("64,000 steps of their own", 2, 3)):
        gain = [a - b for (a, _), (b, _) in zip(every[one], every[other], strict=True)]
        over = between_seeds(gain, GOALS)
        print(f"GCSL minus DQN with hindsight, {what}: {over}")
        rows.append(
            Row(
                "goal-imitation", f"U-maze: GCSL minus DQN with hindsight, {what}", "difference of shares", over.mean,
                over.low, over.high, n=GOALS, seeds=seeds, target=0.0, better="higher",
                source="computed: as good as hindsight", tier="cpu",
                minutes=sum(m for k in (one, other) for _, m in every[k]), command=command,
            )
        )  # fmt: skip
    record(FOLDER, rows)


if __name__ == "__main__":
    main()
