"""The four studies at default settings: does ``compare`` say what is known of School and Tox21, in 15 minutes each?

    QUICKSTUDY_DATA=... python recipes/studies/recipe.py [digits school tox21 omniglot]

Runs what ``quickstudy compare NAME`` runs, then writes the figures of its ``results.json`` down as claims. A study
that is already there is read, one that was stopped goes on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from quickstudy.core import Estimate
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.compare import Plan, compare
from quickstudy.evaluation.statistics import over_seeds, simultaneous
from quickstudy.evaluation.verdict import contestants_of
from quickstudy.reports import write_report
from quickstudy.reports.view import command as repeat

FOLDER = Path(__file__).parent
RUNS = Path("runs")
NAMES = ("digits", "school", "tox21", "omniglot")
NETS = ("pooled", "multi-head", "film", "fine-tune")  # shared nets, trained on the same inputs as "scratch"


def study(name: str) -> dict[str, Any]:
    """The study's results, run now if they are not there."""
    out = RUNS / name
    if not (out / "results.json").is_file():
        results = compare(Plan(name), out, resume=(out / "plan.json").is_file())
        write_report(results, out / "report.html")
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def gain(question: dict[str, Any], method: str, reference: str) -> Estimate:
    """Mean paired difference of two methods with its own interval."""
    scores = {c.name: c.scores for c in contestants_of(question)}
    difference = over_seeds(scores[method] - scores[reference])[None]
    weights = np.array(question["weights"])
    mean, low, high = simultaneous(difference, weights, np.random.default_rng(0))
    return Estimate(float(mean[0]), float(low[0]), float(high[0]), len(weights), len(scores[method]))


def rows_of(name: str, results: dict[str, Any]) -> list[Row]:
    """What one study claims."""
    minutes, seeds = results["minutes"], results["plan"]["seeds"]
    command = repeat(results["plan"])

    def row(
        what: str, metric: str, found: Estimate | float, target: float, better: str, source: str, n: int = 0
    ) -> Row:
        if isinstance(found, Estimate):
            value, low, high, n = found.mean, found.low, found.high, found.n
        else:
            value, low, high = found, None, None
        return Row("should-i-share", f"{name}: {what}", metric, value, low, high, n, seeds, target,
                   better, source, "cpu", minutes, command)  # fmt: skip

    have = results["questions"]["have"]
    tasks = len(have["tasks"])
    by_name = {m["name"]: m for m in have["methods"]}
    estimates = {name: Estimate(**m["estimate"]) for name, m in by_name.items()}
    verdict = have["verdict"]
    rows = []
    if not results["plan"]["methods"] and len(results["questions"]) == 2:
        rows.append(
            row("minutes of the whole study at default settings", "minutes", minutes, 15.0, "lower", "issue", tasks)
        )
    shares = float(verdict["decision"] == "share")
    metric = have["metric"]
    if name == "school":
        chosen = verdict["method"]
        rows += [
            row("verdict on the tasks I have: share (1) or not (0)", "verdict", shares, 1.0, "higher", "issue", tasks),
            row(f"shared, chosen on validation ({chosen})", metric, estimates[chosen], 0.375, "higher", "issue"),
            row("ridge, each school alone", metric, estimates["ridge"], 0.343, "higher", "calibration"),
            row("pooled net", metric, estimates["pooled"], 0.344, "higher", "calibration of a linear model"),
        ]
    if name == "tox21":
        net = max((n for n in NETS if n in by_name), key=lambda n: by_name[n]["validation"])
        alone = verdict["reference"]
        rows += [
            row(f"shared net, chosen on validation ({net})", metric, estimates[net], 0.79, "higher", "issue"),
            row(f"{net} minus single-task nets", metric, gain(have, net, "scratch"), 0.03, "higher", "issue"),
            row("single-task nets", metric, estimates["scratch"], 0.724, "higher", "calibration"),
            row("logistic regression, each assay alone", metric, estimates["logistic"], 0.794, "higher", "calibration"),
            row(f"{net} minus {alone}, the best alone", metric, gain(have, net, alone), 0.0, "higher", "computed"),
        ]
    return rows


def main() -> None:
    """Run or read the studies named, and record."""
    for name in sys.argv[1:] or NAMES:
        rows = rows_of(name, study(name))
        # a study measured anew may have chosen other methods: what it does not say any more is no claim
        for row in record(FOLDER, rows, lambda row, name=name: row.what.startswith(f"{name}:")):  # type: ignore[misc]
            print(row.what, row.value, row.low, row.high)


if __name__ == "__main__":
    main()
