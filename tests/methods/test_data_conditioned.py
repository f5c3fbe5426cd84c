"""MAML on a modulated net: equality with MAML, the loop written out, and where the examples enter."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.core import Batch, Episodes, InputError, Problem
from quickstudy.methods import MAML, DataConditioned
from quickstudy.nets import MLP, Conv4, net_for

NUMBERS = Problem((2,), "regression", 1)
CLASSES = Problem((4,), "classification", 3, shared_labels=False)
IMAGES = Problem((1, 12, 12), "classification", 2, shared_labels=False)
T, N, RATE = 3, 6, 0.05


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def episodes(problem: Problem) -> Episodes:
    def batch(seed: int) -> Batch:
        x = normal(seed, T, N, *problem.x_shape)
        if problem.kind == "regression":
            return Batch(x, normal(seed + 10, T, N, 1))
        return Batch(x, (torch.arange(N) % problem.n_outputs).repeat(T, 1))

    return Episodes(batch(1), batch(2))


def method(problem: Problem, *, awake: bool = True, **settings: int) -> DataConditioned:
    """One whose modulation is not zero any more."""
    made = DataConditioned(problem, size=5, inner_lr=RATE, **settings).double()  # type: ignore[arg-type]
    if awake:
        with torch.no_grad():
            for i, name in enumerate(made.film):
                value = made.net.get_parameter(name)
                value.copy_(0.3 * normal(20 + i, *value.shape))
    return made


def predicted(made: DataConditioned | MAML, support: Batch, x: Tensor) -> Tensor:
    found = made.adapt(support)(x)
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("problem", [NUMBERS, CLASSES, IMAGES], ids=["numbers", "classes", "images"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_without_modulation_it_is_maml(problem: Problem, steps: int) -> None:
    """The same losses and the same gradient, of the very same parameters."""
    e = episodes(problem)
    net = net_for(problem, "batch").double()
    ours = DataConditioned(problem, net, size=5, inner_lr=RATE, steps=steps).double()
    theirs = MAML(problem, net, inner_lr=RATE, steps=steps)
    assert {id(p) for p in net.parameters()} <= {id(p) for p in ours.parameters()}
    torch.testing.assert_close(ours.losses(e), theirs.losses(e), rtol=0, atol=1e-12)
    parameters = list(net.parameters())
    found = torch.autograd.grad(ours.losses(e).sum(), parameters)
    expected = torch.autograd.grad(theirs.losses(e).sum(), parameters)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    # and it can leave MAML
    films = [ours.net.get_parameter(name) for name in ours.film]
    assert all(float(g.abs().max()) > 1e-6 for g in torch.autograd.grad(ours.losses(e).sum(), films))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_loop_written_out(steps: int) -> None:
    """Task by task: ``h' = W x + b + B z`` in the first layer, z the mean over examples, and no step moves z or B."""
    net, e = MLP((2, 7, 1)).double(), episodes(NUMBERS)
    ours = DataConditioned(NUMBERS, net, size=5, inner_lr=RATE, steps=steps).double()
    shift = ours.net.get_parameter(ours.film[0])
    with torch.no_grad():
        shift.copy_(normal(3, 7, 5))
    found = predicted(ours, e.support, e.query.x)
    for t in range(T):
        x, y = e.support.x[t], e.support.y[t]
        pairs = torch.cat([ours.encoder(x), y, torch.ones_like(y)], 1)
        z = torch.stack([ours.reader(pair) for pair in pairs]).mean(0)
        w = [p.detach().clone().requires_grad_() for p in net.parameters()]

        def f(w: list[Tensor], x: Tensor, z: Tensor = z) -> Tensor:
            return torch.relu(x @ w[0].T + w[1] + shift @ z) @ w[2].T + w[3]

        for _ in range(steps):
            loss = (f(w, x) - y).square().mean()
            grads = torch.autograd.grad(loss, w, retain_graph=True)
            w = [(p - RATE * g).detach().requires_grad_() for p, g in zip(w, grads, strict=True)]
        torch.testing.assert_close(found[t], f(w, e.query.x[t]))


@pytest.mark.parametrize("problem", [NUMBERS, CLASSES], ids=["numbers", "classes"])
def test_gradients_of_all_parts_are_those_of_finite_differences(problem: Problem) -> None:
    """Net, encoder, reader and modulation, through two inner steps; smooth nets, so that differences are exact."""
    smooth = lambda *sizes: nn.Sequential(  # noqa: E731
        nn.Linear(sizes[0], sizes[1]), nn.Tanh(), nn.Linear(sizes[1], sizes[2])
    )
    size = problem.x_shape[0]
    net, encoder = smooth(size, 4, problem.n_outputs), smooth(size, 4, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in (net, encoder):
            for value in part.parameters():
                value.normal_(0, 0.5, generator=generator)
    made = DataConditioned(problem, net, encoder, size=3, inner_lr=RATE, steps=2).double()
    made.reader[1] = nn.Tanh()
    with torch.no_grad():
        shift = made.net.get_parameter(made.film[0])
        shift.copy_(normal(3, *shift.shape))
    e = episodes(problem)
    names = [name for name, _ in made.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        total: Tensor = functional_call(_Losses(made), {f"of.{n}": v for n, v in zip(names, values, strict=True)}, (e,))
        return total

    start = tuple(value.detach().clone().requires_grad_() for value in made.parameters())
    assert torch.autograd.gradcheck(loss, start, fast_mode=True)


class _Losses(nn.Module):
    def __init__(self, of: DataConditioned) -> None:
        super().__init__()
        self.of = of

    def forward(self, e: Episodes) -> Tensor:
        return self.of.losses(e).sum()


def test_the_order_of_the_examples_and_padding_are_without_effect() -> None:
    made, e = method(NUMBERS), episodes(NUMBERS)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    mixed = replace(e.support, x=e.support.x[:, order], y=e.support.y[:, order])
    torch.testing.assert_close(made.embedding(mixed), made.embedding(e.support))
    torch.testing.assert_close(predicted(made, mixed, e.query.x), predicted(made, e.support, e.query.x))
    weight = torch.ones(T, N + 2, dtype=torch.float64)
    weight[:, N:] = 0
    longer = Batch(torch.cat([e.support.x, 9 * normal(7, T, 2, 2)], 1), torch.cat([e.support.y, normal(8, T, 2, 1)], 1))
    padded = replace(longer, weight=weight)
    torch.testing.assert_close(made.embedding(padded), made.embedding(e.support))
    torch.testing.assert_close(predicted(made, padded, e.query.x), predicted(made, e.support, e.query.x))


def test_labels_speak_through_the_embedding_alone_where_no_step_is_taken() -> None:
    e = episodes(NUMBERS)
    other = replace(e.support, y=-e.support.y)
    asleep = method(NUMBERS, awake=False, steps=0)
    torch.testing.assert_close(predicted(asleep, other, e.query.x), predicted(asleep, e.support, e.query.x))
    awake = method(NUMBERS, steps=0)
    change = predicted(awake, other, e.query.x) - predicted(awake, e.support, e.query.x)
    assert float(change.detach().abs().max()) > 1e-3


def test_where_the_embedding_enters() -> None:
    """Behind each normalisation layer of images; behind convolutions where there is none; else the first layer."""
    assert len(method(IMAGES).places) == 4
    assert len(DataConditioned(IMAGES, nn.Sequential(Conv4(1, 4, "none"), nn.Linear(4, 2))).places) == 4
    assert method(NUMBERS).places == ["0.1.context"]
    with pytest.raises(InputError, match="where a context can enter"):
        DataConditioned(NUMBERS, nn.Linear(2, 1))
