"""Reading labelled examples of one new task: a table with the columns of the training data, or images."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from quickstudy.core import InputError
from quickstudy.tasks import own
from quickstudy.tasks.table import Array


@dataclass(frozen=True)
class Columns:
    """What the columns of a person's table mean, so that another table is read in the same way.

    Args:
        inputs: names in the order of the features, each with its texts (one-hot); numbers have none.
        target: the column to predict.
    """

    inputs: tuple[tuple[str, tuple[str, ...]], ...]
    target: str

    @classmethod
    def of(
        cls, data: str, *, target: str | None = None, task: str | None = None, group: str | None = None
    ) -> Columns | None:
        """The columns of what :func:`quickstudy.tasks.load.load` reads; None where that is no table."""
        path = Path(data).expanduser()
        if path.is_file():
            frame = own._read_table(path)
            left_out = [own._column(frame, task, ("task",), "task")]
        elif path.is_dir() and (tables := [p for p in own._listed(path) if p.name.lower().endswith(own.TABLES)]):
            frame = pd.concat([own._read_table(table) for table in tables], ignore_index=True)
            left_out = []
        else:
            return None
        frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
        answer = own._column(frame, target, own.TARGETS, "target")
        left_out += [answer, *([] if group is None else [group])]
        inputs = tuple((str(name), _texts(column)) for name, column in frame.drop(columns=left_out).items())
        return cls(inputs, answer)

    def x(self, frame: pd.DataFrame, path: Path) -> Array:
        """The inputs of another table; its other columns are passed over. Shape: ``[n, features]``."""
        parts: list[Array] = []
        for name, texts in self.inputs:
            if name not in frame:
                near = difflib.get_close_matches(name, list(frame.columns), 1)
                hint = f"Is it {near[0]!r}? " if near else ""
                raise InputError(
                    f"Expected the columns of the training data in {path}. Found no {name!r}. {hint}Add or rename it."
                )
            if not texts:
                parts.append(_numbers(frame[name], name, path)[:, None])
                continue
            values = frame[name].astype(str).to_numpy()
            odd = sorted(set(values) - set(texts))
            if odd:
                raise InputError(
                    f"Expected one of {', '.join(texts)} in column {name!r} of {path}. Found {odd[0]!r}, which the "
                    "training data do not have. Correct or drop those rows."
                )
            parts.append((values[:, None] == np.array(texts)).astype(np.float64))
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Examples:
    """Examples of one task as a file or a folder holds them.

    Args:
        x: inputs ``[n, *x]``; uint8 stands for 0..255.
        y: labels or numbers ``[n]``; None where the file has none.
        names: the images' names relative to their folder; empty for a table's rows.
    """

    x: Array
    y: Array | None
    names: tuple[str, ...] = ()


def read_examples(path: Path, x_shape: Sequence[int], columns: Columns | None) -> Examples:
    """Read a CSV or Parquet table, or a folder of images (class folders where they are labelled).

    Args:
        path: the file or the folder.
        x_shape: shape of one input.
        columns: how to read a table. None takes all columns but the target's (target, y or label), in their order,
            as the numbers of a flattened input.

    Raises:
        InputError: the file cannot be read, or does not fit the inputs.
    """
    if path.is_dir():
        return _images(path)
    if not path.is_file():
        raise InputError(f"Expected a table or a folder of images. Found nothing at {path}. Correct the path.")
    frame = own._read_table(path)
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    if not len(frame):
        raise InputError(f"Expected at least one row in {path}. Found none.")
    if columns is not None:
        answers = frame.get(columns.target)
        x = columns.x(frame, path)
    else:
        given = [name for name in own.TARGETS if name in frame]
        answers = frame[given[0]] if given else None
        inputs = frame.drop(columns=given)
        if inputs.shape[1] != math.prod(x_shape):
            raise InputError(
                f"Expected {math.prod(x_shape)} columns of inputs, beside the target, in {path}. Found "
                f"{inputs.shape[1]}. The training data have inputs of shape {tuple(x_shape)}; give them in that order."
            )
        x = np.stack([_numbers(column, str(name), path) for name, column in inputs.items()], 1)
    if answers is not None and answers.isna().any():
        raise InputError(
            f"Expected a target in every row of {path}. Found {int(answers.isna().sum())} empty. Drop those rows."
        )
    return Examples(x, None if answers is None else answers.to_numpy())


def label_names(y: Array) -> tuple[Array, tuple[str, ...]]:
    """Class indices ``[n]`` and the classes' names, sorted; whole numbers lose their ``.0``.

    Raises:
        InputError: labels of mixed type.
    """
    kinds = {type(value).__name__ for value in y.tolist()}
    if len(kinds) > 1:
        raise InputError(
            f"Expected labels of one type, all numbers or all texts. Found {' and '.join(sorted(kinds))}. "
            "Write them all in one way, such as c1, c2, ..."
        )
    values, index = np.unique(y.astype(str) if y.dtype.kind == "O" else y, return_inverse=True)
    return index, tuple(f"{v:g}" if values.dtype.kind in "iuf" else str(v) for v in values)


def _texts(column: pd.Series[Any]) -> tuple[str, ...]:
    """The different texts of a column; none where it holds numbers or truth values."""
    if types.is_numeric_dtype(column) or types.is_bool_dtype(column):
        return ()
    return tuple(sorted(set(column.astype(str))))


def _numbers(column: pd.Series[Any], name: str, path: Path) -> Array:
    if not (types.is_numeric_dtype(column) or types.is_bool_dtype(column)):
        raise InputError(
            f"Expected numbers in column {name!r} of {path}. Found {column.dtype}, such as {column.iloc[0]!r}."
        )
    values: Array = column.to_numpy(np.float64, na_value=np.nan)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise InputError(
            f"Expected finite numbers. Found {bad} empty, NaN or infinite in column {name!r} of {path}. "
            "Fill or drop those rows."
        )
    return values


def _images(folder: Path) -> Examples:
    """Images right in the folder have no labels; those in its folders are labelled by their folder's name."""
    read, flat = own._reader(), own._pictures(folder)
    if flat:
        return Examples(read(folder, flat), None, tuple(path.name for path in flat))
    classes = {entry.name: own._pictures(entry) for entry in own._listed(folder) if entry.is_dir()}
    if not classes:
        raise InputError(f"Expected images, or class folders of images, in {folder}. Found neither.")
    x = np.concatenate([read(folder / name, paths) for name, paths in classes.items()])
    y = np.repeat(np.array(list(classes)), [len(paths) for paths in classes.values()])
    return Examples(x, y, tuple(f"{name}/{path.name}" for name, paths in classes.items() for path in paths))
