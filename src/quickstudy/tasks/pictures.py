"""Worlds that are seen in pictures, and rewards that are nearness in features of pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quickstudy.core import GoalEnvironment, InputError, Problem
from quickstudy.tasks.acting import Wrapped, uniform

Render = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Dots:
    """Small pictures of a place in a square room: a dot for the place, and something larger and brighter elsewhere.

    The other thing lies somewhere else in every picture and means nothing; light adds up. It has most of the light, so
    pictures of one place differ more by it than pictures of two places by the place.

    Args:
        side: pixels along a side.
        room: length of the room's side.
        dot: brightness and width of the dot.
        other: brightness and width of the other thing; brightness 0 leaves it away.

    Shape:
        places ``[..., 2]`` to pictures ``[..., side * side]``, rows one after another.
    """

    side: int = 16
    room: float = 4.0
    dot: tuple[float, float] = (0.7, 0.4)
    other: tuple[float, float] = (1.0, 0.8)

    def __call__(self, place: Tensor, generator: torch.Generator) -> Tensor:
        """A picture of each place."""
        seen = self.spot(place, *self.dot)
        if self.other[0]:
            seen = seen + self.spot(uniform(0, self.room, tuple(place.shape), generator), *self.other)
        return seen

    def spot(self, at: Tensor, bright: float, width: float) -> Tensor:
        """A round spot that fades to its edge."""
        pixel = (torch.arange(self.side, device=at.device) + 0.5) * self.room / self.side
        along, across = (torch.exp(-(((pixel - at[..., i : i + 1]) / width) ** 2) / 2) for i in (1, 0))
        return bright * (along.unsqueeze(-1) * across.unsqueeze(-2)).flatten(-2)


@dataclass(frozen=True)
class Pictured(Wrapped):
    """The same goals to reach, with a picture in place of where one is; the goal stands behind it as it was.

    Args:
        environment: gives where one is and is to be by its ``goals``.
        render: places ``[T, g]`` and a generator to pictures ``[T, size]``.
        size: numbers of a picture.

    Shape:
        observation ``[T, size + g]``.
    """

    environment: GoalEnvironment
    render: Render
    size: int

    @property
    def problem(self) -> Problem:
        """Picture and goal are seen; the same is done."""
        problem = self.environment.problem
        tasks = self.environment.sample(1, torch.Generator().manual_seed(0))
        seen = self.environment.reset(tasks, torch.Generator().manual_seed(0))[1]
        return replace(problem, x_shape=(self.size + self.environment.goals(seen)[1].shape[-1],))

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """State as it was; a picture of it."""
        state, observation = self.environment.reset(tasks, generator)
        return state, self.see(observation, generator)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step as it was; a picture of where it led."""
        state, observation, *rest = self.environment.step(state, action, tasks, generator)
        return (state, self.see(observation, generator), *rest)  # type: ignore[return-value]

    def see(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Picture and goal."""
        here, goal = self.environment.goals(observation)
        return torch.cat([self.render(here, generator), goal], -1)


@dataclass(frozen=True)
class FeatureReward(Wrapped):
    r"""Come to where demonstrations ended: the reward is nearness to a picture of that end, in given features.

    .. math::
        r = -\| \varphi(x(s')) - \varphi(x_{end}) \|

    A task is the last picture of a demonstration; nothing else of it is used. What is seen stays what the environment
    shows, so features serve the reward only. Nothing ends but by time. What features leave out is of no account, which
    is their use where they were trained on what matters, and their danger where not.

    Args:
        environment: gives where one is by its ``goals``, first half; its own rewards are not used.
        render: places ``[T, g]`` and a generator to pictures ``[T, size]``.
        features: pictures ``[T, size]`` to ``[T, f]``; the identity makes it a distance of pixels.
        ends: last pictures of demonstrations, which are the tasks, ``[K, size]``.
        nowhere: a task of the environment's that cannot be reached, ``[*task]``: episodes end by time only.

    Shape:
        tasks ``[T, size]``, observation ``[T, g]`` (where one is).

    Raises:
        InputError: ends that are no rows of pictures.
    """

    environment: GoalEnvironment
    render: Render
    features: Callable[[Tensor], Tensor]
    ends: Tensor
    nowhere: Tensor

    def __post_init__(self) -> None:
        if self.ends.ndim != 2 or not len(self.ends):
            raise InputError(f"Expected last pictures of demonstrations, [K, size]. Found {tuple(self.ends.shape)}.")

    @property
    def problem(self) -> Problem:
        """Where one is is seen; the same is done."""
        problem = self.environment.problem
        tasks = self._nowhere(self.ends[:1])
        seen = self.environment.reset(tasks, torch.Generator(tasks.device).manual_seed(0))[1]
        return replace(problem, x_shape=(self.environment.goals(seen)[0].shape[-1],), n_tasks=len(self.ends))

    def known(self) -> Tensor:
        """The demonstrations' ends, for :class:`quickstudy.tasks.identity.SeesIdentity`. Shape: ``[K, size]``."""
        return self.ends

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Any of the ends."""
        device = self.ends.device
        return self.ends[torch.randint(len(self.ends), (n,), generator=generator, device=device)]

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The environment's start."""
        state, observation = self.environment.reset(self._nowhere(tasks), generator)
        return state, self.environment.goals(observation)[0]

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step of the environment's, and how near its picture is to the demonstration's last."""
        state, observation, _, _, truncated = self.environment.step(state, action, self._nowhere(tasks), generator)
        here = self.environment.goals(observation)[0]
        with torch.no_grad():
            far = (self.features(self.render(here, generator)) - self.features(tasks)).norm(dim=-1)
        return state, here, -far, torch.zeros_like(truncated), truncated

    def _nowhere(self, tasks: Tensor) -> Tensor:
        return self.nowhere.expand(len(tasks), *self.nowhere.shape)
