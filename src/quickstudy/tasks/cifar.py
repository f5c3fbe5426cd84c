"""CIFAR-100 and its few-shot splits: 100 classes of 600 colour photographs, 32 x 32 pixels."""

from __future__ import annotations

import tarfile
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from quickstudy.core import InputError
from quickstudy.tasks.classes import ClassSet
from quickstudy.tasks.download import data_folder, fingerprint, locate, prepared
from quickstudy.tasks.study import SplitClasses, Study
from quickstudy.tasks.table import Array, TaskTable

Name = Literal["cifar-fs", "fc100", "cifar100"]
ABOUT = {
    "cifar-fs": "CIFAR-100's classes split at random for few-shot learning, 64 / 16 / 20; 20 coarse tasks",
    "fc100": "CIFAR-100's classes split by coarse class for few-shot learning, 60 / 20 / 20; 12 coarse tasks",
    "cifar100": "20 coarse classes of photographs as tasks: tell their 5 fine classes apart; new coarse classes",
}
ARCHIVE = "cifar100/cifar-100-binary.tar.gz"
JPEG = "cifar100_jpeg"  # in a data folder: one mosaic of 30 x 20 images a class
SIDE, IMAGES, TRAINING = 32, 600, 500
RECORD = 2 + 3 * SIDE * SIDE  # a coarse label, a fine label, the pixels channel by channel
EACH = 100  # images of a class that are in a task: all 600 would be 60,000 in memory as float at once


def photographs() -> tuple[Tensor, tuple[str, ...], bool]:
    """All images, the names of their classes in alphabetical order, and whether they come from JPEG files.

    In a class, the 500 images of CIFAR-100's training part stand before the 100 of its test part.

    Shape:
        uint8 ``[100, 600, 3, 32, 32]``.

    Raises:
        InputError: the files do not hold what CIFAR-100 holds.
    """
    names = tuple(sorted(fine for _, fine, _, _ in _lines()))
    folder = data_folder()
    jpeg = folder is not None and (folder / JPEG).is_dir() and not (folder / ARCHIVE).is_file()
    if jpeg:
        assert folder is not None
        paths = [folder / JPEG / f"{name}.jpg" for name in names]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise InputError(
                f"Expected a mosaic of each of the {len(names)} classes in {folder / JPEG}. Found no {missing[0]}. "
                f"Put it there, or the original archive as {folder / ARCHIVE}."
            )
        arrays = prepared(
            f"cifar100-jpeg-{fingerprint(*paths)}", lambda: {"images": np.stack([_mosaic(p) for p in paths])}
        )
    else:
        path = locate(ARCHIVE)
        arrays = prepared(f"cifar100-{fingerprint(path)}", lambda: {"images": _binary(path, names)})
    return torch.as_tensor(arrays["images"]), names, jpeg


def _lines() -> list[tuple[str, str, str, str]]:
    """Coarse class, fine class, its part of CIFAR-FS, its part of FC100."""
    text = (files("quickstudy.tasks") / "splits" / "cifar100.txt").read_text()
    rows = [line.split() for line in text.splitlines()]
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def _mosaic(path: Path) -> Array:
    """600 images of one class from a picture of 30 rows of 20. Shape: ``[600, 3, 32, 32]``."""
    rows, columns = 30, IMAGES // 30
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise InputError(f"Expected a JPEG image at {path}. Found one that cannot be read ({error}).") from error
    if pixels.shape != (rows * SIDE, columns * SIDE, 3):
        raise InputError(
            f"Expected {columns * SIDE} x {rows * SIDE} pixels in {path}, {IMAGES} images of {SIDE} x {SIDE}. Found "
            f"{pixels.shape[1]} x {pixels.shape[0]}. Get another copy."
        )
    tiles = pixels.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(IMAGES, 3, SIDE, SIDE)


def _binary(path: Path, names: tuple[str, ...]) -> Array:
    """The binary version as its author ships it. Shape: ``[100, 600, 3, 32, 32]``."""
    parts: dict[str, bytes] = {}
    wanted = ("train.bin", "test.bin", "fine_label_names.txt")
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                source = archive.extractfile(member) if name in wanted else None
                if source is not None:
                    parts[name] = source.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"Expected a whole archive at {path}. Found one that cannot be read ({error}).") from error
    missing = [name for name in wanted if name not in parts]
    if missing:
        raise InputError(f"Expected {missing[0]} in {path}. Found none. Get the binary version of CIFAR-100.")
    written = tuple(parts["fine_label_names.txt"].decode().split())
    if tuple(sorted(written)) != names:
        odd = sorted(set(written) ^ set(names))
        raise InputError(f"Expected the {len(names)} classes of CIFAR-100 in {path}. Found others: {odd[:3]}.")
    images = []
    for part in ("train.bin", "test.bin"):
        whole, rest = divmod(len(parts[part]), RECORD)
        if rest:
            raise InputError(f"Expected records of {RECORD} bytes in {part} of {path}. Found {rest} bytes too many.")
        records = np.frombuffer(parts[part], np.uint8).reshape(whole, RECORD)
        order = [records[records[:, 1] == written.index(name), 2:] for name in names]
        each = TRAINING if part == "train.bin" else IMAGES - TRAINING
        found = {len(some) for some in order}
        if found != {each}:
            raise InputError(
                f"Expected {each} images of every class in {part} of {path}. Found {min(found)} to {max(found)}. "
                "Get another copy."
            )
        images.append(np.stack(order))
    return np.concatenate(images, 1).reshape(len(names), -1, 3, SIDE, SIDE)


def classes() -> ClassSet:
    """100 classes ``[100, 600, 3, 32, 32]`` in alphabetical order."""
    images, names, _ = photographs()
    return ClassSet(images, names)


def split(name: Name) -> dict[str, Tensor]:
    """Indices of the training, validation and test classes, in alphabetical order of all.

    - ``"cifar-fs"``: 64, 16 and 20 classes at random;
    - ``"fc100"``: those of 12, 4 and 4 coarse classes, so that test classes are less like training ones;
    - ``"cifar100"``: as ``"fc100"``.

    Reference:
        Bertinetto et al. 2019, arXiv:1805.08136 (CIFAR-FS); Oreshkin et al. 2018, arXiv:1805.10123 (FC100).
    """
    rows = sorted(_lines(), key=lambda row: row[1])
    column = 2 if name == "cifar-fs" else 3
    return {
        part: torch.tensor([i for i, row in enumerate(rows) if row[column] == part])
        for part in ("train", "val", "test")
    }


def coarse(images: Tensor, members: Tensor) -> TaskTable:
    """One task a coarse class: tell its fine classes apart, from 100 images of each. Label k differs from task to task.

    Args:
        images: all of them, ``[100, 600, 3, 32, 32]``.
        members: which fine classes may be used; a coarse class with fewer than two of them is left out.
    """
    rows = sorted(_lines(), key=lambda row: row[1])
    of: dict[str, list[int]] = {}
    for i in members.tolist():
        of.setdefault(rows[i][0], []).append(i)
    tasks = {
        name: (images[fine, :EACH].flatten(0, 1).numpy(), np.arange(len(fine)).repeat(min(EACH, images.shape[1])))
        for name, fine in sorted(of.items())
        if len(fine) > 1
    }
    return TaskTable.from_arrays(tasks, "classification", shared_labels=False)


def study(name: Name = "cifar-fs") -> Study:
    """Few-shot classes and coarse tasks.

    - *meet*, ``"cifar-fs"`` and ``"fc100"``: classes of the test split, 5 ways, 1 shot; ``"cifar100"``: coarse
      classes that are held out as a whole, in turn.
    - *have*: :func:`coarse` tasks, of the training classes only; of all 100 classes for ``"cifar100"``.

    Args:
        name: which split.
    """
    images, names, jpeg = photographs()
    about = "CIFAR-100, 100 classes x 600 photographs of 32 x 32 pixels. Krizhevsky 2009, no explicit licence."
    if jpeg:
        about += " Read from JPEG files (lossy: scores may differ from those on the original pixels)."
    if name == "cifar100":
        table = coarse(images, torch.arange(len(names)))
        return Study(name, table, table, shots=5, about=f"{about} {len(table.names)} tasks, {EACH} images a class.")
    splits = split(name)
    source = "Bertinetto et al. 2019" if name == "cifar-fs" else "Oreshkin et al. 2018"
    return Study(
        name,
        coarse(images, splits["train"]),
        SplitClasses(ClassSet(images, names), splits),
        shots=1,
        about=f"{about} Split of {source}.",
    )
