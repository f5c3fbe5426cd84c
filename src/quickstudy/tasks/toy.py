"""Families whose optimum is known: sinusoids, Gaussian processes, unlike curvature, tasks that share as one says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal

from quickstudy.core import Batch, Episodes, Problem
from quickstudy.tasks.table import TaskTable


@dataclass(frozen=True)
class Sinusoids:
    """``y = A sin(x - b)``: A in [0.1, 5], b in [0, pi], x in [-5, 5].

    Args:
        shots: labelled points of a task.
        queries: points to be judged on.

    Reference:
        Finn et al. 2017, section 5.1, arXiv:1703.03400.
    """

    shots: int = 10
    queries: int = 10

    @property
    def problem(self) -> Problem:
        """One number in, one number out."""
        return Problem((1,), "regression", 1, metric="explained variance")

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Episodes of n sinusoids. Shape: support.x ``[n, shots, 1]``, query.x ``[n, queries, 1]``."""
        draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
        amplitude, phase = 0.1 + 4.9 * draw(n, 1, 1), math.pi * draw(n, 1, 1)
        x = 10 * draw(n, self.shots + self.queries, 1) - 5
        y = amplitude * torch.sin(x - phase)
        k = self.shots
        return Episodes(Batch(x[:, :k], y[:, :k]), Batch(x[:, k:], y[:, k:]))

    def best(self, support: Batch, x: Tensor, points: int = 20_000) -> Tensor:
        r"""The posterior mean of y, which no predictor's squared error undercuts in expectation.

        There is no noise, so that two examples give the sinusoid away, and the posterior is a point. One example
        leaves a curve of amplitudes :math:`A(b) = y / \sin(x - b)`, whose density over phases is

        .. math::
            p(b \mid x, y) \propto \left\lvert \frac{dA}{dy} \right\rvert = \frac{1}{\lvert \sin(x - b) \rvert}
            \quad \text{where } A(b) \in [0.1, 5]

        Args:
            support: the examples, without padding.
            x: where to predict.
            points: phases at which the density is summed.

        Shape:
            support.x ``[T, n, 1]``, x ``[T, m, 1]``; gives ``[T, m, 1]``.
        """
        given, y = support.x.double(), support.y.double()
        if support.n > 1:
            weights = torch.linalg.lstsq(torch.cat([given.sin(), -given.cos()], -1), y).solution
        else:
            b = math.pi * (torch.arange(points, dtype=torch.float64) + 0.5) / points
            sine = torch.sin(given.squeeze(-1) - b)  # [T, points]
            amplitude = y.squeeze(-1) / sine
            density = ((amplitude >= 0.1) & (amplitude <= 5)) / sine.abs()
            density = density / density.sum(1, keepdim=True)
            weights = torch.stack([(density * amplitude * f).sum(1) for f in (b.cos(), b.sin())], 1).unsqueeze(-1)
        at = x.double()
        return (torch.cat([at.sin(), -at.cos()], -1) @ weights).to(x)


@dataclass(frozen=True)
class GaussianProcesses:
    r"""Functions of one number, drawn from a Gaussian process, seen with noise.

    .. math::
        f \sim GP(0, k), \quad k(x, x') = \exp\left(-\frac{(x - x')^2}{2 \ell^2}\right), \qquad
        y = f(x) + \sigma \epsilon

    with x uniform in [-2, 2]. The best prediction is known for every support: :meth:`posterior`.

    Args:
        shots: labelled points of a task.
        queries: points to be judged on, as noisy as the labelled ones.
        length: l, over which f changes.
        noise: sigma.

    Reference:
        Rasmussen, Williams 2006, Gaussian Processes for Machine Learning, eqs. (2.25) and (2.26); as a family of
        tasks: Garnelo et al. 2018, section 4.1, arXiv:1807.01613.
    """

    shots: int = 10
    queries: int = 20
    length: float = 0.5
    noise: float = 0.2

    @property
    def problem(self) -> Problem:
        """One number in, one number out."""
        return Problem((1,), "regression", 1, metric="explained variance")

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """Covariance of f. Shape: ``[T, n, 1]`` and ``[T, m, 1]`` to ``[T, n, m]``."""
        return torch.exp(-0.5 * ((a - b.mT) / self.length).square())

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Episodes of n functions. Shape: support.x ``[n, shots, 1]``, query.x ``[n, queries, 1]``."""
        k, size = self.shots, self.shots + self.queries
        x = 4 * torch.rand(n, size, 1, generator=generator) - 2
        # with the noise on the diagonal the covariance has a factor however near the points are
        covariance = self.kernel(x.double(), x.double()) + self.noise**2 * torch.eye(size, dtype=torch.float64)
        normal = torch.randn(n, size, 1, generator=generator)
        y = (torch.linalg.cholesky(covariance) @ normal.double()).float()
        return Episodes(Batch(x[:, :k], y[:, :k]), Batch(x[:, k:], y[:, k:]))

    def posterior(self, support: Batch, x: Tensor) -> Normal:
        """The exact distribution of each y at x, given the support; padding is left out.

        Shape:
            support.x ``[T, n, 1]``, x ``[T, m, 1]``; gives a Normal over ``[T, m, 1]``.
        """
        given, at = support.x.double(), x.double()
        real = support.weights.double().unsqueeze(-1)
        noise = self.noise**2 * torch.eye(support.n, dtype=torch.float64)
        factor = torch.linalg.cholesky(self.kernel(given, given) * real * real.mT + noise)
        across = self.kernel(given, at) * real  # [T, n, m]
        mean = across.mT @ torch.cholesky_solve(support.y.double(), factor)
        told = torch.linalg.solve_triangular(factor, across, upper=False).square().sum(1).unsqueeze(-1)
        return Normal(mean.to(x), (1 + self.noise**2 - told).sqrt().to(x))


@dataclass(frozen=True)
class UnlikeCurvature:
    r"""Linear tasks, most of them flat and around one point, some steep and around the opposite one.

    A task's loss is :math:`\tfrac{h}{2} \lVert \phi - w \rVert^2` on the support exactly (its inputs are the axes,
    scaled), and on the query in expectation. One step of rate alpha from theta leaves
    :math:`(1 - \alpha h)(\theta - w)`, so that in the mean over tasks

    .. math::
        \nabla_\theta = \mathbb E\, h (1 - \alpha h)^2 (\theta - w) \qquad \text{first order: }
        \mathbb E\, h (1 - \alpha h) (\theta - w)

    Where a step oversets steep tasks (alpha h > 1) the first-order gradient pushes away from them, not towards.

    Args:
        size: f, numbers in an input.
        curvature: h of flat and of steep tasks.
        share: of steep tasks.
        spread: standard deviation of each weight around +-1, the flat tasks' and the steep ones' centre.
        queries: points to be judged on.
    """

    size: int = 4
    curvature: tuple[float, float] = (2.0, 6.0)
    share: float = 0.2
    spread: float = 0.2
    queries: int = 16

    @property
    def problem(self) -> Problem:
        """F numbers in, one out."""
        return Problem((self.size,), "regression", 1, metric="explained variance")

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Episodes of n tasks. Shape: support.x ``[n, f, f]``, query.x ``[n, queries, f]``."""
        steep = torch.rand(n, 1, 1, generator=generator) < self.share
        w = torch.where(steep, -1.0, 1.0) + self.spread * torch.randn(n, self.size, 1, generator=generator)
        # mean squared error of rows c * e_j has the Hessian 2 c^2 / f
        h = torch.where(steep, self.curvature[1], self.curvature[0])
        x = (h * self.size / 2).sqrt() * torch.eye(self.size)
        q = (h / 2).sqrt() * torch.randn(n, self.queries, self.size, generator=generator)
        return Episodes(Batch(x, x @ w), Batch(q, q @ w))

    def best_start(self, rate: float, *, first_order: bool = False) -> float:
        """Where the gradient is zero, the same number for each weight; a maximum where the weights sum below zero."""
        power = 1 if first_order else 2
        flat, steep = (
            share * h * (1 - rate * h) ** power
            for share, h in zip((1 - self.share, self.share), self.curvature, strict=True)
        )
        return (flat - steep) / (flat + steep)

    def loss(self, theta: float, rate: float) -> float:
        """Mean squared error on the query, in expectation, after one step from theta in each weight."""
        each = ((1 - self.share, self.curvature[0], 1.0), (self.share, self.curvature[1], -1.0))
        return sum(
            share * h / 2 * (1 - rate * h) ** 2 * self.size * ((theta - centre) ** 2 + self.spread**2)
            for share, h, centre in each
        )


def planted(
    shared: float,
    generator: torch.Generator,
    *,
    tasks: int = 40,
    examples: int = 60,
    features: int = 10,
    noise: float = 1.0,
) -> TaskTable:
    r"""Linear tasks that share as much as one says.

    .. math::
        w_t = \sqrt{s} w_0 + \sqrt{1 - s} v_t, \qquad b_t = \sqrt{s} b_0 + \sqrt{1 - s} c_t, \qquad
        y = x^\top w_t + b_t + \epsilon

    with all of :math:`w_0, v_t \sim N(0, I / features)`, :math:`b_0, c_t \sim N(0, 1)`, x standard normal: every task
    is equally hard whatever s is. Without the intercepts all tasks would share that theirs is zero, and a learned
    centre gains .008 of explained variance from it.

    Args:
        shared: s, from 0 (nothing to share: no method may beat single-task learning) to 1 (one and the same task).
        generator: draws everything.
        tasks: how many tasks.
        examples: examples of each.
        features: numbers in an input.
        noise: standard deviation of the targets' noise, in units of the signal's.
    """
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    w: Tensor = math.sqrt(shared) * normal(1, features) + math.sqrt(1 - shared) * normal(tasks, features)
    b: Tensor = math.sqrt(shared) * normal(1, 1) + math.sqrt(1 - shared) * normal(tasks, 1)
    x = normal(tasks, examples, features)
    y = torch.einsum("tnf,tf->tn", x, w / math.sqrt(features)) + b + noise * normal(tasks, examples)
    return TaskTable.from_arrays({f"task {t}": (x[t].numpy(), y[t].numpy()) for t in range(tasks)}, "regression")
