"""Made-up families are what they say."""

import math

import torch

from quickstudy.tasks import Sinusoids, planted


def test_sinusoids() -> None:
    """Every task lies on A sin(x - b) = A cos(b) sin(x) - A sin(b) cos(x), with A and b in their ranges."""
    episodes = Sinusoids(shots=7, queries=20).sample(200, torch.Generator().manual_seed(0))
    both = episodes.support.join(episodes.query)
    assert episodes.support.x.shape == (200, 7, 1) and episodes.query.x.shape == (200, 20, 1)
    assert -5 <= both.x.min() < -4.9 and 4.9 < both.x.max() <= 5
    design = torch.cat([both.x.sin(), -both.x.cos()], -1).double()
    solved = torch.linalg.lstsq(design, both.y.double()).solution
    assert torch.allclose(design @ solved, both.y.double(), atol=1e-5)
    amplitude, phase = solved.squeeze(-1).norm(dim=1), torch.atan2(solved[:, 1, 0], solved[:, 0, 0])
    assert 0.1 <= amplitude.min() < 0.5 and 4.5 < amplitude.max() <= 5
    assert -1e-4 <= phase.min() < 0.2 and 2.9 < phase.max() <= math.pi + 1e-4


def test_planted_tasks_share_as_much_as_they_say() -> None:
    """The mean correlation of two tasks' weights is S, and every task is equally hard."""
    for shared in (0.0, 0.5, 1.0):
        table = planted(shared, torch.Generator().manual_seed(1), tasks=60, examples=50, features=20, noise=0.0)
        x, y = table.x[table.row], table.y
        x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
        w = torch.linalg.lstsq(x.double(), y.double()).solution.squeeze(-1)  # [T, features + 1], exact without noise
        assert torch.allclose(x.double() @ w.unsqueeze(-1), y.double(), atol=1e-4)
        w = w[:, :-1]
        product = w @ w.T
        off = (product.sum() - product.trace()) / (60 * 59)
        assert abs(float(off / product.diagonal().mean()) - shared) < 0.12
        # one draw of w_0 in 20 numbers: its size varies by about sqrt(2 / 20)
        assert 0.4 < float(product.diagonal().mean()) < 1.8


def test_planted_noise() -> None:
    quiet, loud = (planted(1.0, torch.Generator().manual_seed(2), tasks=30, noise=noise) for noise in (0.0, 2.0))
    assert torch.equal(quiet.x, loud.x)
    assert abs(float((loud.y - quiet.y).std()) - 2.0) < 0.1
