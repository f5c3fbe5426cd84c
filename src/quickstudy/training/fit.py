"""The supervised loop: sample episodes, take the losses ``[T]``, combine, step; keep the best on validation."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from quickstudy.combine import mean
from quickstudy.core import Episodes, InputError, Method, Problem, TaskFamily
from quickstudy.nets import is_large
from quickstudy.training._loop import Combine, Descent, Progress, under
from quickstudy.training.compiled import CompiledLosses


@dataclass
class History:
    """What a training run saw, one entry a validation.

    Attributes:
        step: training steps taken.
        loss: mean training loss since the entry before.
        score: validation score, mean over tasks.
        best_step: the step whose parameters were kept.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    best_step: int = 0


def check_labels(problem: Problem, episodes: Episodes) -> None:
    """Raise where a class is not one of 0..N-1, padding included: torch would tell of an index, and not of which.

    Raises:
        InputError: names the label that was found, and the task it is in.
    """
    if problem.kind != "classification":
        return
    for half, batch in (("support", episodes.support), ("query", episodes.query)):
        y, n = batch.y, problem.n_outputs
        if y.ndim != 2 or y.dtype != torch.int64:
            raise InputError(
                f"Expected class indices y [T, n], int64, in the {half}. Found {y.dtype} of shape {tuple(y.shape)}"
                + (f", such as {y.flatten()[0].item():g}. " if y.numel() else ". ")
                + f"Number the classes of a task 0 to {n - 1}."
            )
        wrong = (y < 0) | (y >= n)
        if bool(wrong.any()):
            task, place = wrong.nonzero()[0].tolist()
            raise InputError(
                f"Expected labels 0 to N-1 = {n - 1} in the {half}. Found {int(y[task, place])} in task {task} of the "
                f"batch, example {place}. Number the classes of each task from 0, or build the method for more classes."
            )


def task_scores(method: Method, episodes: Episodes, *, chunk: int = 16) -> Tensor:
    """Adapt to each task's support and score its query, in eval mode and without history. Shape: ``[T]``."""
    training = method.training
    method.eval()
    problem = method.problem
    check_labels(problem, episodes)
    spread = target_spread(problem, episodes)
    scores = []
    with torch.no_grad():
        for part in episodes.chunks(chunk):
            prediction = method.adapt(part.support, part.task)(part.query.x)
            scores.append(problem.scores(prediction, part.query, spread))
    method.train(training)
    return torch.cat(scores)


def target_spread(problem: Problem, episodes: Episodes) -> float:
    """Variance of the regression targets over all queries, the yardstick of explained variance."""
    if problem.kind == "classification":
        return 1.0
    w = episodes.query.weights.unsqueeze(-1)
    y = episodes.query.y
    middle = (y * w).sum((0, 1)) / w.sum((0, 1))
    return float((((y - middle).square() * w).sum((0, 1)) / w.sum((0, 1))).mean().clamp_min(1e-12))


def default_steps(problem: Problem) -> int:
    """Training steps where nobody says: 1000, or 250 where a step is dear (images, inputs of over 256 numbers)."""
    return 250 if is_large(problem) else 1000


def weighted_mean(scores: Tensor, weights: Tensor) -> float:
    """Mean over tasks. Shape: both ``[T]``."""
    return float((scores * weights).sum() / weights.sum())


def fit(
    method: Method,
    train: TaskFamily,
    *,
    steps: int = 1000,
    until: int | None = None,
    tasks: int = 16,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    validation: Episodes | None = None,
    every: int = 100,
    combine: Combine = mean,
    generator: torch.Generator | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    compile: bool = False,
) -> History:
    """Train ``method`` on episodes of ``train``; leaves it with the parameters that did best on ``validation``.

    The loop has no access to test tasks. Adam, its step size falling to zero along a half cosine. A run that was
    killed at any moment and resumed from its checkpoint gives the same numbers as an unbroken one, on CPU bit for bit.

    Args:
        method: trained in place.
        train: where episodes come from.
        steps: optimiser steps.
        until: stop after this many of them (to train again as long as validation found best); None takes all.
        tasks: tasks in a step.
        lr: first step size.
        weight_decay: decoupled (AdamW).
        validation: fixed episodes for choosing the best parameters; None keeps the last.
        every: steps between validations, and between checkpoints.
        combine: makes one number of the losses ``[T]``.
        generator: the only source of randomness.
        checkpoint: file to save to; None saves nothing.
        resume: go on from ``checkpoint`` if it exists.
        progress: called with (steps done, steps).
        compile: take steps by one compiled program, see :class:`~quickstudy.training.compiled.CompiledLosses`. Pays
            in long runs of small nets on episodes of one size; compiling takes up to minutes.

    Raises:
        InputError: a label is not one of 0..N-1. The combination goes by tasks, and they have no ids.
        RunError: a loss is not finite (names the step and the task), or cannot be compiled.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    history = History()
    if not method.trains or not any(p.requires_grad for p in method.parameters()):
        return history
    descent = Descent(method, steps=steps, lr=lr, weight_decay=weight_decay, generator=generator, checkpoint=checkpoint)
    best = _Best(method)
    start, total = 0, 0.0
    saved = descent.load(resume)
    if saved is not None:
        tensors, facts = saved
        best.state, best.score, best.step = under("best/", tensors), facts["best_score"], facts["best_step"]
        history = History(**facts["history"])
        start, total = facts["step"], facts["total"]
    method.train()
    compiled = CompiledLosses(method, combine) if compile else None
    last = steps if until is None else min(until, steps)
    for step in range(start, last):
        episodes = train.sample(tasks, generator)
        if step == start or not episodes.support.y.is_cuda:  # elsewhere looking would hold up every step
            check_labels(method.problem, episodes)
        again = partial(method, episodes)
        if compiled is None:
            total += descent.step(step, method(episodes), combine, episodes.task, again)
        else:
            total += descent.step(step, compiled(episodes), None, episodes.task, again)
        done = step + 1
        if done % every == 0 or done == last:
            history.step.append(done)
            history.loss.append(total / (done - (history.step[-2] if len(history.step) > 1 else 0)))
            total = 0.0
            if validation is not None:
                scores = task_scores(method, validation)
                weights = method.problem.task_weights(validation.query)
                history.score.append(weighted_mean(scores, weights))
                best.update(method, weighted_mean(scores, weights), done)
            descent.save(
                {f"best/{k}": v for k, v in best.state.items()},
                {
                    "step": done,
                    "total": total,
                    "best_step": best.step,
                    "best_score": best.score,
                    "history": vars(history),
                },
            )
        if progress is not None:
            progress(done, last)
    if validation is not None:
        best.restore(method)
        history.best_step = best.step
    else:
        history.best_step = last
    method.eval()
    return history


class _Best:
    """The best parameters so far.

    One step for all tasks, also where tasks share no parameter: a step chosen task by task, on a handful of rows each,
    makes the validation score of that method too good to be compared with any other's.
    """

    def __init__(self, method: Method) -> None:
        self.state = {name: value.detach().clone() for name, value in method.state_dict().items()}
        self.score: float | None = None
        self.step = 0

    def update(self, method: Method, score: float, step: int) -> None:
        # a first score that is NaN would otherwise stay the best: nothing is greater than NaN
        if self.score is None or self.score != self.score or score > self.score:
            self.state = {name: value.detach().clone() for name, value in method.state_dict().items()}
            self.score, self.step = score, step

    def restore(self, method: Method) -> None:
        method.load_state_dict(self.state)
