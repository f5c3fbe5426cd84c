"""The lifelong loop: learn one task after another, and after each see what is left of all so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from quickstudy.combine import mean
from quickstudy.core import Consolidates, Method
from quickstudy.tasks.streams import Stream
from quickstudy.training._loop import Combine
from quickstudy.training.fit import fit, task_scores


@dataclass(frozen=True, eq=False)
class StreamScores:
    """What a method could do after each task of a stream.

    Args:
        scores: row i, column j: score on task j after learning tasks 0..i; NaN for tasks yet to come.
        penalty_share: which part of the loss at the end of each task was the penalty that holds earlier tasks;
            0 for methods without one. Near 0 throughout, the penalty did nothing.

    Shape:
        ``scores [tasks, tasks]``, ``penalty_share [tasks]``.

    Reference:
        Lopez-Paz, Ranzato 2017, Gradient episodic memory for continual learning, arXiv:1706.08840, eq. (2) and (3).
    """

    scores: Tensor
    penalty_share: Tensor

    @property
    def average(self) -> float:
        """Mean score on all tasks after the last."""
        return float(self.scores[-1].mean())

    @property
    def backward_transfer(self) -> float:
        """Mean change, from when a task was learned to the end, of all tasks but the last; negative is forgetting."""
        return float((self.scores[-1] - self.scores.diagonal())[:-1].mean())


def fit_stream(
    method: Method,
    stream: Stream,
    *,
    steps: int = 300,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    combine: Combine = mean,
    generator: torch.Generator | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> StreamScores:
    """Train ``method`` on each task of a stream in turn, with :func:`quickstudy.training.fit.fit`.

    After each task, a method that consolidates is told so, with the task's training data.

    Args:
        method: trained in place.
        stream: the tasks.
        steps: optimiser steps for each task.
        lr: first step size, of each task.
        weight_decay: decoupled (AdamW).
        combine: makes one number of the losses ``[T]``.
        generator: the only source of randomness.
        checkpoint: folder for a checkpoint a task; None saves nothing.
        resume: go on from there.
        progress: called with (steps done, steps) over the whole stream.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    n = stream.n_tasks
    scores, share = torch.full((n, n), torch.nan), torch.zeros(n)
    for t in range(n):
        fit(
            method,
            stream.task(t),
            steps=steps,
            tasks=1,
            lr=lr,
            weight_decay=weight_decay,
            combine=combine,
            generator=generator,
            checkpoint=None if checkpoint is None else checkpoint / f"task-{t}.safetensors",
            resume=resume,
            progress=None if progress is None else lambda done, _, t=t: progress(t * steps + done, n * steps),  # type: ignore[misc]
        )
        scores[t, : t + 1] = task_scores(method, stream.test(t + 1))
        if isinstance(method, Consolidates):
            data = stream.data(t, generator)
            with torch.no_grad():
                share[t] = method.penalty() / method.losses(data).mean()
            method.consolidate(data)
    return StreamScores(scores, share)
