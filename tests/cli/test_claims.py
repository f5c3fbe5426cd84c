"""`quickstudy claims` shows every row, also those that are not met."""

from pathlib import Path

import pytest
from tests.cli.common import run

from quickstudy.core import InputError
from quickstudy.evaluation.claims import Row, read, record


def row(what: str, value: float, target: float) -> Row:
    low, high = value - 0.01, value + 0.01
    return Row("a-system", what, "accuracy", value, low, high, 600, 1, target, "higher", "issue", "cpu", 1.0, "make it")


def test_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    record(tmp_path / "recipes" / "one", [row("reached | with a bar", 0.98, 0.975), row("missed", 0.5, 0.9)])
    assert run("claims", "--write") == 0
    printed = capsys.readouterr().out
    assert "0.98 [0.97, 0.99]" in printed and "at least 0.975" in printed and "missed" in printed
    lines = Path("docs/claims.md").read_text().splitlines()
    assert lines[4:] == [
        "| system | what | target | measured | met |",
        "| --- | --- | --- | --- | --- |",
        "| a-system | reached \\| with a bar (accuracy) | at least 0.975 | 0.98 [0.97, 0.99] | yes |",
        "| a-system | missed (accuracy) | at least 0.9 | 0.5 [0.49, 0.51] | no |",
    ]


def test_what_is_measured_anew_replaces_what_it_does_not_say_any_more(tmp_path: Path) -> None:
    record(tmp_path, [row("with one net", 0.5, 0.9), row("of another kind", 0.7, 0.9)])
    record(tmp_path, [row("of another kind", 0.8, 0.9), row("with a wider net", 0.6, 0.9)], lambda r: "net" in r.what)
    assert [(r.what, r.value) for r in read(tmp_path / "result.json")] == [
        ("of another kind", 0.8),
        ("with a wider net", 0.6),
    ]


def test_a_figure_that_is_none_is_refused_and_the_others_stay(tmp_path: Path) -> None:
    record(tmp_path, [row("measured", 0.5, 0.9)])
    with pytest.raises(InputError, match="finite figures. Found .*inf.* in 'never reached'"):
        record(tmp_path, [row("never reached", float("inf"), 0.9)])
    assert [r.what for r in read(tmp_path / "result.json")] == ["measured"]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("<<<<<<< ours")
    with pytest.raises(InputError, match="Expected rows in JSON in .*result.json"):
        read(tmp_path / "result.json")
