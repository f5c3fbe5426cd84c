"""Episodes with a number of shots that varies, for learners that must not count on one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from quickstudy.core import Episodes, InputError, Problem, TaskFamily


class AnyShots:
    """A family whose K is drawn anew for each batch, so that nothing needs padding.

    Trained at one K, a black box or an embedding suits that K: how much to trust an example hangs on how many there
    are. Trained on a range, it has to read K from the support.

    Args:
        at: the family with K labelled examples (of a class, or of a task).
        shots: the K to draw from, all alike; ``range(1, 21)`` draws uniformly, ``(1, 2, 5, 10, 20)`` about uniformly
            in the logarithm.
    """

    def __init__(self, at: Callable[[int], TaskFamily], shots: Sequence[int]) -> None:
        if not shots or min(shots) < 1:
            raise InputError(f"Expected numbers of shots of at least 1. Found {list(shots)}.")
        self.families = [at(k) for k in shots]

    @property
    def problem(self) -> Problem:
        """That of the families, which is one and the same for all K."""
        return self.families[0].problem

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Episodes of n tasks, all with the same K."""
        which = int(torch.randint(len(self.families), (), generator=generator))
        return self.families[which].sample(n, generator)


@dataclass(frozen=True)
class FewerShots:
    """Regressions whose K is drawn anew for each task, from ``least`` to all that there are; the rest is padding.

    Unlike those of :class:`AnyShots`, episodes are all of one size, as a compiled training step needs them.

    Args:
        family: its labelled examples are in no order, so that the first K are as good as any.
        least: fewest labelled examples.
    """

    family: TaskFamily
    least: int = 1

    def __post_init__(self) -> None:
        if self.family.problem.kind != "regression":
            raise InputError(
                "Expected a family of regressions. Found class episodes, whose first K examples are all of one class. "
                "Take AnyShots."
            )
        if self.least < 1:
            raise InputError(f"Expected at least 1 labelled example. Found {self.least}.")

    @property
    def problem(self) -> Problem:
        """That of the family."""
        return self.family.problem

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Episodes of n tasks. Shape: as the family's, and support.weight ``[n, K]``."""
        episodes = self.family.sample(n, generator)
        support = episodes.support
        if self.least > support.n:
            raise InputError(f"Expected at most {support.n} examples, as the family has. Found least={self.least}.")
        k = torch.randint(self.least, support.n + 1, (n, 1), generator=generator)
        weight = (torch.arange(support.n) < k).to(support.x.dtype)
        return replace(episodes, support=replace(support, weight=weight * support.weights))
