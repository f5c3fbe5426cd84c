"""The loop that learns perception: pictures whose poses are known."""

from __future__ import annotations

import torch
from torch import Tensor

from quickstudy.combine import mean
from quickstudy.methods.rl.perception import PoseNet
from quickstudy.training._loop import Descent


def fit_poses(
    eyes: PoseNet,
    picture: Tensor,
    pose: Tensor,
    *,
    steps: int = 2000,
    batch: int = 128,
    lr: float = 1e-3,
    generator: torch.Generator,
) -> None:
    """Train ``eyes`` to read poses off pictures, in place; Adam, its step size falling to zero along a half cosine.

    Args:
        eyes: see :class:`~quickstudy.methods.rl.perception.PoseNet`.
        picture: flattened.
        pose: what each shows.
        steps: optimiser steps.
        batch: pictures of a step, drawn with replacement.
        lr: first step size.
        generator: the only source of randomness.

    Shape:
        ``picture [n, seen]``, ``pose [n, pose]``.

    Raises:
        RunError: a loss is not finite.
    """
    descent = Descent(eyes, steps=steps, lr=lr, weight_decay=0.0, generator=generator, checkpoint=None)
    for step in range(steps):
        some = torch.randint(len(picture), (batch,), generator=generator)
        descent.step(step, eyes.losses(picture[some], pose[some]), mean)
