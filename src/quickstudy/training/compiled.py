"""One program for a whole training step: sampled episodes in, losses and gradients out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from quickstudy.core import Batch, Episodes, Method, RunError
from quickstudy.methods._program import MOST_SHAPES, Program, compiled
from quickstudy.training._loop import Combine


class CompiledLosses:
    """A method's losses and the gradients of ``combine(losses)``, as one compiled program.

    The step is recorded with its backward pass, inner loops unrolled, and the record compiled as one graph. That way
    nothing is saved between a forward and a backward program, a third of the time where second derivatives are taken.
    Compiling takes up to minutes the first time; PyTorch keeps the result in ``TORCHINDUCTOR_CACHE_DIR``, so that
    the next run starts in seconds. The first step of each shape is taken both ways and compared.

    Args:
        method: its losses must be a function of parameters, buffers and episodes alone: nothing drawn at random, no
            branch that depends on the data, all constant tensors registered as buffers.
        combine: makes one number of the losses ``[T]``.

    Raises:
        RunError: the losses cannot be compiled, the program disagrees with the method, or the episodes have more
            than ``MOST_SHAPES`` different shapes.
    """

    def __init__(self, method: Method, combine: Combine) -> None:
        self.method, self.combine = method, combine
        parameters = dict(method.named_parameters())
        self._state: dict[str, Tensor] = parameters | dict(method.named_buffers())
        self._moving = [name for name, value in parameters.items() if value.requires_grad]
        self._programs: dict[tuple[object, ...], Program] = {}

    def __call__(self, episodes: Episodes) -> Tensor:
        """The losses ``[T]`` without history; writes the gradients to the parameters' ``.grad``."""
        data = _flat(episodes)
        shapes = tuple(None if value is None else (value.shape, value.dtype) for value in data)
        # without the parameters' own history: the record takes the gradient itself
        state = [value.detach() for value in self._state.values()]
        if shapes not in self._programs:
            self._programs[shapes] = self._compile(state, data)
        losses, *gradients = self._programs[shapes](state, data)
        for name, gradient in zip(self._moving, gradients, strict=True):
            own = self._state[name]
            # PyTorch's fused optimisers (2.13) read a gradient's memory in the order of the parameter's, whatever its
            # strides say: a transposed one would move the wrong numbers, without a word
            own.grad = gradient if gradient.stride() == own.stride() else torch.empty_like(own).copy_(gradient)
        return losses

    def _step(self, state: list[Tensor], data: list[Tensor | None]) -> list[Tensor]:
        """Losses and gradients, in plain PyTorch: what is recorded."""
        values = dict(zip(self._state, state, strict=True))
        for name in self._moving:
            values[name] = values[name].detach().requires_grad_()
        losses = functional_call(self.method, values, (_episodes(data),))
        gradients = torch.autograd.grad(
            self.combine(losses), [values[name] for name in self._moving], materialize_grads=True
        )
        return [losses.detach(), *gradients]

    def _compile(self, state: list[Tensor], data: list[Tensor | None]) -> Program:
        if len(self._programs) == MOST_SHAPES:
            raise RunError(
                f"Expected episodes of at most {MOST_SHAPES} different shapes to compile. Found one more. "
                "Train without compile, or on a family whose episodes are all of one size."
            )
        # what moves in the first call is a copy: running statistics are counted once
        return compiled(self._step, state, data, what="losses", whose=type(self.method).__name__)


def _flat(episodes: Episodes) -> list[Tensor | None]:
    s, q = episodes.support, episodes.query
    support, query = ([b.x, b.y, b.weight, b.unlabelled] for b in (s, q))
    return [*support, *query, episodes.task, episodes.classes]


def _episodes(data: list[Any]) -> Episodes:
    return Episodes(Batch(*data[:4]), Batch(*data[4:8]), *data[8:])
