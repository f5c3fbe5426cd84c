"""scikit-learn's models and mean-regularised ridge against direct computations."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor

from quickstudy.core import Batch, Problem
from quickstudy.methods import Boosting, Logistic, MeanRidge, Ridge
from quickstudy.methods.joint.mean_ridge import ridge

NUMBERS = Problem((4,), "regression", 2, metric="explained variance")
CLASSES = Problem((4,), "classification", 3)


def numbers(n: int = 12, tasks: int = 3) -> Batch:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, n, 4, generator=g, dtype=torch.float64)
    y = x @ torch.randn(tasks, 4, 2, generator=g, dtype=torch.float64) + 1
    return Batch(x, y + 0.1 * torch.randn(y.shape, generator=g, dtype=torch.float64))


def tensor(prediction: object) -> Tensor:
    assert isinstance(prediction, Tensor)
    return prediction


def test_ridge_equals_scikit_learn_task_by_task() -> None:
    support = numbers()
    weight = torch.ones(3, 12, dtype=torch.float64)
    weight[1, 8:] = 0
    weight[2] = torch.linspace(0.1, 2, 12)
    new = numbers(5).x
    predicted = tensor(Ridge(NUMBERS, alpha=2.0).adapt(Batch(support.x, support.y, weight))(new))
    for t in range(3):
        keep = weight[t] > 0
        x, y, w = support.x[t][keep].numpy(), support.y[t][keep].numpy(), weight[t][keep].numpy()
        expected = SklearnRidge(alpha=2.0).fit(x, y, sample_weight=w).predict(new[t].numpy())
        np.testing.assert_allclose(predicted[t].numpy(), expected, rtol=1e-10)


def test_logistic_equals_scikit_learn_and_knows_absent_classes() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 20, 4, generator=g, dtype=torch.float64)
    y = torch.stack([torch.arange(20) % 3, torch.where(x[1, :, 0] > 0, 2, 0)])
    logits = tensor(Logistic(CLASSES, C=1.0).adapt(Batch(x, y))(x))
    for t, classes in ((0, [0, 1, 2]), (1, [0, 2])):
        model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(x[t].numpy(), y[t].numpy())
        expected = model.predict_proba(x[t].numpy())
        np.testing.assert_allclose(logits[t, :, classes].softmax(-1).numpy(), expected, atol=5e-3)
    assert (logits[1].argmax(-1) != 1).all()


@pytest.mark.parametrize("cls", [Logistic, Boosting])
def test_one_class_in_the_support_is_predicted(cls: type[Logistic] | type[Boosting]) -> None:
    x = torch.zeros(1, 3, 4)
    logits = tensor(cls(CLASSES).adapt(Batch(x, torch.tensor([[1, 1, 1]])))(x))
    assert logits.argmax(-1).tolist() == [[1, 1, 1]]
    assert torch.isfinite(logits).all()


def test_boosting_learns_a_step_that_no_line_fits() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1, 60, 4, generator=g)
    y = ((x[..., :1] > 0.3) & (x[..., :1] < 0.7)).float().expand(-1, -1, 2)
    fitted = tensor(Boosting(NUMBERS).adapt(Batch(x, y))(x))
    assert ((fitted - y).square().mean() / y.var()).item() < 0.05
    assert "predicts numbers" in Ridge.refuses(CLASSES)
    assert "too long" in Boosting.refuses(Problem((4,), "classification", 11))
    assert "pixels" in Boosting.refuses(Problem((1, 8, 8), "classification", 2))


def mean_ridge(strength: float, seed: int = 0) -> MeanRidge:
    method = MeanRidge(NUMBERS, strength=strength).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        method.centre.copy_(torch.randn(4, 2, generator=g))
        method.bias.copy_(torch.randn(2, generator=g))
        method.log_strength.add_(torch.linspace(-0.5, 0.5, 5))
    return method


@pytest.mark.parametrize("n", [3, 12], ids=["fewer examples than unknowns", "more"])
def test_mean_ridge_equals_the_explicit_solution(n: int) -> None:
    support, new = numbers(n), numbers(5).x
    weight = torch.ones(3, n, dtype=torch.float64)
    weight[1, -1] = 0
    method = mean_ridge(0.7)
    predicted = tensor(method.adapt(Batch(support.x, support.y, weight))(new)).detach()
    centre = torch.cat([method.centre / 2, method.bias.unsqueeze(0)]).detach()  # sqrt(f) = 2
    scale = torch.tensor([0.7 * 4] * 4 + [0.7], dtype=torch.float64)
    penalty = torch.diag(scale * torch.linspace(-0.5, 0.5, 5).exp())
    for t in range(3):
        a = torch.cat([support.x[t], torch.ones(n, 1)], 1) * weight[t].unsqueeze(1)
        w = torch.linalg.solve(a.T @ a + penalty, a.T @ (support.y[t] * weight[t].unsqueeze(1)) + penalty @ centre)
        torch.testing.assert_close(predicted[t], new[t] @ w[:-1] + w[-1])


def test_mean_ridge_between_the_centre_and_least_squares() -> None:
    support, new = numbers(), numbers(5).x
    far = mean_ridge(1e12)
    torch.testing.assert_close(tensor(far.adapt(support)(new)), new @ (far.centre / 2) + far.bias, rtol=1e-8, atol=1e-8)
    a = torch.cat([support.x, torch.ones(3, 12, 1)], -1)
    w = torch.linalg.lstsq(a, support.y).solution
    near = tensor(mean_ridge(1e-12).adapt(support)(new)).detach()
    torch.testing.assert_close(near, new @ w[:, :-1] + w[:, -1:], rtol=1e-6, atol=1e-6)


def test_primal_and_dual_are_one() -> None:
    """Padding turns the small system into the large one; the solution stays."""
    b, penalty = numbers(4), torch.tensor([0.3, 0.5, 0.2, 0.9, 0.1], dtype=torch.float64)
    zeros = torch.zeros(3, 6, 4, dtype=torch.float64)
    long = b.join(Batch(zeros, zeros[..., :2]))
    weight = torch.cat([torch.ones(3, 4), torch.zeros(3, 6)], 1).double()
    torch.testing.assert_close(
        ridge(b.x, b.y, b.weights, penalty), ridge(long.x, long.y, weight, penalty), rtol=1e-9, atol=1e-9
    )
