"""The terminal's table: fits the window, says the verdict, takes names as they are."""

import io
from typing import Any

import pytest
from rich.console import Console
from tests.reports.studies import METHODS, question, results

from quickstudy.reports import table


def shown(study: dict[str, Any], width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=False).print(table(study))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_lines_fit_and_are_plain(width: int) -> None:
    text = shown(results(have=question("have", 12), meet=question("meet", 12)), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text


def test_every_method_and_the_verdict_are_there() -> None:
    study = results(have=question("have", 12))
    text = shown(study)
    assert study["questions"]["have"]["verdict"]["text"] in " ".join(text.split())
    for method in study["questions"]["have"]["methods"]:
        estimate = method["estimate"]
        line = next(line for line in text.splitlines() if line.startswith(method["name"]))
        assert f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]" in line
        assert ("shared" if method["shares"] else "alone") in line


def test_chosen_and_transductive_methods_are_marked() -> None:
    text = shown(results(have=question("have", 12)))
    assert "multi_head* " in text
    assert "ridge* " in text
    assert "maml~ " in text
    assert "* chosen on validation data" in text


def test_too_few_tasks_have_no_interval() -> None:
    text = shown(results(have=question("have", 3)))
    assert "[" not in text.split("*")[0]
    assert "Nothing is certain: 3 tasks" in text


def test_no_markup_is_read_in_names() -> None:
    methods = (("[red]x[/red]", True, 0.1, True, {}), *METHODS)
    assert "[red]x[/red]" in shown(results(have=question("have", 12, methods=methods)))


def test_a_question_that_was_not_asked_says_why() -> None:
    study = results(have=question("have", 12))
    study["missing"] = {"meet": "two tasks are too few"}
    assert "two tasks are too few" in shown(study)
