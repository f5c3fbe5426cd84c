"""The outer loop made automatic: hypergradients beside what they must equal, and what a search finds.

    python recipes/automl/recipe.py           # about 6 minutes on one core; --quick leaves out the digits

- Ridge regression with a penalty for each weight, 50 tasks: the gradient of the validation loss in the log penalties
  by implicit differentiation, against autograd through the closed form and against central differences.
- A planted optimum in a space of four settings (a rate, a number of steps, a method, a width): TPE and random search
  with 60 trials each, 40 seeds.
- Digits, 5-way 1-shot: 24 trials over method (MAML, ANIL, prototypical), inner rate, inner steps and outer rate, each
  of 300 training steps and judged on validation episodes. What is found, and the three methods as they come, are then
  trained for 600 steps from three new seeds and tested once. Runs are kept in ``runs/automl``.

The search pays where the default is far off (MAML: +.03) and misses the method that does best as it comes: what it
found, a prototypical net at eight times the default rate, is .076 behind the plain one. Looked into on validation: the
gain that the search saw is .035 with its own seed, .017 over four seeds, and nothing after 600 steps (.693 and .692).
With one seed and eight validation classes it chose by noise; that the larger rate fits the 24 training classes too well
is supposed, not shown.

TPE comes near the planted optimum in 35 searches of 40, whose interval has the .9 aimed at inside. Of the five others
four end 1.01 to 1.04 below: right in all but the method, which costs exactly 1. A search that has settled on a wrong
category hardly draws another one; the fifth is at .18, past the bar of .15.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods.joint.mean_ridge import ridge
from quickstudy.methods.registry import build, find
from quickstudy.tasks.classes import ClassEpisodes
from quickstudy.tasks.load import load
from quickstudy.training import fit, task_scores
from quickstudy.training.checkpoint import write_json
from quickstudy.training.hypergradient import hypergradient
from quickstudy.training.search import Range, maximise, search

FOLDER, RUNS = Path(__file__).parent, Path("runs/automl")
COMMAND = "python recipes/automl/recipe.py"
RIDGES, FEATURES = 50, 5
PLANTED_TRIALS, PLANTED_SEEDS = 60, 40
TRIALS, STEPS, LONGER, SEEDS = 24, 300, 600, 3
METHODS = ("maml", "anil", "prototypical")
Sampler = Literal["tpe", "random"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kept(name: str, make: Callable[[], Any]) -> tuple[Any, float]:
    """What a run found, and its minutes; read where it is there already."""
    path = RUNS / f"{name}.json"
    if not path.is_file():
        begin = time.perf_counter()
        found = make()
        write_json(path, [found, (time.perf_counter() - begin) / 60])
    found, minutes = json.loads(path.read_text())
    print(f"{name}: {minutes:.1f} minutes", flush=True)
    return found, minutes


# --- hypergradients ---------------------------------------------------------------------------------------------------


def ridge_differences() -> list[list[float]]:
    """For each task, how far the hypergradient is from the closed form's and from differences, relative to its size."""
    found = []
    for seed in range(RIDGES):
        source = generator(seed)
        normal = lambda *shape, source=source: torch.randn(*shape, generator=source, dtype=torch.float64)  # noqa: E731
        w, x, x_val = normal(FEATURES, 1), normal(12, FEATURES), normal(40, FEATURES)
        y, y_val = x @ w + normal(12, 1), x_val @ w + normal(40, 1)
        one, one_val = torch.cat([x, torch.ones_like(y)], 1), torch.cat([x_val, torch.ones_like(y_val)], 1)

        def inner(w: Tensor, log: Tensor, x: Tensor = one, y: Tensor = y) -> Tensor:
            return (x @ w - y).square().sum() + (log.exp().unsqueeze(-1) * w.square()).sum()

        def outer(w: Tensor, log: Tensor, x: Tensor = one_val, y: Tensor = y_val) -> Tensor:
            return (x @ w - y).square().mean()

        def solve(log: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            return ridge(x[None], y[None], torch.ones_like(y.mT), log.exp())[0]

        at = 3 * torch.rand(FEATURES + 1, generator=source, dtype=torch.float64) - 1
        gradient = hypergradient(inner, outer, solve(at), at)
        through = at.clone().requires_grad_()
        (exact,) = torch.autograd.grad(outer(solve(through), through), through)
        steps = 1e-5 * torch.eye(FEATURES + 1, dtype=torch.float64)
        rises = torch.stack([outer(solve(at + e), at + e) - outer(solve(at - e), at - e) for e in steps]) / 2e-5
        found.append([float((gradient - other).norm() / exact.norm()) for other in (exact, rises)])
    return found


# --- a planted optimum ------------------------------------------------------------------------------------------------


SPACE: dict[str, Any] = {
    "lr": Range(1e-5, 1.0, log=True),
    "steps": Range(1, 64, whole=True, log=True),
    "method": ("a", "b", "c"),
    "width": Range(0.0, 1.0),
}


def planted(settings: dict[str, Any]) -> float:
    """0 at lr = 1e-3, 8 steps of method b, width 0.3; below it elsewhere."""
    return -(
        math.log10(settings["lr"] / 1e-3) ** 2
        + math.log2(settings["steps"] / 8) ** 2 / 4
        + (settings["method"] != "b")
        + 4 * (settings["width"] - 0.3) ** 2
    )


def shortfalls(sampler: Sampler) -> list[float]:
    """How far below the optimum each search's best stays."""
    return [-maximise(planted, SPACE, trials=PLANTED_TRIALS, sampler=sampler, seed=seed).best.score
            for seed in range(PLANTED_SEEDS)]  # fmt: skip


# --- digits -----------------------------------------------------------------------------------------------------------


def digits() -> tuple[dict[str, Any], dict[str, float], dict[str, np.ndarray], float]:
    """What was found, the defaults on validation, test accuracies ``[seeds, tasks]`` of each, and the minutes."""
    data = load("digits").meet
    of = lambda part, queries: ClassEpisodes(data.classes, data.splits[part], queries=queries)  # noqa: E731
    train, validation = of("train", 5), of("val", 10).sample(200, generator(1))
    space: dict[str, Any] = {
        "method": METHODS,
        "lr": Range(3e-4, 3e-2, log=True),
        "maml.inner_lr": Range(0.01, 3.0, log=True),
        "maml.steps": Range(1, 5, whole=True),
        "anil.inner_lr": Range(0.01, 3.0, log=True),
        "anil.steps": Range(1, 10, whole=True),
    }

    def look() -> list[Any]:
        trials = search("maml", train, validation, space, trials=TRIALS, steps=STEPS,
                        progress=lambda done, n: print(f"trial {done}/{n}", flush=True)).trials  # fmt: skip
        return [[trial.settings, max(trial.score, 0.0)] for trial in trials]

    trials, minutes = kept("search", look)
    found = max(trials, key=lambda pair: pair[1])[0]

    def scores(settings: dict[str, Any], steps: int, seed: int, *, on_test: bool) -> list[float]:
        name = settings["method"]
        own = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith(f"{name}.")}
        method = build(find(name), train.problem, seed, **own)
        fit(method, train, steps=steps, tasks=16, lr=settings.get("lr", method.lr), generator=generator(seed))
        return task_scores(method, of("test", 15).sample(400, generator(2)) if on_test else validation).tolist()

    on_validation = {}
    for name in METHODS:
        each, took = kept(f"default-{name}", lambda n=name: scores({"method": n}, STEPS, 0, on_test=False))
        on_validation[name], minutes = float(np.mean(each)), minutes + took
    tested = {}
    for name, settings in [("found", found), *((name, {"method": name}) for name in METHODS)]:
        runs = []
        for seed in range(1, 1 + SEEDS):  # the search saw seed 0
            run = lambda s=seed, of=settings: scores(of, LONGER, s, on_test=True)  # noqa: E731
            each, took = kept(f"test-{name}-{seed}", run)
            minutes += took
            runs.append(each)
        tested[name] = np.array(runs)
        print(f"{name}: test {tested[name].mean():.3f}")
    return found, on_validation, tested, minutes


def main() -> None:
    """Measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the ridge and the planted optimum only")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    differences, took = kept("ridge", ridge_differences)
    far = np.max(differences, 0)
    ridge_minutes = round(took, 2)
    rows = [
        Row("automl", f"hypergradient of ridge in {FEATURES + 1} log penalties against {other}: largest relative "
            "difference", "relative difference", float(far[i]), None, None, RIDGES, 0, target, "lower",
            "computed, float64", "cpu", ridge_minutes, COMMAND)
        for i, (other, target) in enumerate((("autograd through the closed form", 1e-9), ("central differences", 1e-6)))
    ]  # fmt: skip
    tpe, one = kept("planted-tpe", lambda: shortfalls("tpe"))
    random, two = kept("planted-random", lambda: shortfalls("random"))
    minutes = round(one + two, 2)
    gain = estimate(np.array([random]) - np.array([tpe]), np.ones(PLANTED_SEEDS), np.random.default_rng(0))
    near = np.array(tpe) < 0.15
    share = stats.binomtest(int(near.sum()), PLANTED_SEEDS).proportion_ci(0.95, "exact")
    print(f"planted: TPE stays {np.mean(tpe):.3f} below, random search {np.mean(random):.3f}; near {near.mean():.2f}, "
          f"random {np.mean(np.array(random) < 0.15):.2f}")  # fmt: skip
    below = estimate(np.array([tpe]), np.ones(PLANTED_SEEDS), np.random.default_rng(0))
    rows += [
        Row("automl", f"planted optimum, {PLANTED_TRIALS} trials: how far below it TPE stays", "score", below.mean,
            below.low, below.high, PLANTED_SEEDS, PLANTED_SEEDS, 0.15, "lower", "computed: the optimum is known", "cpu",
            minutes, COMMAND),
        Row("automl", f"planted optimum, {PLANTED_TRIALS} trials: TPE comes within 0.15 of it (of 4 at the far ends)",
            "share of searches", float(near.mean()), float(share.low), float(share.high), PLANTED_SEEDS, PLANTED_SEEDS,
            0.9, "higher", "computed: the optimum is known", "cpu", minutes, COMMAND),
        Row("automl", f"planted optimum, {PLANTED_TRIALS} trials each: how much further below it random search stays",
            "score", gain.mean, gain.low, gain.high, PLANTED_SEEDS, PLANTED_SEEDS, 0.0, "higher",
            "computed: TPE above random search", "cpu", minutes, COMMAND),
    ]  # fmt: skip
    record(FOLDER, rows)
    if quick:
        return
    found, on_validation, tested, took = digits()
    print(f"found {found}; defaults on validation {on_validation}")
    ones = np.ones(tested["found"].shape[1])
    best = max(on_validation, key=lambda name: on_validation[name])
    for beside, target in (("maml", 0.01), (best, 0.0)):
        gap = estimate(tested["found"] - tested[beside], ones, np.random.default_rng(0))
        which = f"{beside} as it comes" + (", the best of the three on validation" if beside == best else "")
        rows.append(
            Row("automl", f"digits 5-way 1-shot, {LONGER} steps: what {TRIALS} trials over method, rates and steps "
                f"found ({found['method']}) minus {which}", "accuracy", gap.mean, gap.low, gap.high, len(ones), SEEDS,
                target, "higher", "computed", "cpu", round(took, 1), COMMAND)
        )  # fmt: skip
        print(f"minus {which}: {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]")
    record(FOLDER, rows)


if __name__ == "__main__":
    main()
