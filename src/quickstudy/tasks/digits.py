"""Handwritten digits of scikit-learn: 1797 images of 8 x 8 pixels, on every machine without a download."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from quickstudy.tasks.classes import ClassSet
from quickstudy.tasks.study import SplitClasses, Study
from quickstudy.tasks.table import Array, TaskTable

ANGLES = range(0, 360, 10)
TURNS = 4
# 6 turned is 9, and 0, 1, 8 look the same upside down: they train; 4 and 7 are themselves at every angle
SPLIT = {"train": (0, 1, 2, 6, 8, 9), "val": (3, 5), "test": (4, 7)}


def images() -> tuple[Array, Array]:
    """All images, ink 1 on 0, and which digit each shows. Shape: float32 ``[1797, 8, 8]``, ``[1797]``."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 16).astype(np.float32), data.target.astype(np.int64)


def classes() -> ClassSet:
    """Ten digits in four rotations: 40 classes of 174 to 183 images ``[1, 8, 8]``, ink 1; turns count anticlockwise.

    Class ``4 * d + r`` is digit d turned by r times 90 degrees; the four have the same ``origin``.
    """
    x, y = images()
    of = [torch.as_tensor(x[y == digit]).unsqueeze(1) for digit in range(10)]
    padded = torch.nn.utils.rnn.pad_sequence(of, batch_first=True)
    turned = torch.stack([padded.rot90(turn, (-2, -1)) for turn in range(TURNS)], 1).flatten(0, 1)
    return ClassSet(
        turned,
        tuple(f"{digit} at {90 * turn}" for digit in range(10) for turn in range(TURNS)),
        torch.tensor([len(each) for each in of]).repeat_interleave(TURNS),
        torch.arange(10).repeat_interleave(TURNS),
    )


def angles() -> TaskTable:
    """36 tasks of about 50 images: name the digit, seen at one angle, 0 to 350 degrees in steps of 10.

    Every image is in exactly one task, and every task has about five of each digit. Neighbouring angles help each
    other, while a 6 at 0 degrees is a 9 at 180: a net that is blind to the task can't tell.
    """
    x, y = images()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).numpy()
    order = order[np.argsort(y[order], kind="stable")]  # dealt out digit by digit
    tasks = {}
    for i, angle in enumerate(ANGLES):
        mine = order[i :: len(ANGLES)]
        turned = ndimage.rotate(x[mine], angle, axes=(1, 2), reshape=False, order=1)
        tasks[f"angle {angle}"] = (turned[:, None], y[mine])
    return TaskTable.from_arrays(tasks, "classification", labels=[str(digit) for digit in range(10)])


def study() -> Study:
    """New digits at new angles (5 of 8 classes, no digit in two splits), and the digits at 36 angles."""
    splits = {
        part: torch.tensor([TURNS * digit + turn for digit in digits for turn in range(TURNS)])
        for part, digits in SPLIT.items()
    }
    return Study(
        "digits",
        angles(),
        SplitClasses(classes(), splits),
        shots=1,
        about="Optical recognition of handwritten digits, 1797 images, from scikit-learn (UCI, CC BY 4.0).",
    )
