"""Tasks through one shared encoder, and what metric methods make of the embedding."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Problem

NEVER = -1e4  # the logit of a class that has no example in the support; finite, so that losses stay finite


def embed(encoder: nn.Module, x: Tensor) -> Tensor:
    """All tasks in one call of the encoder. Shape: ``[T, n, *x]`` to ``[T, n, features]``."""
    features: Tensor = encoder(x.flatten(0, 1))
    return features.flatten(1).unflatten(0, x.shape[:2])


@torch.no_grad()
def n_features(encoder: nn.Module, problem: Problem) -> int:
    """How many features an encoder gives, found by one call in eval mode."""
    training = encoder.training
    like = next(encoder.parameters(), torch.zeros(()))
    with torch.no_grad():
        features: Tensor = encoder.eval()(like.new_zeros(1, *problem.x_shape))
    encoder.train(training)
    return features.flatten(1).shape[1]


def answerable(episodes: Episodes, n_classes: int) -> Episodes:
    """The episodes with weight 0 for query examples whose class is not in the support.

    What names a class by its examples cannot name one it has never seen; learning from such a query would only push
    down all other classes.
    """
    support, query = episodes.support, episodes.query
    member = torch.nn.functional.one_hot(support.y, n_classes) * support.weights.unsqueeze(-1)
    known = (member.sum(1) > 0).gather(1, query.y)
    return replace(episodes, query=replace(query, weight=query.weights * known))


def members(problem: Problem, support: Batch) -> Tensor:
    """Which examples belong to which class, padding to none. Shape: bool ``[T, N, n]``."""
    classes = torch.arange(problem.n_outputs, device=support.y.device)
    return (support.y.unsqueeze(1) == classes.unsqueeze(1)) & (support.weights > 0).unsqueeze(1)


def mask_absent(problem: Problem, prediction: Tensor, support: Batch) -> Tensor:
    """The logits with NEVER for each class without support; numbers as they are. Shape: ``[T, m, N]``."""
    if problem.kind == "regression":
        return prediction
    return prediction.masked_fill(~members(problem, support).any(-1).unsqueeze(1), NEVER)


def known(problem: Problem, episodes: Episodes) -> Episodes:
    """The episodes without the query examples that nobody could answer, see :func:`answerable`."""
    return answerable(episodes, problem.n_outputs) if problem.kind == "classification" else episodes


def class_means(features: Tensor, support: Batch, n_classes: int) -> tuple[Tensor, Tensor]:
    """Mean feature of each class, and which classes have any example.

    Shape:
        ``features [T, n, f]`` to ``[T, N, f]`` and bool ``[T, N]``.
    """
    member = torch.nn.functional.one_hot(support.y, n_classes) * support.weights.unsqueeze(-1)
    size = member.sum(1)
    return member.mT @ features / size.clamp_min(1e-12).unsqueeze(-1), size > 0


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distance of all pairs, smooth at zero. Shape: ``[T, m, f], [T, k, f]`` to ``[T, m, k]``."""
    return a.square().sum(-1, keepdim=True) - 2 * a @ b.mT + b.square().sum(-1).unsqueeze(-2)
