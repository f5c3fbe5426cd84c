"""Tasks that share one kind of input: schools, assays, users, alphabets. Rows are split, or whole tasks are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from quickstudy.core import Batch, Episodes, InputError, Kind, Problem

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

    @classmethod
    def from_arrays(
        cls,
        tasks: Mapping[str, tuple[ArrayLike, ArrayLike]],
        kind: Kind,
        *,
        metric: str | None = None,
        labels: Sequence[str] = (),
        shared_labels: bool = True,
        group: Mapping[str, ArrayLike] | None = None,
    ) -> TaskTable:
        """From one pair of arrays a task: inputs ``[n, *x]`` and targets ``[n]`` or ``[n, d]``.

        Raises:
            InputError: one task only, an empty task, inputs of different shape, NaN or infinite numbers.
        """
        if len(tasks) < 2:
            raise InputError(
                f"Expected at least two tasks. Found {len(tasks)}: {list(tasks)}. "
                "With a single task there is nothing to share; use any scikit-learn estimator."
            )
        xs, ys = [], []
        for name, (x_raw, y_raw) in tasks.items():
            x, y = np.asarray(x_raw), np.asarray(y_raw)
            if len(x) == 0:
                raise InputError(f"Expected at least one example in every task. Found none in task {name!r}. Drop it.")
            if len(x) != len(y):
                raise InputError(
                    f"Expected one target an example. Found {len(x)} inputs and {len(y)} targets in task {name!r}."
                )
            for what, values in (("inputs", x), ("targets", y)):
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    bad = int((~np.isfinite(values)).sum())
                    raise InputError(
                        f"Expected finite numbers. Found {bad} NaN or infinite values in the {what} of task "
                        f"{name!r}. Fill or drop those rows."
                    )
            if xs and x.shape[1:] != xs[0].shape[1:]:
                raise InputError(
                    f"Expected inputs of one shape, {xs[0].shape[1:]}. Found {x.shape[1:]} in task {name!r}."
                )
            xs.append(x)
            ys.append(y if kind == "classification" or y.ndim > 1 else y[:, None])
        count = torch.tensor([len(x) for x in xs])
        start = torch.cat([torch.zeros(1, dtype=torch.long), count.cumsum(0)[:-1]])
        n = int(count.max())
        row = (start[:, None] + torch.arange(n)).where(torch.arange(n) < count[:, None], 0)
        y_type = torch.long if kind == "classification" else torch.float32
        y_all = torch.zeros(len(xs), n, *ys[0].shape[1:], dtype=y_type)
        for t, y in enumerate(ys):
            y_all[t, : len(y)] = torch.as_tensor(np.ascontiguousarray(y)).to(y_type)
        x_all = torch.as_tensor(np.concatenate(xs))
        if x_all.dtype != torch.uint8:
            x_all = x_all.float()
        n_outputs = int(y_all.max()) + 1 if kind == "classification" else y_all.shape[-1]
        if kind == "classification" and n_outputs < 2:
            raise InputError("Expected at least two classes. Found one: there is nothing to tell apart.")
        problem = Problem(
            tuple(x_all.shape[1:]),
            kind,
            max(n_outputs, len(labels)),
            n_tasks=len(xs),
            shared_labels=shared_labels,
            metric=metric or ("accuracy" if kind == "classification" else "explained variance"),  # type: ignore[arg-type]
        )
        groups = None
        if group is not None:
            _, code = np.unique(np.concatenate([np.asarray(group[name]) for name in tasks]), return_inverse=True)
            groups = torch.as_tensor(code)
        return cls(x_all, row, y_all, count, tuple(map(str, tasks)), problem, tuple(labels), groups)

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

        Classes are spread evenly over the parts (stratified). With ``group``, all examples of a group fall in
        the same part, in every task: the same molecule is never trained on in one assay and tested in another.
        """
        present = self.present()
        if self.group is not None:
            n_groups = int(self.group.max()) + 1
            place = torch.rand(n_groups, generator=generator).argsort().argsort() / n_groups
            position = place[self.group][self.row]
        else:
            key = torch.rand(self.row.shape, generator=generator)
            position = _quantile_in_class(key, self.y if self.problem.kind == "classification" else None, present)
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


def _quantile_in_class(key: Tensor, y: Tensor | None, present: Tensor) -> Tensor:
    """Where each example stands among its task's (and class's) examples in random order, in 0..1. ``[T, n]``."""
    key = key.where(present, torch.inf)
    if y is not None:  # order by class first, so that each class is spread evenly over 0..1
        order = key.argsort(1)
        order = order.gather(1, y.where(present, y.max() + 1).gather(1, order).argsort(1, stable=True))
        rank = order.argsort(1)
        klass = y.where(present, -1)
        size = torch.zeros(len(y), int(y.max()) + 2).scatter_add_(1, klass + 1, torch.ones(y.shape))
        start = size[:, 1:].cumsum(1) - size[:, 1:]
        first, many = start.gather(1, klass.clamp_min(0)), size.gather(1, klass + 1)
        # small classes: a random shift decides which part gets the odd example
        shift = key.where(present, 0.0)
        return ((rank - first + shift) / many).where(present, 1.0)
    rank = key.argsort(1).argsort(1)
    return (rank + 0.5) / present.sum(1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Scale:
    """Shift and width of inputs and targets, measured on training examples only."""

    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor

    @classmethod
    def of(cls, table: TaskTable, mask: Tensor) -> Scale:
        """Measured on the examples that ``mask [T, n]`` names. Images are left as they are."""
        if len(table.problem.x_shape) == 1:
            x = table.x[table.row[mask].unique()].float()
            x_mean, x_std = x.mean(0), x.std(0, correction=0)
        else:
            x_mean, x_std = torch.zeros(()), torch.ones(())
        if table.problem.kind == "regression":
            y = table.y[mask]
            y_mean, y_std = y.mean(0), y.std(0, correction=0)
        else:
            y_mean, y_std = torch.zeros(()), torch.ones(())
        return cls(x_mean, x_std.where(x_std > 1e-8, 1.0), y_mean, y_std.where(y_std > 1e-8, 1.0))


class TableTasks:
    """A family over some tasks and some examples of a table.

    Args:
        table: the data.
        mask: which examples may be seen, ``[T, n]``; tasks without any are left out.
        scale: how inputs and targets are standardised.
        support: examples to learn from in an episode; in classification of each class where ``per_class``.
        query: examples to be judged on.
        per_class: count ``support`` by class (few-shot habit) rather than altogether.
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
        self.per_class = per_class and table.problem.kind == "classification"
        self.identity = identity
        self.members = mask.any(1).nonzero().flatten()
        self.problem = replace(table.problem, n_tasks=len(self.members))

    def batch(self, task: Tensor, place: Tensor, mask: Tensor) -> Batch:
        """Gather examples ``place [T, k]`` of the table's tasks ``task [T]``; ``mask`` False is padding."""
        place = place.where(mask, 0)
        x = self.table.x[self.table.row[task].gather(1, place)]
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        x = (x - self.scale.x_mean) / self.scale.x_std
        index = place if self.table.y.ndim == 2 else place.unsqueeze(-1).expand(-1, -1, self.table.y.shape[-1])
        y = self.table.y[task].gather(1, index)
        if self.problem.kind == "regression":
            y = (y - self.scale.y_mean) / self.scale.y_std
        return Batch(x, y, None if bool(mask.all()) else mask.float())

    def whole(self, task: Tensor, mask: Tensor) -> Batch:
        """All examples of the tasks that ``mask [T, n]`` (rows as in the table) names."""
        mask = mask[task]
        order = mask.logical_not().to(torch.uint8).argsort(1, stable=True)[:, : int(mask.sum(1).max())]
        return self.batch(task, order, mask.gather(1, order))

    def draw(self, task: Tensor, generator: torch.Generator, support: int | None = None) -> Episodes:
        """Random episodes of the given tasks of the table, ``task [T]``; support and query are disjoint."""
        k = self.support if support is None else support
        mask = self.mask[task]
        key = torch.rand(mask.shape, generator=generator).where(mask, torch.inf)
        order = key.argsort(1)
        if self.per_class:
            y = self.table.y[task].gather(1, order)
            here = mask.gather(1, order)
            one_hot = torch.nn.functional.one_hot(y, self.problem.n_outputs) * here.unsqueeze(-1)
            rank = one_hot.cumsum(1).gather(2, y.unsqueeze(-1)).squeeze(-1)
            # at least one example of a class stays for the query
            size = one_hot.sum(1).gather(1, y)
            chosen = here & (rank <= k) & ((rank < size) | (size == 1))
            order = order.gather(1, chosen.logical_not().to(torch.uint8).argsort(1, stable=True))
            n_support, width = chosen.sum(1, keepdim=True), k * self.problem.n_outputs
        else:
            count = mask.sum(1, keepdim=True)
            n_support, width = (count * k // (k + self.query)).clamp(1, k), k
        n_support = n_support.clamp_max(width)
        n_query = (mask.sum(1, keepdim=True) - n_support).clamp(0, self.query)
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
