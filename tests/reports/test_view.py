"""The words of a report: numbers, settings, and a command that repeats the study."""

import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from quickstudy import cli
from quickstudy.evaluation import compare as comparison
from quickstudy.evaluation.compare import Plan
from quickstudy.reports.view import VERSION as UNDERSTOOD
from quickstudy.reports.view import Interval, command, minutes, number


class StudyStarted(Exception):
    """Raised in place of running a study."""


@pytest.mark.parametrize(
    "plan",
    [
        Plan("digits"),
        Plan("my data.csv", target="exam score", task="school", group="pupil's", questions=("meet",), seeds=5),
        Plan("folder", methods=("maml", "prototypical"), steps=20, shots=3, margin=0.0),
    ],
)
def test_the_command_makes_the_same_plan(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Plan] = []

    def start(given: Plan, *_: Any, **__: Any) -> None:
        started.append(given)
        raise StudyStarted

    monkeypatch.setattr(comparison, "compare", start)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyStarted):
        cli.main(shlex.split(command(asdict(plan)))[1:])
    assert started == [plan]


def test_a_method_of_ones_own_is_named_by_its_file() -> None:
    plan = asdict(Plan("digits")) | {"methods": ("maml", "mine.py:Mine", "prototypical")}
    assert "--methods maml,prototypical --method mine.py:Mine" in command(plan)


def test_the_version_is_the_one_that_studies_write() -> None:
    assert comparison.VERSION == UNDERSTOOD


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (-0.0001, "0.000"),
        (-12.345, "-12.3"),
        (-123456.0, "-123456"),
        (None, "-"),
        (math.nan, "-"),
        (-math.inf, "-"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number(value) == text


def test_an_interval_has_both_ends_or_none() -> None:
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
    assert str(Interval(0.5, 0.25, 0.75, signed=True)) == "+0.500 [+0.250, +0.750]"
    assert str(Interval(0.5, -math.inf, math.inf)) == "0.500"


def test_a_moment_is_no_zero() -> None:
    assert (minutes(0.01), minutes(0.42), minutes(12.0)) == ("<0.1", "0.4", "12.0")
