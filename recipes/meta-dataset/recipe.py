"""Meta-Dataset's protocol over four sets: prototypical networks beside the nearest neighbour on pixels, set by set.

    QUICKSTUDY_DATA=... python recipes/meta-dataset/recipe.py            # under 8 minutes on two cores
    QUICKSTUDY_DATA=... python recipes/meta-dataset/recipe.py 20         # a smoke test of 20 steps; records nothing

One encoder, trained on episodes of Omniglot (training alphabets), CIFAR-100 (training classes of CIFAR-FS), MNIST and
Fashion-MNIST (five kinds each), drawn with 5 to 50 ways and up to 500 support examples, one episode a step. The best
step is chosen on validation episodes of Omniglot and CIFAR-100. 60 test episodes a set, of classes that no training run
has seen. The floor is the nearest support image on raw pixels, on the same episodes.

What came of it: ahead of the floor on characters (.46 and .40) and photographs (.33 and .29), behind it on digits (.80
and .85) and clothes (.76 and .78), of which the training has five kinds each against hundreds of the others. 600
episodes are few: validation was still rising (.32 to .39). The benchmark's own runs take tens of thousands.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods import NearestNeighbour, Prototypical
from quickstudy.nets import encoder_for
from quickstudy.tasks.meta_dataset import VariableEpisodes, sources
from quickstudy.training import fit, task_scores

FOLDER = Path(__file__).parent
STEPS, EPISODES, AT_ONCE, SEED = 600, 60, 10, 0
COMMAND = "python recipes/meta-dataset/recipe.py"


def main() -> None:
    """Train, score set by set, record."""
    torch.set_num_threads(2)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    begin = time.perf_counter()
    family = VariableEpisodes(sources("train"))
    validation = VariableEpisodes(sources("val")).sample(12, torch.Generator().manual_seed(1))
    test = VariableEpisodes(sources("test"))
    method = Prototypical(family.problem, encoder_for(family.problem, width=32)[0])
    history = fit(
        method, family, steps=steps, tasks=1, lr=2e-3, every=max(1, steps // 4), validation=validation,
        generator=torch.Generator().manual_seed(SEED),
        progress=lambda done, total: print(f"\r{done}/{total}", end="") if done % 10 == 0 else None,
    )  # fmt: skip
    minutes = (time.perf_counter() - begin) / 60
    print(
        f"\nvalidation {[round(score, 3) for score in history.score]}, kept step {history.best_step}, {minutes:.1f} min"
    )
    pixels = NearestNeighbour(family.problem)
    rows = []
    for name in test.names:
        scores: dict[str, list[float]] = {"ours": [], "floor": []}
        generator = torch.Generator().manual_seed(2)
        for _ in range(EPISODES // AT_ONCE):
            episodes = test.only(name).sample(AT_ONCE, generator)
            scores["ours"] += task_scores(method, episodes).tolist()
            scores["floor"] += task_scores(pixels, episodes).tolist()
        ours, floor = (
            estimate(np.array([scores[which]]), np.ones(EPISODES), np.random.default_rng(0))
            for which in ("ours", "floor")
        )
        print(f"{name}: {ours}; nearest neighbour on pixels {floor}")
        rows.append(
            Row("meta-dataset", f"prototypical on new classes of {name}, {EPISODES} episodes of varying ways and shots",
                "accuracy", ours.mean, ours.low, ours.high, EPISODES, 1, floor.mean, "higher",
                "computed: nearest neighbour on pixels, same episodes", "cpu", round(minutes, 1), COMMAND)
        )  # fmt: skip
    if steps == STEPS:
        record(FOLDER, rows)


if __name__ == "__main__":
    main()
