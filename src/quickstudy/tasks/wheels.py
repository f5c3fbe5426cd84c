r"""Training wheels: the same tasks made easier in six ways, each by as much help as the task itself says.

A task of these environments is one of the environment inside with a number behind it, the help: 1 is all of it, 0 none.
Without help an episode is that of the environment inside, bit for bit. ``sample`` gives tasks without help: what is to
be learned. :class:`quickstudy.curricula.Fading` draws those with help and takes it away as the learner copes. Help is
fixed within an episode and not seen. Wheels can be put around each other: each adds a number of its own.

======================= ================================================================================
:class:`HeadStart`      a shorter task: a guide has walked part of the way
:class:`Breadcrumbs`    a reward for getting nearer, which is paid back for going away again
:class:`CoarserStates`  what is seen is blurred, so that what is learned here serves there as well
:class:`CoarserActions` what is done is moved to the nearest of a few actions, so near misses count
:class:`CoarserTime`    an action is repeated, so that chance leads farther
:class:`ShownMore`      what is hidden is shown now and then
======================= ================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core import Environment, InputError, Policy
from quickstudy.tasks.acting import Wrapped


def helped(tasks: Tensor, help: float | Tensor) -> Tensor:
    """Tasks with so much help. Shape: ``[T, d]`` and a number or ``[T]`` to ``[T, d + 1]``."""
    _flat(tasks)
    much = torch.as_tensor(help, dtype=tasks.dtype, device=tasks.device).expand(len(tasks))
    return torch.cat([tasks, much.unsqueeze(1)], 1)


def apart(tasks: Tensor) -> tuple[Tensor, Tensor]:
    """The tasks inside, and the help. Shape: ``[T, d + 1]`` to ``[T, d]`` and ``[T]``."""
    _flat(tasks)
    return tasks[:, :-1], tasks[:, -1]


def _flat(tasks: Tensor) -> None:
    if tasks.ndim != 2 or not tasks.is_floating_point():
        raise InputError(
            f"Expected tasks that are rows of numbers, [T, d], for help to stand behind. Found {tasks.dtype} "
            f"{tuple(tasks.shape)}. Flatten them."
        )


class Wheel(Wrapped):
    """An environment whose tasks have their help behind them."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N tasks without help."""
        return helped(self.environment.sample(n, generator), 0.0)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As it was."""
        return self.environment.reset(apart(tasks)[0], generator)


@dataclass(frozen=True)
class HeadStart(Wheel):
    """A shorter task: a guide goes the first steps, and the learner takes over where it stands.

    Near the goal even chance succeeds; from there the start moves back as help fades (a curriculum in reverse). The
    guide's steps are no part of the episode that is learned from, but take their time of it. A guide stops before a
    step that would end the episode.

    Args:
        environment: tasks ``[T, d]``.
        guide: who goes first, made for the tasks: an oracle, or a policy learned from demonstrations.
        steps: how many it goes at full help.

    Raises:
        InputError: no steps.

    Reference:
        Florensa et al. 2017, Reverse curriculum generation for reinforcement learning, arXiv:1707.05300 (starts move
        back from the goal); Uchendu et al. 2022, Jump-start reinforcement learning, arXiv:2204.02372 (a guide that
        goes first, for fewer and fewer steps).
    """

    environment: Environment
    guide: Callable[[Tensor], Policy]
    steps: int

    def __post_init__(self) -> None:
        _at_least("steps of the guide", self.steps, 1)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where the guide got to."""
        tasks, help = apart(tasks)
        state, observation = self.environment.reset(tasks, generator)
        walk = (help * self.steps).round()
        if not bool((walk > 0).any()):
            return state, observation
        guide = self.guide(tasks)
        memory, walks = guide.start(len(tasks)), torch.ones_like(walk, dtype=torch.bool)
        for step in range(int(walk.max())):
            action, _, memory = guide.act(observation, memory, generator)
            there, seen, reward, terminated, truncated = self.environment.step(state, action, tasks, generator)
            memory = guide.learn(memory, action, reward, terminated | truncated)
            walks = walks & (step < walk) & ~terminated & ~truncated
            state, observation = _where(walks, there, state), _where(walks, seen, observation)
        return state, observation

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As it was."""
        return self.environment.step(state, action, apart(tasks)[0], generator)


@dataclass(frozen=True)
class Breadcrumbs(Wheel):
    r"""Potential-based shaping: a step also earns the rise of a potential, times the help h.

    .. math::
        r' = r + h \, (\gamma \Phi(s') - \Phi(s)), \qquad \Phi(s') = 0 \text{ where the episode terminated}

    Whatever the potential, what is best stays best: values become :math:`Q'(s, a) = Q(s, a) - h \Phi(s)`, the same for
    all actions, so the order of actions is unchanged at any help. A bonus for nearing that is not paid back when going
    away again has no such warrant: it is best earned by going to and fro.

    Args:
        environment: tasks ``[T, d]``.
        potential: state ``[T, s]`` and tasks ``[T, d]`` to ``[T]``, higher where it is better to be.
        discount: the learner's own gamma; with another one the warrant is void.

    Raises:
        InputError: a discount out of [0, 1].

    Reference:
        Ng, Harada, Russell 1999, Policy invariance under reward transformations: theory and application to reward
        shaping, ICML, theorem 1.
    """

    environment: Environment
    potential: Callable[[Tensor, Tensor], Tensor]
    discount: float

    def __post_init__(self) -> None:
        if not 0 <= self.discount <= 1:
            raise InputError(f"Expected a discount from 0 to 1. Found {self.discount}. Give the learner's own.")

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step, and what the potential rose by."""
        tasks, help = apart(tasks)
        there, observation, reward, terminated, truncated = self.environment.step(state, action, tasks, generator)
        before, after = (self.potential(at, tasks).to(reward.dtype) for at in (state, there))
        rise = self.discount * after.masked_fill(terminated, 0.0) - before
        return there, observation, reward + (help * rise).where(help != 0, 0.0), terminated, truncated


@dataclass(frozen=True)
class CoarserStates(Wheel):
    """What is seen is blurred: a mixture, by the help, of what is there and of a coarser view of it.

    At full help places that share the coarser view are one place to the learner: fewer things to learn, each from more
    data. As help fades they come apart, and each begins with what was learned for all.

    Args:
        environment: tasks ``[T, d]``.
        coarse: observation ``[T, *o]`` to a coarser one of the same shape, such as its cell's middle, or for one-hot
            cells the mean over a block of them.
    """

    environment: Environment
    coarse: Callable[[Tensor], Tensor]

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """State as it was; what is seen, blurred."""
        tasks, help = apart(tasks)
        state, observation = self.environment.reset(tasks, generator)
        return state, self.blurred(observation, help)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step as it was; what is seen, blurred."""
        tasks, help = apart(tasks)
        state, observation, *rest = self.environment.step(state, action, tasks, generator)
        return (state, self.blurred(observation, help), *rest)  # type: ignore[return-value]

    def blurred(self, observation: Tensor, help: Tensor) -> Tensor:
        """The mixture. Shape: ``[T, *o]`` and ``[T]`` to ``[T, *o]``."""
        share = help.view(-1, *[1] * (observation.ndim - 1)).to(observation.dtype)
        return torch.lerp(observation, self.coarse(observation), share)


@dataclass(frozen=True)
class CoarserActions(Wheel):
    r"""What is done is moved towards the nearest of a few actions, each number to one of ``levels``, evenly spaced.

    .. math::
        a' = (1 - h) \, a + h \, \lfloor a \rceil

    where :math:`\lfloor a \rceil` is the level nearest to :math:`a`.

    At full help there are ``levels ** a`` things to do, so that chance soon tries them all, and where something exact
    is asked for a near miss will do. As help fades an action has to be as exact as the environment wants it.

    Args:
        environment: continuous actions, tasks ``[T, d]``.
        levels: of each number, from -1 to 1; some of them good ones.

    Raises:
        InputError: discrete actions; fewer than 2 levels.
    """

    environment: Environment
    levels: int = 3

    def __post_init__(self) -> None:
        _at_least("levels of a number", self.levels, 2)
        if self.environment.problem.kind != "regression":
            raise InputError(
                f"Expected continuous actions to make coarser. Found {self.environment.problem.kind!r}. Leave the "
                "wheel out: discrete ones are few already."
            )

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step with the action that is between what was chosen and the level next to it."""
        tasks, help = apart(tasks)
        between = (self.levels - 1) / 2
        nearest = ((action.clamp(-1, 1) + 1) * between).round() / between - 1
        drawn = torch.lerp(action, nearest, help.unsqueeze(1).to(action.dtype))
        return self.environment.step(state, drawn, tasks, generator)


@dataclass(frozen=True)
class CoarserTime(Wheel):
    """An action is repeated, up to ``most`` times at full help, and the rewards of the steps are added up.

    What tries at random comes n steps far where it would come sqrt(n), and has fewer decisions to make. The discount
    is per decision. A repetition stops where the episode ends. A trial still has as many decisions as the environment
    has steps, so it may hold more episodes.

    Args:
        environment: tasks ``[T, d]``.
        most: steps of one decision at full help.

    Raises:
        InputError: nothing is repeated.
    """

    environment: Environment
    most: int = 4

    def __post_init__(self) -> None:
        _at_least("steps of a decision", self.most, 2)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As many steps as the help says, with one action."""
        tasks, help = apart(tasks)
        repeats = self.repeats(help)
        state, observation, reward, terminated, truncated = self.environment.step(state, action, tasks, generator)
        for done in range(1, int(repeats.max())):
            goes_on = (done < repeats) & ~terminated & ~truncated
            if not bool(goes_on.any()):
                break
            there, seen, more, ended, late = self.environment.step(state, action, tasks, generator)
            state, observation = _where(goes_on, there, state), _where(goes_on, seen, observation)
            reward = reward + more.where(goes_on, 0.0)
            terminated, truncated = terminated | (ended & goes_on), truncated | (late & goes_on)
        return state, observation, reward, terminated, truncated

    def repeats(self, help: Tensor) -> Tensor:
        """Steps of one decision. Shape: ``[T]``, int64."""
        return 1 + (help * (self.most - 1)).round().long()


@dataclass(frozen=True)
class ShownMore(Wheel):
    """What is hidden is shown with a probability that is the help, step by step.

    At full help nothing needs to be remembered. As help fades, the last time that it was shown lies farther and farther
    back, so a learner with a memory has to hold on to it for longer and longer, but never for much longer than it can.

    Args:
        environment: tasks ``[T, d]``.
        shown: state ``[T, s]`` and tasks ``[T, d]`` to what would be seen there if nothing were hidden, ``[T, *o]``.
    """

    environment: Environment
    shown: Callable[[Tensor, Tensor], Tensor]

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """State as it was; perhaps all is seen."""
        inside, help = apart(tasks)
        state, observation = self.environment.reset(inside, generator)
        return state, self.seen(observation, state, inside, help, generator)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step as it was; perhaps all is seen."""
        inside, help = apart(tasks)
        state, observation, *rest = self.environment.step(state, action, inside, generator)
        return (state, self.seen(observation, state, inside, help, generator), *rest)  # type: ignore[return-value]

    def seen(
        self, observation: Tensor, state: Tensor, tasks: Tensor, help: Tensor, generator: torch.Generator
    ) -> Tensor:
        """All with the probability of the help, else what is seen anyway. Shape: ``[T, *o]``."""
        if not bool((help > 0).any()):
            return observation  # no draw: without help an episode is that of the environment inside
        lucky = torch.rand(len(help), generator=generator, device=help.device) < help
        return _where(lucky, self.shown(state, tasks), observation)


def _at_least(what: str, found: int, least: int) -> None:
    if found < least:
        raise InputError(f"Expected at least {least} {what}. Found {found}. Raise it, or leave the wheel out.")


def _where(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``new`` for some tasks, ``old`` for the others."""
    return new.where(which.view(-1, *[1] * (new.ndim - 1)), old)
