"""What is written as JSON can be read as JSON, whatever came out of a study."""

import json
import math
from pathlib import Path

import torch

from quickstudy.evaluation.compare import Plan, compare
from quickstudy.reports import write_report
from quickstudy.tasks.study import Study
from quickstudy.tasks.toy import planted
from quickstudy.training.checkpoint import nulls


def no_constant(name: str) -> float:
    raise AssertionError(f"JSON does not know {name}")


def test_what_is_not_finite_becomes_null() -> None:
    assert nulls({"a": [1.0, math.inf, (math.nan, 2)], "b": "Infinity"}) == {
        "a": [1.0, None, [None, 2]],
        "b": "Infinity",
    }


def test_a_study_of_few_tasks_has_open_intervals_and_a_report(tmp_path: Path) -> None:
    """Three tasks give no interval; the results say null, and the page and the verdict take it."""
    table = planted(1.0, torch.Generator().manual_seed(0), tasks=3)
    plan = Plan("planted", questions=("have",), methods=("ridge", "mean-ridge"), seeds=1, steps=2)
    found = compare(plan, tmp_path / "out", study=Study("planted", table, None, missing={"meet": "not asked"}))
    written = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=no_constant)
    assert written == found
    assert written["questions"]["have"]["verdict"]["low"] is None
    write_report(found, tmp_path / "report.html")
    assert "too few to tell" in (tmp_path / "report.html").read_text()
