"""One number with its interval: how well a method does on some tasks."""

from __future__ import annotations

import numpy as np

from quickstudy.core import Episodes, Estimate, Method
from quickstudy.evaluation.statistics import estimate
from quickstudy.training.fit import task_scores


def evaluate(method: Method, episodes: Episodes, *, seed: int = 0) -> Estimate:
    """Mean score over tasks, with its 95 % interval from a bootstrap over tasks.

    Args:
        method: adapts to each task's support; its score (``problem.metric``) on the query counts.
        episodes: the tasks.
        seed: of the bootstrap.
    """
    scores = task_scores(method, episodes)
    weights = method.problem.task_weights(episodes.query)
    double = lambda values: np.asarray(values.double())  # noqa: E731
    return estimate(double(scores)[None], double(weights), np.random.default_rng(seed))
