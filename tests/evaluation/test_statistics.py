"""Intervals: against scipy's, and by how often they hold what they should."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from quickstudy.core import InputError
from quickstudy.evaluation.statistics import between_seeds, estimate, simultaneous, task_effects


def test_between_seeds_is_the_t_interval() -> None:
    values = [0.91, 0.97, 0.88, 0.95, 0.99]
    ours, theirs = between_seeds(values, n=200), stats.ttest_1samp(values, 0).confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert ours.mean == pytest.approx(np.mean(values)) and (ours.n, ours.seeds) == (200, 5)
    cut = between_seeds(values, n=200, low=0.0, high=0.99)
    assert cut.high == 0.99 and cut.low == ours.low


def test_one_run_has_no_interval_over_seeds() -> None:
    with pytest.raises(InputError, match="at least 2 runs"):
        between_seeds([0.5], n=10)


def test_an_interval_over_tasks_holds_the_mean_in_about_95_of_100_studies() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        scores = rng.exponential(size=(1, 40))  # skewed, of mean 1
        found = estimate(scores, np.ones(40), rng)
        held += found.low <= 1 <= found.high
    assert 180 <= held <= 199  # binomial: 190 +- 3


def test_successes_that_hardly_ever_fail_have_an_interval() -> None:
    scores = np.ones((1, 150))
    scores[0, :2] = 0  # an eighth of the resamples has no failure at all
    found = estimate(scores, np.ones(150), np.random.default_rng(0))
    assert (round(found.low, 3), round(found.high, 3)) == (0.953, 0.996)  # Wilson's
    n, p, held = 150, 0.985, 0.0
    for failures in range(12):
        scores = (np.arange(n) >= failures).astype(float)[None]
        found = estimate(scores, np.ones(n), np.random.default_rng(0))
        held += (found.low <= p <= found.high) * float(stats.binom.pmf(failures, n, 1 - p))
    assert held > 0.93


def test_simultaneous_intervals_hold_all_methods_at_once() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        shared = rng.normal(size=40)
        values = shared + rng.normal(size=(5, 40))
        _, low, high = simultaneous(values, np.ones(40), rng)
        held += bool(((low <= 0) & (high >= 0)).all())
    assert 180 <= held <= 199


def test_with_four_tasks_the_interval_says_nothing() -> None:
    _, low, high = simultaneous(np.zeros((1, 4)), np.ones(4), np.random.default_rng(0))
    assert low[0] == -np.inf and high[0] == np.inf


def test_tasks_certainly_hurt_are_those_that_are() -> None:
    rng = np.random.default_rng(2)
    true = np.where(np.arange(60) < 10, -0.5, 0.0)
    wrong = right = 0
    for _ in range(20):
        effects = task_effects(true + 0.1 * rng.normal(size=(3, 60)), np.full(60, 50))
        right += len([task for task in effects.hurt if task < 10])
        wrong += len([task for task in effects.hurt if task >= 10]) + len(effects.helped)
    assert right == 200  # 0.5 is nine standard errors
    assert wrong <= 0.1 * (right + wrong)  # 5 % are expected
