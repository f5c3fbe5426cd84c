"""Proto-MAML and LEO: equality with prototypes, gradients by hand, and what their steps do."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Problem
from quickstudy.methods import LEO, ProtoMAML, Prototypical
from quickstudy.methods._embed import NEVER, embed
from quickstudy.methods._inner import looking_for_trouble
from quickstudy.nets import encoder_for
from quickstudy.testing import check_method

CLASSES = Problem((4,), "classification", 3, shared_labels=False)
IMAGES = Problem((1, 12, 12), "classification", 2, shared_labels=False)
T = 3


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def episodes(problem: Problem, n: int = 6) -> Episodes:
    y = (torch.arange(n) % problem.n_outputs).repeat(T, 1)
    batch = lambda seed: Batch(normal(seed, T, n, *problem.x_shape), y)  # noqa: E731
    return Episodes(batch(1), batch(2))


def adapted(method: ProtoMAML | LEO | Prototypical, support: Batch, x: Tensor) -> Tensor:
    found = method.adapt(support)(x)
    assert isinstance(found, Tensor)
    return found


# --- Proto-MAML -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [CLASSES, IMAGES])
def test_without_steps_it_is_a_prototypical_network(problem: Problem) -> None:
    """The same probabilities, and the same gradient of the loss: the prototypes are not constants."""
    e = episodes(problem)
    weight = torch.ones(T, 6, dtype=torch.float64)
    weight[0, 0] = 0
    weight[1, e.support.y[1] == 0] = 0  # one task lacks a class
    e = replace(e, support=replace(e.support, weight=weight))
    encoder = encoder_for(problem, "none")[0].double()
    ours, theirs = ProtoMAML(problem, encoder, steps=0), Prototypical(problem, encoder)
    logits = adapted(ours, e.support, e.query.x)
    torch.testing.assert_close(logits.softmax(-1), adapted(theirs, e.support, e.query.x).softmax(-1))
    assert bool((logits[1, :, 0] == NEVER).all())
    parameters = list(encoder.parameters())
    found = torch.autograd.grad(ours.losses(e).sum(), parameters)
    expected = torch.autograd.grad(theirs.losses(e).sum(), parameters)
    torch.testing.assert_close(found, expected)


def test_one_step_on_a_fixed_encoder_by_hand() -> None:
    """Nothing to adapt but the head: ``w - a (p - y)' h / n`` from ``w = 2c, b = -|c|^2``."""
    e = episodes(CLASSES)
    found = adapted(ProtoMAML(CLASSES, nn.Identity(), inner_lr=0.3, steps=1), e.support, e.query.x)
    for t in range(T):
        x, member = e.support.x[t], F.one_hot(e.support.y[t]).double()
        means = torch.stack([x[e.support.y[t] == k].mean(0) for k in range(3)])
        w, b = 2 * means, -means.square().sum(-1)
        excess = ((x @ w.T + b).softmax(-1) - member) / 6
        w, b = w - 0.3 * excess.T @ x, b - 0.3 * excess.sum(0)
        torch.testing.assert_close(found[t], e.query.x[t] @ w.T + b)


def test_steps_move_the_encoder_too() -> None:
    e = episodes(CLASSES)
    encoder = encoder_for(CLASSES)[0].double()
    with torch.no_grad():
        both = adapted(ProtoMAML(CLASSES, encoder, steps=1), e.support, e.query.x)
        support, query = embed(encoder, e.support.x), embed(encoder, e.query.x)
        head_only = adapted(ProtoMAML(CLASSES, nn.Identity(), steps=1), replace(e.support, x=support), query)
    assert float((both - head_only).abs().max()) > 1e-3


def test_first_order_changes_the_gradient_only() -> None:
    e = episodes(CLASSES)
    exact, first = (ProtoMAML(CLASSES, steps=2, first_order=flag).double() for flag in (False, True))
    torch.testing.assert_close(exact.losses(e), first.losses(e))
    g, h = (torch.autograd.grad(m.losses(e).sum(), list(m.parameters())) for m in (exact, first))
    assert max(float((a - b).abs().max()) for a, b in zip(g, h, strict=True)) > 1e-3
    assert exact.exact_gradient
    assert not first.exact_gradient


def test_support_loss_falls_with_the_steps() -> None:
    support = replace(episodes(CLASSES).support, x=0.3 * normal(1, T, 6, 4))  # near each other: something to gain
    losses = []
    for steps in (0, 1, 5, 20):
        method = ProtoMAML(CLASSES, steps=steps).double()
        losses.append(method.problem.losses(adapted(method, support, support.x), support))
    for before, after in zip(losses, losses[1:], strict=False):
        assert bool((after < before).all())


def test_where_steps_go_wrong_is_told() -> None:
    """A step size that overflows: the task and the inner step are named, though each task has a start of its own."""
    e = episodes(CLASSES)
    method = ProtoMAML(CLASSES, inner_lr=1e200, steps=3).double()
    with looking_for_trouble() as found:
        method.losses(e)
    assert found
    assert found[0].task == 0
    assert "inner step" in found[0].what
    with looking_for_trouble() as found:
        ProtoMAML(CLASSES, steps=3).double().losses(e)
    assert not found


# --- LEO --------------------------------------------------------------------------------------------------------------


def leo(problem: Problem = CLASSES, **settings: float) -> LEO:
    return LEO(problem, latent=5, **settings).double()  # type: ignore[arg-type]


def test_the_inner_slope_is_the_gradient() -> None:
    """Against autograd, with padding and with a class that has no support."""
    method, e = leo(), episodes(CLASSES)
    weight = torch.ones(T, 6, dtype=torch.float64)
    weight[0, 0], weight[1, e.support.y[1] == 2] = 0, 0
    support = replace(e.support, weight=weight)
    h = normal(5, T, 6, 64)
    _, present = method.codes(h, support)
    w = normal(6, T, 3, 64).requires_grad_()
    loss = method.problem.losses(method.logits(w, h, present), support).sum()
    (expected,) = torch.autograd.grad(loss, w)
    torch.testing.assert_close(method.slope(w.detach(), h, support, present), expected)


def test_steps_in_latent_space_are_gradient_steps() -> None:
    """One step on the codes by autograd through the decoder, at a step size for each latent number."""
    method, e = leo(steps=1, tune_steps=0), episodes(CLASSES)
    with torch.no_grad():
        method.inner_lr.copy_(torch.arange(5) * 0.3)
    h = embed(method.features, e.support.x)
    z, present = method.codes(h, e.support)
    loss = method.problem.losses(method.logits(method.decoder(z), h, present), e.support).sum()
    (slope,) = torch.autograd.grad(loss, z, retain_graph=True)
    w = method.decoder(z - method.inner_lr * slope)
    q = embed(method.features, e.query.x)
    torch.testing.assert_close(adapted(method, e.support, e.query.x), method.logits(w, q, present))


@pytest.mark.parametrize("which", ["steps", "tune_steps"])
def test_leos_steps_lower_the_support_loss(which: str) -> None:
    e = episodes(CLASSES)
    losses = []
    for steps in (0, 1, 5, 20):
        settings = {"steps": 0, "tune_steps": 0, which: steps}
        method = leo(CLASSES, inner_lr=0.3, tune_lr=0.3, **settings)
        losses.append(method.problem.losses(adapted(method, e.support, e.support.x), e.support))
    for before, after in zip(losses, losses[1:], strict=False):
        assert bool((after < before).all())


def test_weights_stay_in_what_the_decoder_reaches() -> None:
    """Five latent numbers: after any number of latent steps the classes' weights span no more than five directions."""
    problem = Problem((8,), "classification", 7, shared_labels=False)
    x = normal(1, T, 14, 8)
    support = Batch(x, (torch.arange(14) % 7).repeat(T, 1))
    queries = normal(2, T, 40, 8)
    latent = adapted(leo(problem, steps=4, tune_steps=0), support, queries)
    tuned = adapted(leo(problem, steps=4, tune_steps=3, tune_lr=0.5), support, queries)
    assert torch.linalg.matrix_rank(latent, rtol=1e-9).tolist() == [5] * T
    assert torch.linalg.matrix_rank(tuned, rtol=1e-9).tolist() == [7] * T


def test_a_code_is_the_mean_of_its_classs_relations() -> None:
    """Loops over examples, as the paper writes it."""
    method, e = leo(), episodes(CLASSES)
    h = normal(5, T, 6, 64)
    z, _ = method.codes(h, e.support)
    code = method.encoder(h)
    for k in range(3):
        mine = [i for i in range(6) if int(e.support.y[0, i]) == k]
        pairs = [method.relation(torch.cat([code[0, i], code[0, j]])) for i in mine for j in range(6)]
        torch.testing.assert_close(z[0, k], torch.stack(pairs).mean(0))


def test_penalties_are_added_to_the_loss() -> None:
    e = episodes(CLASSES)
    plain = leo(kl=0, encoder_penalty=0, orthogonality=0)
    base = plain.losses(e)
    h = embed(plain.features, e.support.x)
    z, _ = plain.codes(h, e.support)
    found = leo(kl=3, encoder_penalty=0, orthogonality=0).losses(e) - base
    torch.testing.assert_close(found, 1.5 * z.square().mean((1, 2)))
    d = plain.decoder.weight.detach()
    off = torch.tensor([[float(F.cosine_similarity(d[:, i], d[:, j], 0)) if i != j else 0.0 for j in range(5)]
                        for i in range(5)])  # fmt: skip
    found = leo(kl=0, encoder_penalty=0, orthogonality=2).losses(e) - base
    torch.testing.assert_close(found, 2 * off.square().mean().double().expand(T), rtol=1e-5, atol=1e-7)
    still = leo(kl=0, encoder_penalty=1, orthogonality=0, steps=0)
    torch.testing.assert_close(still.losses(e), leo(kl=0, encoder_penalty=0, orthogonality=0, steps=0).losses(e))
    moved = leo(kl=0, encoder_penalty=1, orthogonality=0)
    assert bool((moved.losses(e) > base).all())


def test_leo_without_its_stop_has_the_exact_gradient() -> None:
    class Plain(LEO):
        def __init__(self, problem: Problem) -> None:
            super().__init__(problem, latent=6, encoder_penalty=0)

    assert Plain(CLASSES).exact_gradient
    assert not LEO(CLASSES).exact_gradient
    check_method(Plain, Problem((3,), "classification", 3, n_classes=7, shared_labels=False))
