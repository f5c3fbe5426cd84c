"""The examples run, and stay short."""

import os
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.uses_global_rng  # an example may do what its readers do
@pytest.mark.parametrize(
    "name, steps, says",
    [
        ("own_csv.py", 4, "R2 on the new user's other films"),
        ("own_method.py", 2, "medians 0."),
        ("maml_omniglot.py", 2, "accuracy 0."),
    ],
)
def test_an_example_runs(
    name: str,
    steps: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "omniglot" in name and "QUICKSTUDY_DATA" not in os.environ:
        pytest.skip("needs Omniglot: QUICKSTUDY_DATA is not set")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, str(steps)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    """At most 120 lines; MAML on Omniglot takes 15 of code."""
    lines = path.read_text().splitlines()
    assert len(lines) <= 120
    if path.name == "maml_omniglot.py":
        code = path.read_text().split('"""')[2].splitlines()
        assert sum(bool(line.strip()) for line in code) <= 15
