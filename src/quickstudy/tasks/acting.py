"""What environments share: their draws, checks of what goes in and out, and policies that follow a known rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quickstudy.core import Environment, GoalEnvironment, InputError, Problem, RunError


def uniform(low: float | Tensor, high: float | Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws between the bounds, on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def sent(drawn: Tensor, like: Tensor) -> Tensor:
    """What was drawn on the generator's device, brought to where ``like`` is.

    So a seed means the same draws on every device. Nobody waits until they have arrived on an accelerator: what is
    computed from them there does.
    """
    return drawn.to(like.device, non_blocking=like.is_cuda)


def check_action(problem: Problem, action: Tensor) -> None:
    """Refuse what the problem does not describe.

    Raises:
        InputError: another shape or type, a discrete action that there is not, a continuous one that is not finite.
    """
    if problem.kind == "classification":
        if action.ndim != 1 or action.is_floating_point():
            raise InputError(
                f"Expected one integer action a task, [T]. Found {action.dtype} {tuple(action.shape)}. "
                "Give indices, not logits."
            )
        low, high = action.aminmax()
        if bool((low < 0) | (high >= problem.n_outputs)):
            wrong = (action < 0) | (action >= problem.n_outputs)
            raise InputError(
                f"Expected actions 0 to {problem.n_outputs - 1}. Found {int(action[wrong][0])} for task "
                f"{int(wrong.nonzero()[0])}. Check how many actions the policy's head has."
            )
        return
    if action.ndim != 2 or action.shape[1] != problem.n_outputs or not action.is_floating_point():
        raise InputError(
            f"Expected {problem.n_outputs} numbers a task, [T, {problem.n_outputs}]. Found {action.dtype} "
            f"{tuple(action.shape)}."
        )
    if not all_finite(action):
        wrong = ~action.isfinite().all(1)
        raise InputError(
            f"Expected finite actions. Found {action[wrong][0].tolist()} for task {int(wrong.nonzero()[0])}. "
            "The policy has diverged: lower its learning rate."
        )


def all_finite(value: Tensor) -> bool:
    """Whether all numbers are finite; where their sum is, they are, and a sum is soon made."""
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


class Rule:
    """Acts by a fixed rule and remembers nothing: oracles, and what they are compared with.

    Log-probabilities of its actions are not known (NaN).

    Args:
        rule: observation ``[T, *o]`` and generator to action.
    """

    def __init__(self, rule: Callable[[Tensor, torch.Generator], Tensor]) -> None:
        self.rule = rule

    def start(self, n_tasks: int) -> Tensor:
        """Nothing. Shape: ``[T, 0]``."""
        return torch.zeros(n_tasks, 0)

    def act(self, observation: Tensor, memory: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What the rule says."""
        action = self.rule(observation, generator)
        return action, torch.full((len(action),), torch.nan, device=action.device), memory

    def learn(self, memory: Tensor, action: Tensor, reward: Tensor, done: Tensor) -> Tensor:
        """Nothing."""
        return memory


def at_random(problem: Problem) -> Rule:
    """Any action, all alike: the floor."""

    def rule(observation: Tensor, generator: torch.Generator) -> Tensor:
        n = len(observation)
        if problem.kind == "classification":
            action = torch.randint(problem.n_outputs, (n,), generator=generator, device=generator.device)
        else:
            action = uniform(-1, 1, (n, problem.n_outputs), generator)
        return sent(action, observation)

    return Rule(rule)


class Wrapped:
    """An environment inside of which is another, and which is as that one is but for what a subclass says.

    What is inside is kept as ``environment``, so that it can be found (:func:`quickstudy.tasks.worlds.bare`).
    """

    environment: Environment

    @property
    def problem(self) -> Problem:
        """What is seen and done."""
        return self.environment.problem

    @property
    def horizon(self) -> int:
        """Steps of a trial."""
        return self.environment.horizon

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N tasks."""
        return self.environment.sample(n, generator)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """State and observation of a first step."""
        return self.environment.reset(tasks, generator)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """State, observation, reward, terminated, truncated."""
        return self.environment.step(state, action, tasks, generator)


@dataclass(frozen=True)
class Discretised(Wrapped):
    """The same goals to reach, with few actions to choose from: every number is one of ``levels``, evenly spaced.

    A policy over them can prefer opposite ways at once, where the mean of a normal one would stand still.

    Args:
        environment: continuous actions.
        levels: of each number, from -1 to 1; there are ``levels ** a`` actions.

    Shape:
        action ``[T]``; the rest as it was.
    """

    environment: GoalEnvironment
    levels: int = 3

    def __post_init__(self) -> None:
        if self.environment.problem.kind != "regression" or self.levels < 2:
            raise InputError(
                f"Expected continuous actions and at least 2 levels. Found {self.environment.problem.kind!r} and "
                f"{self.levels}."
            )

    @property
    def problem(self) -> Problem:
        """The same is seen; one of a list is done."""
        problem = self.environment.problem
        return replace(problem, kind="classification", n_outputs=self.levels**problem.n_outputs)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step with the numbers that an action stands for."""
        check_action(self.problem, action)
        return self.environment.step(state, self.numbers(action).to(state), tasks, generator)

    def numbers(self, action: Tensor) -> Tensor:
        """What an action stands for. Shape: ``[...]`` to ``[..., a]``; the last number changes fastest."""
        place = torch.arange(self.environment.problem.n_outputs - 1, -1, -1, device=action.device)
        return action.unsqueeze(-1) // self.levels**place % self.levels * (2 / (self.levels - 1)) - 1

    def nearest(self, numbers: Tensor) -> Tensor:
        """The action that comes nearest. Shape: ``[..., a]`` to ``[...]``."""
        level = ((numbers.clamp(-1, 1) + 1) / 2 * (self.levels - 1)).round().long()
        place = torch.arange(level.shape[-1] - 1, -1, -1, device=level.device)
        return (level * self.levels**place).sum(-1)

    def goals(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """As it was."""
        return self.environment.goals(observation)

    def relabel(self, observation: Tensor, goal: Tensor) -> Tensor:
        """As it was."""
        return self.environment.relabel(observation, goal)

    def outcome(self, achieved: Tensor, desired: Tensor) -> tuple[Tensor, Tensor]:
        """As it was."""
        return self.environment.outcome(achieved, desired)


@dataclass(frozen=True)
class SeesTask(Wrapped):
    """The same environment, which shows the task as well: its numbers stand behind the observation's.

    Args:
        environment: observations ``[T, o]``; tasks of any shape.
        example: one task, ``[1, *task]``, which tells how many numbers a task has.
    """

    environment: Environment
    example: Tensor

    @property
    def problem(self) -> Problem:
        """More is seen; the same is done."""
        problem = self.environment.problem
        return replace(problem, x_shape=(problem.x_shape[0] + self.example[0].numel(),))

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """State, and what is seen with the task behind."""
        state, observation = self.environment.reset(tasks, generator)
        return state, torch.cat([observation, tasks.flatten(1).to(observation.dtype)], 1)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step, and what is seen with the task behind."""
        state, observation, *rest = self.environment.step(state, action, tasks, generator)
        seen = torch.cat([observation, tasks.flatten(1).to(observation.dtype)], 1)
        return (state, seen, *rest)  # type: ignore[return-value]


@dataclass(frozen=True)
class Standardised(Wrapped):
    """The same goals to reach, seen through a fixed shift and scale; goals and rewards stay in the environment's units.

    Args:
        environment: observations ``[T, o]``.
        shift: what is taken from each number that is seen.
        scale: what the rest is divided by.

    Shape:
        shift and scale ``[o]``.
    """

    environment: GoalEnvironment
    shift: Tensor
    scale: Tensor

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """State as it was; what is seen, shifted and scaled."""
        state, observation = self.environment.reset(tasks, generator)
        return state, self.seen(observation)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step as it was; what is seen, shifted and scaled."""
        state, observation, *rest = self.environment.step(state, action, tasks, generator)
        return (state, self.seen(observation), *rest)  # type: ignore[return-value]

    def goals(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """In the environment's units."""
        return self.environment.goals(observation * self.scale + self.shift)

    def relabel(self, observation: Tensor, goal: Tensor) -> Tensor:
        """The same with another goal, which is in the environment's units."""
        return self.seen(self.environment.relabel(observation * self.scale + self.shift, goal))

    def outcome(self, achieved: Tensor, desired: Tensor) -> tuple[Tensor, Tensor]:
        """As it was."""
        return self.environment.outcome(achieved, desired)

    def seen(self, observation: Tensor) -> Tensor:
        """What is seen, shifted and scaled."""
        return (observation - self.shift) / self.scale


def standardised(environment: GoalEnvironment, observation: Tensor, least: float = 0.01) -> Standardised:
    """Shift and scale by the mean and the deviation of what was seen, such as a trial of random actions.

    Args:
        environment: whose observations these are.
        observation: ``[T, time, o]``.
        least: the smallest scale, lest noise of what hardly moves fill the view.
    """
    seen = observation.flatten(0, -2)
    return Standardised(environment, seen.mean(0), seen.std(0).clamp_min(least))


class Checked(Wrapped):
    """The same environment, which stops at once where an action is out of bounds or a NaN comes out.

    It counts its steps, for the message only: what it gives depends on its arguments alone.

    Args:
        environment: what is watched.

    Raises:
        InputError: an action is out of bounds (names the step and the task).
        RunError: the environment gave a number that is not finite (names the step and the task).
    """

    def __init__(self, environment: Environment) -> None:
        self.environment, self.steps = environment, 0

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As it was; what it gives is finite."""
        state, observation = self.environment.reset(tasks, generator)
        finite("The observation after a reset", observation, self.steps, tasks)
        return state, observation

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As it was; what goes in is within bounds, and what comes out is finite."""
        self.steps += 1
        check_action(self.problem, action)
        if self.problem.kind == "regression":
            within_bounds(action, self.steps)
        result = self.environment.step(state, action, tasks, generator)
        finite("The observation", result[1], self.steps, tasks)
        finite("The reward", result[2], self.steps, tasks)
        return result


class OnDevice(Wrapped):
    """The same environment, which computes where it did, while what is seen, done and earned is on another device.

    For physics that only a processor knows, with nets, memory and learning on an accelerator. Chance stays on the
    processor too: one seed means the same there and here.

    What it has just sent away it does not fetch back: each look at an accelerator waits for all that it was told to do
    before. So tensors that it gives are to be left as they are, as all loops do.

    Args:
        environment: computes on the processor.
        device: where tasks, states, observations, rewards and ends are wanted.
    """

    def __init__(self, environment: Environment, device: torch.device | str) -> None:
        self.environment, self.device = environment, torch.device(device)
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N tasks."""
        return self.away("tasks", self.environment.sample(n, generator))

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """State and observation of a first step."""
        state, observation = self.environment.reset(self.here("tasks", tasks), generator)
        return self.away("state", state), self.away("", observation)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step where the environment is."""
        given = self.here("state", state), self.here("", action), self.here("tasks", tasks)
        state, *rest = self.environment.step(*given, generator)
        return (self.away("state", state), *(self.away("", value) for value in rest))  # type: ignore[return-value]

    def away(self, name: str, near: Tensor) -> Tensor:
        """To the device; what has a name is remembered."""
        far = near.to(self.device, non_blocking=self.device.type == "cuda")
        if name:
            self.pairs[name] = far, near
        return far

    def here(self, name: str, far: Tensor) -> Tensor:
        """Where the environment computes."""
        known, near = self.pairs.get(name, (None, None))
        if near is None or known is not far:
            near = far.detach().cpu()
        if name:
            self.pairs[name] = far, near
        return near


def within_bounds(action: Tensor, step: int) -> None:
    """Refuse continuous actions beyond [-1, 1]."""
    beyond = (action.abs() > 1).any(1)
    if bool(beyond.any()):
        raise InputError(
            f"Expected actions in [-1, 1]. Found {action[beyond][0].tolist()} for task {int(beyond.nonzero()[0])} "
            f"at step {step}. Squash them (tanh) or clip them."
        )


def finite(what: str, value: Tensor, step: int, tasks: Tensor) -> None:
    """Refuse what an environment gave where it is not finite."""
    if not all_finite(value):
        i = int((~value.flatten(1).isfinite().all(1) if value.ndim > 1 else ~value.isfinite()).nonzero()[0])
        raise RunError(
            f"{what} should be finite. Found {value[i].tolist()} for task {i} ({tasks[i].tolist()}) at step {step}. "
            "Replay that task's actions to see what drove it there."
        )
