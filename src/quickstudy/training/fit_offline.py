"""The loop of methods that learn from a log of what others did: nobody acts."""

from __future__ import annotations

from pathlib import Path

import torch

from quickstudy.combine import mean
from quickstudy.core import Explorer, InputError
from quickstudy.methods.rl._replay import Replay
from quickstudy.methods.rl.relabel import Relabel
from quickstudy.training._loop import Combine, Descent, Progress, tasks_of
from quickstudy.training.fit import History
from quickstudy.training.fit_off_policy import drawn, follower


def fit_offline(
    method: Explorer,
    memory: Replay,
    *,
    steps: int = 5000,
    batch: int = 256,
    relabel: Relabel | None = None,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    every: int = 1000,
    combine: Combine = mean,
    generator: torch.Generator | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> History:
    """Train ``method`` on steps drawn from a memory that stays as it is; leaves it with the last parameters.

    As in :func:`quickstudy.training.fit_off_policy`, but that nothing is added to the memory. A run that was killed
    and resumed with the same memory gives the same numbers as an unbroken one.

    Args:
        method: trained in place; its target nets, if it has any, move after every optimiser step.
        memory: what others did, for instance ``Replay.of(collect(...))``.
        steps: optimiser steps.
        batch: steps that are drawn for each.
        relabel: gives drawn steps other goals; None leaves them as they are.
        lr: first step size.
        weight_decay: decoupled (AdamW).
        every: steps between entries of the history, and between checkpoints.
        combine: makes one number of the losses of the drawn steps, ``[batch]``.
        generator: the only source of randomness.
        checkpoint: file to save to; None saves nothing.
        resume: go on from ``checkpoint`` if it exists.
        progress: called with (steps done, steps).

    Returns:
        The history; it has no scores, since nobody acts.

    Raises:
        InputError: the method learns from its own present trials, see ``fit_rl``; the memory is empty. The
            combination goes by tasks, and observations do not end with their identity.
        RunError: a loss is not finite (names the step).
    """
    targets = follower(method)
    if not memory.size:
        raise InputError("Expected a memory with steps in it. Found none. Collect some: Replay.of(collect(...)).")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    history, start = History(), 0
    descent = Descent(method, steps=steps, lr=lr, weight_decay=weight_decay, generator=generator, checkpoint=checkpoint)
    saved = descent.load(resume)
    if saved is not None:
        history, start = History(**saved[1]["history"]), saved[1]["step"]
    method.train()
    loss, since = 0.0, start
    for step in range(start, steps):
        (steps_drawn,) = drawn(memory, 1, batch, relabel, method.problem, generator)
        loss += descent.step(step, method(steps_drawn), combine, tasks_of(combine, steps_drawn))
        targets.follow()
        done = step + 1
        if done % every == 0 or done == steps:
            history.step.append(done)
            history.loss.append(loss / (done - since))
            history.score.append(torch.nan)
            history.best_step = done
            loss, since = 0.0, done
            descent.save({}, {"step": done, "history": vars(history)})
        if progress is not None:
            progress(done, steps)
    method.eval()
    return history
