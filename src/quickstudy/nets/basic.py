"""The two nets of the field: a multi-layer perceptron and the four-block convolutional encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from quickstudy.core import InputError, Problem

Norm = Literal["running", "batch", "none"]
WIDTH = 32  # filters where nobody names a number: MAML's on miniImageNet; the usual 64 cost 2.5 times as much


class MLP(nn.Sequential):
    """Linear layers with ReLU between them.

    Args:
        sizes: widths from input to output, for example ``(1, 40, 40, 1)``.
        generator: draws the initial weights.

    Shape:
        ``[..., sizes[0]]`` to ``[..., sizes[-1]]``; any leading axes.
    """

    def __init__(self, sizes: Sequence[int], generator: torch.Generator | None = None) -> None:
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            if i:
                layers.append(nn.ReLU())
            layers.append(nn.Linear(fan_in, fan_out))
        super().__init__(*layers)
        initialise(self, generator)


class _BatchNorm(nn.Module):
    """Batch normalisation with the statistics of the very batch it is given, at test time too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        # written out: under vmap the fused F.batch_norm has a wrong second derivative (torch 2.13, by 1 to 15 %),
        # because the mean and deviation that it keeps for the backward pass count as constants there
        axes, shape = (0, *range(2, x.ndim)), (-1, *(1,) * (x.ndim - 2))
        centred, scale = centre_and_scale(x, axes, 1e-5)
        return centred * (scale * self.weight.view(shape)) + self.bias.view(shape)


def centre_and_scale(x: Tensor, axes: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
    """``x`` less its mean over ``axes``, and one over its deviation there.

    Each pass over ``x`` is one over a batch of images of every task, and derivatives double them. So sums stand for
    means and a product for a square: what divides and what is subtracted is then one number a channel.
    """
    share = math.prod(x.shape[i] for i in axes)
    centred = x + x.sum(axes, keepdim=True) * (-1 / share)
    return centred, ((centred * centred).sum(axes, keepdim=True) * (1 / share) + eps).rsqrt()


def norm_layer(norm: Norm, channels: int) -> list[nn.Module]:
    """The layer that ``norm`` names, in a list that is empty for none."""
    if norm == "none":
        return []
    return [nn.BatchNorm2d(channels) if norm == "running" else _BatchNorm(channels)]


class Conv4(nn.Sequential):
    """Four blocks of 3x3 convolution, normalisation, ReLU; each halves the image by its stride.

    Strides in place of pooling follow MAML's Omniglot net and cost a quarter of the pooled net's time.

    Args:
        channels: colour channels of the input.
        width: filters of each block, or of all four: ``(96, 192, 384, 512)`` are R2-D2's.
        norm: ``"running"`` keeps running statistics and uses them in eval mode (metric methods);
            ``"batch"`` always uses the statistics of the batch at hand, hence is transductive
            (MAML's setting, and the one that works inside ``vmap``); ``"none"``.
        generator: draws the initial weights.
        pool: halve by 2x2 max-pooling after the ReLU, in place of strides; needs 16 pixels a side.

    Shape:
        ``[n, channels, height, width]`` to ``[n, features]``; pooling rounds odd sides down, strides up.

    Reference:
        Finn et al. 2017, section 5.2 (strided convolutions); Vinyals et al. 2016 (four blocks of 64, pooled);
        Bertinetto et al. 2019, arXiv:1805.08136 (four widths; there ReLUs are leaky, the third block's output is
        kept beside the fourth's, and there is dropout).
    """

    def __init__(
        self,
        channels: int = 1,
        width: int | tuple[int, int, int, int] = 64,
        norm: Norm = "running",
        generator: torch.Generator | None = None,
        *,
        pool: bool = False,
    ) -> None:
        widths = (width,) * 4 if isinstance(width, int) else width
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip((channels, *widths[:-1]), widths, strict=True):
            layers.append(nn.Conv2d(fan_in, fan_out, 3, 1 if pool else 2, 1, bias=norm == "none"))
            layers += norm_layer(norm, fan_out)
            layers.append(nn.ReLU())
            if pool:
                layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.Flatten())
        initialise(self, generator)


def initialise(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw all linear and convolutional weights again, He et al. 2015, from a generator of one's own."""
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def is_image(problem: Problem) -> bool:
    """Whether inputs are images that a convolutional net is worth its time on: at least 12 pixels a side."""
    return len(problem.x_shape) == 3 and min(problem.x_shape[1:]) >= 12


def is_large(problem: Problem) -> bool:
    """Whether a step on these inputs is dear, so that studies take fewer: images, and vectors of over 256 numbers."""
    return is_image(problem) or math.prod(problem.x_shape) > 256


def encoder_for(
    problem: Problem,
    norm: Norm = "running",
    generator: torch.Generator | None = None,
    width: int = WIDTH,
) -> tuple[nn.Module, int]:
    """An encoder that suits the inputs, and the number of its features.

    Images (:func:`is_image`) get :class:`Conv4`; everything else an
    :class:`MLP` on the flattened input, of two hidden layers, 64 wide; for more than 256 inputs of one, 512 wide
    (on Tox21's fingerprints .787 for heads on it against .770 on 256 and 64, a second layer adding nothing).
    """
    shape = problem.x_shape
    if is_image(problem):
        encoder: nn.Module = Conv4(shape[0], width, norm, generator)
        with torch.no_grad():
            side = Conv4(shape[0], 1, "none")(torch.zeros(1, *shape)).shape[1]
        return encoder, side * width
    size = math.prod(shape)
    if size == 0:
        raise InputError(f"Expected inputs with at least one number. Found x_shape {shape}.")
    hidden = (512,) if size > 256 else (64, 64)
    mlp = nn.Sequential(nn.Flatten(), *MLP((size, *hidden), generator), nn.ReLU())
    return mlp, hidden[-1]


def net_for(
    problem: Problem,
    norm: Norm = "running",
    generator: torch.Generator | None = None,
    n_outputs: int | None = None,
    width: int = WIDTH,
) -> nn.Sequential:
    """:func:`encoder_for` with a linear head on top: ``net[0]`` is the trunk, ``net[1]`` the head.

    Shape:
        ``[n, *x]`` to ``[n, n_outputs]``.
    """
    trunk, features = encoder_for(problem, norm, generator, width)
    head = nn.Linear(features, problem.n_outputs if n_outputs is None else n_outputs)
    initialise(head, generator)
    with torch.no_grad():
        head.weight.mul_(0.1)  # first predictions near zero, the mean of the targets: tables have few steps to unlearn
    return nn.Sequential(trunk, head)
