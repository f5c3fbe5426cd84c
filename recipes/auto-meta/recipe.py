"""Auto-Meta in small: which net MAML learns best with, at the price of the default one.

    python recipes/auto-meta/recipe.py                                       # digits: 5 minutes on one core; figure.svg
    QUICKSTUDY_DATA=... python recipes/auto-meta/recipe.py --data omniglot   # 20 minutes; omniglot.svg

Digits of 8 x 8 pixels, whose default net is an MLP of two layers, and Omniglot at 14 x 14, whose default net is the
field's: four strided blocks of 3x3, 32 wide. 5-way 1-shot. Every net may cost as many parameters and as many products
as the default and is as wide as that allows; what is searched is its shape. Optuna's TPE tries 24 nets, random search
24 more; each is judged on validation episodes. The default chooses the outer step size, on validation, for all. Then
the default, the best of each search, and the first five nets that random search tried (random architectures,
unchosen) are trained longer from new seeds and tested once on the same test episodes. Runs are kept in
``runs/auto-meta`` and read again; minutes are those of all runs. TPE draws its first ten nets at random, from the same
seed as random search: these are the same ten.

What was found: on digits one 3x3 convolution with stride 2 and one of 1x1 beat the MLP by .075 at the same number of
products and a fifth of the parameters. On Omniglot nothing beats the default: it was best on validation too (.759, the
best of the others .751), at a step size that it had chosen for itself; what comes near is deep and narrow, with 1x1
layers between, as Auto-Meta's are said to be.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import nn

from quickstudy.core import Episodes, Problem
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods import MAML
from quickstudy.nets import net_for
from quickstudy.nets.spec import NetSpec, cost, widest
from quickstudy.tasks.classes import ClassEpisodes
from quickstudy.tasks.load import load
from quickstudy.training import fit, task_scores
from quickstudy.training.architecture import search_net
from quickstudy.training.checkpoint import write_json

FOLDER, RUNS = Path(__file__).parent, Path("runs/auto-meta")
TRIALS, SEEDS, UNCHOSEN, RATE = 24, 3, 5, 0.4
LRS = (1e-3, 3e-3, 1e-2)
STEPS = {"digits": (300, 600, 16), "omniglot": (200, 400, 8)}  # of a trial, of a test, tasks in each
NAMES = {"digits": "digits 8 x 8", "omniglot": "Omniglot 14 x 14"}
Sampler = Literal["tpe", "random"]
SAMPLERS: tuple[Sampler, ...] = ("tpe", "random")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def families(data: str) -> tuple[ClassEpisodes, Episodes, Callable[[], Episodes]]:
    """Training episodes, validation episodes, and a function that draws the test episodes."""
    study = load(data).meet
    classes, splits = study.classes, study.splits
    if data == "omniglot":
        x = classes.x
        half = F.avg_pool2d(x.flatten(0, 1).float() / 255, 2).unflatten(0, x.shape[:2])
        classes = dataclasses.replace(classes, x=half)
    of = lambda part, queries: ClassEpisodes(classes, splits[part], queries=queries)  # noqa: E731
    return of("train", 5), of("val", 10).sample(150, generator(1)), lambda: of("test", 15).sample(400, generator(2))


def kept(path: Path, make: Callable[[], Any]) -> tuple[Any, float]:
    """What a run found, and its minutes; read where it is there already."""
    if not path.is_file():
        begin = time.perf_counter()
        found = make()
        write_json(path, [found, (time.perf_counter() - begin) / 60])
    found, minutes = json.loads(path.read_text())
    print(f"{path.stem}: {minutes:.1f} minutes", flush=True)
    return found, minutes


def build(spec: NetSpec | None, problem: Problem, seed: int) -> nn.Module:
    """The net of a spec, or the default one."""
    return net_for(problem, "batch", generator(seed)) if spec is None else spec.build(problem, generator(seed))


def main() -> None:
    """Run what is not there yet, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(STEPS), default="digits")
    parser.add_argument("--search", choices=SAMPLERS, help="run this search only, and stop: two can run at once")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, validation, test = families(given.data)
    problem, minutes, runs = train.problem, 0.0, RUNS / given.data
    steps, longer, tasks = STEPS[given.data]
    cap = cost(net_for(problem, "batch"), problem.x_shape)

    def trained(spec: NetSpec | None, lr: float, steps: int, seed: int) -> MAML:
        method = MAML(problem, build(spec, problem, seed), inner_lr=RATE)
        fit(method, train, steps=steps, tasks=tasks, lr=lr, generator=generator(seed))
        return method

    def rates() -> list[float]:
        return [float(task_scores(trained(None, lr, steps, 0), validation).mean()) for lr in LRS]

    scores, took = kept(runs / "rates.json", rates)
    minutes += took
    lr = LRS[int(np.argmax(scores))]
    print(f"default on validation {dict(zip(LRS, scores, strict=True))}; step size {lr:g} for all")
    found: dict[str, list[tuple[NetSpec, float]]] = {}
    for sampler in SAMPLERS if given.search is None else (given.search,):

        def look(sampler: Sampler = sampler) -> list[Any]:
            trials = search_net(
                "maml", train, validation, trials=TRIALS, settings={"inner_lr": RATE}, sampler=sampler, steps=steps,
                tasks=tasks, lr=lr, progress=lambda done, n: print(f"{sampler} {done}/{n}", flush=True),
            ).trials  # fmt: skip
            # a failed trial has no score that JSON could hold
            return [[trial.settings, max(trial.score, 0.0)] for trial in trials]

        trials, took = kept(runs / f"search-{sampler}.json", look)
        minutes += took
        # JSON has no tuples
        found[sampler] = [(NetSpec(**w | {"kernels": tuple(w["kernels"])}), score) for w, score in trials]
    if given.search:
        return
    nets: dict[str, NetSpec | None] = {"default": None}
    for sampler in SAMPLERS:
        nets[sampler] = widest(max(found[sampler], key=lambda pair: pair[1])[0], problem, cap)
    working = [spec for spec, score in found["random"] if score]
    nets |= {f"unchosen {i + 1}": widest(spec, problem, cap) for i, spec in enumerate(working[:UNCHOSEN])}
    results: dict[str, np.ndarray] = {}
    episodes = test()
    for name, spec in nets.items():
        seeds = range(1, 2 if name.startswith("unchosen") else 1 + SEEDS)  # the searches saw seed 0
        each = []
        for seed in seeds:
            run = lambda s=seed, of=spec: task_scores(trained(of, lr, longer, s), episodes).tolist()  # noqa: E731
            scored, took = kept(runs / f"test-{name.replace(' ', '')}-{seed}.json", run)
            minutes += took
            each.append(scored)
        results[name] = np.array(each)
        print(f"{name}: {results[name].mean():.3f} {spec} {cost(build(spec, problem, 0), problem.x_shape)}", flush=True)
    record(FOLDER, rows(given.data, results, round(minutes, 1)))
    draw(given.data, found, scores[LRS.index(lr)], results)


def rows(data: str, results: dict[str, np.ndarray], minutes: float) -> list[Row]:
    """The claim, and what it is to be seen beside."""
    random = np.concatenate([each for name, each in results.items() if name.startswith("unchosen")])
    steps, tasks = STEPS[data][1:]

    def row(beside: str, scores: np.ndarray, target: float, source: str) -> Row:
        what = (f"{NAMES[data]}, 5-way 1-shot, MAML, {steps} steps of {tasks} tasks: the net that {TRIALS} trials of "
                f"TPE found minus {beside}")  # fmt: skip
        found = estimate(scores, np.ones(scores.shape[1]), np.random.default_rng(0))
        print(f"{what}: {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]")
        command = "python recipes/auto-meta/recipe.py" + (" --data omniglot" if data == "omniglot" else "")
        return Row("auto-meta", what, "accuracy", found.mean, found.low, found.high, scores.shape[1], SEEDS, target,
                   "higher", source, "cpu", minutes, command)  # fmt: skip

    best = results["tpe"]
    return [
        row("the default net at the same cost", best - results["default"], 0.01, "computed: a point above the default"),
        row(f"the net that {TRIALS} trials of random search found", best - results["random"], 0.0, "computed"),
        row(f"the mean of {UNCHOSEN} random nets at the same cost, unchosen", best - random.mean(0), 0.01, "computed"),
    ]


def draw(
    data: str, found: dict[str, list[tuple[NetSpec, float]]], default: float, results: dict[str, np.ndarray]
) -> None:
    """Left: what the searches saw on validation. Right: test accuracy, a dot a seed."""
    figure = Figure((8.6, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = {"tpe": "#c4572e", "random": "#3b6ea5", "default": "0.35", "unchosen": "0.7"}
    for name, trials in found.items():
        scores = np.array([score for _, score in trials])
        shown, at = np.where(scores > 0, scores, np.nan), np.arange(1, len(scores) + 1)
        left.plot(at, shown, color=colours[name], linestyle="", marker="o", markersize=3, alpha=0.5)
        left.step(at, np.maximum.accumulate(scores), color=colours[name], where="post", label=f"{name}, best so far")
    left.axhline(default, color=colours["default"], linestyle="--", linewidth=1, label="default net")
    left.set(xlabel="nets tried", ylabel="validation accuracy", title="a dot a net, all at one cost", ylim=(0, None))
    left.legend(frameon=False, fontsize=8, loc="lower right")
    groups: dict[str, list[float]] = {}
    for name, each in results.items():
        groups.setdefault(name.split()[0], []).extend(each.mean(1).tolist())
    names = {"tpe": "TPE's best", "random": "random\nsearch's best", "unchosen": "random nets,\nunchosen"}
    for i, (name, values) in enumerate(groups.items()):
        beside = np.linspace(-0.06, 0.06, len(values))
        right.plot(i + beside, values, color=colours[name], linestyle="", marker="o", markersize=5)
    right.set_xticks(range(len(groups)), [names.get(name, name) for name in groups])
    right.set(ylabel="test accuracy", title="trained anew: a dot a seed or a net", xlim=(-0.5, len(groups) - 0.5))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "auto-meta", "svg.fonttype": "none"}):
        path = FOLDER / ("figure.svg" if data == "digits" else f"{data}.svg")
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
