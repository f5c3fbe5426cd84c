"""School and Tox21: reading (small made-up files), and what the real files hold."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch

from quickstudy.core import InputError
from quickstudy.tasks import TaskTable, download, load, school, tox21

needs_data = pytest.mark.skipif(not os.environ.get("QUICKSTUDY_DATA"), reason="QUICKSTUDY_DATA is not set")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder and an empty cache."""
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")
    for name in ("multitask_tables", "moleculenet"):
        (tmp_path / name).mkdir()
    return tmp_path


# school


def write_schools(folder: Path, sizes: list[int], last: int = 1) -> None:
    cells = {name: np.empty((1, len(sizes)), object) for name in "XY"}
    for i, size in enumerate(sizes):
        x = np.arange(size * 4, dtype=np.uint8).reshape(size, 4)
        x[:, 3] = last
        cells["X"][0, i], cells["Y"][0, i] = x, np.arange(size, dtype=np.uint8)[:, None] + 10 * i
    scipy.io.savemat(folder / "multitask_tables" / "school.mat", cells)


@pytest.fixture
def three_schools(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (("SCHOOLS", 3), ("PUPILS", 12), ("FEATURES", 4)):
        monkeypatch.setattr(school, name, value)
    write_schools(folder, [3, 4, 5])
    return folder


def test_schools_are_tasks(three_schools: Path) -> None:
    table = school.table()
    assert table.names == ("school 1", "school 2", "school 3") and table.count.tolist() == [3, 4, 5]
    assert table.x.shape == (12, 3) and table.x.dtype == torch.float32  # numbers, not the bytes of an image
    assert table.x[:3].tolist() == [[0, 1, 2], [4, 5, 6], [8, 9, 10]]
    assert table.y[2, :, 0].tolist() == [20, 21, 22, 23, 24]
    assert table.problem.metric == "explained variance"


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: write_schools(f, [3, 9]), "Expected 3 schools, 12 pupils and 4 columns.*Found 2 schools, 12 pupils"),
        (lambda f: write_schools(f, [3, 4, 6]), "Found 3 schools, 13 pupils"),
        (lambda f: write_schools(f, [3, 4, 5], last=0), "the last one constant.*Get another copy"),
        (lambda f: (f / "multitask_tables" / "school.mat").write_bytes(b"no matrix"), "cannot be read.*another copy"),
        (
            lambda f: scipy.io.savemat(f / "multitask_tables" / "school.mat", {"Z": [1]}),
            "cells X and Y.*cannot be read",
        ),
    ],
)
def test_another_file_in_place_of_school(three_schools: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(three_schools)
    with pytest.raises(InputError, match=message):
        school.table()


@needs_data
def test_school() -> None:
    study = load("school")
    assert isinstance(study.have, TaskTable) and study.meet is study.have
    table = study.have
    assert table.n_tasks == 139 and len(table.x) == 15_362 == int(table.count.sum()) and table.problem.x_shape == (27,)
    assert (int(table.count.min()), int(table.count.max())) == (22, 251)
    y = table.y[table.present()]
    assert (float(y.min()), float(y.max())) == (1, 70) and abs(float(y.mean()) - 20.597) < 0.001
    arena = study.arena("meet", 0)
    assert arena.test.support.weights.sum(1).tolist() == [10] * 47


# tox21


def write_fingerprints(folder: Path, **change: np.ndarray) -> None:
    bits = np.zeros((40, 1024), np.uint8)
    bits[np.arange(40), np.arange(40) // 2] = 1  # molecules 2i and 2i + 1 have the same fingerprint
    y = np.tile(np.array([0, 1, 1, 0, np.nan], np.float32), 8)[:, None] * np.ones((1, 12), np.float32)
    arrays: dict[str, Any] = {
        "fp_bits": np.packbits(bits, axis=1),
        "y": y,
        "tasks": np.array([f"assay {i}" for i in range(12)]),
    }
    np.savez(folder / "moleculenet" / "tox21_ecfp4_1024.npz", allow_pickle=True, **(arrays | change))


@pytest.fixture
def few_molecules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tox21, "LINES", 40)
    write_fingerprints(folder)
    return folder


def test_assays_are_tasks(few_molecules: Path) -> None:
    table = tox21.table()
    assert table.x.shape == (40, 1024) and table.x.unique().tolist() == [0, 1]
    assert table.n_tasks == 12 and table.count.tolist() == [32] * 12  # a fifth was not measured
    assert table.labels == ("inactive", "active") and table.problem.metric == "auc"
    assert table.group is not None
    assert torch.equal(table.group[::2], table.group[1::2]) and len(table.group.unique()) == 20
    for part in table.split_rows(torch.Generator().manual_seed(0)):
        kept = table.row[part] // 2
        for other in table.split_rows(torch.Generator().manual_seed(0)):
            if not torch.equal(part, other):
                assert not torch.isin(table.row[other] // 2, kept).any()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"y": np.zeros((40, 11), np.float32)}, r"40 molecules of 1024 bits with 12 labels.*labels \(40, 11\)"),
        ({"fp_bits": np.zeros((40, 64), np.uint8)}, r"Found fingerprints \(40, 64\)"),
        ({"y": np.array([{"a": 1}], object)}, "arrays fp_bits, y and tasks.*cannot be read"),
    ],
)
def test_other_fingerprints(few_molecules: Path, change: dict[str, np.ndarray], message: str) -> None:
    write_fingerprints(few_molecules, **change)
    with pytest.raises(InputError, match=message):
        tox21.table()


def write_molecules(folder: Path) -> None:
    smiles = ["C" * (i + 1) + "O" for i in range(39)] + ["not a molecule"]
    frame = pd.DataFrame({f"assay {i}": np.arange(40.0) % 2 for i in range(12)})
    frame.loc[3, "assay 5"] = np.nan
    frame.assign(mol_id=[f"m{i}" for i in range(40)], smiles=smiles).to_csv(
        folder / "moleculenet" / "tox21.csv.gz", index=False
    )


def test_fingerprints_need_rdkit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tox21, "LINES", 40)
    write_molecules(folder)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(InputError, match=r"Expected RDKit.*not installed. Run: pip install quickstudy\[chem\]"):
        tox21.table()


def test_fingerprints_are_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rdkit", reason="RDKit (the extra chem) is not installed")
    monkeypatch.setattr(tox21, "LINES", 40)
    write_molecules(folder)
    bits, y, assays = tox21.molecules()
    assert bits.shape == (39, 1024) and assays == tuple(f"assay {i}" for i in range(12))
    assert np.isnan(y).sum() == 1 and np.isnan(y[3, 5])
    monkeypatch.setattr(tox21, "_compute", None)
    assert np.array_equal(tox21.molecules()[0], bits)


@needs_data
def test_tox21() -> None:
    study = load("tox21")
    assert isinstance(study.have, TaskTable) and study.meet is study.have
    table = study.have
    assert table.n_tasks == 12 and table.x.shape == (8006, 1024) and table.group is not None
    assert len(table.group.unique()) == 7437
    actives = [int((table.y[t, : table.count[t]] == 1).sum()) for t in range(12)]
    assert (min(actives), max(actives)) == (189, 961)
    train, val, test = table.split_rows(torch.Generator().manual_seed(0))
    fingerprints = [{row.numpy().tobytes() for row in table.x[table.row[part].unique()]} for part in (train, val, test)]
    assert not fingerprints[0] & fingerprints[1] and not fingerprints[0] & fingerprints[2]
    assert not fingerprints[1] & fingerprints[2]


@needs_data
def test_rdkit_gives_the_fingerprints_of_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rdkit", reason="RDKit (the extra chem) is not installed")
    bits, y, assays = tox21.molecules()
    (tmp_path / "moleculenet").mkdir()
    source = Path(os.environ["QUICKSTUDY_DATA"]) / "moleculenet" / "tox21.csv.gz"
    (tmp_path / "moleculenet" / "tox21.csv.gz").symlink_to(source.resolve())
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")
    again = tox21.molecules()
    assert np.array_equal(again[0], bits) and np.array_equal(again[1], y, equal_nan=True) and again[2] == assays
