"""Implicit MAML on problems whose optimum and its Jacobian can be written down."""

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, InputError, Problem
from quickstudy.methods import IMAML, MAML
from quickstudy.methods._nets import Params
from quickstudy.methods.gradient.imaml import conjugate_gradient
from quickstudy.nets.basic import MLP
from quickstudy.tasks.toy import Sinusoids

FEATURES, ROWS, TASKS = 6, 8, 3
RIDGE = Problem((FEATURES,), "regression", 1, metric="explained variance")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def episodes(weight: Tensor | None = None, spread: float = 1.0) -> Episodes:
    """Linear regressions; ``spread`` is how unlike the scales of the inputs are."""
    scale = torch.logspace(0, 1, FEATURES, base=spread, dtype=torch.float64)
    x, q = normal(TASKS, ROWS, FEATURES, seed=1) * scale, normal(TASKS, ROWS, FEATURES, seed=2)
    return Episodes(Batch(x, normal(TASKS, ROWS, 1, seed=3), weight), Batch(q, normal(TASKS, ROWS, 1, seed=4)))


def linear() -> nn.Linear:
    net = nn.Linear(FEATURES, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(normal(1, FEATURES, seed=5))
    return net


def closed_form(theta: Tensor, e: Episodes, proximal: float) -> tuple[Tensor, Tensor]:
    """The ridge optimum ``[T, f]`` and the summed meta-gradient ``[f]``, by dense solves."""
    ends, total = [], torch.zeros(FEATURES, dtype=torch.float64)
    for t in range(e.n_tasks):
        w = torch.diag(e.support.weights[t] / e.support.weights[t].sum())
        x, y, q, z = e.support.x[t], e.support.y[t], e.query.x[t], e.query.y[t]
        curved = 2 * x.T @ w @ x + proximal * torch.eye(FEATURES, dtype=torch.float64)
        phi = torch.linalg.solve(curved, 2 * x.T @ w @ y + proximal * theta.T)
        g = 2 * q.T @ (q @ phi - z) / ROWS
        total += (proximal * torch.linalg.solve(curved, g)).squeeze(1)
        ends.append(phi.squeeze(1))
    return torch.stack(ends), total


def meta_gradient(method: IMAML | MAML, e: Episodes) -> Tensor:
    method.zero_grad()
    method.losses(e).sum().backward()
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])


def weights_of(method: IMAML) -> Tensor:
    """The adapted weights of a linear net, read off at the unit vectors. Shape: ``[T, f]``."""
    unit = torch.eye(FEATURES, dtype=torch.float64).expand(TASKS, FEATURES, FEATURES)
    prediction = method.adapt(episodes().support)(unit)
    assert isinstance(prediction, Tensor)
    return prediction.detach().squeeze(-1)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("solver", ["gradient", "newton"])
def test_ridge_regression_has_the_closed_form(solver: str, padded: bool) -> None:
    weight = (torch.arange(ROWS) < ROWS - torch.arange(TASKS).unsqueeze(1)).double() if padded else None
    e, net = episodes(weight), linear()
    steps = 300 if solver == "gradient" else 1
    method = IMAML(RIDGE, net, proximal=0.7, solver=solver, inner_lr=0.1, steps=steps, cg_steps=FEATURES)  # type: ignore[arg-type]
    _, expected = closed_form(net.weight.detach(), e, 0.7)
    torch.testing.assert_close(meta_gradient(method, e), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("solver", ["gradient", "newton"])
def test_the_jacobian_of_the_optimum(solver: str) -> None:
    """``d phi / d theta``, row by row from backward, is ``(I + H / lambda)^-1``; finite differences agree."""
    net, e = linear(), episodes()
    steps = 300 if solver == "gradient" else 1
    method = IMAML(RIDGE, net, proximal=0.7, solver=solver, inner_lr=0.1, steps=steps, cg_steps=FEATURES)  # type: ignore[arg-type]
    unit = torch.eye(FEATURES, dtype=torch.float64).expand(TASKS, FEATURES, FEATURES)
    prediction = method.adapt(e.support)(unit)
    assert isinstance(prediction, Tensor)
    rows = [torch.autograd.grad(prediction[0, i, 0], net.weight, retain_graph=True)[0][0] for i in range(FEATURES)]
    hessian = 2 * e.support.x[0].T @ e.support.x[0] / ROWS
    dense = torch.linalg.inv(torch.eye(FEATURES, dtype=torch.float64) + hessian / 0.7)
    torch.testing.assert_close(torch.stack(rows), dense, rtol=1e-8, atol=1e-8)
    before = weights_of(method)[0]
    with torch.no_grad():
        net.weight[0, 2] += 1e-4
    torch.testing.assert_close((weights_of(method)[0] - before) / 1e-4, dense[:, 2], rtol=1e-6, atol=1e-6)


def test_each_step_of_conjugate_gradient_lessens_the_error() -> None:
    root = normal(TASKS, FEATURES, FEATURES) * torch.logspace(0, 0.5, FEATURES, dtype=torch.float64)
    matrix = torch.eye(FEATURES, dtype=torch.float64) + root @ root.mT
    b = normal(TASKS, FEATURES, seed=1)
    exact = torch.linalg.solve(matrix, b)

    def times(v: Params) -> Params:
        return {"w": torch.einsum("tij,tj->ti", matrix, v["w"])}

    found = [conjugate_gradient(times, {"w": b}, k)["w"] for k in range(FEATURES + 1)]
    assert bool((found[0] == b).all())
    errors = torch.stack([torch.einsum("ti,tij,tj->t", x - exact, matrix, x - exact).sqrt() for x in found])
    assert bool((errors[1:] < errors[:-1]).all())
    assert bool((errors[-1] < 1e-6 * errors[0]).all())  # as many steps as unknowns: done
    assert bool((errors[FEATURES // 2] > 1e-3 * errors[0]).all())  # and not before


def test_conjugate_gradient_stops_at_negative_curvature_and_leaves_the_other_tasks_alone() -> None:
    diagonal = torch.tensor([[2.0, 3.0, 4.0], [-2.0, -3.0, 4.0], [-1.0, 3.0, 4.0]], dtype=torch.float64)
    b = torch.ones(3, 3, dtype=torch.float64)
    found = conjugate_gradient(lambda v: {"w": diagonal * v["w"]}, {"w": b}, 5)["w"]
    torch.testing.assert_close(found[0], 1 / diagonal[0])
    assert bool((found[1] == b[1]).all())  # its first direction bends down by 2 + 3 - 4
    torch.testing.assert_close(found[2], b[2] / 2)  # its first bends up, 3 / 6 of it are taken; its second down


def test_no_steps_of_conjugate_gradient_are_first_order() -> None:
    """The gradient at the adapted weights; with one inner step from theta, where the pull is zero, FOMAML's."""
    e = episodes()
    net = nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    implicit = meta_gradient(IMAML(RIDGE, net, solver="gradient", inner_lr=0.1, steps=1, cg_steps=0), e)
    first = meta_gradient(MAML(RIDGE, net, inner_lr=0.1, steps=1, first_order=True), e)
    torch.testing.assert_close(implicit, first, rtol=1e-12, atol=1e-12)
    assert (
        meta_gradient(IMAML(RIDGE, net, solver="gradient", inner_lr=0.1, steps=1, cg_steps=3), e) - first
    ).norm() > 0.05 * first.norm()


def test_without_the_pull_theta_is_forgotten() -> None:
    far, near = linear(), linear()
    with torch.no_grad():
        far.weight.add_(10 * normal(1, FEATURES, seed=9))

    def apart(proximal: float) -> float:
        ends = [
            weights_of(IMAML(RIDGE, net, proximal=proximal, solver="newton", steps=3, cg_steps=2 * FEATURES))
            for net in (far, near)
        ]
        return float((ends[0] - ends[1]).norm())

    distance = float((far.weight - near.weight).detach().norm()) * TASKS**0.5
    assert apart(1e-6) < 1e-4 * distance
    assert apart(1e4) > 0.99 * distance
    small = meta_gradient(IMAML(RIDGE, far, proximal=1e-6, solver="newton", steps=3, cg_steps=2 * FEATURES), episodes())
    assert small.norm() < 1e-3
    with pytest.raises(InputError, match="proximal > 0"):
        IMAML(RIDGE, far, proximal=0.0)


def test_a_newton_step_never_makes_the_inner_problem_worse() -> None:
    """On a bent net, from far away, where the quadratic model is poor."""
    net = nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(3 * normal(*p.shape, seed=i))
    e = episodes()
    values = []
    for steps in range(5):
        method = IMAML(RIDGE, net, proximal=1e-2, solver="newton", steps=steps, cg_steps=5)
        values.append(RIDGE.losses(method.adapt(e.support)(e.support.x), e.support).detach())
    # the bare loss may rise by at most what the pull lost: less than the first value, and much less in the end
    assert bool((torch.stack(values[1:]) <= values[0] + 1e-12).all())
    assert bool((values[-1] < 0.5 * values[0]).all())


def test_what_is_kept_does_not_grow_with_the_steps() -> None:
    e = Sinusoids().sample(4, generator())

    def kept(steps: int) -> int:
        method = IMAML(Sinusoids().problem, MLP((1, 8, 1)), solver="gradient", inner_lr=1e-3, steps=steps)
        todo, seen, size = [method.losses(e).grad_fn], set(), 0
        while todo:
            node = todo.pop()
            if node is not None and node not in seen:
                seen.add(node)
                todo += [following for following, _ in node.next_functions]
                size += sum(t.numel() for t in getattr(node, "saved_tensors", ()))
        return len(seen) + size

    assert kept(1) == kept(20) > 0
