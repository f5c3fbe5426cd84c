"""MAML and its kin on sinusoids, in the set-up of the first paper: trained on 10 points, tested on 5.

    python recipes/sinusoid/recipe.py [METHOD ...] [--seeds 3]      # minutes on one core

Amplitude in [0.1, 5], phase in [0, pi], x in [-5, 5], two layers of 40 units, 25 tasks a step, Adam at 1e-3 (here
falling to zero along a cosine). Score: mean squared error on 100 other points of each of 1000 new sinusoids. A run
that was stopped goes on from its checkpoint in ``runs/sinusoid``; a finished one is read.
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
from torch.distributions import Distribution

from quickstudy.core import Episodes, Method, Problem
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
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
    """

    settings: dict[str, object]
    steps: int
    tests: tuple[int, ...] = (1, 5, 10)
    net: bool = True
    compile: bool = True

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
    "mamlpp": Setup({"inner_lr": 0.001, "steps": 5, "anneal": 3_000}, 12_000, tests=(5,)),
    "context": Setup({"inner_lr": 1.0, "steps": 1}, 30_000),
    "anil": Setup({"inner_lr": 0.01, "steps": 1}, 30_000),
    "cnp": Setup({}, 20_000, tests=(0,), net=False),
    "reptile": Setup({"inner_lr": 0.01, "steps": 10, "rows": 10}, 10_000, compile=False),
}  # fmt: skip

FINN = {1: 0.67, 5: 0.38, 10: 0.35}  # Finn et al. 2017, table 2
TARGETS: dict[tuple[str, int], tuple[float, str]] = {
    **{("maml", steps): (value, f"Finn et al. 2017, table 2: {value}") for steps, value in FINN.items()},
    ("meta-sgd", 1): (FINN[1], "Finn et al. 2017, table 2, MAML after 1 step: 0.67"),
    ("mamlpp", 5): (FINN[5], "Finn et al. 2017, table 2, MAML after 5 steps: 0.38"),
}


def errors(method: Method, episodes: Episodes, steps: int) -> list[float]:
    """The mean squared error of each task's query after some gradient steps on its support."""
    if steps:
        method.test_steps = steps  # type: ignore[assignment]
    with torch.no_grad():
        predicted = method.eval().adapt(episodes.support)(episodes.query.x)
    value = predicted.mean if isinstance(predicted, Distribution) else predicted
    return list((value - episodes.query.y).square().mean((1, 2)).tolist())


def run(name: str, seed: int) -> dict[str, object]:
    """One training run and its tests, or what an earlier one found."""
    out = RUNS / f"{name}-{seed}.json"
    if out.is_file():
        return dict(json.loads(out.read_text()))
    setup, family = SETUPS[name], Sinusoids(shots=10, queries=10)
    method = setup.method(name, family.problem, seed)
    begin = time.process_time()
    fit(
        method, family, steps=setup.steps, tasks=25, lr=1e-3, every=2_500, compile=setup.compile,
        generator=torch.Generator().manual_seed(seed), checkpoint=RUNS / f"{name}-{seed}.safetensors", resume=True,
    )  # fmt: skip
    minutes = (time.process_time() - begin) / 60
    # not the tasks on which shorter runs, smaller first weights and another rate were tried (seed 12345)
    test = Sinusoids(shots=5, queries=100).sample(TASKS, torch.Generator().manual_seed(777))
    scores = {str(steps): errors(method, test, steps) for steps in setup.tests}
    means = {steps: round(float(np.mean(each)), 3) for steps, each in scores.items()}
    print(f"{name} seed {seed}: {means}, {minutes:.1f} processor minutes", flush=True)
    found: dict[str, object] = {"scores": scores, "minutes": minutes, "steps": setup.steps}
    write_json(out, found)
    return found


def rows_of(name: str, runs: list[dict[str, object]], targets: dict[tuple[str, int], tuple[float, str]]) -> list[Row]:
    """What the finished runs of a method claim."""
    rows = []
    for steps in SETUPS[name].tests:
        scores = np.array([r["scores"][str(steps)] for r in runs])  # type: ignore[index]
        ours = estimate(scores, np.ones(scores.shape[1]), np.random.default_rng(0))
        target, source = targets.get((name, steps), (FINN[steps or 1], "Finn et al. 2017, table 2, MAML; for the eye"))
        after = f" after {steps} step{'s' * (steps > 1)}" if steps else ""
        rows.append(
            Row(
                name, f"sinusoids, trained on 10 points, tested on 5{after}; {runs[0]['steps']} training steps",
                "mean squared error", ours.mean, ours.low, ours.high, n=TASKS, seeds=len(runs), target=target,
                better="lower", source=source, tier="cpu", minutes=sum(float(str(r["minutes"])) for r in runs),
                command=f"python recipes/sinusoid/recipe.py {name} --seeds {len(runs)}",
            )
        )  # fmt: skip
    return rows


def main(report: Callable[[str], None] = print) -> None:
    """Run what is missing, record all that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=["maml", "meta-sgd", "mamlpp"], choices=[*SETUPS, []])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.methods:
        rows = rows_of(name, [run(name, seed) for seed in range(options.seeds)], TARGETS)
        record(FOLDER, rows)
        for row in rows:
            report(f"{row.what}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}], target {row.target}")


if __name__ == "__main__":
    main()
