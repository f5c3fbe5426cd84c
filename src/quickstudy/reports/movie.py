"""A policy at work as a film: frames drawn with Pillow, MuJoCo's robots by MuJoCo, written as GIF or MP4."""

from __future__ import annotations

import importlib.util
import io
import math
import os
from collections.abc import Callable, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from quickstudy.core import Environment, InputError, Policy
from quickstudy.evaluation.acting import Played, episodes_of, play
from quickstudy.reports.scenes import Scene, scene
from quickstudy.tasks.bitflip import BitFlip
from quickstudy.tasks.classic import CartPole, Pendulum
from quickstudy.tasks.grids import Maze
from quickstudy.tasks.mujoco import Robots
from quickstudy.tasks.point import ConflictingGoals, PointMaze, PointRobot
from quickstudy.tasks.worlds import bare
from quickstudy.training.checkpoint import write_atomic

Point = tuple[float, float]
Say = Callable[[int, int], None]
SIDE, TWICE, CAPTION = 240, 2, 22  # pixels of a task's picture; drawn larger and shrunk, so that edges are smooth
MOST = 240  # frames of a film
INK, QUIET, WALL, PAPER, PLAIN = "#1a1a1a", "#8a8a8a", "#4d4d4d", "#ffffff", "#f2f2f2"
BLUE, RED = "#0072B2", "#D55E00"


def film(
    environment: Environment,
    policy: Policy,
    path: Path,
    *,
    tasks: int = 4,
    seed: int = 0,
    progress: Say | None = None,
) -> Path:
    """Let a policy act in a few tasks side by side and write what one would see.

    Args:
        environment: where it acts.
        policy: who acts.
        path: the file; ``.gif`` or ``.mp4``.
        tasks: how many.
        seed: of the tasks and of all chance in them.
        progress: called with (frames drawn, frames).

    Returns:
        ``path``.

    Raises:
        InputError: another ending, no library that writes MP4, an environment that nobody can draw, or no GL for
            MuJoCo to draw with.
    """
    if tasks < 1:
        raise InputError(f"Expected at least 1 task to watch. Found {tasks}.")
    write = writer(path)
    draw, rate = artist(bare(environment))
    generator = torch.Generator().manual_seed(seed)
    trial = play(environment, policy, environment.sample(tasks, generator), generator)
    generator = torch.Generator().manual_seed(seed)
    given = environment.sample(tasks, generator)
    moments = _moments(trial, episodes_of(environment) > 1)
    frames = []
    for number, time in enumerate(moments):
        tiles = [_tile(draw, trial, given, i, time, episodes_of(environment)) for i in range(tasks)]
        frames.append(_together(tiles))
        if progress is not None:
            progress(number + 1, len(moments))
    skip = moments[1] - moments[0] if len(moments) > 1 else 1
    write(frames, min(rate / skip, 25.0) if skip > 1 else rate)
    return path


def _moments(trial: Played, whole: bool) -> list[int]:
    """Which steps are shown: all, or every so many of a long trial; until the last first episode has ended."""
    last = trial.reward.shape[1] if whole else int(trial.first.sum(1).max())
    return sorted({*range(0, last, math.ceil(last / MOST)), last})


def _tile(draw: Artist, trial: Played, tasks: Tensor, i: int, time: int, episodes: int) -> Image.Image:
    """One task at one time, with what was earned so far underneath."""
    begin, steps = 0, int(trial.first[i].sum())
    if episodes > 1:
        ends = trial.done[i, :time].nonzero().flatten().tolist()
        begin, steps = (ends[-1] + 1 if ends else 0), trial.reward.shape[1]
        if begin == time and ends:  # the end itself is shown, not the next beginning
            begin = ends[-2] + 1 if len(ends) > 1 else 0
    now = min(time, steps)
    path = torch.cat([trial.before[i, begin : begin + 1], trial.after[i, begin:now]])
    action = trial.action[i, min(now, trial.action.shape[1] - 1)] if now < steps else None
    picture = draw(path, tasks[i], action).convert("RGB")
    whole = Image.new("RGB", (SIDE, SIDE + CAPTION), PAPER)
    whole.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    text = f"step {now}   reward {float(trial.reward[i, :now].sum()):.1f}"
    if episodes > 1:
        text = f"episode {int(trial.done[i, : max(now - 1, 0)].sum()) + 1}   {text}"
    font = ImageFont.load_default(size=12)
    ImageDraw.Draw(whole).text((SIDE / 2, SIDE + CAPTION / 2), text, INK, font, anchor="mm")
    return whole


def _together(tiles: Sequence[Image.Image]) -> Image.Image:
    """Tiles side by side, at most as many rows as columns."""
    columns, gap = math.ceil(math.sqrt(len(tiles))), 8
    wide, high = tiles[0].size
    rows = math.ceil(len(tiles) / columns)
    whole = Image.new("RGB", (columns * (wide + gap) + gap, rows * (high + gap) + gap), PAPER)
    for i, tile in enumerate(tiles):
        whole.paste(tile, (gap + i % columns * (wide + gap), gap + i // columns * (high + gap)))
    return whole


# --- files


Frames = Sequence[Image.Image]


def writer(path: Path) -> Callable[[Frames, float], None]:
    """Who writes such a file, from frames and how many a second.

    Raises:
        InputError: the ending is neither ``.gif`` nor ``.mp4``, or there is no library for it.
    """
    if path.suffix.lower() == ".gif":
        return lambda frames, rate: write_atomic(path, _gif(frames, rate))
    if path.suffix.lower() != ".mp4":
        raise InputError(f"Expected a file that ends in .gif or .mp4. Found {path.name!r}. Name another by -o.")
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise InputError(
            f"Expected imageio-ffmpeg, which writes MP4, for {path.name!r}. Found that it is not installed. Run: pip "
            "install imageio-ffmpeg; or write a GIF, which needs nothing more: -o watch.gif"
        )
    return lambda frames, rate: _mp4(frames, rate, path)


def _gif(frames: Frames, rate: float) -> bytes:
    """A GIF that goes round for ever and rests at its end."""
    buffer = io.BytesIO()
    each = max(20, round(100 / rate) * 10)  # browsers know hundredths of a second, and slow down what is below 2
    times = [each] * (len(frames) - 1) + [1200]
    colours = [frame.quantize(128, dither=Image.Dither.NONE) for frame in frames]
    colours[0].save(buffer, "gif", save_all=True, append_images=colours[1:], duration=times, loop=0, disposal=1)
    return buffer.getvalue()


def _mp4(frames: Frames, rate: float, path: Path) -> None:
    import imageio_ffmpeg

    wide, high = (size // 2 * 2 for size in frames[0].size)  # most players want even numbers
    aside = path.with_name(path.stem + ".part.mp4")
    path.parent.mkdir(parents=True, exist_ok=True)
    film = imageio_ffmpeg.write_frames(str(aside), (wide, high), fps=rate, macro_block_size=2)
    film.send(None)
    for frame in (*frames, *[frames[-1]] * round(rate)):
        film.send(np.asarray(frame.crop((0, 0, wide, high))).tobytes())
    film.close()
    aside.replace(path)


# --- who draws: a path of states so far [steps + 1, s], the task, and the action to come


Artist = Callable[[Tensor, Tensor, Tensor | None], Image.Image]


@singledispatch
def artist(environment: object) -> tuple[Artist, float]:
    """Who draws an environment, and how many of its steps are a second of film.

    Raises:
        InputError: nobody can.
    """
    raise InputError(
        f"Expected an environment that can be drawn: points, mazes, cart-pole, pendulum, bit-flip or robots. Found "
        f"{type(environment).__name__}. See the run's report.html for what it earned."
    )


class Canvas:
    """A square in which a window of a plane is drawn.

    Args:
        window: least and largest of x, of y.
        down: whether y grows downwards.
    """

    def __init__(self, window: tuple[float, float, float, float], down: bool = False) -> None:
        self.size = SIDE * TWICE
        left, right, bottom, top = window
        self.scale = self.size / max(right - left, top - bottom)
        self.middle, self.down = ((left + right) / 2, (bottom + top) / 2), down
        self.image = Image.new("RGB", (self.size, self.size), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def at(self, x: float, y: float) -> Point:
        """A place in pixels."""
        up = (y - self.middle[1]) * self.scale
        return self.size / 2 + (x - self.middle[0]) * self.scale, self.size / 2 + (up if self.down else -up)

    def dot(self, x: float, y: float, radius: float, colour: str, edge: str | None = None) -> None:
        """A disc; the radius in pixels of the finished picture."""
        a, b = self.at(x, y)
        r = radius * TWICE
        self.pen.ellipse((a - r, b - r, a + r, b + r), colour, edge, 2 * TWICE if edge else 0)

    def line(self, points: Sequence[Point], colour: str, width: float) -> None:
        """A line through places."""
        if len(points) > 1:
            self.pen.line([self.at(*point) for point in points], colour, round(width * TWICE), joint="curve")

    def box(self, x: float, y: float, wide: float, high: float, colour: str) -> None:
        """A rectangle by its corner of least x and y."""
        (a, b), (c, d) = self.at(x, y), self.at(x + wide, y + high)
        self.pen.rectangle((min(a, c), min(b, d), max(a, c), max(b, d)), colour)

    def star(self, x: float, y: float, radius: float, colour: str) -> None:
        """Five points; the radius in pixels of the finished picture."""
        a, b = self.at(x, y)
        tip = [(radius if i % 2 == 0 else 0.42 * radius) * TWICE for i in range(10)]
        turn = [math.pi * (i / 5 - 0.5) for i in range(10)]
        self.pen.polygon([(a + r * math.cos(t), b + r * math.sin(t)) for r, t in zip(tip, turn, strict=True)], colour)


def _plane(plane: Scene) -> Artist:
    """Walls, goal, the way so far."""
    assert plane.window is not None
    window, layout = plane.window, plane.layout

    def draw(path: Tensor, task: Tensor, action: Tensor | None) -> Image.Image:
        canvas = Canvas(window, down=layout is not None)
        if layout is None:
            canvas.box(window[0], window[2], window[1] - window[0], window[3] - window[2], PLAIN)
        for row, kinds in enumerate(layout or ()):
            for column, kind in enumerate(kinds):
                canvas.box(column, row, 1, 1, WALL if kind == "#" else PLAIN)
        if plane.goal is not None:
            x, y = plane.goal(task.unsqueeze(0))[0].tolist()
            canvas.star(x, y, 10, RED)
        places: list[Point] = [(x, y) for x, y in plane.place(path).tolist()]
        canvas.line(places, "#7fb8d9", 2)
        (x, y), (u, v) = places[0], places[-1]
        canvas.dot(x, y, 4, PAPER, BLUE)
        canvas.dot(u, v, 6, BLUE)
        return canvas.image

    return draw


@artist.register
def _(environment: PointRobot) -> tuple[Artist, float]:
    return _plane(_known(environment)), 15.0


@artist.register
def _(environment: ConflictingGoals) -> tuple[Artist, float]:
    return _plane(_known(environment)), 8.0


@artist.register
def _(environment: PointMaze) -> tuple[Artist, float]:
    return _plane(_known(environment)), 12.0


@artist.register
def _(environment: Maze) -> tuple[Artist, float]:
    return _plane(_known(environment)), 4.0


def _known(environment: Environment) -> Scene:
    found = scene(environment)
    assert found is not None
    return found


@artist.register
def _(environment: CartPole) -> tuple[Artist, float]:
    def draw(path: Tensor, task: Tensor, action: Tensor | None) -> Image.Image:
        x, _, angle, _, _ = path[-1].tolist()
        half = float(task[3])
        canvas = Canvas((-2.6, 2.6, -1.6, 3.6))
        canvas.line([(-2.4, 0), (2.4, 0)], QUIET, 2)
        for end in (-2.4, 2.4):
            canvas.line([(end, -0.15), (end, 0.15)], QUIET, 2)
        canvas.box(x - 0.35, -0.18, 0.7, 0.36, INK)
        tip = x + 4 * half * math.sin(angle), 0.18 + 4 * half * math.cos(angle)  # twice as long as it is, to be seen
        canvas.line([(x, 0.18), tip], RED, 6)
        canvas.dot(x, 0.18, 4, BLUE)
        if action is not None:
            side = 1 if int(action) else -1
            canvas.line([(x + 0.4 * side, 0), (x + 0.85 * side, 0)], BLUE, 3)
            canvas.line([(x + 0.7 * side, 0.12), (x + 0.85 * side, 0), (x + 0.7 * side, -0.12)], BLUE, 3)
        return canvas.image

    return draw, 50.0


@artist.register
def _(environment: Pendulum) -> tuple[Artist, float]:
    def draw(path: Tensor, task: Tensor, action: Tensor | None) -> Image.Image:
        angle, rod = float(path[-1, 0]), float(task[2])
        reach = 1.25 * max(1.0, environment.rod[1])
        canvas = Canvas((-reach, reach, -reach, reach))
        tip = -rod * math.sin(angle), rod * math.cos(angle)  # angles grow against the clock
        canvas.line([(0, 0), tip], RED, 9)
        canvas.dot(*tip, 9, RED)
        canvas.dot(0, 0, 5, INK)
        if action is not None:
            push = max(-1.0, min(1.0, float(action[0])))
            a, b = canvas.at(0, 0)
            r, full = 18 * TWICE, 150 * abs(push)
            # a torque that turns against the clock is an arc that begins at the top and goes left
            start, end = (270 - full, 270.0) if push > 0 else (270.0, 270 + full)
            canvas.pen.arc((a - r, b - r, a + r, b + r), start, end, fill=BLUE, width=4 * TWICE)
        return canvas.image

    return draw, 20.0


@artist.register
def _(environment: BitFlip) -> tuple[Artist, float]:
    n = environment.bits

    def draw(path: Tensor, task: Tensor, action: Tensor | None) -> Image.Image:
        canvas = Canvas((0, n, 0, n), down=True)
        for name, bits, row in (("now", path[-1, :n], n / 2 - 1.5), ("goal", task, n / 2 + 0.5)):
            for i, bit in enumerate(bits.tolist()):
                right = bit == float(task[i])
                canvas.box(i + 0.04, row, 0.92, 1, INK if bit else "#d9d9d9")
                if name == "now" and not right:
                    canvas.box(i + 0.04, row + 1.08, 0.92, 0.16, RED)
        if action is not None:
            canvas.box(int(action) + 0.04, n / 2 - 1.9, 0.92, 0.2, BLUE)
        return canvas.image

    return draw, 2.0


@artist.register
def _(environment: Robots) -> tuple[Artist, float]:
    engine = environment.engine
    shown = stage(engine.mujoco, engine.model)
    data = engine.mujoco.MjData(engine.model)

    def draw(path: Tensor, task: Tensor, action: Tensor | None) -> Image.Image:
        numbers = path[-1, :-1].double().numpy()
        engine.mujoco.mj_setState(engine.model, data, numbers, engine.mujoco.mjtState.mjSTATE_FULLPHYSICS)
        engine.mujoco.mj_forward(engine.model, data)
        camera = engine.mujoco.MjvCamera()
        camera.type = engine.mujoco.mjtCamera.mjCAMERA_TRACKING
        far = 10.0 if environment.task == "goal" else 7.0  # goals are up to 3 m away
        camera.trackbodyid, camera.distance = 1, 4.0 if environment.spec.planar else far
        camera.azimuth, camera.elevation = (90.0, -12.0) if environment.spec.planar else (90.0, -35.0)
        shown.update_scene(data, camera)
        if environment.task in ("goal", "direction"):  # a ball where it is to go
            x, y = task.tolist()
            if environment.task == "direction":
                x, y = data.body(1).xpos[0] + 1.2 * x, data.body(1).xpos[1] + 1.2 * y
            ball = shown.scene.geoms[shown.scene.ngeom]
            kind, red = engine.mujoco.mjtGeom.mjGEOM_SPHERE, np.array([0.84, 0.37, 0.0, 1.0], dtype=np.float32)
            engine.mujoco.mjv_initGeom(ball, kind, np.full(3, 0.2), np.array([x, y, 0.2]), np.eye(3).ravel(), red)
            shown.scene.ngeom += 1
        return Image.fromarray(shown.render())

    return draw, 1 / engine.seconds


def stage(mujoco: Any, model: Any) -> Any:
    """MuJoCo's own renderer.

    Raises:
        InputError: there is no GL to draw with (names the environment variable that chooses one).
    """
    backend = os.environ.get("MUJOCO_GL", "")
    try:
        return mujoco.Renderer(model, SIDE, SIDE)  # it smooths edges by itself
    # what goes wrong inside of GL libraries has no common kind: missing symbols, contexts, displays
    except Exception as error:  # noqa: BLE001
        raise InputError(
            f"Expected GL, by which MuJoCo draws its robots. Found none that works with MUJOCO_GL={backend!r} "
            f"({type(error).__name__}: {str(error)[:120]}). Set the environment variable MUJOCO_GL to egl (a GPU, or "
            "Mesa: libegl1), osmesa (libosmesa6) or glfw (with a display), and start again."
        ) from error
