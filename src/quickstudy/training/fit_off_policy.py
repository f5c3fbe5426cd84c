"""The loop of methods that learn from a memory of the past: act, remember, learn from what was drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from quickstudy.combine import mean
from quickstudy.core import Environment, Explorer, Follows, InputError, OnlyForward, Problem, Replayed, Teaches
from quickstudy.methods.rl._replay import Replay, noise, with_noise
from quickstudy.methods.rl.relabel import Relabel
from quickstudy.tasks.acting import at_random, finite
from quickstudy.tasks.worlds import bare
from quickstudy.training._loop import Combine, Descent, Progress, give_back, learned_of, tasks_of, under
from quickstudy.training.compiled import CompiledLosses
from quickstudy.training.fit import History
from quickstudy.training.fit_rl import _where


def fit_off_policy(
    method: Explorer,
    environment: Environment,
    *,
    steps: int = 20_000,
    tasks: int = 1,
    memory: int = 100_000,
    batch: int = 256,
    updates: int = 1,
    warmup: int = 1000,
    relabel: Relabel | None = None,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    every: int = 1000,
    combine: Combine = mean,
    generator: torch.Generator | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    compile: bool = False,
) -> History:
    """Train ``method`` on steps drawn from what it did so far; leaves it with the last parameters.

    Every step of the loop is one step of ``tasks`` environments side by side. An episode that ends is followed by one
    of another task. As in :func:`quickstudy.training.fit_rl.fit_rl`, a run that was killed and resumed gives the same
    numbers as an unbroken one, on CPU bit for bit: the memory is saved with it. An environment that cannot be put back
    to where it was (:class:`quickstudy.core.OnlyForward`) begins new episodes instead.

    The memory is where the observations are. On an accelerator a step of the loop looks at numbers there twice, to act
    and to see how it went: each look waits for all that came before. A robot's physics stays on the processor behind
    :class:`quickstudy.tasks.acting.OnDevice`.

    Args:
        method: trained in place; its target nets move after every optimiser step.
        environment: where it acts. One that chooses its tasks by what came of earlier ones
            (:class:`quickstudy.core.Teaches`) is told what came of each episode that ends.
        steps: of the loop; environment steps are ``steps * tasks``.
        tasks: environments side by side.
        memory: environment steps that are remembered.
        batch: steps that are drawn for an optimiser step.
        updates: optimiser steps a step of the loop.
        warmup: environment steps of random actions at the beginning, before anything is learned.
        relabel: gives drawn steps other goals; None leaves them as they are.
        lr: first step size.
        weight_decay: decoupled (AdamW).
        every: steps between entries of the history, and between checkpoints.
        combine: makes one number of the losses of the drawn steps, ``[batch]``.
        generator: the only source of randomness.
        checkpoint: file to save to; None saves nothing.
        resume: go on from ``checkpoint`` if it exists.
        progress: called with (steps done, steps), after a checkpoint that is due; what it raises ends the run.
        compile: take optimiser steps by one program, see :class:`~quickstudy.training.compiled.CompiledLosses`. Their
            losses are looked at once a step of the loop, so that one that is not finite is named one step late.

    Returns:
        The history; its score is the mean total reward of the episodes that ended since the entry before (NaN where
        none did).

    Raises:
        InputError: the method has no target nets to follow: it learns from its own present trials, see ``fit_rl``.
            The combination goes by tasks, and observations do not end with their identity, or steps are compiled.
        RunError: a loss is not finite, or what the environment gave (names the step). In the second case the checkpoint
            has all that was learned before. The losses cannot be compiled.
    """
    targets = follower(method)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    problem, history, past = environment.problem, History(), Replay(max(memory // tasks, 1))
    first = -(-warmup // tasks)
    descent = Descent(
        method, steps=max(steps - first, 1) * updates, lr=lr, weight_decay=weight_decay, generator=generator,
        checkpoint=checkpoint,
    )  # fmt: skip
    start, loss, since = 0, 0.0, 0
    saved = descent.load(resume)
    if saved is None:
        task = environment.sample(tasks, generator)
        state, observation = environment.reset(task, generator)
        mind = method.explorer().start(tasks).to(observation.device)
        total, score, episodes = observation.new_zeros(tasks), 0.0, 0
    else:
        history, start = History(**saved[1]["history"]), saved[1]["step"]
        device = next(method.parameters()).device
        past.restore({name: part.to(device) for name, part in under("memory/", saved[0]).items()})
        task, state, observation, mind, total = (saved[0][f"now/{name}"].to(device) for name in NOW)
        score, episodes, since = 0.0, 0, start
        give_back(environment, saved[0])
        if isinstance(bare(environment), OnlyForward):
            state, observation = environment.reset(task, generator)
            mind, total = method.explorer().start(tasks).to(mind), torch.zeros_like(total)

    def save(at: int) -> None:
        now = dict(zip(NOW, (task, state, observation, mind, total), strict=True))
        kept = {f"memory/{k}": v for k, v in past.state().items()} | {f"now/{k}": v for k, v in now.items()}
        descent.save(kept | learned_of(environment), {"step": at, "history": vars(history)})

    method.train()
    program = CompiledLosses(method, combine) if compile else None
    nothing = torch.zeros((), device=observation.device)
    lost = nothing  # a program's loss of the step before, not looked at yet
    for step in range(start, steps):
        policy = at_random(problem) if step < first else method.explorer()
        with descent.acting(step, save), torch.no_grad():
            action, _, thought = policy.act(observation, mind, generator)
            there, after, reward, terminated, truncated = environment.step(state, action, task, generator)
            done, seen, other = terminated | truncated, after, task
            sound, ended, told = _look(after, reward, done, lost)
            loss, lost = loss + told, nothing
            if not sound:
                finite("The observation", after, step, task)
                finite("The reward", reward, step, task)
            if ended:
                other = _where(done, environment.sample(tasks, generator), task)
                fresh, begun = environment.reset(other, generator)
                finite("The observation after a reset", begun, step, other)
                there, seen = _where(done, fresh, there), _where(done, begun, after)
        past.add(observation, action, reward, terminated, truncated, after)
        mind, total, before = policy.learn(thought, action, reward, done), total + reward, task
        state, observation, task = there, seen, other
        if ended:
            score, episodes = score + float(total[done].sum()), episodes + int(done.sum())
            if isinstance(environment, Teaches):
                environment.met(before[done], total[done], after[done], generator)
            total, mind = total.where(~done, 0), _where(done, policy.start(tasks).to(mind), mind)
        if step >= first:
            for turn, replayed in enumerate(drawn(past, updates, batch, relabel, problem, generator)):
                number = (step - first) * updates + turn
                if program is None:
                    loss += descent.step(number, method(replayed), combine, tasks_of(combine, replayed)) / updates
                else:
                    lost = lost + program(replayed).mean() / updates
                    descent.step(number, torch.tensor([told]), None)
                targets.follow()
        finished = step + 1
        if finished % every == 0 or finished == steps:
            learned = finished - max(since, first)
            told = float(lost)  # not finite: the next optimiser step says so
            loss, lost = loss + told, nothing
            history.step.append(finished)
            history.loss.append(loss / learned if learned > 0 else torch.nan)
            history.score.append(score / episodes if episodes else torch.nan)
            history.best_step = finished
            loss, score, episodes, since = 0.0, 0.0, 0, finished
            save(finished)
        if progress is not None:
            progress(finished, steps)
    method.eval()
    return history


def _look(after: Tensor, reward: Tensor, done: Tensor, lost: Tensor) -> tuple[bool, bool, float]:
    """Whether all numbers are finite, whether an episode ended, and the loss so far: at one look."""
    sound = (after.sum() + reward.sum()).isfinite()
    fine, ended, told = torch.stack([sound.to(lost), done.any().to(lost), lost]).tolist()
    return bool(fine), bool(ended), told


NOW = ("task", "state", "observation", "mind", "total")


def follower(method: Explorer) -> Follows:
    """The method as one that learns from a memory.

    Raises:
        InputError: it learns from its own present trials.
    """
    if not isinstance(method, Follows):
        raise InputError(
            f"Expected a method that learns from a memory (it has `follow`). Found {type(method).__name__}, which "
            "learns from the trials of its present policy. Train it with fit_rl."
        )
    return method


def drawn(
    past: Replay, times: int, batch: int, relabel: Relabel | None, problem: Problem, generator: torch.Generator
) -> Iterator[Replayed]:
    """Steps to learn from, several times, relabelled if asked for, with the chance that losses need.

    Shape:
        each ``[batch, 1, ...]``.
    """
    if not times:
        return
    if relabel is not None:
        for _ in range(times):
            slot, row = past.draw(batch, generator)
            steps = relabel(past, slot, row, past.take(slot, row), generator)
            yield with_noise(steps, noise(batch, problem, generator))
        return
    # chance in the same order, but the memory is read once for all
    lots, chance = zip(
        *((past.lots(batch, generator), noise(batch, problem, generator)) for _ in range(times)), strict=True
    )
    every = with_noise(past.take(*past.places(torch.cat(lots))), torch.cat(chance))
    for turn in range(times):
        yield every.tasks(slice(turn * batch, (turn + 1) * batch))
