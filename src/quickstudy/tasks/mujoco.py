"""MuJoCo's robots as families of tasks, many at once: half-cheetah, ant, walker, hopper, as in Gymnasium's v5."""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from quickstudy.core import InputError, Problem, RunError
from quickstudy.tasks.acting import all_finite, check_action, finite, uniform

Task = Literal["forward", "direction", "velocity", "goal", "physics"]


@dataclass(frozen=True)
class Body:
    """A robot as Gymnasium's v5 has it.

    Args:
        file: its model, among Gymnasium's assets.
        substeps: physics steps of one step.
        planar: whether it moves along x only.
        noise: of positions and speeds at the start.
        normal: whether the speeds' noise is normal; else uniform, as the positions' is.
        clip: bound on the speeds that are seen.
        control_cost: weight of the squared action in the reward.
        survive: reward of a step that it stands.
        height: where it stands; beyond, the episode ends.
        lean: largest angle at which it stands.
        within: bound on all coordinates but the first two, of a robot that stands.
    """

    file: str
    substeps: int
    planar: bool
    noise: float
    normal: bool
    clip: float
    control_cost: float
    survive: float
    height: tuple[float, float] = (-math.inf, math.inf)
    lean: float = math.inf
    within: float = math.inf

    @property
    def falls(self) -> bool:
        """Whether an episode may end before its time."""
        return self.height != (-math.inf, math.inf)


BODIES = {
    "half-cheetah": Body("half_cheetah.xml", 5, True, 0.1, True, math.inf, 0.1, 0.0),
    "ant": Body("ant.xml", 5, False, 0.1, True, math.inf, 0.5, 1.0, (0.2, 1.0)),
    "walker": Body("walker2d_v5.xml", 4, True, 5e-3, False, 10.0, 1e-3, 1.0, (0.8, 2.0), 1.0),
    "hopper": Body("hopper.xml", 4, True, 5e-3, False, 10.0, 1e-3, 1.0, (0.7, math.inf), 0.2, 100.0),
}
# what random physics multiplies, and the base of the power: see Robots
PHYSICS = {"body_mass": 1.5, "body_inertia": 1.5, "dof_damping": 1.3, "geom_friction": 1.5}


@dataclass(frozen=True)
class Robots:
    r"""T robots, each with its own task; physics by ``mujoco.rollout``, on threads.

    Pure like all environments: the state is MuJoCo's own, and a step goes on from whatever state it is given. A step
    from the same state gives Gymnasium's positions and speeds (up to 1e-12: the solver starts cold, Gymnasium's from
    its last solution). The reward is that of the task, less ``control_cost`` times the squared action, plus 1 for ant,
    walker and hopper while they stand; those end (terminated) when they fall. With v the velocity and x the place:

    - ``"forward"``: :math:`v_x`; all tasks are the same, Gymnasium's;
    - ``"direction"``: v along the task's direction: forward or backward, or any for the ant;
    - ``"velocity"``: :math:`-|v_x - v^*|`, the task's :math:`v^*` uniform in ``velocities``;
    - ``"goal"`` (ant): :math:`-\lVert x - x^* \rVert_1`, the goal uniform in a disc of radius 3. Never ends,
      nothing for standing, and the ant sees where it is;
    - ``"physics"``: :math:`v_x`; every mass, inertia and friction is multiplied by :math:`1.5^u`, damping by
      :math:`1.3^u`, each with its own u uniform in [-3, 3]. The task is all u.

    Departs from Gymnasium: the ant's observation and reward leave out contact forces, as with
    ``include_cfrc_ext_in_observation=False, contact_cost_weight=0``, and its speed is that of its coordinates, where
    Gymnasium takes the place that the integrator's last stage left over. From the papers: their half-cheetahs weigh
    control with 0.05, their ants with a goal with 0.1.

    Args:
        body: which robot.
        task: what differs between tasks.
        length: steps after which an episode is cut off (truncated): 200 in meta-learning, 1000 in Gymnasium.
        control_cost: None is Gymnasium's.
        velocities: range to draw from.
        threads: that the physics runs on; None takes as many as PyTorch does.

    Shape:
        tasks ``[T, 0]`` (forward), ``[T, 2]`` (a unit vector, a goal), ``[T, 1]`` (velocity), ``[T, u]`` (physics);
        state ``[T, s]`` in float64 (time, positions, speeds, steps so far), observation ``[T, o]``, action ``[T, a]``.

    Raises:
        InputError: MuJoCo or Gymnasium, which has the robots' models, is not installed.
        RunError: the physics blew up (names the step and the task). MuJoCo by itself, and so Gymnasium, puts the robot
            back to its start without a word and goes on.

    Reference:
        Finn et al. 2017, section 5.3, arXiv:1703.03400; Rakelly et al. 2019, PEARL, arXiv:1903.08254, appendix.
    """

    body: Literal["half-cheetah", "ant", "walker", "hopper"] = "half-cheetah"
    task: Task = "direction"
    length: int = 200
    control_cost: float | None = None
    velocities: tuple[float, float] = (0.0, 3.0)
    threads: int | None = None

    def __post_init__(self) -> None:
        tasks = ("forward", "direction", "velocity", "goal", "physics")
        if self.body not in BODIES or self.task not in tasks or (self.task == "goal" and self.spec.planar):
            raise InputError(
                f"Expected a body of {sorted(BODIES)} and a task of {tasks}, 'goal' for the ant only. Found "
                f"{self.body!r} and {self.task!r}."
            )
        if self.length < 1 or (self.threads is not None and self.threads < 1):
            raise InputError(f"Expected at least 1 step and 1 thread. Found {self.length} and {self.threads}.")

    @property
    def spec(self) -> Body:
        """The robot's numbers."""
        return BODIES[self.body]

    @cached_property
    def engine(self) -> Engine:
        """Its physics, loaded when first used."""
        return Engine(self.spec, self.threads)

    @property
    def hidden(self) -> int:
        """How many of the positions are not seen: where it is does not matter, but to who has a goal."""
        return 0 if self.task == "goal" else 1 if self.spec.planar else 2

    @property
    def problem(self) -> Problem:
        """Positions and speeds seen, torques done."""
        model = self.engine.model
        return Problem((model.nq + model.nv - self.hidden,), "regression", model.nu)

    @property
    def horizon(self) -> int:
        """One episode of full length."""
        return self.length

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N tasks."""
        draw = lambda low, high, shape: uniform(low, high, shape, generator)  # noqa: E731
        if self.task == "velocity":
            return draw(*self.velocities, (n, 1))
        if self.task == "physics":
            return draw(-3, 3, (n, sum(getattr(self.engine.model, name).size for name in PHYSICS)))
        angle = draw(0, 2 * math.pi, (n, 1))
        if self.task == "direction" and self.spec.planar:
            angle = torch.where(angle < math.pi, 0.0, math.pi)
        far = 3 * draw(0, 1, (n, 1)).sqrt() if self.task == "goal" else torch.ones_like(angle)
        around = torch.cat([far * angle.cos(), far * angle.sin()], 1)
        return around.new_zeros(n, 0) if self.task == "forward" else around

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Near the model's own posture, nearly at rest."""
        model, spec, n = self.engine.model, self.spec, len(tasks)
        place = uniform(-spec.noise, spec.noise, (n, model.nq), generator).double()
        place = place + torch.as_tensor(model.qpos0, device=place.device)
        if spec.normal:
            speed = spec.noise * torch.randn(n, model.nv, generator=generator, device=generator.device)
        else:
            speed = uniform(-spec.noise, spec.noise, (n, model.nv), generator)
        zero = place.new_zeros(n, 1)
        state = torch.cat([zero, place, speed, zero], 1).to(tasks.device)
        return state, self.see(state, tasks)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One step of every robot, which is several of the physics."""
        check_action(self.problem, action)
        action, spec = action.clamp(-1, 1), self.spec
        models = self.engine.models(tasks) if self.task == "physics" else None
        after = torch.cat([self.engine.run(state[:, :-1], action, models), state[:, -1:] + 1], 1)
        observation = self.see(after, tasks)
        ways = 1 if spec.planar else 2
        place = after[:, 1 : 1 + ways]
        reward = self.progress(place, (place - state[:, 1 : 1 + ways]) / self.engine.seconds, tasks)
        weight = spec.control_cost if self.control_cost is None else self.control_cost
        reward = reward - weight * action.square().sum(1, dtype=reward.dtype)
        truncated = after[:, -1] >= self.length
        if self.task == "goal" or not spec.falls:
            terminated = torch.zeros_like(truncated)
        else:
            stands = self.stands(after)
            reward, terminated, truncated = reward + spec.survive * stands, ~stands, truncated & stands
        lost = after[:, 0] < state[:, 0] + 0.99 * self.engine.seconds
        if bool(lost.any()):
            i = int(lost.nonzero()[0])
            raise RunError(
                f"Expected the physics to stay finite. Found that MuJoCo gave task {i} up and put it back to its start "
                f"at step {int(after[i, -1])}, from positions and speeds {state[i, 1:-1].tolist()}. Replay that task's "
                "actions; if they are sound, its physics is too extreme for MuJoCo's step."
            )
        if not all_finite(observation):  # asked here first: reading the step from the state costs as much as the check
            finite("The observation", observation, int(after[0, -1]), tasks)
        return after, observation, reward.to(tasks.dtype), terminated, truncated

    def see(self, state: Tensor, tasks: Tensor) -> Tensor:
        """Positions, but for where it is, and speeds."""
        seen, first = state[:, 1 + self.hidden : -1].to(tasks), self.engine.model.nq - self.hidden
        if self.spec.clip < math.inf:
            seen = torch.cat([seen[:, :first], seen[:, first:].clamp(-self.spec.clip, self.spec.clip)], 1)
        return seen

    def progress(self, place: Tensor, velocity: Tensor, tasks: Tensor) -> Tensor:
        """What the task pays for being here and going so fast. Shape: place and velocity ``[T, 1 or 2]``."""
        if self.task == "direction":
            return (velocity * tasks[:, : velocity.shape[1]]).sum(1)
        if self.task == "velocity":
            return -(velocity[:, 0] - tasks[:, 0]).abs()
        if self.task == "goal":
            return -(place - tasks).abs().sum(1)
        return velocity[:, 0]

    def stands(self, state: Tensor) -> Tensor:
        """Whether it has not fallen. Shape: ``[T]``, bool."""
        spec, physics = self.spec, state[:, 1:-1]
        height = physics[:, 1 if spec.planar else 2]
        upright = (height >= spec.height[0]) & (height <= spec.height[1])
        if spec.planar:
            upright = upright & (physics[:, 2].abs() < spec.lean) & (physics[:, 2:].abs() < spec.within).all(1)
        return upright


class Engine:
    """MuJoCo's model of a robot and the threads that its physics runs on.

    Args:
        spec: which robot.
        threads: how many; None takes as many as PyTorch does.
    """

    def __init__(self, spec: Body, threads: int | None) -> None:
        found = importlib.util.find_spec("gymnasium")
        try:
            import mujoco  # 0.15 s of a processor, so it is loaded where it is used
            from mujoco import rollout
        except ImportError:
            found = None
        if found is None or found.origin is None:
            raise InputError(
                "Expected MuJoCo and Gymnasium, which have the physics and the robots. Found that one is not "
                "installed. Run: pip install quickstudy[rl]"
            )
        file = Path(found.origin).parent / "envs" / "mujoco" / "assets" / spec.file
        self.mujoco: Any = mujoco
        before = mujoco.get_mju_user_warning()
        # what MuJoCo has to say of Gymnasium's old files would make it leave a log in the working folder
        mujoco.set_mju_user_warning(logging.getLogger(__name__).debug)
        try:
            self.model = mujoco.MjModel.from_xml_path(str(file))
        finally:
            mujoco.set_mju_user_warning(before)
        self.substeps = spec.substeps
        self.seconds = self.model.opt.timestep * spec.substeps
        threads = torch.get_num_threads() if threads is None else threads
        self.data = [mujoco.MjData(self.model) for _ in range(threads)]
        self.pool = rollout.Rollout(nthread=threads if threads > 1 else 0)
        self.kept: dict[bytes, Any] = {}

    def run(self, state: Tensor, action: Tensor, models: list[Any] | None) -> Tensor:
        """The state after all physics steps under one action. Shape: state ``[T, s]``, action ``[T, a]``."""
        given = np.ascontiguousarray(state.cpu().numpy())
        control = np.repeat(action.double().cpu().numpy()[:, None], self.substeps, 1)
        models = [self.model] * len(given) if models is None else models
        after = np.empty((len(given), self.substeps, given.shape[1]))
        self.pool.rollout(models, self.data, given, control, skip_checks=True, nstep=self.substeps, state=after)
        return torch.as_tensor(after[:, -1], device=state.device)

    def models(self, tasks: Tensor, most: int = 4096) -> list[Any]:
        """Each task's model, made once and kept. Shape: tasks ``[T, u]``."""
        rows = tasks.double().cpu().numpy()
        keys = [row.tobytes() for row in rows]
        if len(self.kept) > most:
            self.kept = {key: self.kept[key] for key in keys if key in self.kept}
        for key, row in zip(keys, rows, strict=True):
            if key not in self.kept:
                self.kept[key] = self.altered(row)
        return [self.kept[key] for key in keys]

    def altered(self, powers: np.ndarray[Any, Any]) -> Any:
        """The robot with its physics multiplied."""
        model, start = copy.copy(self.model), 0
        for name, base in PHYSICS.items():
            field = getattr(model, name)
            field *= base ** powers[start : start + field.size].reshape(field.shape)
            start += field.size
        self.mujoco.mj_setConst(model, self.mujoco.MjData(model))  # what follows from masses
        return model
