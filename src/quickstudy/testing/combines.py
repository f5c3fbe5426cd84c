"""The laws of a function that makes one number of the losses, one function each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.testing._law import Law, broken, must_agree, name_of, obey, report


@dataclass(frozen=True)
class _Subject:
    """The function, and whether all tasks are alike to it."""

    combine: Callable[[Tensor], Tensor]
    symmetric: bool


def check_combine(combine: Callable[[Tensor], Tensor], *, symmetric: bool = True) -> None:
    """Check a function ``[T] -> []`` that makes one number of the losses of T tasks.

    Args:
        combine: the function.
        symmetric: False where each task has its own weight, so that the order of the tasks does matter.

    Raises:
        ConformanceError: lists each broken law: what was expected, what was found, how to mend it.
    """
    subject = _Subject(combine, symmetric)
    found = []
    for law in COMBINE_LAWS:
        error = obey(law, subject)
        if error is not None:
            found.append((name_of(law), "losses of 5 tasks", error))
    report(getattr(combine, "__name__", type(combine).__name__), found)


def one_number_comes_out(subject: _Subject) -> None:
    """``[T]`` goes in, a finite ``[]`` comes out, and the losses are left as they were."""
    losses = _losses()
    before = losses.detach().clone()
    value = subject.combine(losses)
    if value.ndim:
        raise broken("a single number, shape []", f"shape {list(value.shape)}", "Sum or average over the tasks.")
    if not bool(torch.isfinite(value)):
        raise broken("a finite number", f"{float(value)}", "Look for a division by zero or the log of zero.")
    if not torch.equal(losses, before):
        raise broken("the losses as they were", "other ones", "Work on a copy.")


def the_gradient_reaches_the_losses(subject: _Subject) -> None:
    """The number has a gradient in the losses: finite, not zero, and none of it uphill."""
    losses = _losses()
    value = subject.combine(losses)
    if not value.requires_grad:
        raise broken("a number with a gradient", "one without", "Do not detach the losses.")
    (gradient,) = torch.autograd.grad(value, losses)
    if not bool(torch.isfinite(gradient).all()):
        raise broken("a finite gradient", f"{gradient.tolist()}", "Look for a root or a log at zero.")
    if not bool(gradient.any()):
        raise broken("a gradient", "zero for every task", "Do not detach the losses.")
    if bool((gradient < 0).any()):
        raise broken(
            "that no task's loss is driven up (gradient of 0 or more in each loss)",
            f"{gradient.tolist()}",
            "Weigh tasks by numbers of 0 or more.",
        )


def tasks_are_alike(subject: _Subject) -> None:
    """The order of the tasks is without effect."""
    if not subject.symmetric:
        return
    losses = _losses().detach()
    must_agree(
        subject.combine(losses.flip(0)).reshape(-1),
        subject.combine(losses).reshape(-1),
        "the same number for the tasks in another order",
        "Treat all tasks alike, or check with symmetric=False.",
    )


COMBINE_LAWS: tuple[Law[_Subject], ...] = (
    one_number_comes_out,
    the_gradient_reaches_the_losses,
    tasks_are_alike,
)


def _losses() -> Tensor:
    return torch.tensor([0.5, 2.0, 0.1, 1.0, 0.7], dtype=torch.float64, requires_grad=True)
