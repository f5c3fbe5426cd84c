"""Curricula: what they propose where the right answer is known, what loops tell them, and runs that go on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quickstudy import curricula, training
from quickstudy.core import InputError, Teaches, Trajectory
from quickstudy.curricula import AlpGmm, Anywhere, Curriculum, GoalGAN, Taught
from quickstudy.methods import DDPG, PPO
from quickstudy.tasks.point import PointMaze
from quickstudy.training import collect, fit_off_policy, fit_rl
from quickstudy.training.fit_rl import first_ends, first_returns

LOW, HIGH = torch.tensor([0.0, 0.0]), torch.tensor([10.0, 10.0])
MAZE = PointMaze(length=12)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gan(**settings: object) -> GoalGAN:
    first = 2 * torch.rand(50, 2, generator=generator(9))  # a corner of the box
    known = {
        "failed": -1.0,
        "first": first,
        "near": 0.3,
        "updates": 40,
        "repeats": 4,
        "episodes": 256,
        "generator": generator(0),
    }
    return GoalGAN(LOW, HIGH, **(known | settings))  # type: ignore[arg-type]


def teach(curriculum: Curriculum, chance: Tensor | None, rounds: int, seed: int = 1) -> Tensor:
    """Meet tasks that succeed up to a ring: surely below radius 3, never beyond 5, now and then between."""
    chosen = generator(seed)
    for _ in range(rounds):
        tasks = curriculum.sample(64, chosen)
        odds = ((5 - tasks.norm(dim=1)) / 2).clamp(0, 1) if chance is None else chance
        won = torch.rand(len(tasks), generator=chosen) < odds
        curriculum.met(tasks, won.float() - 1, tasks, chosen)
    return curriculum.sample(1000, chosen)


def on_the_ring(tasks: Tensor) -> float:
    far = tasks.norm(dim=1)
    return float(((far > 3) & (far < 5)).float().mean())


def test_goal_gan_labels_by_the_share_that_was_reached() -> None:
    goals = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]).repeat_interleave(4, 0)
    reached = torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0])
    assert gan().labels(goals, reached).tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 4
    near = gan(alike=1.5).labels(goals, reached)  # 8 of 12 neighbours at most: all in between
    assert near.tolist() == [1.0] * 12


def test_goal_gan_goes_to_where_goals_are_neither_easy_nor_hopeless() -> None:
    """From a corner, where all goals are easy, to the ring around it; anywhere would be there in 13 %."""
    curriculum = gan()
    assert on_the_ring(curriculum.propose(1000, generator(2))) < 0.2
    teach(curriculum, None, 48)
    assert on_the_ring(curriculum.propose(1000, generator(2))) > 0.5
    far = torch.cdist(curriculum.kept[: int(curriculum.n_kept)], curriculum.kept[: int(curriculum.n_kept)])
    assert float(far.fill_diagonal_(9).min()) > 0.3  # no two old goals are neighbours


def test_goal_gan_meets_each_goal_several_times_and_old_ones_among_them() -> None:
    curriculum = gan(repeats=4, old=1 / 3)
    goals = curriculum.sample(1202, generator(0))
    assert goals.shape == (1202, 2)
    assert torch.equal(goals[:1200:4], goals[3:1200:4])
    kept = curriculum.kept[: int(curriculum.n_kept)]
    old = (torch.cdist(goals[:1200:4], kept).amin(1) == 0).float().mean()
    assert 0.23 < float(old) < 0.43


def test_goal_gan_stays_as_it_is_where_no_goal_has_the_right_difficulty() -> None:
    curriculum = gan(episodes=64)
    before = {name: value.clone() for name, value in curriculum.state_dict().items()}
    teach(curriculum, torch.zeros(()), 3)
    assert all(torch.equal(before[name], value) for name, value in curriculum.maker.state_dict(prefix="maker.").items())


def test_alp_gmm_goes_to_where_results_change() -> None:
    curriculum = AlpGmm(LOW, HIGH, fit_every=256, most=5)
    assert on_the_ring(curriculum.sample(2000, generator(0))) < 0.2  # anywhere, at first
    assert on_the_ring(teach(curriculum, None, 24)) > 0.4


def test_alp_gmm_finds_the_progress_of_each_task_by_its_neighbour() -> None:
    curriculum = AlpGmm(LOW, HIGH, scale=10.0, fit_every=64)
    points = torch.tensor([[1.0, 1.0], [9.0, 9.0]])
    curriculum.met(points, torch.tensor([-10.0, 5.0]), points, generator(0))
    curriculum.met(points.flip(0) + 0.1, torch.tensor([2.0, -10.0]), points, generator(0))
    torch.testing.assert_close(curriculum.latest[:2, -1], torch.tensor([0.3, 0.0]))
    torch.testing.assert_close(curriculum.latest[:2, :2], (points.flip(0) + 0.1) / 10)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Anywhere(HIGH, LOW), "lowest and the highest corner"),
        (lambda: gan(shares=(0.9, 0.1)), "R_min < R_max"),
        (lambda: gan(first=torch.zeros(0, 2)), "0 goals"),
        (lambda: AlpGmm(LOW, HIGH, most=1), "2 <= most < fit_every"),
    ],
)
def test_bad_settings_are_refused(make: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()  # type: ignore[operator]


class Notes(Anywhere):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(2), torch.tensor([5.0, 3.0]))
        self.told: list[tuple[Tensor, Tensor, Tensor]] = []

    def met(self, tasks: Tensor, returns: Tensor, last: Tensor, generator: torch.Generator) -> None:
        self.told.append((tasks, returns, last))


def test_the_first_episode_of_a_trial_is_what_counts() -> None:
    reward, done = torch.tensor([[-1.0, 0, -1, 0], [-1.0, -1, -1, -1]]), torch.tensor([[0.0, 1, 0, 1], [0.0, 0, 0, 0]])
    after = torch.arange(8.0).view(2, 4, 1)
    trials = Trajectory(after - 1, reward, reward, done, reward, done, after)
    assert first_returns(trials).tolist() == [-1, -4]
    assert first_ends(trials).flatten().tolist() == [1, 7]


def test_training_names_no_curriculum() -> None:
    """Adding one is one file and one export line."""
    source = "".join(path.read_text() for path in Path(training.__file__).parent.glob("*.py"))
    assert not [name for name in curricula.__all__ if re.search(rf"\b{name}\b", source)]


@pytest.mark.parametrize("off_policy", [False, True])
def test_loops_tell_what_came_of_each_task(off_policy: bool) -> None:
    notes = Notes()
    taught = Taught(MAZE, notes)
    assert isinstance(taught, Teaches)
    assert not isinstance(MAZE, Teaches)
    if off_policy:
        method = DDPG(taught.problem, width=8)
        fit_off_policy(method, taught, steps=40, tasks=8, warmup=320, generator=generator(0))
    else:
        fit_rl(PPO(taught.problem, width=8), taught, steps=3, tasks=8, passes=1, generator=generator(0))
    tasks, returns, last = (torch.cat(part) for part in zip(*notes.told, strict=True))
    assert len(tasks) >= 24
    place, goal = MAZE.goals(last)
    torch.testing.assert_close(goal, tasks)  # each was told with its own episode's end
    reached = (place - tasks).norm(dim=1) <= MAZE.within
    assert torch.equal(reached, returns > -MAZE.length)


def made(kind: str) -> Taught:
    low, high = torch.zeros(2), torch.tensor([5.0, 3.0])
    trials = collect(MAZE, PPO(MAZE.problem).explorer(), MAZE.sample(8, generator(3)), generator(4))
    first = MAZE.goals(trials.observation)
    if kind == "gan":
        options = {"first": first[0].flatten(0, 1), "near": 0.3, "episodes": 16, "updates": 3, "old": 0.5}
        return Taught(MAZE, GoalGAN(low, high, failed=-12.0, generator=generator(5), **options))  # type: ignore[arg-type]
    return Taught(MAZE, AlpGmm(low, high, fit_every=16, most=3, scale=12.0))


@pytest.mark.parametrize("kind", ["gan", "alp"])
def test_a_curriculum_is_saved_with_its_run(kind: str, tmp_path: Path) -> None:
    """A run that stopped and goes on equals an unbroken one, bit for bit."""

    def run(steps: int, stop: int | None = None) -> tuple[PPO, Taught]:
        path = tmp_path / f"{steps}-{stop}.safetensors"

        def halt(done: int, total: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        for progress in (halt, None) if stop else (None,):
            method, taught = PPO(MAZE.problem, width=8, generator=generator(1)), made(kind)
            try:
                fit_rl(
                    method, taught, steps=steps, tasks=16, passes=2, every=2, generator=generator(2), checkpoint=path,
                    resume=True, progress=progress,
                )  # fmt: skip
            except KeyboardInterrupt:
                continue
        return method, taught

    (method, taught), (again, resumed) = run(6), run(6, stop=3)
    for one, other in ((method, again), (taught, resumed)):
        there = other.state_dict()
        assert all(torch.equal(value, there[name]) for name, value in one.state_dict().items())
