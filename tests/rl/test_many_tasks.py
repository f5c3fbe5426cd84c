"""Many tasks in one policy: heads keep tasks apart, and conflicting gradients give way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quickstudy.combine import PCGrad, mean
from quickstudy.combine.pcgrad import project
from quickstudy.core import InputError
from quickstudy.methods import PPO
from quickstudy.methods.rl._policies import best_of
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.tasks.point import ConflictingGoals
from quickstudy.training import collect, fit_rl


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_identity_is_shown_and_tasks_come_in_turn() -> None:
    env = SeesIdentity(ConflictingGoals(tasks=4))
    tasks = env.sample(8, generator(0))
    trials = collect(env, PPO(env.problem).explorer(), tasks, generator(1))
    assert torch.equal(trials.observation[:, 0, 2:], torch.eye(4).repeat(2, 1))
    assert torch.equal(trials.observation[:, -1, 2:], torch.eye(4).repeat(2, 1))


def test_a_head_moves_its_own_task_only() -> None:
    env = SeesIdentity(ConflictingGoals(tasks=4))
    method = PPO(env.problem, heads=4, width=8)
    seen = torch.cat([torch.randn(1, 5, 2, generator=generator(0)), torch.eye(4)[2].expand(1, 5, 4)], -1)
    last = method.actor.net.net[-1]  # type: ignore[index]
    assert isinstance(last, torch.nn.Linear)
    (gradient,) = torch.autograd.grad(method.actor(seen).sum(), [last.weight])
    rows = gradient.abs().sum(1).view(4, 2) > 0  # one head has two outputs
    assert rows.tolist() == [[False] * 2, [False] * 2, [True] * 2, [False] * 2]
    with pytest.raises(InputError, match=r"last 4 numbers are the task's identity.*Found shape \(2,\).*SeesIdentity"):
        PPO(ConflictingGoals(tasks=4).problem, heads=4)


def test_projection_is_the_one_of_two_tasks_by_hand() -> None:
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    torch.testing.assert_close(project(g, generator(0)), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    agree = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    assert torch.equal(project(agree, generator(0)), agree)


def test_no_pair_of_two_tasks_conflicts_after_surgery() -> None:
    for seed in range(20):
        g = torch.randn(2, 6, generator=generator(seed))
        after = project(g, generator(seed))
        assert bool(((after * g.flip(0)).sum(1) > -1e-5).all())


def test_the_gradient_is_the_projected_one_part_by_part() -> None:
    a, b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))
    targets = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    losses = (targets @ a + torch.tensor([1.0, -2.0]) * b).repeat(2)  # two trials of each of two tasks
    combined = PCGrad([[a], [b]], 2, generator(0))(losses)
    torch.testing.assert_close(combined, mean(losses))
    combined.backward()
    torch.testing.assert_close(a.grad, torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(b.grad, torch.tensor([0.0]))  # straight against each other: nothing is left


def test_heads_reach_goals_in_conflict() -> None:
    env = SeesIdentity(ConflictingGoals(tasks=2, scales=1.0, length=10))
    method = PPO(env.problem, heads=2, width=32, discount=0.9, generator=generator(0))
    fit_rl(method, env, steps=40, tasks=64, passes=5, lr=1e-2, generator=generator(1))
    tasks = env.sample(2, generator(0))
    trials = collect(env, best_of(method), tasks, generator(3))
    there = trials.ends()[1][:, -1, :2]
    assert float((there - tasks[:, :2]).norm(dim=1).max()) < 0.3
