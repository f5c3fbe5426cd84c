"""Do unlabelled drawings help? Prototypical networks refined by soft k-means, on Omniglot with a tenth of it labelled.

    QUICKSTUDY_DATA=... python recipes/semi-supervised-proto/recipe.py [--seeds 0]    # 8 runs of about 3 minutes

The set-up of Ren et al. 2018: 2 of the 20 drawings of each training character carry a label (support and query come
from these), the other 18 never do. 5-way 1-shot, 5 unlabelled drawings a class; with distractors, 5 more of each of 5
other characters are mixed in. At test every drawing may be drawn for every purpose, none twice in an episode, and the
14 that are left of a character are the query. Vinyals split, rotations are classes of their own, the strided four-block
net of width 32, 600 test episodes.

Four variants, each trained and tested with and without distractors: labelled examples only (a prototypical network),
soft k-means, soft k-means with a cluster for distractors, masked soft k-means. All see the same test episodes. The
target of a refinement is the labelled-only score of the same seeds. All take the same number of steps. A finished run
is a file in ``runs/semi-supervised-proto``; a stopped recipe goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods import Prototypical, SemiSupervisedProto
from quickstudy.tasks.classes import ClassEpisodes, label_some
from quickstudy.tasks.load import load
from quickstudy.tasks.study import SplitClasses
from quickstudy.training import fit, task_scores
from quickstudy.training.checkpoint import write_json

FOLDER = Path(__file__).parent
RUNS = Path("runs/semi-supervised-proto")
COMMAND = "python recipes/semi-supervised-proto/recipe.py"
VARIANTS = {
    "labelled": "labelled examples only",
    "soft": "soft k-means",
    "cluster": "soft k-means with a distractor cluster",
    "masked": "masked soft k-means",
}
UNLABELLED, DISTRACTORS = 5, 5
TASKS, STEPS = 8, 600  # tasks of a step, steps of a run


def build(variant: str, problem, generator: torch.Generator):
    """A prototypical network, or one with a refinement; all of the same first encoder."""
    if variant == "labelled":
        return Prototypical(problem, generator=generator)
    return SemiSupervisedProto(problem, refinement=variant, generator=generator)


def family(data: SplitClasses, part: str, distractors: int, seed: int) -> ClassEpisodes:
    """Training episodes with a tenth of the drawings labelled; validation and test episodes of all drawings."""
    if part == "train":
        labelled = label_some(data.classes, 0.1, torch.Generator().manual_seed(100 + seed))
        return ClassEpisodes(
            data.classes, data.splits[part], ways=5, shots=1, queries=1,
            unlabelled=UNLABELLED, distractors=distractors, labelled=labelled,
        )  # fmt: skip
    return ClassEpisodes(
        data.classes, data.splits[part], ways=5, shots=1, queries=14, unlabelled=UNLABELLED, distractors=distractors
    )


def run(data: SplitClasses, variant: str, distractors: int, seed: int, given, out: Path) -> dict:
    """One training run and its test scores, read from its file if it is there."""
    path = out / f"{variant}-{distractors}-{seed}.json"
    if not path.is_file():
        train = family(data, "train", distractors, seed)
        steps = given.steps
        method = build(variant, train.problem, torch.Generator().manual_seed(seed))
        begin = time.perf_counter()
        history = fit(
            method, train, steps=steps, tasks=TASKS, every=max(1, steps // 5),
            validation=family(data, "val", distractors, seed).sample(50, torch.Generator().manual_seed(1)),
            generator=torch.Generator().manual_seed(seed), checkpoint=path.with_suffix(".safetensors"), resume=True,
            progress=lambda done, of: print(f"\r{path.stem} {done}/{of}", end="") if done % 50 == 0 else None,
        )  # fmt: skip
        minutes = (time.perf_counter() - begin) / 60
        test = family(data, "test", distractors, seed).sample(given.episodes, torch.Generator().manual_seed(2))
        scores = task_scores(method, test)
        # how much of it is the refinement at test, and how much another embedding: the same net without any
        bare = Prototypical(train.problem, method.encoder)
        alone = task_scores(bare, test)
        print(f"\n{path.stem}: {float(scores.mean()):.4f}, unrefined {float(alone.mean()):.4f}, {steps} steps, "
              f"kept {history.best_step}, {minutes:.1f} minutes")  # fmt: skip
        write_json(path, {"scores": scores.tolist(), "unrefined": alone.tolist(), "steps": steps, "minutes": minutes})
    return json.loads(path.read_text())


def main() -> None:
    """Train every run that is not there yet, then record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--smoke", action="store_true", help="a few steps, in a folder of their own; records nothing")
    given = parser.parse_args()
    given.steps, given.episodes = (5, 4) if given.smoke else (STEPS, 600)
    data = load("omniglot").meet
    assert isinstance(data, SplitClasses)
    out = RUNS / "smoke" if given.smoke else RUNS
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for distractors in (0, DISTRACTORS):
        where = f"with {distractors} distractor classes" if distractors else "without distractors"
        base: np.ndarray | None = None
        for variant, words in VARIANTS.items():
            runs = [run(data, variant, distractors, seed, given, out) for seed in given.seeds]
            scores = np.array([r["scores"] for r in runs], dtype=float)
            ones = np.ones(scores.shape[1])
            ours = estimate(scores, ones, np.random.default_rng(0))
            minutes = round(max(r["minutes"] for r in runs), 1)

            def row(what: str, value, target: float, source: str, minutes: float = minutes, n: int = len(ones)) -> Row:
                return Row(
                    "semi-supervised-proto", what, "accuracy", value.mean, value.low, value.high, n, len(given.seeds),
                    target, "higher", source, "cpu", minutes, COMMAND,
                )  # fmt: skip

            what = f"Omniglot 5-way 1-shot, 10 % labelled, {where}: {words}"
            if base is None:
                base = scores
                rows.append(row(what, ours, 0.2, "computed: chance"))
                continue
            rows.append(row(what, ours, float(base.mean()), "computed: labelled examples only, same episodes"))
            gain = estimate(scores - base, ones, np.random.default_rng(0))
            rows.append(row(f"{what}, gain over labelled only", gain, 0.0, "computed: the same episodes, in pairs"))
    if given.smoke:
        print(*rows, sep="\n")
        return
    for one in record(FOLDER, rows):
        print(one)


if __name__ == "__main__":
    main()
