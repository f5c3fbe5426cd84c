"""One verb for all data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from quickstudy.core import InputError
from quickstudy.tasks import NAMES, TaskTable, load


def test_planted_by_name() -> None:
    one, two, other = load("planted:0.25"), load("planted:0.25"), load("planted:0.25", seed=1)
    assert one.name == "planted:0.25" and one.shots == 10
    assert one.have is not None and two.have is not None and other.have is not None
    assert torch.equal(one.have.y, two.have.y) and not torch.equal(one.have.y, other.have.y)
    assert load("planted").name == "planted:0.5"


@pytest.mark.parametrize("shared", ["2", "-0.1", "much", "", "nan"])
def test_planted_takes_a_share(shared: str) -> None:
    if not shared:
        assert load("planted:").name == "planted:0.5"
        return
    with pytest.raises(InputError, match=f"S from 0 .* to 1 .*Found S = '{shared}'. Write for example planted:0.5"):
        load(f"planted:{shared}")


@pytest.mark.parametrize("typed, meant", [("omniglott", "omniglot"), ("Digits", "digits"), ("shool", "school")])
def test_a_name_that_is_nearly_known(typed: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"Found no '{typed}'. Did you mean '{meant}'") as error:
        load(typed)
    assert all(name in str(error.value) for name in NAMES)


def test_a_name_like_no_other() -> None:
    with pytest.raises(InputError, match=r"Found no 'results/march.csv'. Correct the name or the path"):
        load("results/march.csv")


def test_columns_are_for_tables() -> None:
    with pytest.raises(InputError, match="Expected no --target, --group.*Leave it out"):
        load("digits", target="y", group="g")


def test_a_folder_may_bear_a_known_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    for name in "ab":
        Path(f"digits/{name}.csv").write_text("x,y\n" + "".join(f"{i},{i * 0.5}\n" for i in range(20)))
    for data in ("./digits", Path("digits")):
        have = load(data).have
        assert have is not None and have.names == ("a", "b")
    assert load("digits").name == "digits" and load("digits").have is not load("./digits").have


def test_arrays_from_python() -> None:
    rows = np.arange(40.0).reshape(20, 2)
    study = load({name: (rows, rows.sum(1)) for name in "abcdef"})
    assert isinstance(study.have, TaskTable) and isinstance(study.meet, TaskTable)
    assert study.have.problem.kind == "regression" and study.name == "arrays" and study.shots == 10
