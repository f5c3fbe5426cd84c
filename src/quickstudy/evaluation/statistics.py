"""Numbers with error bars: bootstrap over tasks, and intervals that hold for several methods at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quickstudy.core import Estimate, InputError

Array = NDArray[np.float64]
RESAMPLES = 4000
LEVEL = 0.95
FEWEST = 5  # with fewer tasks a bootstrap over tasks says nothing


def over_seeds(scores: Array) -> Array:
    """Each task's mean over the seeds that tested it; NaN marks a task that a seed did not test.

    Shape:
        ``[seeds, tasks]`` to ``[tasks]``.
    """
    tested = ~np.isnan(scores)
    if not tested.any(0).all():
        raise InputError("Expected every task to be tested by at least one seed. Found a task without any score.")
    mean: Array = np.where(tested, scores, 0.0).sum(0) / tested.sum(0)
    return mean


def between_seeds(values: Sequence[float], n: int, low: float = -np.inf, high: float = np.inf) -> Estimate:
    r"""Mean over independent training runs with its 95 % t-interval, :math:`\bar x \pm t_{.975, S - 1} s / \sqrt S`.

    Args:
        values: each run's score, S of them; at least 2.
        n: tasks or episodes that each was judged on.
        low: what no score can be below; the interval is cut there.
        high: what no score can be above.

    Raises:
        InputError: fewer than two runs, which say nothing about other runs.
    """
    from scipy.stats import t as student

    if len(values) < 2:
        raise InputError(f"Expected at least 2 runs for an interval over seeds. Found {len(values)}. Add seeds.")
    mean, seeds = float(np.mean(values)), len(values)
    half = float(student.ppf((1 + LEVEL) / 2, seeds - 1) * np.std(values, ddof=1)) / seeds**0.5
    return Estimate(mean, max(mean - half, low), min(mean + half, high), n, seeds)


def estimate(scores: Array, weights: Array, rng: np.random.Generator) -> Estimate:
    """Weighted mean over tasks with its 95 % interval: a studentised bootstrap over tasks.

    Where all scores are 0 or 1 and count alike the interval is Wilson's: successes that hardly ever fail leave a
    bootstrap with resamples without any failure, which say nothing.

    Args:
        scores: ``[seeds, tasks]``, NaN where a seed did not test a task.
        weights: what each task counts, ``[tasks]``.
        rng: draws the resamples.
    """
    each = over_seeds(scores)
    if np.isin(each, (0, 1)).all() and np.ptp(weights) == 0 and len(each) >= FEWEST:
        return replace(proportion(each), seeds=len(scores))
    mean, low, high = simultaneous(each[None], weights, rng)
    return Estimate(float(mean[0]), float(low[0]), float(high[0]), len(each), len(scores))


def proportion(happened: Array) -> Estimate:
    """How often something happened, with Wilson's 95 % interval.

    Args:
        happened: 0 or 1, of tasks or episodes; any shape.
    """
    from scipy.stats import binomtest

    over = binomtest(int(happened.sum()), happened.size).proportion_ci(LEVEL, "wilson")
    return Estimate(float(happened.mean()), float(over.low), float(over.high), happened.size, 1)


def simultaneous(values: Array, weights: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    r"""Means of several methods over the same tasks, with intervals that hold for all of them at once.

    Tasks are drawn again with replacement, the same draw for all methods, and

    .. math::
        t^* = \max_m \lvert \bar d^*_m - \bar d_m \rvert / s^*_m

    is recorded; its 95 % quantile q gives the intervals :math:`\bar d_m \pm q s_m`. This corrects for the number of
    methods and uses their correlation (Westfall and Young 1993, single-step max-T); with one method it is the
    ordinary bootstrap-t.

    Args:
        values: ``[methods, tasks]``.
        weights: ``[tasks]``.
        rng: draws the resamples.

    Returns:
        mean, low and high, ``[methods]`` each. With fewer than five tasks the interval is infinite.
    """
    n = values.shape[1]
    mean, error = _mean_and_error(values, weights)
    if n < FEWEST:
        return mean, np.full_like(mean, -np.inf), np.full_like(mean, np.inf)
    largest = np.empty(RESAMPLES)
    floor = 1e-3 * error.max() + 1e-12  # a resample of equal values has no spread to divide by
    for start in range(0, RESAMPLES, 250):
        index = rng.integers(0, n, (250, n))
        drawn_mean, drawn_error = _mean_and_error(values[:, index], weights[index])
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(drawn_mean - mean[:, None]) / np.maximum(drawn_error, floor)
        largest[start : start + 250] = t.max(0)
    q = np.quantile(largest, LEVEL)
    return mean, mean - q * error, mean + q * error


def _mean_and_error(values: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted mean over the last axis and its standard error."""
    total = weights.sum(-1)
    mean = (values * weights).sum(-1) / total
    n = values.shape[-1]
    square = (weights**2 * (values - mean[..., None]) ** 2).sum(-1)
    return mean, np.sqrt(square * n / max(n - 1, 1)) / total


@dataclass(frozen=True)
class TaskEffects:
    """Which tasks a method certainly helps and hurts.

    Args:
        difference: each task's mean difference, ``[tasks]``.
        helped: indices of tasks whose difference is certainly positive.
        hurt: indices of tasks whose difference is certainly negative.
        testable: False where tasks were tested by fewer than two seeds, so that nothing can be said of one task.
    """

    difference: Array
    helped: tuple[int, ...]
    hurt: tuple[int, ...]
    testable: bool


def task_effects(difference: Array, rows: Array, false_share: float = 0.05) -> TaskEffects:
    """Test every task's difference against zero; of those named, at most 5 % are expected to be named wrongly.

    A seed redraws split and training, so a task's spread over seeds is the noise of its difference. With a few seeds
    that spread is itself noisy, so it is pooled over tasks as ``variance = c / rows``. The p-values (t with the
    pooled degrees of freedom) go through Benjamini and Hochberg 1995.

    Args:
        difference: ``[seeds, tasks]``, NaN where a seed did not test a task.
        rows: test examples of each task, ``[tasks]``.
        false_share: expected share of wrong names.
    """
    from scipy.stats import t as student

    each = over_seeds(difference)
    seeds = (~np.isnan(difference)).sum(0)
    if seeds.min() < 2:
        return TaskEffects(each, (), (), False)
    variance = np.nanvar(difference, axis=0, ddof=1)
    free = float((seeds - 1).sum())
    c = float((variance * rows * (seeds - 1)).sum() / free)
    error = np.sqrt(c / rows / seeds)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error > 0, np.abs(each) / error, np.where(each == 0, 0.0, np.inf))
    p = 2 * student.sf(z, free)
    order = np.argsort(p)
    passes = np.nonzero(p[order] <= false_share * (np.arange(len(p)) + 1) / len(p))[0]
    named = order[: passes.max() + 1] if len(passes) else order[:0]
    helped = tuple(int(i) for i in named if each[i] > 0)
    hurt = tuple(int(i) for i in named if each[i] < 0)
    return TaskEffects(each, helped, hurt, True)
