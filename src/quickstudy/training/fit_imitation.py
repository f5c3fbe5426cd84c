"""The loop of methods that learn from a teacher: someone acts, the teacher says what it would have done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from quickstudy.combine import mean
from quickstudy.core import Advised, Advises, Environment, Explorer, Imitates, InputError, Policy, Trajectory
from quickstudy.tasks.acting import sent
from quickstudy.training._loop import Combine, Descent, Progress, tasks_of, under
from quickstudy.training.fit import History
from quickstudy.training.fit_rl import collect

Teacher = Callable[[Tensor], Policy]


class _Taught:
    """Acts now as the teacher and now as the learner, and notes what the teacher would do in every place."""

    def __init__(self, teacher: Policy, learner: Policy, share: float) -> None:
        self.teacher, self.learner, self.share = teacher, learner, share
        self.right: list[Tensor] = []
        self.advice: list[Tensor] = []

    def start(self, n_tasks: int) -> Tensor:
        """Both memories, one behind the other; the teacher's is as wide as it is."""
        mind, other = self.teacher.start(n_tasks), self.learner.start(n_tasks)
        self.shapes = mind.shape[1:], other.shape[1:]
        return torch.cat([mind.flatten(1), other.flatten(1).to(mind)], 1)

    def _apart(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        sizes = [shape.numel() for shape in self.shapes]
        mind, other = memory.split(sizes, 1)
        return mind.unflatten(1, self.shapes[0]), other.unflatten(1, self.shapes[1])

    def act(self, observation: Tensor, memory: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        mind, other = self._apart(memory)
        right, _, mind = self.teacher.act(observation, mind, generator)
        own, log_prob, other = self.learner.act(observation, other, generator)
        self.right.append(right)
        if isinstance(self.teacher, Advises):
            self.advice.append(self.teacher.advise(observation))
        leads = sent(torch.rand(len(right), generator=generator, device=generator.device), right) < self.share
        action = right.where(leads.view(-1, *[1] * (right.ndim - 1)), own)
        return action, log_prob, torch.cat([mind.flatten(1), other.flatten(1)], 1)

    def learn(self, memory: Tensor, action: Tensor, reward: Tensor, done: Tensor) -> Tensor:
        mind, other = self._apart(memory)
        mind, other = (p.learn(m, action, reward, done) for p, m in ((self.teacher, mind), (self.learner, other)))
        return torch.cat([mind.flatten(1), other.flatten(1)], 1)


def taught(
    environment: Environment,
    learner: Policy,
    teacher: Policy,
    tasks: Tensor,
    share: float,
    generator: torch.Generator,
) -> Trajectory:
    """One trial of every task, whose actions are what the teacher would have done, whoever acted.

    Where the teacher says what it thinks of every action (``advise``), that is noted too.

    Args:
        environment: where to act.
        learner: acts in the steps in which the teacher does not.
        teacher: says what to do everywhere.
        tasks: in which tasks, ``[T, *task]``.
        share: how often the teacher acts, drawn step by step.
        generator: the only source of randomness.
    """
    both = _Taught(teacher, learner, share)
    trials = collect(environment, both, tasks, generator)
    done = {**vars(trials), "action": torch.stack(both.right, 1)}
    return Advised(**done, advice=torch.stack(both.advice, 1)) if both.advice else Trajectory(**done)


def fit_imitation(
    method: Explorer,
    environment: Environment,
    teacher: Teacher,
    *,
    rounds: int = 5,
    tasks: int = 32,
    passes: int = 200,
    lr: float = 3e-3,
    weight_decay: float = 0.0,
    combine: Combine = mean,
    generator: torch.Generator | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> History:
    """Train ``method`` on what a teacher would do; leaves it with the last parameters.

    Each round collects trials, in which the method decides who acts, and learns from all rounds' trials together. A
    method whose teacher always acts sees as many trials, all of them the teacher's. A run that was killed and resumed
    gives the same numbers as an unbroken one.

    Args:
        method: trained in place; says in how many steps of each round the teacher acts.
        environment: where they act.
        teacher: tasks ``[T, *task]`` to a policy that knows what to do in them, such as ``environment.oracle``.
        rounds: how often trials are collected.
        tasks: trials of a round, each in a new task.
        passes: optimiser steps of a round, each on all trials so far.
        lr: first step size.
        weight_decay: decoupled (AdamW).
        combine: makes one number of the losses of the trials, ``[T]``.
        generator: the only source of randomness.
        checkpoint: file to save to after each round; None saves nothing.
        resume: go on from ``checkpoint`` if it exists.
        progress: called with (rounds done, rounds).

    Returns:
        The history, an entry a round; its score is the mean total reward of the round's trials, whoever acted.

    Raises:
        InputError: the method does not learn from a teacher. The combination goes by tasks, and observations do not end
            with their identity.
        RunError: a loss is not finite, or what the environment gave (names the step and the trial). In the second case
            the checkpoint has all that was learned before.
    """
    if not isinstance(method, Imitates):
        raise InputError(
            f"Expected a method that learns from a teacher (it has `teacher_share`). Found {type(method).__name__}. "
            "Train it with fit_rl or fit_off_policy."
        )
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    history, data, start = History(), [], 0
    descent = Descent(
        method, steps=rounds * passes, lr=lr, weight_decay=weight_decay, generator=generator, checkpoint=checkpoint
    )
    saved = descent.load(resume)
    if saved is not None:
        history, start = History(**saved[1]["history"]), saved[1]["step"]
        known = under("data/", saved[0])  # none where the environment broke down in the first round
        data = [Advised(**known) if "advice" in known else Trajectory(**known)] if known else []

    def save(at: int) -> None:
        kept = {f"data/{name}": value for one in data for name, value in vars(one).items() if value is not None}
        descent.save(kept, {"step": at, "history": vars(history)})

    method.train()
    for turn in range(start, rounds):
        with descent.acting(turn, save):
            draw = environment.sample(tasks, generator)
            trials = taught(environment, method.explorer(), teacher(draw), draw, method.teacher_share(turn), generator)
        data = [joined([*data, trials])]
        loss = 0.0
        for number in range(passes):
            loss += descent.step(turn * passes + number, method(data[0]), combine, tasks_of(combine, data[0])) / passes
        history.step.append(turn + 1)
        history.loss.append(loss)
        history.score.append(float(trials.reward.sum(1).mean()))
        history.best_step = turn + 1
        save(turn + 1)
        if progress is not None:
            progress(turn + 1, rounds)
    method.eval()
    return history


def joined(trials: list[Trajectory]) -> Trajectory:
    """All trials in one, along the task axis."""
    return replace(trials[0], **{name: torch.cat([vars(one)[name] for one in trials]) for name in vars(trials[0])})
