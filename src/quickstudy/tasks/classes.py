"""N-way K-shot episodes by index from one in-memory tensor of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core import Batch, Episodes, InputError, Problem


@dataclass(frozen=True, eq=False)
class ClassSet:
    """Classes with their examples.

    Args:
        x: examples of each class; uint8 stands for 0..255 and is read as 0..1.
        names: what each class is called.
        count: examples of each class, where they differ; the rest is padding.
        origin: classes with the same number come from one source (a character and its rotations) and never
            fall in different splits.

    Shape:
        ``x [C, m, *x]``, ``count [C]``, ``origin [C]``.
    """

    x: Tensor
    names: tuple[str, ...]
    count: Tensor | None = None
    origin: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.names) != len(self.x):
            raise InputError(f"Expected a name for each of {len(self.x)} classes. Found {len(self.names)} names.")
        if self.x.is_floating_point() and not bool(torch.isfinite(self.x).all()):
            bad = self.names[int((~torch.isfinite(self.x.flatten(1))).any(1).nonzero()[0])]
            raise InputError(
                f"Expected finite numbers. Found NaN or infinite values in class {bad!r}. Fill or drop those examples."
            )

    @property
    def counts(self) -> Tensor:
        """Examples of each class. Shape: ``[C]``."""
        return torch.full((len(self.x),), self.x.shape[1]) if self.count is None else self.count

    def split(self, generator: torch.Generator, fractions: tuple[float, float] = (0.6, 0.2)) -> dict[str, Tensor]:
        """Split classes in train, validation and test; those of one origin stay together."""
        origin = torch.arange(len(self.x)) if self.origin is None else self.origin
        members = origin.unique()
        order = members[torch.rand(len(members), generator=generator).argsort()]
        train_end = round(len(members) * fractions[0])
        val_end = round(len(members) * (fractions[0] + fractions[1]))
        parts = {"train": order[:train_end], "val": order[train_end:val_end], "test": order[val_end:]}
        return {name: torch.isin(origin, part).nonzero().flatten() for name, part in parts.items()}


def check_splits(classes: ClassSet, splits: Mapping[str, Tensor]) -> None:
    """Raise if a class, or two classes of one origin, stand in two splits."""
    origin = torch.arange(len(classes.x)) if classes.origin is None else classes.origin
    seen: dict[int, str] = {}
    for name, members in splits.items():
        for index in members.tolist():
            before = seen.setdefault(int(origin[index]), name)
            if before != name:
                raise InputError(
                    f"Expected every class in one split. Found {classes.names[index]!r} (or a version of it, such as a "
                    f"rotation) in both {before!r} and {name!r}. Keep it in one of them."
                )


class ClassEpisodes:
    """N-way K-shot episodes over some classes of a set.

    Labels are given in the order in which the classes were drawn, hence shuffled anew in every episode.

    Args:
        classes: the data.
        members: which classes may be drawn.
        ways: N, classes in an episode.
        shots: K, labelled examples of a class.
        queries: examples of a class to be judged on.
        known: training classes: give out which class each label stands for.
    """

    def __init__(
        self,
        classes: ClassSet,
        members: Tensor | Sequence[int],
        *,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        known: bool = False,
    ) -> None:
        self.classes, self.members = classes, torch.as_tensor(members)
        self.ways, self.shots, self.queries, self.known = ways, shots, queries, known
        if ways < 2:
            raise InputError(f"Expected at least 2 ways. Found {ways}: there is nothing to tell apart.")
        if len(self.members) < ways:
            raise InputError(
                f"Expected at least N = {ways} classes to draw from. Found {len(self.members)}. "
                "Lower the number of ways, or give this split more classes."
            )
        self._counts = classes.counts[self.members]
        smallest = int(self._counts.argmin())
        if int(self._counts[smallest]) < shots + queries:
            raise InputError(
                f"Expected at least K + queries = {shots} + {queries} examples in every class. Found "
                f"{int(self._counts[smallest])} in class {classes.names[int(self.members[smallest])]!r}. "
                "Lower the shots or the queries, or drop that class."
            )
        self.problem = Problem(
            tuple(classes.x.shape[2:]),
            "classification",
            ways,
            n_classes=len(self.members) if known else 0,
            shared_labels=False,
        )

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Episodes of n tasks: support ``[n, N*K, *x]``, query ``[n, N*queries, *x]``; classes uniform."""
        every, most = self.shots + self.queries, int(self._counts.max())
        drawn = torch.rand(n, len(self.members), generator=generator).topk(self.ways).indices
        key = torch.rand(n, self.ways, most, generator=generator)
        key = key.where(torch.arange(most) < self._counts[drawn].unsqueeze(-1), -1.0)
        example = key.topk(every).indices
        x = self.classes.x[self.members[drawn].unsqueeze(-1), example]
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        y = torch.arange(self.ways).unsqueeze(-1).expand(n, self.ways, every)

        def half(part: slice) -> Batch:
            return Batch(x[:, :, part].flatten(1, 2), y[:, :, part].flatten(1, 2))

        known = drawn if self.known else None
        return Episodes(half(slice(0, self.shots)), half(slice(self.shots, every)), classes=known)

    def at(self, shots: int) -> ClassEpisodes:
        """The same family with another number of labelled examples."""
        return ClassEpisodes(
            self.classes, self.members, ways=self.ways, shots=shots, queries=self.queries, known=self.known
        )
