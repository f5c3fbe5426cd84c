"""Families whose optimum is known: sinusoids, and linear tasks with a knob for how much they share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core import Batch, Episodes, Problem
from quickstudy.tasks.table import TaskTable


@dataclass(frozen=True)
class Sinusoids:
    """``y = A sin(x - b)``: A in [0.1, 5], b in [0, pi], x in [-5, 5].

    Args:
        shots: labelled points of a task.
        queries: points to be judged on.

    Reference:
        Finn et al. 2017, section 5.1, arXiv:1703.03400.
    """

    shots: int = 10
    queries: int = 10

    @property
    def problem(self) -> Problem:
        """One number in, one number out."""
        return Problem((1,), "regression", 1, metric="explained variance")

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Episodes of n sinusoids. Shape: support.x ``[n, shots, 1]``, query.x ``[n, queries, 1]``."""
        draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
        amplitude, phase = 0.1 + 4.9 * draw(n, 1, 1), math.pi * draw(n, 1, 1)
        x = 10 * draw(n, self.shots + self.queries, 1) - 5
        y = amplitude * torch.sin(x - phase)
        k = self.shots
        return Episodes(Batch(x[:, :k], y[:, :k]), Batch(x[:, k:], y[:, k:]))


def planted(
    shared: float,
    generator: torch.Generator,
    *,
    tasks: int = 40,
    examples: int = 60,
    features: int = 10,
    noise: float = 1.0,
) -> TaskTable:
    r"""Linear tasks that share as much as one says.

    .. math::
        w_t = \sqrt{s} w_0 + \sqrt{1 - s} v_t, \qquad b_t = \sqrt{s} b_0 + \sqrt{1 - s} c_t, \qquad
        y = x^\top w_t + b_t + \epsilon

    with all of :math:`w_0, v_t \sim N(0, I / features)`, :math:`b_0, c_t \sim N(0, 1)`, x standard normal: every task
    is equally hard whatever s is. Without the intercepts all tasks would share that theirs is zero, and a learned
    centre gains .008 of explained variance from it.

    Args:
        shared: s, from 0 (nothing to share: no method may beat single-task learning) to 1 (one and the same task).
        generator: draws everything.
        tasks: how many tasks.
        examples: examples of each.
        features: numbers in an input.
        noise: standard deviation of the targets' noise, in units of the signal's.
    """
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    w: Tensor = math.sqrt(shared) * normal(1, features) + math.sqrt(1 - shared) * normal(tasks, features)
    b: Tensor = math.sqrt(shared) * normal(1, 1) + math.sqrt(1 - shared) * normal(tasks, 1)
    x = normal(tasks, examples, features)
    y = torch.einsum("tnf,tf->tn", x, w / math.sqrt(features)) + b + noise * normal(tasks, examples)
    return TaskTable.from_arrays({f"task {t}": (x[t].numpy(), y[t].numpy()) for t in range(tasks)}, "regression")
