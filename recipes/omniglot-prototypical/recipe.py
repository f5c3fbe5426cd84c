"""Prototypical networks on Omniglot, Vinyals split, 5-way 1-shot: beside the published figure and the floor.

    QUICKSTUDY_DATA=... python recipes/omniglot-prototypical/recipe.py [SEED]     # under 15 minutes a seed on two cores

Trained 60-way 1-shot with 5 queries a class (Snell et al. 2017), on the strided four-block net; rotated characters are
classes of their own, in the split of their character. 600 test episodes of 5 classes, 15 queries a class, which no
training run has seen; batch normalisation uses its running statistics, so nothing is transductive.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods import NearestNeighbour, Prototypical
from quickstudy.nets import encoder_for
from quickstudy.tasks.classes import ClassEpisodes
from quickstudy.tasks.load import load
from quickstudy.tasks.study import SplitClasses
from quickstudy.training import fit, task_scores
from quickstudy.training.checkpoint import write_json

FOLDER = Path(__file__).parent
RUNS = Path("runs/omniglot-prototypical")
STEPS, SEEDS = 4000, 3
COMMAND = "python recipes/omniglot-prototypical/recipe.py"


def episodes(data: SplitClasses, part: str, seed: int, n: int, queries: int = 15):
    """Fixed 5-way 1-shot episodes of one part of the split."""
    family = ClassEpisodes(data.classes, data.splits[part], ways=5, shots=1, queries=queries)
    return family.problem, family.sample(n, torch.Generator().manual_seed(seed))


def train(data: SplitClasses, seed: int) -> list[float]:
    """One training run; its 600 test scores."""
    out = RUNS / f"{seed}.json"
    if not out.is_file():
        begin = time.perf_counter()
        family = ClassEpisodes(data.classes, data.splits["train"], ways=60, shots=1, queries=5, known=True)
        generator = torch.Generator().manual_seed(seed)
        method = Prototypical(family.problem, encoder_for(family.problem, generator=generator, width=64)[0])
        history = fit(
            method, family, steps=STEPS, tasks=1, every=500, validation=episodes(data, "val", 1, 200, 5)[1],
            generator=torch.Generator().manual_seed(seed), checkpoint=RUNS / f"{seed}.safetensors", resume=True,
            progress=lambda done, steps: print(f"\r{done}/{steps}", end="") if done % 100 == 0 else None,
        )  # fmt: skip
        minutes = (time.perf_counter() - begin) / 60
        scores = task_scores(method, episodes(data, "test", 2, 600)[1])
        print(f"\nseed {seed}: {float(scores.mean()):.4f}, kept step {history.best_step}, {minutes:.1f} minutes")
        write_json(out, {"scores": scores.tolist(), "minutes": minutes})
    return list(json.loads(out.read_text())["scores"])


def main() -> None:
    """Train every seed that is not there yet, then record."""
    torch.set_num_threads(2)
    data = load("omniglot").meet
    assert isinstance(data, SplitClasses)
    chosen = [int(a) for a in sys.argv[1:]] or list(range(SEEDS))
    for seed in chosen:
        train(data, seed)
    runs = [json.loads(path.read_text()) for path in sorted(RUNS.glob("?.json"))]
    scores = np.array([run["scores"] for run in runs])
    ours = estimate(scores, np.ones(600), np.random.default_rng(0))
    problem, test = episodes(data, "test", 2, 600)
    floor_scores = task_scores(NearestNeighbour(problem), test).numpy()
    floor = estimate(floor_scores[None].astype(float), np.ones(600), np.random.default_rng(0))
    minutes = max(run["minutes"] for run in runs)
    rows = [
        Row("prototypical", "Omniglot 5-way 1-shot, Vinyals split, 600 test episodes", "accuracy", ours.mean, ours.low,
            ours.high, 600, len(runs), 0.975, "higher", "issue (Snell et al. 2017, table 1: .988)", "cpu",
            round(minutes, 1), COMMAND),
        Row("nearest-neighbour", "raw pixels, the same 600 episodes", "accuracy", floor.mean, floor.low, floor.high,
            600, 1, ours.mean, "lower", "computed: the floor lies below", "cpu", 0.1, COMMAND),
    ]  # fmt: skip
    for row in record(FOLDER, rows):
        print(row)


if __name__ == "__main__":
    main()
