"""How fast environments are, and how near their oracles come: python benchmarks/environments.py [PART ...]

Parts: toys, robots, oracles; each takes less than a minute where nothing else runs.

Time is the processor's, on one thread, so that other jobs beside do not count, or not as much as by the clock. Steps of
the closed-form families include the resets that a trial needs; the best of several windows. Half-cheetah, observation
and reward included, goes in turns with Gymnasium's synchronous vector environment, which has one thread only; the
median ratio over pairs. On two threads the ratio is by the clock. Oracles: what they earn of the known optimum, where
one is known: not of the pendulum, nor of the point in a maze, whose oracle walks from cell to cell.
Prints a table and writes claims to recipes/benchmarks-rl/result.json.

Where 64 half-cheetahs miss the factor of 2 that 256 reach: the tensor operations of a step cost the same for any number
of robots, and 64 are too few to make them small beside the physics. Two threads gain by the clock if a core is free.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

from quickstudy.core import Environment
from quickstudy.evaluation.claims import Row, record
from quickstudy.tasks.acting import at_random
from quickstudy.tasks.bandits import BernoulliBandits
from quickstudy.tasks.bitflip import BitFlip
from quickstudy.tasks.classic import CartPole, Pendulum
from quickstudy.tasks.grids import FOUR_ROOMS, Maze, grid_navigation
from quickstudy.tasks.mujoco import Robots
from quickstudy.tasks.point import ConflictingGoals, PointMaze, PointRobot
from quickstudy.tasks.tabular import TabularMDPs
from quickstudy.training.fit_rl import collect

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python benchmarks/environments.py"
BATCH, WINDOWS, PAIRS = 8192, 8, 12
FAMILIES: dict[str, Environment] = {
    "bandits": BernoulliBandits(5, 10),
    "tabular MDPs": TabularMDPs(),
    "four rooms": Maze(FOUR_ROOMS),
    "bit-flip": BitFlip(15),
    "point robot": PointRobot(),
    "sparse semicircle": PointRobot("semicircle", 0.2, 20),
    "conflicting goals": ConflictingGoals(),
    "point U-maze": PointMaze(),
    "cart-pole": CartPole(),
    "pendulum": Pendulum(),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rate(environment: Environment, seconds: float = 0.2) -> float:
    """Steps a second of the processor in the best window: actions are drawn beforehand, ended episodes begin anew."""
    draw, best = generator(), 0.0
    tasks = environment.sample(BATCH, draw)
    state, observation = environment.reset(tasks, draw)
    policy = at_random(environment.problem)
    actions = [policy.act(observation, policy.start(BATCH), draw)[0] for _ in range(4)]
    for _ in range(WINDOWS):
        steps, start = 0, time.process_time()
        while time.process_time() - start < seconds:
            state, observation, _, terminated, truncated = environment.step(state, actions[steps % 4], tasks, draw)
            done = terminated | truncated
            if bool(done.any()):
                fresh, first = environment.reset(tasks, draw)
                state, observation = among(done, fresh, state), among(done, first, observation)
            steps += 1
        best = max(best, steps * BATCH / (time.process_time() - start))
    return best


def among(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return new.where(mask.view(-1, *[1] * (new.ndim - 1)), old)


def cheetahs(n: int, threads: int) -> tuple[np.ndarray, dict[str, float]]:
    """Ratios of pairs, Gymnasium's seconds over ours, and the best steps a second of both."""
    clock = time.process_time if threads == 1 else time.perf_counter
    steps, draw = 1280 // n, generator()
    ours = Robots("half-cheetah", "forward", length=1000, threads=threads)
    tasks = ours.sample(n, draw)
    state, _ = ours.reset(tasks, draw)
    theirs: Any = gymnasium.make_vec("HalfCheetah-v5", n, vectorization_mode="sync")
    theirs.reset(seed=0)
    actions = 2 * torch.rand(steps, n, 6, generator=draw) - 1
    numbers = actions.numpy()
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(PAIRS + 1):
        start = clock()
        for action in actions:
            state, *_ = ours.step(state, action, tasks, draw)
        middle = clock()
        for action in numbers:
            theirs.step(action)
        seconds["ours"].append(middle - start)
        seconds["theirs"].append(clock() - middle)
    theirs.close()
    a, b = (np.array(seconds[side][1:]) for side in ("ours", "theirs"))  # the first pair warms up
    return b / a, {"ours": steps * n / a.min(), "theirs": steps * n / b.min()}


def oracles() -> dict[str, tuple[float, float, float]]:
    """How far from the known optimum the oracle's mean return is, as a share of it, with its 95 % interval."""
    gaps: dict[str, Tensor] = {}
    n = 20_000
    mdps, rooms, find, bits = TabularMDPs(), Maze(FOUR_ROOMS), grid_navigation(episodes=1), BitFlip(15)
    exact = {
        "tabular MDPs": mdps, "point robot": PointRobot(), "sparse semicircle": PointRobot("semicircle", 0.2, 20),
        "conflicting": ConflictingGoals(),
    }  # fmt: skip
    for name, family in exact.items():
        tasks = family.sample(n, generator())
        earned = collect(family, family.oracle(tasks), tasks, generator(1)).reward.sum(1)
        gaps[name] = (earned - family.optimal_return(tasks)) / family.optimal_return(tasks).mean().abs()
    for name, maze in (("four rooms", rooms), ("grid navigation", find)):
        tasks = maze.sample(n, generator())
        state, _ = maze.reset(tasks, generator(1))
        best = maze.optimal_return(state, tasks)
        gaps[name] = (first_episode(collect(maze, maze.oracle(tasks), tasks, generator(1))) - best) / best.mean().abs()
    tasks = bits.sample(n, generator())
    best = 1.0 - bits.optimal_steps(bits.reset(tasks, generator(1))[1])
    earned = first_episode(collect(bits, bits.oracle(tasks), tasks, generator(1)))
    gaps["bit-flip"] = (earned - best) / best.mean().abs()
    poles = CartPole()
    tasks = poles.sample(500, generator())
    gaps["cart-pole"] = first_episode(collect(poles, poles.oracle(tasks), tasks, generator(1))) / poles.horizon - 1
    result = {}
    for name, gap in gaps.items():
        mean, half = float(gap.mean()), 1.96 * float(gap.std()) / len(gap) ** 0.5
        result[name] = (mean, mean - half, mean + half)
    return result


def first_episode(trial: Any) -> Tensor:
    return (trial.reward * (trial.done.cumsum(1) - trial.done == 0)).sum(1)


def claim(what: str, metric: str, value: float, n: int, target: float, better: Literal["higher", "lower"], source: str,
          minutes: float, low: float | None = None, high: float | None = None) -> Row:  # fmt: skip
    return Row(
        "rl-task-families", what, metric, value, low, high, n, 1, target, better, source, "cpu", minutes, COMMAND
    )


def toys(beside: str) -> list[Row]:
    rows = []
    for name, family in FAMILIES.items():
        start = time.perf_counter()
        value = rate(family) / 1e6
        print(f"{name:20} {value:8.2f} million steps a second of the processor")
        what = f"{name}: {BATCH} tasks at once on one thread, resets included, best of {WINDOWS} windows"
        took = (time.perf_counter() - start) / 60
        rows.append(
            claim(what, f"million steps a processor-second{beside}", value, BATCH, 1.0, "higher", "issue", took)
        )
    return rows


def robots(beside: str) -> list[Row]:
    rows = []
    for n, threads in ((64, 1), (256, 1), (256, 2)):
        start = time.perf_counter()
        ratios, best = cheetahs(n, threads)
        ordered, rank = np.sort(ratios), int(binom.ppf(0.025, len(ratios), 0.5))
        low, median, high = float(ordered[rank - 1]), float(np.median(ratios)), float(ordered[-rank])
        print(f"{n} half-cheetahs, {threads} threads: {median:.2f} [{low:.2f}, {high:.2f}] times Gymnasium's; ", best)
        what = (
            f"{n} half-cheetahs at once on {threads} thread{'s' * (threads > 1)} against Gymnasium's synchronous "
            "vector environment, observation and reward included"
        )
        took, time_of = (time.perf_counter() - start) / 60, "processor's time" if threads == 1 else "clock"
        metric = f"times faster by the {time_of}, median of pairs{beside}"
        rows.append(claim(what, metric, median, len(ratios), 2.0, "higher", "issue", took, low, high))
    return rows


def optima(beside: str) -> list[Row]:
    start, rows = time.perf_counter(), []
    for name, (gap, low, high) in oracles().items():
        print(f"{name:20} oracle's gap to the optimum {gap:+.5f} [{low:+.5f}, {high:+.5f}]")
        what, took = f"{name}: an oracle that knows the task against the exact optimum", time.perf_counter() - start
        metric, far = "gap in the mean, as a share of the optimum", max(abs(low), abs(high))
        rows.append(
            claim(
                what,
                metric,
                abs(gap),
                500 if name == "cart-pole" else 20_000,
                0.01,
                "lower",
                "computed",
                took / 60,
                0.0,
                far,
            )
        )
    return rows


PARTS = {"toys": toys, "robots": robots, "oracles": optima}


def main(parts: list[str]) -> None:
    torch.set_num_threads(1)
    beside = " (other jobs ran beside)" if os.getloadavg()[0] > 1 else ""
    for part in parts or list(PARTS):
        record(ROOT / "recipes" / "benchmarks-rl", PARTS[part](beside))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # MuJoCo warns of Gymnasium's old files by writing a log to where one is
        main(sys.argv[1:])
