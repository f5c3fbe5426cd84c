"""Environments by name, as ``load`` has data by name."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quickstudy.core import Environment, InputError
from quickstudy.tasks.acting import SeesTask
from quickstudy.tasks.bandits import BernoulliBandits
from quickstudy.tasks.bitflip import BitFlip
from quickstudy.tasks.classic import CartPole, Pendulum
from quickstudy.tasks.grids import FOUR_ROOMS, Maze, grid_navigation
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.tasks.mujoco import Robots
from quickstudy.tasks.point import ConflictingGoals, PointMaze, PointRobot
from quickstudy.tasks.tabular import TabularMDPs


@dataclass(frozen=True)
class World:
    """An environment that has a name.

    Args:
        make: makes it.
        about: one line on it.
    """

    make: Callable[[], Environment]
    about: str


def _shown(robots: Robots) -> SeesTask:
    """The robots, who see what they are to do."""
    return SeesTask(robots, robots.sample(1, torch.Generator().manual_seed(0)))


WORLDS: dict[str, World] = {
    "bandits": World(BernoulliBandits, "five slot machines, ten pulls"),
    "tabular-mdps": World(lambda: TabularMDPs(episodes=5), "random MDPs of ten states, five episodes to learn in"),
    "grid-u-maze": World(Maze, "cells around a wall to a goal that is seen"),
    "four-rooms": World(lambda: Maze(FOUR_ROOMS), "cells through four rooms to a goal that is seen"),
    "grid-navigation": World(grid_navigation, "a hidden goal in a grid, four episodes to find it"),
    "bit-flip": World(BitFlip, "ten bits to be made equal to ten others"),
    "point-robot": World(lambda: PointRobot(shows_goal=True), "a point that goes to a goal that is seen"),
    "sparse-semicircle": World(lambda: PointRobot("semicircle", 0.2, 20), "a hidden goal on a semicircle"),
    "conflicting-goals": World(lambda: SeesIdentity(ConflictingGoals()), "ten known tasks that want opposite things"),
    "point-u-maze": World(PointMaze, "a point around a wall to a goal that is seen"),
    "cart-pole": World(CartPole, "a pole to be kept up"),
    "pendulum": World(Pendulum, "a pendulum to be swung up"),
    "half-cheetah-direction": World(lambda: _shown(Robots("half-cheetah", "direction")), "run forward or backward"),
    "half-cheetah-velocity": World(lambda: _shown(Robots("half-cheetah", "velocity")), "run as fast as is asked"),
    "ant-direction": World(lambda: _shown(Robots("ant", "direction")), "walk in a direction that is seen"),
    "ant-goal": World(lambda: _shown(Robots("ant", "goal")), "walk to a goal that is seen"),
    "walker-physics": World(lambda: Robots("walker", "physics"), "walk with a body of unknown weights"),
    "hopper-physics": World(lambda: Robots("hopper", "physics"), "hop with a body of unknown weights"),
}


def is_world(name: str) -> bool:
    """Whether a name is an environment's: a known one, or ``my_file.py:my_environment``."""
    return name in WORLDS or name.rpartition(":")[0].endswith(".py")


def world(name: str) -> Environment:
    """An environment by its name, or ``my_file.py:my_environment``: one of one's own, or a function that makes it.

    Raises:
        InputError: no such environment (names the near one), no such file, or nothing of that name in it.
    """
    if name in WORLDS:
        return WORLDS[name].make()
    if is_world(name):
        return _from_file(*name.rpartition(":")[::2])
    near = difflib.get_close_matches(name.lower(), WORLDS, 1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"Expected the name of an environment to act in. Found {name!r}. {hint}Known: {', '.join(WORLDS)}; or "
        "my_file.py:my_environment for one of your own."
    )


def bare(environment: Environment) -> Environment:
    """What is inside of all wrappers: those keep it as ``environment``."""
    while hasattr(environment, "environment"):
        environment = environment.environment
    return environment


PARTS = ("problem", "horizon", "sample", "reset", "step")


def _from_file(where: str, what: str) -> Environment:
    path = Path(where)
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(f"Expected a Python file before the colon. Found {where!r}, which does not exist.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    found: Any = getattr(module, what, None)
    if callable(found) and not hasattr(found, "horizon") or isinstance(found, type):
        found = found()
    lacks = [part for part in PARTS if not hasattr(found, part)]
    if lacks:
        raise InputError(
            f"Expected an environment, or a function that makes one, called {what!r} in {path}. Found "
            f"{type(found).__name__}, which lacks {', '.join(lacks)}. See quickstudy.core.Environment; Gymnasium's "
            "become one by quickstudy.tasks.vector_env.FromGymnasium."
        )
    environment: Environment = found
    return environment
