"""MAML's meta-gradient against explicit Hessians, in double precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from quickstudy.core import Batch, Episodes, InputError, Problem
from quickstudy.methods import MAML

REGRESSION = Problem((2,), "regression", 1, metric="explained variance")
RATE = 0.3


def tanh_net() -> nn.Sequential:
    """Seventeen parameters, no piece of it linear."""
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
    return net


def regressions(generator: torch.Generator, tasks: int = 3) -> Episodes:
    def batch() -> Batch:
        x = torch.randn(tasks, 6, 2, generator=generator, dtype=torch.float64)
        return Batch(x, torch.randn(tasks, 6, 1, generator=generator, dtype=torch.float64))

    return Episodes(batch(), batch())


def flat_loss(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The mean squared error as a function of all parameters in one vector."""
    shapes = {name: p.shape for name, p in net.named_parameters()}

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        params = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return (functional_call(net, params, (x,)) - y).square().mean()

    return loss


def explicit(net: nn.Module, episodes: Episodes, steps: int, first_order: bool = False) -> Tensor:
    """``prod_k (I - rate H_L(phi_k)) grad L_query(phi_K)``, summed over tasks, from Hessians written out."""
    theta = torch.cat([p.detach().flatten() for p in net.parameters()])
    total = torch.zeros_like(theta)
    for t in range(episodes.n_tasks):
        support = flat_loss(net, episodes.support.x[t], episodes.support.y[t])
        query = flat_loss(net, episodes.query.x[t], episodes.query.y[t])
        phi, jacobian = theta.clone(), torch.eye(len(theta), dtype=theta.dtype)
        for _ in range(steps):
            curvature = torch.as_tensor(hessian(support, phi))
            jacobian = (torch.eye(len(theta), dtype=theta.dtype) - RATE * curvature) @ jacobian
            phi = phi - RATE * torch.func.grad(support)(phi)
        end = torch.func.grad(query)(phi)
        total += end if first_order else jacobian.T @ end
    return total


def meta_gradient(net: nn.Module, episodes: Episodes, steps: int, first_order: bool = False) -> Tensor:
    method = MAML(REGRESSION, net, inner_lr=RATE, steps=steps, first_order=first_order)
    method.losses(episodes).sum().backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_meta_gradient_equals_explicit_hessians(steps: int) -> None:
    episodes = regressions(torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        meta_gradient(tanh_net(), episodes, steps), explicit(tanh_net(), episodes, steps), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("steps", [1, 2])
def test_first_order_is_the_gradient_at_the_adapted_weights(steps: int) -> None:
    episodes = regressions(torch.Generator().manual_seed(0))
    first = meta_gradient(tanh_net(), episodes, steps, first_order=True)
    torch.testing.assert_close(first, explicit(tanh_net(), episodes, steps, first_order=True), rtol=1e-10, atol=1e-10)
    # and it is another one than the full gradient: the flag does something
    assert (first - explicit(tanh_net(), episodes, steps)).norm() > 0.1 * first.norm()


def test_linear_regression_has_the_closed_form() -> None:
    """With ``L = |Xw - y|^2 / n`` one step is ``w - 2 a X'(Xw - y) / n`` and its Jacobian ``I - 2 a X'X / n``."""
    g = torch.Generator().manual_seed(0)
    episodes = regressions(g, tasks=1)
    net = nn.Linear(2, 1, bias=False).double()
    w = net.weight.detach().clone().T
    x, y, q, z = episodes.support.x[0], episodes.support.y[0], episodes.query.x[0], episodes.query.y[0]
    phi = w - 2 * RATE * x.T @ (x @ w - y) / 6
    jacobian = torch.eye(2, dtype=torch.float64) - 2 * RATE * x.T @ x / 6
    expected = jacobian @ (2 * q.T @ (q @ phi - z) / 6)
    torch.testing.assert_close(meta_gradient(net, episodes, 1), expected.flatten(), rtol=1e-12, atol=1e-12)


def test_test_steps_apply_in_eval_mode_only() -> None:
    episodes = regressions(torch.Generator().manual_seed(0))
    method = MAML(REGRESSION, tanh_net(), inner_lr=0.05, steps=1, test_steps=5)
    trained = method.train().adapt(episodes.support)(episodes.query.x)
    tested = method.eval().adapt(episodes.support)(episodes.query.x)
    five = MAML(REGRESSION, tanh_net(), inner_lr=0.05, steps=5).adapt(episodes.support)(episodes.query.x)
    torch.testing.assert_close(tested, five)
    assert isinstance(trained, Tensor)
    assert isinstance(tested, Tensor)
    assert (trained - tested).abs().max() > 1e-3


def test_later_steps_have_their_own_length() -> None:
    """On ``L = |Xw - y|^2 / n``: the first step by ``inner_lr``, all others by ``later_lr``; the gradient follows."""
    episodes = regressions(torch.Generator().manual_seed(0), tasks=1)
    net = nn.Linear(2, 1, bias=False).double()
    x, y, q, z = episodes.support.x[0], episodes.support.y[0], episodes.query.x[0], episodes.query.y[0]
    phi, jacobian = net.weight.detach().clone().T, torch.eye(2, dtype=torch.float64)
    for rate in (0.3, 0.1, 0.1):
        phi = phi - 2 * rate * x.T @ (x @ phi - y) / 6
        jacobian = (torch.eye(2, dtype=torch.float64) - 2 * rate * x.T @ x / 6) @ jacobian
    method = MAML(REGRESSION, net, inner_lr=0.3, later_lr=0.1, steps=3)
    torch.testing.assert_close(method.adapt(episodes.support)(episodes.query.x), (q @ phi).unsqueeze(0))
    method.losses(episodes).sum().backward()
    found = next(p.grad for p in method.parameters() if p.grad is not None)
    torch.testing.assert_close(found.flatten(), (jacobian @ (2 * q.T @ (q @ phi - z) / 6)).flatten())


def test_later_steps_and_the_adjoint_exclude_each_other() -> None:
    with pytest.raises(InputError, match="later_lr=None"):
        MAML(REGRESSION, tanh_net(), later_lr=0.1, adjoint=True)
