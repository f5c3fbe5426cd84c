"""Planning networks: plans in closed form where all is linear, second derivatives, and tasks that stay apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core import InputError, Trajectory
from quickstudy.methods.rl.planning_metric import PlanningMetric


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def windows(tasks: int = 5, horizon: int = 3, seen: int = 4, actions: int = 2) -> Trajectory:
    zero = torch.zeros(tasks, horizon, dtype=torch.float64)
    return Trajectory(
        normal(0, tasks, horizon, seen), normal(1, tasks, horizon, actions).tanh(), zero, zero, zero, zero,
        normal(2, tasks, horizon, seen),
    )  # fmt: skip


class Planned(nn.Module):
    """Latents move by what is planned."""

    def forward(self, both: Tensor) -> Tensor:
        return both.chunk(2, -1)[1]


def linear(updates: int, rate: float) -> PlanningMetric:
    metric = PlanningMetric(2, 2, latent=2, plan=2, updates=updates, rate=rate, spread=1.0).double()
    metric.encoder = metric.decoder = nn.Identity()
    metric.dynamics = Planned()
    return metric


@pytest.mark.parametrize("updates", [1, 4])
def test_a_plan_in_a_linear_world_is_that_of_the_closed_form(updates: int) -> None:
    """Each update takes rate * rest off every step, so that the rest shrinks by 1 - H rate."""
    horizon, rate = 3, 0.1
    metric = linear(updates, rate)
    here, goal, first = 0.1 * normal(0, 6, 2), 0.1 * normal(1, 6, 2), 0.1 * normal(2, 6, horizon, 2)
    rest = here + first.sum(1) - goal
    assert float(rest.abs().max()) < 1  # within the square part of Huber's loss
    expected = first - rest.unsqueeze(1) * (1 - (1 - horizon * rate) ** updates) / horizon
    torch.testing.assert_close(metric.plan(here, goal, first), expected)


def test_the_distance_is_hubers_and_far_plans_are_cut() -> None:
    metric = linear(1, 1.0)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    torch.testing.assert_close(
        metric.distance(zero, zero + torch.tensor([0.5, 3.0])), torch.tensor([0.125 + 2.5]).double()
    )
    plan = metric.plan(zero, zero + 7, torch.zeros(1, 2, 2, dtype=torch.float64))
    torch.testing.assert_close(plan, torch.ones_like(plan))  # the slope of a far goal is 1 a number, however far


def test_the_gradient_through_planning_is_that_of_finite_differences() -> None:
    metric = PlanningMetric(4, 2, latent=3, plan=2, width=6, updates=2, beta=0.1, generator=generator(3)).double()
    trajectory, noise = windows(), normal(5, 5, 3, 2)
    total = lambda: float(metric.losses(trajectory, noise).sum())  # noqa: E731
    gradient = torch.autograd.grad(metric.losses(trajectory, noise).sum(), list(metric.parameters()))
    for (name, parameter), found in zip(metric.named_parameters(), gradient, strict=True):
        way = normal(7, *parameter.shape)
        step = 1e-5
        with torch.no_grad():
            parameter.add_(way, alpha=step)
            up = total()
            parameter.sub_(way, alpha=2 * step)
            down = total()
            parameter.add_(way, alpha=step)
        expected = torch.tensor((up - down) / (2 * step), dtype=torch.float64)
        torch.testing.assert_close((found * way).sum(), expected, rtol=1e-5, atol=1e-7, msg=name)
    of = {name: float(g.abs().max()) for (name, _), g in zip(metric.named_parameters(), gradient, strict=True)}
    assert of["encoder.0.weight"] > 1e-6 and of["rates"] > 1e-6  # the actions' error reaches the encoder


def test_tasks_do_not_touch_each_other() -> None:
    metric = PlanningMetric(4, 2, latent=3, plan=2, width=6, generator=generator(3)).double()
    trajectory, noise = windows(), normal(5, 5, 3, 2)
    alone = [metric.losses(trajectory.tasks(slice(i, i + 1)), noise[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(metric.losses(trajectory, noise), torch.cat(alone))


def test_plans_are_made_where_nothing_is_trained() -> None:
    metric = PlanningMetric(4, 2, plan=3, generator=generator(0))
    with torch.no_grad():
        plan = metric.plan(torch.zeros(2, 4), torch.ones(2, 4), torch.zeros(2, 5, 3))
    assert plan.shape == (2, 5, 2) and bool(plan.isfinite().all())


def test_pictures_that_are_not_flat_are_refused() -> None:
    metric = PlanningMetric(4, 2).double()
    with pytest.raises(InputError, match=r"observations \[T, H, 4\] and actions \[T, H, 2\]. Found \(5, 3, 6\)"):
        metric.losses(windows(seen=6), normal(0, 5, 3, 8))
