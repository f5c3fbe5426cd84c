"""Functions of tensors alone, recorded once and compiled."""

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
    for ours, theirs in zip(found, step(fresh(inputs[0]), *inputs[1:]), strict=True):
        if not bool((ours - theirs).norm() <= 0.01 * theirs.norm() + 1e-6):
            raise RunError(
                f"Expected the compiled {what} to give the results of the plain one. Found a difference "
                f"of {float((ours - theirs).norm()):.3g} in a vector of length {float(theirs.norm()):.3g}. "
                f"Train without compile; if {whose} draws nothing at random, report this."
            )
    return program
