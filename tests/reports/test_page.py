"""The page: complete, self-contained, safe with any name, and right in a real browser."""

import copy
import html.parser
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.reports.studies import METHODS, question, results

from quickstudy.core import InputError
from quickstudy.reports import write_report
from quickstudy.reports.view import answers

HAVE, MEET = question("have", 12), question("meet", 12)
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Elements, text and nesting of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.words = ""
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data

    @property
    def text(self) -> str:
        """All that is read, with single spaces."""
        return " ".join(self.words.split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def study(**questions: dict[str, Any]) -> dict[str, Any]:
    """A private copy, as it comes back from ``results.json``."""
    loaded: dict[str, Any] = json.loads(json.dumps(results(**copy.deepcopy(questions))))
    return loaded


def page(found: dict[str, Any], folder: Path) -> Page:
    path = folder / "report.html"
    assert write_report(found, path) == path
    return Page(path)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of both questions."""
    return write_report(study(have=HAVE, meet=MEET), tmp_path_factory.mktemp("full") / "report.html")


def test_everything_is_on_the_page(full: Path) -> None:
    shown = Page(full)
    for one in (HAVE, MEET):
        assert one["verdict"]["text"] in shown.text
        assert one["title"] in shown.text
        for method in one["methods"]:
            assert method["name"] in shown.text
            assert f"{method['estimate']['mean']:.3f}" in shown.text
            assert f"[{method['estimate']['low']:.3f}, {method['estimate']['high']:.3f}]" in shown.text
        for difference in one["differences"]:
            assert f"{difference['mean']:+.3f}" in shown.text
    for part in (
        "Scores with intervals",
        "What sharing changes, task by task",
        "Learning curves",
        "Error against the number of labelled examples",
        "Task affinity",
        "Every task's score by method (12 tasks)",
        "Left out",
        "needs classes; these tasks predict numbers",
        "the share of test examples",
        "bootstrap over tasks",
        "test_steps 5",
        "transductive",
        "quickstudy compare schools.csv --target 'exam score' --task school --seeds 3 --shots 5 --margin 0.01",
        "a processor, 2 cores, torch 2.13.0",
        "7.3 minutes",
        "2026-01-31",
    ):
        assert part in shown.text, part
    assert shown.count("svg") == 8


def test_the_table_of_tasks_holds_every_score(tmp_path: Path) -> None:
    shown = page(study(have=HAVE), tmp_path)
    one = next(d for d in HAVE["differences"] if d["name"] == HAVE["verdict"]["method"])
    means = [np.mean(method["scores"], axis=0) for method in HAVE["methods"]]
    for i, task in enumerate(HAVE["tasks"]):
        mark = "helped" if task in one["helped"] else "hurt" if task in one["hurt"] else ""
        difference = f"{one['per_task'][i]:+.3f} {mark}"
        assert f"{task}{difference}" + "".join(f"{mean[i]:.3f}" for mean in means) in shown.words
    assert one["helped"]


def test_people_who_cannot_see_it_are_served_too(full: Path) -> None:
    shown = Page(full)
    assert dict(shown.elements)["html"]["lang"] == "en"
    assert shown.count("title") == 1
    pictures = [attributes for tag, attributes in shown.elements if tag == "svg"]
    assert all(one["role"] == "img" and len(one["aria-label"] or "") > 40 for one in pictures)
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"] for tag, a in shown.elements if tag == "a"}
    assert {target[1:] for target in targets if target} <= set(ids)


def test_nothing_is_loaded_and_nothing_runs(full: Path) -> None:
    shown = Page(full)
    for tag, attributes in shown.elements:
        assert tag not in {"script", "iframe", "object", "embed"}
        for key, value in attributes.items():
            if key in {"src", "href"} and tag != "a":
                assert value is not None and re.match(r"#|data:", value), (tag, key, value)
            assert not key.startswith("on")
    assert not re.search(r"url\((?!#)|@import|https?://", shown.source)


def test_names_are_names(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    found = study(have=question("have", 12, names=(evil, *(f"t{i}" for i in range(11)))))
    found["data"] = found["about"] = found["plan"]["data"] = evil
    found["questions"]["have"]["skipped"] = {evil: evil}
    found["questions"]["have"]["methods"][1]["name"] = evil
    shown = page(found, tmp_path)
    assert shown.count("script") == 0
    assert "<script" not in shown.source
    assert evil in shown.text


@pytest.mark.parametrize("n", [40, 200])
def test_any_number_of_tasks(n: int, tmp_path: Path) -> None:
    shown = page(study(have=question("have", n), meet=question("meet", n, episodes=True)), tmp_path)
    assert f"Every task's score by method ({n} tasks)" in shown.text
    assert ("The first 40 of" in shown.text) == (n > 40)
    assert ("Certainly most hurt: " in shown.text) == (n > 40)


@pytest.mark.parametrize(
    ("n", "effect", "decision", "word"),
    [(40, 1.0, "share", "Share"), (40, 0.0, "alone", "Learn alone"), (3, 1.0, "uncertain", "Uncertain")],
)
def test_the_decision_is_a_word(n: int, effect: float, decision: str, word: str) -> None:
    answer = answers(study(have=question("have", n, effect=effect)))[0]
    assert (answer.decision, answer.word) == (decision, word)


def test_uncertain_is_said_too(tmp_path: Path) -> None:
    shown = page(study(have=question("have", 3)), tmp_path)
    assert '<div class="word">Uncertain</div>' in shown.source
    assert "no interval" in shown.text


def test_a_question_without_an_answer_says_why(tmp_path: Path) -> None:
    found = study(have=question("have", 12, methods=tuple(m for m in METHODS if m[1])))
    found["missing"] = {"meet": "five tasks are too few"}
    shown = page(found, tmp_path)
    assert "this study ran no methods that learn each task alone" in shown.text
    assert "five tasks are too few" in shown.text
    assert "Not drawn: without a verdict" in shown.text
    assert "Not measured: it needs a method that learns each task alone" in shown.text
    only = question("have", 12, methods=tuple(m for m in METHODS if not m[1]))
    assert "this study ran no methods that learn from other tasks" in page(study(have=only), tmp_path).text
    assert "This study did not ask it." in page(study(meet=MEET), tmp_path).text


def test_no_affinity_says_why(tmp_path: Path) -> None:
    found = study(have=HAVE)
    found["questions"]["have"]["affinity"] = None
    assert "labels mean different things in different tasks" in page(found, tmp_path).text


def test_what_was_not_measured_is_a_dash_and_no_error(tmp_path: Path) -> None:
    found = study(have=HAVE, meet=MEET)
    have, meet = found["questions"]["have"], found["questions"]["meet"]
    have["methods"][2]["estimate"] = {"mean": None, "low": math.nan, "high": None, "n": 12, "seeds": 3}
    have["methods"][3]["scores"] = [[None] * 12] * 3
    have["differences"][0]["per_task"][0] = math.nan
    have["affinity"]["matrix"][0][1] = None
    for method in have["methods"]:
        method["history"] = [{"step": [], "loss": [], "score": [], "best_step": 0}] * 3
    for method in meet["methods"]:
        method["sweep"] = {}
    shown = page(found, tmp_path)
    assert "Not drawn: no method of this question is trained step by step." in shown.text
    assert "Not drawn: no method was tested with other numbers of labelled examples." in shown.text
    assert not re.search(r"\bnan\b", shown.text, re.IGNORECASE)


def test_one_seed(tmp_path: Path) -> None:
    shown = page(study(have=question("have", 12, seeds=1), meet=question("meet", 12, seeds=1)), tmp_path)
    assert "Each task was tested by one seed only" in shown.text


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    found = study(have=HAVE)
    assert page(found, tmp_path).source == page(found, tmp_path).source


def test_results_of_another_version_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Expected results of version 1. Found version 7"):
        write_report(study(have=HAVE) | {"version": 7}, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def chromium(folder: Path, *what: str) -> subprocess.CompletedProcess[str]:
    """A browser with an empty profile, offline but for the file."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium in PATH to open the page with")
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    flags += ["disable-component-update", "disable-sync", "hide-scrollbars", "enable-logging=stderr"]
    return subprocess.run(
        [program, *(f"--{flag}" for flag in flags), f"--user-data-dir={folder / 'profile'}", *what],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.parametrize("size", [(1100, 3000), (390, 3000)])
def test_a_browser_shows_it(size: tuple[int, int], full: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    ran = chromium(tmp_path, f"--screenshot={picture}", f"--window-size={size[0]},{size[1]}", full.as_uri())
    assert "CONSOLE" not in ran.stderr
    with Image.open(picture) as image:
        assert image.size == size
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    blue = np.abs(pixels - [0x00, 0x72, 0xB2]).sum(-1) < 12
    assert blue[:800].sum() > 1000, "the verdict's box"
    assert blue[800:].sum() > 300, "the figures"
    assert (pixels.sum(-1) < 150).mean() > 0.003, "the words"
    margin = pixels[:, -4:]
    assert (margin == 255).all(), "nothing runs over the right edge"


def test_a_browser_reads_the_verdict(full: Path, tmp_path: Path) -> None:
    text = chromium(tmp_path, "--dump-dom", full.as_uri()).stdout
    assert HAVE["verdict"]["text"] in text
    assert MEET["verdict"]["text"] in text
