"""MAML and its kin on sinusoids, in the set-up of the first paper: trained on 10 points, tested on 5.

    python recipes/sinusoid/recipe.py [METHOD ...] [--seeds 3]      # minutes on one core

Amplitude in [0.1, 5], phase in [0, pi], x in [-5, 5], two layers of 40 units, 25 tasks a step, Adam at 1e-3 (here
falling to zero along a cosine). Score: mean squared error on 100 other points of each of 1000 new sinusoids. A run
that was stopped goes on from its checkpoint in ``runs/sinusoid``; a finished one is read.

MAML's mean after 5 and 10 steps is that of a few tasks, about 1 in 1000, on which gradient descent diverges. A step of
.01 is stable where the loss curves less than 2 / .01 = 200. Trained on one step, the net is as sharp as one step allows
(20,000 training steps, K = 5: a top curvature of 226 in the middle task; after the step over 200 in a third of tasks,
over 430 in one of 100; at K = 10 in 18 of 100), and further steps of the same length bounce. A rate that stays
constant in training does not end that (3 of 4000 tasks diverged). So each figure is also given with the second and
later steps half as long (``later_lr``), as the authors take them in their code for reinforcement learning
(cbfinn/maml_rl, maml_examples/test_maml_cheetah.py); that of the sinusoids has one length (cbfinn/maml, maml.py).

MAML++ learns its step sizes by the same Adam, whose steps of 1e-3 are as large as what they start from: two runs at
that rate met an infinite training loss (step 3416 with the loss annealed over 3000 steps, step 889 over 20,000).
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
from numpy.typing import NDArray
from torch.distributions import Distribution

from quickstudy.core import Episodes, Estimate, Method, Problem
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate, proportion
from quickstudy.methods import MAML
from quickstudy.methods.registry import build, find
from quickstudy.nets import MLP
from quickstudy.tasks.toy import Sinusoids
from quickstudy.training import fit
from quickstudy.training.checkpoint import write_json

FOLDER = Path(__file__).parent
RUNS = Path("runs/sinusoid")
TASKS = 1000


@dataclass(frozen=True)
class Setup:
    """How one method is trained and tested.

    Args:
        settings: of the method.
        steps: training steps.
        tests: gradient steps at test; 0 for a method that has none to choose.
        net: whether the method takes the paper's net.
        compile: whether training steps are compiled.
        lr: of training, at first.
    """

    settings: dict[str, object]
    steps: int
    tests: tuple[int, ...] = (1, 5, 10)
    net: bool = True
    compile: bool = True
    lr: float = 1e-3

    def method(self, name: str, problem: Problem, seed: int) -> Method:
        """The method with first weights of a seed."""
        generator = torch.Generator().manual_seed(seed)
        if not self.net:
            return build(find(name), problem, seed, **self.settings)
        net = MLP((1, 40, 40, 1), generator)
        return build(find(name), problem, seed, net=net, **self.settings)


SETUPS = {
    "maml": Setup({"inner_lr": 0.01, "steps": 1}, 70_000),
    "meta-sgd": Setup({"inner_lr": 0.01, "steps": 1}, 30_000, tests=(1,)),
    "mamlpp": Setup({"inner_lr": 0.001, "steps": 5, "anneal": 20_000}, 20_000, tests=(5,), lr=2e-4),
    "context": Setup({"inner_lr": 1.0, "steps": 1}, 30_000),
    "anil": Setup({"inner_lr": 0.01, "steps": 1}, 30_000),
    "cnp": Setup({}, 20_000, tests=(0,), net=False),
    "reptile": Setup({"inner_lr": 0.01, "steps": 10, "rows": 10}, 10_000, compile=False),
}  # fmt: skip

FINN = {1: 0.67, 5: 0.38, 10: 0.35}  # Finn et al. 2017, table 2
LATER = 0.005  # the second of two lengths of MAML's steps at test; on other tasks (seed 12345) .002 to .009 were tried
DIVERGED = 25.0  # more than twice the largest mean square of a sinusoid, 12.5


def errors(method: Method, episodes: Episodes, steps: int) -> list[float]:
    """The mean squared error of each task's query after some gradient steps on its support."""
    if steps:
        method.test_steps = steps  # type: ignore[assignment]
    with torch.no_grad():
        predicted = method.eval().adapt(episodes.support)(episodes.query.x)
    value = predicted.mean if isinstance(predicted, Distribution) else predicted
    each = (value - episodes.query.y).square().mean((1, 2))
    return list(each.nan_to_num(torch.finfo().max).tolist())


def run(name: str, seed: int) -> dict[str, object]:
    """One training run and its tests, or what an earlier one found."""
    out = RUNS / f"{name}-{seed}.json"
    if out.is_file():
        return dict(json.loads(out.read_text()))
    setup, family = SETUPS[name], Sinusoids(shots=10, queries=10)
    method = setup.method(name, family.problem, seed)
    begin = time.process_time()
    fit(
        method, family, steps=setup.steps, tasks=25, lr=setup.lr, every=2_500, compile=setup.compile,
        generator=torch.Generator().manual_seed(seed), checkpoint=RUNS / f"{name}-{seed}.safetensors", resume=True,
    )  # fmt: skip
    minutes = (time.process_time() - begin) / 60
    # not the tasks on which shorter runs, smaller first weights and another rate were tried (seed 12345)
    test = Sinusoids(shots=5, queries=100).sample(TASKS, torch.Generator().manual_seed(777))
    scores = {str(steps): errors(method, test, steps) for steps in setup.tests}
    if isinstance(method, MAML):
        method.later_lr = LATER
        scores |= {f"{steps} halved": errors(method, test, steps) for steps in setup.tests if steps > 1}
    means = {steps: round(float(np.mean(each)), 3) for steps, each in scores.items()}
    print(f"{name} seed {seed}: {means}, {minutes:.1f} processor minutes", flush=True)
    found: dict[str, object] = {"scores": scores, "minutes": minutes, "steps": setup.steps}
    write_json(out, found)
    return found


def scores_of(runs: list[dict[str, object]], test: str) -> NDArray[np.float64]:
    """Errors of all runs in one kind of test, ``[seeds, tasks]``."""
    return np.array([r["scores"][test] for r in runs])  # type: ignore[index]


def rows_of(name: str, runs: list[dict[str, object]]) -> list[Row]:
    """What the finished runs of a method claim."""
    setup, rows = SETUPS[name], []
    minutes = sum(float(str(r["minutes"])) for r in runs)
    table = "Finn et al. 2017, table 2, MAML"

    def row(end: str, metric: str, found: Estimate, target: float, source: str) -> None:
        what = f"sinusoids, trained on 10 points, tested on 5{end}; {runs[0]['steps']} training steps"
        rows.append(
            Row(
                name, what, metric, found.mean, found.low, found.high, n=TASKS, seeds=len(runs), target=target,
                better="lower", source=source, tier="cpu", minutes=minutes,
                command=f"python recipes/sinusoid/recipe.py {name} --seeds {len(runs)}",
            )
        )  # fmt: skip

    for steps in setup.tests:
        after, scores = f" after {steps} step{'s' * (steps > 1)}" if steps else "", scores_of(runs, str(steps))
        eye = "" if name == "maml" else "; for the eye"
        row(after, "mean squared error", over_tasks(scores), FINN[steps or 1], f"{table}: {FINN[steps or 1]}{eye}")
        if name == "maml" and steps > 1:
            mean = f"{table}: {FINN[steps]}, a mean; for the eye"
            row(f"{after}, median task", "median squared error", median(scores), FINN[steps], mean)
            lost = proportion((scores > DIVERGED).astype(float))
            row(f"{after}, tasks that diverged", "share of tasks", lost, 0.0, f"computed: none over {DIVERGED}")
            halved = over_tasks(scores_of(runs, f"{steps} halved"))
            end = f"{after}, all but the first half as long"
            row(end, "mean squared error", halved, FINN[steps], f"{table}: {FINN[steps]}")
    return rows


def beside_maml(name: str, runs: list[dict[str, object]], maml: list[dict[str, object]]) -> list[Row]:
    """The same tasks' errors, the method's less MAML's, whose later steps are halved so that none diverges."""
    steps = SETUPS[name].tests[0]
    theirs = scores_of(maml, str(steps) if steps == 1 else f"{steps} halved")
    seeds = min(len(runs), len(maml))
    gain = over_tasks(scores_of(runs, str(steps))[:seeds] - theirs[:seeds])
    what = f"sinusoids, trained on 10 points, tested on 5 after {steps} step{'s' * (steps > 1)}: error less MAML's"
    minutes = sum(float(str(r["minutes"])) for r in [*runs, *maml])
    return [
        Row(
            name, what, "mean squared error, paired", gain.mean, gain.low, gain.high, n=TASKS, seeds=seeds, target=0.0,
            better="lower", source="computed: MAML on the same tasks", tier="cpu", minutes=minutes,
            command=f"python recipes/sinusoid/recipe.py maml {name} --seeds {seeds}",
        )
    ]  # fmt: skip


def over_tasks(scores: NDArray[np.float64]) -> Estimate:
    """Mean and interval over tasks. Shape: ``[seeds, tasks]``."""
    return estimate(scores, np.ones(scores.shape[1]), np.random.default_rng(0))


def median(scores: NDArray[np.float64]) -> Estimate:
    """The median over tasks of the mean over seeds, and its interval by drawing tasks again. ``[seeds, tasks]``."""
    each, rng = scores.mean(0), np.random.default_rng(0)
    drawn = np.sort(np.median(each[rng.integers(0, len(each), (2000, len(each)))], 1))
    return Estimate(float(np.median(each)), float(drawn[50]), float(drawn[1949]), len(each), len(scores))


def main(report: Callable[[str], None] = print) -> None:
    """Run what is missing, record all that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=[], choices=[*SETUPS, []])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    maml: list[dict[str, object]] = []
    for name in options.methods or ["maml", "meta-sgd", "mamlpp"]:
        runs = [run(name, seed) for seed in range(options.seeds)]
        rows = rows_of(name, runs)
        maml = runs if name == "maml" else maml
        if maml and name in ("meta-sgd", "mamlpp"):
            rows += beside_maml(name, runs, maml)
        record(FOLDER, rows)
        for row in rows:
            report(f"{row.what}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}], target {row.target}")


if __name__ == "__main__":
    main()
