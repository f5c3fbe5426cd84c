"""Tasks that come one after another, with known boundaries: what lifelong learning is tested on."""

from __future__ import annotations

import torch
from torch import Tensor

from quickstudy.core import Episodes, TaskFamily
from quickstudy.tasks.table import Scale, TableTasks, TaskTable


class Stream:
    """The tasks of a table in their order; examples of each are split in training, validation and test.

    Inputs are used as they are: to standardise them would be to look at the tasks to come.

    Args:
        table: the data.
        generator: splits the examples.
        rows: examples of a task in half a training episode.
    """

    def __init__(self, table: TaskTable, generator: torch.Generator, *, rows: int = 32) -> None:
        self.table = table
        self._train, self._validation, self._test = table.split_rows(generator)
        zero, one = torch.zeros(()), torch.ones(())
        scale = Scale(zero, one, zero, one)
        self._family = TableTasks(table, self._train, scale, support=rows, query=rows)
        most = int(table.count.max())
        self._all_rows = TableTasks(table, self._train, scale, support=most, query=most)
        self.problem = self._family.problem

    @property
    def n_tasks(self) -> int:
        """How many tasks come."""
        return self.table.n_tasks

    @property
    def together(self) -> TaskFamily:
        """Training episodes of all tasks at once: what a learner that need not wait would have."""
        return self._family

    def task(self, t: int) -> TaskFamily:
        """Training episodes of one task."""
        return _One(self._family, t)

    def data(self, t: int, generator: torch.Generator) -> Episodes:
        """All training examples of one task, half in the support and half in the query."""
        return self._all_rows.draw(torch.tensor([t]), generator)

    def test(self, until: int) -> Episodes:
        """The first ``until`` tasks: training examples as support, test examples as query."""
        return self._judge(until, self._test)

    def validation(self, until: int) -> Episodes:
        """As :meth:`test`, with the validation examples, for making choices."""
        return self._judge(until, self._validation)

    def _judge(self, until: int, part: Tensor) -> Episodes:
        tasks = torch.arange(until)
        return Episodes(self._family.whole(tasks, self._train), self._family.whole(tasks, part), tasks)


class _One:
    """Episodes of one task of a family, which keeps its id."""

    def __init__(self, family: TableTasks, t: int) -> None:
        self.family, self.t, self.problem = family, t, family.problem

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Episodes of the task."""
        return self.family.draw(torch.full((n,), self.t), generator)


def permuted(x: Tensor, y: Tensor, tasks: int, generator: torch.Generator) -> TaskTable:
    """One classification problem, its input features in another order in each task; the first is as given.

    An example falls in the same part (training, validation, test) in all tasks.

    Args:
        x: inputs.
        y: class indices, which mean the same in every task.
        tasks: how many orders.
        generator: draws the orders.

    Shape:
        ``x [n, features]``, ``y [n]``.

    Reference:
        Goodfellow et al. 2013, An empirical investigation of catastrophic forgetting, arXiv:1312.6211.
    """
    size = x.shape[1]
    orders = [torch.arange(size)] + [torch.rand(size, generator=generator).argsort() for _ in range(tasks - 1)]
    names = [f"order {t + 1}" for t in range(tasks)]
    example = torch.arange(len(x)).numpy()
    return TaskTable.from_arrays(
        {name: (x[:, order].numpy(), y.numpy()) for name, order in zip(names, orders, strict=True)},
        "classification",
        group=dict.fromkeys(names, example),
    )
