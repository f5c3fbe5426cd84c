"""What plastic nets were shown on: completing patterns and images, finding a target cue, returning to a reward."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from quickstudy.core import InputError


@dataclass(frozen=True)
class PatternCompletion:
    """Binary patterns are shown one after another, then one of them with half its elements at zero: fill them in.

    Args:
        size: elements of a pattern, each -1 or 1.
        patterns: how many are shown in a task.
        show: steps that a pattern stays.
        blank: empty steps after each pattern.
        probe: steps that the degraded pattern stays; the answer is what the net says at the last.
        presentations: how often all patterns are shown, each time in a new order.

    Reference:
        Miconi, Stanley, Clune 2018, arXiv:1804.02464; there 1000 elements and 5 patterns.
    """

    size: int = 50
    patterns: int = 3
    show: int = 3
    blank: int = 1
    probe: int = 3
    presentations: int = 1

    @property
    def time(self) -> int:
        """Steps of a task."""
        return self.presentations * self.patterns * (self.show + self.blank) + self.probe

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw n tasks: inputs ``[n, time, size]``, the whole pattern ``[n, size]``, and where it is zeroed (bool)."""
        pattern = 2.0 * torch.randint(2, (n, self.patterns, self.size), generator=generator) - 1
        shown = _shown(pattern, self.show, self.blank, self.presentations, generator)
        target = pattern[torch.arange(n), torch.randint(self.patterns, (n,), generator=generator)]
        # exactly half: ranks of random numbers
        hidden = torch.rand(n, self.size, generator=generator).argsort(1).argsort(1) < self.size // 2
        degraded = target.masked_fill(hidden, 0).unsqueeze(1).expand(-1, self.probe, -1)
        return torch.cat([shown, degraded], 1), target, hidden


@dataclass(frozen=True, eq=False)
class ImageCompletion:
    """Images are shown one after another, then one half of one of them: complete it.

    Pixels are graded: each image has mean 0 and greatest absolute value 1.

    Args:
        images: those to draw from.
        patterns: how many different ones are shown in a task.
        show: steps that an image stays.
        blank: empty steps after each image.
        probe: steps that the half stays; the answer is what the net says at the last.
        presentations: how often all images are shown, each time in a new order.

    Shape:
        images ``[n, height, width]``.

    Raises:
        InputError: the images are not three-dimensional, or fewer than a task shows.

    Reference:
        Miconi, Stanley, Clune 2018, arXiv:1804.02464, and the authors' released task: 3 of CIFAR-10's images in grey, 3
        presentations of 20 steps, upper or lower half.
    """

    images: Tensor
    patterns: int = 3
    show: int = 3
    blank: int = 1
    probe: int = 3
    presentations: int = 1

    def __post_init__(self) -> None:
        if self.images.ndim != 3 or len(self.images) < self.patterns:
            raise InputError(
                f"Expected images [n, height, width], n at least {self.patterns}. Found shape {[*self.images.shape]}. "
                "Stack images of one channel along a first axis."
            )

    @cached_property
    def pixels(self) -> Tensor:
        """Every image with mean 0 and greatest absolute value 1. Shape: ``[n, height * width]``."""
        flat = self.images.flatten(1).float()
        flat = flat - flat.mean(1, keepdim=True)
        return flat / flat.abs().amax(1, keepdim=True).clamp_min(1e-8)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw n tasks: inputs ``[n, time, pixels]``, the whole image ``[n, pixels]``, and the half that is zeroed."""
        each = torch.multinomial(torch.ones(n, len(self.images)), self.patterns, generator=generator)
        pattern = self.pixels[each]
        shown = _shown(pattern, self.show, self.blank, self.presentations, generator)
        target = pattern[:, 0]  # their order is random already
        lower = torch.arange(target.shape[1]) >= target.shape[1] // 2
        hidden = lower ^ (torch.rand(n, 1, generator=generator) < 0.5)
        half = target.masked_fill(hidden, 0).unsqueeze(1).expand(-1, self.probe, -1)
        return torch.cat([shown, half], 1), target, hidden


@dataclass(frozen=True)
class CueReward:
    """One of several random cues is the target. Cues come in succession, two a trial: was the target among them?

    A right answer is rewarded and nothing else is told, so the target must be found by reward, over several trials.
    A trial holds the target half of the time. With one cue a trial, each reward tells all about its cue. After the cues
    comes a sign to answer, and the reward on a step of its own, no cue beside it: what modulates by reward then
    writes what the trial's cues left behind, not the next trial's.

    Args:
        bits: length of a cue, each bit -1 or 1.
        cues: how many cues a task has.
        trials: how often cues are shown in a task.
        shown: cues of a trial, 1 or 2.

    Reference:
        Miconi et al. 2019, arXiv:2002.10585, and the authors' released task: 20 bits, 4 cues, 120 steps.
    """

    bits: int = 20
    cues: int = 4
    trials: int = 12
    shown: int = 2

    def __post_init__(self) -> None:
        if self.shown not in (1, 2) or self.cues < 2 * self.shown:
            raise InputError(
                f"Expected 1 or 2 cues a trial, of at least twice as many. Found {self.shown} of {self.cues}. "
                "Raise cues, lest a trial give the target away."
            )

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n tasks: cues ``[n, trials, shown, bits]``, whether a trial holds the target ``[n, trials]`` (int64)."""
        cue = 2.0 * torch.randint(2, (n, self.cues, self.bits), generator=generator) - 1
        # number 0 is the target; the cues are alike, so nothing shows it
        others = 1 + torch.rand(n, self.trials, self.cues - 1, generator=generator).argsort(-1)[..., : self.shown]
        answer = torch.randint(2, (n, self.trials), generator=generator)
        first = torch.randint(self.shown, (n, self.trials, 1), generator=generator) == torch.arange(self.shown)
        pair = others.masked_fill(first & answer.bool().unsqueeze(-1), 0)
        return cue.gather(1, pair.flatten(1).unsqueeze(-1).expand(-1, -1, self.bits)).unflatten(
            1, pair.shape[1:]
        ), answer


@dataclass(frozen=True)
class GridMaze:
    """A maze with an unseen reward; who finds it is moved to a random place and may come back.

    Walls stand all round and at every second row and column. The 3 x 3 squares around the agent are all it sees. The
    reward's square is drawn for each task. Actions: up, down, left, right; walls stop.

    Args:
        side: squares a side, walls included; odd. The paper's is 9.

    Shape:
        tasks and positions ``[T]`` (number of a square), observation ``[T, 9]`` (1 for wall), action ``[T]``.

    Reference:
        Miconi, Stanley, Clune 2018, arXiv:1804.02464.
    """

    side: int = 7

    def __post_init__(self) -> None:
        if self.side < 5 or self.side % 2 == 0:
            raise InputError(f"Expected an odd side of at least 5. Found {self.side}.")

    @cached_property
    def walls(self) -> Tensor:
        """1 where a wall is. Shape: ``[side * side]``."""
        at = torch.arange(self.side)
        edge, even = (at == 0) | (at == self.side - 1), at % 2 == 0
        return (edge.unsqueeze(1) | edge | (even.unsqueeze(1) & even)).flatten().float()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Where the reward of each of n tasks lies. Shape: ``[n]``."""
        return self.place(n, generator)

    def place(self, n: int, generator: torch.Generator) -> Tensor:
        """Free squares at random. Shape: ``[n]``."""
        free = (self.walls == 0).nonzero().squeeze(1)
        return free[torch.randint(len(free), (n,), generator=generator)]

    @cached_property
    def views(self) -> Tensor:
        """The walls around every square; nonsense at the edge, where nobody stands. Shape: ``[side * side, 9]``."""
        near = torch.tensor([self.side * row + column for row in (-1, 0, 1) for column in (-1, 0, 1)])
        return self.walls[(torch.arange(self.side**2).unsqueeze(1) + near).clamp(0, self.side**2 - 1)]

    def see(self, position: Tensor) -> Tensor:
        """The walls around. Shape: ``[T]`` to ``[T, 9]``."""
        return self.views[position]

    def step(
        self, position: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Move. Gives the new position and the reward; on the reward, the position is a random one."""
        to = position + torch.tensor([-self.side, self.side, -1, 1])[action]
        to = torch.where(self.walls[to] > 0, position, to)
        found = to == tasks
        return torch.where(found, self.place(len(to), generator), to), found.float()


def _shown(pattern: Tensor, show: int, blank: int, presentations: int, generator: torch.Generator) -> Tensor:
    """Each pattern, then empty steps; in a new order each time. Shape: ``[T, p, size]`` to ``[T, time, size]``."""
    n, patterns, size = pattern.shape
    shown = []
    for _ in range(presentations):
        order = torch.rand(n, patterns, generator=generator).argsort(1)
        each = pattern.gather(1, order.unsqueeze(-1).expand_as(pattern)).unsqueeze(2)
        empty = each.new_zeros(n, patterns, blank, size)
        shown.append(torch.cat([each.expand(-1, -1, show, -1), empty], 2).flatten(1, 2))
    return torch.cat(shown, 1)
