"""The inner steps backwards without their graph: the same gradient, and memory for the weights alone."""

import copy
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from quickstudy.core import Batch, Episodes, InputError, Problem, RunError
from quickstudy.methods import MAML
from quickstudy.methods._adjoint import CompiledSteps, descend_adjoint
from quickstudy.methods._inner import descend
from quickstudy.methods._nets import Params, task_loss, trainable
from quickstudy.methods._program import MOST_SHAPES
from quickstudy.nets.basic import MLP, Conv4
from quickstudy.training.compiled import CompiledLosses, _flat

NUMBERS = Problem((2,), "regression", 1, metric="explained variance")
PICTURES = Problem((1, 16, 16), "classification", 3, shared_labels=False)
Descend = Callable[..., Params]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def tanh_net() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    g = generator()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
    return net


def numbers(tasks: int = 3, weights: bool = False) -> Episodes:
    g = generator()

    def batch() -> Batch:
        x = torch.randn(tasks, 6, 2, generator=g, dtype=torch.float64)
        w = (torch.rand(tasks, 6, generator=g, dtype=torch.float64) < 0.7).double() if weights else None
        return Batch(x, torch.randn(tasks, 6, 1, generator=g, dtype=torch.float64), w)

    return Episodes(batch(), batch())


def pictures() -> Episodes:
    g = generator()
    batch = lambda: Batch(  # noqa: E731
        torch.rand(2, 3, 1, 16, 16, generator=g, dtype=torch.float64), torch.arange(3).expand(2, 3)
    )
    return Episodes(batch(), batch())


def conv_net() -> nn.Sequential:
    return nn.Sequential(Conv4(1, 4, "batch", generator()), nn.Linear(4, 3)).double()


def meta_gradient(
    problem: Problem, net: nn.Module, episodes: Episodes, steps: int, rate: float, adjoint: bool
) -> Tensor:
    net.zero_grad()
    MAML(problem, net, inner_lr=rate, steps=steps, adjoint=adjoint).losses(episodes).sum().backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_the_gradient_is_that_of_back_propagation_through_all_steps(steps: int, weights: bool) -> None:
    net, episodes = tanh_net(), numbers(weights=weights)
    plain, adjoint = (meta_gradient(NUMBERS, net, episodes, steps, 0.3, flag) for flag in (False, True))
    torch.testing.assert_close(adjoint, plain, rtol=1e-10, atol=1e-10)
    assert plain.norm() > 0.1


def test_the_same_on_convolutions_with_batch_statistics() -> None:
    net, episodes = conv_net(), pictures()
    plain, adjoint = (meta_gradient(PICTURES, net, episodes, 3, 0.2, flag) for flag in (False, True))
    first = MAML(PICTURES, net, inner_lr=0.2, steps=3, first_order=True)
    torch.testing.assert_close(adjoint, plain, rtol=1e-10, atol=1e-10)
    net.zero_grad()
    first.losses(episodes).sum().backward()
    shortcut = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    assert (shortcut - plain).norm() > 0.05 * plain.norm()  # the second derivatives are no rounding error here


@pytest.mark.parametrize("shape", ["one number", "one a weight"])
def test_rates_that_are_learned_get_their_gradient_too(shape: str) -> None:
    net, episodes = tanh_net(), numbers()
    theta = trainable(net)

    def gradients(down: Descend) -> list[Tensor]:
        like = lambda p: p.new_tensor(0.2) if shape == "one number" else torch.full_like(p, 0.2)  # noqa: E731
        rate = {name: like(p.detach()).requires_grad_() for name, p in theta.items()}
        phi = down(task_loss(net, NUMBERS), theta, episodes.support, 4, rate)
        end = sum((p**3).sum() for p in phi.values())
        assert isinstance(end, Tensor)
        return list(torch.autograd.grad(end, [*theta.values(), *rate.values()]))

    for ours, theirs in zip(gradients(descend_adjoint), gradients(descend), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_each_task_can_be_taken_by_itself() -> None:
    """Gradients task by task, from one forward pass, are those of the tasks alone."""
    net, episodes = tanh_net(), numbers()
    parameters = list(net.parameters())
    losses = MAML(NUMBERS, net, inner_lr=0.3, steps=3, adjoint=True).losses(episodes)
    for t, loss in enumerate(losses):
        ours = torch.autograd.grad(loss, parameters, retain_graph=True)
        alone = MAML(NUMBERS, net, inner_lr=0.3, steps=3).losses(episodes.tasks(slice(t, t + 1)))
        for a, b in zip(ours, torch.autograd.grad(alone.sum(), parameters), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def saved_bytes(losses: Tensor) -> int:
    """What autograd keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}
    seen, todo = set(), [losses.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [following for following, _ in node.next_functions]
        values = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for value in (*values, *getattr(node, "saved_tensors", ())):
            for tensor in value if isinstance(value, list | tuple) else [value]:
                if isinstance(tensor, Tensor):
                    kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(kept.values())


def test_a_step_costs_its_weights_and_nothing_else() -> None:
    net, episodes = conv_net(), pictures()
    weights = 8 * episodes.n_tasks * sum(p.numel() for p in net.parameters())
    use = {
        (adjoint, steps): saved_bytes(MAML(PICTURES, net, inner_lr=0.01, steps=steps, adjoint=adjoint).losses(episodes))
        for adjoint in (False, True)
        for steps in (2, 4, 6)
    }
    assert use[True, 4] - use[True, 2] == use[True, 6] - use[True, 4] == 2 * weights
    assert use[False, 6] - use[False, 4] > 10 * weights  # plain MAML keeps what it computed


def test_a_hundred_steps_work() -> None:
    gradient = meta_gradient(NUMBERS, tanh_net(), numbers(), 100, 0.01, True)
    assert bool(torch.isfinite(gradient).all())
    assert gradient.norm() > 1e-3


def test_it_can_be_compiled_with_the_whole_step() -> None:
    """The record of a step, which is what is compiled, gives the same losses and gradients."""
    method, episodes = MAML(NUMBERS, tanh_net(), inner_lr=0.1, steps=2, adjoint=True), numbers()
    from torch.fx.experimental.proxy_tensor import make_fx

    whole = CompiledLosses(method, torch.mean)
    state, data, step = [v.detach() for v in whole._state.values()], _flat(episodes), whole._step_on(episodes)
    record = make_fx(lambda *inputs: step(*inputs), tracing_mode="fake")(state, data)
    for ours, theirs in zip(record(state, data), step(state, data), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_support_that_is_made_by_something_trained_is_refused() -> None:
    episodes, net = numbers(), tanh_net()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    support = Batch(episodes.support.x * scale, episodes.support.y)
    with pytest.raises(InputError, match="without history"):
        MAML(NUMBERS, net, adjoint=True).adapt(support)


def test_without_history_nothing_is_kept() -> None:
    net = MLP((2, 8, 1)).double()
    with torch.no_grad():
        prediction = MAML(NUMBERS, net, steps=3, inner_lr=0.1, adjoint=True).adapt(numbers().support)(numbers().query.x)
    plain = MAML(NUMBERS, net, steps=3, inner_lr=0.1).adapt(numbers().support)(numbers().query.x)
    assert isinstance(prediction, Tensor)
    assert not prediction.requires_grad
    torch.testing.assert_close(prediction, plain)


needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler, which torch.compile needs on CPU"
)


def gradient_of(method: MAML, episodes: Episodes, steps: int) -> Tensor:
    method.zero_grad()
    method.steps = steps
    method.losses(episodes).sum().backward()
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])


@needs_compiler
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_two_compiled_programs_serve_any_number_of_steps(dtype: torch.dtype, rtol: float) -> None:
    """The gradient is the plain adjoint's, for 1 to 30 steps, after moving the weights, and nothing compiles twice."""
    net, s, q = tanh_net().to(dtype), numbers().support, numbers().query
    next(net.parameters()).requires_grad_(False)  # what is frozen is read anew too
    episodes = Episodes(Batch(s.x.to(dtype), s.y.to(dtype)), Batch(q.x.to(dtype), q.y.to(dtype)))
    plain, compiled = (MAML(NUMBERS, net, inner_lr=0.1, adjoint=how) for how in (True, "compiled"))
    before = counters["stats"]["unique_graphs"]
    for steps in (3, 1, 30, 0):
        theirs, ours = gradient_of(plain, episodes, steps), gradient_of(compiled, episodes, steps)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)
        assert theirs.norm() > 0.01
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1)
    assert counters["stats"]["unique_graphs"] - before == 2


@needs_compiler
def test_compiled_steps_give_learned_rates_their_gradient() -> None:
    net, episodes = tanh_net(), numbers(weights=True)
    theta, steps = trainable(net), CompiledSteps(net, NUMBERS)

    def gradients(loss: object) -> list[Tensor]:
        rate = {name: torch.full_like(p, 0.2).requires_grad_() for name, p in theta.items()}
        phi = descend_adjoint(loss, theta, episodes.support, 4, rate)  # type: ignore[arg-type]
        end = sum((p**3).sum() for p in phi.values())
        assert isinstance(end, Tensor)
        return list(torch.autograd.grad(end, [*theta.values(), *rate.values()]))

    for ours, theirs in zip(gradients(steps), gradients(task_loss(net, NUMBERS)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_compiled_steps_refuse_ever_new_shapes_and_are_copied_without_their_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda program, **_: program)
    method = MAML(NUMBERS, tanh_net(), inner_lr=0.1, adjoint="compiled")
    for tasks in range(1, MOST_SHAPES + 1):
        assert gradient_of(method, numbers(tasks), 2).norm() > 0.01
    other = copy.deepcopy(method)
    torch.testing.assert_close(
        gradient_of(other, numbers(MOST_SHAPES + 1), 2),
        meta_gradient(NUMBERS, method.net, numbers(MOST_SHAPES + 1), 2, 0.1, True),
    )
    assert other._steps is not None
    assert other._steps.net is other.net
    with pytest.raises(RunError, match="different shapes to compile inner steps for. Found one more"):
        gradient_of(method, numbers(MOST_SHAPES + 1), 2)
