"""Trained with one labelled example of a class, tested with more: who can use them?

    python recipes/shot-sweep/recipe.py                                     # under 5 minutes on one core; figure.svg
    QUICKSTUDY_DATA=... python recipes/shot-sweep/recipe.py --data omniglot --methods prototypical

Each method (``--methods``, any of the registry's that serves classes) is trained at K = 1, on a range of K, and, as its
own oracle, at some K that it is tested at. Classes are normal clouds around normal centres that differ much in a
few directions and little in many: one example shows the first, many show the rest. The best rule is known for each K:
the posterior predictive density. Runs are kept in ``runs/shot-sweep`` and read again; a claim's minutes are those of
all runs.

What was found (3 seeds): trained at K = 1, all three methods fall behind their own oracle at K = 20, MAML least (.04 of
accuracy), CNP .09, prototypical .22. A range leaves .01 of MAML's gap and about half of the others'. Two limits:
the prototypical net trained at K = 1 is worse at K = 1 too (.454 against .488 when trained at K = 20), so part of
its gap is training that one example a class makes noisy, not the change of K. And lengths of training differ: all were
first tried at 300 steps, where the gaps were .04, .08 and .25; then prototypical and CNP, far below the best rule, were
given 1000, MAML not, as a step of its costs three of theirs. So the figures rank gaps within a method, not methods.
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
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from quickstudy.core import Batch, Episodes, Problem, QuickstudyError, TaskFamily
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods.registry import build, find
from quickstudy.tasks.classes import ClassEpisodes
from quickstudy.tasks.load import load
from quickstudy.tasks.shots import AnyShots
from quickstudy.training import fit, task_scores
from quickstudy.training.checkpoint import write_json

FOLDER, RUNS = Path(__file__).parent, Path("runs/shot-sweep")
RANGE, ORACLES, TESTS, SEEDS, TEST_TASKS = (1, 2, 3, 5, 10, 20), (5, 20), (1, 2, 3, 5, 10, 20), 3, 300
STEPS = {"maml": 300}  # its steps cost three of the others'
SETTINGS: dict[str, dict[str, object]] = {"maml": {"inner_lr": 0.3, "steps": 3}, "cnp": {"width": 64}}
COLOURS = {"K = 1": "#c4572e", "a range of K": "#3b6ea5", "the K it is tested at": "0.35"}
At = Callable[[int], TaskFamily]


@dataclass(frozen=True)
class Clouds:
    """N classes a task, ``x ~ N(centre, I)``, ``centre ~ N(0, diag(apart^2))``: two directions tell much, 18 little."""

    shots: int
    ways: int = 5
    queries: int = 10

    @property
    def problem(self) -> Problem:
        return Problem((20,), "classification", self.ways, shared_labels=False)

    @property
    def apart(self) -> Tensor:
        return torch.tensor([1.5] * 2 + [0.5] * 18)

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        centre = normal(n, self.ways, 1, 20) * self.apart
        x = centre + normal(n, self.ways, self.shots + self.queries, 20)
        y = torch.arange(self.ways).view(-1, 1).expand(n, self.ways, x.shape[2])
        half = lambda part: Batch(x[:, :, part].flatten(1, 2), y[:, :, part].flatten(1, 2))  # noqa: E731
        return Episodes(half(slice(0, self.shots)), half(slice(self.shots, None)))

    def best(self, episodes: Episodes) -> Tensor:
        """Accuracy of the posterior predictive density, which no rule exceeds in expectation. Shape: ``[T]``."""
        means = episodes.support.x.unflatten(1, (self.ways, self.shots)).mean(2)
        shrink = self.apart**2 / (self.apart**2 + 1 / self.shots)
        variance = 1 + shrink / self.shots
        far = (episodes.query.x.unsqueeze(2) - (shrink * means).unsqueeze(1)).square() / variance
        return self.problem.scores(-far.sum(-1), episodes.query)


def run(
    name: str, trained: str, family: TaskFamily, tests: dict[int, Episodes], seed: int, steps: int, where: Path
) -> tuple[dict[str, list[float]], float]:
    """One training run: its minutes, and the score of each test task at each K. Read where it is there already."""
    path = where / f"{name}-{trained.replace(' ', '')}-{seed}.json"
    if path.is_file():
        return tuple(json.loads(path.read_text()))
    begin = time.perf_counter()
    method = build(find(name), family.problem, seed, **SETTINGS.get(name, {}))
    fit(method, family, steps=steps, tasks=16, lr=2e-3, generator=torch.Generator().manual_seed(100 + seed))
    found = {str(k): task_scores(method, episodes).tolist() for k, episodes in tests.items()}
    minutes = (time.perf_counter() - begin) / 60
    write_json(path, [found, minutes])
    return found, minutes


def main() -> None:
    """Train what is not there yet, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["maml", "prototypical", "cnp"])
    parser.add_argument("--data", choices=["clouds", "omniglot"], default="clouds")
    parser.add_argument("--steps", type=int, default=0, help="of training; 0 takes 1000, and 300 for maml")
    given = parser.parse_args()
    torch.set_num_threads(1)
    minutes = 0.0
    clouds = given.data == "clouds"
    tests_at = TESTS if clouds else tuple(k for k in TESTS if k <= 10)  # of 20 drawings 10 are judged on
    oracles = tuple(k for k in ORACLES if k in tests_at) if clouds else (5, 10)
    train, test = _families(given.data)
    tests = {k: test(k).sample(TEST_TASKS, torch.Generator().manual_seed(k)) for k in tests_at}
    known = {"K = 1": train(1), "a range of K": AnyShots(train, [k for k in RANGE if k in tests_at])}
    known |= {f"K = {k}": train(k) for k in oracles}
    found: dict[str, dict[str, np.ndarray]] = {}
    where = RUNS / f"{given.data}-{given.steps or 'usual'}"
    for name in given.methods:
        try:
            why = find(name).refuses(test(1).problem)
        except QuickstudyError as error:
            why = str(error)
        if why:
            print(f"{name}: left out. {why}")
            continue
        found[name], steps = {}, given.steps or STEPS.get(name, 1000)
        for trained, family in known.items():
            runs = [run(name, trained, family, tests, seed, steps, where) for seed in range(SEEDS)]
            minutes += sum(took for _, took in runs)
            found[name][trained] = np.array([[r[str(k)] for k in tests_at] for r, _ in runs])  # [seeds, K, tasks]
            shown = " ".join(f"{value:.3f}" for value in found[name][trained].mean((0, 2)))
            print(f"{name} trained at {trained:14s} tested at {tests_at}: {shown}", flush=True)
    best = np.stack([np.asarray(test(k).best(tests[k])) for k in tests_at]) if clouds else None
    if best is not None:
        print("best rule:", " ".join(f"{value:.3f}" for value in best.mean(1)))
    if clouds and not given.steps:
        of = [_rows(name, each, tests_at, oracles, round(minutes, 1)) for name, each in found.items()]
        record(FOLDER, [row for rows in of for row in rows])
    draw(found, tests_at, oracles, best, FOLDER / ("figure.svg" if clouds else "omniglot.svg"))


def _families(data: str) -> tuple[At, At]:
    if data == "clouds":
        return Clouds, Clouds
    omniglot = load("omniglot").meet
    of = lambda part: ClassEpisodes(omniglot.classes, omniglot.splits[part], queries=10)  # noqa: E731
    return of("train").at, of("test").at


def _rows(name: str, of: dict[str, np.ndarray], tests_at: tuple[int, ...], oracles: tuple[int, ...], minutes: float):
    """At the largest K: what training at K = 1 loses against the oracle, and what is left of it with a range."""
    most, last = oracles[-1], tests_at.index(oracles[-1])
    ones = np.ones(of["K = 1"].shape[2])
    rows = []
    for trained, target, better, why in (
        ("K = 1", 0.01, "lower" if name == "maml" else "higher", "lecture: a fixed K falls behind, save by gradients"),
        ("a range of K", 0.01, "lower", "a range closes it"),
    ):
        gap = estimate(of[f"K = {most}"][:, last] - of[trained][:, last], ones, np.random.default_rng(0))
        rows.append(
            Row("shot-sweep", f"{name} ({STEPS.get(name, 1000)} steps) trained at {trained}: accuracy below the same "
                f"method trained at K = {most}, both tested at K = {most}", "accuracy", gap.mean, gap.low,
                gap.high, len(ones), SEEDS, target, better, why, "cpu", minutes, "python recipes/shot-sweep/recipe.py")
        )  # fmt: skip
    return rows


def draw(found, tests_at, oracles, best, path: Path) -> None:  # type: ignore[no-untyped-def]
    """One panel a method."""
    figure = Figure((3.1 * len(found), 3.4), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (name, of) in zip(panels, found.items(), strict=True):
        if best is not None:
            axes.plot(tests_at, best.mean(1), color="0.6", linewidth=4, alpha=0.5, label="best rule, exact")
        for trained in ("K = 1", "a range of K"):
            seeds = of[trained].mean(2)
            axes.plot(tests_at, seeds.mean(0), color=COLOURS[trained], linewidth=1.3, label=f"trained at {trained}")
            axes.plot(np.tile(tests_at, len(seeds)), seeds.flatten(), color=COLOURS[trained], linestyle="", marker="o",
                      markersize=2.5)  # fmt: skip
        own = [(k, of[f"K = {k}"][:, tests_at.index(k)].mean()) for k in oracles]
        axes.plot(*zip(*own, strict=True), color=COLOURS["the K it is tested at"], linestyle="", marker="D",
                  markersize=6, markerfacecolor="none", label="trained at the K it is tested at")  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(tests_at, [str(k) for k in tests_at])
        axes.minorticks_off()
        axes.set(title=name, xlabel="labelled examples of a class, K")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy on new tasks")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    with rc_context({"svg.hashsalt": "shot-sweep", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
