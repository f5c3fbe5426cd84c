"""Imitating what was done for the goal that it reached: which goals are drawn, what is learned, and from what."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from quickstudy.core import InputError, Trajectory
from quickstudy.methods import DQN, GCSL, PPO, BehaviourCloning
from quickstudy.methods.rl._replay import PARTS, Replay
from quickstudy.methods.rl.relabel import Hindsight, Windows
from quickstudy.tasks.acting import Discretised, at_random
from quickstudy.tasks.grids import Maze
from quickstudy.tasks.point import PointMaze, PointRobot
from quickstudy.training import collect, fit_offline

LINE = Maze(("......",), length=40, ends=False)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counted(length: int, done_at: int | None = None) -> Replay:
    """One environment whose t-th step leads to place t + 1."""
    place = torch.arange(length + 1.0).view(1, -1, 1).expand(1, length + 1, 2)
    seen = torch.cat([place, torch.zeros_like(place)], -1)
    done = torch.zeros(1, length)
    if done_at is not None:
        done[0, done_at] = 1
    zero = torch.zeros(1, length)
    return Replay.of(Trajectory(seen[:, :-1], torch.zeros(1, length, 2), zero, done, zero, zero, seen[:, 1:]))


def wandered(seed: int, tasks: int = 32) -> Replay:
    return Replay.of(collect(LINE, at_random(LINE.problem), LINE.sample(tasks, generator(seed)), generator(seed + 1)))


def test_goals_of_windows_come_as_often_as_their_lengths_say() -> None:
    """Length uniform in 2..5, place in it uniform: P(j steps ahead) = E[1(j < length) / length]."""
    point = PointRobot(shows_goal=True)
    memory = counted(100)
    slot = torch.randint(20, 80, (40_000,), generator=generator(0))
    row = torch.zeros_like(slot)
    steps = Windows(point, 2, 5)(memory, slot, row, memory.take(slot, row), generator(1))
    ahead = (point.goals(steps.observation)[1][:, 0, 0] - 1 - slot).long()
    share = torch.bincount(ahead, minlength=5) / len(slot)
    expected = torch.tensor([sum(1 / n for n in range(2, 6) if j < n) / 4 for j in range(5)])
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)
    reward = -(steps.ends()[1][..., :2] - point.goals(steps.ends()[1])[1]).norm(dim=-1)
    torch.testing.assert_close(steps.reward, reward)  # judged by where the step led, for the window's end
    fixed = Windows(point, 3, 3)(memory, slot, row, memory.take(slot, row), generator(1))
    assert set((point.goals(fixed.observation)[1][:, 0, 0] - 1 - slot).long().tolist()) == {0, 1, 2}


def test_windows_end_where_an_episode_or_the_log_does() -> None:
    point = PointRobot(shows_goal=True)
    memory = counted(20, done_at=9)
    slot = torch.arange(20).repeat(200)
    row = torch.zeros_like(slot)
    steps = Windows(point, 1, 8)(memory, slot, row, memory.take(slot, row), generator(0))
    goal = point.goals(steps.observation)[1][:, 0, 0].long()
    first = slot <= 9
    assert int(goal[first].max()) == 10 and bool((goal[first] > slot[first]).all())
    assert int(goal[~first].max()) == 20 and int((goal - slot).max()) == 8


def test_a_log_is_what_was_noted_step_by_step() -> None:
    env = PointMaze(start=None, length=7)
    trial = collect(env, at_random(env.problem), env.sample(5, generator(0)), generator(1))
    end, over = trial.ends()[0] > 0, trial.done > 0
    by_step = Replay(7)
    for t in range(7):
        step = trial.observation[:, t], trial.action[:, t], trial.reward[:, t]
        by_step.add(*step, end[:, t], over[:, t] & ~end[:, t], trial.ends()[1][:, t])
    at_once = Replay.of(trial)
    assert at_once.size == by_step.size == 7
    assert all(torch.equal(at_once.parts[name], by_step.parts[name]) for name in PARTS)


def test_gcsl_is_behaviour_cloning_of_relabelled_steps() -> None:
    memory = wandered(0)
    slot, row = memory.draw(16, generator(2))
    steps = Hindsight(LINE, share=1.0)(memory, slot, row, memory.take(slot, row), generator(3))
    one, other = GCSL(LINE.problem, width=8), BehaviourCloning(LINE.problem, width=8)
    other.actor.load_state_dict(one.actor.state_dict())
    assert torch.equal(one.losses(steps), other.losses(steps))


@pytest.mark.parametrize("relabel", [Hindsight(LINE, share=1.0), Windows(LINE, 1, 25)], ids=["gcsl", "play"])
def test_goals_are_reached_by_who_only_saw_wandering(relabel: Hindsight | Windows) -> None:
    """From any place of a line to any other, by the shortest way, though the data hardly ever go straight."""
    memory = wandered(0, tasks=100)
    method = GCSL(LINE.problem, width=32, generator=generator(4))
    history = fit_offline(method, memory, steps=400, relabel=relabel, lr=1e-2, generator=generator(5))
    places = torch.eye(6)
    here, goal = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    seen = torch.cat([places[here], places[goal]], -1)
    logits = method.predict(seen)
    assert isinstance(logits, Tensor)
    assert bool(((logits[..., 4] > logits[..., 3]) == (goal > here))[goal != here].all())
    assert history.step == [400] and bool((logits.argmax(-1) == 4)[goal == here + 1].all())


def test_a_log_is_learned_from_without_acting_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    memory, relabel = wandered(3), Windows(LINE, 1, 10)
    before = {name: part.clone() for name, part in memory.parts.items()}

    def run(steps: int, checkpoint: Path | None, resume: bool, stop: int | None = None) -> DQN:
        method = DQN(LINE.problem, width=8, generator=generator(0))

        def progress(done: int, steps: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        fit_offline(
            method, memory, steps=steps, batch=16, relabel=relabel, every=5, generator=generator(1),
            checkpoint=checkpoint, resume=resume, progress=progress,
        )  # fmt: skip
        return method

    whole = run(20, None, False)
    with pytest.raises(KeyboardInterrupt):
        run(20, tmp_path / "run", False, stop=12)
    halved = run(20, tmp_path / "run", True)
    for (name, one), (_, other) in zip(whole.state_dict().items(), halved.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert all(torch.equal(before[name], part) for name, part in memory.parts.items())


def test_what_cannot_be_learned_from_a_log_is_refused() -> None:
    with pytest.raises(InputError, match="it has `follow`"):
        fit_offline(PPO(LINE.problem), wandered(0))
    with pytest.raises(InputError, match="Expected a memory with steps in it"):
        fit_offline(GCSL(LINE.problem), Replay(5))
    with pytest.raises(InputError, match="Found 4 and 3"):
        Windows(LINE, 4, 3)


def test_few_actions_are_the_corners_of_many() -> None:
    inner = PointMaze(start=None)
    env = Discretised(inner, 3)
    assert env.problem.kind == "classification" and env.problem.n_outputs == 9
    action = torch.arange(9)
    expected = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 2)
    torch.testing.assert_close(env.numbers(action), expected)
    assert torch.equal(env.nearest(env.numbers(action)), action)
    assert env.nearest(torch.tensor([[0.4, -7.0], [0.6, 0.2]])).tolist() == [3, 7]
    goals = env.sample(9, generator(0))
    state, seen = env.reset(goals, generator(1))
    ours, theirs = env.step(state, action, goals, generator(2)), inner.step(state, expected, goals, generator(2))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    with pytest.raises(InputError, match="continuous actions and at least 2 levels"):
        Discretised(LINE)
