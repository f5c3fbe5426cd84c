"""Is the verdict right where the truth is planted? Linear tasks that share from nothing (0) to everything (1).

    python recipes/planted-verdict/recipe.py [--tasks 40] [--levels 0 1]    # 20 families a level

The more tasks a family has, the surer the verdict: of 40 tasks an interval of the gain is about as wide as the margin
under which a gain counts as none, so that "nothing is certain" is a common answer there; of 120 it is not.

Each family is one study on the question "the tasks I have", run as ``quickstudy compare`` runs it, with fewer steps.
A finished family is a file in ``runs/planted-verdict``; a stopped recipe goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.compare import Plan, compare
from quickstudy.tasks.study import Study
from quickstudy.tasks.toy import planted

FOLDER = Path(__file__).parent
RUNS = Path("runs/planted-verdict")
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
FAMILIES, TASKS = 20, 120
METHODS = ("ridge", "scratch", "pooled", "multi-head", "film", "mean-ridge")
STEPS = 300


def verdict(tasks: int, level: float, family: int) -> tuple[str, float]:
    """The decision and the gain on one family."""
    table = planted(level, torch.Generator().manual_seed(7_000 + family), tasks=tasks)
    study = Study(f"planted:{level}", table, None, missing={"meet": "not asked here"})
    plan = Plan(study.name, questions=("have",), methods=METHODS, seeds=2, steps=STEPS)
    out = RUNS / f"{tasks}-{level}-{family}"
    results = compare(plan, out, study=study, resume=(out / "plan.json").is_file())
    answer = results["questions"]["have"]["verdict"]
    return answer["decision"], answer["gain"]


def main() -> None:
    """Run all families and record how often each verdict was given."""
    begin = time.perf_counter()
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    given = parser.parse_args()
    tasks, levels = given.tasks, given.levels
    jobs = [(tasks, level, family) for family in range(FAMILIES) for level in levels]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        found = dict(zip(jobs, pool.map(verdict, *zip(*jobs, strict=True)), strict=True))
    minutes = (time.perf_counter() - begin) / 60
    rows = []
    for level in levels:
        decisions = [found[tasks, level, family][0] for family in range(FAMILIES)]
        gains = sorted(found[tasks, level, family][1] for family in range(FAMILIES))
        print(
            tasks,
            level,
            {d: decisions.count(d) for d in ("share", "uncertain", "alone")},
            f"median gain {gains[10]:+.3f}",
        )

        def row(what: str, value: int, target: int, better: str, level: float = level, source: str = "issue") -> Row:
            return Row(
                "should-i-share", f"{what}, {tasks} tasks, shared structure {level:g}", f"verdicts of {FAMILIES}",
                value, None, None, FAMILIES, 2, target, better, source, "cpu", round(minutes, 1),
                f"python recipes/planted-verdict/recipe.py --tasks {tasks}",
            )  # fmt: skip

        if level == 0.0:
            rows.append(row("says 'share'", decisions.count("share"), 1, "lower"))
            rows.append(row("says 'alone'", decisions.count("alone"), 19, "higher"))
        elif level == 1.0:
            rows.append(row("says 'share'", decisions.count("share"), 19, "higher"))
        else:
            rows.append(row("says 'share'", decisions.count("share"), 0, "higher", source="none: shown for the curve"))
    record(FOLDER, rows)


if __name__ == "__main__":
    main()
