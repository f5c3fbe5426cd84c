"""The other side of the ratios does the same work: task by task and all at once agree to the last digits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from benchmarks.loop_maml import loop_maml
from torch import nn

from quickstudy.core import Batch, Episodes, Problem
from quickstudy.methods import MAML
from quickstudy.nets.basic import MLP, Conv4


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_loop_and_batch_have_the_same_losses_and_meta_gradients_on_sinusoids(steps: int) -> None:
    problem = Problem((1,), "regression", 1)
    a, b, c, d = torch.randn(4, 6, 4, 1, generator=generator(), dtype=torch.double)
    episodes = Episodes(Batch(a, b), Batch(c, d))
    net = MLP((1, 8, 8, 1), generator()).double()
    method = MAML(problem, net, inner_lr=0.05, steps=steps)
    ours = method(episodes)
    theirs = torch.stack(list(loop_maml(net, F.mse_loss, episodes, steps=steps, inner_lr=0.05)))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(side.mean(), list(net.parameters())) for side in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_loop_and_batch_have_the_same_losses_and_meta_gradients_on_images() -> None:
    problem = Problem((1, 28, 28), "classification", 3)
    x = torch.rand(2, 9, 1, 28, 28, generator=generator(), dtype=torch.double)
    y = torch.arange(3).repeat(3).expand(2, 9)
    episodes = Episodes(Batch(x[:, :3], y[:, :3]), Batch(x[:, 3:], y[:, 3:]))
    net = nn.Sequential(Conv4(1, 4, "batch", generator()), nn.Linear(16, 3)).double()
    method = MAML(problem, net, inner_lr=0.4, steps=1)
    ours = method(episodes)
    theirs = torch.stack(list(loop_maml(net, F.cross_entropy, episodes, steps=1, inner_lr=0.4)))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(side.mean(), list(net.parameters())) for side in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)
