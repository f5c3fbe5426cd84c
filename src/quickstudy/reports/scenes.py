"""What environments look like from above: where one is, what stands around, from where one can begin."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from quickstudy.core import Environment
from quickstudy.tasks.acting import SeesTask
from quickstudy.tasks.classic import CartPole, Pendulum
from quickstudy.tasks.grids import MOVES, Layout, Maze, geometry
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.tasks.mujoco import Robots
from quickstudy.tasks.point import ConflictingGoals, PointMaze, PointRobot
from quickstudy.tasks.worlds import bare

Window = tuple[float, float, float, float]
Start = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Scene:
    """A plane in which a policy's trials can be drawn.

    Args:
        place: states ``[..., s]`` to places in the plane ``[..., 2]``.
        across: what the first coordinate is.
        along: what the second is.
        window: least and largest of the first, of the second.
        goal: tasks ``[T, *task]`` to places ``[T, 2]``; None where no task is a place.
        layout: walls, in cells 1 wide, rows downwards; None where there are none.
        grid: how many places across and along a map of values has.
        start: places ``[n, 2]`` and tasks to state and observation to begin with; None where one cannot begin
            anywhere.
        moves: actions to where they push, ``[..., 2]``; None where they do not move one in this plane.
        same_tasks: whether one picture serves all tasks.
    """

    place: Callable[[Tensor], Tensor]
    across: str
    along: str
    window: Window | None
    goal: Callable[[Tensor], Tensor] | None = None
    layout: Layout | None = None
    grid: tuple[int, int] = (24, 24)
    start: Start | None = None
    moves: Callable[[Tensor], Tensor] | None = None
    same_tasks: bool = False


def scene(environment: Environment) -> Scene | None:
    """The plane of an environment, whatever wraps it; None where it has none."""
    return _scene(bare(environment))


def begin(environment: Environment, plane: Scene, places: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
    """State and observation, as the outermost wrapper shows it, to begin with at these places."""
    assert plane.start is not None
    state, observation = plane.start(places, tasks)
    return state, _seen(environment, observation, tasks)


def _seen(environment: Environment, observation: Tensor, tasks: Tensor) -> Tensor:
    inside = getattr(environment, "environment", None)
    if inside is None:
        return observation
    observation = _seen(inside, observation, tasks)
    if isinstance(environment, SeesIdentity):
        return environment.see(observation, tasks)
    if isinstance(environment, SeesTask):
        return torch.cat([observation, tasks.flatten(1).to(observation.dtype)], 1)
    return observation


@singledispatch
def _scene(environment: object) -> Scene | None:
    return None


@_scene.register
def _(environment: PointRobot) -> Scene:
    square = environment.goals_in == "square"

    def start(places: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([places, torch.zeros_like(places[:, :1])], 1)
        return state, environment.see(state, tasks)

    return Scene(
        lambda state: state[..., :2], "x", "y", (-0.7, 0.7, -0.7, 0.7) if square else (-1.3, 1.3, -0.4, 1.3),
        goal=lambda tasks: tasks, start=start, moves=lambda action: action.clamp(-1, 1),
    )  # fmt: skip


@_scene.register
def _(environment: ConflictingGoals) -> Scene:
    def start(places: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([places, torch.zeros_like(places[:, :1])], 1), places

    return Scene(
        lambda state: state[..., :2], "x", "y", (-1.3, 1.3, -1.3, 1.3), goal=lambda tasks: tasks[:, :2], start=start
    )


@_scene.register
def _(environment: PointMaze) -> Scene:
    rows, columns = len(environment.layout), len(environment.layout[0])

    def start(places: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([places, torch.zeros_like(places[:, :1])], 1), torch.cat([places, tasks], 1)

    return Scene(
        lambda state: state[..., :2], "", "", (0, columns, 0, rows), goal=lambda tasks: tasks,
        layout=environment.layout, grid=(4 * columns, 4 * rows), start=start, moves=lambda action: action.clamp(-1, 1),
    )  # fmt: skip


@_scene.register
def _(environment: Maze) -> Scene:
    rows, columns = len(environment.layout), len(environment.layout[0])
    world = geometry(environment.layout, torch.device("cpu"))
    middle = world.cell.flip(1) + 0.5  # x along columns, y along rows
    steps = torch.tensor(MOVES, dtype=torch.float32).flip(1)

    def start(places: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        cell = torch.cdist(places, middle).argmin(1)
        return torch.stack([cell, torch.zeros_like(cell)], 1), environment.see(cell, tasks)

    return Scene(
        lambda state: middle[state[..., 0]], "", "", (0, columns, 0, rows),
        goal=lambda tasks: middle[tasks.argmax(1)], layout=environment.layout, grid=(columns, rows), start=start,
        moves=lambda action: steps[action],
    )  # fmt: skip


@_scene.register
def _(environment: Pendulum) -> Scene:
    def place(state: Tensor) -> Tensor:
        angle = torch.remainder(state[..., 0] + math.pi, 2 * math.pi) - math.pi
        return torch.stack([angle, state[..., 1]], -1)

    def start(places: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([places, torch.zeros_like(places[:, :1])], 1)
        return state, environment.see(state)

    same = all(low == high for low, high in (environment.gravity, environment.mass, environment.rod))
    return Scene(
        place, "angle from upright (radians)", "speed (radians a second)", (-math.pi, math.pi, -8, 8), start=start,
        same_tasks=same,
    )  # fmt: skip


@_scene.register
def _(environment: CartPole) -> Scene:
    degrees = 180 / math.pi

    def start(places: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(places[:, 0])
        seen = torch.stack([places[:, 0], zero, places[:, 1] / degrees, zero], 1)
        return torch.cat([seen, zero.unsqueeze(1)], 1), seen

    physics = (environment.gravity, environment.cart, environment.pole, environment.half_length)
    return Scene(
        lambda state: torch.stack([state[..., 0], degrees * state[..., 2]], -1), "place of the cart (m)",
        "angle of the pole (degrees)", (-2.4, 2.4, -12, 12), start=start,
        same_tasks=all(low == high for low, high in physics),
    )  # fmt: skip


@_scene.register
def _(environment: Robots) -> Scene:
    if environment.spec.planar:
        return Scene(lambda state: state[..., :2], "time (s)", "place (m)", None)
    goal = (lambda tasks: tasks) if environment.task == "goal" else None
    return Scene(lambda state: state[..., 1:3], "x (m)", "y (m)", None, goal=goal)
