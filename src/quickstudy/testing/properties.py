"""Expressive, consistent, uncertain: what a way of learning is asked for, measured where the answer is known.

The laws of :func:`~quickstudy.testing.check_method` hold for any parameters. These three do not follow from one look:
each check runs the method, on tasks so simple that the optimum is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from quickstudy.core import Batch, Episodes, Explorer, InputError, Method, Problem
from quickstudy.methods.registry import all_methods
from quickstudy.testing._cases import Factory
from quickstudy.testing._law import broken
from quickstudy.training import fit, task_scores

SIZES = (8, 64, 256)  # K at which consistency is looked at
NEAR = 0.05  # how close to the optimum the last of them must come
FEW = (1, 3, 12)  # K at which uncertainty is looked at


# --- consistent -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FarLines:
    """``y = 3 + w x + noise`` with normal w in three dimensions: nothing that untrained weights would have in store."""

    shots: int
    queries: int = 128
    noise: float = 0.5

    @property
    def problem(self) -> Problem:
        """Three numbers in, one out."""
        return Problem((3,), "regression", 1, metric="explained variance")

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """The query has no noise, so that a score of 1 is the optimum."""
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        w, x = draw(n, 3, 1), draw(n, self.shots + self.queries, 3)
        y = 3 + x @ w
        k = self.shots
        return Episodes(Batch(x[:, :k], y[:, :k] + self.noise * draw(n, k, 1)), Batch(x[:, k:], y[:, k:]))

    def optimum(self, query: Batch) -> Tensor:
        """The best score of each task. Shape: ``[T]``."""
        return torch.ones(query.n_tasks)


@dataclass(frozen=True)
class Stretched:
    """Two normal classes with one covariance, long in a direction of the task's own and hardly apart in it.

    The best rule is linear and known. The nearest class mean is far from it: distance is dominated by the long
    direction, along which the classes overlap.
    """

    shots: int
    queries: int = 128
    length: float = 6.0

    @property
    def problem(self) -> Problem:
        """Three numbers in, two classes."""
        return Problem((3,), "classification", 2)

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """The classes' means are +-(u + v) with v the long direction and u another; label 1 is the positive one."""
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        frame = torch.linalg.qr(draw(n, 3, 3)).Q  # rows: long, telling, idle
        y = (torch.arange(self.shots + self.queries) % 2).expand(n, -1)
        sign = 2.0 * y.unsqueeze(-1) - 1
        own = sign * torch.tensor([4.0, 1.5, 0.0]) + draw(n, self.shots + self.queries, 3) * torch.tensor(
            [self.length, 1.0, 1.0]
        )
        x, k = own @ frame, self.shots
        return Episodes(Batch(x[:, :k], y[:, :k]), Batch(x[:, k:], y[:, k:]))

    def optimum(self, query: Batch) -> Tensor:
        """Accuracy of the linear discriminant: both classes err with probability Phi(-d / 2). Shape: ``[T]``."""
        distance = 2 * ((4 / self.length) ** 2 + 1.5**2) ** 0.5
        best = Normal(0.0, 1.0).cdf(torch.tensor(distance / 2))
        return best.expand(query.n_tasks)


def blinded(method: Method) -> Method:
    """The method with nets that do not see their inputs but the first: what tasks in which those meant nothing leave.

    The weights that read them in linear layers are set to zero, which is no trap for gradient descent. What adapts a
    head alone, or reads the support by what it has learned, has lost them for good.
    """
    size = method.problem.x_shape[0]
    with torch.no_grad():
        for part in method.modules():
            if isinstance(part, nn.Linear) and part.in_features == size:
                part.weight[:, 1:] = 0
    return method


def shortfall(
    factory: Factory, *, tasks: int = 4, sizes: Sequence[int] = SIZES, blind: bool = False
) -> dict[str, list[float]]:
    """How far below the single-task optimum an untrained method stays at each K of ``sizes``, for each kind of task.

    Args:
        factory: makes the method.
        tasks: how many.
        sizes: K, examples of a task.
        blind: start from :func:`blinded` weights.
    """
    found: dict[str, list[float]] = {}
    refuses = getattr(factory, "refuses", lambda _: "")
    for family in (FarLines, Stretched):
        problem = family(1).problem
        if not refuses(problem):
            method, gaps = factory(problem), []
            if blind:
                method = blinded(method)
            for k in sizes:
                episodes = family(k).sample(tasks, torch.Generator().manual_seed(k))
                gap = family(k).optimum(episodes.query) - task_scores(method, episodes)
                gaps.append(float(gap.mean()))
            found[problem.kind] = gaps
    return found


def check_consistent(factory: Factory, *, near: float = NEAR) -> None:
    """Check that learning reaches the single-task optimum as K grows, from weights that know nothing of the tasks.

    And from weights that know the wrong thing, see :func:`blinded`: what only works while the trunk keeps everything
    is not consistent, for training decides what the trunk keeps.

    Args:
        factory: makes the method, with as many steps as it takes (consistency is a statement about the limit).
        near: how far below the optimum the score may stay, of explained variance or accuracy.

    Raises:
        ConformanceError: it stays away from it.
        InputError: the method serves none of the tasks.
    """
    for sizes, blind in ((SIZES, False), (SIZES[-1:], True)):
        found = shortfall(factory, sizes=sizes, blind=blind)
        if not found:
            raise InputError(
                "Expected a method for rows of three numbers. Found one that refuses them; nothing to check."
            )
        for kind, gaps in found.items():
            if not gaps[-1] <= near:
                raise broken(
                    f"{kind} within {near:g} of the single-task optimum at K = {SIZES[-1]}"
                    + (", from nets that see one of three inputs" if blind else ""),
                    f"{', '.join(f'{gap:.3f} below it at K = {k}' for gap, k in zip(gaps, sizes, strict=True))}",
                    "Use all of the support, adapt all weights, take more steps, or declare `consistent = False`.",
                )


# --- uncertain --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnyLines:
    """``y = a x + b + noise`` with standard normal a and b, and K points of the support that count."""

    shots: int = 0
    queries: int = 16
    noise: float = 0.3

    @property
    def problem(self) -> Problem:
        """One number in, one out."""
        return Problem((1,), "regression", 1, metric="explained variance")

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """``shots`` of 0 draws a K from 1 to 12 for each task; padding makes them one size."""
        most = self.shots or FEW[-1]
        a, b = torch.randn(2, n, 1, 1, generator=generator)
        x = 4 * torch.rand(n, most + self.queries, 1, generator=generator) - 2
        y = a * x + b + self.noise * torch.randn(x.shape, generator=generator)
        k = torch.full((n, 1), most) if self.shots else torch.randint(1, most + 1, (n, 1), generator=generator)
        weight = (torch.arange(most) < k).to(x.dtype)
        return Episodes(Batch(x[:, :most], y[:, :most], weight), Batch(x[:, most:], y[:, most:]))


def check_uncertain(
    factory: Factory, *, steps: int = 400, lr: float | None = None, tasks: int = 32, tolerance: float = 2.0
) -> None:
    """Check that predictions know how much the support leaves open.

    Lines with a normal slope and intercept: one point leaves a whole family of them, twelve leave next to none.
    Trained (where the method trains), predictions must be distributions whose spread falls at each K of ``FEW``, and
    whose errors are as large as they say: at each K, the mean square of (y - mean) / spread is 1 to within a factor.

    Raises:
        ConformanceError: no distribution, a spread that does not fall, or one that is not true.
    """
    method = factory(AnyLines().problem)
    fit(method, AnyLines(), steps=steps, tasks=tasks, lr=method.lr if lr is None else lr)
    method.eval()
    spreads: list[float] = []
    for k in FEW:
        episodes = AnyLines(k).sample(300, torch.Generator().manual_seed(k))
        with torch.no_grad():
            prediction = method.adapt(episodes.support)(episodes.query.x)
        if not isinstance(prediction, Distribution):
            raise broken(
                "a Distribution as prediction of a number", type(prediction).__name__,
                "Return one, or declare `uncertain = False`.",
            )  # fmt: skip
        spreads.append(float(prediction.stddev.mean()))
        square = ((episodes.query.y - prediction.mean).square() / prediction.variance).mean(1)
        ratio = float(square.mean())
        if not 1 / tolerance <= ratio <= tolerance:
            raise broken(
                f"squared errors as large as the variance says at K = {k}, to within a factor of {tolerance:g}",
                f"{ratio:.2f} times as large",
                "Train on a likelihood, over the K that are asked about, or declare `uncertain = False`.",
            )
    if any(b > 0.9 * a for a, b in zip(spreads[:-1], spreads[1:], strict=True)):
        raise broken(
            f"a spread that falls as K grows over {FEW}",
            ", ".join(f"{value:.3f}" for value in spreads),
            "Let what the support leaves open show in the spread, or declare `uncertain = False`.",
        )


# --- expressive -------------------------------------------------------------------------------------------------------


class Products:
    """``f(D, x) = 3 x y_1 y_2``: a function of the support that no regression of its labels on its inputs is.

    The two inputs of the support stand still at -1 and 1. Whatever is affine in the labels (ridge, a nearest
    neighbour, gradient descent on a linear model) explains nothing of it.
    """

    problem = Problem((1,), "regression", 1, metric="explained variance")

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Labels and queries are uniform in -1..1."""
        y = 2 * torch.rand(n, 2, 1, generator=generator) - 1
        x = torch.tensor([[[-1.0], [1.0]]]).expand(n, 2, 1)
        q = 2 * torch.rand(n, 16, 1, generator=generator) - 1
        return Episodes(Batch(x, y), Batch(q, 3 * q * y.prod(1, keepdim=True)))


class Others:
    """Two classes, one example each; a query is one of the two, and its right label is the other one's.

    What votes for the class of the nearest example is always wrong, in whatever embedding.
    """

    problem = Problem((2,), "classification", 2, shared_labels=False)

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """The examples of a task lie opposite each other."""
        a = torch.randn(n, 1, 2, generator=generator)
        x, y = torch.cat([a, -a], 1), torch.arange(2).expand(n, 2)
        return Episodes(Batch(x, y), Batch(x.clone(), 1 - y))


class Middle:
    """Three classes, one example each; every query's right label is that of the example in the middle.

    The middle is meant along the first input. What scores a class by its own examples alone cannot know it.
    """

    problem = Problem((2,), "classification", 3, shared_labels=False)

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """The queries are the examples once more."""
        x, y = torch.randn(n, 3, 2, generator=generator), torch.arange(3).expand(n, 3)
        middle = x[..., 0].argsort(1)[:, 1:2]
        return Episodes(Batch(x, y), Batch(x.clone(), middle.expand(n, 3).contiguous()))


def check_expressive(factory: Factory, *, steps: int = 400, lr: float = 5e-3, reach: float = 0.9) -> None:
    """Check that the method can stand for rules that are no way of fitting the support.

    A necessary condition, on one rule for numbers, :class:`Products`; for methods that serve classes only on two,
    :class:`Others` and :class:`Middle`.

    Args:
        factory: makes the method; one that stands for the rule from the start is checked with ``steps=0``.
        steps: of training towards the rule.
        lr: its first step size.
        reach: the explained variance, or accuracy, to come to.

    Raises:
        ConformanceError: it does not come to it.
    """
    refuses = getattr(factory, "refuses", lambda _: "")
    for family in (Others(), Middle()) if refuses(Products.problem) else (Products(),):
        method = factory(family.problem)
        if steps:
            fit(method, family, steps=steps, tasks=32, lr=lr)
        score = float(task_scores(method, family.sample(128, torch.Generator().manual_seed(9))).mean())
        if not score >= reach:
            raise broken(
                f"a {family.problem.metric} of {reach:g} on {type(family).__name__}, a rule that is no fit of the "
                "support",
                f"{score:.3f} after {steps} steps",
                "Give it a larger net or more steps, or declare `expressive = False`.",
            )


# --- what the library's methods declare -------------------------------------------------------------------------------


def property_table() -> str:
    """The declarations of all methods that are no explorers, as the Markdown table of ``docs/properties.md``."""
    lines = ["| kind | method | expressive | consistent | uncertain |", "|---|---|---|---|---|"]
    for name, cls in all_methods().items():
        if not issubclass(cls, Explorer):
            kind = cls.__module__.split(".")[-2]
            cells = ["yes" if getattr(cls, what) else "" for what in ("expressive", "consistent", "uncertain")]
            lines.append(_line(kind, f"`{name}`", *cells))
    return "\n".join(lines)


def acting_table() -> str:
    """The declarations of all methods that act, as the second Markdown table of ``docs/properties.md``."""
    lines = ["| method | exploring | off-policy |", "|---|---|---|"]
    for name, cls in all_methods().items():
        if issubclass(cls, Explorer):
            cells = ["yes" if declared else "" for declared in (cls.exploring, cls.off_policy)]
            lines.append(_line(f"`{name}`", *cells))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    """A line of a Markdown table."""
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)
