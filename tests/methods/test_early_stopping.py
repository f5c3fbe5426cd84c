"""A few gradient steps on a linear model are the MAP estimate of a Gaussian prior, to the last digit."""

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core import Batch, InputError, Problem
from quickstudy.methods import MAML
from quickstudy.methods.gradient.early_stopping import implied_precision, map_estimate


def draw(n: int, f: int, tasks: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(10 * n + f)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return normal(tasks, n, f), normal(tasks, n, 1), normal(f, 1)


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
@pytest.mark.parametrize("n", [3, 12])  # fewer examples than weights, and more
def test_maml_of_a_linear_model_is_map(n: int, steps: int) -> None:
    """Grant et al. 2018, section 3.2: the learned initialisation is the mean of the prior."""
    f, rate = 5, 0.02
    x, y, theta = draw(n, f)
    net = nn.Linear(f, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(theta.mT)
    method = MAML(Problem((f,), "regression", 1), net, inner_lr=rate, steps=steps)
    adapted = method.adapt(Batch(x, y))(torch.eye(f, dtype=torch.float64).expand(3, f, f))
    assert isinstance(adapted, Tensor)
    precision = implied_precision(2 / n * x.mT @ x, steps, rate)
    expected = map_estimate(x, y, theta, precision)
    assert (adapted - expected).abs().max() < 1e-12 * max(1.0, float(expected.abs().max()))
    # and another prior is another estimate
    other = map_estimate(x, y, theta, implied_precision(2 / n * x.mT @ x, steps + 1, rate))
    assert (adapted - other).abs().max() > 1e-4


def test_the_posterior_mode_is_that_of_the_density() -> None:
    """With noise of variance s2 the precision is n / (2 s2) times P; the slope is zero at the last step."""
    n, f, steps, rate, s2 = 6, 3, 4, 0.05, 0.7
    x, y, theta = (value[0] if value.ndim == 3 else value for value in draw(n, f))
    hessian = 2 / n * x.mT @ x
    prior = torch.distributions.MultivariateNormal(
        theta.squeeze(-1), precision_matrix=implied_precision(hessian, steps, rate) * n / (2 * s2)
    )
    phi = theta.clone()
    for _ in range(steps):
        phi = phi - rate * (2 / n) * x.mT @ (x @ phi - y)
    mode = phi.squeeze(-1).requires_grad_()
    log_density = prior.log_prob(mode) + torch.distributions.Normal(x @ mode, s2**0.5).log_prob(y.squeeze(-1)).sum()
    (slope,) = torch.autograd.grad(log_density, mode)
    assert slope.abs().max() < 1e-10


def test_more_steps_are_a_wider_prior() -> None:
    x = draw(12, 4)[0]
    hessian = 2 / 12 * x.mT @ x
    widths = [torch.linalg.inv(implied_precision(hessian, s, 0.05)).diagonal(dim1=-2, dim2=-1) for s in (1, 3, 10)]
    assert bool((widths[0] < widths[1]).all())
    assert bool((widths[1] < widths[2]).all())


def test_directions_without_data_stay_at_the_start() -> None:
    hessian = torch.diag(torch.tensor([2.0, 0.0], dtype=torch.float64))
    precision = implied_precision(hessian, 4, 0.1)
    c = (1 - 0.1 * 2.0) ** 4
    expected = torch.diag(torch.tensor([2 * c / (1 - c), 1 / 0.4], dtype=torch.float64))
    assert torch.allclose(precision, expected, atol=1e-12)


@pytest.mark.parametrize(("steps", "rate", "message"), [(0, 0.1, "at least 1 step"), (2, 0.5, "past the minimum")])
def test_what_no_prior_does_is_refused(steps: int, rate: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        implied_precision(2 * torch.eye(2), steps, rate)
