"""The learned update rule: its preprocessing, its cell against the one of PyTorch, and what it can learn."""

import math

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, InputError, Problem
from quickstudy.methods import MAML, LSTMOptimizer
from quickstudy.methods.gradient.lstm_optimizer import preprocess
from quickstudy.training import fit

FEATURES = 4
PROBLEM = Problem((FEATURES,), "regression", 1, metric="explained variance")


class Quadratics:
    """``|W theta - y|^2 / n``, W and y standard normal; support and query are the same."""

    problem = PROBLEM

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        x = torch.randn(n, FEATURES, FEATURES, generator=generator)
        batch = Batch(x, torch.randn(n, FEATURES, 1, generator=generator))
        return Episodes(batch, batch)


def episodes(tasks: int = 5) -> Episodes:
    return Quadratics().sample(tasks, torch.Generator().manual_seed(0))


def linear() -> nn.Linear:
    net = nn.Linear(FEATURES, 1, bias=False)
    nn.init.normal_(net.weight, generator=torch.Generator().manual_seed(1))
    return net


def test_preprocessing_is_that_of_the_paper() -> None:
    small = 1e-6
    x = torch.tensor([math.e, -math.e, -math.exp(-5), small, -small, 0.0, math.exp(-10)], dtype=torch.float64)
    expected = [
        [0.1, 1.0],
        [0.1, -1.0],
        [-0.5, -1.0],
        [-1.0, math.exp(10) * small],
        [-1.0, -math.exp(10) * small],
        [-1.0, 0.0],
        [-1.0, 1.0],
    ]
    torch.testing.assert_close(preprocess(x), torch.tensor(expected, dtype=torch.float64))


def gates_fixed(method: LSTMOptimizer, rate: float) -> LSTMOptimizer:
    """Forget nothing, always take ``rate``."""
    with torch.no_grad():
        method.gates.weight.zero_()
        method.gates.bias.copy_(torch.tensor([math.log(rate / (1 - rate)), 100.0]))
    return method


@pytest.mark.parametrize("steps", [1, 4])
def test_with_fixed_gates_it_is_gradient_descent(steps: int) -> None:
    net, e = linear(), episodes()
    ours = gates_fixed(LSTMOptimizer(PROBLEM, net, steps=steps), 0.1).adapt(e.support)(e.query.x)
    theirs = MAML(PROBLEM, net, inner_lr=0.1, steps=steps).adapt(e.support)(e.query.x)
    assert isinstance(ours, Tensor)
    assert isinstance(theirs, Tensor)
    torch.testing.assert_close(ours, theirs)


def test_its_gradient_is_the_first_order_one() -> None:
    """With fixed gates, that in theta is first-order MAML's."""
    net, e = linear(), episodes()
    gates_fixed(LSTMOptimizer(PROBLEM, net, steps=3), 0.1).losses(e).sum().backward()
    assert net.weight.grad is not None
    ours = net.weight.grad.clone()
    net.zero_grad()
    MAML(PROBLEM, net, inner_lr=0.1, steps=3, first_order=True).losses(e).sum().backward()
    torch.testing.assert_close(ours, net.weight.grad)


def test_the_memory_is_pytorchs_lstm_cell() -> None:
    method = LSTMOptimizer(PROBLEM, linear(), hidden=3)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in method.memory.parameters():
            p.normal_(generator=g)
    seen, h, c = (torch.randn(5, 7, size, generator=g) for size in (4, 3, 3))
    cell = nn.LSTMCell(4, 3)
    order = torch.arange(12).view(4, 3)[[0, 1, 3, 2]].flatten()  # ours: in, forget, out, new; PyTorch's: i, f, g, o
    with torch.no_grad():
        cell.weight_ih.copy_(method.memory.weight[order, :4])
        cell.weight_hh.copy_(method.memory.weight[order, 4:])
        cell.bias_ih.copy_(method.memory.bias[order])
        cell.bias_hh.zero_()
    expected = cell(seen.flatten(0, 1), (h.flatten(0, 1), c.flatten(0, 1)))
    for ours, theirs in zip(method._remember(seen, h, c), expected, strict=True):
        torch.testing.assert_close(ours.flatten(0, 1), theirs)


def test_every_parameter_has_its_own_memory_and_the_same_rule() -> None:
    """Exchanging two inputs exchanges two weights, and nothing else happens."""
    net, e = linear(), episodes()
    method = LSTMOptimizer(PROBLEM, net, steps=4)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in (*method.memory.parameters(), *method.gates.parameters(), method.again):
            p.add_(torch.randn(p.shape, generator=g), alpha=0.3)
    order = torch.tensor([2, 0, 1, 3])
    unit = torch.eye(FEATURES).expand(5, FEATURES, FEATURES)
    before = method.adapt(e.support)(unit)
    with torch.no_grad():
        net.weight.copy_(net.weight[:, order])
    after = method.adapt(Batch(e.support.x[..., order], e.support.y))(unit)
    assert isinstance(before, Tensor)
    assert isinstance(after, Tensor)
    torch.testing.assert_close(after, before[:, order])
    assert before.std() > 0.1


def test_training_improves_the_rule() -> None:
    """From a rate that is far too small; the start, which is not learned, has no part in it."""
    test, net = Quadratics().sample(200, torch.Generator().manual_seed(5)), linear()
    method = LSTMOptimizer(PROBLEM, net, steps=4, learn_start=False, inner_lr=0.01, hidden=4)
    before = float(method.losses(test).detach().mean())
    fit(method, Quadratics(), steps=30, tasks=8, lr=5e-2, generator=torch.Generator().manual_seed(6))
    assert float(method.losses(test).detach().mean()) < 0.7 * before


def test_a_start_that_is_not_learned_stays() -> None:
    method, e = LSTMOptimizer(PROBLEM, linear(), learn_start=False), episodes()
    method.losses(e).sum().backward()
    assert method.net.weight.grad is None
    assert method.gates.weight.grad is not None


def test_a_rate_that_no_gate_can_give_is_refused() -> None:
    with pytest.raises(InputError, match="0 < inner_lr < 1"):
        LSTMOptimizer(PROBLEM, inner_lr=1.0)
