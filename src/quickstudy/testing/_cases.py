"""Small made-up problems, and a method set up on one of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Problem

Factory = Callable[[Problem], Method]

TASKS = 4
PROBLEMS = {
    "class episodes": Problem((3,), "classification", 3, n_classes=7, shared_labels=False),
    "images": Problem((1, 12, 12), "classification", 2, n_classes=5, shared_labels=False),
    "tables of classes": Problem((3,), "classification", 2, n_tasks=5),
    "tables of images": Problem((1, 12, 12), "classification", 2, n_tasks=4),
    "tables of numbers": Problem((3,), "regression", 2, n_tasks=5, metric="explained variance"),
    "new regressions": Problem((1,), "regression", 1, metric="explained variance"),
}


@dataclass(frozen=True)
class Case:
    """A problem with episodes in float64, and the factory whose methods are checked on it.

    Args:
        name: what the problem is called in reports.
        factory: makes the method.
        problem: what it is made for.
        episodes: of ``TASKS`` tasks.
    """

    name: str
    factory: Factory
    problem: Problem
    episodes: Episodes

    def method(self, *, train: bool = False) -> Method:
        """A new one in float64, moved to a generic point: first weights that are zero would hide much."""
        method = self.factory(self.problem).double()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.1)
        return method.train(train)


def made_up(problem: Problem, generator: torch.Generator) -> Episodes:
    """Episodes of ``TASKS`` tasks that suit a problem. Tasks that are tables have unequal numbers of examples.

    Classes are clouds and regressions are linear with noise, each task with its own centres or slopes.
    """
    size = math.prod(problem.x_shape)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    table = not problem.n_classes
    centres, slopes = normal(TASKS, problem.n_outputs, size), normal(TASKS, size, problem.n_outputs)

    def batch(each: int) -> Batch:
        n = each * problem.n_outputs
        x = normal(TASKS, n, size)
        weight = None
        if table:  # task t lacks its last t examples
            weight = (torch.arange(n) < n - torch.arange(TASKS).unsqueeze(1)).double()
        if problem.kind == "classification":
            y = (torch.arange(n) % problem.n_outputs).expand(TASKS, n).contiguous()
            x = centres.gather(1, y.unsqueeze(-1).expand_as(x)) + 0.5 * x
        else:
            y = x @ slopes / math.sqrt(size) + 0.1 * normal(TASKS, n, problem.n_outputs)
        return Batch(x.unflatten(-1, problem.x_shape), y, weight)

    def some(n: int) -> Tensor:
        return torch.rand(n, generator=generator).argsort()

    task = some(problem.n_tasks)[:TASKS] if problem.n_tasks else None
    if task is not None and problem.n_tasks < TASKS:
        task = torch.arange(TASKS) % problem.n_tasks
    classes = None
    if problem.n_classes:
        classes = torch.stack([some(problem.n_classes)[: problem.n_outputs] for _ in range(TASKS)])
    each = 3 if problem.kind == "classification" else max(1, 8 // problem.n_outputs)
    return Episodes(batch(each), batch(each), task, classes)


def cases(factory: Factory, problem: Problem | None) -> tuple[list[Case], list[str]]:
    """The cases that a factory's methods do not refuse, and why they refuse the others."""
    problems = PROBLEMS if problem is None else {"the given problem": problem}
    refusal = getattr(factory, "refuses", lambda _: "")
    accepted, refused = [], []
    for name, one in problems.items():
        why = refusal(one)
        if why:
            refused.append(f"{name}: {why}")
        else:
            accepted.append(Case(name, factory, one, made_up(one, torch.Generator().manual_seed(3))))
    return accepted, refused


def altered(batch: Batch, which: Tensor) -> Batch:
    """Other inputs and targets where ``which [T, n]`` says so. Same shapes, same weights."""
    x = torch.where(which.view(*which.shape, *(1,) * (batch.x.ndim - 2)), 3 - 2 * batch.x, batch.x)
    if batch.y.is_floating_point():
        return replace(batch, x=x, y=torch.where(which.unsqueeze(-1), 5 - batch.y, batch.y))
    return replace(batch, x=x, y=torch.where(which, batch.y.flip(1), batch.y))


def padded(batch: Batch, rows: int = 2) -> Batch:
    """The same batch with rows of weight 0 at the end, whose content is large and means nothing."""
    extra = Batch(
        torch.full_like(batch.x[:, :1], 9.0).repeat_interleave(rows, 1),
        torch.zeros_like(batch.y[:, :1]).repeat_interleave(rows, 1),
        batch.x.new_zeros(batch.n_tasks, rows),
    )
    return batch.join(extra)


def frozen(value: object, seen: tuple[int, ...] = ()) -> object:
    """A picture of a value that compares by content, however deep; two pictures are equal if nothing changed."""
    if value is None or isinstance(
        value, str | bytes | int | float | complex | torch.dtype | torch.device | torch.Size
    ):
        return value
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.detach().cpu().contiguous().view(-1).tolist())
    if isinstance(value, torch.Generator):
        return ("generator", value.get_state().tolist())
    if id(value) in seen:
        return "itself"
    seen = (*seen, id(value))
    if isinstance(value, nn.Module):
        return tuple((key, frozen(part, seen)) for key, part in sorted(vars(value).items()))
    if isinstance(value, dict):
        return tuple((frozen(key, seen), frozen(part, seen)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return tuple(frozen(part, seen) for part in value)
    if isinstance(value, set | frozenset):
        return frozenset(map(repr, value))
    if callable(value) or isinstance(value, type) or not hasattr(value, "__dict__"):
        return repr(value)
    return (type(value).__name__, frozen(vars(value), seen))
