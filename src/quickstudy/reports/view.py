"""What the page and the terminal both say: a study's ``results.json`` as rows of words and numbers."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quickstudy.core import InputError
from quickstudy.evaluation.statistics import FEWEST, RESAMPLES
from quickstudy.tasks.study import FOLDS
from quickstudy.tasks.table import ROW_SPLIT

VERSION = 1
WORDS = {"share": "Share", "alone": "Learn alone", "uncertain": "Uncertain"}
ASKED = {
    "have": "New examples of the tasks I have: learn them together, or each alone?",
    "meet": "New tasks with few labelled examples: learn from other tasks first, or from the few examples alone?",
}
METRICS = {
    "accuracy": "the share of test examples that are put in the right class; 1 is perfect",
    "auc": "the probability that an example of class 1 is ranked above one of class 0; 1 is perfect, 0.5 is chance",
    "explained variance": "1 minus the mean squared error divided by the variance of the targets over all tasks; "
    "1 is perfect, 0 is as good as always answering the overall mean, and each example counts alike",
}


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval. NaN or infinite stands for not known.

    Args:
        mean: the number.
        low: lower end.
        high: upper end.
        signed: whether to print a plus.
    """

    mean: float
    low: float
    high: float
    signed: bool = False

    @property
    def known(self) -> bool:
        """Whether the interval has both ends."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def value(self) -> str:
        """The number alone."""
        return number(self.mean, self.signed)

    @property
    def ends(self) -> str:
        """The interval alone; empty where not known."""
        return f"[{number(self.low, self.signed)}, {number(self.high, self.signed)}]" if self.known else ""

    def __str__(self) -> str:
        """For example ``0.975 [0.971, 0.979]``."""
        return f"{self.value} {self.ends}".strip()


@dataclass(frozen=True)
class Row:
    """One method on one question.

    Args:
        name: the method.
        summary: what it is, in one line.
        reference: the paper.
        shares: whether it learned from other tasks.
        transductive: whether it looks at all examples of a query together.
        chosen: whether validation chose it, as the best that shares or as the best that does not.
        score: mean over tasks.
        difference: to the best way of learning alone; None for that one itself, or where there is none.
        minutes: all seeds together, in words.
        settings: what was chosen on validation data, in words.
    """

    name: str
    summary: str
    reference: str
    shares: bool
    transductive: bool
    chosen: bool
    score: Interval
    difference: Interval | None
    minutes: str
    settings: str


@dataclass(frozen=True)
class Answer:
    """One question and its answer.

    Args:
        key: ``have`` or ``meet``.
        asked: the question in plain words.
        decision: ``share``, ``alone``, ``uncertain`` or ``none``.
        word: the decision in one or two words.
        text: the verdict in words, or why there is none.
        rows: the methods, best score first; empty where the question was not asked.
    """

    key: str
    asked: str
    decision: str
    word: str
    text: str
    rows: tuple[Row, ...]


def number(value: float | None, signed: bool = False) -> str:
    """Three decimals (fewer from ten up), or a dash."""
    if value is None or not math.isfinite(value):
        return "-"
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"  # + 0.0: no minus before a zero


def minutes(value: float) -> str:
    """One decimal; a moment is no zero."""
    return "<0.1" if value < 0.05 else f"{value:.1f}"


def real(value: float | None) -> float:
    """JSON's null as NaN."""
    return math.nan if value is None else float(value)


def answers(results: Mapping[str, Any]) -> tuple[Answer, ...]:
    """Both questions' answers.

    Raises:
        InputError: the results are of another version.
    """
    if results.get("version") != VERSION:
        raise InputError(
            f"Expected results of version {VERSION}. Found version {results.get('version')!r}. "
            "Make the report with the release that ran the study, or run the study again."
        )
    return tuple(_answer(key, results) for key in ASKED)


def _answer(key: str, results: Mapping[str, Any]) -> Answer:
    question = results["questions"].get(key)
    if question is None:
        why = results["missing"].get(key)
        text = f"These data cannot answer it: {why}." if why else "This study did not ask it."
        return Answer(key, ASKED[key], "none", "Not asked", text, ())
    rows, verdict = _rows(question), question["verdict"]
    if verdict is None:
        kind = "learn each task alone" if rows[0].shares else "learn from other tasks"
        text = (
            "A verdict compares the best method that learns from other tasks with the best that learns each task "
            f"alone; this study ran no methods that {kind}."
        )
        return Answer(key, ASKED[key], "none", "No verdict", text, rows)
    return Answer(key, ASKED[key], verdict["decision"], WORDS[verdict["decision"]], verdict["text"], rows)


def _rows(question: Mapping[str, Any]) -> tuple[Row, ...]:
    verdict = question["verdict"] or {}
    differences = {d["name"]: Interval(*_ends(d), signed=True) for d in question["differences"]}
    rows = [
        Row(
            m["name"],
            m["summary"],
            m["reference"],
            m["shares"],
            m["transductive"],
            m["name"] in (verdict.get("method"), verdict.get("reference")),
            Interval(*_ends(m["estimate"])),
            differences.get(m["name"]),
            minutes(m["minutes"]),
            _settings(m["chosen"]),
        )
        for m in question["methods"]
    ]
    return tuple(sorted(rows, key=lambda row: -row.score.mean if math.isfinite(row.score.mean) else math.inf))


def _ends(found: Mapping[str, Any]) -> tuple[float, float, float]:
    return real(found["mean"]), real(found["low"]), real(found["high"])


def _settings(chosen: Sequence[Mapping[str, float]]) -> str:
    """For example ``test_steps 5``, or ``test_steps 5 / 3 / 5`` where the seeds chose differently."""
    words = []
    for key in dict.fromkeys(key for one in chosen for key in one):
        values = [f"{one[key]:g}" if key in one else "-" for one in chosen]
        words.append(f"{key} {values[0] if len(set(values)) == 1 else ' / '.join(values)}")
    return ", ".join(words)


def command(plan: Mapping[str, Any]) -> str:
    """What to type to run the study again."""
    words = ["quickstudy", "compare", str(plan["data"])]
    for key in ("target", "task", "group"):
        if plan[key] is not None:
            words += [f"--{key}", str(plan[key])]
    if len(plan["questions"]) == 1:
        words += ["--question", plan["questions"][0]]
    files = [name for name in plan["methods"] if ":" in name]
    known = [name for name in plan["methods"] if ":" not in name]
    words += ["--methods", ",".join(known)] if known else []
    words += [word for name in files for word in ("--method", name)]
    words += ["--seeds", str(plan["seeds"])]
    for key in ("steps", "shots"):
        if plan[key]:
            words += [f"--{key}", str(plan[key])]
    return shlex.join([*words, "--margin", f"{plan['margin']:g}"])


def is_episodes(question: Mapping[str, Any]) -> bool:
    """Whether the tasks are random episodes, of no interest one by one."""
    return bool(question["tasks"]) and question["tasks"][0].startswith("episode ")


def how_measured(key: str, question: Mapping[str, Any], plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Splits, budget and statistics of a question, as pairs of a term and its description."""
    seeds, n = plan["seeds"], len(question["tasks"])
    train, val, test = (f"{part:.0%}" for part in ROW_SPLIT)
    if key == "have":
        split = f"Each task's examples: {train} training, {val} validation, {test} test, drawn anew for each seed."
    elif is_episodes(question):
        split = (
            f"Whole classes are held out. The test is {n} random tasks drawn from test classes, the same for all "
            "methods; validation tasks are drawn from classes of their own."
        )
    else:
        split = (
            f"Whole tasks are held out, in {FOLDS} folds by turns: a seed tests one fold, chooses on a fifth of the "
            "other tasks and trains on the rest."
        )
    budget = (
        f"{question['steps']} training steps for every method, {seeds} {'seed' if seeds == 1 else 'seeds'} "
        "(split, first weights and episodes). Test data were used once, for the scores shown; every choice (step, "
        "settings, method) was made on validation data."
    )
    statistics = (
        f"95 %, by a studentised bootstrap over tasks ({RESAMPLES} resamples; at least {FEWEST} tasks). Intervals of "
        "differences hold for all methods of the question at once (max-T), so looking at many methods costs nothing. "
        "Single tasks are called helped or hurt only where at most 5 % of such calls are expected to be wrong "
        "(Benjamini and Hochberg)."
    )
    return [
        ("Score", f"{question['metric']}: {METRICS[question['metric']]}."),
        ("Splits", split),
        ("Budget", budget),
        ("Intervals", statistics),
        ("Smallest gain that matters", f"{plan['margin']:g} {question['metric']}."),
    ]
