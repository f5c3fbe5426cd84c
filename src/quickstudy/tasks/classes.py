"""N-way K-shot episodes by index from one in-memory tensor of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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

    def to(self, device: torch.device | str) -> ClassSet:
        """The same classes with their examples on another device; episodes of them come there."""
        return replace(self, x=self.x.to(device))

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


def label_some(classes: ClassSet, fraction: float, generator: torch.Generator) -> Tensor:
    """Choose the examples of each class that carry a label, once for all episodes; the others never do.

    Args:
        classes: the data.
        fraction: of each class's examples, rounded down (a tenth of Omniglot's 20 drawings are 2).
        generator: draws them.

    Shape:
        gives bool ``[C, m]``; padding carries no label.
    """
    size = classes.x.shape[1]
    key = torch.rand(len(classes.x), size, generator=generator)
    key = key.where(torch.arange(size) < classes.counts.unsqueeze(1), 2.0)
    # 20 * 0.15 is 3 and not 2.9999: round what is closer than rounding errors to a whole number
    n = (classes.counts * fraction + 1e-9).floor().unsqueeze(1)
    return key.argsort(1).argsort(1) < n


class ClassEpisodes:
    """N-way K-shot episodes over some classes of a set.

    Labels are given in the order in which the classes were drawn, hence shuffled anew in every episode. Episodes are
    where the examples are (:meth:`ClassSet.to`); what is in them is drawn on the processor, so that a seed means the
    same episodes everywhere.

    Args:
        classes: the data.
        members: which classes may be drawn.
        ways: N, classes in an episode.
        shots: K, labelled examples of a class.
        queries: examples of a class to be judged on.
        known: training classes: give out which class each label stands for.
        unlabelled: examples of a class that are given without their labels (``support.unlabelled``, in random order).
        distractors: classes beside the N of which there are unlabelled examples only, as many of each.
        labelled: which examples may carry a label, see :func:`label_some`: support and query are drawn from these,
            unlabelled examples from all others. None draws all three from all examples, none of them twice.

    Shape:
        ``labelled [C, m]``, bool.

    Raises:
        InputError: too few classes, or too few examples of one.

    Reference:
        Ren et al. 2018, arXiv:1803.00676, section 2.2, for episodes with unlabelled examples and distractors.
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
        unlabelled: int = 0,
        distractors: int = 0,
        labelled: Tensor | None = None,
    ) -> None:
        self.classes, self.members = classes, torch.as_tensor(members)
        self.ways, self.shots, self.queries, self.known = ways, shots, queries, known
        self.unlabelled, self.distractors, self.labelled = unlabelled, distractors, labelled
        if ways < 2:
            raise InputError(f"Expected at least 2 ways. Found {ways}: there is nothing to tell apart.")
        if len(self.members) < ways + distractors:
            more = f" + {distractors} distractors" if distractors else ""
            raise InputError(
                f"Expected at least N = {ways}{more} classes to draw from. Found {len(self.members)}. "
                "Lower the number of ways, or give this split more classes."
            )
        self._counts = classes.counts[self.members]
        if labelled is None:
            more = f" + {unlabelled} unlabelled" if unlabelled else ""
            self._enough(self._counts, shots + queries + unlabelled, f"K + queries{more} = {shots} + {queries}{more}")
        else:
            carry = labelled[self.members].sum(1)
            self._enough(carry, shots + queries, f"K + queries = {shots} + {queries} labelled")
            self._enough(self._counts - carry, unlabelled, f"{unlabelled} unlabelled")
        self.problem = Problem(
            tuple(classes.x.shape[2:]),
            "classification",
            ways,
            n_classes=len(self.members) if known else 0,
            shared_labels=False,
        )

    def _enough(self, counts: Tensor, needed: int, what: str) -> None:
        """Every class must have the examples that an episode takes of it."""
        smallest = int(counts.argmin())
        if int(counts[smallest]) < needed:
            raise InputError(
                f"Expected at least {what} examples in every class. Found {int(counts[smallest])} "
                f"in class {self.classes.names[int(self.members[smallest])]!r}. "
                "Lower the shots or the queries, or drop that class."
            )

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Episodes of n tasks: support ``[n, N*K, *x]``, query ``[n, N*queries, *x]``; classes uniform.

        ``support.unlabelled`` is ``[n, (N + distractors) * unlabelled, *x]``.
        """
        ways, every, most = self.ways, self.shots + self.queries, int(self._counts.max())
        drawn = torch.rand(n, len(self.members), generator=generator).topk(ways + self.distractors).indices
        key = torch.rand(n, ways + self.distractors, most, generator=generator)
        key = key.where(torch.arange(most) < self._counts[drawn].unsqueeze(-1), -1.0)
        if self.labelled is None:
            example, free = key.topk(every + self.unlabelled).indices.split([every, self.unlabelled], -1)
        else:
            carry = self.labelled[self.members[drawn], :most]
            example = key.where(carry, -1.0).topk(every).indices
            free = key.where(~carry, -1.0).topk(self.unlabelled).indices
        x = self._inputs(drawn[:, :ways], example[:, :ways])
        y = torch.arange(ways, device=x.device).unsqueeze(-1).expand(n, ways, every)

        def half(part: slice) -> Batch:
            return Batch(x[:, :, part].flatten(1, 2), y[:, :, part].flatten(1, 2))

        support = half(slice(0, self.shots))
        if self.unlabelled:
            more = self._inputs(drawn, free).flatten(1, 2)
            order = torch.rand(more.shape[:2], generator=generator).argsort(1)  # the order must not tell the class
            row = torch.arange(n, device=more.device).unsqueeze(1)
            support = replace(support, unlabelled=more[row, order.to(more.device)])
        known = drawn[:, :ways].to(x.device) if self.known else None
        return Episodes(support, half(slice(self.shots, every)), classes=known)

    def _inputs(self, drawn: Tensor, example: Tensor) -> Tensor:
        """Some examples of the drawn classes. Shape: ``[n, c], [n, c, k]`` to ``[n, c, k, *x]``."""
        at = self.classes.x.device
        x = self.classes.x[self.members[drawn].unsqueeze(-1).to(at), example.to(at)]
        return x.float() / 255 if x.dtype == torch.uint8 else x

    def at(self, shots: int) -> ClassEpisodes:
        """The same family with another number of labelled examples."""
        return self._like(self.classes, shots)

    def to(self, device: torch.device | str) -> ClassEpisodes:
        """The same family with its examples, and so its episodes, on another device."""
        return self._like(self.classes.to(device), self.shots)

    def _like(self, classes: ClassSet, shots: int) -> ClassEpisodes:
        return ClassEpisodes(
            classes,
            self.members,
            ways=self.ways,
            shots=shots,
            queries=self.queries,
            known=self.known,
            unlabelled=self.unlabelled,
            distractors=self.distractors,
            labelled=self.labelled,
        )
