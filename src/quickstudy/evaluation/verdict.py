"""From scores to words: share or not, how, what it gains, and which tasks it hurts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from quickstudy.evaluation.statistics import FEWEST, Array, TaskEffects, over_seeds, simultaneous, task_effects

Decision = Literal["share", "alone", "uncertain"]


@dataclass(frozen=True)
class Contestant:
    """One method's scores on one question.

    Args:
        name: the method.
        shares: whether it learned from other tasks.
        validation: mean validation score over seeds; every choice is made on this.
        scores: test scores ``[seeds, tasks]``, NaN where a seed did not test a task.
    """

    name: str
    shares: bool
    validation: float
    scores: Array


@dataclass(frozen=True)
class Difference:
    """A method minus the best way of learning alone, in the units of the score.

    Args:
        name: the method.
        mean: mean over tasks.
        low: lower end of the interval; all intervals of a question hold together with 95 %.
        high: upper end.
        per_task: each task's mean over seeds.
        helped: tasks that are certainly better off.
        hurt: tasks that are certainly worse off.
        testable: whether single tasks could be tested.
    """

    name: str
    mean: float
    low: float
    high: float
    per_task: tuple[float, ...]
    helped: tuple[str, ...]
    hurt: tuple[str, ...]
    testable: bool


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Args:
        decision: ``share``, ``alone`` or ``uncertain``.
        method: the shared method that validation chose.
        reference: the way of learning alone that validation chose.
        gain: mean difference between the two.
        low: lower end of its interval, corrected for the number of methods.
        high: upper end.
        hurt: tasks that the chosen method certainly hurts.
        text: all of this in words.
    """

    decision: Decision
    method: str
    reference: str
    gain: float
    low: float
    high: float
    hurt: tuple[str, ...]
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def decide(
    contestants: Sequence[Contestant],
    tasks: Sequence[str],
    weights: Array,
    rows: Array,
    *,
    metric: str,
    margin: float = 0.01,
    seed: int = 0,
    name_tasks: bool = True,
) -> tuple[Verdict, list[Difference]]:
    """Choose on validation, test once, say it.

    The best shared method and the best way of learning alone are each chosen by their validation score. Then:

    - ``alone`` if the interval of their difference lies below ``margin``: whatever sharing gains is too little to
      matter, however certain it is;
    - ``share`` if the interval lies above zero, and every seed agrees in sign;
    - ``uncertain`` otherwise, and always with fewer than five tasks.

    Args:
        contestants: all methods' scores.
        tasks: names of the tasks.
        weights: what each task counts in the mean.
        rows: test examples of each task.
        metric: the score's name, for the words.
        margin: the smallest gain that matters.
        seed: of the bootstrap.
        name_tasks: whether single tasks are of interest (not so for random episodes).
    """
    alone = max((c for c in contestants if not c.shares), key=lambda c: c.validation)
    shared = max((c for c in contestants if c.shares), key=lambda c: c.validation)
    rivals = [c for c in contestants if c.name != alone.name]
    rng = np.random.default_rng(seed)
    mean, low, high = simultaneous(np.stack([over_seeds(c.scores - alone.scores) for c in rivals]), weights, rng)
    differences, effects = [], {}
    for i, rival in enumerate(rivals):
        effect = task_effects(rival.scores - alone.scores, rows)
        if not name_tasks:
            effect = TaskEffects(effect.difference, (), (), False)
        effects[rival.name] = effect
        differences.append(
            Difference(
                rival.name,
                float(mean[i]),
                float(low[i]),
                float(high[i]),
                tuple(float(d) for d in effect.difference),
                tuple(tasks[t] for t in effect.helped),
                tuple(tasks[t] for t in effect.hurt),
                effect.testable,
            )
        )
    chosen = next(d for d in differences if d.name == shared.name)
    by_seed = _seed_means(shared.scores - alone.scores, weights)
    decision: Decision = "uncertain"
    if len(tasks) >= FEWEST:
        if chosen.high < margin:
            decision = "alone"
        elif chosen.low > 0 and bool((by_seed > 0).all()):
            decision = "share"
    text = _words(decision, chosen, alone.name, len(tasks), len(rivals), metric, margin)
    verdict = Verdict(decision, chosen.name, alone.name, chosen.mean, chosen.low, chosen.high, chosen.hurt, text)
    return verdict, differences


def _seed_means(difference: Array, weights: Array) -> Array:
    """The weighted mean difference of each seed. ``[seeds, tasks]`` to ``[seeds]``."""
    tested = ~np.isnan(difference)
    total: Array = (np.where(tested, difference, 0.0) * weights).sum(1) / (tested * weights).sum(1)
    return total


def _words(decision: Decision, chosen: Difference, alone: str, n: int, methods: int, metric: str, margin: float) -> str:
    gain = f"{chosen.mean:+.3f} {metric}"
    if n < FEWEST:
        return (
            f"Nothing is certain: {n} tasks are too few to tell (at least {FEWEST} are needed). "
            f"Sharing ({chosen.name}) scored {gain} against learning each task alone ({alone})."
        )
    interval = f"95 % interval {chosen.low:+.3f} to {chosen.high:+.3f} over {n} tasks, corrected for {methods} methods"
    if decision == "share":
        first = f"Share: {chosen.name} beats the best way of learning each task alone ({alone}) by {gain} ({interval})."
    elif decision == "alone":
        first = (
            f"Learn each task alone ({alone}): sharing gains nothing that matters. The best shared method "
            f"({chosen.name}) differs by {gain} ({interval}); gains under {margin:g} count as none."
        )
    else:
        first = (
            f"Nothing is certain: the best shared method ({chosen.name}) differs from learning each task alone "
            f"({alone}) by {gain} ({interval}). More tasks, more examples or more seeds would tell."
        )
    if not chosen.testable:
        return first
    if chosen.hurt:
        named = ", ".join(chosen.hurt[:5]) + (f" and {len(chosen.hurt) - 5} more" if len(chosen.hurt) > 5 else "")
        return f"{first} It certainly hurts {len(chosen.hurt)} of {n} tasks: {named}."
    return f"{first} No task is certainly hurt by it."


def contestants_of(question: Mapping[str, Any]) -> list[Contestant]:
    """The contestants of one question of a ``results.json``."""
    return [
        Contestant(
            m["name"],
            m["shares"],
            m["validation"],
            np.array([[np.nan if s is None else s for s in row] for row in m["scores"]], dtype=np.float64),
        )
        for m in question["methods"]
    ]
