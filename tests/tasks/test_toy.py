"""Made-up families are what they say."""

import math

import numpy as np
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from quickstudy.core import Batch
from quickstudy.tasks import GaussianProcesses, Sinusoids, planted
from quickstudy.testing import check_task_family


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


def test_two_points_give_a_sinusoid_away() -> None:
    episodes = Sinusoids(shots=2, queries=20).sample(50, torch.Generator().manual_seed(0))
    found = Sinusoids().best(episodes.support, episodes.query.x)
    assert (found - episodes.query.y).abs().max() < 1e-3


def test_one_point_leaves_the_mean_of_the_sinusoids_through_it() -> None:
    """Against drawing: of many sinusoids, those that pass within a hair of the point."""
    generator = torch.Generator().manual_seed(0)
    amplitude, phase = (
        0.1 + 4.9 * torch.rand(4_000_000, generator=generator),
        math.pi * torch.rand(4_000_000, generator=generator),
    )
    at = torch.linspace(-5, 5, 5)
    for x, y in ((0.7, 1.5), (-2.0, -3.0), (4.0, 0.3)):
        near = (amplitude * torch.sin(x - phase) - y).abs() < 0.01
        drawn = (amplitude[near, None] * torch.sin(at - phase[near, None])).mean(0)
        found = Sinusoids().best(Batch(torch.tensor([[[x]]]), torch.tensor([[[y]]])), at.view(1, -1, 1))
        assert near.sum() > 3000
        assert (found.flatten() - drawn).abs().max() < 0.15  # standard error of the draws: 2 / sqrt(3000) = .04


def test_best_of_sinusoids_is_best() -> None:
    """Nothing near it has a smaller error at one example, in the mean over tasks."""
    episodes = Sinusoids(shots=1, queries=50).sample(2000, torch.Generator().manual_seed(1))
    found, y = Sinusoids().best(episodes.support, episodes.query.x), episodes.query.y
    error = (found - y).square().mean()
    for scale in (0.85, 1.15):
        assert (scale * found - y).square().mean() > error
    # the errors of a posterior mean do not depend on what it says
    assert abs(float(((y - found) * found).mean() / found.square().mean())) < 0.05


def test_gaussian_process_is_scikit_learns() -> None:
    family = GaussianProcesses(shots=6, queries=9, length=0.7, noise=0.3)
    episodes = family.sample(3, torch.Generator().manual_seed(0))
    ours = family.posterior(episodes.support, episodes.query.x)
    for t in range(3):
        theirs = GaussianProcessRegressor(RBF(0.7), alpha=0.09, optimizer=None)
        theirs.fit(episodes.support.x[t].double().numpy(), episodes.support.y[t, :, 0].double().numpy())
        mean, deviation = theirs.predict(episodes.query.x[t].double().numpy(), return_std=True)
        np.testing.assert_allclose(ours.mean[t, :, 0], mean, atol=1e-5)
        np.testing.assert_allclose(ours.stddev[t, :, 0], np.sqrt(deviation**2 + 0.09), atol=1e-5)


def test_posterior_of_one_point_has_the_closed_form() -> None:
    """``mean = k y / (1 + s^2)``, ``variance = 1 + s^2 - k^2 / (1 + s^2)``."""
    family = GaussianProcesses(length=0.5, noise=0.2)
    support, at = Batch(torch.tensor([[[0.3]]]), torch.tensor([[[1.7]]])), torch.tensor([[[0.3], [0.8], [-2.0]]])
    found = family.posterior(support, at)
    k = torch.exp(-0.5 * ((at - 0.3) / 0.5) ** 2)
    torch.testing.assert_close(found.mean, k * 1.7 / 1.04)
    torch.testing.assert_close(found.variance, 1.04 - k**2 / 1.04)


def test_posterior_passes_padding_by() -> None:
    family = GaussianProcesses(shots=5, queries=4)
    episodes = family.sample(3, torch.Generator().manual_seed(0))
    s = episodes.support
    padded = Batch(s.x, s.y, torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]).expand(3, 5))
    found, expected = (family.posterior(b, episodes.query.x) for b in (padded, Batch(s.x[:, :3], s.y[:, :3])))
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.stddev, expected.stddev)


def test_gaussian_process_tasks_are_as_their_posterior_says() -> None:
    """Draws of the family, in units of the exact posterior's spread, are standard normal."""
    family = GaussianProcesses(shots=4, queries=1)
    episodes = family.sample(4000, torch.Generator().manual_seed(0))
    posterior = family.posterior(episodes.support, episodes.query.x)
    z = (episodes.query.y - posterior.mean) / posterior.stddev
    assert abs(float(z.mean())) < 0.06 and abs(float(z.var()) - 1) < 0.09  # four standard errors
    check_task_family(family)


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
