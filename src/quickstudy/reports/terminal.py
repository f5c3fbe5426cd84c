"""The result in the terminal: a table and a verdict for each question, in 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from quickstudy.reports.view import Answer, Row, answers

NAME = 18  # most characters of a name, marks included
STYLE = {"share": "bold blue", "alone": "bold dark_orange3", "uncertain": "bold", "none": "bold"}


def table(results: Mapping[str, Any]) -> Group:
    """Both questions' tables and verdicts, for ``rich.print``; plain text where the output is no terminal.

    Args:
        results: what :func:`quickstudy.evaluation.compare.compare` returns.
    """
    return Group(*(part for answer in answers(results) for part in _answer(answer)))


def _answer(answer: Answer) -> list[Table | Text]:
    head, colon, rest = answer.text.partition(":")  # verdicts begin with the decision and a colon
    verdict = Text.assemble((head + colon, STYLE[answer.decision]), rest)
    parts: list[Table | Text] = [Text(answer.asked, "bold")]
    if answer.rows:
        parts += [_methods(answer.rows), *_notes(answer.rows)]
    return [*parts, verdict, Text()]


def _methods(rows: tuple[Row, ...]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    shown.add_column("method", overflow="ellipsis")  # the one that shrinks where the window is narrow
    shown.add_column("learns", no_wrap=True)
    shown.add_column("score", no_wrap=True)
    shown.add_column("to best alone", no_wrap=True)
    shown.add_column("min", justify="right", no_wrap=True)
    for row in rows:
        marks = "*" * row.chosen + "~" * row.transductive
        name = row.name if len(row.name) + len(marks) <= NAME else f"{row.name[: NAME - len(marks) - 1]}…"
        kind = Text("shared", "blue") if row.shares else Text("alone", "dark_orange3")
        shown.add_row(
            Text(name + marks, "bold" if row.chosen else ""),
            kind,
            Text(str(row.score)),
            Text("" if row.difference is None else str(row.difference)),
            Text(row.minutes),
        )
    return shown


def _notes(rows: tuple[Row, ...]) -> list[Text]:
    """What the marks mean, where there are any."""
    notes = []
    if any(row.chosen for row in rows):
        notes.append("* chosen on validation data, and compared in the verdict")
    if any(row.transductive for row in rows):
        notes.append("~ looks at all examples to predict together (transductive)")
    return [Text(note, "dim") for note in notes]
