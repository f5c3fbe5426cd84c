"""Images that are flipped and shifted at random."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core import Batch, Episodes, InputError, TaskFamily


class Augmented:
    """A family whose images are mirrored and shifted, each by chance of its own: for training, never for judging.

    Args:
        family: of images.
        flip: chance of an image to be mirrored left to right; 0 for what has a left and a right, such as characters.
        shift: most pixels to move by, up or down and left or right; black comes in.

    Shape:
        episodes as the family's, x ``[T, n, channels, height, width]``.

    Raises:
        InputError: inputs that are no images.
    """

    def __init__(self, family: TaskFamily, *, flip: float = 0.5, shift: int = 4) -> None:
        if len(family.problem.x_shape) != 3 or not 0 <= flip <= 1 or shift < 0:
            raise InputError(
                "Expected images [channels, height, width], a chance from 0 to 1, a shift of at least 0. Found x_shape "
                f"{family.problem.x_shape}, {flip} and {shift}."
            )
        self.family, self.problem = family, family.problem
        self.flip, self.shift = flip, shift

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Episodes of n tasks, their images changed; what is changed is drawn on the processor."""
        episodes = self.family.sample(n, generator)
        support, query = (self._changed(half, generator) for half in (episodes.support, episodes.query))
        return replace(episodes, support=support, query=query)

    def _changed(self, batch: Batch, generator: torch.Generator) -> Batch:
        x, unlabelled = batch.x, batch.unlabelled
        more = None if unlabelled is None else self._images(unlabelled, generator)
        return replace(batch, x=self._images(x, generator), unlabelled=more)

    def _images(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: ``[T, n, channels, height, width]`` to the same."""
        n, (height, width) = x.shape[0] * x.shape[1], x.shape[-2:]
        mirrored = (torch.rand(x.shape[:2], generator=generator) < self.flip).to(x.device)[..., None, None, None]
        down, right = torch.randint(2 * self.shift + 1, (2, n, 1), generator=generator).to(x.device)
        flat = F.pad(x.flip(-1).where(mirrored, x).flatten(0, 1), (self.shift,) * 4)
        rows = down + torch.arange(height, device=x.device)  # [T n, height]
        columns = right + torch.arange(width, device=x.device)
        image = torch.arange(n, device=x.device)[:, None, None]
        moved = flat[image, :, rows.unsqueeze(2), columns.unsqueeze(1)]  # [T n, height, width, channels]
        return moved.permute(0, 3, 1, 2).unflatten(0, x.shape[:2])
