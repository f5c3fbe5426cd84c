"""One verb for all data: a known name, a file, a folder, or arrays."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from numpy.typing import ArrayLike

from quickstudy.core import InputError
from quickstudy.tasks.study import Study
from quickstudy.tasks.toy import planted

# each known name and the module that reads it
MODULES = {
    "digits": "digits",
    "omniglot": "omniglot",
    "omniglot-lake": "omniglot",
    "cifar-fs": "cifar",
    "fc100": "cifar",
    "cifar100": "cifar",
    "mnist-permuted": "mnist",
    "mnist-rotated": "mnist",
    "fashion": "mnist",
    "mini-imagenet": "photos",
    "tiered-imagenet": "photos",
    "cub": "photos",
    "celeba": "photos",
    "school": "school",
    "tox21": "tox21",
    "planted": "toy",
}
NAMES = tuple(MODULES)


def load(
    data: str | Path | Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    target: str | None = None,
    task: str | None = None,
    group: str | None = None,
    seed: int = 0,
) -> Study:
    """A study of known data, or of one's own.

    Args:
        data: a known name (:data:`NAMES`, also ``planted:0.8``), a file or a folder (see
            :func:`quickstudy.tasks.own.from_path`), or inputs and targets of each task by name. A folder that bears a
            known name is given as ``./name``, or as a Path.
        target: column to predict.
        task: column that names a row's task.
        group: column whose equal values stay together when rows are split.
        seed: draws what has no published split: planted tasks, the split of one's own classes of images.

    Raises:
        InputError: nothing of that name, or data that cannot be used.
    """
    options = {"target": target, "task": task, "group": group}
    given = [f"--{option}" for option, value in options.items() if value is not None]
    known = isinstance(data, str) and (data in NAMES or data.startswith("planted:"))
    if known or isinstance(data, Mapping):
        if given:
            raise InputError(
                f"Expected no {', '.join(given)}: columns are named for a file or a folder of tables. Leave it out."
            )
        if isinstance(data, Mapping):
            from quickstudy.tasks import own

            return own.from_arrays(data)
        return _known(str(data), seed)
    path = Path(data).expanduser()
    if path.exists():
        from quickstudy.tasks import own

        return own.from_path(path, target=target, task=task, group=group, seed=seed)
    near = difflib.get_close_matches(str(data).lower(), NAMES, 1)
    raise InputError(
        f"Expected a known name ({', '.join(NAMES)}), a file or a folder. Found no {str(data)!r}. "
        + (f"Did you mean {near[0]!r}?" if near else "Correct the name or the path.")
    )


def _known(name: str, seed: int) -> Study:
    if name.startswith("planted"):
        return _planted(name.partition(":")[2] or "0.5", seed)
    module = importlib.import_module(f"quickstudy.tasks.{MODULES[name]}")
    if name.startswith("omniglot"):
        return module.study("lake" if name == "omniglot-lake" else "vinyals")
    return module.study(name) if hasattr(module, "ABOUT") else module.study()


def about(name: str) -> str:
    """One line on known data."""
    module = importlib.import_module(f"quickstudy.tasks.{MODULES[name]}")
    told: str | None = getattr(module, "ABOUT", {}).get(name)
    return told or (module.__doc__ or "").partition("\n")[0].partition(": ")[2]


def _planted(shared: str, seed: int) -> Study:
    """Linear tasks that share as much as their name says, ``planted:0`` to ``planted:1``."""
    try:
        amount = float(shared)
    except ValueError:
        amount = math.nan
    if not 0 <= amount <= 1:
        raise InputError(
            f"Expected planted:S with S from 0 (nothing shared) to 1 (all the same). Found S = {shared!r}. "
            "Write for example planted:0.5."
        )
    table = planted(amount, torch.Generator().manual_seed(seed))
    about = f"Linear tasks made up so that they share {amount:.0%}, seed {seed}."
    return Study(f"planted:{amount:g}", table, table, shots=10, about=about)
