"""EWC: the Fisher information and the penalty are those of closed forms, and the penalty bites."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from quickstudy.core import Batch, Consolidates, Episodes, InputError, Method, Predictor, Problem, RunError
from quickstudy.methods.gradient.maml import MAML
from quickstudy.methods.joint.pooled import Pooled
from quickstudy.methods.lifelong.ewc import EWC

NUMBERS = Problem((3,), "regression", 1, metric="explained variance")
CLASSES = Problem((3,), "classification", 4)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, problem: Problem, n: int = 20) -> Episodes:
    x = torch.randn(1, n, 3, generator=generator(seed), dtype=torch.float64)
    if problem.kind == "classification":
        y = torch.randint(problem.n_outputs, (1, n), generator=generator(seed + 1))
    else:
        y = x @ torch.randn(3, problem.n_outputs, generator=generator(seed + 1), dtype=torch.float64)
    return Episodes(Batch(x[:, :0], y[:, :0]), Batch(x, y))


def linear(problem: Problem, bias: bool = True) -> Pooled:
    net = nn.Linear(3, problem.n_outputs, bias)
    nn.init.normal_(net.weight, generator=generator(7))
    return Pooled(problem, net).double()


def weight(method: EWC) -> Tensor:
    return cast(nn.Linear, cast(Pooled, method.inner).net).weight


def test_fisher_of_squared_error_is_the_closed_form() -> None:
    """For a linear model it is the diagonal of the loss's Hessian, ``2/d mean_i x_i^2``, whatever the targets."""
    problem = Problem((3,), "regression", 2, metric="explained variance")
    episodes = draw(0, problem)
    fisher = EWC(linear(problem)).fisher(episodes)
    expected = 2 / 2 * episodes.query.x[0].square().mean(0).expand(2, 3)
    torch.testing.assert_close(fisher["net.weight"], expected)
    torch.testing.assert_close(fisher["net.bias"], torch.ones(2, dtype=torch.float64))


def test_fisher_of_softmax_regression_is_the_closed_form() -> None:
    episodes = draw(0, CLASSES)
    method = linear(CLASSES)
    x, y = episodes.query.x[0], nn.functional.one_hot(episodes.query.y[0], 4)
    p = method.net(x).softmax(-1)
    exact = EWC(method, labels="model").fisher(episodes)["net.weight"]
    torch.testing.assert_close(exact, (p * (1 - p)).T @ x.square() / 20)
    empirical = EWC(method, labels="data").fisher(episodes)["net.weight"]
    torch.testing.assert_close(empirical, (y - p).square().T @ x.square() / 20)


def test_fisher_does_not_vanish_where_the_batch_gradient_does() -> None:
    """The trap: at the optimum of a batch's mean loss the square of its gradient is zero."""
    episodes = draw(0, CLASSES)
    method = EWC(linear(CLASSES))
    optimiser = torch.optim.LBFGS(method.parameters(), max_iter=300, tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = method.losses(episodes).sum()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)
    closure()
    of_batch = cast(Tensor, weight(method).grad).square()
    assert float(of_batch.max()) < 1e-9
    assert float(method.fisher(episodes)["net.weight"].mean()) > 1e-2


def test_fisher_does_not_depend_on_how_many_copies_or_how_they_are_padded() -> None:
    episodes = draw(0, CLASSES, n=70)  # more than are held at once
    method = EWC(linear(CLASSES))
    once = method.fisher(episodes)
    twice = method.fisher(Episodes(episodes.support, episodes.query.join(episodes.query)))
    junk = draw(5, CLASSES).query
    padded = Batch(junk.x * 100, junk.y, torch.zeros(1, 20, dtype=torch.float64))
    mixed = method.fisher(Episodes(episodes.support, episodes.query.join(padded)))
    for name, value in once.items():
        torch.testing.assert_close(value, twice[name])
        torch.testing.assert_close(value, mixed[name])


def test_the_minimum_on_the_second_task_is_the_closed_form() -> None:
    """Linear-Gaussian: the gradient vanishes at ``(H_B + lambda F)^-1 (H_B b + lambda F a)``, and only there."""
    method = EWC(linear(NUMBERS, bias=False), strength=3.0)
    first, second = draw(0, NUMBERS), draw(10, NUMBERS)
    a = weight(method).detach().clone().T
    method.consolidate(first)
    x, y = second.query.x[0], second.query.y[0]
    hessian = 2 * x.T @ x / len(x)
    b = torch.linalg.lstsq(x, y).solution
    fisher = torch.diag(2 * first.query.x[0].square().mean(0))
    best = torch.linalg.solve(hessian + 3 * fisher, hessian @ b + 3 * fisher @ a)
    for point, flat in ((best, True), (a, False), (b, False)):
        with torch.no_grad():
            weight(method).copy_(point.T)
        slope = torch.autograd.grad(method.losses(second).sum(), weight(method))[0]
        assert (float(slope.abs().max()) < 1e-10) == flat


def test_where_the_diagonal_is_all_there_is_nothing_is_lost() -> None:
    """With orthogonal features and strength 1, the minimum after three tasks is that of all three together."""
    tasks = []
    for seed in (0, 10, 20):
        episodes = draw(seed, NUMBERS)
        x = torch.linalg.qr(episodes.query.x[0]).Q * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        y = x @ torch.randn(3, 1, generator=generator(seed), dtype=torch.float64)
        tasks.append(Episodes(episodes.support, Batch(x[None], y[None])))
    method = EWC(linear(NUMBERS, bias=False), strength=1.0)
    for episodes in tasks:
        held = method.get_buffer("fisher/net/weight").clone()
        anchor = method.get_buffer("anchor/net/weight")
        x, y = episodes.query.x[0], episodes.query.y[0]
        hessian, own = 2 * x.T @ x / len(x), torch.linalg.lstsq(x, y).solution
        best = torch.linalg.solve(hessian + torch.diag(held[0]), hessian @ own + held.T * anchor.T)
        with torch.no_grad():
            weight(method).copy_(best.T)
        slope = torch.autograd.grad(method.losses(episodes).sum(), weight(method))[0]
        assert float(slope.abs().max()) < 1e-10
        method.consolidate(episodes)
    every = torch.cat([t.query.x[0] for t in tasks]), torch.cat([t.query.y[0] for t in tasks])
    together = torch.linalg.lstsq(*every).solution
    torch.testing.assert_close(weight(method).detach().T, together)


def test_decay_forgets_earlier_tasks_by_that_factor() -> None:
    first, second = draw(0, CLASSES), draw(10, CLASSES)
    method = EWC(linear(CLASSES), decay=0.5)
    a, b = method.fisher(first)["net.weight"], method.fisher(second)["net.weight"]
    method.consolidate(first)
    method.consolidate(second)
    torch.testing.assert_close(method.get_buffer("fisher/net/weight"), 0.5 * a + b)


def test_strength_zero_is_the_inner_method() -> None:
    episodes = draw(0, CLASSES)
    method = EWC(linear(CLASSES), strength=0.0)
    method.consolidate(episodes)
    with torch.no_grad():
        weight(method).add_(1.0)
    assert torch.equal(method.losses(episodes), method.inner.losses(episodes))


def test_consolidating_changes_no_prediction_and_costs_nothing_where_it_stands() -> None:
    episodes = draw(0, CLASSES)
    method = EWC(linear(CLASSES), strength=5.0)
    before = cast(Tensor, method.adapt(episodes.support)(episodes.query.x))
    method.consolidate(episodes)
    assert torch.equal(before, cast(Tensor, method.adapt(episodes.support)(episodes.query.x)))
    assert float(method.penalty().detach()) == 0
    fisher = method.fisher(episodes)["net.weight"]
    with torch.no_grad():
        weight(method).add_(0.1)
    assert float(method.penalty().detach()) == pytest.approx(5 / 2 * float(fisher.sum()) * 0.01)
    torch.testing.assert_close(method.losses(episodes) - method.inner.losses(episodes), method.penalty().expand(1))


def test_goes_around_a_method_that_adapts() -> None:
    """The Fisher is that of the predictor after adaptation: for MAML, through its inner steps."""
    problem = Problem((3,), "classification", 2)
    net = nn.Linear(3, 2)
    nn.init.normal_(net.weight, generator=generator(0))
    inner = MAML(problem, net, inner_lr=0.5, steps=1).double()
    full = draw(0, problem, 6)
    episodes = Episodes(full.query, draw(3, problem, 2).query)
    method = EWC(inner)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for i in range(2):
        prediction = cast(Tensor, inner.adapt(episodes.support)(episodes.query.x[:, i : i + 1]))
        log_p = prediction.log_softmax(-1)[0, 0]
        for c in range(2):
            slope = torch.autograd.grad(log_p[c], net.weight, retain_graph=True)[0]
            expected += log_p[c].exp().detach() * slope.square() / 2
    torch.testing.assert_close(method.fisher(episodes)["net.weight"], expected)


def test_what_is_held_is_saved_with_the_method() -> None:
    episodes = draw(0, CLASSES)
    method, other = EWC(linear(CLASSES)), EWC(linear(CLASSES))
    method.consolidate(episodes)
    other.load_state_dict(method.state_dict())
    with torch.no_grad():
        weight(method).add_(0.3)
        weight(other).add_(0.3)
    assert float(method.penalty().detach()) > 0 and torch.equal(method.penalty(), other.penalty())


def test_is_recognised_as_one_that_consolidates() -> None:
    assert isinstance(EWC(linear(CLASSES)), Consolidates)
    assert not isinstance(linear(CLASSES), Consolidates)


def test_declares_what_the_inner_method_does() -> None:
    plain, batches = (MAML(CLASSES, nn.Sequential(nn.Linear(3, 4), part)) for part in (nn.ReLU(), nn.BatchNorm1d(4)))
    assert not EWC(plain).transductive
    assert EWC(batches).transductive
    assert EWC(linear(CLASSES)).label_equivariant != EWC(plain).label_equivariant
    assert "around another method" in EWC.refuses(CLASSES)


class Odd(Pooled):
    """Predictions that EWC cannot use."""

    distribution = False

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        predict = super().adapt(support, task)
        if self.distribution:
            return lambda x: Normal(cast(Tensor, predict(x)), 1.0, validate_args=False)
        return lambda x: cast(Tensor, predict(x)).detach()


def test_a_fisher_of_zero_is_refused() -> None:
    with pytest.raises(RunError, match=r"Found a Fisher information of zero: 'pooled'.*Wrap another"):
        EWC(Odd(NUMBERS, nn.Linear(3, 1)).double()).consolidate(draw(0, NUMBERS))


def test_distributions_need_the_labels_of_the_data() -> None:
    method: Method = Odd(NUMBERS, nn.Linear(3, 1)).double()
    Odd.distribution = True
    try:
        with pytest.raises(InputError, match="Found a Distribution.*labels='data'"):
            EWC(method).consolidate(draw(0, NUMBERS))
        episodes = draw(0, NUMBERS)
        x, y = episodes.query.x[0], episodes.query.y[0]
        error = cast(nn.Linear, cast(Odd, method).net)(x) - y
        found = EWC(method, labels="data").fisher(episodes)["net.weight"]
        torch.testing.assert_close(found, (error * x).square().mean(0, keepdim=True))
    finally:
        Odd.distribution = False
