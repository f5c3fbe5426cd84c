"""Tox21: which of 8006 molecules disturb 12 biological pathways. Every assay is a task, most molecules are in many."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from quickstudy.core import InputError
from quickstudy.tasks.download import data_folder, fingerprint, locate, prepared
from quickstudy.tasks.study import Study
from quickstudy.tasks.table import Array, TaskTable

FINGERPRINTS = "moleculenet/tox21_ecfp4_1024.npz"
ASSAYS, LINES, BITS = 12, 8014, 1024


def molecules() -> tuple[Array, Array, tuple[str, ...]]:
    """Fingerprints, labels with NaN for what was not measured, and the assays' names.

    ECFP4 fingerprints (Morgan, radius 2) of 1024 bits. With a data folder they are read from its file
    ``moleculenet/tox21_ecfp4_1024.npz`` where that exists, otherwise RDKit computes them once.

    Shape:
        ``[R, 1024]`` of 0 and 1, ``[R, 12]``.

    Raises:
        InputError: the file does not hold these molecules, or RDKit is missing.
    """
    folder = data_folder()
    if folder is not None and (folder / FINGERPRINTS).is_file():
        path = folder / FINGERPRINTS
        try:
            with path.open("rb") as source, np.load(source, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("fp_bits", "y", "tasks")}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"Expected arrays fp_bits, y and tasks in {path}. Found a file that cannot be read ({error!r}). "
                "Get another copy, or remove it to have the fingerprints computed."
            ) from error
    else:
        path = locate("moleculenet/tox21.csv.gz")
        arrays = prepared(f"tox21-ecfp4-{fingerprint(path)}", lambda: _compute(path))
    bits, y, assays = arrays["fp_bits"], arrays["y"], arrays["tasks"]
    if not (bits.shape == (len(y), BITS // 8) and y.shape[1] == len(assays) == ASSAYS and 0 <= LINES - len(y) < 100):
        raise InputError(
            f"Expected about {LINES:,} molecules of {BITS} bits with {ASSAYS} labels in {path}. Found fingerprints "
            f"{bits.shape} (packed) and labels {y.shape}. Get another copy."
        )
    return np.unpackbits(bits, axis=1), y, tuple(map(str, assays))


def _compute(path: Path) -> dict[str, Array]:
    """Read the molecules and have RDKit make their fingerprints; the few that it can't parse are left out."""
    import pandas as pd

    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
    except ImportError as error:
        raise InputError(
            "Expected RDKit, which computes the molecules' fingerprints. Found that it is not installed. "
            "Run: pip install quickstudy[chem]"
        ) from error
    frame = pd.read_csv(path)
    assays = [name for name in frame.columns if name not in ("mol_id", "smiles")]
    generator = GetMorganGenerator(radius=2, fpSize=BITS)
    with rdBase.BlockLogs():
        parsed = [Chem.MolFromSmiles(text) for text in frame["smiles"]]
    kept = [i for i, molecule in enumerate(parsed) if molecule is not None]
    bits = np.stack([generator.GetFingerprintAsNumPy(parsed[i]) for i in kept])
    return {
        "fp_bits": np.packbits(bits.astype(bool), axis=1),
        "y": frame[assays].to_numpy(np.float32)[kept],
        "tasks": np.array(assays),
    }


def table() -> TaskTable:
    """12 tasks of 5914 to 7432 molecules, 3 to 16 % of them active; score: area under the ROC curve.

    Molecules with the same fingerprint (all repeats of a molecule have) stay in one part when rows are split.

    Reference:
        Wu et al. 2018, MoleculeNet, arXiv:1703.00564; Rogers and Hahn 2010 (ECFP).
    """
    bits, y, assays = molecules()
    _, identity = np.unique(bits, axis=0, return_inverse=True)
    return TaskTable.from_columns(
        bits.astype(np.float32),  # uint8 would stand for 0..255
        {name: y[:, i] for i, name in enumerate(assays)},
        "classification",
        metric="auc",
        labels=("inactive", "active"),
        group=identity.ravel(),
    )


def study() -> Study:
    """New molecules in known assays, and new assays with 10 actives and 10 inactives."""
    data = table()
    return Study(
        "tox21",
        data,
        data,
        shots=10,
        about="Tox21, 12 toxicity assays (NIH, public), as released with DeepChem (MIT).",
    )
