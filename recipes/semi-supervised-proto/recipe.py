"""Do unlabelled drawings help? Prototypical networks refined by soft k-means, on Omniglot with a tenth of it labelled.

    QUICKSTUDY_DATA=... python recipes/semi-supervised-proto/recipe.py [--seeds 0 1 2]    # 4 minutes a seed

The set-up of Ren et al. 2018: 2 of the 20 drawings of each training character carry a label (support and query come
from these), the other 18 never do. 5-way 1-shot, 5 unlabelled drawings a class; with distractors, 5 more of each of 5
other characters are mixed in. At test every drawing may be drawn for every purpose, none twice in an episode; 9 of a
character are the query, and 0, 1, 2, 5 or 10 unlabelled ones are given, each of these sets within the next. Vinyals
split, rotations are classes of their own, the strided four-block net of width 32 in bfloat16, 600 test episodes.

The paper trains each variant from scratch for 20,000 steps. Here, to fit in minutes, all variants of a seed start from
one net: 3000 steps of a prototypical network, 60-way 1-shot, on the same labelled tenth. From there each takes 500
steps on 8 episodes of its own setting, with and without distractors: labelled examples only, soft k-means, soft k-means
with a cluster for distractors, masked soft k-means. Those of one seed see the same training episodes, and all see the
same test episodes, so that differences are taken in pairs. The cluster's radius starts where validation episodes score
best with the first net: from the paper's 100 it takes every example in, and 500 steps move it by little. "Refined at
test only" is the first variant's net with soft k-means at test. A finished run is a file in
``runs/semi-supervised-proto``; a stopped recipe goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from quickstudy.core import Estimate, Method, Problem
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods import Prototypical, SemiSupervisedProto
from quickstudy.nets import Bfloat16, encoder_for
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
AT_TEST = (0, 1, 2, 5, 10)  # unlabelled examples of a class
RADII = (1.0, 2.0, 3.0, 5.0, 10.0, 100.0)  # that the cluster may start from
TASKS, STEPS = 8, 500  # tasks of a step, steps of a variant
FIRST_STEPS = 3000  # of the net that all start from


def build(variant: str, problem: Problem, encoder: nn.Module, generator: torch.Generator, radius: float) -> Method:
    """A prototypical network, or one with a refinement, around a copy of the encoder."""
    encoder = copy.deepcopy(encoder)
    if variant == "labelled":
        return Prototypical(problem, encoder)
    return SemiSupervisedProto(problem, encoder, refinement=variant, radius=radius, generator=generator)  # type: ignore[arg-type]


def first_net(data: SplitClasses, seed: int, given: argparse.Namespace, out: Path) -> tuple[nn.Module, float]:
    """The encoder that all variants of a seed start from, and the minutes that it took."""
    labelled = label_some(data.classes, 0.1, torch.Generator().manual_seed(100 + seed))
    train = ClassEpisodes(
        data.classes, data.splits["train"], ways=60, shots=1, queries=1, labelled=labelled
    )  # fmt: skip
    encoder = Bfloat16(encoder_for(train.problem, generator=torch.Generator().manual_seed(seed))[0])
    path, begin = out / f"first-{seed}.safetensors", time.process_time()
    steps = FIRST_STEPS if not given.smoke else 5
    fit(
        Prototypical(train.problem, encoder), train, steps=steps, tasks=1, lr=1e-2, every=max(1, steps // 5),
        generator=torch.Generator().manual_seed(seed), checkpoint=path, resume=True,
    )  # fmt: skip
    return encoder, (time.process_time() - begin) / 60


def family(data: SplitClasses, part: str, distractors: int, seed: int, unlabelled: int = UNLABELLED) -> ClassEpisodes:
    """Training episodes with a tenth of the drawings labelled; validation and test episodes of all drawings."""
    labelled = None
    if part == "train":
        labelled = label_some(data.classes, 0.1, torch.Generator().manual_seed(100 + seed))
    return ClassEpisodes(
        data.classes, data.splits[part], ways=5, shots=1, queries=1 if part == "train" else 9,
        unlabelled=unlabelled, distractors=distractors, labelled=labelled,
    )  # fmt: skip


def run(data: SplitClasses, variant: str, distractors: int, seed: int, given: argparse.Namespace, out: Path) -> dict:
    """One training run and its test scores, read from its file if it is there."""
    path = out / f"{variant}-{distractors}-{seed}.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    train = family(data, "train", distractors, seed)
    validation = family(data, "val", distractors, seed).sample(100, torch.Generator().manual_seed(1))
    first, before = first_net(data, seed, given, out)
    make = lambda r: build(variant, train.problem, first, torch.Generator().manual_seed(seed), r)  # noqa: E731
    radius = max(RADII, key=lambda r: float(task_scores(make(r), validation).mean())) if variant == "cluster" else 1.0
    method, begin = make(radius), time.process_time()
    start = float(task_scores(method, validation).mean())
    history = fit(
        method, train, steps=given.steps, tasks=TASKS, every=max(1, given.steps // 5), validation=validation,
        generator=torch.Generator().manual_seed(seed), checkpoint=path.with_suffix(".safetensors"), resume=True,
    )  # fmt: skip
    minutes = (time.process_time() - begin) / 60 + before
    scores = {}
    for n in AT_TEST:
        # the same classes, support and query for every n: an episode's draws do not depend on it
        test = family(data, "test", distractors, seed, n).sample(given.episodes, torch.Generator().manual_seed(2))
        scores[str(n)] = task_scores(method, test).tolist()
        if n == UNLABELLED:
            # how much of it is the refinement at test, and how much another embedding
            encoder = method.encoder
            if variant == "labelled":
                other: Method = SemiSupervisedProto(train.problem, encoder, refinement="soft")  # type: ignore[arg-type]
            else:
                other = Prototypical(train.problem, encoder)  # type: ignore[arg-type]
            scores["other"] = task_scores(other, test).tolist()
    print(f"{path.stem}: " + ", ".join(f"{n} {np.mean(s):.4f}" for n, s in scores.items()),
          f"kept {history.best_step} of {given.steps}, "
          f"validation {start:.4f} {[round(s, 4) for s in history.score]}, radius {radius}, "
          f"{minutes:.2f} minutes", flush=True)  # fmt: skip
    result = {"scores": scores, "steps": given.steps, "minutes": minutes, "history": vars(history)}
    write_json(path, result)
    return result


def over_tasks(scores: np.ndarray) -> Estimate:
    """Mean and interval over test episodes. Shape: ``[seeds, tasks]``."""
    return estimate(scores, np.ones(scores.shape[1]), np.random.default_rng(0))


def rows_of(runs: dict[str, list[dict]], distractors: int) -> list[Row]:
    """What the runs of all variants say, beside each other."""
    seeds = len(runs["labelled"])
    minutes = round(max(sum(every[seed]["minutes"] for every in runs.values()) for seed in range(seeds)), 1)

    def scores(variant: str, which: str = str(UNLABELLED)) -> np.ndarray:
        return np.array([r["scores"][which] for r in runs[variant]])

    def row(what: str, value: Estimate, target: float, source: str) -> Row:
        where = f"with {distractors} distractor classes" if distractors else "without distractors"
        return Row(
            "semi-supervised-proto", f"Omniglot 5-way 1-shot, 10 % labelled, {where}: {what}", "accuracy",
            value.mean, value.low, value.high, value.n, seeds, target, "higher", source, "cpu", minutes, COMMAND,
        )  # fmt: skip

    base = scores("labelled")
    pairs = "computed: the same episodes, in pairs"
    rows = [row(VARIANTS["labelled"], over_tasks(base), 0.2, "computed: chance")]
    for variant, words in list(VARIANTS.items())[1:]:
        ours = scores(variant)
        rows.append(row(words, over_tasks(ours), float(base.mean()), "computed: labelled examples only"))
        rows.append(row(f"{words}, gain over labelled only", over_tasks(ours - base), 0.0, pairs))
    rest = {"soft k-means": scores("soft"), "soft k-means with a distractor cluster": scores("cluster"),
            "labelled only, refined at test only": scores("labelled", "other")}  # fmt: skip
    for words, theirs in rest.items() if distractors else ():
        rows.append(row(f"masked soft k-means, gain over {words}", over_tasks(scores("masked") - theirs), 0.0, pairs))
    for fewer, more in zip(AT_TEST[:-1], AT_TEST[1:], strict=True):
        gain = over_tasks(scores("masked", str(more)) - scores("masked", str(fewer)))
        what = f"masked soft k-means, gain of {more} over {fewer} unlabelled examples a class at test"
        rows.append(row(what, gain, 0.0, pairs))
    return rows


def main() -> None:
    """Train every run that is not there yet, then record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--smoke", action="store_true", help="a few steps, in a folder of their own; records nothing")
    given = parser.parse_args()
    given.steps, given.episodes = (5, 8) if given.smoke else (STEPS, 600)
    data = load("omniglot").meet
    assert isinstance(data, SplitClasses)
    out = RUNS / "smoke" if given.smoke else RUNS
    out.mkdir(parents=True, exist_ok=True)
    found: dict[int, dict[str, list[dict]]] = {n: {variant: [] for variant in VARIANTS} for n in (DISTRACTORS, 0)}
    for seed in given.seeds:
        for distractors, runs in found.items():
            for variant in VARIANTS:
                runs[variant].append(run(data, variant, distractors, seed, given, out))
    rows = [row for distractors, runs in found.items() for row in rows_of(runs, distractors)]
    for one in rows if given.smoke else record(FOLDER, rows):
        print(one)


if __name__ == "__main__":
    main()
