"""One cell of a study: one method on one question with one seed. Trains, chooses on validation, tests once."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from quickstudy.core import Episodes, Method
from quickstudy.methods.registry import build, find
from quickstudy.tasks.study import Arena, Question
from quickstudy.training.checkpoint import write_json
from quickstudy.training.fit import fit, target_spread, task_scores, weighted_mean

SWEEP = (1, 2, 3, 5, 10, 20)  # labelled examples of a new task
SWEEP_TASKS = 40


@dataclass(frozen=True)
class Cell:
    """What identifies a cell, and the budget that all methods get alike.

    Args:
        question: which of the two.
        method: a name that ``quickstudy.methods.registry.find`` knows.
        seed: of split, first weights and episodes.
        steps: training steps.
        every: steps between validations.
    """

    question: Question
    method: str
    seed: int
    steps: int
    every: int

    @property
    def stem(self) -> str:
        """File name without its ending; a user's file contributes its class only."""
        return f"{self.question}-{self.seed}-{self.method.rpartition(':')[2]}"


def run_cell(
    cell: Cell, arena: Arena, folder: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Run one cell, or read its result where it is already there; a half-trained one goes on from its checkpoint.

    Args:
        cell: what to run.
        arena: its tasks.
        folder: where ``<stem>.json`` and ``<stem>.safetensors`` live.
        progress: called with (steps done, steps).

    Returns:
        What ``<stem>.json`` holds: ``scores`` by task, ``validation``, ``history``, ``chosen``, ``sweep``, ``seconds``.
    """
    done = folder / f"{cell.stem}.json"
    if done.is_file():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    begin = time.perf_counter()
    cls = find(cell.method)
    # new tasks alone: nets of the training tasks would be trained for nobody
    known = arena.problem.n_tasks if cls.shares or cell.question == "have" else 0
    method = build(cls, replace(arena.problem, n_tasks=known), cell.seed)
    history = fit(
        method,
        arena.train,
        steps=cell.steps,
        tasks=arena.tasks_per_step,
        lr=method.lr,
        validation=arena.validation,
        every=cell.every,
        generator=torch.Generator().manual_seed(10_000 + cell.seed),
        checkpoint=folder / f"{cell.stem}.safetensors",
        resume=True,
        progress=progress,
    )
    chosen, validation = choose(method, arena.validation)
    if arena.refit is not None and history.best_step:
        method = refit(method, cell, arena, chosen, history.best_step, progress)
    scores = task_scores(method, arena.test)
    result = {
        "question": cell.question,
        "method": cell.method,
        "seed": cell.seed,
        "scores": scores.tolist(),
        "names": list(arena.names),
        "rows": arena.test.query.weights.sum(1).tolist(),
        "weights": arena.problem.task_weights(arena.test.query).tolist(),
        "validation": validation,
        "chosen": chosen,
        "history": dataclasses.asdict(history),
        "sweep": sweep(method, arena),
        "seconds": round(time.perf_counter() - begin, 2),
    }
    write_json(done, result)
    return result


def refit(
    method: Method,
    cell: Cell,
    arena: Arena,
    chosen: dict[str, float],
    until: int,
    progress: Callable[[int, int], None] | None,
) -> Method:
    """Train once more from the start, on training and validation examples, as long as validation found best.

    All choices are made by then. Methods that read their examples in ``adapt`` get the same through the test's support.
    """
    assert arena.refit is not None
    again = build(find(cell.method), arena.problem, cell.seed)
    fit(
        again,
        arena.refit,
        steps=cell.steps,
        until=until,
        tasks=arena.tasks_per_step,
        lr=method.lr,
        every=cell.steps,
        generator=torch.Generator().manual_seed(10_000 + cell.seed),
        progress=progress,
    )
    for key, value in chosen.items():
        setattr(again, key, value)
    return again.eval()


def choose(method: Method, validation: Episodes) -> tuple[dict[str, float], float]:
    """Try the values that the method declares in ``settings``; keep what does best on validation.

    Returns:
        The chosen values, and the validation score with them.
    """
    weights = method.problem.task_weights(validation.query)
    chosen: dict[str, float] = {}
    best = -torch.inf
    for key, values in method.settings.items():
        best = -torch.inf
        for value in values:
            setattr(method, key, value)
            score = weighted_mean(task_scores(method, validation), weights)
            if score > best:
                best, chosen[key] = score, value
        setattr(method, key, chosen.get(key, values[0]))
    if not method.settings:
        best = weighted_mean(task_scores(method, validation), weights)
    return chosen, best


def sweep(method: Method, arena: Arena) -> dict[str, float]:
    """Mean test score against the number of labelled examples, as far as the tasks have that many."""
    if arena.test_at is None:
        return {}
    points = {}
    for shots in sorted({*SWEEP, arena.shots}):
        try:
            episodes = arena.test_at(shots).tasks(slice(0, SWEEP_TASKS))
        except ValueError:  # a task has fewer examples: the curve ends here
            break
        weights = method.problem.task_weights(episodes.query)
        points[str(shots)] = weighted_mean(task_scores(method, episodes), weights)
    return points


def transfer_matrix(method: Method, episodes: Episodes, most: int = 40) -> list[list[float]]:
    """Score on task j of what was learned on task i alone: rows i, columns j.

    Only where labels mean the same in all tasks. Task ids are withheld, so that every method adapts to the support.

    Args:
        method: how each task is learned.
        episodes: support and query of all tasks.
        most: tasks to take, the first ones.
    """
    episodes = episodes.tasks(slice(0, most))
    n = episodes.n_tasks
    matrix = torch.zeros(n, n)
    spread = target_spread(method.problem, episodes)
    method.eval()
    with torch.no_grad():
        predict = method.adapt(episodes.support, episodes.task)
        for shift in range(n):
            judged = (torch.arange(n) + shift) % n
            query = episodes.query.tasks(judged)
            matrix[torch.arange(n), judged] = method.problem.scores(predict(query.x), query, spread)
    return matrix.tolist()
