"""The page of one run that acts: what it earns, its learning curve, where it goes, what each place is worth."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from quickstudy.core import Environment, Estimate, Policy
from quickstudy.evaluation.acting import Played, episodes_of, evaluate_acting, play
from quickstudy.reports import figures
from quickstudy.reports.figures import FAINT, INK, QUIET, SHARED, SIZE, WIDTH
from quickstudy.reports.page import Picture
from quickstudy.reports.scenes import Scene, begin, scene
from quickstudy.tasks.acting import at_random
from quickstudy.tasks.tabular import TabularMDPs
from quickstudy.tasks.worlds import bare
from quickstudy.training.checkpoint import write_atomic

DRAWN, PANELS = 8, 6  # trials in one plane; mazes, each in a panel of its own
WALL, GOAL = "#4d4d4d", "#D55E00"


def write_acting_report(
    environment: Environment,
    policy: Policy,
    config: Mapping[str, Any],
    curve: Mapping[int, float],
    found: Estimate,
    path: Path,
) -> Path:
    """Write the report of a run that acts.

    Args:
        environment: where it acts.
        policy: the trained one.
        config: what was trained: method, data, seed, settings and so on.
        curve: total reward in validation tasks by environment steps.
        found: the trained policy's total reward, with interval.
        path: the page's file.

    Returns:
        ``path``.
    """
    floor = evaluate_acting(environment, at_random(environment.problem), tasks=found.n, draw=20_000 + config["seed"])
    best = _oracle(environment, found.n, 20_000 + config["seed"])
    rows = [("trained", str(config["method"]), found), ("at random", "any action, all alike", floor)]
    if best is not None:
        rows.insert(1, ("oracle", "a rule that knows the task", best))
    tasks = environment.sample(64, torch.Generator().manual_seed(30_000 + config["seed"]))
    tasks = _apart(tasks)[:DRAWN]
    templates = Templates(
        loader=PackageLoader("quickstudy.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = templates.get_template("acting.html").render(
        method=config["method"],
        world=config["data"],
        about=(bare(environment).__doc__ or "").strip().partition("\n")[0],
        rows=[(name, what, f"{e.mean:.2f}", f"[{e.low:.2f}, {e.high:.2f}]") for name, what, e in rows],
        pictures=[
            _curve(curve, found, floor, best),
            _trajectories(environment, policy, tasks),
            _values(environment, policy, tasks),
        ],
        episodes=episodes_of(environment),
        n=found.n,
        seed=config["seed"],
        command=_command(config),
    )
    write_atomic(path, page.encode())
    return path


def _oracle(environment: Environment, n: int, draw: int) -> Estimate | None:
    """What a rule that knows the task earns; None where there is none, or it is dear to make."""
    inside = bare(environment)
    if not hasattr(inside, "oracle") or hasattr(inside, "plan"):
        return None
    generator = torch.Generator().manual_seed(draw)
    tasks = environment.sample(n, generator)
    return evaluate_acting(_Given(inside, tasks), inside.oracle(tasks), tasks=n, draw=draw)


class _Given:
    """The same environment, whose tasks are given: a rule that knows them must meet those."""

    def __init__(self, environment: Environment, tasks: Tensor) -> None:
        self.environment, self.tasks = environment, tasks
        self.problem, self.horizon = environment.problem, environment.horizon
        self.reset, self.step = environment.reset, environment.step

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Those."""
        return self.tasks


def _apart(tasks: Tensor) -> Tensor:
    """Tasks in an order in which the first differ as much as they can: each the farthest from those before."""
    flat = tasks.flatten(1).double()
    if not flat.shape[1]:
        return tasks
    far, order = torch.cdist(flat, flat), [0]
    for _ in range(len(tasks) - 1):
        near = far[order].amin(0)
        near[order] = -1
        order.append(int(near.argmax()))
    return tasks[order]


def _command(config: Mapping[str, Any]) -> str:
    words = ["quickstudy", "train", config["method"], "--data", config["data"], "--seed", str(config["seed"])]
    words += ["--steps", str(config["steps"])] if config["steps"] else []
    words += [word for key, value in config["settings"].items() for word in ("--set", f"{key}={value}")]
    return shlex.join(words)


def _picture(figure: Figure, name: str, title: str, alt: str, caption: str) -> Picture:
    return Picture(title, caption, Markup(figures.svg(figure, f"acting-{name}", alt)))  # noqa: S704 (our own SVG)


def _curve(curve: Mapping[int, float], found: Estimate, floor: Estimate, best: Estimate | None) -> Picture:
    title = "Learning curve"
    if not curve:
        return Picture(title, "Not drawn: no point of it was measured.")
    figure, axes = figures._figure(3.1)
    steps, scores = zip(*sorted(curve.items()), strict=True)
    axes.plot(steps, scores, color=SHARED, lw=2, marker="o", ms=3.5)
    lines = [("at random", floor.mean, (0, (1, 2)))] + ([("oracle", best.mean, (0, (4, 2)))] if best else [])
    for name, level, style in lines:
        axes.axhline(level, color=QUIET, lw=1.1, ls=style)
        axes.annotate(
            name, (1, level), (2, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
            fontsize=SIZE - 1.5, color=QUIET,
        )  # fmt: skip
    axes.set_xlabel("environment steps, all tasks together", fontsize=SIZE)
    axes.set_ylabel("total reward", fontsize=SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.set_xlim(0, None)
    axes.grid(color=FAINT, lw=0.7)
    alt = f"Total reward against environment steps, from {scores[0]:.2f} to {scores[-1]:.2f}; at the end {found}."
    caption = "Mean over validation tasks, the same at every point, doing what looks best."
    return _picture(figure, "curve", title, alt, caption)


def _count(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _trajectories(environment: Environment, policy: Policy, tasks: Tensor) -> Picture:
    title, plane = "Trajectories", scene(environment)
    if plane is None:
        return Picture(title, f"Not drawn: {type(bare(environment)).__name__} has no plane in which to draw them.")
    trial = play(environment, policy, tasks, torch.Generator().manual_seed(0))
    paths = [np.asarray(plane.place(path)) for path in trial.paths()]
    goals = None if plane.goal is None else np.asarray(plane.goal(tasks))
    returns = trial.returns().tolist()
    if plane.layout is not None:
        figure = _in_panels(plane, paths[:PANELS], goals, returns)
        many = min(PANELS, len(paths))
        caption = "Each panel a task: from the ring to where it ended (dot); the star is the goal. R: total reward."
    else:
        figure = _in_one(plane, paths, goals)
        many = len(paths)
        caption = "Each line a task, from the ring to where its episode ended (dot)."
        caption += " Stars of the same colour are the goals." if goals is not None else ""
    if episodes_of(environment) > 1:
        caption += " The first of a trial's episodes, in which the task is still unknown."
    alt = f"Paths of {many} episodes; total rewards " + ", ".join(f"{value:.2f}" for value in returns[:many]) + "."
    return _picture(figure, "trajectories", title, alt, caption)


def _in_one(plane: Scene, paths: list[np.ndarray[Any, Any]], goals: np.ndarray[Any, Any] | None) -> Figure:
    figure, axes = figures._figure(4.2)
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(paths)))
    for i, (path, colour) in enumerate(zip(paths, colours, strict=True)):
        line = path.copy()
        if plane.window is not None and plane.goal is None:  # an angle that goes round: no line across the picture
            jump = np.abs(np.diff(line[:, 0])) > 0.5 * (plane.window[1] - plane.window[0])
            line = np.insert(line, np.nonzero(jump)[0] + 1, np.nan, axis=0)
        axes.plot(*line.T, color=colour, lw=1.3)
        axes.plot(*path[0], "o", color=colour, mfc="white", ms=5, zorder=3)
        axes.plot(*path[-1], "o", color=colour, ms=4.5, zorder=3)
        if goals is not None:
            axes.plot(*goals[i], "*", color=colour, mec="white", mew=0.6, ms=13, zorder=2.5)
    if plane.window is not None:
        axes.set_xlim(*plane.window[:2])
        axes.set_ylim(*plane.window[2:])
    if plane.goal is not None:
        axes.set_aspect("equal")
    axes.set_xlabel(plane.across, fontsize=SIZE)
    axes.set_ylabel(plane.along, fontsize=SIZE)
    axes.grid(color=FAINT, lw=0.7)
    return figure


def _in_panels(
    plane: Scene, paths: list[np.ndarray[Any, Any]], goals: np.ndarray[Any, Any] | None, returns: list[float]
) -> Figure:
    figure, panels = _mazes(plane, len(paths))
    for i, (axes, path) in enumerate(zip(panels, paths, strict=True)):
        axes.plot(*path.T, color=SHARED, lw=1.8, solid_joinstyle="round")
        axes.plot(*path[0], "o", color=SHARED, mfc="white", ms=5, zorder=3)
        axes.plot(*path[-1], "o", color=SHARED, ms=5, zorder=3)
        if goals is not None:
            axes.plot(*goals[i], "*", color=GOAL, mec="white", mew=0.6, ms=12, zorder=3.5)
        axes.set_title(f"R = {returns[i]:g}", fontsize=SIZE - 1.5, color=INK)
    return figure


def _mazes(plane: Scene, n: int) -> tuple[Figure, list[Axes]]:
    """Panels with walls and nothing else."""
    assert plane.window is not None and plane.layout is not None
    wide, high = plane.window[1], plane.window[3]
    columns = min(3, n)
    rows = math.ceil(n / columns)
    figure = Figure(figsize=(WIDTH, rows * (WIDTH / columns * high / wide + 0.25)), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[n:]:
        axes.set_visible(False)
    walls = np.array([[kind == "#" for kind in row] for row in plane.layout])
    shades = np.where(walls[..., None], _rgba(WALL), (0, 0, 0, 0))
    for axes in panels[:n]:
        axes.imshow(shades, extent=(0, wide, high, 0), interpolation="none", zorder=1.5)
        axes.set_xlim(0, wide)
        axes.set_ylim(high, 0)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(WALL)
            spine.set_linewidth(1.5)
    return figure, panels[:n]


def _rgba(colour: str) -> tuple[float, ...]:
    return (*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0)


def _values(environment: Environment, policy: Policy, tasks: Tensor) -> Picture:
    title, plane, inside = "Value map", scene(environment), bare(environment)
    if isinstance(inside, TabularMDPs):
        return _tabular(inside, environment, policy, tasks)
    if plane is None or plane.start is None or plane.window is None:
        why = "has no few places to begin from" if plane is None else "is described by more than two numbers"
        return Picture(title, f"Not drawn: {type(inside).__name__} {why}.")
    shown = tasks[: 1 if plane.same_tasks else 3]
    maps, trials, points = value_maps(environment, policy, plane, shown)
    figure = _draw_maps(plane, maps, trials, points, shown)
    low, high = np.nanmin(maps), np.nanmax(maps)
    alt = f"What an episode earns by where it begins, in {len(shown)} tasks: {low:.2f} to {high:.2f}."
    caption = "What an episode that begins there earns, measured by acting: brighter is better."
    if plane.moves is not None:
        caption += " Arrows: the first move."
    if plane.goal is not None:
        caption += " The star is the goal."
    return _picture(figure, "values", title, alt, caption)


def value_maps(
    environment: Environment, policy: Policy, plane: Scene, tasks: Tensor
) -> tuple[np.ndarray[Any, Any], Played, np.ndarray[Any, Any]]:
    """What the policy's episode earns from each place of a grid, in each task.

    Shape:
        maps ``[tasks, rows, columns]``, NaN in walls; the trials ``[tasks * rows * columns, ...]``; the places
        ``[rows * columns, 2]``.
    """
    assert plane.window is not None
    left, right, bottom, top = plane.window
    wide, high = plane.grid
    x = left + (torch.arange(wide) + 0.5) * (right - left) / wide
    y = bottom + (torch.arange(high) + 0.5) * (top - bottom) / high
    points = torch.stack([x.expand(high, -1), y.unsqueeze(1).expand(-1, wide)], -1).flatten(0, 1)
    many = tasks.repeat_interleave(len(points), 0)
    start = begin(environment, plane, points.repeat(len(tasks), 1), many)
    trial = play(environment, policy, many, torch.Generator().manual_seed(0), start)
    maps = np.asarray(trial.returns().view(len(tasks), high, wide).double())
    if plane.layout is not None:
        free = np.array([[kind == "." for kind in row] for row in plane.layout])
        free = free.repeat(high // free.shape[0], 0).repeat(wide // free.shape[1], 1)
        maps = np.where(free, maps, np.nan)
    return maps, trial, np.asarray(points)


def _draw_maps(
    plane: Scene, maps: np.ndarray[Any, Any], trial: Played, points: np.ndarray[Any, Any], tasks: Tensor
) -> Figure:
    assert plane.window is not None
    left, right, bottom, top = plane.window
    if plane.layout is not None:
        figure, panels = _mazes(plane, len(maps))
        figure.set_figheight(figure.get_figheight() + 0.55)
        extent = (left, right, top, bottom)
    elif plane.goal is not None:
        share = (top - bottom) / (right - left)
        figure = Figure(figsize=(WIDTH, WIDTH / len(maps) * share + 0.9), layout="constrained")
        panels = list(figure.subplots(1, len(maps), squeeze=False).flat)
        extent = (left, right, bottom, top)
    else:
        figure, axes = figures._figure(4.0)
        panels, extent = [axes], (left, right, bottom, top)
    norm = Normalize(np.nanmin(maps), max(np.nanmax(maps), np.nanmin(maps) + 1e-9))
    goals = None if plane.goal is None else np.asarray(plane.goal(tasks))
    first = None if plane.moves is None else np.asarray(plane.moves(trial.action[:, 0])).reshape(len(maps), -1, 2)
    origin: Any = "upper" if plane.layout is not None else "lower"
    for i, axes in enumerate(panels):
        image = axes.imshow(
            maps[i], cmap="viridis", norm=norm, extent=extent, interpolation="none", zorder=1, origin=origin,
            aspect="equal" if plane.goal is not None else "auto",
        )  # fmt: skip
        if first is not None:
            some = np.isfinite(maps[i]).ravel() & _every(plane, maps[i].shape)
            step = (right - left) / 14 if plane.layout is None else 0.62
            push = first[i][some] * step / max(float(np.abs(first).max()), 1e-9)
            axes.quiver(
                *points[some].T, *push.T, angles="xy", scale_units="xy", scale=1, pivot="mid", color="white",
                width=0.009, headwidth=3.6, headlength=3.6, headaxislength=3.4, zorder=2,
            )  # fmt: skip
        if goals is not None:
            axes.plot(*goals[i], "*", color=GOAL, mec="white", mew=0.8, ms=12, zorder=3)
        if plane.layout is None:
            axes.set_xlabel(plane.across, fontsize=SIZE - 0.5)
            if i == 0:
                axes.set_ylabel(plane.along, fontsize=SIZE - 0.5)
            else:
                axes.set_yticklabels([])
            axes.tick_params(labelsize=SIZE - 1.5, color=QUIET, labelcolor=INK)
    bar = figure.colorbar(image, ax=panels, location="top", aspect=40, pad=0.03, fraction=0.08)
    bar.set_label("total reward of the episode", fontsize=SIZE - 0.5)
    bar.ax.tick_params(labelsize=SIZE - 1.5)
    bar.outline.set_visible(False)
    return figure


def _every(plane: Scene, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Which places of a map have an arrow: few enough to be told apart. Shape: ``[rows * columns]``, bool."""
    gap = max(1, max(shape) // 10) if plane.layout is None else max(1, shape[1] // len(plane.layout[0]) // 2)
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    return ((rows % gap == gap // 2) & (columns % gap == gap // 2)).ravel()


def _tabular(
    inside: TabularMDPs, environment: Environment, policy: Policy, tasks: Tensor, repeats: int = 64
) -> Picture:
    """Each state's worth in a few MDPs, beside the best that could be had."""
    from quickstudy.tasks.tabular import backward_induction

    shown, states = tasks[:6], inside.states
    many = shown.repeat_interleave(states * repeats, 0)
    where = torch.arange(states).repeat_interleave(repeats).repeat(len(shown))
    state = torch.stack([where, torch.zeros_like(where)], 1)
    trial = play(environment, policy, many, torch.Generator().manual_seed(0), (state, inside.see(where, many)))
    earned = np.asarray(trial.returns().view(len(shown), states, repeats).mean(-1))
    best = np.asarray(backward_induction(*inside.model(shown), inside.length)[:, 0].amax(-1))
    figure = Figure(figsize=(WIDTH, 1.3 + 0.3 * len(shown)), layout="constrained")
    panels = list(figure.subplots(1, 2, sharey=True))
    norm = Normalize(min(earned.min(), best.min()), max(earned.max(), best.max()))
    for axes, values, name in zip(panels, (earned, best), ("trained policy", "the best"), strict=True):
        image = axes.imshow(values, cmap="viridis", norm=norm, aspect="auto", interpolation="none")
        axes.set_title(name, fontsize=SIZE, color=INK)
        axes.set_xlabel("first state", fontsize=SIZE)
        axes.tick_params(labelsize=SIZE - 1.5, length=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(len(shown), integer=True))
    panels[0].set_ylabel("MDP", fontsize=SIZE)
    bar = figure.colorbar(image, ax=panels, location="right", aspect=20)
    bar.set_label("total reward", fontsize=SIZE)
    bar.ax.tick_params(labelsize=SIZE - 1.5)
    bar.outline.set_visible(False)
    means = f"{earned.mean():.2f} on average, at best {best.mean():.2f}"
    alt = f"Total reward of an episode by first state in {len(shown)} MDPs: {means}."
    caption = (
        f"What the first episode of a trial earns by the state it begins in, mean of {repeats}, and the exact best."
    )
    return _picture(figure, "values", "Value map", alt, caption)
