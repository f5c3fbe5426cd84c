"""A person's own data: one table with a task column, a folder of tables, a folder of images, arrays from Python."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from pandas.api import types
from PIL import Image

from quickstudy.core import InputError, Kind
from quickstudy.tasks.classes import ClassSet
from quickstudy.tasks.study import FOLDS, SplitClasses, Study
from quickstudy.tasks.table import Array, Metric, TaskTable

TABLES = (".csv", ".csv.gz", ".parquet")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
TARGETS = ("target", "y", "label")  # names that need no --target
FEW = 10  # a whole-number target with at most so many values is a class
LEVELS = 20  # most different texts in a column of inputs
SHOTS: dict[Kind, int] = {"classification": 5, "regression": 10}  # K where the data have enough
SMALLEST = 8  # a task with fewer examples might have none left for validation
FEWEST_CLASSES = 6  # two each to train, to choose and to test on


def from_path(
    path: Path, *, target: str | None = None, task: str | None = None, group: str | None = None, seed: int = 0
) -> Study:
    """Read a file or a folder; what it holds decides how.

    - A CSV or Parquet file: one column (``task``) says which task a row belongs to.
    - A folder of such files: each is a task.
    - A folder of class folders of images: new classes are asked about.
    - A folder of groups of class folders: each group is a task. Where all groups have the same class folders,
      these mean the same everywhere and new groups are asked about; otherwise every class is one of its own, and
      new classes are asked about.

    Other files, and all whose name starts with a dot, are passed over.

    Args:
        path: the file or the folder.
        target: column to predict; may be left out where one is called target, y or label.
        task: column that names the task; may be left out where one is called task.
        group: column whose equal values stay together when rows are split (a person, a molecule).
        seed: draws the split of classes of images.

    Raises:
        InputError: the data cannot be read or do not make a study; says what to change.
    """
    columns = {"target": target, "task": task, "group": group}
    if path.is_file():
        frame = _read_table(path)
        task = _column(frame, task, ("task",), "task")
        names = frame.pop(task)
        if names.isna().any():
            raise InputError(
                f"Expected a task in every row. Found {int(names.isna().sum())} rows without one in column {task!r} of "
                f"{path}. Fill or drop them."
            )
        return from_frame(frame, names, target=target, group=group, name=_stem(path))
    if not path.is_dir():
        raise InputError(f"Expected a file or a folder. Found nothing at {path}. Correct the path.")
    entries = _listed(path)
    tables = [entry for entry in entries if entry.is_file() and entry.name.lower().endswith(TABLES)]
    folders = [entry for entry in entries if entry.is_dir()]
    if bool(tables) == bool(folders):
        what = "both" if tables else "neither"
        raise InputError(
            f"Expected either CSV or Parquet files, one a task, or folders of images in {path}. Found {what}. "
            "Give a folder that holds one kind."
        )
    if tables:
        if task is not None:
            raise InputError(
                f"Expected no --task with a folder, where each file is a task. Found --task {task}. "
                "Leave it out, or give one file."
            )
        return _from_tables(path, tables, target, group)
    for option, value in columns.items():
        if value is not None:
            raise InputError(f"Expected no --{option} with images. Found --{option} {value}. Leave it out.")
    return _from_images(path, folders, seed)


def from_frame(
    frame: pd.DataFrame,
    task: pd.Series,
    *,
    target: str | None = None,
    group: str | None = None,
    name: str = "table",
) -> Study:
    """From a table, and for each row the name of its task. Columns other than target and group are the inputs.

    Numbers are taken as they are, truth values as 0 and 1, texts one-hot. A target of whole numbers with at most 10
    values, of texts or of truth values is a class; every other target is a number to predict. Classes mean the same
    in all tasks.
    """
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    y = frame.pop(_column(frame, target, TARGETS, "target"))
    groups = None
    if group is not None:
        column = frame.pop(_column(frame, group, (), "group"))
        if column.isna().any():
            raise InputError(
                f"Expected a group in every row. Found {int(column.isna().sum())} rows without one in column {group!r}."
                " Fill or drop them."
            )
        groups = pd.factorize(column)[0]
    x = _inputs(frame)
    values, kind, labels = _targets(y, str(y.name))
    code, names = pd.factorize(task.astype(str))
    rows = {str(label): np.flatnonzero(code == i) for i, label in enumerate(names)}
    table = TaskTable.from_arrays(
        {label: (x[row], values[row]) for label, row in rows.items()},
        kind,
        labels=labels,
        group=None if groups is None else {label: groups[row] for label, row in rows.items()},
    )
    return _questions(name, table)


def from_arrays(
    tasks: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    kind: Kind | None = None,
    metric: Metric | None = None,
    group: Mapping[str, ArrayLike] | None = None,
    name: str = "arrays",
) -> Study:
    """From inputs ``[n, *x]`` and targets ``[n]`` (or ``[n, d]``, numbers) of each task, by name.

    Args:
        tasks: the data; targets may be texts.
        kind: what the targets are; by default as in :func:`from_frame`.
        metric: the score; by default accuracy, or explained variance.
        group: for each task, which examples stay together when rows are split, ``[n]``.
        name: what the study is called.
    """
    arrays = {label: (np.asarray(x), np.asarray(y)) for label, (x, y) in tasks.items()}
    labels: tuple[str, ...] = ()
    if all(y.ndim == 1 for _, y in arrays.values()) and any(len(y) for _, y in arrays.values()):
        each = [pd.Series(y) for _, y in arrays.values() if len(y)]
        values, kind, labels = _targets(pd.concat(each), "targets", kind)
        parts = np.split(values, np.cumsum([len(y) for _, y in arrays.values()])[:-1])
        arrays = {label: (x, part) for (label, (x, _)), part in zip(arrays.items(), parts, strict=True)}
    table = TaskTable.from_arrays(arrays, kind or "regression", metric=metric, labels=labels, group=group)
    return _questions(name, table)


def _questions(name: str, table: TaskTable) -> Study:
    """Which of the two questions these tasks are large and many enough for."""
    missing = {}
    small = int(table.count.argmin())
    if int(table.count[small]) < SMALLEST:
        missing["have"] = (
            f"every task needs at least {SMALLEST} examples to be split in three, and task {table.names[small]!r} has "
            f"{int(table.count[small])}"
        )
    elif table.group is not None:
        try:
            for seed in range(20):
                table.split_rows(torch.Generator().manual_seed(seed))
        except InputError as error:
            missing["have"] = f"there are too few groups ({error})"
    shots = SHOTS[table.problem.kind]
    least, where = min(_smallest(table))
    if table.n_tasks < 2 * FOLDS:
        missing["meet"] = f"holding tasks out needs at least {2 * FOLDS} tasks, and there are {table.n_tasks}"
    elif least < 2:
        what = "of each of its classes" if table.problem.kind == "classification" else "in all"
        missing["meet"] = f"every task needs at least 2 examples {what}, and task {table.names[where]!r} has {least}"
    if len(missing) == 2:
        raise InputError(
            f"Expected tasks that can be split or held out. Found neither in {name}: {missing['have']}; "
            f"{missing['meet']}. Drop the smallest tasks, or get more data."
        )
    return Study(
        name,
        None if "have" in missing else table,
        None if "meet" in missing else table,
        shots=max(1, min(shots, least - 1)),
        about=f"Your data, {table.n_tasks} tasks, {int(table.count.sum()):,} examples.",
        missing=missing,
    )


def _smallest(table: TaskTable) -> Iterable[tuple[int, int]]:
    """Examples of each task's smallest class (of the task, in regression), and the task's number."""
    for t, count in enumerate(table.count.tolist()):
        if table.problem.kind == "classification":
            sizes = table.y[t, :count].bincount()
            count = int(sizes[sizes > 0].min())
        yield count, t


# tables


def _from_tables(folder: Path, files: Sequence[Path], target: str | None, group: str | None) -> Study:
    frames: dict[str, pd.DataFrame] = {}
    for path in files:
        frame, stem = _read_table(path), _stem(path)
        if stem in frames:
            raise InputError(f"Expected one file a task. Found two for task {stem!r} in {folder}. Rename one.")
        if frame.empty:
            raise InputError(f"Expected at least one row in every task. Found none in {path}. Remove that file.")
        first = next(iter(frames.values()), frame)
        odd = sorted(set(map(str, frame.columns)) ^ set(map(str, first.columns)))
        if odd:
            raise InputError(
                f"Expected the same columns in every file of {folder}. Found {', '.join(odd)} in only one of "
                f"{files[0].name} and {path.name}. Add or drop these columns."
            )
        frames[stem] = frame
    names = pd.Series([stem for stem, frame in frames.items() for _ in range(len(frame))])
    whole = pd.concat(frames.values(), ignore_index=True)
    return from_frame(whole, names, target=target, group=group, name=folder.resolve().name)


def _read_table(path: Path) -> pd.DataFrame:
    if not path.name.lower().endswith(TABLES):
        raise InputError(
            f"Expected a file that ends in {', '.join(TABLES)}. Found {path.name!r}. Save the table as one of these."
        )
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path).reset_index(drop=True)
        frame = pd.read_csv(path, low_memory=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"Expected a table in {path}. Found that it cannot be read ({str(error).strip()}). Save it again, as UTF-8 "
            "with a header row."
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise InputError(
            f"Expected as many values in a row as names in the header of {path}. Found more values. Mend the header."
        )
    # a first column without a name holds the row numbers of the program that wrote the file
    return frame.drop(columns="Unnamed: 0", errors="ignore")


def _column(frame: pd.DataFrame, wanted: str | None, usual: Sequence[str], option: str) -> str:
    """The column that an option names, or the one that has a usual name."""
    columns = list(map(str, frame.columns))
    listed = ", ".join(columns[:40]) + (", ..." if len(columns) > 40 else "")
    if wanted is not None:
        if wanted in columns:
            return wanted
        lower = {column.lower().strip(): column for column in columns}
        near = difflib.get_close_matches(wanted.lower(), lower, 1)
        raise InputError(
            f"Expected the {option} column {wanted!r}. Found only these: {listed}. "
            + (f"Did you mean --{option} {lower[near[0]]!r}?" if near else f"Give one of them as --{option}.")
        )
    found = [column for column in usual if column in columns]
    if len(found) != 1:
        raise InputError(
            f"Expected one column called {' or '.join(usual)}. Found "
            f"{'both ' + ' and '.join(found) if found else 'none'} among: {listed}. "
            f"Say which it is: --{option} COLUMN."
        )
    return found[0]


def _inputs(frame: pd.DataFrame) -> Array:
    """All columns as numbers. Shape: float64 ``[n, features]``."""
    columns: list[Array] = []
    for name, column in frame.items():
        empty = int(column.isna().sum())
        if empty:
            raise InputError(
                f"Expected a value in every row. Found {empty} empty or NaN in column {str(name)!r}. Fill or drop "
                "those rows, or drop the column."
            )
        if types.is_bool_dtype(column) or types.is_numeric_dtype(column):
            numbers = column.to_numpy(np.float64)
            infinite = int(np.isinf(numbers).sum())
            if infinite:
                raise InputError(
                    f"Expected finite numbers. Found {infinite} infinite in column {str(name)!r}. Drop those rows."
                )
            columns.append(numbers[:, None])
        elif _is_text(column):
            levels = sorted(set(column.astype(str)))
            if len(levels) > LEVELS:
                raise InputError(
                    f"Expected at most {LEVELS} different texts in a column of inputs. Found {len(levels)} in column "
                    f"{str(name)!r}, such as {levels[0]!r} and {levels[-1]!r}. If these are numbers, mend the ones "
                    "that cannot be read; if they name a person or a thing, give --group or drop the column."
                )
            columns.append(np.asarray(column.astype(str))[:, None] == np.array(levels))
        else:
            raise InputError(
                f"Expected numbers, truth values or texts. Found {column.dtype} in column {str(name)!r}. "
                "Turn it into numbers, or drop it."
            )
    if not columns:
        raise InputError("Expected at least one column of inputs beside task, target and group. Found none. Add some.")
    return np.concatenate(columns, axis=1).astype(np.float64)


def _targets(y: pd.Series, name: str, kind: Kind | None = None) -> tuple[Array, Kind, tuple[str, ...]]:
    """Class indices and the classes' names; or numbers, and no names."""
    empty = int(y.isna().sum())
    if empty:
        raise InputError(f"Expected a target in every row. Found {empty} empty or NaN in {name!r}. Drop those rows.")
    if types.is_numeric_dtype(y) and not types.is_bool_dtype(y):
        values = y.to_numpy(np.float64)
        distinct = np.unique(values)
        if not np.isfinite(distinct).all():
            raise InputError(f"Expected finite targets. Found infinite ones in {name!r}. Drop those rows.")
        whole = bool((distinct == np.floor(distinct)).all())
        if kind == "classification" or (kind is None and whole and len(distinct) <= FEW):
            return np.searchsorted(distinct, values), "classification", tuple(f"{v:g}" for v in distinct)
        return values, "regression", ()
    if kind == "regression":
        raise InputError(f"Expected numbers as targets of a regression. Found {y.dtype} in {name!r}.")
    if not (_is_text(y) or types.is_bool_dtype(y)):
        raise InputError(f"Expected numbers, truth values or texts as targets. Found {y.dtype} in {name!r}.")
    texts = y.astype(str)
    numeric = pd.to_numeric(texts, errors="coerce").notna()
    kinds = {type(value).__name__ for value in y}
    if (numeric.any() and not numeric.all()) or len(kinds) > 1:
        examples = f"{texts[numeric].iloc[0]!r}" if numeric.any() else " and ".join(sorted(kinds))
        other = f" beside {texts[~numeric].iloc[0]!r}" if numeric.any() and not numeric.all() else ""
        raise InputError(
            f"Expected labels of one type, all numbers or all texts. Found {examples}{other} in {name!r}. "
            "Write them all in one way, such as c1, c2, ..."
        )
    labels = sorted(set(texts))
    if len(labels) > max(FEW, len(texts) // 2):
        raise InputError(
            f"Expected classes that come again. Found {len(labels)} different texts in {len(texts)} rows of {name!r}. "
            "Choose another target."
        )
    index = {label: i for i, label in enumerate(labels)}
    return np.array([index[text] for text in texts]), "classification", tuple(labels)


def _is_text(column: pd.Series) -> bool:
    return (
        types.is_string_dtype(column) or types.is_object_dtype(column) or isinstance(column.dtype, pd.CategoricalDtype)
    )


def _stem(path: Path) -> str:
    ending = next(ending for ending in sorted(TABLES, key=len, reverse=True) if path.name.lower().endswith(ending))
    return path.name[: -len(ending)]


# images


def _from_images(root: Path, folders: Sequence[Path], seed: int) -> Study:
    flat = {folder: _pictures(folder) for folder in folders}
    nested = {folder: [entry for entry in _listed(folder) if entry.is_dir()] for folder in folders}
    if any(flat.values()) and any(nested.values()):
        raise InputError(
            f"Expected class folders of images, or groups of class folders, in {root}. Found both. Use one of the two."
        )
    read = _reader()
    name = root.resolve().name
    if any(flat.values()):
        classes = {folder.name: read(folder, paths) for folder, paths in flat.items()}
        splits, shots, why = _split_classes(classes, seed)
        if splits is None:
            raise InputError(f"Expected classes that can be held out. Found that {why}. Add classes or images.")
        return Study(
            name,
            None,
            splits,
            shots,
            about=f"Your images, {len(classes)} classes.",
            missing={"have": "there is a single group of classes; for known tasks give group/class/image"},
        )
    groups = {
        group.name: {folder.name: read(folder, _pictures(folder)) for folder in inside}
        for group, inside in nested.items()
    }
    for group, content in groups.items():
        if len(content) < 2:
            raise InputError(
                f"Expected at least two class folders in every group. Found {len(content)} in {root / group}. "
                "Add classes, or remove that folder."
            )
    first = list(next(iter(groups.values())))
    shared = all(list(content) == first for content in groups.values())
    table = TaskTable.from_arrays(
        {
            group: (
                np.concatenate(list(content.values())),
                np.repeat(np.arange(len(content)), [len(x) for x in content.values()]),
            )
            for group, content in groups.items()
        },
        "classification",
        labels=first if shared else (),
        shared_labels=shared,
    )
    if shared:
        return _questions(name, table)
    every = {f"{group}/{label}": x for group, content in groups.items() for label, x in content.items()}
    meet, shots, why = _split_classes(every, seed)
    if meet is None:
        return _questions(name, table)
    small = int(table.count.min())
    missing = {"have": f"every group needs at least {SMALLEST} images, and one has {small}"} if small < SMALLEST else {}
    about = f"Your images, {len(groups)} groups, {len(every)} classes."
    return Study(name, None if missing else table, meet, shots, about=about, missing=missing)


def _split_classes(classes: Mapping[str, Array], seed: int) -> tuple[SplitClasses | None, int, str]:
    """Classes split at random in 60 / 20 / 20; K; and why not, where they are too few or too small."""
    counts = torch.tensor([len(x) for x in classes.values()])
    smallest = min(classes, key=lambda name: len(classes[name]))
    if len(classes) < FEWEST_CLASSES:
        return None, 1, f"there are {len(classes)} classes, at least {FEWEST_CLASSES} are needed"
    if int(counts.min()) < 2:
        return None, 1, f"class {smallest!r} has one image, at least 2 are needed"
    part = max(2, round(0.2 * len(classes)))
    x = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(x) for x in classes.values()], batch_first=True)
    data = ClassSet(x, tuple(classes), counts)
    splits = data.split(torch.Generator().manual_seed(seed), (1 - 2 * part / len(classes), part / len(classes)))
    least = int(counts.min())
    shots = 5 if least >= 10 else 1
    ways = min(5, *(len(members) for members in splits.values()))
    return SplitClasses(data, splits, ways=ways, queries=min(10, least - shots)), shots, ""


def _reader() -> Callable[[Path, Sequence[Path]], Array]:
    """Reads folders of images that must all be alike, whatever folder they are in."""
    like: list[tuple[Path, tuple[int, int], str]] = []

    def read(folder: Path, paths: Sequence[Path]) -> Array:
        if not paths:
            raise InputError(f"Expected at least one image in {folder}. Found none. Remove that folder.")
        images = []
        for path in paths:
            image, size, mode = _picture(path)
            like.append((path, size, mode))
            first, expected, colour = like[0]
            if size != expected:
                raise InputError(
                    f"Expected all images to be of one size, {expected[0]} x {expected[1]} as {first}. Found "
                    f"{size[0]} x {size[1]} in {path}. Resize or remove it."
                )
            if mode != colour:
                raise InputError(
                    f"Expected all images to be {'grey' if colour == 'L' else 'coloured'} as {first}. Found {path} "
                    f"{'grey' if mode == 'L' else 'coloured'}. Convert or remove it."
                )
            images.append(image)
        return np.stack(images)

    return read


def _picture(path: Path) -> tuple[Array, tuple[int, int], str]:
    """Pixels ``[channels, height, width]``, width and height, and L or RGB."""
    try:
        with Image.open(path) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;"):
                raise InputError(
                    f"Expected an image of 8 bits a channel. Found mode {image.mode} in {path}. Convert it first."
                )
            mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
            pixels = np.array(image.convert(mode))
            size = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"Expected an image in {path}. Found that it cannot be read ({error}). Repair or remove it."
        ) from error
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1), size, mode


def _pictures(folder: Path) -> list[Path]:
    return [entry for entry in _listed(folder) if entry.is_file() and entry.name.lower().endswith(IMAGES)]


def _listed(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
