"""Layers whose outputs a task's vector scales and shifts, put into a net that knows nothing of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quickstudy.core import InputError
from quickstudy.nets.basic import initialise

PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Conditioned(nn.Module):
    """A layer whose output ``[n, units, ...]`` (or ``[..., units]``) a context scales and shifts, or only shifts.

    The context is a buffer of zeros that a call replaces by the task's own.
    """

    def __init__(self, layer: nn.Module, units: int, size: int, scale: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.layer, self.scale, self.last = layer, scale, isinstance(layer, nn.Linear)
        self.film = nn.Linear(size, 2 * units if scale else units, bias=False)
        initialise(self.film, generator)
        with torch.no_grad():
            self.film.weight.div_(math.sqrt(2))  # no ReLU follows: the context's variance passes unchanged
        weight = next(layer.parameters())
        self.film.to(weight)
        self.register_buffer("context", torch.zeros(size).to(weight), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: as the layer's."""
        h: Tensor = self.layer(x)
        change = self.film(self.get_buffer("context"))
        if not self.last:
            change = change.view(-1, *(1,) * (h.ndim - 2))
        if not self.scale:
            return h + change
        gamma, beta = change.chunk(2)
        return (1 + gamma) * h + beta


def condition(net: nn.Module, size: int, generator: torch.Generator) -> list[str]:
    """Wrap the layers where the context enters; gives their names.

    These are the layers that normalise channels; in a net without such, its convolutions but a last one that gives the
    outputs; in one without either, its first linear layer, which is then shifted alone.

    Raises:
        InputError: the net has none of them.
    """
    parts = [(name, part) for name, part in net.named_modules() if name]
    norms = [
        (name, part)
        for name, part in parts
        if "Norm" in type(part).__name__ and not getattr(part, "dims", 0) and getattr(part, "weight", None) is not None
    ]
    plain = [(name, part) for name, part in parts if type(part) in PLAIN]
    convolutions = [(name, part) for name, part in plain if not isinstance(part, nn.Linear)]
    if len(convolutions) > 1 and convolutions[-1][0] == plain[-1][0]:
        convolutions = convolutions[:-1]
    chosen = norms or convolutions or plain[:1]
    if not chosen:
        raise InputError(
            "Expected a net with linear, convolutional or normalisation layers inside, where a context can enter. "
            f"Found none in {type(net).__name__}. Put the layer in a Sequential, or name another net."
        )
    for name, part in chosen:
        where, _, last = name.rpartition(".")
        units = part.weight.shape[0]
        scale = not isinstance(part, nn.Linear)
        setattr(net.get_submodule(where), last, Conditioned(part, int(units), size, scale, generator))
    return [name for name, _ in chosen]
