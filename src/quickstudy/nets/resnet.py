"""ResNet-12: the residual encoder that few-shot papers use where four blocks are too few."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import InputError
from quickstudy.nets.basic import Norm, initialise, norm_layer

SLOPE = 0.1  # of the leaky ReLU
WIDTHS = (1.0, 2.5, 5.0, 10.0)  # of the blocks, in units of the first: 64, 160, 320, 640


class DropBlock(nn.Module):
    """Sets squares of each feature map to zero while training, and scales the rest up; in eval mode, nothing.

    Args:
        rate: share of a map that is dropped, about.
        size: side of a square, at most that of the map.
        generator: where squares are drawn from. Training draws from nothing else, so that it can be repeated.

    Shape:
        ``[n, channels, height, width]`` to the same.

    Reference:
        Ghiasi, Lin, Le 2018, DropBlock, arXiv:1810.12890, equation 1. The rate is constant, and what is left is
        scaled by the whole batch's share, as there.
    """

    def __init__(self, rate: float, size: int = 5, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not 0 <= rate < 1 or size < 1:
            raise InputError(f"Expected a rate from 0 to below 1 and squares of at least 1. Found {rate}, {size}.")
        if rate > 0 and generator is None:
            raise InputError(
                f"Expected a generator to draw the squares of DropBlock from. Found none, with rate {rate:g}. "
                "Give one, or the rate 0."
            )
        self.rate, self.size = rate, size
        self._generator = generator

    def __deepcopy__(self, memo: dict[int, Any]) -> DropBlock:
        """A generator is copied with its state, which Python alone can't; what shared it shares the copy."""
        mine = self._generator
        if mine is not None and id(mine) not in memo:
            memo[id(mine)] = mine.clone_state()
        return DropBlock(self.rate, self.size, None if mine is None else memo[id(mine)]).train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """Drop squares, or pass through."""
        if not self.training or self.rate == 0:
            return x
        height, width = x.shape[-2:]
        size = min(self.size, height, width)
        # centres lie so that a whole square fits; gamma makes the expected share about the rate
        gamma = self.rate / size**2 * height * width / ((height - size + 1) * (width - size + 1))
        shape = (*x.shape[:-2], height - size + 1, width - size + 1)
        corner = (torch.rand(shape, generator=self._generator) < gamma).to(x)
        dropped = F.max_pool2d(F.pad(corner, (size - 1,) * 4), size, 1)
        kept = 1 - dropped
        return x * kept * (kept.numel() / kept.sum().clamp_min(1.0))


class _Block(nn.Module):
    """Three convolutions beside one of 1 x 1, then the sum's leaky ReLU and 2 x 2 max-pooling."""

    def __init__(self, fan_in: int, width: int, norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.Conv2d(fan_in if i == 0 else width, width, 3, 1, 1, bias=norm == "none")]
            layers += norm_layer(norm, width)
            if i < 2:
                layers.append(nn.LeakyReLU(SLOPE))
        self.main = nn.Sequential(*layers)
        self.side = nn.Sequential(nn.Conv2d(fan_in, width, 1, bias=norm == "none"), *norm_layer(norm, width))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, fan_in, height, width]`` to ``[n, width, height // 2, width // 2]``."""
        return F.max_pool2d(F.leaky_relu(self.main(x) + self.side(x), SLOPE), 2)


class ResNet12(nn.Sequential):
    """Four residual blocks of three 3 x 3 convolutions each; leaky ReLU of slope 0.1, max-pooling.

    12,424,320 parameters at the usual width for colour images: 12.4 million.

    Args:
        channels: colour channels of the input.
        width: filters of the first block; the others have 2.5, 5 and 10 times as many (64, 160, 320, 640).
        norm: as for :class:`~quickstudy.nets.basic.Conv4`.
        generator: draws the initial weights.
        pool: ``"mean"`` averages the last maps, ``"flatten"`` keeps all their numbers.
        drop: share that DropBlock leaves out after the third and fourth block while training; 0 turns it off.
        drop_generator: where DropBlock draws from; must be given where ``drop`` is not 0.

    Shape:
        ``[n, channels, height, width]``, at least 16 pixels a side, to ``[n, features]``: 10 times the width, times
        ``height // 16 * width // 16`` where they are flattened.

    Reference:
        Lee et al. 2019 (MetaOptNet), arXiv:1904.03758, section 4.1; the block is that of Oreshkin et al. 2018
        (TADAM). Departs from it in dropout after the first two blocks (none here), and in that DropBlock's rate does
        not grow over training.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        norm: Norm = "running",
        generator: torch.Generator | None = None,
        *,
        pool: Literal["mean", "flatten"] = "mean",
        drop: float = 0.0,
        drop_generator: torch.Generator | None = None,
    ) -> None:
        if width < 1 or channels < 1:
            raise InputError(f"Expected at least one channel and filter. Found channels {channels}, width {width}.")
        widths = [round(width * factor) for factor in WIDTHS]
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(zip((channels, *widths[:-1]), widths, strict=True)):
            layers.append(_Block(fan_in, fan_out, norm))
            if drop > 0 and i >= 2:
                layers.append(DropBlock(drop, generator=drop_generator))
        if pool == "mean":
            layers.append(nn.AdaptiveAvgPool2d(1))
        super().__init__(*layers, nn.Flatten())
        initialise(self, generator)
