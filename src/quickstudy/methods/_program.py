"""Functions of tensors alone, recorded once and compiled, or captured as the kernels that they launch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from quickstudy.core import RunError

MOST_SHAPES = 4  # each takes up to minutes to compile
Program = Callable[..., list[Tensor]]


def compiled(step: Callable[..., list[Tensor]], *inputs: list[Any], what: str, whose: str) -> Program:
    """``step`` as one compiled program for inputs of these very shapes, called once and compared.

    Args:
        step: makes tensors of lists of tensors and None, and of nothing else: what it draws, or decides by looking at
            numbers, would stay as it was when recorded.
        inputs: the lists that it is recorded on.
        what: for the message, what is compiled.
        whose: for the message, the name of whom it belongs to.

    Raises:
        RunError: the step cannot be compiled, or the program's results are not the step's.
    """
    # the record is a list of tensor operations: nothing but its inputs can change between calls
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe}
    if inputs[0][0].device.type == "cpu":
        options["cpp_wrapper"] = True  # kernels this small take as long to call from Python as to run
    fresh = lambda values: [None if value is None else value.clone() for value in values]  # noqa: E731
    try:
        with warnings.catch_warnings(action="ignore"):  # the compiler's own deprecations are not the caller's
            record = make_fx(lambda *given: step(*given), tracing_mode="fake")(*inputs)
            program: Program = torch.compile(record, fullgraph=True, options=options)
            found = program(fresh(inputs[0]), *inputs[1:])
    except (RuntimeError, AssertionError) as error:
        raise RunError(
            f"Expected {what} that can be compiled. Found {whose}, which stopped with: {error}. Train without compile."
        ) from error
    _same(found, step(fresh(inputs[0]), *inputs[1:]), 0.01, f"compiled {what}", whose)
    return program


def captured(
    step: Callable[..., list[Tensor]], state: list[Tensor], data: list[Tensor | None], *, what: str, whose: str
) -> Program:
    """``step`` as one CUDA graph: all its kernels in one launch; called once and compared.

    The state is read where it lies, and what the step writes there is written there; data of the same shapes are copied
    into the graph's own. What a call gives lies in the graph's memory too: the next call overwrites it.

    Args:
        step: makes tensors of state and data, and of nothing else, without a look at any number.
        state: parameters and buffers, on CUDA, which stay where they are.
        data: what it is captured on.
        what: for the message, what is captured.
        whose: for the message, the name of whom it belongs to.

    Raises:
        RunError: the step cannot be captured, its results are not the step's, or the state has moved.
    """
    held = [None if value is None else value.clone() for value in data]
    before, places = [value.clone() for value in state], [value.data_ptr() for value in state]
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(aside):
            for _ in range(3):  # libraries choose their kernels in the first calls
                step(state, held)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            found = step(state, held)
    except RuntimeError as error:
        raise RunError(
            f"Expected {what} that can be captured. Found {whose}, which stopped with: {error}. Train without compile."
        ) from error

    def put_back() -> None:
        for value, old in zip(state, before, strict=True):
            value.copy_(old)

    def program(now: list[Tensor], given: list[Tensor | None]) -> list[Tensor]:
        if [value.data_ptr() for value in now] != places:
            raise RunError(f"Expected the parameters of {whose} where they were at its first step. Found them moved.")
        own, new = ([value for value in values if value is not None] for values in (held, given))
        torch._foreach_copy_(own, new)
        graph.replay()
        return found

    put_back()  # running statistics have seen the first data three times
    found_then = [value.clone() for value in program(state, data)]
    put_back()
    # kernels that add up in any order, in half precision, are not the same twice
    _same(found_then, step([value.clone() for value in state], data), 0.05, f"captured {what}", whose)
    return program


def _same(found: list[Tensor], expected: list[Tensor], share: float, what: str, whose: str) -> None:
    """Raise where a program's results are not those of the plain step, but for a share of their length."""
    for ours, theirs in zip(found, expected, strict=True):
        if not bool((ours - theirs).norm() <= share * theirs.norm() + 1e-6):
            raise RunError(
                f"Expected the {what} to give the results of the plain one. Found a difference "
                f"of {float((ours - theirs).norm()):.3g} in a vector of length {float(theirs.norm()):.3g}. "
                f"Train without compile; if {whose} draws nothing at random, report this."
            )
