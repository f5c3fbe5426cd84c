"""Meta-World: splits that are apart, robots that are the package's own step by step, and both kinds of success."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from quickstudy.core import InputError, RunError
from quickstudy.methods import SAC
from quickstudy.tasks.acting import Rule, at_random
from quickstudy.training import collect, fit_off_policy

try:
    from quickstudy.tasks import metaworld as ours

    MISSING = ""
except InputError as error:
    MISSING = str(error)

needs_the_package = pytest.mark.skipif(bool(MISSING), reason=MISSING)
warns_of_bounds = pytest.mark.filterwarnings("ignore:Constant.s. may be too high:UserWarning")  # the experts' own


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    monkeypatch.delitem(sys.modules, "quickstudy.tasks.metaworld", raising=False)
    with pytest.raises(InputError, match=r"Meta-World.*not installed.*quickstudy\[metaworld\].*make metaworld"):
        importlib.import_module("quickstudy.tasks.metaworld")


@needs_the_package
def test_another_mujoco_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mujoco.__version__", "4.0.0")
    with pytest.raises(InputError, match=r"Expected MuJoCo 3\.\d.*Found 4\.0\.0"):
        importlib.reload(ours)


@needs_the_package
def test_training_and_test_goals_of_ml1_are_different_ones() -> None:
    import metaworld

    train, test = (ours.MetaWorld("ML1", "reach", split=split) for split in ("train", "test"))
    a, b = train.tasks.places(), test.tasks.places()
    assert a.shape == b.shape == (50, 9) and len(np.unique(np.concatenate([a, b])[:, :6], axis=0)) == 100
    whole = metaworld.ML1("reach-v3", seed=0)
    assert [one.data for one in train.tasks.goals[0]] == [one.data for one in whole.train_tasks]
    assert [one.data for one in test.tasks.goals[0]] == [one.data for one in whole.test_tasks]


@needs_the_package
def test_environments_of_ml10_and_ml45_are_different_ones() -> None:
    from metaworld import env_dict

    for name, many in (("ML10_V3", 10), ("ML45_V3", 45)):
        names = [set(getattr(env_dict, name)[split]) for split in ("train", "test")]
        assert [len(one) for one in names] == [many, 5] and not names[0] & names[1]
    train, test = (ours.MetaWorld("ML10", split=split) for split in ("train", "test"))
    assert len(train.names) == 10 and len(test.names) == 5 and not set(train.names) & set(test.names)
    assert train.known().shape == (500, 2) and train.problem.x_shape == (39,)
    tasks = train.sample(20, generator(0))
    assert tasks[:, 0].tolist() == [*range(10), *range(10)]  # in turn
    some = train.sample(4, generator(0))[:, 0]
    assert len(some.unique()) == 4 and some.tolist() != [0, 1, 2, 3]


@needs_the_package
@pytest.mark.parametrize("benchmark", ["MT1", "ML1"])
def test_equals_the_package_step_by_step(benchmark: str) -> None:
    env = ours.MetaWorld(benchmark, "drawer-close", length=40)  # type: ignore[arg-type]
    tasks = torch.tensor([[0.0, 3.0], [0.0, 7.0], [0.0, 3.0]])
    trials = collect(env, at_random(env.problem), tasks, generator(0))
    for row, goal in enumerate((3, 7, 3)):
        world = env.tasks.classes[0]()
        world.set_task(env.tasks.goals[0][goal])
        seen, _ = world.reset()
        # the package's own first observation hides no goal from who sees it, and shows zeros to who does not
        for step in range(40):
            torch.testing.assert_close(trials.observation[row, step, :36], torch.tensor(seen[:36]).float())
            shown = torch.tensor(world._get_pos_goal()).float() if benchmark == "MT1" else torch.zeros(3)
            torch.testing.assert_close(trials.observation[row, step, 36:], shown)
            seen, reward, _, _, info = world.step(trials.action[row, step].numpy())
            assert float(trials.reward[row, step]) == pytest.approx(reward, abs=1e-5)
            assert bool(env.success()[row, step]) == bool(info["success"])
    assert trials.done.sum(1).tolist() == [1, 1, 1] and float(trials.ends()[0].sum()) == 0


@needs_the_package
@warns_of_bounds
def test_experts_succeed_though_the_goal_is_hidden_and_both_kinds_of_success_are_told() -> None:
    env = ours.MetaWorld("ML1", "reach", length=120)
    tasks = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    expert = env.oracle(tasks)
    collect(env, expert, tasks, generator(0))
    assert env.success().shape == (2, 120) and bool(env.success()[:, -1].all())
    steps = iter(range(120))

    def leaves(seen: Tensor, chance: torch.Generator) -> Tensor:
        return expert.rule(seen, chance) if next(steps) < 80 else torch.tensor([0.0, -1.0, 1.0, 0.0]).expand(2, 4)

    collect(env, Rule(leaves), tasks, generator(0))
    assert bool(env.success().any(1).all()) and not bool(env.success()[:, -1].any())


@needs_the_package
def test_a_task_alone_is_the_task_among_others_and_a_reset_begins_anew() -> None:
    env = ours.MetaWorld("ML1", "reach", length=15, shows_identity=True)
    tasks = torch.tensor([[0.0, 5.0], [0.0, 6.0], [0.0, 7.0]])
    push = Rule(lambda seen, chance: 10 * seen[:, :4] - 3)
    together = collect(env, push, tasks, generator(0))
    state, _ = env.reset(tasks, generator(0))
    env.step(state, torch.ones(3, 4), tasks, generator(0))
    again = collect(env, push, tasks, generator(0))  # in the midst of a trial
    torch.testing.assert_close(again.observation, together.observation)
    alone = collect(env, push, tasks[1:2], generator(0))
    torch.testing.assert_close(alone.observation[0], together.observation[1])
    assert bool((together.observation[..., 39:] == 1).all()) and together.observation.shape[2] == 40


@needs_the_package
@warns_of_bounds
def test_robots_in_processes_do_as_robots_here() -> None:
    here, there = (ours.MetaWorld("MT1", "drawer-close", length=12, workers=workers) for workers in (0, 2))
    tasks = here.sample(3, generator(0))
    for env in (here, there):
        with pytest.raises(InputError, match=r"tasks of the latest reset"):
            env.step(torch.zeros(3), torch.zeros(3, 4), tasks, generator(0))
    chance = generator(3), generator(3)
    for _ in range(2):  # the second time they begin anew
        trials = [collect(env, at_random(env.problem), tasks, chance[i]) for i, env in enumerate((here, there))]
        for ours_, theirs in zip(*(vars(trial).values() for trial in trials), strict=True):
            torch.testing.assert_close(ours_, theirs, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(here.success(), there.success())
    assert torch.equal(here.goal_positions(tasks), there.goal_positions(tasks))
    state, _ = there.reset(tasks, generator(0))
    with pytest.raises(InputError, match="finite actions"):  # found in one of the processes, said here
        there.step(state, torch.full((3, 4), torch.nan), tasks, generator(0))
    there.crew(3).processes[1].terminate()
    with pytest.raises(RunError, match="one has ended"):
        there.reset(tasks, generator(0))
    there.close()


@needs_the_package
def test_a_part_of_a_benchmark_has_the_goals_of_the_whole() -> None:
    whole = ours.MetaWorld("ML10", split="test")
    part = ours.MetaWorld("ML10", split="test", only=("sweep-into", "door-close"))
    assert part.names == ("door-close", "sweep-into")  # in the benchmark's order
    for name, goals in zip(part.names, part.tasks.goals, strict=True):
        assert goals == whole.tasks.goals[whole.names.index(name)]
    assert part.known().shape == (100, 2) and part.sample(4, generator(0))[:, 0].tolist() == [0, 1, 0, 1]


@needs_the_package
def test_learning_goes_on_with_new_episodes_where_robots_cannot_be_put_back(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    for steps in (12, 20):
        env = ours.MetaWorld("MT1", "reach", length=8)
        method = SAC(env.problem, width=8)
        history = fit_off_policy(
            method, env, steps=steps, tasks=2, batch=4, warmup=4, every=4, checkpoint=file, resume=True
        )
        if steps == 12:
            before = history.step
    assert history.step == [*before, 16, 20]


@needs_the_package
def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match=r"benchmark of MT1.*Found 'MT9'"):
        ours.MetaWorld("MT9")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"one of assembly.*for ML1. Found task 'fly'"):
        ours.MetaWorld("ML1", "fly")
    with pytest.raises(InputError, match=r"no task for MT10. Found task 'reach'"):
        ours.MetaWorld("MT10", "reach")
    with pytest.raises(InputError, match=r"split 'train': MT1 is judged on its own tasks"):
        ours.MetaWorld("MT1", "reach", split="test")
    with pytest.raises(InputError, match=r"Found 0 and fly"):
        ours.MetaWorld("ML10", only=("fly",))
    env = ours.MetaWorld("ML1", "reach", length=5)
    with pytest.raises(InputError, match=r"a trial to tell of"):
        env.success()
    tasks = env.sample(2, generator(0))
    state, _ = env.reset(tasks, generator(0))
    with pytest.raises(InputError, match=r"tasks of the latest reset"):
        env.step(state, torch.zeros(2, 4), tasks + 1, generator(0))
