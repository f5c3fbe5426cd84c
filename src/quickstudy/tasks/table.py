"""Tasks that share one kind of input: schools, assays, users, alphabets. Rows are split, or whole tasks are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from quickstudy.core import Batch, Episodes, InputError, Kind, Problem

Array = NDArray[Any]
Metric = Literal["accuracy", "auc", "explained variance"]
ROW_SPLIT = (0.60, 0.15, 0.25)  # train, validation, test


@dataclass(frozen=True, eq=False)
class TaskTable:
    """T tasks with any number of examples each; inputs are stored once, tasks point into them.

    Args:
        x: all inputs; uint8 stands for 0..255 and is read as 0..1.
        row: for each task, which inputs are its examples; padded with 0.
        y: for each task, the targets of those examples; class indices or numbers.
        count: how many examples each task has.
        names: what each task is called.
        problem: shapes and score.
        labels: what the classes are called, where labels mean the same in all tasks.
        group: inputs with the same number stay together when rows are split (the same molecule, the same person).

    Shape:
        ``x [R, *x]``, ``row [T, n]``, ``y [T, n]`` or ``[T, n, d]``, ``count [T]``, ``group [R]``.
    """

    x: Tensor
    row: Tensor
    y: Tensor
    count: Tensor
    names: tuple[str, ...]
    problem: Problem
    labels: tuple[str, ...] = ()
    group: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise InputError(
                f"Expected at least two tasks. Found {len(self.names)}: {list(self.names)}. "
                "With a single task there is nothing to share; use any scikit-learn estimator."
            )
        if self.problem.kind == "classification" and self.problem.n_outputs < 2:
            raise InputError("Expected at least two classes. Found one: there is nothing to tell apart.")

    @classmethod
    def from_arrays(
        cls,
        tasks: Mapping[str, tuple[ArrayLike, ArrayLike]],
        kind: Kind,
        *,
        metric: Metric | None = None,
        labels: Sequence[str] = (),
        shared_labels: bool = True,
        group: Mapping[str, ArrayLike] | None = None,
    ) -> TaskTable:
        """From one pair of arrays a task: inputs ``[n, *x]`` and targets ``[n]`` or ``[n, d]``.

        Args:
            tasks: each task's inputs and targets, by name.
            kind: ``"classification"`` (targets are class indices) or ``"regression"``.
            metric: the score that people read; by default accuracy, or explained variance.
            labels: what the classes are called.
            shared_labels: whether class k means the same in every task.
            group: for each task, which of its examples belong together, ``[n]``.

        Raises:
            InputError: one task only, an empty task, inputs of different shape, NaN or infinite numbers, targets
                that are no class indices, examples without a target or a group.
        """
        xs: list[Array] = []
        ys: list[Array] = []
        groups: list[Array] = []
        for name, (x_raw, y_raw) in tasks.items():
            x, y = _numbers(x_raw, "inputs", name), _numbers(y_raw, "targets", name)
            if len(x) == 0:
                raise InputError(f"Expected at least one example in every task. Found none in task {name!r}. Drop it.")
            if len(x) != len(y):
                raise InputError(
                    f"Expected one target an example. Found {len(x)} inputs and {len(y)} targets in task {name!r}."
                )
            x = x[:, None] if x.ndim == 1 else x
            if kind == "classification":
                _check_classes(y, name)
            elif y.ndim == 1:
                y = y[:, None]
            for what, new, old in (("inputs", x, xs), ("targets", y, ys)):
                if old and new.shape[1:] != old[0].shape[1:]:
                    raise InputError(
                        f"Expected {what} of one shape, {old[0].shape[1:]}. Found {new.shape[1:]} in task {name!r}."
                    )
            if group is not None:
                groups.append(np.asarray(group[name]))
                if groups[-1].shape != (len(x),):
                    raise InputError(
                        f"Expected one group an example, {len(x)} of them. Found {groups[-1].shape} in task {name!r}."
                    )
            xs.append(x)
            ys.append(y)
        if not xs:
            raise InputError("Expected at least two tasks. Found none.")
        end = np.cumsum([len(x) for x in xs])
        rows = [np.arange(stop - len(x), stop) for x, stop in zip(xs, end, strict=True)]
        names = tuple(map(str, tasks))
        return cls._build(np.concatenate(xs), rows, ys, names, kind, metric, labels, shared_labels, groups)

    @classmethod
    def from_columns(
        cls,
        x: ArrayLike,
        columns: Mapping[str, ArrayLike],
        kind: Kind,
        *,
        metric: Metric | None = None,
        labels: Sequence[str] = (),
        group: ArrayLike | None = None,
    ) -> TaskTable:
        """From inputs that all tasks share, and one column of targets a task; NaN stands for "not measured".

        Args:
            x: inputs, ``[R, *x]``.
            columns: each task's targets, ``[R]``, by name.
            kind: ``"classification"`` (targets are class indices) or ``"regression"``.
            metric: the score that people read; by default accuracy, or explained variance.
            labels: what the classes are called; they mean the same in every task.
            group: which inputs belong together, ``[R]``.

        Raises:
            InputError: one task only, a task that was never measured, infinite numbers, targets that are no classes.
        """
        inputs = _numbers(x, "inputs", "all")
        rows, ys = [], []
        for name, column in columns.items():
            targets = np.asarray(column, dtype=np.float64)
            if targets.shape != (len(inputs),):
                raise InputError(
                    f"Expected one target an input, {len(inputs)} of them. Found {targets.shape} in task {name!r}."
                )
            row = np.flatnonzero(~np.isnan(targets))
            if len(row) == 0:
                raise InputError(f"Expected at least one example in every task. Found none in task {name!r}. Drop it.")
            y = _numbers(targets[row], "targets", name)
            if kind == "classification":
                _check_classes(y, name)
            rows.append(row)
            ys.append(y if kind == "classification" else y[:, None])
        groups = [] if group is None else [np.asarray(group)]
        return cls._build(inputs, rows, ys, tuple(map(str, columns)), kind, metric, labels, True, groups)

    @classmethod
    def _build(
        cls,
        x: Array,
        rows: Sequence[Array],
        ys: Sequence[Array],
        names: tuple[str, ...],
        kind: Kind,
        metric: Metric | None,
        labels: Sequence[str],
        shared_labels: bool,
        groups: Sequence[Array],
    ) -> TaskTable:
        """Pad the tasks' rows and targets to one length."""
        count = torch.tensor([len(row) for row in rows])
        n = int(count.max())
        row_all = torch.zeros(len(rows), n, dtype=torch.long)
        y_all = torch.zeros(len(rows), n, *ys[0].shape[1:], dtype=torch.long if kind == "classification" else None)
        for t, (row, y) in enumerate(zip(rows, ys, strict=True)):
            row_all[t, : len(row)] = torch.as_tensor(row)
            y_all[t, : len(y)] = torch.as_tensor(np.require(y, requirements=["C", "W"])).to(y_all.dtype)
        n_outputs = max(int(y_all.max()) + 1, len(labels)) if kind == "classification" else y_all.shape[-1]
        x_all = torch.as_tensor(np.require(x, requirements=["C", "W"]))  # torch wants arrays that may be written
        problem = Problem(
            tuple(x_all.shape[1:]),
            kind,
            n_outputs,
            n_tasks=len(names),
            shared_labels=shared_labels,
            metric=metric or ("accuracy" if kind == "classification" else "explained variance"),
        )
        group = torch.as_tensor(np.unique(np.concatenate(groups), return_inverse=True)[1]) if groups else None
        return cls(
            x_all if x_all.dtype == torch.uint8 else x_all.float(),
            row_all,
            y_all,
            count,
            names,
            problem,
            tuple(labels),
            group,
        )

    @property
    def n_tasks(self) -> int:
        """T, the number of tasks."""
        return len(self.names)

    def present(self) -> Tensor:
        """Which places hold an example and which are padding. Shape: ``[T, n]`` bool."""
        return torch.arange(self.row.shape[1]) < self.count[:, None]

    def split_rows(
        self, generator: torch.Generator, fractions: tuple[float, float, float] = ROW_SPLIT
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split every task's examples in three; masks ``[T, n]`` for training, validation and test.

        Classes are spread evenly over the parts (stratified): the parts of a task, and of each of its classes, are as
        large as ``fractions`` says to within an example or two. With ``group``, all examples of a group fall in
        the same part, in every task: the same molecule is never trained on in one assay and tested in another.
        """
        present = self.present()
        if self.group is not None:
            n_groups = int(self.group.max()) + 1
            place = torch.rand(n_groups, generator=generator).argsort().argsort() / n_groups
            position = place[self.group][self.row]
        else:
            position = _spread(self.y if self.problem.kind == "classification" else None, present, generator)
        train_end, val_end = fractions[0], fractions[0] + fractions[1]
        parts = (position < train_end, (position >= train_end) & (position < val_end), position >= val_end)
        train, val, test = (part & present for part in parts)
        for what, part in (("training", train), ("validation", val), ("test", test)):
            empty = [self.names[t] for t in (part.sum(1) == 0).nonzero().flatten().tolist()]
            if empty:
                raise InputError(
                    f"Expected enough examples to split every task in training, validation and test. Found "
                    f"{int(self.count[self.names.index(empty[0])])} in task {empty[0]!r}, which leaves none for "
                    f"{what}. Drop tasks this small, or ask about held-out tasks only."
                )
        return train, val, test


def _numbers(values: ArrayLike, what: str, task: str) -> Array:
    """As an array of finite numbers that float32 can hold."""
    array = np.asarray(values)
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise InputError(
            f"Expected numbers for the {what} of task {task!r}. Found {array.dtype} of shape {array.shape}. "
            "Turn texts into numbers first (classes into 0, 1, ...)."
        )
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            bad = int((~np.isfinite(array.astype(np.float32))).sum())
        if bad:
            raise InputError(
                f"Expected finite numbers. Found {bad} NaN, infinite or larger than 3e38 in the {what} of task "
                f"{task!r}. Fill or drop those rows."
            )
    return array


def _check_classes(y: Array, task: str) -> None:
    """Raise unless targets are class indices."""
    if y.ndim != 1 or bool((y < 0).any()) or bool((y != np.floor(y)).any()):
        raise InputError(
            f"Expected class indices 0, 1, ... of shape [n] as targets of task {task!r}. Found shape {y.shape}, "
            f"smallest {y.min()}, largest {y.max()}. Number the classes from 0, or ask for regression."
        )


def _spread(y: Tensor | None, present: Tensor, generator: torch.Generator) -> Tensor:
    """A place in 0..1 for each example: uniform, and even within its task and class. Shape: ``[T, n]``."""
    # steps of the golden ratio: any run of neighbours is spread evenly over 0..1, the whole as well as each class
    key = torch.rand(present.shape, generator=generator, dtype=torch.double)
    start = torch.rand(len(present), 1, generator=generator, dtype=torch.double)
    key = key + (0 if y is None else y)
    rank = key.where(present, torch.inf).argsort(1).argsort(1)
    return (start + rank * (math.sqrt(5) - 1) / 2) % 1


@dataclass(frozen=True, eq=False)
class Scale:
    """Shift and width of inputs and targets, measured on training examples only."""

    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor

    @classmethod
    def of(cls, table: TaskTable, mask: Tensor) -> Scale:
        """Measured on the examples that ``mask [T, n]`` names. Images are left as they are.

        Columns of zeros and ones keep their width: a level that is rare would become large, and a penalty on weights
        would hardly hold it. On School that costs ridge regression, each task alone, .012 of explained variance.
        """
        if len(table.problem.x_shape) == 1:
            x = _read(table.x[table.row[mask].unique()])
            x_mean, x_std = _moments(x)
            x_std = x_std.where(((x != 0) & (x != 1)).any(0), 1.0)
        else:
            x_mean, x_std = torch.zeros(()), torch.ones(())
        if table.problem.kind == "regression":
            y_mean, y_std = _moments(table.y[mask])
        else:
            y_mean, y_std = torch.zeros(()), torch.ones(())
        return cls(x_mean, x_std, y_mean, y_std)


def _read(x: Tensor) -> Tensor:
    """Inputs as nets see them: uint8 stands for 0..255 and is read as 0..1."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the first axis; 1 for what never varies."""
    # in float64, lest a constant column of large numbers seem to vary
    values = values.double()
    mean, std = values.mean(0), values.std(0, correction=0)
    return mean.float(), std.where(std > 1e-8 * (1 + mean.abs()), 1.0).float()


class TableTasks:
    """A family over some tasks and some examples of a table.

    Args:
        table: the data.
        mask: which examples may be seen, ``[T, n]``; tasks without any are left out.
        scale: how inputs and targets are standardised.
        support: examples to learn from in an episode.
        query: examples to be judged on.
        per_class: the few-shot habit: exactly ``support`` examples (of each class, in classification), the rest is
            for the query. Otherwise small tasks divide what they have in the ratio of ``support`` to ``query``.
        identity: give out task ids (the tasks I have); False for tasks that stand for new ones.
    """

    def __init__(
        self,
        table: TaskTable,
        mask: Tensor,
        scale: Scale,
        *,
        support: int,
        query: int,
        per_class: bool = False,
        identity: bool = True,
    ) -> None:
        self.table, self.mask, self.scale = table, mask, scale
        self.support, self.query = support, query
        self.per_class = per_class
        self.identity = identity
        self.members = mask.any(1).nonzero().flatten()
        self.problem = replace(table.problem, n_tasks=len(self.members))

    def batch(self, task: Tensor, place: Tensor, mask: Tensor) -> Batch:
        """Gather examples ``place [T, k]`` of the table's tasks ``task [T]``; ``mask`` False is padding."""
        place = place.where(mask, 0)
        x = _read(self.table.x[self.table.row[task].gather(1, place)])
        x = (x - self.scale.x_mean) / self.scale.x_std
        index = place if self.table.y.ndim == 2 else place.unsqueeze(-1).expand(-1, -1, self.table.y.shape[-1])
        y = self.table.y[task].gather(1, index)
        if self.problem.kind == "regression":
            y = (y - self.scale.y_mean) / self.scale.y_std
        return Batch(x, y, None if bool(mask.all()) else mask.float())

    def whole(self, task: Tensor, mask: Tensor) -> Batch:
        """All examples of the tasks that ``mask [T, n]`` (rows as in the table) names."""
        mask = mask[task]
        order = mask.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
        return self.batch(task, order, mask.gather(1, order))

    def draw(self, task: Tensor, generator: torch.Generator, support: int | None = None) -> Episodes:
        """Random episodes of the given tasks of the table, ``task [T]``; support and query are disjoint."""
        k = self.support if support is None else support
        mask = self.mask[task]
        count = mask.sum(1, keepdim=True)
        key = torch.rand(mask.shape, generator=generator).where(mask, torch.inf)
        order = key.argsort(1)
        if self.per_class and self.problem.kind == "classification":
            y = self.table.y[task].gather(1, order)
            here = mask.gather(1, order)
            one_hot = torch.nn.functional.one_hot(y, self.problem.n_outputs) * here.unsqueeze(-1)
            rank = one_hot.cumsum(1).gather(2, y.unsqueeze(-1)).squeeze(-1)
            # at least one example of a class stays for the query
            size = one_hot.sum(1).gather(1, y)
            chosen = here & (rank <= k) & ((rank < size) | (size == 1))
            order = order.gather(1, chosen.logical_not().to(torch.uint8).argsort(dim=1, stable=True))
            n_support = chosen.sum(1, keepdim=True)
        elif self.per_class:
            n_support = (count - 1).clamp(1, k)  # at least one example stays for the query
        else:
            n_support = (count * k // (k + self.query)).clamp(1, k)
        n_query = (count - n_support).clamp(0, self.query)
        width, most = int(n_support.max()), max(int(n_query.max()), 1)
        step = torch.arange(most)
        place = (n_support + step).clamp_max(order.shape[1] - 1)
        known = torch.searchsorted(self.members, task) if self.identity else None
        return Episodes(
            self.batch(task, order[:, :width], torch.arange(width) < n_support),
            self.batch(task, order.gather(1, place), step < n_query),
            known,
        )

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Episodes of n tasks, drawn without replacement; all of them where n is larger."""
        order = torch.rand(len(self.members), generator=generator).argsort()
        return self.draw(self.members[order[:n]], generator)
