"""Runs that act: train in an environment by its name, evaluate, watch; and what is refused."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
import torch
from PIL import Image, ImageSequence
from tests.cli.common import run

from quickstudy.acting_run import ActingRun, policy_of, train
from quickstudy.core import InputError
from quickstudy.reports import movie
from quickstudy.run import Config
from quickstudy.tasks.worlds import WORLDS, world
from quickstudy.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run in a maze of cells."""
    folder = tmp_path_factory.mktemp("runs") / "maze"
    train(Config("dqn", "grid-u-maze", steps=30, settings={"width": 8}), folder)
    return folder


def test_a_run_has_a_report_and_a_film(maze: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (maze / "report.html").read_text()
    assert page.count("<svg") == 3
    for word in ("Learning curve", "Trajectories", "Value map", "dqn in grid-u-maze", "oracle", "at random"):
        assert word in page
    curve = [json.loads(line) for line in (maze / "metrics.jsonl").read_text().splitlines()]
    assert [row["steps"] for row in curve] == list(range(4, 121, 4))
    assert run("evaluate", maze, "--episodes", 20) == 0
    assert "test total reward" in capsys.readouterr().out
    assert run("watch", maze, "--tasks", 2) == 0
    assert capsys.readouterr().out.strip() == str(maze / "watch.gif")
    with Image.open(maze / "watch.gif") as film:
        assert film.n_frames > 1  # type: ignore[attr-defined]
        assert film.size == (2 * movie.SIDE + 24, movie.SIDE + movie.CAPTION + 16)


def test_the_command_trains_the_same_run(maze: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    asked = ("train", "dqn", "--data", "grid-u-maze", "--steps", 30, "--set", "width=8", "--out", out)
    assert run(*asked) == 0
    for name in ("metrics.jsonl", "validation.json", "report.html"):
        assert (out / name).read_bytes() == (maze / name).read_bytes(), name
    one, other = (load_checkpoint(folder / "model.safetensors")[0] for folder in (out, maze))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert run(*asked) == 2  # the folder is taken


def test_a_stopped_run_goes_on(maze: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config("dqn", "grid-u-maze", steps=30, settings={"width": 8})

    def stop(done: int, steps: int) -> None:
        if done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "stopped", progress=stop)
    assert run("watch", tmp_path / "stopped") == 2
    train(config, tmp_path / "stopped", resume=True)
    assert (tmp_path / "stopped" / "metrics.jsonl").read_bytes() == (maze / "metrics.jsonl").read_bytes()
    assert (tmp_path / "stopped" / "validation.json").read_bytes() == (maze / "validation.json").read_bytes()


OWN = """
from quickstudy.tasks.point import PointRobot

def short():
    return PointRobot(length=6, shows_goal=True)

nothing = 3
"""


def test_an_environment_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_worlds.py").write_text(OWN)
    mine = f"{tmp_path / 'my_worlds.py'}:short"
    assert run("train", "ppo", "--data", mine, "--steps", 1, "--set", "width=4", "--out", tmp_path / "r") == 0
    assert ActingRun.load(tmp_path / "r").environment().horizon == 6
    assert run("train", "ppo", "--data", f"{tmp_path / 'my_worlds.py'}:nothing", "--out", tmp_path / "s") == 2
    assert "which lacks problem, horizon, sample, reset, step" in capsys.readouterr().err
    assert run("train", "ppo", "--data", "nowhere.py:short", "--out", tmp_path / "s") == 2
    assert "Found 'nowhere.py', which does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("maml", "--data", "cart-pole"), "Expected a method that acts, for the environment 'cart-pole'. Found 'maml'"),
        (("ppo", "--data", "cartpole"), "Found 'cartpole'. Did you mean 'cart-pole'?"),
        (("ppo", "--data", "planted"), "learns by acting in an environment; these tasks are labelled examples"),
        (("sac", "--data", "cart-pole", "--shots", "3"), "Expected no --shots: 'cart-pole' is an environment"),
        (("ddpg", "--data", "cart-pole"), "Expected continuous actions"),
        (("dqn", "--data", "pendulum"), "Expected discrete actions"),
        (("fitted-q", "--data", "bit-flip"), "Expected a method that is trained over many tasks"),
        (("dagger", "--data", "tabular-mdps", "--set", "widht=3"), "Did you mean 'width'?"),
        (("ppo", "--data", "cart-pole", "--device", "nowhere"), "Expected a device that PyTorch can use here"),
        (("dagger", "--data", "hopper-physics"), "Expected an environment with an oracle to imitate"),
    ],
)
def test_what_cannot_be_trained(
    asked: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *asked, "--out", tmp_path / "r") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r" / "model.safetensors").exists()


def test_what_cannot_be_watched(maze: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("watch", tmp_path) == 2
    assert "Expected a run's folder. Found no config.json" in capsys.readouterr().err
    assert run("watch", maze, "-o", tmp_path / "film.avi") == 2
    assert "ends in .gif or .mp4. Found 'film.avi'" in capsys.readouterr().err
    assert run("watch", maze, "--tasks", 0) == 2
    assert "at least 1 task to watch. Found 0" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({"run": {"method": "ridge", "data": "school"}}))
    assert run("watch", tmp_path) == 2
    assert "Expected a run that acts in an environment. Found one of 'ridge' on 'school'" in capsys.readouterr().err
    assert run("evaluate", maze, "--shots", 2) == 2
    assert "which has no examples" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves a pipe open
def test_a_film_is_also_written_as_mp4(maze: Path, tmp_path: Path) -> None:
    for ending in ("gif", "mp4"):
        assert run("watch", maze, "--tasks", 2, "--output", tmp_path / f"film.{ending}") == 0
    with Image.open(tmp_path / "film.gif") as film:
        frames, shown = film.n_frames, film.size  # type: ignore[attr-defined]
    found = imageio_ffmpeg.read_frames(str(tmp_path / "film.mp4"))
    facts = next(found)
    assert facts["size"] == tuple(side // 2 * 2 for side in shown)
    assert frames - 2 <= len(list(found)) <= frames + round(facts["fps"]) + 2  # the last one stands for a second
    assert sorted(file.name for file in tmp_path.iterdir()) == ["film.gif", "film.mp4"]


def test_mp4_needs_a_library(maze: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"imageio-ffmpeg.*pip install imageio-ffmpeg; or write a GIF"):
        movie.writer(tmp_path / "film.mp4")


def test_an_environment_that_nobody_draws(tmp_path: Path) -> None:
    bandits = world("bandits")
    trained = policy_of(train(Config("rl2", "bandits", steps=1, settings={"width": 4}), tmp_path / "r")[0].method())
    with pytest.raises(InputError, match="can be drawn: points.*Found BernoulliBandits. See the run's report"):
        movie.film(bandits, trained, tmp_path / "film.gif")
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.count("<svg") == 1 and page.count("Not drawn: BernoulliBandits") == 2


def test_a_missing_extra_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    assert run("train", "ppo", "--data", "ant-goal", "--out", tmp_path / "r") == 2
    assert "Run: pip install quickstudy[rl]" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


class NoGL:
    """MuJoCo where no GL works."""

    @staticmethod
    def Renderer(*_: Any) -> None:  # noqa: N802 (MuJoCo's name)
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")


def test_no_gl_says_which_variable_chooses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(InputError, match=r"MUJOCO_GL='osmesa' \(AttributeError.*MUJOCO_GL to egl.*osmesa.*glfw"):
        movie.stage(NoGL, None)


FILM = """
import sys
from pathlib import Path
from quickstudy.reports.movie import film
from quickstudy.tasks.acting import at_random
from quickstudy.tasks.mujoco import Robots
robots = Robots("half-cheetah", "direction", length=4)
film(robots, at_random(robots.problem), Path(sys.argv[1]), tasks=1)
"""


def test_a_film_of_a_robot_shows_it(tmp_path: Path) -> None:
    """In a process of its own: MuJoCo chooses its GL when it is imported."""
    command = [sys.executable, "-c", FILM, str(tmp_path / "film.gif")]
    done = subprocess.run(command, env={**os.environ, "MUJOCO_GL": "egl"}, capture_output=True, text=True, timeout=120)
    if "Found none that works with MUJOCO_GL" in done.stderr:
        pytest.skip("no GL here")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "film.gif") as frames:
        assert frames.n_frames == 5  # type: ignore[attr-defined]
        shades = [len(frame.convert("L").getcolors() or ()) for frame in ImageSequence.Iterator(frames)]
    assert min(shades) > 30  # a floor and a body, shaded


def test_every_name_makes_an_environment() -> None:
    for name in WORLDS:
        env = world(name)
        tasks = env.sample(2, torch.Generator().manual_seed(0))
        state, seen = env.reset(tasks, torch.Generator().manual_seed(0))
        assert seen.shape == (2, *env.problem.x_shape), name
