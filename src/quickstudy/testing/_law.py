"""What a law is, how a broken one is told, and how results are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from quickstudy.core import Prediction, QuickstudyError

TOLERANCE = 1e-6  # the laws are checked in float64, where honest differences are a million times smaller

Subject = TypeVar("Subject")
Law = Callable[[Subject], None]


class ConformanceError(QuickstudyError, AssertionError):
    """One or more laws are broken.

    Attributes:
        laws: the names of the broken laws.
    """

    def __init__(self, message: str, laws: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.laws = laws


def broken(expected: str, found: str, fix: str) -> ConformanceError:
    """The error of one law, in words."""
    return ConformanceError(f"Expected {expected}. Found {found}. {fix}")


def name_of(law: Law[Subject]) -> str:
    """A law's name, as reports write it: its function's name in words."""
    return law.__name__.replace("_", " ")


def obey(law: Law[Subject], subject: Subject) -> ConformanceError | None:
    """What is wrong, if anything. Whatever else the code under test raises breaks the law too."""
    try:
        law(subject)
    except ConformanceError as error:
        return error
    except Exception as error:  # noqa: BLE001 (code under test may fail in any way; the report says how)
        wrong = broken("no error", f"{type(error).__name__}: {error}", "Correct the code that raises it.")
        wrong.__cause__ = error
        return wrong
    return None


def report(who: str, found: Sequence[tuple[str, str, ConformanceError]]) -> None:
    """Raise one error for all broken laws ``(law, where, error)``; the same law is told once.

    Raises:
        ConformanceError: there are any.
    """
    if not found:
        return
    lines = []
    names = tuple(dict.fromkeys(law for law, _, _ in found))
    for number, law in enumerate(names, 1):
        first, *others = [(where, error) for name, where, error in found if name == law]
        also = f" (also: {', '.join(where for where, _ in others)})" if others else ""
        lines.append(f"{number}. {law}, on {first[0]}{also}.\n   {first[1]}")
    raise ConformanceError(f"{who} breaks {len(names)} law(s).\n" + "\n".join(lines), names) from found[0][2].__cause__


def numbers(prediction: Prediction) -> Tensor:
    """A prediction as plain numbers; a distribution as its mean and its variance. Shape: ``[T, m, ...]``."""
    if isinstance(prediction, Distribution):
        return torch.cat([prediction.mean, prediction.variance], -1).detach()
    return prediction.detach()


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the size of ``b``'s entry where that is above 1; NaN differs from all."""
    if a.shape != b.shape:
        return torch.inf
    gap = (a - b).abs() / b.abs().clamp_min(1)
    return float(gap.where(a != b, 0.0).nan_to_num(nan=torch.inf).max()) if a.numel() else 0.0


def must_agree(found: Tensor, expected: Tensor, what: str, fix: str) -> None:
    """Raise unless two results are the same to within rounding."""
    gap = difference(found, expected)
    if gap > TOLERANCE:
        raise broken(what, f"a difference of {gap:.2g}", fix)


def global_state() -> tuple[bytes, bytes]:
    """The state of torch's and numpy's global generators."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 (looked at, not drawn from)
    return torch.get_rng_state().numpy().tobytes(), repr(numpy_state).encode()


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """New tensors are of this type for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
