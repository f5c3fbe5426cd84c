"""A person who has only the page: the method in one file passes the kit and stands in the comparison.

That the page's commands run is the documentation tests' matter; here is what a reader expects to see after them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quickstudy.core import Method
from quickstudy.methods.registry import find
from quickstudy.testing import laws

PAGE = (Path(__file__).parents[2] / "docs" / "new_method.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The page's code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def in_shell(command: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands after the page's first command."""
    in_shell(blocks("bash")[0], tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_method", raising=False)
    return tmp_path


def test_one_file_of_few_lines(folder: Path) -> None:
    assert [file.name for file in folder.iterdir()] == ["my_method.py"]
    assert len((folder / "my_method.py").read_text().splitlines()) < 50


def test_every_law_holds(folder: Path) -> None:
    names = []
    for name, law in laws(find("my_method.py:ClassMeans")):
        law()
        names.append(name)
    assert len(names) > 40


def test_the_report_on_the_page_is_what_the_kit_says(folder: Path) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(blocks("python")[0], {"__name__": "page"})
    assert said.getvalue() == blocks("text")[0]


def test_the_table_of_attributes_is_complete() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", PAGE, re.MULTILINE))
    told = {"name", "summary", "reference"}
    declared = {key for key in Method.__annotations__ if key not in told}
    assert rows.keys() == declared
    for key, value in rows.items():
        assert eval(value) == getattr(Method, key), key


def test_it_stands_in_the_comparison(folder: Path) -> None:
    in_shell(blocks("bash")[2], folder)
    assert "ClassMeans" in (folder / "out" / "report.html").read_text(encoding="utf-8")
    results = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))
    means = {method["name"]: method["estimate"]["mean"] for method in results["questions"]["meet"]["methods"]}
    assert means.keys() == {"ClassMeans", "nearest-neighbour"}
    assert means["ClassMeans"] > 0.4  # 20 steps are few, but chance is 0.2
