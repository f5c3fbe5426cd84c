"""Each relative of MAML against what defines it: explicit loops, closed forms, and MAML itself in a limit."""

from collections.abc import Callable, Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from quickstudy.core import Batch, Episodes, InputError, Method, Problem
from quickstudy.methods import (
    ANIL,
    CAVIA,
    FOMAML,
    IMAML,
    MAML,
    DataConditioned,
    LSTMOptimizer,
    MAMLPlusPlus,
    MetaSGD,
    ProtoMAML,
    Reptile,
)
from quickstudy.methods._inner import looking_for_trouble
from quickstudy.methods._nets import for_tasks

REGRESSION = Problem((2,), "regression", 1, metric="explained variance")
IMAGES = Problem((1, 6, 6), "classification", 2, n_classes=5, shared_labels=False)
RATE = 0.3


def adjoint(problem: Problem, net: nn.Module, **settings: object) -> MAML:
    return MAML(problem, net, adjoint=True, steps=3, **settings)  # type: ignore[arg-type]


def imaml_by_descent(problem: Problem, net: nn.Module) -> IMAML:
    return IMAML(problem, net, solver="gradient")


# those whose inner loop moves a net that a user may bring; LEO's moves codes, and a net of its own makes features
ALL: Sequence[Callable[..., Method]] = (
    ANIL, CAVIA, DataConditioned, FOMAML, IMAML, LSTMOptimizer, MAML, MAMLPlusPlus, MetaSGD, ProtoMAML, Reptile,
    adjoint, imaml_by_descent,
)  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generic(net: nn.Module, seed: int = 1) -> nn.Module:
    """In double precision, at random weights."""
    g = generator(seed)
    with torch.no_grad():
        for p in net.double().parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return net


def tanh_net() -> nn.Module:
    return generic(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)))


def regressions(tasks: int = 3, n: int = 6) -> Episodes:
    g = generator(2)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    batch = lambda: Batch(normal(tasks, n, 2), normal(tasks, n, 1))  # noqa: E731
    return Episodes(batch(), batch())


def images(tasks: int = 3) -> Episodes:
    g = generator(3)
    batch = lambda: Batch(  # noqa: E731
        torch.randn(tasks, 6, 1, 6, 6, generator=g, dtype=torch.float64), (torch.arange(6) % 2).expand(tasks, 6)
    )
    return Episodes(batch(), batch())


def gradient(method: Method, episodes: Episodes, of: nn.Module | None = None) -> Tensor:
    """The meta-gradient, summed over tasks, in one vector."""
    parameters = [p for p in (of or method).parameters() if p.requires_grad]
    found = torch.autograd.grad(method.losses(episodes).sum(), parameters, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def plain_loss(net: nn.Module, params: dict[str, Tensor], batch: Batch, task: int) -> Tensor:
    return (functional_call(net, params, (batch.x[task],)) - batch.y[task]).square().mean()


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


# --- FOMAML -----------------------------------------------------------------------------------------------------------


def test_fomaml_copies_the_gradient_at_the_adapted_weights() -> None:
    net, episodes = tanh_net(), regressions()
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for t in range(3):
        phi = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
        for _ in range(2):
            g = torch.autograd.grad(plain_loss(net, phi, episodes.support, t), list(phi.values()))
            moved = zip(phi.items(), g, strict=True)
            phi = {name: (p - RATE * d).detach().requires_grad_() for (name, p), d in moved}
        end = torch.autograd.grad(plain_loss(net, phi, episodes.query, t), list(phi.values()))
        for name, g_end in zip(phi, end, strict=True):
            total[name] += g_end
    found = gradient(FOMAML(REGRESSION, net, inner_lr=RATE, steps=2), episodes)
    same(found, torch.cat([g.flatten() for g in total.values()]))
    same(found, gradient(MAML(REGRESSION, net, inner_lr=RATE, steps=2, first_order=True), episodes))
    assert (found - gradient(MAML(REGRESSION, net, inner_lr=RATE, steps=2), episodes)).norm() > 0.1 * found.norm()


# --- Meta-SGD ---------------------------------------------------------------------------------------------------------


def test_meta_sgd_with_equal_rates_is_maml() -> None:
    net, episodes = tanh_net(), regressions()
    ours = MetaSGD(REGRESSION, net, inner_lr=RATE, steps=2).double()
    theirs = MAML(REGRESSION, net, inner_lr=RATE, steps=2)
    with torch.no_grad():
        for alpha in ours.alpha:
            alpha.fill_(RATE)  # the same number, in double precision
    same(ours.losses(episodes), theirs.losses(episodes))
    same(gradient(ours, episodes, net), gradient(theirs, episodes))


def test_meta_sgd_rates_have_their_closed_form_gradient() -> None:
    r"""One step: :math:`dL/d\alpha = - \nabla L^{test}(\phi) \circ \nabla L^{tr}(\theta)`."""
    net, episodes = tanh_net(), regressions(tasks=1)
    theta = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    first = torch.autograd.grad(plain_loss(net, theta, episodes.support, 0), list(theta.values()))
    moved = zip(theta.items(), first, strict=True)
    phi = {name: (p - RATE * g).detach().requires_grad_() for (name, p), g in moved}
    last = torch.autograd.grad(plain_loss(net, phi, episodes.query, 0), list(phi.values()))
    method = MetaSGD(REGRESSION, net, inner_lr=RATE).double()
    with torch.no_grad():
        for alpha in method.alpha:
            alpha.fill_(RATE)
    expected = torch.cat([-(a * b).flatten() for a, b in zip(first, last, strict=True)])
    same(gradient(method, episodes, method.alpha), expected)


# --- ANIL -------------------------------------------------------------------------------------------------------------


class Whole(nn.Module):
    """The same net, no Sequential."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.body, self.between, self.head = net.children()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.between(self.body(x)))
        return out


def test_anil_is_maml_whose_body_has_no_inner_step_size() -> None:
    net, episodes = tanh_net(), regressions()
    ours = ANIL(REGRESSION, net, inner_lr=RATE, steps=3)
    theirs = MetaSGD(REGRESSION, net, inner_lr=RATE, steps=3).double()
    with torch.no_grad():
        for name, alpha in zip(theirs.names, theirs.alpha, strict=True):
            alpha.fill_(RATE if name.startswith("2.") else 0)
    same(ours.losses(episodes), theirs.losses(episodes))
    same(gradient(ours, episodes), gradient(theirs, episodes, net))
    assert gradient(ours, episodes, net[0]).norm() > 0.01  # type: ignore[index]  # the body learns, across tasks
    same(gradient(ANIL(REGRESSION, Whole(net), inner_lr=RATE, steps=3), episodes), gradient(ours, episodes))


def test_anil_is_maml_where_only_the_head_is_trainable() -> None:
    net, episodes = tanh_net(), regressions()
    net[0].requires_grad_(False)  # type: ignore[index]
    ours, theirs = (kind(REGRESSION, net, inner_lr=RATE, steps=2) for kind in (ANIL, MAML))
    same(gradient(ours, episodes), gradient(theirs, episodes))


def test_anil_needs_a_head_that_moves() -> None:
    net = tanh_net()
    net[2].requires_grad_(False)  # type: ignore[index]
    with pytest.raises(InputError, match="head that may move"):
        ANIL(REGRESSION, net)


# --- Reptile ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["descent", "adam"])
def test_reptile_steps_towards_where_training_ends(inner: Literal["descent", "adam"]) -> None:
    """Its gradient is ``theta - phi`` of PyTorch's own optimiser on all of the episode."""
    episodes = regressions()
    theta = torch.cat([p.detach().flatten() for p in tanh_net().parameters()])
    expected = torch.zeros_like(theta)
    both = episodes.support.join(episodes.query)
    for t in range(3):
        net = tanh_net()
        optimiser: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        if inner == "adam":
            optimiser = torch.optim.Adam(net.parameters(), lr=0.05, betas=(0.0, 0.999))
        for _ in range(4):
            optimiser.zero_grad()
            (net(both.x[t]) - both.y[t]).square().mean().backward()
            optimiser.step()
        expected += theta - torch.cat([p.detach().flatten() for p in net.parameters()])
    method = Reptile(REGRESSION, tanh_net(), inner_lr=0.05, steps=4, rows=25, inner=inner)
    torch.testing.assert_close(gradient(method, episodes), expected, rtol=1e-6, atol=1e-8)
    minibatches = gradient(Reptile(REGRESSION, tanh_net(), inner_lr=0.05, steps=4, rows=4, inner=inner), episodes)
    assert (minibatches - expected).norm() > 0.01 * expected.norm()


def test_reptile_loss_is_half_the_squared_distance() -> None:
    """One step of Adam moves every weight by its step size, whatever the gradient."""
    method = Reptile(REGRESSION, tanh_net(), inner_lr=0.05, steps=1, inner="adam")
    torch.testing.assert_close(
        method.losses(regressions()), torch.full((3,), 0.5 * 17 * 0.05**2).double(), rtol=1e-4, atol=0.0
    )


def test_reptile_knows_two_kinds_of_inner_steps() -> None:
    with pytest.raises(InputError, match="'descent' or 'adam'"):
        Reptile(REGRESSION, tanh_net(), inner="momentum")  # type: ignore[arg-type]


# --- CAVIA ------------------------------------------------------------------------------------------------------------


def test_context_starts_at_zero_where_the_net_is_as_it_was() -> None:
    net, episodes = tanh_net(), regressions()
    method = CAVIA(REGRESSION, net, steps=0)
    prediction = method.adapt(episodes.support)(episodes.query.x)
    assert isinstance(prediction, Tensor)
    same(prediction, net(episodes.query.x))
    assert {id(p) for p in net.parameters()} < {id(p) for p in method.parameters()}


def test_context_is_the_same_as_more_inputs() -> None:
    """Two steps on z against a net that reads (x, z), written out."""
    net, episodes = tanh_net(), regressions()
    method = CAVIA(REGRESSION, net, size=3, inner_lr=RATE, steps=2).double()
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    (film,) = [p for name, p in method.named_parameters() if "film" in name]
    predicted = method.adapt(episodes.support)(episodes.query.x)
    assert isinstance(predicted, Tensor)
    wide = torch.cat([net[0].weight, film], 1).detach()  # type: ignore[index]
    for t in range(3):

        def call(x: Tensor, z: Tensor) -> Tensor:
            h = torch.cat([x, z.expand(len(x), 3)], 1) @ wide.T + net[0].bias  # type: ignore[index]
            out: Tensor = net[2](torch.tanh(h))  # type: ignore[index]
            return out

        z = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        for _ in range(2):
            loss = (call(episodes.support.x[t], z) - episodes.support.y[t]).square().mean()
            z = (z - RATE * torch.autograd.grad(loss, z)[0]).detach().requires_grad_()
        assert z.detach().norm() > 0.01
        same(predicted[t].detach(), call(episodes.query.x[t], z).detach())
    assert all(torch.equal(p, before[name]) for name, p in method.named_parameters())  # theta is as it was


def test_context_needs_a_layer_to_enter() -> None:
    with pytest.raises(InputError, match="where a context can enter"):
        CAVIA(REGRESSION, nn.Flatten())


# --- MAML++ -----------------------------------------------------------------------------------------------------------


def plus_plus(net: nn.Module, *, anneal: int, steps: int = 2, first_order: int = 0) -> MAMLPlusPlus:
    method = MAMLPlusPlus(REGRESSION, net, inner_lr=RATE, steps=steps, anneal=anneal, first_order=first_order).double()
    with torch.no_grad():
        method.alpha.fill_(RATE)
    return method


def test_mamlpp_with_equal_rates_and_the_last_loss_alone_is_maml() -> None:
    net, episodes = tanh_net(), regressions()
    theirs = MAML(REGRESSION, net, inner_lr=RATE, steps=2)
    same(plus_plus(net, anneal=0).losses(episodes), theirs.losses(episodes))
    same(gradient(plus_plus(net, anneal=0), episodes, net), gradient(theirs, episodes))


def test_mamlpp_begins_with_all_steps_alike_and_ends_with_the_last() -> None:
    net, episodes = tanh_net(), regressions()
    method = plus_plus(net, anneal=20)
    after = [MAML(REGRESSION, net, inner_lr=RATE, steps=k).losses(episodes) for k in (1, 2)]
    seen = [method.losses(episodes).detach() for _ in range(22)]
    same(seen[0], (after[0] + after[1]) / 2)
    same(seen[1], seen[0])  # the weights change in stages, of two updates here
    same(seen[10], 0.25 * after[0] + 0.75 * after[1])
    same(seen[20], after[1])
    assert int(method.get_buffer("updates")) == 22
    same(method.eval().losses(episodes), after[1])
    assert int(method.get_buffer("updates")) == 22  # only training counts


def test_mamlpp_steps_have_rates_of_their_own() -> None:
    """A second step of size zero is no step; one that is learned has a gradient."""
    net, episodes = tanh_net(), regressions()
    method = plus_plus(net, anneal=0)
    with torch.no_grad():
        method.alpha[1] = 0
    same(method.losses(episodes), MAML(REGRESSION, net, inner_lr=RATE, steps=1).losses(episodes))
    (g,) = torch.autograd.grad(method.losses(episodes).sum(), [method.alpha])
    assert g.shape == (2, 4)
    assert bool((g != 0).all())


def test_mamlpp_can_begin_with_first_order_gradients() -> None:
    net, episodes = tanh_net(), regressions()
    method = plus_plus(net, anneal=0, first_order=1)
    assert not method.exact_gradient
    first = MAML(REGRESSION, net, inner_lr=RATE, steps=2, first_order=True)
    same(gradient(method, episodes, net), gradient(first, episodes))
    same(gradient(method, episodes, net), gradient(MAML(REGRESSION, net, inner_lr=RATE, steps=2), episodes))


def test_mamlpp_normalises_by_scales_of_the_step() -> None:
    """What belongs to a step moves what comes after it: the first all, the last the query's normalisation alone."""
    net = generic(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)))
    episodes, method = regressions(), plus_plus(net, steps=2, anneal=0)
    assert method.norms == ["1.weight", "1.bias"]

    def path() -> list[Tensor]:
        return [phi["3.weight"].detach() for phi in method._path(episodes.support, 2)]

    base, losses = path(), method.losses(episodes).detach()
    for step in range(3):
        with torch.no_grad():
            method.shifts[0][step] += 0.5
        moved = [not torch.equal(now, before) for now, before in zip(path(), base, strict=True)]
        assert moved == [after > step for after in range(3)]
        assert (method.losses(episodes) - losses).abs().min() > 1e-6
        with torch.no_grad():
            method.shifts[0][step] -= 0.5


# --- a user's own net -------------------------------------------------------------------------------------------------


def convolutional(norm: nn.Module) -> nn.Sequential:
    layers = (nn.Conv2d(1, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(64, 2))
    net = generic(nn.Sequential(*layers))
    assert isinstance(net, nn.Sequential)
    return net


NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm2d(4),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True),
    "instance, tracked": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "layer": lambda: nn.LayerNorm((4, 4, 4)),
    "group": lambda: nn.GroupNorm(2, 4),
}


@pytest.mark.parametrize("norm", NORMS)
def test_normalisation_of_a_user_has_the_gradient_of_a_loop_over_tasks(norm: str) -> None:
    """PyTorch's own layers, task by task, in plain autograd: the fused kernels are right where there is no vmap."""
    net, episodes = convolutional(NORMS[norm]()), images()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = gradient(MAML(IMAGES, net, inner_lr=RATE), episodes, net)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())  # statistics included
    same(found, looped(net, IMAGES, episodes))


def looped(net: nn.Module, problem: Problem, episodes: Episodes) -> Tensor:
    """MAML's meta-gradient for one step, task by task in plain autograd."""
    theta: dict[str, Tensor] = dict(net.named_parameters())
    total = torch.zeros(())
    for t in range(episodes.n_tasks):
        loss = problem.loss(functional_call(net, theta, (episodes.support.x[t],)), episodes.support.y[t])
        g = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        phi = {name: p - RATE * d for (name, p), d in zip(theta.items(), g, strict=True)}
        total = total + problem.loss(functional_call(net, phi, (episodes.query.x[t],)), episodes.query.y[t])
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(theta.values()))])


class Attentive(nn.Module):
    """A transformer's layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x).flatten(1))
        return out


def test_attention_of_a_user_has_the_gradient_of_a_loop_over_tasks() -> None:
    g, net, problem = generator(4), generic(Attentive()), Problem((3, 4), "regression", 1)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    support, query = (Batch(normal(2, 5, 3, 4), normal(2, 5, 1)) for _ in range(2))
    found = gradient(MAML(problem, net, inner_lr=RATE), Episodes(support, query))
    with sdpa_kernel(SDPBackend.MATH):
        same(found, looped(net, problem, Episodes(support, query)))


@pytest.mark.uses_global_rng
@pytest.mark.parametrize("kind", ALL)
def test_any_net_works_unchanged(kind: Callable[..., Method]) -> None:
    """Batch normalisation with running statistics, dropout and a frozen part, in every method."""
    torch.manual_seed(0)  # dropout knows no other generator
    start = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten())
    net = generic(nn.Sequential(*start, nn.Linear(64, 8), nn.Linear(8, 2)))
    frozen = net[5]  # type: ignore[index]
    frozen.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    method, episodes = kind(IMAGES, net).double(), images()
    assert method.transductive
    prediction = method.eval().adapt(episodes.support)(episodes.query.x)
    assert isinstance(prediction, Tensor)
    same(method.adapt(episodes.support)(episodes.query.x), prediction)  # type: ignore[arg-type]
    losses = method.train().losses(episodes)
    losses.sum().backward()
    assert bool(torch.isfinite(losses).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)
    assert net[0].weight.grad is not None  # type: ignore[index]  # the user's own parameters are trained
    assert all(p.grad is None for p in frozen.parameters())
    torch.optim.Adam([p for p in method.parameters() if p.requires_grad]).step()
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not any(name.startswith("5.") or "running" in name for name in moved)


@pytest.mark.uses_global_rng
def test_dropout_differs_between_tasks_and_rests_in_evaluation() -> None:
    torch.manual_seed(0)
    net = generic(nn.Sequential(nn.Linear(2, 16), nn.Dropout(), nn.Linear(16, 1)))
    one = regressions(tasks=1)
    twice = one.tasks(torch.tensor([0, 0]))
    method = MAML(REGRESSION, net, inner_lr=0.01)
    a, b = method.train().losses(twice).detach()
    assert abs(float(a - b)) > 1e-3
    a, b = method.eval().losses(twice).detach()
    same(a, b)


def dropping() -> nn.Module:
    return generic(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(), nn.Linear(16, 1)))


@pytest.mark.uses_global_rng
def test_steps_taken_backwards_draw_the_masks_they_had() -> None:
    """The adjoint's gradient is back-propagation's, where both begin at one state of the global generator."""
    net, found = dropping(), []
    for back in (False, True):
        torch.manual_seed(3)
        method = MAML(REGRESSION, net, inner_lr=RATE, steps=3, adjoint=back)
        found += [gradient(method, regressions()), gradient(method, regressions())]
    same(found[2], found[0])
    same(found[3], found[1])
    assert (found[1] - found[0]).norm() > 0.1 * found[0].norm()  # other masks at the next call


@pytest.mark.uses_global_rng
def test_an_implicit_gradient_is_of_one_draw_of_the_masks() -> None:
    """A squared error on dropped inputs has one optimum if the masks stay: a step of Newton and a long descent meet."""
    net, found = generic(nn.Sequential(nn.Dropout(), nn.Linear(2, 1))), []
    for settings in ({"solver": "newton", "steps": 1}, {"solver": "gradient", "steps": 400, "inner_lr": 0.1}):
        torch.manual_seed(3)
        method = IMAML(REGRESSION, net, cg_steps=3, **settings)  # type: ignore[arg-type]
        found += [method.losses(regressions()).detach(), gradient(method, regressions())]
    same(found[2], found[0])
    same(found[3], found[1])
    assert (method.losses(regressions()) - found[0]).abs().min() > 1e-3  # other masks at the next call


def test_compiled_inner_steps_refuse_dropout() -> None:
    with pytest.raises(InputError, match="Found dropout in Sequential"):
        MAML(REGRESSION, dropping(), adjoint="compiled").losses(regressions())


@pytest.mark.uses_global_rng
def test_trouble_is_found_in_a_net_with_dropout() -> None:
    torch.manual_seed(0)
    for kind in (MAML, adjoint, IMAML, LSTMOptimizer):
        method = kind(REGRESSION, dropping()).double()
        with looking_for_trouble() as found, torch.no_grad():
            far = regressions()
            method.losses(Episodes(Batch(far.support.x, far.support.y * torch.inf), far.query))
        assert found, kind
        assert "support loss is" in found[0].what


def test_frozen_batch_norm_keeps_to_its_running_statistics() -> None:
    net = convolutional(nn.BatchNorm2d(4))
    net(images().support.x[0])  # statistics of its own
    net[1].requires_grad_(False)
    x = images().query.x[0]
    expected = net.eval()(x)
    fit = for_tasks(net.train())
    same(fit(x), expected)
    method = MAML(IMAGES, net)
    assert not method.transductive
    prediction = method.adapt(images().support)
    whole, alone = prediction(images().query.x), prediction(images().query.x[:, :1])
    assert isinstance(whole, Tensor)
    assert isinstance(alone, Tensor)
    same(whole[:, :1], alone)


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.get_buffer("calls") + 1
        out: Tensor = self.linear(x)
        return out


class Averaging(Counting):
    """Writes what it sees into its buffer."""

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("calls").add_(x.detach().mean())
        out: Tensor = self.linear(x)
        return out


class OwnNorm(nn.LayerNorm):
    """Over another axis."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.mT).mT


class Recurrent(nn.Module):
    """An LSTM and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.memory(x.unsqueeze(-1))[0][:, -1])
        return out


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("net", "why"),
    [
        (Recurrent, "LSTM at 'memory'"),
        (lambda: nn.Sequential(nn.GRUCell(2, 1)), "GRUCell at '0'"),
        (Counting, "changes the buffer 'calls'"),
        (Averaging, "state that forward writes to"),
        (lambda: nn.Sequential(OwnNorm(2), nn.Linear(2, 1)), "Found another in OwnNorm at '0'"),
        (lambda: nn.LazyLinear(1), "Call the net on data once"),
    ],
    ids=["lstm", "cell", "counts", "averages", "own norm", "lazy"],
)
def test_a_net_that_cannot_work_says_why(kind: Callable[..., Method], net: Callable[[], nn.Module], why: str) -> None:
    problem, y = REGRESSION, torch.ones(2, 3, 1)
    if kind is ProtoMAML:
        problem, y = Problem((2,), "classification", 2, shared_labels=False), torch.tensor([0, 1, 1]).expand(2, 3)
    with pytest.raises(InputError, match=f"Expected .*{why}"):
        kind(problem, net()).losses(Episodes(Batch(torch.ones(2, 3, 2), y), Batch(torch.ones(2, 3, 2), y)))


def test_other_errors_of_a_net_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        MAML(REGRESSION, nn.Linear(3, 1).double()).losses(regressions())


def test_a_whole_number_is_a_step_size() -> None:
    net, episodes = tanh_net(), regressions()
    same(MAML(REGRESSION, net, inner_lr=1).losses(episodes), MAML(REGRESSION, net, inner_lr=1.0).losses(episodes))
