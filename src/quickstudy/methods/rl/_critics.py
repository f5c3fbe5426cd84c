"""Nets that value actions, and targets that follow them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn


class Critics(nn.Module):
    """k nets of one shape, evaluated in one call: each an independent opinion on the same inputs.

    Args:
        k: how many.
        sizes: widths from input to output.
        generator: draws the initial weights.
        before: what inputs go through first, all alike; its parameters are part of this, so a target has its own.

    Shape:
        ``[n, sizes[0]]``, or ``[k, n, sizes[0]]`` where each sees something else, to ``[k, n, sizes[-1]]``.
    """

    def __init__(
        self, k: int, sizes: Sequence[int], generator: torch.Generator, before: nn.Module | None = None
    ) -> None:
        super().__init__()
        weights, biases = [], []
        for i, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            scale = math.sqrt(2 / fan_in) if i < len(sizes) - 2 else 0.01 * math.sqrt(2 / fan_in)
            weights.append(nn.Parameter(scale * torch.randn(k, fan_in, fan_out, generator=generator)))
            biases.append(nn.Parameter(torch.zeros(k, 1, fan_out)))
        self.k, self.before = k, before
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Values; with ``frozen`` a gradient reaches the inputs and not the weights."""
        x = x if self.before is None else self.before(x, frozen=frozen)
        h = x if x.ndim == 3 else x.expand(self.k, *x.shape)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if frozen:
                weight, bias = weight.detach(), bias.detach()
            h = torch.baddbmm(bias, h.relu() if i else h, weight)
        return h


def each_its_own(nets: Critics, x: Tensor, task: Tensor, tasks: int, frozen: bool = False) -> Tensor:
    """What a task's own nets say of its inputs: rows are grouped by task, and each group goes through its own nets.

    Args:
        nets: k nets a task: ``tasks`` first ones, then ``tasks`` second ones, and so on.
        x: inputs.
        task: whose they are.
        tasks: how many there are.
        frozen: whether a gradient reaches the inputs and not the weights.

    Shape:
        ``x [n, i]``, ``task [n]``; gives ``[k, n, outputs]``.
    """
    order = task.argsort(stable=True)
    count, whose = torch.bincount(task, minlength=tasks), task[order]
    place = torch.arange(len(task), device=task.device) - (count.cumsum(0) - count)[whose]
    group = x.new_zeros(tasks, int(count.max()), x.shape[1])
    group[whose, place] = x[order]
    k = nets.k // tasks
    said = nets(group.repeat(k, 1, 1), frozen=frozen).unflatten(0, (k, tasks))[:, whose, place]
    return said[:, order.argsort()]


Net = TypeVar("Net", bound=nn.Module)


def target_of(module: Net) -> Net:
    """A copy that no optimiser moves."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, module: nn.Module, rate: float) -> None:
    r"""Move a target a little: :math:`\bar\theta \leftarrow \tau \theta + (1 - \tau) \bar\theta`."""
    torch._foreach_lerp_(_parameters(target), _parameters(module), rate)


def _parameters(module: nn.Module) -> list[Tensor]:
    """As ``parameters()``, in a third of the time: small nets move thousands of times a second."""
    return list(dict.fromkeys(p for part in module.modules() for p in part._parameters.values() if p is not None))
