"""One self-contained page for a study: verdicts, tables and pictures, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from quickstudy.evaluation.cell import SWEEP_TASKS
from quickstudy.evaluation.statistics import Array
from quickstudy.reports import figures
from quickstudy.reports.view import Answer, answers, command, how_measured, is_episodes, number, real
from quickstudy.training.checkpoint import write_atomic


@dataclass(frozen=True)
class Picture:
    """A figure on the page, or why there is none.

    Args:
        title: what it shows.
        caption: how to read it; where there is no figure, why.
        svg: the figure; None where there is none.
    """

    title: str
    caption: str
    svg: Markup | None = None


@dataclass(frozen=True)
class TaskTable:
    """Every task's score by every method.

    Args:
        methods: names, in the order of the columns.
        rows: name, scores, difference between the chosen two, and ``helped``, ``hurt`` or nothing.
        compared: the chosen two in words; empty where there is no verdict.
    """

    methods: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...], str, str], ...]
    compared: str


@dataclass(frozen=True)
class Section:
    """Everything on the page about one question."""

    answer: Answer
    title: str
    n_tasks: int
    shots: int
    metric: str
    pictures: tuple[Picture, ...]
    tasks: TaskTable
    skipped: Mapping[str, str]
    how: Sequence[tuple[str, str]]


def write_report(results: Mapping[str, Any], path: Path) -> Path:
    """Write the report of a study.

    Args:
        results: what :func:`quickstudy.evaluation.compare.compare` returns.
        path: the page's file, for example ``report.html``.

    Returns:
        ``path``.

    Raises:
        InputError: the results are of another version.
    """
    found = answers(results)
    sections = [_section(answer, results["questions"][answer.key], results["plan"]) for answer in found if answer.rows]
    environment = Environment(
        loader=PackageLoader("quickstudy.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        results=results,
        answers=found,
        sections=sections,
        command=re.split(" (?=--)", command(results["plan"])),  # lines break between options
    )
    write_atomic(path, page.encode())
    return path


def _section(answer: Answer, question: Mapping[str, Any], plan: Mapping[str, Any]) -> Section:
    makers: list[Callable[[Answer, Mapping[str, Any]], Picture]] = [_scores, _differences, _curves]
    makers.append(_errors if answer.key == "meet" else _affinity)
    return Section(
        answer,
        question["title"],
        len(question["tasks"]),
        question["shots"],
        question["metric"],
        tuple(make(answer, question) for make in makers),
        _task_table(question),
        question["skipped"],
        how_measured(answer.key, question, plan),
    )


def _draw(figure: Figure, answer: Answer, what: str, title: str, alt: str, caption: str) -> Picture:
    return Picture(title, caption, Markup(figures.svg(figure, f"{answer.key}-{what}", alt)))  # noqa: S704 (our own SVG)


def _chosen(answer: Answer) -> list[str]:
    return [row.name for row in answer.rows if row.chosen]


def _scores(answer: Answer, question: Mapping[str, Any]) -> Picture:
    rows = answer.rows
    figure = figures.score_intervals(
        [row.name for row in rows],
        [row.score.mean for row in rows],
        [row.score.low for row in rows],
        [row.score.high for row in rows],
        [row.shares for row in rows],
        metric=question["metric"],
        chosen=_chosen(answer),
    )
    alt = f"Mean {question['metric']} with interval. " + "; ".join(f"{row.name} {row.score}" for row in rows)
    caption = "Right is better. Lines: 95 % intervals over tasks. "
    if _chosen(answer):
        caption += "Filled and bold: the two that validation chose."
    return _draw(figure, answer, "scores", "Scores with intervals", alt, caption)


def _differences(answer: Answer, question: Mapping[str, Any]) -> Picture:
    title = "What sharing changes, task by task"
    verdict = question["verdict"]
    if verdict is None:
        return Picture(title, "Not drawn: without a verdict there are no two methods to compare.")
    one = next(d for d in question["differences"] if d["name"] == verdict["method"])
    values = [real(d) for d in one["per_task"]]
    figure = figures.task_differences(
        question["tasks"],
        values,
        helped=one["helped"],
        hurt=one["hurt"],
        mean=(real(one["mean"]), real(one["low"]), real(one["high"])),
        metric=question["metric"],
        method=verdict["method"],
        reference=verdict["reference"],
    )
    up, n = sum(value > 0 for value in values), len(values)
    what = "episodes" if is_episodes(question) else "tasks"
    alt = (
        f"Sorted differences of {n} {what}: {verdict['method']} minus {verdict['reference']}: up in {up}, certainly "
        f"helped {len(one['helped'])}, certainly hurt {len(one['hurt'])}, mean {number(one['mean'], signed=True)}."
    )
    caption = f"Right of zero, {verdict['method']} is ahead of {verdict['reference']}: {up} of {n} {what}. "
    if one["testable"]:
        certain = one["helped"] or one["hurt"]
        caption += "Strong colours: certain for that task by itself." if certain else "None is certain by itself."
    elif is_episodes(question):
        caption += "Episodes are random draws, so none is judged by itself."
    else:
        caption += "Each task was tested by one seed only, so nothing certain can be said of a single one."
    if len(values) > figures.NAMED:
        caption += _named("most helped", one["helped"], question["tasks"], values)
        caption += _named("most hurt", one["hurt"], question["tasks"], values)
    return _draw(figure, answer, "differences", title, alt, caption)


def _named(what: str, certain: Sequence[str], tasks: Sequence[str], values: Sequence[float], most: int = 6) -> str:
    """The largest certain differences in words."""
    where = dict(zip(tasks, values, strict=True))
    largest = sorted(certain, key=lambda task: -abs(where[task]))[:most]
    return f" Certainly {what}: " + ", ".join(f"{t} ({where[t]:+.3f})" for t in largest) + "." if largest else ""


def _curves(answer: Answer, question: Mapping[str, Any]) -> Picture:
    title = "Learning curves"
    verdict = question["verdict"]
    curves, untrained, baseline = {}, [], None
    for method in _in_order(answer, question):
        seeds = [(h["step"], [real(s) for s in h["score"]]) for h in method["history"] if h["score"]]
        if seeds:
            curves[method["name"]] = seeds
        else:
            untrained.append(method["name"])
        if verdict is not None and method["name"] == verdict["reference"]:
            baseline = real(method["validation"])
    note = f"Not trained step by step, hence without a curve: {', '.join(untrained)}." if untrained else ""
    if not curves:
        return Picture(title, f"Not drawn: no method of this question is trained step by step. {note}".strip())
    shares = {row.name: row.shares for row in answer.rows}
    figure = figures.learning_curves(
        curves,
        shares,
        metric=question["metric"],
        baseline=baseline,
        baseline_name="" if verdict is None else f"{verdict['reference']}, as chosen",
    )
    last = "; ".join(f"{name} {np.nanmean([s[-1] for _, s in seeds]):.3f}" for name, seeds in curves.items())
    alt = f"Validation {question['metric']} against training step, a panel for each method. At the end: {last}."
    caption = (
        "Still rising at the right end: more steps may help. Taken before the settings in the table were chosen, which "
        f"may lift a method above its curve. {note}"
    ).strip()
    return _draw(figure, answer, "curves", title, alt, caption)


def _errors(answer: Answer, question: Mapping[str, Any]) -> Picture:
    title = "Error against the number of labelled examples"
    sweeps = {
        m["name"]: {int(k): real(s) for k, s in m["sweep"].items() if math.isfinite(real(s))}
        for m in _in_order(answer, question)
    }
    sweeps = {name: sweep for name, sweep in sweeps.items() if sweep}
    if not sweeps:
        return Picture(title, "Not drawn: no method was tested with other numbers of labelled examples.")
    figure = figures.error_curves(
        sweeps,
        {row.name: row.shares for row in answer.rows},
        metric=question["metric"],
        chosen=_chosen(answer),
        trained_at=question["shots"],
    )
    points = "; ".join(
        f"{n} " + ", ".join(f"{1 - s:.3f} at {k}" for k, s in sweep.items()) for n, sweep in sweeps.items()
    )
    caption = (
        f"Lower is better. Training used {question['shots']} labelled examples (of each class, in classification); "
        f"here the test tasks come with fewer or more. Mean over seeds and over at most {SWEEP_TASKS} test tasks."
    )
    return _draw(figure, answer, "errors", title, f"Error by number of labelled examples. {points}.", caption)


def _affinity(answer: Answer, question: Mapping[str, Any]) -> Picture:
    title = "Task affinity"
    found = question["affinity"]
    if found is None:
        why = (
            "labels mean different things in different tasks, so what is learned on one cannot be tried on another"
            if question["verdict"] is not None
            else "it needs a method that learns each task alone, chosen in a verdict"
        )
        return Picture(title, f"Not measured: {why}.")
    matrix = np.array([[real(s) for s in row] for row in found["matrix"]])
    names = found["names"]
    own, n = np.diag(matrix), len(names)
    others = matrix[~np.eye(n, dtype=bool)]
    alt = f"Heat map of {question['metric']}, {n} by {n} tasks"
    if n > 1 and np.isfinite(others).any():
        alt += f": on the own task {np.nanmean(own):.3f} on average, on another {np.nanmean(others):.3f}"
    many = f" The first {n} of {len(question['tasks'])} tasks." if n < len(question["tasks"]) else ""
    caption = (
        f"Each row: {found['method']}, trained on that task alone, tried on every task. Tasks that serve each other "
        f"stand together; blocks on the diagonal are groups to consider sharing in.{many}"
    )
    figure = figures.task_affinity(matrix, names, metric=question["metric"])
    return _draw(figure, answer, "affinity", title, f"{alt}.", caption)


def _in_order(answer: Answer, question: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The methods' measurements in the order of the table."""
    by_name = {m["name"]: m for m in question["methods"]}
    return [by_name[row.name] for row in answer.rows]


def _task_table(question: Mapping[str, Any]) -> TaskTable:
    names = tuple(m["name"] for m in question["methods"])
    means = [_over_seeds(m["scores"]) for m in question["methods"]]
    verdict = question["verdict"]
    difference, marks, compared = [""] * len(question["tasks"]), {}, ""
    if verdict is not None:
        one = next(d for d in question["differences"] if d["name"] == verdict["method"])
        difference = [number(real(d), True) for d in one["per_task"]]
        marks = dict.fromkeys(one["helped"], "helped") | dict.fromkeys(one["hurt"], "hurt")
        compared = f"{verdict['method']} minus {verdict['reference']}"
    rows = tuple(
        (task, tuple(number(mean[i]) for mean in means), difference[i], marks.get(task, ""))
        for i, task in enumerate(question["tasks"])
    )
    return TaskTable(names, rows, compared)


def _over_seeds(scores: Sequence[Sequence[float | None]]) -> Array:
    """Each task's mean over the seeds that tested it, NaN where none did. ``[seeds, tasks]`` to ``[tasks]``."""
    table = np.array(scores, dtype=np.float64)
    tested = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        mean: Array = np.where(tested, table, 0.0).sum(0) / tested.sum(0)
    return mean
