"""Gymnasium both ways: our environments as its vector environments, and its vector environments as ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.core import Environment, InputError, Problem, RunError
from quickstudy.tasks.acting import check_action, finite, within_bounds

try:
    import gymnasium as gymnasium
    from gymnasium import spaces as spaces
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise InputError(
        "Expected Gymnasium, whose environments these are. Found that it is not installed. "
        "Run: pip install quickstudy[rl]"
    ) from error


class ToGymnasium(VectorEnv[Any, Any, Any]):
    """Our environment as a vector environment of Gymnasium 1.x, one sub-environment a task.

    A reset starts a new episode of every task; with a seed, everything that follows is a function of it. What
    Gymnasium keeps apart stays apart: ``terminations`` and ``truncations``. Sub-environments that ended reset
    themselves, in the way that ``metadata["autoreset_mode"]`` declares:

    - next step (Gymnasium's default): the step after the last one ignores the action and gives the first observation,
      with reward 0;
    - same step: the last step gives the first observation of the next episode, and ``infos["final_obs"]`` its own;
    - disabled: whoever steps on must reset those that ended, with ``options={"reset_mask": mask}``.

    Args:
        environment: one of ours.
        tasks: the tasks, ``[n, *task]``; or how many to draw anew at every full reset.
        autoreset_mode: see above.

    Raises:
        InputError: an action is not in the action space, or is of a task that ended and was not reset.
        RunError: the environment gave a number that is not finite (names the step and the task).
    """

    def __init__(
        self,
        environment: Environment,
        tasks: Tensor | int,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.environment, self.given = environment, tasks
        self.num_envs = tasks if isinstance(tasks, int) else len(tasks)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": []}
        self.single_observation_space, self.single_action_space = spaces_of(environment.problem)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.generator: torch.Generator | None = None
        self.state: Tensor | None = None
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        """Begin an episode of every task, or of those in ``options["reset_mask"]``."""
        super().reset(seed=seed)
        if seed is not None or self.generator is None:
            start = seed if seed is not None else int(self.np_random.integers(2**62))
            self.generator = torch.Generator().manual_seed(start)
        mask = None if options is None else options.get("reset_mask")
        if mask is not None:
            mask = np.asarray(mask)
            if self.state is None or mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
                raise InputError(
                    f"Expected reset_mask as {self.num_envs} bools, one of them True, after a first full reset. "
                    f"Found {mask.dtype} {mask.shape}."
                )
            self.begin(torch.as_tensor(mask))
            return self.seen(), {}
        self.tasks = self.environment.sample(self.given, self.generator) if isinstance(self.given, int) else self.given
        self.state, self.observation = self.environment.reset(self.tasks, self.generator)
        self.ended = torch.zeros(self.num_envs, dtype=torch.bool)
        self.steps = 0
        return self.seen(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of every task; those that ended before begin anew where that is the mode."""
        if self.state is None or self.generator is None:
            raise InputError("Expected a reset before the first step. Found none. Call reset().")
        self.steps += 1
        action = self.checked(actions)
        old = self.ended
        if self.autoreset_mode is AutoresetMode.DISABLED and bool(old.any()):
            raise InputError(
                f"Expected the tasks that ended to be reset. Found task {int(old.nonzero()[0])} at step {self.steps}. "
                'Call reset(options={"reset_mask": mask}).'
            )
        state, observation, reward, terminated, truncated = self.environment.step(
            self.state, action, self.tasks, self.generator
        )
        if bool(old.any()):  # next step: what these did is undone, for it was no step of theirs
            self.begin(old)
            state, observation = among(old, self.state, state), among(old, self.observation, observation)
            reward, terminated, truncated = reward.masked_fill(old, 0), terminated & ~old, truncated & ~old
        finite("The observation", observation, self.steps, self.tasks)
        finite("The reward", reward, self.steps, self.tasks)
        self.state, self.observation, self.ended = state, observation, terminated | truncated
        infos: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and bool(self.ended.any()):
            done, last = self.ended.cpu().numpy(), self.seen()
            infos = {"final_obs": np.full(self.num_envs, None, dtype=object), "_final_obs": done}
            infos |= {"final_info": {}, "_final_info": done.copy()}
            for i in done.nonzero()[0]:
                infos["final_obs"][i] = last[i]
            self.begin(self.ended)
        numbers = reward.double().cpu().numpy(), terminated.cpu().numpy(), truncated.cpu().numpy()
        return self.seen(), *numbers, infos

    def begin(self, mask: Tensor) -> None:
        """A new episode of some tasks."""
        assert self.state is not None and self.generator is not None
        state, observation = self.environment.reset(self.tasks, self.generator)
        self.state, self.observation = among(mask, state, self.state), among(mask, observation, self.observation)
        self.ended = self.ended & ~mask

    def seen(self) -> np.ndarray[Any, Any]:
        """The present observation, a copy."""
        return np.array(self.observation.cpu().numpy(), dtype=np.float32)

    def checked(self, actions: Any) -> Tensor:
        """Actions as the environment takes them."""
        try:
            action, problem = torch.as_tensor(np.asarray(actions)), self.environment.problem
        except (TypeError, ValueError) as error:
            raise InputError(
                f"Expected actions of {self.num_envs} tasks, as numbers. Found {type(actions).__name__} ({error}). "
                "Give what action_space.sample() gives."
            ) from error
        if action.shape[:1] != (self.num_envs,):
            raise InputError(f"Expected actions of {self.num_envs} tasks. Found shape {tuple(action.shape)}.")
        if problem.kind == "regression":
            check_action(problem, action)
            within_bounds(action, self.steps)
            return action.to(self.tasks.dtype if self.tasks.is_floating_point() else torch.get_default_dtype())
        check_action(problem, action)
        return action.long()


class OneToGymnasium(gymnasium.Env[Any, Any]):
    """One task of ours as a plain environment of Gymnasium.

    Args:
        environment: one of ours.
        task: the task, ``[*task]``; None draws one at every reset.
    """

    def __init__(self, environment: Environment, task: Tensor | None = None) -> None:
        self.many = ToGymnasium(environment, 1 if task is None else task.unsqueeze(0), AutoresetMode.DISABLED)
        self.observation_space = self.many.single_observation_space
        self.action_space = self.many.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        observation, infos = self.many.reset(seed=seed)
        return observation[0], infos

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step."""
        observation, reward, terminated, truncated, infos = self.many.step(np.asarray(action)[None])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), infos


class FromGymnasium:
    """A vector environment of Gymnasium as one of ours: sub-environment i is task i.

    It is no pure function, because Gymnasium's environments keep their state to themselves: there is one present, and
    a step from any other state is refused. The state here is a ticket, the number of the step that led to it. For the
    same reason a reset renews all tasks, but right after a step in which some ended it renews those alone, as
    :func:`quickstudy.training.fit_rl.collect` asks for. The same generator state gives the same episodes, as far as
    the environment keeps to its seed.

    A step that ends an episode gives the observation it led to, not the first of the next episode, and no step is
    spent on resetting: same-step mode says both observations; Gymnasium's own vector environments (synchronous and
    asynchronous) reset by mask in any mode. Others in next-step mode are refused.

    Observations are boxes of numbers or one-hot. Continuous actions are scaled from [-1, 1] to its bounds.

    Args:
        envs: the vector environment.
        horizon: steps of a trial; None takes the time limit that the environment was registered with.

    Raises:
        InputError: spaces or a mode that this cannot serve.
        RunError: the environment breaks Gymnasium's contract, or gives a number that is not finite (names the step
            and the task).
    """

    only_forward = True

    def __init__(self, envs: VectorEnv[Any, Any, Any], horizon: int | None = None) -> None:
        self.envs = envs
        mode = envs.metadata.get("autoreset_mode")
        if mode is None:
            raise InputError(
                f"Expected metadata['autoreset_mode'], by which a vector environment says how it resets. Found none in "
                f"{envs}. Set it to what the environment does: AutoresetMode.SAME_STEP, for instance."
            )
        self.mode = AutoresetMode(mode)
        if self.mode is not AutoresetMode.SAME_STEP and not isinstance(envs.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            raise InputError(
                f"Expected a vector environment that resets in the same step, or one of Gymnasium's own. Found {envs} "
                f"in mode {self.mode.value}. Make it with AutoresetMode.SAME_STEP, or by gymnasium.make_vec(..., "
                "vectorization_mode='sync')."
            )
        limit = horizon or (envs.spec.max_episode_steps if envs.spec is not None else None)
        if limit is None:
            raise InputError(f"Expected a time limit. Found none in the registration of {envs}. Give horizon.")
        self.steps_of_trial = limit
        self.problem = problem_of(envs.single_observation_space, envs.single_action_space)
        self.steps = 0
        self.ended = np.zeros(envs.num_envs, dtype=bool)
        self.first: np.ndarray[Any, Any] | None = None

    @property
    def horizon(self) -> int:
        """Steps of a trial."""
        return self.steps_of_trial

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """All tasks there are: their numbers. Shape: ``[n, 1]``."""
        if n != self.envs.num_envs:
            raise InputError(f"Expected to draw all {self.envs.num_envs} sub-environments. Found {n}. Draw all.")
        return torch.arange(n, device=generator.device).float().unsqueeze(1)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Begin anew: those that ended with the step just taken, or else all."""
        draw = torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device)
        if self.first is None or not self.ended.any() or self.ended.all():
            self.steps = 0
            self.first = self.began(self.envs.reset(seed=int(draw)))
        elif self.mode is not AutoresetMode.SAME_STEP:
            mask = self.ended.copy()
            seen = self.began(self.envs.reset(options={"reset_mask": mask}))
            self.first = np.where(expand(mask, seen), seen, self.first)
        self.ended = np.zeros_like(self.ended)
        observation = self.tensor(self.first, tasks)
        finite("The observation after a reset", observation, self.steps, tasks)
        return self.ticket(tasks), observation

    def began(self, given: Any) -> np.ndarray[Any, Any]:
        """The observations that a reset gave."""
        if not isinstance(given, tuple) or len(given) != 2:
            found = f"{len(given)} things" if isinstance(given, tuple) else type(given).__name__
            raise self.broken(f"reset to give (observations, infos), not {found}")
        return self.numbers(given[0], self.envs.num_envs)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One step of every task."""
        if self.first is None or not bool((state == self.steps).all()):
            raise InputError(
                f"Expected the latest state, that after step {self.steps}. Found {state[:4].tolist()}. A Gymnasium "
                "environment cannot go back: step from the state that the last call gave."
            )
        if self.ended.any():
            raise InputError(
                f"Expected a reset of what ended. Found that task {int(self.ended.argmax())} ended at step "
                f"{self.steps}. Call reset first."
            )
        check_action(self.problem, action)
        self.steps += 1
        given = self.envs.step(self.action(action))
        if not isinstance(given, tuple) or len(given) != 5:
            found = f"{len(given)} things" if isinstance(given, tuple) else type(given).__name__
            raise self.broken(f"step to give (observations, rewards, terminations, truncations, infos), not {found}")
        observation, reward, terminated, truncated, infos = given
        for name, value, kind in (
            ("rewards", reward, "fiu"),
            ("terminations", terminated, "b"),
            ("truncations", truncated, "b"),
        ):
            shape, found = np.shape(value), np.asarray(value).dtype
            if shape != (self.envs.num_envs,) or found.kind not in kind:
                kinds = "bools" if kind == "b" else "numbers"
                raise self.broken(f"{name} of {self.envs.num_envs} {kinds}, not {found} {shape}")
        seen = self.numbers(observation, self.envs.num_envs)
        self.ended = np.asarray(terminated) | np.asarray(truncated)
        self.first = seen
        if self.mode is AutoresetMode.SAME_STEP and self.ended.any():
            final = infos.get("final_obs")
            if final is None or any(final[i] is None for i in self.ended.nonzero()[0]):
                raise self.broken("infos['final_obs'] for every episode that ended, as same-step mode says")
            seen = seen.copy()
            seen[self.ended] = self.numbers([final[i] for i in self.ended.nonzero()[0]])
        result = self.tensor(seen, tasks), self.tensor(np.asarray(reward), tasks)
        finite("The observation", result[0], self.steps, tasks)
        finite("The reward", result[1], self.steps, tasks)
        ends = (torch.as_tensor(np.array(part), device=tasks.device) for part in (terminated, truncated))
        return self.ticket(tasks), *result, *ends  # type: ignore[return-value]

    def close(self) -> None:
        """Let the environment go."""
        self.envs.close()

    def ticket(self, tasks: Tensor) -> Tensor:
        """The present state's number. Shape: ``[T]``."""
        return torch.full((len(tasks),), self.steps, device=tasks.device)

    def tensor(self, value: np.ndarray[Any, Any], tasks: Tensor) -> Tensor:
        """A copy: some environments write into what they gave before."""
        return torch.tensor(value, dtype=tasks.dtype, device=tasks.device)

    def numbers(self, observation: Any, rows: int | None = None) -> np.ndarray[Any, Any]:
        """Observations as numbers, checked against the space; ``rows`` is how many there should be, if known."""
        space = self.envs.single_observation_space
        try:
            found = np.asarray(observation)
        except ValueError as error:
            raise self.broken(f"observations as in {space}, all of one shape, not shapes that differ") from error
        kinds = "iu" if isinstance(space, spaces.Discrete) else "fiub"
        shape = ((len(observation) if rows is None else rows), *space.shape)  # type: ignore[misc]
        if found.shape != shape or found.dtype.kind not in kinds:
            raise self.broken(f"observations of shape {shape} as in {space}, not {found.dtype} {found.shape}")
        if isinstance(space, spaces.Discrete):
            index = found - int(space.start)
            if ((index < 0) | (index >= space.n)).any():
                raise self.broken(f"observations as in {space}, not {found[(index < 0) | (index >= space.n)][0]}")
            return np.eye(int(space.n), dtype=np.float32)[index]
        return found

    def action(self, action: Tensor) -> np.ndarray[Any, Any]:
        """Our actions in the environment's units."""
        space, numbers = self.envs.single_action_space, action.detach().cpu().numpy()
        if isinstance(space, spaces.Discrete):
            return numbers + int(space.start)
        assert isinstance(space, spaces.Box)
        share = (np.clip(numbers, -1, 1).reshape(-1, *space.shape) + 1) / 2
        return np.clip(space.low + share * (space.high - space.low), space.low, space.high).astype(space.dtype)

    def broken(self, what: str) -> RunError:
        """The environment does not do what Gymnasium's contract says."""
        return RunError(
            f"Expected {what}. {self.envs} breaks Gymnasium's contract at step {self.steps}. "
            "Run gymnasium.utils.env_checker.check_env on one of its environments."
        )


def spaces_of(problem: Problem) -> tuple[spaces.Box, spaces.Discrete | spaces.Box]:
    """What one task's observations and actions are in Gymnasium's words."""
    observation = spaces.Box(-np.inf, np.inf, problem.x_shape, np.float32)
    if problem.kind == "classification":
        return observation, spaces.Discrete(problem.n_outputs)
    return observation, spaces.Box(-1, 1, (problem.n_outputs,), np.float32)


def problem_of(observation: Any, action: Any) -> Problem:
    """What Gymnasium's spaces are in ours.

    Raises:
        InputError: there is no word for them.
    """
    if isinstance(observation, spaces.Box):
        x_shape = observation.shape
    elif isinstance(observation, spaces.Discrete):
        x_shape = (int(observation.n),)
    else:
        raise InputError(
            f"Expected observations in a Box or Discrete space. Found {observation}. Wrap the environment, for "
            "instance in gymnasium.wrappers.FlattenObservation."
        )
    if isinstance(action, spaces.Discrete):
        return Problem(x_shape, "classification", int(action.n))
    if not isinstance(action, spaces.Box) or not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
        raise InputError(f"Expected actions in a Discrete space or a Box with bounds. Found {action}. Wrap it.")
    return Problem(x_shape, "regression", int(np.prod(action.shape)))


def among(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``new`` for some tasks, ``old`` for the others."""
    return new.where(mask.view(-1, *[1] * (new.ndim - 1)), old)


def expand(mask: np.ndarray[Any, Any], like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A mask over tasks that broadcasts over what each has."""
    return mask.reshape(-1, *[1] * (like.ndim - 1))
