"""A study: data, and the two questions one can ask of them. An arena is one question with one seed's splits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quickstudy.core import Episodes, InputError, Problem, TaskFamily
from quickstudy.tasks.classes import ClassEpisodes, ClassSet, check_splits
from quickstudy.tasks.table import Scale, TableTasks, TaskTable

Question = Literal["have", "meet"]
FOLDS = 3  # whole tasks are held out in turn: seed s tests fold s mod 3, so that three seeds test every task
ROWS = 32  # examples of a task in half a training episode, where tasks have many
VALIDATION = 100  # episodes of class sets that choices are made on
QUERY = 200  # most examples that a held-out task is judged on


@dataclass(frozen=True, eq=False)
class SplitClasses:
    """Classes and the split they came with.

    Args:
        classes: the data.
        splits: class indices of ``train``, ``val`` and ``test``.
        ways: N of an episode.
        queries: examples of a class that an episode is judged on.
    """

    classes: ClassSet
    splits: Mapping[str, Tensor]
    ways: int = 5
    queries: int = 10

    def __post_init__(self) -> None:
        check_splits(self.classes, self.splits)


@dataclass(frozen=True, eq=False)
class Study:
    """Data under a name.

    Args:
        name: what people type, or the name of their file.
        have: tasks whose held-out examples are asked about; None where there are none.
        meet: tasks, or classes, that are held out as a whole; None where there are too few.
        shots: K, labelled examples of a new task (of each class, in classification).
        about: where the data come from, and under which terms.
        missing: why a question cannot be asked, by question.
    """

    name: str
    have: TaskTable | None
    meet: TaskTable | SplitClasses | None
    shots: int = 5
    about: str = ""
    missing: Mapping[str, str] | None = None

    def arena(self, question: Question, seed: int, *, shots: int | None = None, episodes: int = 200) -> Arena:
        """The splits of one question for one seed.

        Args:
            question: ``"have"`` (held-out examples of known tasks) or ``"meet"`` (held-out tasks).
            seed: decides the split (where none is published), nothing else.
            shots: K at training, validation and test; by default the study's.
            episodes: test episodes of class sets.
        """
        k = self.shots if shots is None else shots
        if question == "have" and self.have is not None:
            return _have(self.have, seed)
        if question == "meet" and isinstance(self.meet, TaskTable):
            return _meet_tasks(self.meet, seed, k)
        if question == "meet" and isinstance(self.meet, SplitClasses):
            return _meet_classes(self.meet, k, episodes)
        why = (self.missing or {}).get(question, "these data have no such tasks")
        raise InputError(f"Expected data for the question {question!r}. Found none in {self.name}: {why}.")


@dataclass(frozen=True, eq=False)
class Arena:
    """One question, one seed: training tasks, fixed validation episodes, fixed test episodes.

    Training gets ``train`` and ``validation`` only; ``test`` is for the final score.

    Args:
        question: which of the two.
        train: where training episodes come from.
        tasks_per_step: how many tasks a training step reads.
        validation: episodes that every choice is made on.
        test: episodes that the score is made on.
        names: the test tasks; the same name in two seeds is the same task.
        refit: training and validation examples together, for a last training after all choices are made; the
            support of ``test`` holds them too. None where validation is on other tasks.
        shots: K of the test, 0 where the support is all there is.
        test_at: test episodes with another number of labelled examples; None where that is not asked.
    """

    question: Question
    train: TaskFamily
    tasks_per_step: int
    validation: Episodes
    test: Episodes
    names: tuple[str, ...]
    refit: TaskFamily | None = None
    shots: int = 0
    test_at: Callable[[int], Episodes] | None = None

    @property
    def problem(self) -> Problem:
        """What methods are built for."""
        return self.train.problem


def _have(table: TaskTable, seed: int) -> Arena:
    train, val, test = table.split_rows(torch.Generator().manual_seed(1000 + seed))
    scale = Scale.of(table, train)
    family = TableTasks(table, train, scale, support=ROWS, query=ROWS)
    refit = TableTasks(table, train | val, scale, support=ROWS, query=ROWS)
    every = torch.arange(table.n_tasks)

    def episodes(support: Tensor, query: Tensor) -> Episodes:
        return Episodes(family.whole(every, support), family.whole(every, query), every)

    return Arena(
        "have",
        family,
        min(table.n_tasks, 8 if is_large(table) else 256),
        episodes(train, val),
        episodes(train | val, test),
        table.names,
        refit,
    )


def is_large(table: TaskTable) -> bool:
    """Whether an input is an image of some size, so that reading all tasks in every step would take too long."""
    return math.prod(table.problem.x_shape) >= 144 and len(table.problem.x_shape) == 3


def _meet_tasks(table: TaskTable, seed: int, shots: int) -> Arena:
    if table.n_tasks < 2 * FOLDS:
        raise InputError(
            f"Expected at least {2 * FOLDS} tasks to hold some out. Found {table.n_tasks}. "
            "Ask about the tasks you have (--question have)."
        )
    # the folds are the same in all seeds; a seed only says whose turn it is, and redraws the rest
    order = torch.randperm(table.n_tasks, generator=torch.Generator().manual_seed(2000 + seed // FOLDS))
    fold = torch.arange(table.n_tasks) % FOLDS
    test, rest = order[fold == seed % FOLDS], order[fold != seed % FOLDS]
    n_val = max(1, len(rest) // 5)
    val, train = rest[:n_val], rest[n_val:]
    present = table.present()

    def only(tasks: Tensor) -> Tensor:
        return present & torch.isin(torch.arange(table.n_tasks), tasks).unsqueeze(1)

    scale = Scale.of(table, only(train))
    view = lambda tasks, query: TableTasks(  # noqa: E731
        table, only(tasks), scale, support=shots, query=query, per_class=True, identity=tasks is train
    )
    family, validation, held_out = view(train, ROWS), view(val, QUERY), view(test, QUERY)
    _enough(table, torch.cat([val, test]), shots)

    def episodes(of: TableTasks, tasks: Tensor, k: int) -> Episodes:
        return of.draw(tasks, torch.Generator().manual_seed(3000 + seed), k)

    return Arena(
        "meet",
        family,
        min(len(train), 16),
        # few tasks: several draws of each make the choice on validation less of a lottery
        episodes(validation, val.repeat(max(1, 32 // len(val))), shots),
        episodes(held_out, test, shots),
        tuple(table.names[t] for t in test.tolist()),
        None,
        shots,
        lambda k: episodes(held_out, test, k),
    )


def _enough(table: TaskTable, tasks: Tensor, shots: int) -> None:
    """Every held-out task must have K examples (of each of its classes) and some to be judged on."""
    for t in tasks.tolist():
        count = int(table.count[t])
        if table.problem.kind == "classification":
            sizes = table.y[t, :count].bincount()
            small = int(sizes[sizes > 0].min())
        else:
            small = count
        if small <= shots:
            what = "of its smallest class" if table.problem.kind == "classification" else "in all"
            raise InputError(
                f"Expected more than K = {shots} examples in every task that is held out. Found {small} {what} in "
                f"task {table.names[t]!r}. Lower --shots, or drop that task."
            )


def _meet_classes(data: SplitClasses, shots: int, episodes: int) -> Arena:
    family = lambda part, known=False, k=shots: ClassEpisodes(  # noqa: E731
        data.classes, data.splits[part], ways=data.ways, shots=k, queries=data.queries, known=known
    )
    draw = lambda part, seed, n, k=shots: family(part, k=k).sample(  # noqa: E731
        n, torch.Generator().manual_seed(seed)
    )
    return Arena(
        "meet",
        family("train", known=True),
        8,
        draw("val", 4000, min(episodes, VALIDATION)),
        draw("test", 5000, episodes),
        tuple(f"episode {i + 1}" for i in range(episodes)),
        None,
        shots,
        lambda k: draw("test", 5000, episodes, k),
    )
