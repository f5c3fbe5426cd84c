"""Pictures of what a policy does: where the answer is known, the numbers and the pixels behind them are right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy.evaluation.acting import evaluate_acting, play
from quickstudy.reports.acting import value_maps
from quickstudy.reports.movie import BLUE, RED, Canvas, artist, film
from quickstudy.reports.scenes import begin, scene
from quickstudy.tasks.acting import Rule, SeesTask
from quickstudy.tasks.classic import CartPole
from quickstudy.tasks.grids import U_MAZE, Maze, grid_navigation
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.tasks.point import ConflictingGoals, PointMaze, PointRobot
from quickstudy.training import collect


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_play_is_collect_with_states() -> None:
    env = CartPole(length=60)
    tasks = env.sample(5, generator(0))
    still = Rule(lambda seen, chance: (seen[:, 2] > 0).long())
    played, trial = play(env, still, tasks, generator(1)), collect(env, still, tasks, generator(1))
    assert torch.equal(played.before[..., :4], trial.observation)
    assert torch.equal(played.reward, trial.reward) and torch.equal(played.done.float(), trial.done)
    paths = played.paths()
    assert [len(path) - 1 for path in paths] == played.returns().tolist()  # a reward of 1 a step
    assert bool((torch.stack([path[-1, 2].abs() for path in paths]) > 0.2).any())  # the fall itself is in it


def test_the_value_map_of_the_best_policy_is_the_optimum() -> None:
    env = Maze(U_MAZE, length=20)
    tasks = env.sample(3, generator(0))
    plane = scene(env)
    assert plane is not None
    cells = len(U_MAZE) * len(U_MAZE[0])
    maps, _, points = value_maps(env, env.oracle(tasks.repeat_interleave(cells, 0)), plane, tasks)
    for task, found in zip(tasks, maps, strict=True):
        for (x, y), value in zip(points, found.ravel(), strict=True):
            if U_MAZE[int(y)][int(x)] == "#":
                assert np.isnan(value)
                continue
            state = torch.tensor([[env.index((int(y), int(x))), 0]])
            assert value == float(env.optimal_return(state, task.unsqueeze(0)))


def test_beginning_anywhere_shows_what_wrappers_show() -> None:
    env = SeesIdentity(ConflictingGoals(tasks=4))
    tasks, plane = env.sample(4, generator(0)), scene(env)
    assert plane is not None
    state, seen = begin(env, plane, torch.full((4, 2), 0.5), tasks)
    assert state[:, :2].tolist() == [[0.5, 0.5]] * 4
    assert torch.equal(seen, torch.cat([torch.full((4, 2), 0.5), torch.eye(4)], 1))
    other = SeesTask(PointRobot(), torch.zeros(1, 2))
    goals, plane = other.sample(2, generator(0)), scene(other)
    assert plane is not None
    assert torch.equal(begin(other, plane, torch.zeros(2, 2), goals)[1], torch.cat([torch.zeros(2, 2), goals], 1))


def test_scores_are_of_first_episodes_or_of_whole_trials() -> None:
    """At the goal, one may stay there: 44.3 in four episodes of grid navigation; an episode of a maze ends."""
    env = grid_navigation()
    draw = generator(500)
    oracle = env.oracle(env.sample(200, draw))
    assert evaluate_acting(env, oracle).mean == pytest.approx(44.3, abs=0.6)
    pole = CartPole(length=40)
    fallen = evaluate_acting(pole, Rule(lambda seen, chance: torch.zeros(len(seen), dtype=torch.long)))
    assert 8 < fallen.mean < 11  # pushed one way, it falls within ten steps


def at(image: Image.Image, x: float, y: float) -> str:
    pixel = image.convert("RGB").getpixel((round(x), round(y)))
    assert isinstance(pixel, tuple)
    return "#{:02X}{:02X}{:02X}".format(*pixel)


def test_a_frame_shows_point_goal_and_walls_where_they_are() -> None:
    env = PointMaze()
    draw, _ = artist(env)
    goal, path = torch.tensor([0.5, 2.5]), torch.tensor([[0.5, 0.5, 0.0], [3.5, 0.5, 1.0]])
    picture, canvas = draw(path, goal, None), Canvas((0, 5, 0, 3), down=True)
    assert at(picture, *canvas.at(0.5, 2.5)) == RED
    assert at(picture, *canvas.at(3.5, 0.5)) == BLUE
    assert at(picture, *canvas.at(1.5, 1.5)) == "#4D4D4D"
    assert at(picture, *canvas.at(4.5, 1.5)) == "#F2F2F2"


def test_a_film_of_a_trial_of_several_episodes(tmp_path: Path) -> None:
    env = grid_navigation(size=3, length=4, episodes=2)
    policy = Rule(lambda seen, chance: torch.full((len(seen),), 4))
    film(env, policy, tmp_path / "film.gif", tasks=1, progress=lambda done, total: None)
    with Image.open(tmp_path / "film.gif") as pictures:
        assert pictures.n_frames == 9  # type: ignore[attr-defined]
