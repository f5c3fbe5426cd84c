"""Meta-Dataset's way of drawing episodes: ways, shots and their imbalance vary, over one set of classes or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core import Batch, Episodes, InputError, Problem
from quickstudy.tasks.classes import ClassSet

IMBALANCE = (math.log(0.5), math.log(2.0))  # of the weights alpha that shots are multiplied by
AT_ONCE = 2**13  # images resized at once


def resized(classes: ClassSet, size: int) -> ClassSet:
    """The same classes with images of ``size`` x ``size`` pixels, uint8; antialiased where they shrink.

    Shape:
        ``x [C, m, channels, height, width]`` to ``[C, m, channels, size, size]``.
    """
    if classes.x.shape[-2:] == (size, size):
        return classes
    flat = classes.x.flatten(0, 1)
    is_byte = flat.dtype == torch.uint8
    parts = []
    for part in flat.split(AT_ONCE):
        value = part.float() if is_byte else part
        small = F.interpolate(value, (size, size), mode="bilinear", align_corners=False, antialias=True)
        parts.append(small.round().clamp(0, 255).to(torch.uint8) if is_byte else small)
    x = torch.cat(parts).unflatten(0, classes.x.shape[:2])
    return ClassSet(x, classes.names, classes.count, classes.origin)


@dataclass(frozen=True, eq=False)
class Source:
    """One set of classes that episodes are drawn from.

    Args:
        classes: the data, images.
        members: which classes may be drawn: those of one split.
        group: for each member, the group it belongs to (an alphabet): an episode's classes are then of one group,
            drawn uniformly; groups of fewer than the least ways are left out. None draws from all members.

    Shape:
        ``members [c]``, ``group [c]``.
    """

    classes: ClassSet
    members: Tensor
    group: Tensor | None = None


@dataclass(frozen=True)
class Protocol:
    """The numbers of the protocol.

    Args:
        least: fewest ways.
        most: most ways.
        queries: most query examples of a class.
        support: most support examples of an episode.
        contribution: most examples of a class that count for the size of the support.
    """

    least: int = 5
    most: int = 50
    queries: int = 10
    support: int = 500
    contribution: int = 100

    def __post_init__(self) -> None:
        if not 2 <= self.least <= self.most:
            raise InputError(
                f"Expected at least 2 ways, and no fewer at most than at least. Found {self.least} to {self.most}."
            )
        if self.support < self.most or self.queries < 1 or self.contribution < 1:
            raise InputError(
                f"Expected a support of at least one example a class ({self.most}), queries and a contribution of at "
                f"least 1. Found {self.support}, {self.queries}, {self.contribution}."
            )


class VariableEpisodes:
    r"""Episodes of varying ways and shots, of one set each; the set is drawn uniformly.

    Of a set (or a group of it) with :math:`C` classes of :math:`m_c` examples:

    .. math::
        N \sim U\{5, \dots, \min(50, C)\}, \qquad q = \min(10, \min_c \lfloor m_c / 2 \rfloor)

        |S| = \min(500, \sum_c \lceil \beta \min(100, m_c - q) \rceil), \quad \beta \sim U(0, 1]

        R_c \propto e^{\alpha_c} m_c, \quad \alpha_c \sim U[\log .5, \log 2), \qquad
        K_c = \min(\lfloor R_c (|S| - N) \rfloor + 1, m_c - q)

    **Outputs.** A problem has one number of outputs, so it is that of the largest episode there can be,
    :attr:`problem` ``.n_outputs``. An episode of fewer ways uses labels 0..N-1 and leaves the rest absent, in the
    support and in the query: methods that compare with examples never choose an absent class (logit ``NEVER``), while
    one with an output for each label learns on all outputs. Chance is 1/N of the episode at hand.

    **Padding.** Support and query are as long as the longest of the tasks drawn together; the rest has weight 0 and
    holds the task's first example, so that a net's batch statistics see no empty images. Examples of a task stand class
    by class.

    **Inputs.** Images come in one size; grey ones are repeated over the channels where any set has colours.

    Args:
        sources: sets by name.
        protocol: the numbers.
        size: pixels a side.

    Shape:
        support ``[T, s, channels, size, size]``, query ``[T, q, channels, size, size]``, both with weights.

    Raises:
        InputError: a set with fewer classes than the least ways, or a class with fewer than two examples.

    Reference:
        Triantafillou et al. 2020, Meta-Dataset, arXiv:1903.03096, section 3.2 and appendix. ImageNet's hierarchy is
        not followed: classes of a set (of a group) are drawn uniformly, as there for the other sets. All images of the
        sets here are one in size from the start, not resized from 84 or 126 pixels.
    """

    def __init__(self, sources: Mapping[str, Source], protocol: Protocol | None = None, *, size: int = 32) -> None:
        self.protocol = Protocol() if protocol is None else protocol
        if not sources:
            raise InputError("Expected at least one set of classes. Found none.")
        self.names = tuple(sources)
        self._sets = [_Set(name, source, self.protocol, size) for name, source in sources.items()]
        channels = {one.channels for one in self._sets}
        if len(channels - {1}) > 1:
            raise InputError(f"Expected grey images, or those of one number of channels. Found {sorted(channels)}.")
        self.problem = Problem(
            (max(channels), size, size), "classification", max(one.most for one in self._sets), shared_labels=False
        )

    def only(self, *names: str) -> VariableEpisodes:
        """Episodes of some of the sets, for the same problem: as many outputs and channels as all sets need."""
        odd = [name for name in names if name not in self.names]
        if odd or not names:
            raise InputError(f"Expected names among {', '.join(self.names)}. Found {odd[0] if odd else 'none'!r}.")
        part = object.__new__(VariableEpisodes)
        part.protocol, part.problem, part.names = self.protocol, self.problem, tuple(names)
        part._sets = [self._sets[self.names.index(name)] for name in names]
        return part

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Draw episodes of n tasks, each from a set of its own."""
        which = torch.randint(len(self._sets), (n,), generator=generator)
        drawn = []
        for number, one in enumerate(self._sets):
            tasks = (which == number).nonzero().flatten()
            if len(tasks):
                drawn.append((tasks, one, one.draw(len(tasks), generator)))

        def gathered(half: int) -> Batch:
            width = max(parts[half].label.shape[1] for _, _, parts in drawn)
            x = torch.empty(n, width, *self.problem.x_shape)
            y = torch.zeros(n, width, dtype=torch.int64)
            weight = torch.zeros(n, width)
            for tasks, one, parts in drawn:
                part = parts[half].padded(width)
                x[tasks] = one.images(part, self.problem.x_shape[0])
                y[tasks], weight[tasks] = part.label, part.weight.float()
            return Batch(x, y, weight)

        return Episodes(gathered(0), gathered(1))


@dataclass(frozen=True)
class _Places:
    """Which examples: class and place ``[T, n]``, the label each has, and whether it is one."""

    member: Tensor
    place: Tensor
    label: Tensor
    weight: Tensor

    def padded(self, width: int) -> _Places:
        """Filled up to a width with each task's first example."""
        grow = width - self.label.shape[1]
        more = lambda value: torch.cat([value, value[:, :1].expand(-1, grow)], 1)  # noqa: E731
        none = torch.cat([self.weight, self.weight.new_zeros(len(self.weight), grow)], 1)
        return _Places(more(self.member), more(self.place), more(self.label), none)


class _Set:
    """One source, checked and resized; draws indices for many tasks at once."""

    def __init__(self, name: str, source: Source, protocol: Protocol, size: int) -> None:
        classes, members = source.classes, torch.as_tensor(source.members)
        if classes.x.ndim != 5:
            raise InputError(f"Expected images [channels, height, width] in {name!r}. Found {classes.x.shape[2:]}.")
        self.name, self.protocol, self.members = name, protocol, members
        self.x = resized(classes, size).x
        self.channels = int(self.x.shape[2])
        self.count = classes.counts[members]
        if len(members) and int(self.count.min()) < 2:
            few = classes.names[int(members[int(self.count.argmin())])]
            raise InputError(
                f"Expected at least 2 examples of every class, one to learn from and one to be judged on. Found "
                f"{int(self.count.min())} of {few!r} in {name!r}. Drop that class."
            )
        group = torch.zeros(len(members), dtype=torch.int64) if source.group is None else torch.as_tensor(source.group)
        if group.shape != members.shape:
            raise InputError(f"Expected a group for each of {len(members)} classes of {name!r}. Found {len(group)}.")
        self.group = group
        self.size_of = {int(g): int((group == g).sum()) for g in group.unique()}
        self.groups = torch.tensor([g for g, size in self.size_of.items() if size >= protocol.least])
        if not len(self.groups):
            raise InputError(
                f"Expected at least {protocol.least} classes to draw from in {name!r}. Found "
                f"{max(self.size_of.values(), default=0)}. Lower the least ways, or give this split more classes."
            )
        self.most = min(protocol.most, max(self.size_of.values()))

    def draw(self, n: int, generator: torch.Generator) -> tuple[_Places, _Places]:
        """Support and query of n tasks."""
        p = self.protocol
        mine = self.groups[torch.randint(len(self.groups), (n,), generator=generator)]
        allowed = self.group == mine.unsqueeze(1)
        top = allowed.sum(1).clamp_max(p.most)
        # float64, lest a draw just below 1 be rounded up to one way too many
        uniform = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.double)  # noqa: E731
        ways = p.least + (uniform(n) * (top - p.least + 1)).long()
        width = int(ways.max())
        drawn = uniform(n, len(self.members)).where(allowed, -1.0).topk(width).indices
        here = torch.arange(width) < ways.unsqueeze(1)
        count = self.count[drawn]
        queries = (count // 2).where(here, p.queries).amin(1, keepdim=True).clamp_max(p.queries)
        left = count - queries
        shots = self._shots(count, left, here, ways, uniform)

        # examples in a random order: the first q of a class are its query, the next K_c its support
        longest = int((shots + queries * here).max())
        key = uniform(n, width, int(self.count.max()))
        key = key.where(torch.arange(key.shape[-1]) < count.unsqueeze(-1), -1.0)
        order = key.topk(min(longest, key.shape[-1])).indices
        rank = torch.arange(order.shape[-1])
        q = queries.unsqueeze(-1)
        is_query = here.unsqueeze(-1) & (rank < q)
        is_support = (rank >= q) & (rank < q + shots.unsqueeze(-1))
        return self._places(drawn, order, is_support), self._places(drawn, order, is_query)

    def _shots(self, count: Tensor, left: Tensor, here: Tensor, ways: Tensor, uniform: Callable[..., Tensor]) -> Tensor:
        """K of each class; 0 for those that are not in the episode. Shape: ``[n, width]``."""
        p = self.protocol
        beta = 1 - uniform(len(ways), 1)  # above 0, at most 1
        wanted = (beta * left.clamp_max(p.contribution)).ceil() * here
        size = wanted.sum(1, keepdim=True).clamp_max(p.support)
        low, high = IMBALANCE
        share = (low + (high - low) * uniform(*here.shape)).exp() * count * here
        share = share / share.sum(1, keepdim=True)
        each = (share * (size - ways.unsqueeze(1))).floor().long() + 1
        return each.minimum(left) * here

    def _places(self, drawn: Tensor, order: Tensor, chosen: Tensor) -> _Places:
        """The chosen of all classes' examples, one after the other. Shape: ``order, chosen [n, width, rank]``."""
        per = order.shape[-1]
        flat = chosen.flatten(1)
        longest = int(flat.sum(1).max())
        first = flat.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
        weight = flat.gather(1, first)
        first = first.where(weight, first[:, :1])
        label = first // per
        return _Places(self.members[drawn].gather(1, label), order.flatten(1).gather(1, first), label, weight)

    def images(self, places: _Places, channels: int) -> Tensor:
        """The examples, 0..1. Shape: ``[T, n, channels, size, size]``."""
        x = self.x[places.member, places.place]
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        return x.expand(-1, -1, channels, -1, -1)


KNOWN = ("omniglot", "cifar100", "mnist", "fashion")
FIVE = {"train": (0, 1, 2, 3, 7), "test": (4, 5, 6, 8, 9)}  # of the ten kinds of MNIST and Fashion-MNIST


def sources(part: str, names: Sequence[str] = KNOWN) -> dict[str, Source]:
    """The sets that are known by name; no class is in two parts.

    - ``omniglot``: Lake's split by alphabet, without rotations; an episode's classes are of one alphabet.
    - ``cifar100``: the split CIFAR-FS.
    - ``mnist``, ``fashion``: five kinds to train on, the other five to test on; none for validation.

    Args:
        part: ``"train"``, ``"val"`` or ``"test"``.
        names: which sets; those without this part are left out.

    Reference:
        Triantafillou et al. 2020 keep all of MNIST and CIFAR-100 for testing, and have eight more sets.
    """
    from quickstudy.tasks import cifar, mnist, omniglot

    odd = [name for name in names if name not in KNOWN]
    if odd or part not in ("train", "val", "test"):
        raise InputError(
            f"Expected train, val or test, and names among {', '.join(KNOWN)}. Found {part!r} and "
            f"{', '.join(map(repr, names))}."
        )
    found: dict[str, Source] = {}
    for name in names:
        if name == "omniglot":
            images, characters = omniglot.drawings()
            members = omniglot.lake(characters)[part]
            alphabets = sorted({character.split("/")[1] for character in characters})
            group = torch.tensor([alphabets.index(characters[i].split("/")[1]) for i in members.tolist()])
            # only what is drawn from is kept, and resized
            classes = ClassSet(images[members].unsqueeze(2), tuple(characters[i] for i in members.tolist()))
            found[name] = Source(classes, torch.arange(len(members)), group)
        elif name == "cifar100":
            found[name] = Source(cifar.classes(), cifar.split("cifar-fs")[part])
        elif part in FIVE:
            kinds = torch.tensor(FIVE[part])
            every = mnist.classes("mnist" if name == "mnist" else "fashion")
            few = ClassSet(every.x[kinds], tuple(every.names[k] for k in FIVE[part]), every.counts[kinds])
            found[name] = Source(few, torch.arange(len(kinds)))
    return found
