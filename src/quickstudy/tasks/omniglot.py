"""Omniglot: 1623 handwritten characters of 50 alphabets, 20 drawings each, 28 x 28 pixels."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from quickstudy.core import Batch, Episodes, InputError
from quickstudy.tasks.classes import ClassSet
from quickstudy.tasks.download import fingerprint, locate, members, prepared
from quickstudy.tasks.study import SplitClasses, Study
from quickstudy.tasks.table import Array, TaskTable

Split = Literal["vinyals", "lake"]
CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20
TURNS = 4  # rotations by 0, 90, 180 and 270 degrees count as classes of their own
LARGEST, SMALLEST = 20, 5  # characters of an alphabet that is a task: the first 20 in sorted order, at least 5
HELD_OUT = 6  # Lake's split has no validation part: every sixth background alphabet makes one


def drawings() -> tuple[Tensor, tuple[str, ...]]:
    """All drawings, ink 255 on 0, and the names of their characters, ``images_background/Greek/character01``.

    Resized from 105 x 105 as for MAML (Lanczos). The first 964 characters are the background set.

    Shape:
        uint8 ``[1623, 20, 28, 28]``.

    Raises:
        InputError: the archives do not hold what Omniglot holds.
    """
    archives = [locate(f"omniglot/{part}.zip") for part in CHARACTERS]

    def read() -> dict[str, Array]:
        images, names = [], []
        for part, path in zip(CHARACTERS, archives, strict=True):
            for name, data in members(path):
                if name.startswith(f"{part}/"):
                    images.append(_pixels(data, name))
                    names.append(name.rsplit("/", 1)[0])
        _check(names)
        return {"images": np.stack(images), "names": np.array(names[::DRAWINGS])}

    arrays = prepared(f"omniglot-28-{fingerprint(*archives)}", read)
    images = torch.as_tensor(arrays["images"]).unflatten(0, (-1, DRAWINGS))
    return images, tuple(map(str, arrays["names"]))


def _pixels(data: bytes, name: str) -> Array:
    try:
        with Image.open(io.BytesIO(data)) as image:
            # grey first: Pillow resizes 1-bit images without any filter
            small = image.convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError) as error:
        raise InputError(
            f"Expected a PNG image as {name}. Found one that cannot be read ({error}). Get another copy of the archive."
        ) from error
    return 255 - np.asarray(small)


def _check(names: Sequence[str]) -> None:
    """Every character has its 20 drawings, and every part its characters."""
    count = Counter(names)
    for character, found in count.items():
        if found != DRAWINGS:
            raise InputError(
                f"Expected {DRAWINGS} drawings of every character. Found {found} of {character}. Get another copy."
            )
    for part, expected in CHARACTERS.items():
        found = sum(name.startswith(f"{part}/") for name in count)
        if found != expected:
            raise InputError(f"Expected {expected} characters in {part}.zip. Found {found}. Get another copy.")


def classes() -> ClassSet:
    """1623 characters in four rotations: 6492 classes ``[6492, 20, 1, 28, 28]``, ink 1; turns count anticlockwise.

    Class ``4 * c + r`` is character c turned by r times 90 degrees; the four have the same ``origin``.
    """
    images, names = drawings()
    turned = torch.stack([images.rot90(turn, (-2, -1)) for turn in range(TURNS)], 1)
    labels = tuple(f"{_short(name)}/rot{90 * turn:03d}" for name in names for turn in range(TURNS))
    return ClassSet(turned.flatten(0, 1).unsqueeze(2), labels, origin=torch.arange(len(names)).repeat_interleave(TURNS))


def _short(name: str) -> str:
    """``images_background/Greek/character01`` to ``Greek/character01``."""
    return name.split("/", 1)[1]


def vinyals(names: Sequence[str]) -> dict[str, Tensor]:
    """Indices of the 1028 training, 172 validation and 423 test characters that most papers use.

    Reference:
        Vinyals et al. 2016, arXiv:1606.04080; the lists are those of Snell et al. 2017.
    """
    index = {_short(name): i for i, name in enumerate(names)}
    folder = files("quickstudy.tasks") / "splits"
    return {
        part: torch.tensor([index[line] for line in (folder / f"vinyals_{part}.txt").read_text().split()])
        for part in ("train", "val", "test")
    }


def lake(names: Sequence[str]) -> dict[str, Tensor]:
    """Indices of the characters of 25 training, 5 validation and 20 test alphabets.

    Test is the whole evaluation set. Validation is every sixth background alphabet in sorted order.

    Reference:
        Lake, Salakhutdinov, Tenenbaum 2015, Science 350.
    """
    background = sorted({_alphabet(name) for name in names if name.startswith("images_background/")})
    held_out = set(background[HELD_OUT - 1 :: HELD_OUT])

    def part(name: str) -> str:
        if name.startswith("images_evaluation/"):
            return "test"
        return "val" if _alphabet(name) in held_out else "train"

    parts = [part(name) for name in names]
    return {which: torch.tensor([i for i, p in enumerate(parts) if p == which]) for which in ("train", "val", "test")}


def _alphabet(name: str) -> str:
    return name.split("/")[1]


def alphabets(images: Tensor, names: Sequence[str], characters: Iterable[int]) -> TaskTable:
    """One task an alphabet: tell its characters apart.

    To keep a study short a task has at most 20 characters (the first in sorted order), and alphabets with fewer
    than 5 are left out. Label k means another character in every task.

    Args:
        images: drawings, ``[C, 20, 28, 28]``.
        names: what each character is called.
        characters: which of them may be used.
    """
    of: dict[str, list[int]] = {}
    for c in sorted(characters, key=lambda c: names[c]):
        of.setdefault(_alphabet(names[c]), []).append(c)
    tasks = {}
    for alphabet, every in sorted(of.items()):
        if len(every) >= SMALLEST:
            some = every[:LARGEST]
            x = images[some].flatten(0, 1).unsqueeze(1).numpy()
            tasks[alphabet] = (x, np.arange(len(some)).repeat(DRAWINGS))
    return TaskTable.from_arrays(tasks, "classification", shared_labels=False)


def study(split: Split = "vinyals") -> Study:
    """Few-shot classes and alphabets; nothing of a validation or test character is in any training task.

    - *meet*: new characters, 5 ways, 1 shot. With ``"vinyals"`` all classes come in four rotations, as in most
      papers; with ``"lake"`` rotations only multiply the training classes.
    - *have*: the alphabets of the training characters, :func:`alphabets`.

    Args:
        split: :func:`vinyals` or :func:`lake`.
    """
    images, names = drawings()
    characters = vinyals(names) if split == "vinyals" else lake(names)
    turns = torch.arange(TURNS)
    splits = {
        part: (index.unsqueeze(1) * TURNS + (turns if split == "vinyals" or part == "train" else turns[:1])).flatten()
        for part, index in characters.items()
    }
    return Study(
        "omniglot" if split == "vinyals" else "omniglot-lake",
        alphabets(images, names, characters["train"].tolist()),
        SplitClasses(classes(), splits),
        shots=1,
        about=(
            "Omniglot, 1623 handwritten characters x 20 drawings, "
            f"{'Vinyals split with rotations' if split == 'vinyals' else 'Lake split by alphabet'}. "
            "Lake et al. 2015, MIT licence."
        ),
    )


def one_shot_runs() -> Episodes:
    """Lake's 20 one-shot runs: 20 ways, 1 shot, 20 queries, all characters of one alphabet, by two drawers.

    Shape:
        support and query ``[20, 20, 1, 28, 28]``, ink 1.

    Reference:
        Lake, Salakhutdinov, Tenenbaum 2015, Science 350; people make 4.5 % errors.
    """
    path = locate("omniglot/all_runs.zip")
    images = {name: _pixels(data, name) for name, data in members(path)}
    keys = {name: data.decode() for name, data in members(path, "class_labels.txt")}
    support, query, labels = [], [], []
    for run in (f"run{i:02d}" for i in range(1, 21)):
        pairs = [line.split() for line in keys.get(f"{run}/class_labels.txt", "").splitlines() if line.strip()]
        known = sorted(train for _, train in pairs)
        missing = [name for pair in pairs for name in pair if name not in images]
        if len(pairs) != 20 or len(set(known)) != 20 or missing:
            raise InputError(
                f"Expected 20 test and 20 training drawings in {run} of {path}. Found {len(pairs)} pairs, "
                f"{len(missing)} of their files missing. Get another copy."
            )
        support.append(np.stack([images[name] for name in known]))
        query.append(np.stack([images[test] for test, _ in pairs]))
        labels.append([known.index(train) for _, train in pairs])
    batch = lambda x, y: Batch(torch.as_tensor(np.stack(x)).unsqueeze(2).float() / 255, y)  # noqa: E731
    return Episodes(
        batch(support, torch.arange(20).expand(20, 20)),
        batch(query, torch.tensor(labels)),
    )
