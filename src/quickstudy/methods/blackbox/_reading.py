"""What nets that read a support set have in common: features, labels as numbers, order, attention."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Problem
from quickstudy.methods._embed import NEVER, n_features
from quickstudy.nets import encoder_for


def features_for(
    problem: Problem, encoder: nn.Module | None, generator: torch.Generator | None
) -> tuple[nn.Module, int]:
    """The given encoder or the one that suits the inputs, and the number of its features.

    Regression on vectors reads the numbers themselves: the net behind sees all of them anyway.
    """
    if encoder is None:
        if problem.kind == "regression" and len(problem.x_shape) != 3:
            return nn.Flatten(), math.prod(problem.x_shape)
        return encoder_for(problem, generator=generator)
    return encoder, n_features(encoder, problem)


def label_size(problem: Problem) -> int:
    """How many numbers :func:`labels_of` makes of a label."""
    return problem.n_outputs + (problem.kind == "regression")


def labels_of(problem: Problem, support: Batch) -> Tensor:
    """Labels as numbers, never all zero: one-hot, or the targets and a one. Zeros stand for the unknown label.

    Shape:
        gives ``[T, n, label_size]``.
    """
    if problem.kind == "classification":
        return F.one_hot(support.y, problem.n_outputs).to(support.x.dtype)
    return F.pad(support.y, (0, 1), value=1.0)


def real_first(support: Batch) -> tuple[Batch, Tensor]:
    """The support as a sequence: its examples in their order, padding after them; and how long each task's is.

    Shape:
        lengths ``[T]``, int64.
    """
    real = support.weights > 0
    if support.weight is None:
        return support, real.sum(1)
    order = (~real).to(torch.uint8).argsort(dim=1, stable=True)
    task = torch.arange(support.n_tasks, device=order.device).unsqueeze(1)
    return (
        replace(support, x=support.x[task, order], y=support.y[task, order], weight=support.weights[task, order]),
        real.sum(1),
    )


def softmax_over(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax over the last axis among what is seen; zero where nothing is. Shape: both ``[..., n]``."""
    # finite, so that rows that see nothing have a gradient (of zero) and no NaN
    return scores.masked_fill(~seen, NEVER).softmax(-1) * seen


def attend(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, heads: int = 1, bias: Tensor | float = 0.0
) -> Tensor:
    r"""Scaled dot-product attention, :math:`softmax(Q K^\top / \sqrt{d}) V` in each head.

    Args:
        query: what looks.
        key: what is looked at.
        value: what is seen there.
        seen: what may be looked at.
        heads: parts that the last axes are cut into.
        bias: added to the scores.

    Shape:
        ``query [T, m, heads * d]``, ``key [T, n, heads * d]``, ``value [T, n, heads * v]``, ``seen`` bool, broadcast
        to ``[T, m, n]``, ``bias`` to ``[T, heads, m, n]``; gives ``[T, m, heads * v]``.
    """
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    scores = q @ k.mT / math.sqrt(q.shape[-1]) + bias
    return (softmax_over(scores, seen.unsqueeze(1)) @ v).transpose(1, 2).flatten(2)
