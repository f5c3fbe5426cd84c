"""A training step stays on the device of its data and looks at no number, so that it can be captured as one graph."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quickstudy.core import Explorer, Follows, Imitates, Improves, Problem, TaskFamily, Trajectory
from quickstudy.methods import DDPG, DQN, PPO, RL2, SAC
from quickstudy.methods.registry import all_methods, build
from quickstudy.methods.rl._replay import Replay
from quickstudy.methods.rl.relabel import Hindsight
from quickstudy.tasks.acting import OnDevice, at_random
from quickstudy.tasks.classes import ClassEpisodes, ClassSet
from quickstudy.tasks.classic import Pendulum
from quickstudy.tasks.toy import Sinusoids
from quickstudy.tasks.worlds import WORLDS, world
from quickstudy.training.compiled import _flat, _like
from quickstudy.training.fit_off_policy import drawn

LOOKS = {"active-matching": "what it asks for next hangs on the answers, drawn from a generator of its own"}
seed = torch.Generator().manual_seed
IMAGES = ClassEpisodes(
    ClassSet(torch.rand(12, 5, 1, 28, 28, generator=seed(0)), tuple(map(str, range(12)))), range(12), shots=2,
    queries=3, known=True,
)  # fmt: skip
FAMILIES: dict[str, TaskFamily] = {"images": IMAGES, "sinusoids": Sinusoids(5, 5)}
CASES = [
    pytest.param(name, family, id=f"{name}-{family}")
    for name, cls in all_methods().items()
    for family, tasks in FAMILIES.items()
    if hasattr(cls, "refuses") and not cls.refuses(tasks.problem) and name not in LOOKS
]


class Mixed(TorchDispatchMode):
    """Notes operations that take or give tensors of two devices, numbers apart."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        every = [value for value in tree_leaves((args, kwargs, out)) if isinstance(value, Tensor)]
        if {"meta", "cpu"} <= {value.device.type for value in every if value.ndim or value.device.type == "meta"}:
            ours = [frame for frame in traceback.extract_stack() if "/quickstudy/" in frame.filename]
            self.found.append(f"{func} at {ours[-1].filename}:{ours[-1].lineno}")
        return out


@pytest.mark.parametrize("name, family", CASES)
def test_a_step_stays_on_its_device(name: str, family: str) -> None:
    tasks = FAMILIES[family]
    method = build(all_methods()[name], tasks.problem, 0)
    if not method.trains or not any(p.requires_grad for p in method.parameters()):
        pytest.skip("has nothing to learn in training")
    away = lambda value: None if value is None else value.to("meta")  # noqa: E731 (shapes without numbers)
    state = {**dict(method.named_parameters()), **dict(method.named_buffers())}
    moved = {key: value.detach().to("meta") for key, value in state.items()}
    moving = [moved[key].requires_grad_() for key, value in method.named_parameters() if value.requires_grad]
    episodes = tasks.sample(2, seed(1))
    there = _like(episodes, iter([away(value) for value in _flat(episodes)]))
    with Mixed() as mixed:
        losses = functional_call(method.train(), moved, (there,))
        torch.autograd.grad(losses.mean(), moving, allow_unused=True)
    assert losses.device.type == "meta"
    assert not mixed.found


DISCRETE, CONTINUOUS = (Problem((4,), kind, 2) for kind in ("classification", "regression"))
ACTING = [
    pytest.param(DQN, DISCRETE, {}, id="dqn"),
    pytest.param(DDPG, CONTINUOUS, {}, id="ddpg"),
    pytest.param(SAC, CONTINUOUS, {}, id="sac"),
    pytest.param(SAC, CONTINUOUS, {"heads": 3, "depth": 3}, id="sac-heads"),
]


@pytest.mark.parametrize("cls, problem, options", ACTING)
def test_acting_remembering_and_learning_stay_on_the_device(
    cls: Callable[..., Explorer], problem: Problem, options: dict[str, int]
) -> None:
    """Chance comes from a generator of the processor's, and is sent; nothing else meets from both sides."""
    method = cls(problem, width=8, **options).to("meta")
    seen = torch.zeros(3, 4, device="meta")
    reward, ended, past = seen[:, 0], seen[:, 0] > 0, Replay(5)
    with Mixed() as mixed:
        for policy in (at_random(problem), method.explorer()):
            action, _, _ = policy.act(seen, policy.start(3), seed(0))
            past.add(seen, action, reward, ended, ended, seen)
        (replayed,) = drawn(past, 1, 6, None, problem, seed(1))
        losses = method(replayed)
        torch.autograd.grad(losses.mean(), [p for p in method.parameters() if p.requires_grad], allow_unused=True)
    assert {part.device.type for part in (action, losses, *past.parts.values())} == {"meta"}
    assert {part.device.type for part in vars(replayed).values() if part is not None} == {"meta"}
    assert [found for found in mixed.found if not found.startswith("aten._to_copy")] == []


TRIED = [
    pytest.param(cls, problem, id=f"{name}-{problem.kind}")
    for name, cls in all_methods().items()
    if issubclass(cls, Explorer) and cls.trains and not issubclass(cls, (Follows, Imitates))
    for problem in (DISCRETE, CONTINUOUS)
    if problem.kind in getattr(cls, "acts", ())
]


@pytest.mark.parametrize("cls, problem", TRIED)
def test_learning_from_trials_stays_on_the_device(cls: type[Explorer], problem: Problem) -> None:
    """Acting may look at numbers: the processor's generator draws what is discrete."""
    method = build(cls, problem, 0).to("meta")
    assert isinstance(method, Explorer)
    step, flat, seen = (torch.zeros(3, *shape, device="meta") for shape in ((), (5,), (5, 4)))
    action = flat.long() if problem.kind == "classification" else torch.zeros(3, 5, 2, device="meta")
    trials = Trajectory(seen, action, flat, flat, flat, flat, seen)
    policy = method.explorer()
    memory = policy.start(3).to("meta")
    with Mixed() as mixed:
        memory = policy.learn(memory, action[:, 0], step, step > 0)
        if isinstance(method, Improves) and cls.name != "trpo":  # whose line search compares numbers
            method.improve(trials)
        losses = method(trials)
        torch.autograd.grad(losses.mean(), [p for p in method.parameters() if p.requires_grad], allow_unused=True)
    assert {part.device.type for part in (memory, losses)} == {"meta"}
    assert mixed.found == []


@pytest.mark.parametrize("name", [name for name in WORLDS if hasattr(world(name), "relabel")])
def test_relabelling_stays_on_the_device(name: str) -> None:
    environment = world(name)
    seen, step, past = (
        torch.zeros(3, *environment.problem.x_shape, device="meta"),
        torch.zeros(3, device="meta"),
        Replay(5),
    )
    with Mixed() as mixed:
        action, _, _ = at_random(environment.problem).act(seen, step.unsqueeze(1), seed(0))
        past.add(seen, action, step, step > 0, step > 0, seen)
        (replayed,) = drawn(past, 1, 6, Hindsight(environment), environment.problem, seed(1))  # type: ignore[arg-type]
    assert {part.device.type for part in vars(replayed).values() if part is not None} == {"meta"}
    assert [found for found in mixed.found if not found.startswith("aten._to_copy")] == []


@pytest.mark.parametrize("cls", [PPO, RL2])
def test_discrete_actions_are_drawn_where_the_generator_is(cls: type[Explorer]) -> None:
    """Their probabilities are fetched: on CUDA a generator of the processor's cannot draw."""
    policy = cls(DISCRETE).to("meta").explorer()
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        policy.act(torch.zeros(3, 4, device="meta"), policy.start(3).to("meta"), seed(0))


def test_an_environment_of_the_processor_sends_all_that_it_gives_and_fetches_nothing_that_it_sent() -> None:
    far = OnDevice(Pendulum(), "meta")  # from where nothing could be fetched
    tasks = far.sample(3, seed(0))
    state, observation = far.reset(tasks, seed(1))
    result = far.step(state, torch.zeros(3, 1), tasks, seed(2))
    assert {part.device.type for part in (tasks, state, observation, *result)} == {"meta"}
    far.step(result[0], torch.zeros(3, 1), tasks, seed(2))
    with pytest.raises(NotImplementedError, match="meta"):
        far.step(state, torch.zeros(3, 1), tasks, seed(2))  # no longer the latest


def test_an_environment_on_a_device_is_the_same_environment() -> None:
    near, results = Pendulum(), []
    for env in (near, OnDevice(near, "cpu")):
        tasks = env.sample(3, seed(0))
        state, _ = env.reset(tasks, seed(1))
        then = env.step(state, torch.ones(3, 1), tasks, seed(2))[0]
        # a state of another time and place, as where an episode ends
        mixed = torch.where(torch.tensor([True, False, False]).unsqueeze(1), state, then)
        results.append(env.step(mixed, torch.ones(3, 1), tasks, seed(2)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
