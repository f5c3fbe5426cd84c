"""Few-shot learners on Omniglot (Vinyals split, rotations as classes of their own) and CIFAR-FS, beside the papers.

    QUICKSTUDY_DATA=... python recipes/few-shot/recipe.py METHOD [METHOD ...] [--data cifar-fs] [--seed 0] [--threads 2]

One training run a method and seed, at most 10 minutes on two cores (tier ``cpu``; a row's minutes are the processor's,
divided by two); then 1000 test episodes of each setting, of classes that no training run has seen. The parameters are
those that did best on 200 validation episodes. "Transductive" marks methods that normalise by the statistics of the
query. A run that was stopped goes on from its checkpoint in ``runs/few-shot``; a finished one is read.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from quickstudy.core import Episodes, Method, Problem
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods.registry import build, find
from quickstudy.nets import Bfloat16, encoder_for, net_for
from quickstudy.progress import Watch
from quickstudy.tasks.classes import ClassEpisodes
from quickstudy.tasks.load import load
from quickstudy.tasks.study import SplitClasses
from quickstudy.training import fit, task_scores
from quickstudy.training.checkpoint import write_json

FOLDER = Path(__file__).parent
RUNS = Path("runs/few-shot")
SETTINGS = ((5, 1), (5, 5), (20, 1), (20, 5))  # ways, shots
Build = Callable[[Problem, torch.Generator], Method]


@dataclass(frozen=True)
class Setup:
    """How one method is trained at tier ``cpu``.

    Args:
        build: the method for a problem.
        steps: training steps.
        ways: of training episodes; metric methods train on more than they are tested on.
        shots: of training episodes.
        queries: of a class in training episodes.
        tasks: episodes of a step.
        lr: Adam's first step size.
        tests: settings that the trained method is tested on.
        note: what a reader must know of the protocol.
        test_queries: queries of a class at test; 1 where batch statistics make them count (the papers' habit).
    """

    build: Build
    steps: int
    ways: int = 5
    shots: int = 1
    queries: int = 5
    tasks: int = 1
    lr: float = 1e-3
    tests: tuple[tuple[int, int], ...] = ((5, 1),)
    note: str = ""
    test_queries: int = 15


def encoded(name: str, width: int = 64, **settings: object) -> Build:
    """A method around the strided four-block encoder, which normalises by running statistics."""

    def make(problem: Problem, generator: torch.Generator) -> Method:
        encoder, _ = encoder_for(problem, generator=generator, width=width)
        return build(find(name), problem, 0, encoder=Bfloat16(encoder), generator=generator, **settings)

    return make


def inner(name: str, width: int = 32, **settings: object) -> Build:
    """A gradient-based method on the strided four-block net, which normalises by the batch at hand: transductive."""

    def make(problem: Problem, generator: torch.Generator) -> Method:
        net = net_for(problem, "batch", generator, width=width)
        return build(find(name), problem, 0, net=net, generator=generator, **settings)

    return make


def plain(name: str, **settings: object) -> Build:
    """A method with the net that it makes itself."""
    return lambda problem, generator: build(find(name), problem, generator.initial_seed(), **settings)


def around(name: str, part: str = "encoder", **settings: object) -> Build:
    """A method that makes its own encoder of 32 filters, in bfloat16."""

    def make(problem: Problem, generator: torch.Generator) -> Method:
        method = build(find(name), problem, generator.initial_seed(), **settings)
        setattr(method, part, Bfloat16(getattr(method, part)))
        return method

    return make


NORM = "transductive: batch statistics; 32 filters"

OMNIGLOT: dict[str, Setup] = {
    "prototypical": Setup(
        encoded("prototypical"), steps=12_000, ways=60, tests=SETTINGS, note="trained 60-way 1-shot",
    ),
    "nearest-neighbour": Setup(plain("nearest-neighbour"), 0, ways=20, tests=SETTINGS, note="raw pixels: the floor"),
    "matching": Setup(around("matching"), 8000, ways=20, tasks=2, tests=SETTINGS[:2], note="trained 20-way 1-shot"),
    "relation": Setup(around("relation"), steps=4500, tasks=8, note="5-way training"),
    "siamese": Setup(around("siamese"), steps=6000, ways=20, tasks=1, note="trained on pairs of 20-way episodes"),
    "r2d2": Setup(encoded("r2d2", 32), steps=7000, tasks=12, note="32 filters"),
    "metaoptnet": Setup(encoded("metaoptnet", 32), steps=4000, tasks=8, note="32 filters"),
    "lr-d2": Setup(encoded("lr-d2", 32), steps=4000, tasks=8, note="32 filters"),
    "maml": Setup(inner("maml", inner_lr=0.4, steps=1, test_steps=3), 8000, queries=3, tasks=16, note=NORM),
    "fomaml": Setup(inner("fomaml", inner_lr=0.4, steps=1, test_steps=10), 6000, queries=3, tasks=16, note=NORM),
    "anil": Setup(inner("anil", inner_lr=0.4, steps=1, test_steps=10), 6000, queries=3, tasks=16, note=NORM),
    "meta-sgd": Setup(inner("meta-sgd", inner_lr=0.4, steps=1, test_steps=3), 6000, queries=3, tasks=16, note=NORM),
    "mamlpp": Setup(inner("mamlpp", steps=2), 5000, queries=3, tasks=8, note=NORM),
    "proto-maml": Setup(plain("proto-maml"), 6000, queries=3, tasks=8, note=NORM),
    "reptile": Setup(inner("reptile"), 4000, shots=5, queries=5, tasks=5, note=NORM),
    "snail": Setup(encoded("snail", 32, length=6), 7000, queries=3, tasks=16, note="32 filters"),
    "lstm-mann": Setup(encoded("lstm-mann", 32), 7000, queries=3, tasks=16, lr=2e-3, note="32 filters"),
    "cnp": Setup(around("cnp", "features"), 6000, tasks=12, note="32 filters"),
    "in-context": Setup(encoded("in-context", 32), 6000, queries=3, tasks=16, note="32 filters"),
    "hypernetwork": Setup(encoded("hypernetwork", 32), 6000, queries=3, tasks=16, note="32 filters"),
}  # fmt: skip
CIFAR: dict[str, Setup] = {  # the strided net, not the pooled one of the papers
    "nearest-neighbour": Setup(plain("nearest-neighbour"), steps=0, tests=SETTINGS[:2], note="raw pixels: the floor"),
    "prototypical": Setup(encoded("prototypical"), 6000, ways=20, tasks=2, tests=SETTINGS[:2], note="20-way training"),
    "r2d2": Setup(encoded("r2d2"), 4000, tasks=12, note="64 filters"),
    "metaoptnet": Setup(encoded("metaoptnet"), 3000, tasks=8, note="64 filters"),
    "maml": Setup(inner("maml", inner_lr=0.1, steps=3, test_steps=5), 4000, tasks=4, note=NORM),
    "anil": Setup(inner("anil", inner_lr=0.1, steps=3, test_steps=5), 4000, tasks=4, note=NORM),
    "fine-tune": Setup(plain("fine-tune", steps=50), 6000, ways=20, tasks=2, tests=SETTINGS[:2], note="tuned head"),
}  # fmt: skip
SETUPS = {"omniglot": OMNIGLOT, "cifar-fs": CIFAR}
TITLES = {"omniglot": "Omniglot (Vinyals split)", "cifar-fs": "CIFAR-FS (JPEG copy)"}

# accuracy in per cent at SETTINGS; where it was published
Published = dict[str, tuple[tuple[float | None, ...], str]]
PUBLISHED: dict[str, Published] = {
    "omniglot": {
        "prototypical": ((98.8, 99.7, 96.0, 98.9), "Snell et al. 2017, table 1"),
        "matching": ((98.1, 98.9, 93.8, 98.5), "Vinyals et al. 2016, table 1"),
        "relation": ((99.6, 99.8, 97.6, 99.1), "Sung et al. 2018, table 1"),
        "siamese": ((97.3, 98.4, 88.2, 97.0), "Koch et al. 2015"),
        "maml": ((98.7, 99.9, 95.8, 98.9), "Finn et al. 2017, table 1"),
        "fomaml": ((98.3, 99.2, 89.4, 97.9), "Nichol et al. 2018"),
        "reptile": ((97.68, 99.48, 89.43, 97.12), "Nichol et al. 2018, with transduction"),
        "anil": ((None, None, 96.2, 98.0), "Raghu et al. 2020"),
        "mamlpp": ((99.47, 99.85, 97.65, 99.33), "Antoniou et al. 2019, an ensemble"),
        "snail": ((99.07, 99.78, 97.64, 99.36), "Mishra et al. 2018"),
        "lstm-mann": ((82.8, 94.9, None, None), "Santoro et al. 2016, 2nd and 6th sight of a class, no convolutions"),
    },
    "cifar-fs": {
        "prototypical": ((55.5, 72.0, None, None), "Lee et al. 2019, table 2, 64 filters, pooled"),
        "maml": ((58.9, 71.5, None, None), "Lee et al. 2019, table 2, 32 filters, pooled"),
        "r2d2": ((65.3, 79.4, None, None), "Lee et al. 2019, table 2, 96-192-384-512 filters"),
        "metaoptnet": ((72.0, 84.2, None, None), "Lee et al. 2019, table 2, ResNet-12"),
    },
}
# what a run of 10 minutes on two cores is to reach at SETTINGS
TARGETS: dict[str, tuple[float | None, ...]] = {
    "prototypical": (97.5, None, 92.0, None),
    **dict.fromkeys(
        ("matching", "relation", "maml", "mamlpp", "meta-sgd", "proto-maml", "r2d2"), (95.5, None, None, None)
    ),
    **dict.fromkeys(("fomaml", "anil", "reptile"), (92.0, None, None, None)),
    **dict.fromkeys(("snail", "cnp", "lstm-mann"), (90.0, None, None, None)),
}


def episodes(data: SplitClasses, part: str, ways: int, shots: int, queries: int, n: int, seed: int) -> Episodes:
    """Fixed episodes of one part of the split."""
    family = ClassEpisodes(data.classes, data.splits[part], ways=ways, shots=shots, queries=queries)
    return family.sample(n, torch.Generator().manual_seed(seed))


def run(where: str, name: str, seed: int, data: SplitClasses) -> dict[str, object]:
    """One training run and its tests, or what an earlier one found."""
    out = RUNS / f"{where}-{name}-{seed}.json"
    if out.is_file():
        return dict(json.loads(out.read_text()))
    setup = SETUPS[where][name]
    family = ClassEpisodes(
        data.classes, data.splits["train"], ways=setup.ways, shots=setup.shots, queries=setup.queries, known=True
    )
    method = setup.build(family.problem, torch.Generator().manual_seed(seed))
    clock = out.with_suffix(".seconds")  # the processor's seconds of this run before it was stopped
    before = float(clock.read_text()) if clock.is_file() else 0.0
    begin, processor = time.perf_counter(), time.process_time() - before
    every = max(1, setup.steps // 12)

    def report(done: int, steps: int) -> None:
        watch(name, done, steps)
        if done % every == 0:  # with the checkpoint
            clock.write_text(str(time.process_time() - processor))

    ways, shots = setup.tests[0]
    with Watch(Console()) as watch:
        history = fit(
            method, family, steps=setup.steps, tasks=setup.tasks, lr=setup.lr, every=every,
            validation=episodes(data, "val", ways, shots, min(5, setup.test_queries), 200, 1),
            generator=torch.Generator().manual_seed(seed), checkpoint=out.with_suffix(".safetensors"), resume=True,
            progress=report,
        )  # fmt: skip
    minutes = (time.perf_counter() - begin) / 60
    cpu = (time.process_time() - processor) / 60
    scores = {}
    for ways, shots in setup.tests:
        test = episodes(data, "test", ways, shots, setup.test_queries, 1000, 2)
        scores[f"{ways}w{shots}s"] = task_scores(method, test).tolist()
        print(f"{name} seed {seed} {ways}w{shots}s {100 * np.mean(scores[f'{ways}w{shots}s']):.2f}", flush=True)
    result = {"scores": scores, "minutes": minutes, "cpu": cpu, "history": vars(history), "steps": setup.steps}
    print(f"  {minutes:.1f} minutes, {cpu:.1f} of the processor's; validation", [f"{s:.4f}" for s in history.score])
    write_json(out, result)
    return result


def rows_of(data: str, name: str, runs: list[dict[str, object]]) -> list[Row]:
    """What the finished runs of a method claim."""
    setup = SETUPS[data][name]
    rows = []
    for ways, shots in setup.tests:
        where = SETTINGS.index((ways, shots))
        scores = np.array([r["scores"][f"{ways}w{shots}s"] for r in runs])  # type: ignore[index]
        ours = estimate(scores, np.ones(scores.shape[1]), np.random.default_rng(0))
        published, paper = PUBLISHED[data].get(name, ((None,) * 4, "no figure published"))
        target = TARGETS.get(name, (None,) * 4)[where] if data == "omniglot" else None
        theirs = published[where]
        source = f"{paper}: {theirs}" if theirs is not None else paper
        goal = target if target is not None else theirs if theirs is not None else 100.0 / ways
        rows.append(
            Row(name, f"{TITLES[data]} {ways}-way {shots}-shot, 1000 test episodes; {setup.note}",
                "accuracy", ours.mean, ours.low, ours.high, 1000, len(runs), goal / 100, "higher",
                f"{'issue; ' if target is not None else ''}{source}", "cpu",
                round(max(float(r["cpu"]) for r in runs) / 2, 1),  # type: ignore[arg-type]
                f"python recipes/few-shot/recipe.py {name}{'' if data == 'omniglot' else f' --data {data}'}"),
        )  # fmt: skip
    return rows


def main() -> None:
    """Train what is not there yet, then record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="+", help=f"{', '.join(OMNIGLOT)}")
    parser.add_argument("--data", choices=list(SETUPS), default="omniglot")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = load(given.data).meet
    assert isinstance(data, SplitClasses)
    for name in given.methods:
        run(given.data, name, given.seed, data)
        finished = [json.loads(path.read_text()) for path in sorted(RUNS.glob(f"{given.data}-{name}-?.json"))]
        for row in rows_of(given.data, name, finished):
            record(FOLDER, [row])
            print(row)


if __name__ == "__main__":
    main()
