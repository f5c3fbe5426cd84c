"""Goal environments of Gymnasium (a dict of observation, achieved and desired goal) as ours; Fetch's among them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.core import InputError, Problem, RunError
from quickstudy.tasks.vector_env import FromGymnasium, gymnasium, spaces

KEYS = ("observation", "achieved_goal", "desired_goal")


class GoalsFromGymnasium:
    """N copies of a goal environment of Gymnasium as one of ours: what hindsight relabelling asks for.

    Such an environment (``gymnasium_robotics.core.GoalEnv``) shows a dict of ``observation``, ``achieved_goal`` and
    ``desired_goal``, which here stand one behind the other. Every episode draws a goal of its own; the task is only
    the copy's number. What a relabelled step earns, and whether it ends there, is asked from the environment's own
    ``compute_reward`` and ``compute_terminated``, in float64. That they are what its steps say is checked at every
    step. How the copies are stepped and reset is :class:`FromGymnasium`'s business, and so are its limits: there is
    one present state, so a run can be repeated, but not taken up in the middle.

    Args:
        make: makes one environment; it must end its episodes itself (``gymnasium.make`` sees to it).
        n: how many copies.
        horizon: steps of a trial; None takes the time limit that the environment was registered with.

    Shape:
        tasks ``[T, 1]``, observation ``[T, o + 2 g]``, action ``[T, a]``; goals of relabelling ``[..., g]``.

    Raises:
        InputError: it is not such an environment, or its rewards cannot be computed without ``info``.
        RunError: a step's reward or end is not what ``compute_reward`` or ``compute_terminated`` says.

    Reference:
        Plappert et al. 2018, Multi-goal reinforcement learning: challenging robotics environments and request for
        research, arXiv:1802.09464.
    """

    def __init__(self, make: Callable[[], Any], n: int = 1, horizon: int | None = None) -> None:
        copies = gymnasium.vector.SyncVectorEnv([lambda: _InARow(make()) for _ in range(n)])
        one = copies.envs[0]
        assert isinstance(one, _InARow)
        self.judge, self.size = one, one.size
        limit = horizon or (one.spec.max_episode_steps if one.spec is not None else None)
        self.copies = FromGymnasium(copies, limit)
        self.by_rows = one.judges_by_rows()

    @property
    def problem(self) -> Problem:
        """Observation, achieved and desired goal; what to do."""
        return self.copies.problem

    @property
    def horizon(self) -> int:
        """Steps of a trial."""
        return self.copies.horizon

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """All copies there are: their numbers. Shape: ``[n, 1]``."""
        return self.copies.sample(n, generator)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """New episodes, each with a goal of its own."""
        return self.copies.reset(tasks, generator)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One step of every copy."""
        return self.copies.step(state, action, tasks, generator)

    def goals(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The last numbers but ``g``, and the last ``g``."""
        return observation[..., -2 * self.size : -self.size], observation[..., -self.size :]

    def relabel(self, observation: Tensor, goal: Tensor) -> Tensor:
        """The same, with another goal at the end."""
        return torch.cat([observation[..., : -self.size], goal], -1)

    def outcome(self, achieved: Tensor, desired: Tensor) -> tuple[Tensor, Tensor]:
        """What the environment's own functions say."""
        pair = torch.broadcast_tensors(achieved, desired)
        first, second = (part.reshape(-1, self.size).double().cpu().numpy() for part in pair)
        reward, ended = self.judge.judged(first, second, self.by_rows)
        shape, like = pair[0].shape[:-1], achieved
        return like.new_tensor(reward).view(shape), torch.tensor(ended, device=like.device).view(shape)

    def close(self) -> None:
        """Let the environments go."""
        self.copies.close()


class _InARow(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The dict's three parts one behind the other; every step is held to what the environment's own rule says."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.rule: Any
        space, self.rule = env.observation_space, env.unwrapped  # the rule is the environment without its wrappers
        parts = [space.spaces.get(key) for key in KEYS] if isinstance(space, spaces.Dict) else [None]
        if not all(isinstance(part, spaces.Box) and len(part.shape) == 1 for part in parts):
            raise InputError(
                f"Expected observations as a dict of {', '.join(KEYS)}, rows of numbers each. Found {space} in {env}. "
                "Environments without goals come in through FromGymnasium."
            )
        lacks = [name for name in ("compute_reward", "compute_terminated") if not hasattr(self.rule, name)]
        if lacks:
            raise InputError(
                f"Expected {' and '.join(lacks)}, by which steps are judged for other goals. Found none in "
                f"{self.rule}. Write them as gymnasium_robotics.core.GoalEnv has them."
            )
        sizes = [part.shape[0] for part in parts if isinstance(part, spaces.Box)]
        if sizes[1] != sizes[2]:
            raise InputError(f"Expected goals of one size. Found {sizes[1]} numbers achieved and {sizes[2]} desired.")
        self.size, self.steps = sizes[1], 0
        self.observation_space = spaces.Box(-np.inf, np.inf, (sum(sizes),), np.float64)

    def observation(self, observation: Any) -> np.ndarray[Any, Any]:
        """The three parts one behind the other."""
        return np.concatenate([np.asarray(observation[key], dtype=np.float64) for key in KEYS])

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step; its reward and end must follow from the goals."""
        self.steps += 1
        seen, reward, terminated, truncated, info = self.env.step(action)
        pair = seen["achieved_goal"], seen["desired_goal"]
        for what, found, rule in (
            ("reward", float(reward), self.rule.compute_reward),
            ("terminated", float(terminated), self.rule.compute_terminated),
        ):
            expected = float(rule(*pair, {}))
            if not abs(found - expected) <= 1e-6 * max(abs(expected), 1e-3):  # NaN is no match either
                raise RunError(
                    f"Expected {what} {expected}, as {rule.__name__} says of achieved and desired goal. Found {found} "
                    f"in step {self.steps} of {self.rule}. Steps cannot be relabelled where more than goals decides."
                )
        return self.observation(seen), reward, terminated, truncated, info

    def judged(
        self, achieved: np.ndarray[Any, Any], desired: np.ndarray[Any, Any], by_rows: bool
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Reward and terminated of rows of goals. Shape: ``[n, g]`` to ``[n]``."""
        inner: Any = self.rule
        each = list(zip(achieved, desired, strict=True))
        if by_rows:
            reward = np.asarray(inner.compute_reward(achieved, desired, {}), dtype=np.float64)
        else:
            reward = np.array([float(inner.compute_reward(*pair, {})) for pair in each])
        # one by one: Gymnasium says one bool, and many environments say the same False for any number of rows
        return reward, np.array([bool(inner.compute_terminated(*pair, {})) for pair in each], dtype=bool)

    def judges_by_rows(self) -> bool:
        """Whether ``compute_reward`` takes rows of goals; that it needs no ``info`` is seen on the way.

        Raises:
            InputError: it needs more than the goals.
        """
        rows = np.random.default_rng(0).normal(size=(2, 16, self.size))
        rows[1, ::2] = rows[0, ::2]
        try:
            one_by_one, _ = self.judged(rows[0], rows[1], by_rows=False)
        except Exception as error:
            raise InputError(
                f"Expected compute_reward(achieved, desired, {{}}) to give a number. Found {error!r} in "
                f"{self.rule}. Steps cannot be relabelled where more than the goals decides."
            ) from error
        try:
            together, _ = self.judged(rows[0], rows[1], by_rows=True)
        except Exception:  # noqa: BLE001 (anything may go wrong in what was written for one goal)
            return False
        return together.shape == one_by_one.shape and bool(np.allclose(together, one_by_one))


def fetch(name: str = "FetchReach-v4", n: int = 1) -> GoalsFromGymnasium:
    """A robot arm of Gymnasium-Robotics that reaches, pushes, slides or picks and places; sparse rewards, 50 steps.

    A step earns 0 within 5 cm of the goal and -1 elsewhere, and nothing ends an episode but time.

    Gymnasium-Robotics 1.4.2 does not start on MuJoCo 3.12 or later by itself: it asserts that a joint's type, a NumPy
    integer, is ``in (mjtJoint.mjJNT_HINGE, mjtJoint.mjJNT_SLIDE)``, and MuJoCo's enums do not compare equal to NumPy
    integers any more. Where that is so, its helper module gets the same constants as plain integers; the physics is
    left as it is.

    Args:
        name: as it is registered, such as ``"FetchPush-v4"``.
        n: how many copies.

    Raises:
        InputError: Gymnasium-Robotics is not installed, or knows no such environment.
    """
    try:
        import gymnasium_robotics
        import mujoco
        from gymnasium_robotics.utils import mujoco_utils
    except ImportError as error:
        raise InputError(
            "Expected Gymnasium-Robotics, whose robot this is. Found that it is not installed. "
            "Run: pip install quickstudy[rl]"
        ) from error
    if np.int32(mujoco.mjtJoint.mjJNT_HINGE) not in (mujoco.mjtJoint.mjJNT_HINGE,):
        plain = {kind: int(value) for kind, value in mujoco.mjtJoint.__members__.items()}
        mujoco_utils.mujoco = SimpleNamespace(**{**vars(mujoco), "mjtJoint": SimpleNamespace(**plain)})
    gymnasium.register_envs(gymnasium_robotics)
    if name not in gymnasium.registry:
        there = sorted(known for known in gymnasium.registry if known.startswith("Fetch") and known.endswith("-v4"))
        raise InputError(f"Expected one of {', '.join(there)}. Found {name!r}.")
    return GoalsFromGymnasium(lambda: gymnasium.make(name), n)
