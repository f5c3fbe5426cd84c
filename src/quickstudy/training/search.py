"""The outer loop: which method, which step size, how many steps, which settings; judged on validation tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from quickstudy.core import Episodes, InputError, RunError, TaskFamily
from quickstudy.methods.registry import build, find
from quickstudy.training.fit import fit, task_scores, weighted_mean

OF_TRAINING = ("method", "lr", "steps", "tasks", "weight_decay")  # names in a space that are not a method's settings


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Args:
        low: the smallest.
        high: the largest.
        log: spread evenly in the logarithm, as suits step sizes.
        whole: integers only.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            above = ", both above 0 for log=True" if self.log else ""
            raise InputError(f"Expected low < high{above}. Found {self.low} and {self.high}.")


Space = Mapping[str, Range | Sequence[Any]]


@dataclass(frozen=True)
class Trial:
    """One attempt: its settings and its score, minus infinity where it failed."""

    settings: dict[str, Any]
    score: float


@dataclass(frozen=True)
class Found:
    """What a search saw.

    Args:
        trials: every attempt, in order.
    """

    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The attempt with the highest score, the first of them."""
        return max(self.trials, key=lambda trial: trial.score)


def maximise(
    score: Callable[[dict[str, Any]], float],
    space: Space,
    *,
    trials: int,
    sampler: Literal["tpe", "random"] = "tpe",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Look for the settings with the highest score, by Optuna.

    Args:
        score: of settings; a :class:`~quickstudy.core.RunError` or a number that is not finite is a failed trial.
        space: a :class:`Range` or a sequence of choices for each setting.
        trials: how many attempts.
        sampler: ``"tpe"`` learns from earlier trials where good ones lie (tree-structured Parzen estimator);
            ``"random"`` is what it has to beat.
        seed: of the sampler, the only source of randomness.
        progress: called with (trials done, trials).

    Raises:
        InputError: no trials, or nothing to search.
        RunError: every trial failed.

    Reference:
        Akiba et al. 2019, Optuna, arXiv:1907.10902; Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization,
        NeurIPS (TPE); Bergstra, Bengio 2012, Random Search for Hyper-Parameter Optimization, JMLR 13:281-305.
    """
    if trials < 1 or not space:
        raise InputError(f"Expected at least 1 trial and 1 setting. Found {trials} trials of {list(space)}.")
    import optuna  # a second to import, and only searches need it

    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    loud = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seen: list[Trial] = []
    try:
        study = optuna.create_study(direction="maximize", sampler=samplers[sampler](seed=seed))
        for done in range(trials):
            trial = study.ask()
            # Optuna stores choices as plain values; an index stands for whatever they are
            settings = {
                name: _number(trial, name, where)
                if isinstance(where, Range)
                else where[trial.suggest_categorical(name, range(len(where)))]
                for name, where in space.items()
            }
            try:
                value = float(score(settings))
            except RunError:
                value = math.nan
            if math.isfinite(value):
                study.tell(trial, value)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            seen.append(Trial(settings, value if math.isfinite(value) else -math.inf))
            if progress is not None:
                progress(done + 1, trials)
    finally:
        optuna.logging.set_verbosity(loud)
    found = Found(tuple(seen))
    if found.best.score == -math.inf:
        raise RunError(
            f"Expected a finite score. Found none in {trials} trials. Narrow the space: smaller steps first."
        )
    return found


def _number(trial: Any, name: str, where: Range) -> float | int:
    if where.whole:
        return int(trial.suggest_int(name, int(where.low), int(where.high), log=where.log))
    return float(trial.suggest_float(name, where.low, where.high, log=where.log))


def search(
    method: str,
    train: TaskFamily,
    validation: Episodes,
    space: Space,
    *,
    trials: int = 20,
    sampler: Literal["tpe", "random"] = "tpe",
    steps: int = 200,
    tasks: int = 16,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Train a method anew for each attempt and score it on the validation tasks.

    Every attempt starts from the same seed, so that they differ by their settings alone. Test tasks have no part in
    it; what is found is to be trained again and tested once.

    Args:
        method: its name; ``"method"`` in the space searches over several.
        train: where training episodes come from.
        validation: fixed episodes that attempts are judged on.
        space: the method's settings by name, and any of ``method``, ``lr``, ``steps``, ``tasks`` and ``weight_decay``.
            ``"maml.inner_lr"`` is a setting of that method only, where the space has several.
        trials: how many attempts.
        sampler: see :func:`maximise`.
        steps: training steps, where the space does not have them.
        tasks: tasks in a step, likewise.
        seed: of the sampler, of first weights and of training.
        progress: called with (trials done, trials).

    Raises:
        InputError: a method or a setting that does not exist, or a method that cannot serve these tasks.
        RunError: every trial failed.
    """
    names = space.get("method", (method,))
    if isinstance(names, Range):
        raise InputError("Expected names of methods to choose from. Found a range of numbers. Give a sequence.")
    for name in names:
        why = find(name).refuses(train.problem)
        if why:
            raise InputError(f"Expected methods that serve these tasks. Found {name!r}: {why}. Leave it out.")

    def score(settings: dict[str, Any]) -> float:
        name = settings.get("method", method)
        own = {}
        for key, value in settings.items():
            of, dot, rest = key.rpartition(".")
            if key not in OF_TRAINING and (not dot or of == name):
                own[rest] = value
        learner = build(find(name), train.problem, seed, **own)
        fit(
            learner,
            train,
            steps=int(settings.get("steps", steps)),
            tasks=int(settings.get("tasks", tasks)),
            lr=float(settings.get("lr", learner.lr)),
            weight_decay=float(settings.get("weight_decay", 0.0)),
            generator=torch.Generator().manual_seed(seed),
        )
        return weighted_mean(task_scores(learner, validation), learner.problem.task_weights(validation.query))

    return maximise(score, space, trials=trials, sampler=sampler, seed=seed, progress=progress)
