"""One program for a whole training step: what was sampled in, losses and gradients out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from quickstudy.combine import ByTask
from quickstudy.core import InputError, Method, RunError
from quickstudy.methods._program import MOST_SHAPES, Program, captured, compiled
from quickstudy.training._loop import Combine


class CompiledLosses:
    """A method's losses and the gradients of ``combine(losses)``, as one compiled program.

    The step is recorded with its backward pass, inner loops unrolled, and the record compiled as one graph. That way
    nothing is saved between a forward and a backward program, a third of the time where second derivatives are taken.
    Compiling takes up to minutes the first time; PyTorch keeps the result in ``TORCHINDUCTOR_CACHE_DIR``, so that
    the next run starts in seconds. On CUDA, where the time goes to launching many small kernels, the step's own kernels
    are captured as one CUDA graph instead, in less than a second. The first step of each shape is taken both ways and
    compared.

    Args:
        method: its losses must be a function of parameters, buffers and data alone: nothing drawn at random, no
            branch that depends on the data, all constant tensors registered as buffers.
        combine: makes one number of the losses ``[T]``.

    Raises:
        InputError: the combination takes gradients task by task, which is no part of one program.
        RunError: the losses cannot be compiled, the program disagrees with the method, or the data have more
            than ``MOST_SHAPES`` different shapes.
    """

    def __init__(self, method: Method, combine: Combine) -> None:
        if isinstance(combine, ByTask):
            raise InputError(
                f"Expected a combination that is a function of the losses alone, to compile. Found "
                f"{type(combine).__name__}, which goes by tasks and draws. Train without compile."
            )
        self.method, self.combine = method, combine
        parameters = dict(method.named_parameters())
        self._state: dict[str, Tensor] = parameters | dict(method.named_buffers())
        self._moving = [name for name, value in parameters.items() if value.requires_grad]
        self._programs: dict[tuple[object, ...], Program] = {}

    def __call__(self, given: Any) -> Tensor:
        """The losses ``[T]`` without history; writes the gradients to the parameters' ``.grad``.

        Args:
            given: what the method takes losses of, a dataclass of tensors: episodes, trials, replayed steps.
        """
        data = _flat(given)
        shapes = tuple(None if value is None else (value.shape, value.dtype) for value in data)
        # without the parameters' own history: the record takes the gradient itself
        state = [value.detach() for value in self._state.values()]
        if shapes not in self._programs:
            self._programs[shapes] = self._compile(given, state, data)
        losses, *gradients = self._programs[shapes](state, data)
        for name, gradient in zip(self._moving, gradients, strict=True):
            own = self._state[name]
            # PyTorch's fused optimisers (2.13) read a gradient's memory in the order of the parameter's, whatever its
            # strides say: a transposed one would move the wrong numbers, without a word
            own.grad = gradient if gradient.stride() == own.stride() else torch.empty_like(own).copy_(gradient)
        return losses

    def _step_on(self, given: Any) -> Callable[[list[Tensor], list[Tensor | None]], list[Tensor]]:
        """Losses and gradients on data like these, in plain PyTorch: what is recorded."""

        def step(state: list[Tensor], data: list[Tensor | None]) -> list[Tensor]:
            values = dict(zip(self._state, state, strict=True))
            for name in self._moving:
                values[name] = values[name].detach().requires_grad_()
            losses = functional_call(self.method, values, (_like(given, iter(data)),))
            gradients = torch.autograd.grad(
                self.combine(losses), [values[name] for name in self._moving], materialize_grads=True
            )
            return [losses.detach(), *gradients]

        return step

    def _compile(self, given: Any, state: list[Tensor], data: list[Tensor | None]) -> Program:
        if len(self._programs) == MOST_SHAPES:
            raise RunError(
                f"Expected data of at most {MOST_SHAPES} different shapes to compile. Found one more. "
                "Train without compile, or on a family whose episodes are all of one size."
            )
        record = captured if state[0].is_cuda else compiled
        return record(self._step_on(given), state, data, what="losses", whose=type(self.method).__name__)


def _flat(given: Any) -> list[Tensor | None]:
    """All tensors of a dataclass, in the order of its fields."""
    values = [getattr(given, field.name) for field in fields(given)]
    return [part for value in values for part in (_flat(value) if is_dataclass(value) else [value])]


def _like(given: Any, data: Iterator[Tensor | None]) -> Any:
    """A dataclass with other tensors in the same places."""
    values = {field.name: getattr(given, field.name) for field in fields(given)}
    return replace(
        given, **{name: _like(value, data) if is_dataclass(value) else next(data) for name, value in values.items()}
    )
