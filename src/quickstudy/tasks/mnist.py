"""MNIST and Fashion-MNIST: ten kinds of grey pictures, 28 x 28 pixels, permuted or rotated into many tasks."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from quickstudy.core import InputError
from quickstudy.tasks.classes import ClassSet
from quickstudy.tasks.download import data_folder, fingerprint, locate, prepared
from quickstudy.tasks.study import SplitClasses, Study
from quickstudy.tasks.table import Array, TaskTable

Name = Literal["mnist-permuted", "mnist-rotated", "fashion"]
ABOUT = {
    "mnist-permuted": "MNIST's digits, 20 tasks, each with its pixels in another order",
    "mnist-rotated": "MNIST's digits, 36 tasks, each seen at another angle",
    "fashion": "Fashion-MNIST: clothes at 36 angles as tasks; new kinds of clothes in four rotations",
}
PARTS = ("train", "t10k")
KINDS, SIDE = 10, 28
DIGITS = tuple(map(str, range(KINDS)))
CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
MINI = "fashion_mini/fashion_mini_10x90.npz"  # in a data folder: 90 pictures of each kind
PERMUTATIONS, ANGLES = 20, tuple(range(0, 360, 10))
EACH = 500  # pictures of a task; most, where there are fewer in all
TURNS = 4
# kinds of each split: every part has tops, and something else
SPLIT = {"train": (0, 1, 2, 3, 7, 8), "val": (4, 5), "test": (6, 9)}


def pictures(name: Literal["mnist", "fashion"] = "mnist") -> tuple[Array, Array]:
    """All pictures, ink 255 on 0, training part first, and which of the ten kinds each shows.

    Shape:
        uint8 ``[n, 28, 28]``, int64 ``[n]``; n = 70,000, or 900 for a small copy of Fashion-MNIST in the data folder.

    Raises:
        InputError: the files are not in the IDX format of MNIST, or do not belong together.
    """
    folder = data_folder()
    if name == "fashion" and folder is not None and not (folder / "fashion").is_dir() and (folder / MINI).is_file():
        with (folder / MINI).open("rb") as source, np.load(source, allow_pickle=False) as file:
            images = file["images"]
        if images.ndim != 4 or images.shape[0] != KINDS or images.shape[2:] != (SIDE, SIDE):
            raise InputError(
                f"Expected images of shape [{KINDS}, n, {SIDE}, {SIDE}] in {folder / MINI}. Found {images.shape}."
            )
        return images.reshape(-1, SIDE, SIDE), np.arange(KINDS).repeat(images.shape[1])
    paths = [locate(f"{name}/{part}-{what}-ubyte.gz") for part in PARTS for what in ("images-idx3", "labels-idx1")]

    def read() -> dict[str, Array]:
        x, y = [_idx(path, 3) for path in paths[::2]], [_idx(path, 1) for path in paths[1::2]]
        for images, labels, path in zip(x, y, paths[::2], strict=True):
            if len(images) != len(labels) or images.shape[1:] != (SIDE, SIDE) or labels.max(initial=0) >= KINDS:
                raise InputError(
                    f"Expected pictures of {SIDE} x {SIDE} pixels with labels 0 to {KINDS - 1} in {path} and its "
                    f"labels. Found {images.shape} and {len(labels)} labels up to {labels.max(initial=0)}."
                )
        return {"images": np.concatenate(x), "labels": np.concatenate(y)}

    arrays = prepared(f"{name}-{fingerprint(*paths)}", read)
    return arrays["images"], arrays["labels"].astype(np.int64)


def _idx(path: Path, axes: int) -> Array:
    """A gzipped file of unsigned bytes: two zeros, 8, the number of axes, their lengths, the values."""
    try:
        with gzip.open(path) as source:
            data = source.read()
    except (OSError, EOFError) as error:
        raise InputError(
            f"Expected a whole gzip file at {path}. Found one that cannot be read ({error}). Get another copy."
        ) from error
    shape = tuple(np.frombuffer(data[4 : 4 + 4 * axes], ">u4").tolist())
    begin = 4 + 4 * axes
    if data[:4] != bytes((0, 0, 8, axes)) or len(data) - begin != int(np.prod(shape, dtype=np.int64)):
        raise InputError(
            f"Expected an IDX file of bytes with {axes} axes at {path}. Found a head {data[:4].hex()}, a shape {shape} "
            f"and {max(len(data) - begin, 0)} values. Get another copy."
        )
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)


def classes(name: Literal["mnist", "fashion"] = "mnist", *, turns: int = 1) -> ClassSet:
    """Ten kinds ``[10 * turns, m, 1, 28, 28]``, in rotations where asked for, which share their ``origin``."""
    x, y = pictures(name)
    of = [torch.as_tensor(x[y == kind]).unsqueeze(1) for kind in range(KINDS)]
    padded = torch.nn.utils.rnn.pad_sequence(of, batch_first=True)
    turned = torch.stack([padded.rot90(turn, (-2, -1)) for turn in range(turns)], 1).flatten(0, 1)
    kinds = DIGITS if name == "mnist" else CLOTHES
    names = tuple(kind if turns == 1 else f"{kind} at {90 * turn}" for kind in kinds for turn in range(turns))
    return ClassSet(
        turned,
        names,
        torch.tensor([len(each) for each in of]).repeat_interleave(turns),
        torch.arange(KINDS).repeat_interleave(turns),
    )


def _dealt(y: Array, tasks: int) -> list[Array]:
    """Indices of each task's pictures: at most :data:`EACH`, about as many of each kind, none in two tasks."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).numpy()
    order = order[np.argsort(y[order], kind="stable")]
    each = min(EACH, len(y) // tasks)
    dealt = [order[task::tasks] for task in range(tasks)]
    # evenly over the kinds, which stand one after the other
    return [mine[np.linspace(0, len(mine) - 1, each).round().astype(int)] for mine in dealt]


def permuted(x: Array, y: Array, tasks: int = PERMUTATIONS) -> TaskTable:
    """One task a permutation of the pixels; the first leaves them in place. A kind is label k in every task.

    Args:
        x: pictures, ``[n, 28, 28]``.
        y: their kinds.
        tasks: how many.

    Reference:
        Goodfellow et al. 2013, arXiv:1312.6211; permutations of seed 0.
    """
    generator = torch.Generator().manual_seed(0)
    made = {}
    for task, mine in enumerate(_dealt(y, tasks)):
        pixels = x[0].size
        order = torch.arange(pixels) if task == 0 else torch.randperm(pixels, generator=generator)
        flat = x[mine].reshape(len(mine), -1)[:, order.numpy()]
        made[f"permutation {task}"] = (flat.reshape(len(mine), 1, *x.shape[1:]), y[mine])
    return TaskTable.from_arrays(made, "classification", labels=DIGITS)


def rotated(x: Array, y: Array, labels: tuple[str, ...] = DIGITS) -> TaskTable:
    """One task an angle, 0 to 350 degrees in steps of 10, anticlockwise. A kind is label k in every task.

    A 6 at 180 degrees is a 9 at 0: a net that is blind to the task can't tell.

    Args:
        x: pictures, ``[n, 28, 28]``.
        y: their kinds.
        labels: what the kinds are called.

    Reference:
        Lopez-Paz, Ranzato 2017, arXiv:1706.08840; there angles are drawn between 0 and 180 degrees.
    """
    made = {}
    for angle, mine in zip(ANGLES, _dealt(y, len(ANGLES)), strict=True):
        turned = ndimage.rotate(x[mine].astype(np.float32), angle, axes=(1, 2), reshape=False, order=1)
        made[f"angle {angle}"] = (turned.round().clip(0, 255).astype(np.uint8)[:, None], y[mine])
    return TaskTable.from_arrays(made, "classification", labels=labels)


def study(name: Name = "mnist-rotated") -> Study:
    """Tasks with other permutations or angles of the same pictures; every picture is in one task at most.

    - ``"mnist-permuted"`` and ``"mnist-rotated"``: held-out pictures (*have*), new permutations or angles (*meet*).
    - ``"fashion"``: the kinds at 36 angles (*have*), new kinds in four rotations, 5 of 8 (*meet*).

    Args:
        name: which tasks.
    """
    if name == "fashion":
        x, y = pictures("fashion")
        of: dict[str, Tensor] = {
            part: torch.tensor([TURNS * kind + turn for kind in kinds for turn in range(TURNS)])
            for part, kinds in SPLIT.items()
        }
        return Study(
            name,
            rotated(x, y, CLOTHES),
            SplitClasses(classes("fashion", turns=TURNS), of),
            shots=1,
            about=f"Fashion-MNIST, {len(x):,} pictures of clothes. Xiao et al. 2017, MIT licence.",
        )
    table = (permuted if name == "mnist-permuted" else rotated)(*pictures())
    what = f"{table.n_tasks} {'permutations of the pixels' if name == 'mnist-permuted' else 'angles'}"
    about = f"MNIST, {len(table.x):,} of 70,000 digits in {what}. LeCun et al. 1998, CC BY-SA 3.0."
    return Study(name, table, table, shots=1, about=about)
