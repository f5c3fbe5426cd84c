"""Nets from a few words: what a search over architectures chooses from, each as wide as a budget allows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from quickstudy.core import InputError, Problem
from quickstudy.nets.basic import Norm, initialise, norm_layer

STEP = 2  # widths are multiples of it
WIDEST = 1024


@dataclass(frozen=True)
class NetSpec:
    """A stack of blocks under a linear head. The defaults are the net of :func:`~quickstudy.nets.net_for` on images.

    A block is a layer without ``norm``'s bias, normalisation, ReLU. On images the layer is a convolution, on anything
    else it is linear on the flattened input, and ``kernels``, ``halvings``, ``where`` and ``head`` are without effect.

    Args:
        depth: blocks.
        kernels: sides of the blocks' kernels, walked through again and again: ``(3, 1)`` takes 3, 1, 3, 1, ...
        halvings: how many blocks have stride 2.
        where: which of them: the ``"first"``, or ``"spread"`` over all, the first block being one.
        norm: as in :class:`~quickstudy.nets.Conv4`; ``"batch"`` and ``"none"`` work in inner loops.
        skip: add a block's input to its output where both have one shape.
        double: twice the width behind each halving but the first.
        head: the head reads the ``"flat"`` map, or its ``"mean"`` over places.
        width: units of the first block.
    """

    depth: int = 4
    kernels: tuple[int, ...] = (3,)
    halvings: int = 4
    where: Literal["first", "spread"] = "first"
    norm: Norm = "batch"
    skip: bool = False
    double: bool = False
    head: Literal["flat", "mean"] = "flat"
    width: int = 32

    def __post_init__(self) -> None:
        if self.depth < 1 or self.width < 1 or not self.kernels:
            raise InputError(f"Expected at least one block, one unit and one kernel. Found {self}.")
        if any(side % 2 == 0 for side in self.kernels):
            raise InputError(f"Expected odd kernels, which keep a map's size. Found {self.kernels}.")

    def build(self, problem: Problem, generator: torch.Generator | None = None) -> nn.Sequential:
        """The net: ``net[0]`` the trunk, ``net[1]`` the head. Shape: ``[n, *x]`` to ``[n, outputs]``."""
        images = len(problem.x_shape) == 3
        blocks: list[nn.Module] = [] if images else [nn.Flatten()]
        size = problem.x_shape[0] if images else math.prod(problem.x_shape)
        width = self.width
        for i in range(self.depth):
            halved = images and self._halves(i)
            width *= 2 if self.double and halved and i else 1
            bias = self.norm == "none"
            if images:
                side = self.kernels[i % len(self.kernels)]
                layer: nn.Module = nn.Conv2d(size, width, side, 2 if halved else 1, side // 2, bias=bias)
            else:
                layer = nn.Linear(size, width, bias=bias)
            parts = [layer, *norm_layer(self.norm, width), nn.ReLU()]
            if self.skip and size == width and not halved:
                blocks.append(_Skip(*parts))
            else:
                blocks += parts
            size = width
        if images:
            blocks += [nn.AdaptiveAvgPool2d(1)] if self.head == "mean" else []
            blocks.append(nn.Flatten())
        trunk = nn.Sequential(*blocks)
        with torch.no_grad():
            features = trunk(torch.zeros(2, *problem.x_shape)).shape[1]
        head = nn.Linear(features, problem.n_outputs)
        initialise(trunk, generator)
        initialise(head, generator)
        with torch.no_grad():
            head.weight.mul_(0.1)  # first predictions near zero, as in net_for
        return nn.Sequential(trunk, head)

    def _halves(self, i: int) -> bool:
        n = min(self.halvings, self.depth)
        if self.where == "first":
            return i < n
        return n > 0 and i in {round(k * self.depth / n) for k in range(n)}


class _Skip(nn.Sequential):
    """``x + f(x)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape: as the input."""
        y: Tensor = x + super().forward(x)
        return y


@dataclass(frozen=True)
class Cost:
    """What a net costs.

    Args:
        parameters: numbers that are learned.
        products: multiplications of a weight with an input, for one example.
    """

    parameters: int
    products: int

    def within(self, other: Cost) -> bool:
        """Whether neither is larger."""
        return self.parameters <= other.parameters and self.products <= other.products


def cost(net: nn.Module, x_shape: tuple[int, ...]) -> Cost:
    """Count a net's parameters, and the products in its linear and two-dimensional convolutional layers."""
    products = 0

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal products
        weight = layer.get_parameter("weight")
        products += output[0].numel() * weight[0].numel()

    layers = [part for part in net.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(2, *x_shape))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return Cost(sum(value.numel() for value in net.parameters()), products)


def widest(spec: NetSpec, problem: Problem, cap: Cost) -> NetSpec:
    """The same net with the largest width, a multiple of ``STEP``, that stays within a budget.

    So nets of different shape are compared at one price, and a search does not spend its trials on finding that larger
    nets are better.

    Raises:
        InputError: the narrowest one costs more.
    """
    fits = lambda k: cost(replace(spec, width=STEP * k).build(problem), problem.x_shape).within(cap)  # noqa: E731
    if not fits(1):
        raise InputError(f"Expected a net within {cap} at width {STEP}. Found that {spec} costs more. Raise the cap.")
    low, high = 1, 2
    while STEP * high <= WIDEST and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if STEP * middle <= WIDEST and fits(middle) else (low, middle)
    return replace(spec, width=STEP * low)
