"""The reinforcement-learning loop: act in T tasks at once, learn from what came of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from quickstudy.combine import mean
from quickstudy.core import Environment, Explorer, Improves, Policy, Teaches, Trajectory
from quickstudy.tasks.acting import finite
from quickstudy.training._loop import Combine, Descent, Progress, give_back, learned_of, tasks_of
from quickstudy.training.fit import History


@torch.no_grad()
def collect(environment: Environment, policy: Policy, tasks: Tensor, generator: torch.Generator) -> Trajectory:
    """One trial of every task.

    An episode that ends before the trial does is followed by another of the same task; the policy's memory goes on.

    Args:
        environment: where to act.
        policy: who acts.
        tasks: in which tasks, ``[T, *task]``.
        generator: the environment's and the policy's chance.

    Shape:
        trajectory ``[T, horizon, ...]``.

    Raises:
        RunError: the environment gave a number that is not finite (names the task and the step of the trial).
    """
    state, observation = environment.reset(tasks, generator)
    memory = policy.start(len(tasks)).to(observation.device)
    finite("The observation after a reset", observation, 0, tasks)
    steps = []
    for time in range(environment.horizon):
        action, log_prob, memory = policy.act(observation, memory, generator)
        state, after, reward, terminated, truncated = environment.step(state, action, tasks, generator)
        finite("The observation", after, time + 1, tasks)
        finite("The reward", reward, time + 1, tasks)
        done = terminated | truncated
        memory = policy.learn(memory, action, reward, done)
        ends = done.to(reward.dtype), log_prob, terminated.to(reward.dtype)
        steps.append((observation, action, reward, *ends, after))
        observation = after
        if bool(done.any()):
            fresh, first = environment.reset(tasks, generator)
            state, observation = _where(done, fresh, state), _where(done, first, observation)
            finite("The observation after a reset", observation, time + 1, tasks)
    return Trajectory(*(torch.stack(part, 1) for part in zip(*steps, strict=True)))


def first_episode(done: Tensor) -> Tensor:
    """Whether a step belongs to its trial's first episode. Shape: ``[T, time]`` to the same, bool."""
    done = done.long()
    return done.cumsum(1) - done == 0


def first_returns(trials: Trajectory) -> Tensor:
    """Total reward of each trial's first episode, or as much of it as there was time for. Shape: ``[T]``."""
    return (trials.reward * first_episode(trials.done)).sum(1)


def first_ends(trials: Trajectory) -> Tensor:
    """What each trial's first episode led to, or the trial where that was too short. Shape: ``[T, *o]``."""
    last = (trials.done.cumsum(1) == 0).sum(1).clamp(max=trials.done.shape[1] - 1)
    return trials.ends()[1][torch.arange(len(last), device=last.device), last]


def _where(done: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``new`` for the tasks that are done, ``old`` for the others."""
    return new.where(done.view(-1, *[1] * (new.ndim - 1)), old)


def fit_rl(
    method: Explorer,
    environment: Environment,
    *,
    steps: int = 500,
    tasks: int = 512,
    passes: int = 8,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    every: int = 50,
    combine: Combine = mean,
    generator: torch.Generator | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> History:
    """Train ``method`` on trials in new tasks; leaves it with the last parameters.

    As in :func:`quickstudy.training.fit.fit`, a run that was killed and resumed gives the same numbers as an unbroken
    one, on CPU bit for bit.

    Args:
        method: trained in place.
        environment: where it acts; every step draws new tasks. One that chooses them by what came of earlier ones
            (:class:`quickstudy.core.Teaches`) is told what came of each trial's first episode.
        steps: how many times trials are collected.
        tasks: trials of a step.
        passes: optimiser steps on the same trials.
        lr: first step size.
        weight_decay: decoupled (AdamW).
        every: steps between entries of the history, and between checkpoints.
        combine: makes one number of the losses ``[T]``.
        generator: the only source of randomness.
        checkpoint: file to save to; None saves nothing.
        resume: go on from ``checkpoint`` if it exists.
        progress: called with (steps done, steps).

    Returns:
        The history; its score is the mean total reward of the trials since the entry before, each in a new task.

    Raises:
        InputError: the combination goes by tasks, and observations do not end with their identity.
        RunError: a loss is not finite, or what the environment gave (names the step and the task). In the second case
            the checkpoint has all that was learned before.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    history = History()
    descent = Descent(
        method, steps=steps * passes, lr=lr, weight_decay=weight_decay, generator=generator, checkpoint=checkpoint
    )
    start = 0
    saved = descent.load(resume)
    if saved is not None:
        history, start = History(**saved[1]["history"]), saved[1]["step"]
        give_back(environment, saved[0])

    def save(at: int) -> None:
        descent.save(learned_of(environment), {"step": at, "history": vars(history)})

    method.train()
    loss = score = 0.0
    since = start
    for step in range(start, steps):
        with descent.acting(step, save):
            drawn = environment.sample(tasks, generator)
            trials = collect(environment, method.explorer(), drawn, generator)
        score += float(trials.reward.sum(1).mean())
        if isinstance(method, Improves):
            method.improve(trials)
        for turn in range(passes):
            loss += descent.step(step * passes + turn, method(trials), combine, tasks_of(combine, trials)) / passes
        if isinstance(environment, Teaches):
            environment.met(drawn, first_returns(trials), first_ends(trials), generator)
        done = step + 1
        if done % every == 0 or done == steps:
            history.step.append(done)
            history.loss.append(loss / (done - since))
            history.score.append(score / (done - since))
            history.best_step = done
            loss, score, since = 0.0, 0.0, done
            save(done)
        if progress is not None:
            progress(done, steps)
    method.eval()
    return history
