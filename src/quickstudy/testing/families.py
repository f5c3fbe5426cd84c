"""The laws of a task family, one function each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core import Batch, Episodes, Problem, TaskFamily
from quickstudy.testing._law import Law, broken, global_state, name_of, obey, report


@dataclass(frozen=True)
class _Drawn:
    """A family, and how much to ask of it."""

    family: TaskFamily
    n: int
    distinct: bool

    @property
    def problem(self) -> Problem:
        return self.family.problem

    def sample(self, seed: int = 0) -> Episodes:
        return self.family.sample(self.n, torch.Generator().manual_seed(seed))


def check_task_family(family: TaskFamily, *, n: int = 8, distinct: bool = True) -> None:
    """Check a task family against the laws that training and evaluation rely on.

    Args:
        family: gives episodes.
        n: how many tasks to ask for.
        distinct: False for data in which two examples may well be equal (binary fingerprints): then the law that no
            query example is in the support cannot be told from the outside, and is left out.

    Raises:
        ConformanceError: lists each broken law: what was expected, what was found, how to mend it.
    """
    drawn = _Drawn(family, n, distinct)
    found = []
    for law in FAMILY_LAWS:
        error = obey(law, drawn)
        if error is not None:
            found.append((name_of(law), f"{n} tasks", error))
    report(type(family).__name__, found)


def the_generator_decides(drawn: _Drawn) -> None:
    """The same generator state, the same episodes; another state, others; no global generator is touched."""
    state = global_state()
    first, again, other = _tensors(drawn.sample(0)), _tensors(drawn.sample(0)), _tensors(drawn.sample(1))
    fix = "Draw from the generator that sample is given, and from nothing else."
    if global_state() != state:
        raise broken("no draw from torch's or numpy's global generator", "one in sample", fix)
    if not _equal(first, again):
        raise broken("the same episodes from the same generator state", "others", fix)
    if _equal(first, other):
        raise broken("other episodes from another generator state", "the same ones", fix)


def sampling_moves_the_generator(drawn: _Drawn) -> None:
    """Two draws from one generator differ: training sees new episodes in every step."""
    generator = torch.Generator().manual_seed(0)
    one, two = (_tensors(drawn.family.sample(drawn.n, generator)) for _ in range(2))
    if _equal(one, two):
        raise broken(
            "other episodes at the second draw", "the same ones", "Hand the generator itself to every random call."
        )


def shapes_agree_with_the_problem(drawn: _Drawn) -> None:
    """Inputs, targets, ids and classes have the shapes and types that ``problem`` announces."""
    problem, e = drawn.problem, drawn.sample()
    if not 1 <= e.n_tasks <= drawn.n:
        raise broken(f"1 to {drawn.n} tasks, as asked", f"{e.n_tasks}", "Draw n tasks, or all where there are fewer.")
    for what, batch in _halves(e):
        _shape(f"{what}.x", batch.x, (e.n_tasks, batch.n, *problem.x_shape))
        tail = () if problem.kind == "classification" else (problem.n_outputs,)
        _shape(f"{what}.y", batch.y, (e.n_tasks, batch.n, *tail))
        _dtype(f"{what}.x", batch.x, torch.float32)
        _dtype(f"{what}.y", batch.y, torch.int64 if problem.kind == "classification" else torch.float32)
    for what, ids, tail in (("task", e.task, ()), ("classes", e.classes, (problem.n_outputs,))):
        if ids is not None:
            _shape(what, ids, (e.n_tasks, *tail))
            _dtype(what, ids, torch.int64)


def labels_and_ids_are_in_range(drawn: _Drawn) -> None:
    """Labels are 0..N-1; task ids and training classes are below what the problem announces."""
    problem, e = drawn.problem, drawn.sample()
    if problem.kind == "classification":
        for what, batch in _halves(e):
            _range(f"{what}.y", batch.y[batch.weights > 0], problem.n_outputs, "n_outputs")
    if e.task is not None:
        _range("task", e.task, problem.n_tasks, "n_tasks")
    if e.classes is not None:
        _range("classes", e.classes, problem.n_classes, "n_classes")


def numbers_are_finite(drawn: _Drawn) -> None:
    """No NaN and no infinity, in padding either: 0 times NaN is NaN."""
    for what, batch in _halves(drawn.sample()):
        for name, value in (("x", batch.x), ("y", batch.y)):
            if not bool(torch.isfinite(value).all()):
                raise broken(f"finite {what}.{name}", "NaN or infinite numbers", "Fill or drop those examples.")


def every_task_has_examples(drawn: _Drawn) -> None:
    """Each task has something to learn from and something to be judged on; weights are not negative."""
    for what, batch in _halves(drawn.sample()):
        if bool((batch.weights < 0).any()):
            raise broken(f"weights of 0 or more in {what}", "negative ones", "Use 1 for examples and 0 for padding.")
        empty = (batch.weights.sum(1) == 0).nonzero().flatten().tolist()
        if empty:
            raise broken(f"an example in the {what} of every task", f"none in tasks {empty}", "Leave such tasks out.")


def support_and_query_are_disjoint(drawn: _Drawn) -> None:
    """No query example of a task is among its support examples."""
    if not drawn.distinct:
        return
    e = drawn.sample()
    for t in range(e.n_tasks):
        support, query = (_rows(half) for _, half in _halves(e.tasks(slice(t, t + 1))))
        both = support & query
        if both:
            raise broken(
                "support and query without a common example",
                f"{len(both)} in task {t} of the draw",
                "Deal each task's examples once. Where equal examples are no mistake, check with distinct=False.",
            )


FAMILY_LAWS: tuple[Law[_Drawn], ...] = (
    the_generator_decides,
    sampling_moves_the_generator,
    shapes_agree_with_the_problem,
    labels_and_ids_are_in_range,
    numbers_are_finite,
    every_task_has_examples,
    support_and_query_are_disjoint,
)


def _halves(e: Episodes) -> Iterator[tuple[str, Batch]]:
    yield "support", e.support
    yield "query", e.query


def _tensors(e: Episodes) -> list[Tensor]:
    every = [e.support.x, e.support.y, e.support.weights, e.query.x, e.query.y, e.query.weights, e.task, e.classes]
    return [value for value in every if value is not None]


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(one, two) for one, two in zip(a, b, strict=True))


def _shape(what: str, value: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(value.shape) != expected:
        raise broken(
            f"{what} of shape {list(expected)}", f"{list(value.shape)}", "Correct the family's problem or its sample."
        )


def _dtype(what: str, value: Tensor, expected: torch.dtype) -> None:
    if value.dtype != expected:
        raise broken(f"{what} of {expected}", f"{value.dtype}", f"Convert it with .to({expected}).")


def _range(what: str, value: Tensor, end: int, announced: str) -> None:
    if value.numel() and (int(value.min()) < 0 or int(value.max()) >= end):
        raise broken(
            f"{what} in 0..{end - 1} ({announced} = {end})",
            f"{int(value.min())}..{int(value.max())}",
            "Number from 0, or correct the problem.",
        )


def _rows(batch: Batch) -> set[bytes]:
    """A task's real examples, as bytes."""
    rows = batch.x[0][batch.weights[0] > 0].flatten(1).contiguous()
    return {row.numpy().tobytes() for row in rows}
