"""Linear heads, one a task, on features that stay as they are."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from quickstudy.core import Batch, Problem
from quickstudy.methods._embed import class_means
from quickstudy.methods._inner import settle
from quickstudy.methods._nets import Params

Head = Params  # weight [T, outputs, features] and bias [T, outputs]


def apply(head: Head, features: Tensor) -> Tensor:
    """Each task's features through its own head. Shape: ``[T, m, f]`` to ``[T, m, outputs]``."""
    return features @ head["weight"].mT + head["bias"].unsqueeze(1)


def fit_heads(problem: Problem, start: Head, features: Tensor, support: Batch, steps: int, rate: float) -> Head:
    """Adam on each task's head. Shape: ``features [T, n, f]``."""

    def loss(head: Params, h: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return problem.loss(F.linear(h, head["weight"], head["bias"]), y, weight)

    return settle(loss, start, Batch(features.detach(), support.y, support.weight), steps, rate)


def fresh_heads(problem: Problem, features: Tensor, support: Batch) -> Head:
    """Where heads of tasks with labels of their own begin: the nearest class mean, or zero for numbers.

    The nearest class mean by cosine is a linear classifier: ``w_k = scale * c_k / |c_k|``, no bias. The scale makes
    features of the support's typical length give logits of about 10 times the cosine.
    """
    n_tasks, _, size = features.shape
    bias = features.new_zeros(n_tasks, problem.n_outputs)
    if problem.kind == "regression":
        return {"weight": features.new_zeros(n_tasks, problem.n_outputs, size), "bias": bias}
    weights = support.weights
    length = (features.norm(dim=-1) * weights).sum(1) / weights.sum(1).clamp_min(1e-12)
    means, present = class_means(features, support, problem.n_outputs)
    weight = F.normalize(means, dim=-1) * (10 / length.clamp_min(1e-12))[:, None, None]
    # a class without support: never chosen, and finite
    return {"weight": weight, "bias": bias.masked_fill(~present, -100.0)}
