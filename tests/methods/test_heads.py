"""Heads that are solved: against scikit-learn, exact posteriors and finite differences."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from quickstudy.core import Batch, InputError, Problem
from quickstudy.methods import LRD2, R2D2, ALPaCA, MetaOptNet
from quickstudy.methods._embed import NEVER
from quickstudy.methods.heads.lrd2 import logistic
from quickstudy.methods.heads.metaoptnet import crammer_singer
from quickstudy.methods.joint.mean_ridge import ridge
from quickstudy.tasks.toy import Sinusoids
from quickstudy.training import fit

CLASSES = Problem((4,), "classification", 3, shared_labels=False)
PAIR = Problem((4,), "classification", 2)
NUMBERS = Problem((4,), "regression", 2, metric="explained variance")
T = 3


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(n: int = 12, ways: int = 3, apart: float = 1.0) -> tuple[Batch, Tensor]:
    """Overlapping clouds of 4 numbers, and as many queries."""
    y = torch.arange(n) % ways
    centres = normal(1, T, ways, 4)[:, y] * apart
    return Batch(normal(2, T, n, 4) + centres, y.repeat(T, 1)), normal(3, T, n, 4) + centres


def regressions(n: int) -> tuple[Batch, Tensor]:
    return Batch(normal(4, T, n, 4), normal(5, T, n, 2)), normal(6, T, 7, 4)


def with_one(x: Tensor) -> np.ndarray:
    return np.c_[x.numpy(), np.ones(len(x))]


# --- R2-D2 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 20])
def test_r2d2_is_scikit_learns_ridge(n: int) -> None:
    """Fewer and more examples than features: both forms of the solution."""
    support, query = regressions(n)
    found = R2D2(NUMBERS, nn.Identity(), strength=0.7).double().adapt(support)(query)
    assert isinstance(found, Tensor)
    for t in range(T):
        model = Ridge(alpha=0.7, fit_intercept=False).fit(with_one(support.x[t]), support.y[t].numpy())
        np.testing.assert_allclose(found[t].detach(), model.predict(with_one(query[t])), rtol=1e-6, atol=1e-6)


def test_r2d2_classifies_by_ridge_on_one_hot_labels() -> None:
    support, query = classes()
    method = R2D2(CLASSES, nn.Identity(), strength=2.0, scale=5.0).double()
    with torch.no_grad():
        method.bias.fill_(0.3)
    found = method.adapt(support)(query)
    assert isinstance(found, Tensor)
    for t in range(T):
        model = Ridge(alpha=2.0, fit_intercept=False).fit(with_one(support.x[t]), np.eye(3)[support.y[t].numpy()])
        np.testing.assert_allclose(found[t].detach(), 5 * model.predict(with_one(query[t])) + 0.3, rtol=1e-5, atol=1e-6)


def test_ridge_has_the_right_gradient() -> None:
    """In the inputs, the targets and lambda, in both forms."""
    for n in (3, 8):
        x, y, weight = normal(1, 1, n, 4), normal(2, 1, n, 1), torch.ones(1, n, dtype=torch.float64)
        weight[0, -1] = 0

        def solve(x: Tensor, y: Tensor, log: Tensor, weight: Tensor = weight) -> Tensor:
            return ridge(x, y, weight, log.exp().expand(5))

        inputs = (x.requires_grad_(), y.requires_grad_(), torch.zeros((), dtype=torch.float64, requires_grad=True))
        assert torch.autograd.gradcheck(solve, inputs)


# --- LR-D2 ------------------------------------------------------------------------------------------------------------


def test_lrd2_is_scikit_learns_logistic_regression() -> None:
    """Two classes: the same probabilities, once the steps have converged."""
    support, query = classes(ways=2)
    found = LRD2(PAIR, nn.Identity(), strength=0.5, steps=12).double().adapt(support)(query)
    assert isinstance(found, Tensor)
    for t in range(T):
        model = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=1000)
        model.fit(with_one(support.x[t]), support.y[t].numpy())
        np.testing.assert_allclose(
            found[t].detach().softmax(-1), model.predict_proba(with_one(query[t])), rtol=1e-5, atol=1e-6
        )


def test_lrd2_with_more_classes_is_one_against_the_rest() -> None:
    support, query = classes()
    found = LRD2(CLASSES, nn.Identity(), strength=1.0, steps=12).double().adapt(support)(query)
    assert isinstance(found, Tensor)
    for t in range(T):
        for k in range(3):
            model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=1000)
            model.fit(with_one(support.x[t]), (support.y[t] == k).numpy())
            np.testing.assert_allclose(
                found[t, :, k].detach(), model.decision_function(with_one(query[t])), rtol=1e-5, atol=1e-5
            )


def test_newton_steps_are_the_papers() -> None:
    """Written as in the paper, with the inverse of S."""
    x, y = normal(1, 6, 4), torch.tensor([1.0, 0, 1, 0, 0, 1], dtype=torch.float64)
    w = torch.zeros(4, dtype=torch.float64)
    for steps in (1, 2, 3):
        mu = (x @ w).sigmoid()
        s = mu * (1 - mu)
        z = x @ w + (y - mu) / s
        w = x.T @ torch.linalg.solve(x @ x.T + 0.3 * torch.diag(1 / s), z)
        strength, ones = torch.tensor(0.3, dtype=torch.float64), torch.ones(1, 6, dtype=torch.float64)
        torch.testing.assert_close(logistic(x[None], y[None, None], ones, strength, steps)[0, 0], w)


def test_logistic_regression_has_the_right_gradient() -> None:
    x, y = normal(1, 2, 5, 3), (normal(2, 2, 2, 5) > 0).double()
    weight = torch.ones(2, 5, dtype=torch.float64)
    weight[0, -1] = 0
    solve = lambda x, log: logistic(x, y, weight, log.exp(), 3)  # noqa: E731
    inputs = (x.requires_grad_(), torch.zeros((), dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(solve, inputs)


def test_newton_steps_stay_finite_where_examples_are_fitted_well() -> None:
    """Far apart, S underflows in single precision; neither the solution nor its gradient may."""
    x = torch.tensor([[[100.0], [-100.0]]], requires_grad=True)
    w = logistic(x, torch.tensor([[[1.0, 0.0]]]), torch.ones(1, 2), torch.tensor(1e-4), 8)
    w.sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(w).all() & torch.isfinite(x.grad).all())
    assert float(w.detach()) > 0


# --- MetaOptNet -------------------------------------------------------------------------------------------------------


def primal(w: Tensor, x: Tensor, member: Tensor, c: float) -> Tensor:
    """Crammer and Singer's objective: ``|w|^2 / 2 + C`` times the sum of hinges. Shape: ``w [T, N, f]`` to ``[T]``."""
    score = x @ w.mT
    hinge = (score + 1 - member - (score * member).sum(-1, keepdim=True)).amax(-1)
    return 0.5 * w.square().sum((1, 2)) + c * hinge.sum(1)


@pytest.mark.parametrize(("n", "c"), [(3, 0.1), (12, 0.1), (30, 1.0)])
def test_the_svm_is_at_its_optimum(n: int, c: float) -> None:
    """Primal and dual objectives meet, and every constraint holds: no other solution can be better."""
    support, _ = classes(n)
    member = torch.eye(3, dtype=torch.float64)[support.y]
    alpha = crammer_singer(support.x @ support.x.mT, member, support.weights, c)
    w = alpha.mT @ support.x
    dual = (alpha * member).sum((1, 2)) - 0.5 * w.square().sum((1, 2))
    torch.testing.assert_close(primal(w, support.x, member, c), dual, rtol=1e-5, atol=1e-8)
    assert float((alpha - c * member).max()) <= 0
    torch.testing.assert_close(alpha.sum(-1), torch.zeros(T, n, dtype=torch.float64), rtol=0, atol=1e-6 * c)


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_the_svm_is_scikit_learns(c: float) -> None:
    support, query = classes(30)
    found = MetaOptNet(CLASSES, nn.Identity(), c=c, scale=1.0).double().adapt(support)(query)
    assert isinstance(found, Tensor)
    for t in range(T):
        model = LinearSVC(
            multi_class="crammer_singer", C=c, fit_intercept=False, tol=1e-8, max_iter=50_000, random_state=0
        )
        model.fit(support.x[t].numpy(), support.y[t].numpy())
        np.testing.assert_allclose(found[t].detach(), model.decision_function(query[t].numpy()), rtol=1e-3, atol=1e-4)
        assert (found[t].argmax(-1).numpy() == model.predict(query[t].numpy())).all()


def test_two_examples_have_the_widest_margin() -> None:
    """By hand: x = +-a with a large C: w_1 - w_2 = x / a^2, shared evenly, so that each logit is +-1/2 there."""
    x = torch.tensor([[[2.0, 0.0], [-2.0, 0.0]]], dtype=torch.float64)
    alpha = crammer_singer(x @ x.mT, torch.eye(2)[None], torch.ones(1, 2), 10.0)
    expected = torch.tensor([[[0.25, 0.0], [-0.25, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(alpha.mT @ x, expected, rtol=1e-5, atol=1e-6)


def test_the_svm_has_the_right_gradient() -> None:
    """The derivative of the solution, not that of the steps to it: some examples at a bound, some between."""
    member = torch.eye(3, dtype=torch.float64)[torch.tensor([[0, 1, 2, 0, 1]])]
    weight = torch.tensor([[1.0, 1, 1, 1, 0]], dtype=torch.float64)
    x = normal(3, 1, 5, 6)
    slack = 0.2 * member - crammer_singer(x @ x.mT, member, weight, 0.2)
    assert 0 < int((slack[:, :4] < 1e-6).sum()) < 8, "the case has both kinds"

    def solve(x: Tensor) -> Tensor:
        return crammer_singer(x @ x.mT, member, weight, 0.2).mT @ x

    assert torch.autograd.gradcheck(solve, (x.requires_grad_(),))


def test_the_svm_has_the_right_gradient_where_its_dual_has_many_solutions() -> None:
    """More examples than numbers in an input: alpha is not unique, the classifier is. Along one direction."""
    support, _ = classes(12)
    member, x = torch.eye(3, dtype=torch.float64)[support.y], support.x.clone().requires_grad_()
    direction, pick = normal(8, T, 12, 4), normal(9, T, 3, 4)

    def value(x: Tensor) -> Tensor:
        return (pick * (crammer_singer(x @ x.mT, member, support.weights, 1.0).mT @ x)).sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    with torch.no_grad():
        measured = (value(x + 1e-4 * direction) - value(x - 1e-4 * direction)) / 2e-4
    torch.testing.assert_close((gradient * direction).sum(), measured, rtol=1e-3, atol=1e-3)


def test_an_absent_class_takes_no_part_in_the_margins() -> None:
    """The logits of the others are those of a problem without it."""
    two, query = classes(ways=2)
    three = MetaOptNet(CLASSES, nn.Identity(), scale=1.0).double().adapt(two)(query)
    pair = MetaOptNet(PAIR, nn.Identity(), scale=1.0).double().adapt(two)(query)
    assert isinstance(three, Tensor)
    assert isinstance(pair, Tensor)
    torch.testing.assert_close(three[..., :2], pair, rtol=1e-6, atol=1e-6)
    assert bool((three[..., 2] == NEVER).all())


@pytest.mark.parametrize("cls", [R2D2, LRD2, MetaOptNet])
def test_a_task_without_examples_harms_no_other(cls: type[R2D2 | LRD2 | MetaOptNet]) -> None:
    support, query = classes()
    weight = torch.ones(T, 12, dtype=torch.float64)
    weight[1] = 0
    method = cls(CLASSES, nn.Identity()).double()
    whole, lacking = method.adapt(support)(query), method.adapt(Batch(support.x, support.y, weight))(query)
    assert isinstance(whole, Tensor)
    assert isinstance(lacking, Tensor)
    assert bool((lacking[1] == NEVER).all())
    torch.testing.assert_close(lacking[[0, 2]], whole[[0, 2]], rtol=1e-6, atol=1e-6)


def test_a_price_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match=r"above 0\. Found -1"):
        MetaOptNet(CLASSES, c=-1)


# --- ALPaCA -----------------------------------------------------------------------------------------------------------


def generic_alpaca() -> ALPaCA:
    method = ALPaCA(NUMBERS, nn.Identity()).double()
    with torch.no_grad():
        for i, parameter in enumerate(method.parameters()):
            parameter.copy_(0.5 * normal(10 + i, *parameter.shape))
    return method


def test_alpaca_is_the_exact_posterior() -> None:
    """All of a task's targets are jointly normal: condition the query's on the support's, with no formula of theirs."""
    method = generic_alpaca()
    support, query = regressions(6)
    weight = torch.ones(T, 6)
    weight[1, 4:] = 0
    found = method.adapt(Batch(support.x, support.y, weight))(query)
    assert isinstance(found, Normal)
    root = method.prior_root.tril(-1) + method.prior_root.diagonal().exp().diag()
    for t in range(T):
        real = weight[t] > 0
        n = int(real.sum())
        phi = torch.cat([torch.cat([support.x[t, real], query[t]]), torch.ones(n + 7, 1)], 1)
        for d in range(2):
            mean = phi @ method.prior_mean[:, d]
            noise = method.log_noise[d].exp().square()
            cov = noise * (phi @ torch.linalg.inv(root @ root.T) @ phi.T + torch.eye(n + 7))
            gain = cov[n:, :n] @ torch.linalg.inv(cov[:n, :n])
            torch.testing.assert_close(found.mean[t, :, d], mean[n:] + gain @ (support.y[t, real, d] - mean[:n]))
            variance = (cov[n:, n:] - gain @ cov[:n, n:]).diagonal()
            torch.testing.assert_close(found.variance[t, :, d], variance)


def test_alpaca_multiplies_out_to_the_evidence() -> None:
    """Chain rule: the support's predictive densities, one after another, give its marginal likelihood."""
    method = generic_alpaca()
    support, _ = regressions(5)
    chain = torch.zeros(T, 2, dtype=torch.float64)
    for i in range(5):
        seen = Batch(support.x, support.y, (torch.arange(5) < i).double().expand(T, 5))
        found = method.adapt(seen)(support.x[:, i : i + 1])
        assert isinstance(found, Normal)
        chain += found.log_prob(support.y[:, i : i + 1]).squeeze(1)
    root = method.prior_root.tril(-1) + method.prior_root.diagonal().exp().diag()
    phi = torch.cat([support.x, torch.ones(T, 5, 1)], -1)
    cov = phi @ torch.linalg.inv(root @ root.T) @ phi.mT + torch.eye(5)
    for d in range(2):
        marginal = MultivariateNormal(phi @ method.prior_mean[:, d], method.log_noise[d].exp().square() * cov)
        torch.testing.assert_close(chain[:, d], marginal.log_prob(support.y[..., d]))


def test_alpaca_without_examples_is_its_prior() -> None:
    method = generic_alpaca()
    support, query = regressions(4)
    found = method.adapt(Batch(support.x, support.y, torch.zeros(T, 4)))(query)
    assert isinstance(found, Normal)
    torch.testing.assert_close(found.mean, query @ method.prior_mean[:-1] + method.prior_mean[-1])


def test_alpaca_learns_sinusoids() -> None:
    """The loss falls far below that of a Normal of the targets' own mean and width."""
    family = Sinusoids(shots=10, queries=10)
    method = ALPaCA(family.problem, generator=torch.Generator().manual_seed(0))
    fit(method, family, steps=150, tasks=16, lr=3e-3, generator=torch.Generator().manual_seed(1))
    test = family.sample(200, torch.Generator().manual_seed(2))
    y = test.query.y
    constant = -Normal(y.mean(), y.std()).log_prob(y).mean()
    assert float(method.losses(test).mean().detach()) < float(constant) - 0.5
