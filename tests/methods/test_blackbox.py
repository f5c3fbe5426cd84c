"""Nets that read the support set: each against a plainer way to the same numbers, or a case worked by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from quickstudy.core import Batch, Episodes, InputError, Method, Problem
from quickstudy.methods import CNP, LSTMMANN, SNAIL, AttentiveCNP, Hypernetwork, InContext, MetaNetworks
from quickstudy.methods._embed import NEVER, known
from quickstudy.methods.blackbox._reading import attend, real_first
from quickstudy.methods.blackbox.snail import _Dense
from quickstudy.methods.registry import build
from quickstudy.training import fit

CLASSES = Problem((4,), "classification", 3, shared_labels=False)
NUMBERS = Problem((4,), "regression", 2, metric="explained variance")
READERS = [AttentiveCNP, InContext, Hypernetwork, LSTMMANN, SNAIL, MetaNetworks]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(problem: Problem, n: int = 6, tasks: int = 2, seed: int = 0) -> Batch:
    g = generator(seed)
    x = torch.randn(tasks, n, 4, generator=g, dtype=torch.float64)
    if problem.kind == "classification":
        return Batch(x, torch.arange(n).remainder(3).repeat(tasks, 1))
    return Batch(x, torch.randn(tasks, n, 2, generator=g, dtype=torch.float64))


def predict(method: Method, support: Batch, x: Tensor) -> Tensor:
    with torch.no_grad():
        found = method.adapt(support)(x)
    return found.mean if isinstance(found, Normal) else found  # type: ignore[return-value]


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [CLASSES, NUMBERS], ids=["classes", "numbers"])
@pytest.mark.parametrize("cls", READERS)
def test_query_labels_reach_no_prediction(cls: type[Method], problem: Problem) -> None:
    """Whatever the query's labels, the losses are those of the predictions that are made without them."""
    method = cls(problem).double().train()
    e = Episodes(batch(problem), batch(problem, 5, seed=1))
    made = method.adapt(e.support)(e.query.x)
    other = (e.query.y + 1) % 3 if problem.kind == "classification" else e.query.y.flip(1) * 3 - 1
    for y in (e.query.y, other):
        changed = replace(e, query=replace(e.query, y=y))
        torch.testing.assert_close(method.losses(changed), problem.losses(made, changed.query))
    assert not torch.allclose(method.losses(e), method.losses(replace(e, query=replace(e.query, y=other))))


@pytest.mark.parametrize("cls", READERS)
def test_support_labels_do_reach_predictions(cls: type[Method]) -> None:
    method, support, x = cls(CLASSES).double(), batch(CLASSES), batch(CLASSES, seed=1).x
    other = replace(support, y=support.y.flip(1).roll(1, 1).where(torch.arange(6) < 3, support.y))
    assert not torch.equal(support.y, other.y)
    assert (predict(method, support, x) - predict(method, other, x)).abs().max() > 1e-6


@pytest.mark.parametrize("cls", READERS)
def test_an_absent_class_is_never_chosen(cls: type[Method]) -> None:
    support = batch(CLASSES)
    support = replace(support, weight=(support.y != 1).double())
    logits = predict(cls(CLASSES).double(), support, support.x)
    assert (logits[..., 1] == NEVER).all()
    assert (logits[..., [0, 2]] > NEVER / 2).all()
    e = Episodes(support, support)
    assert known(CLASSES, e).query.weights.sum() == 8


@pytest.mark.parametrize("memory", [True, False])
def test_padding_between_examples_is_skipped_by_sequences(memory: bool) -> None:
    support, x = batch(CLASSES, 7), batch(CLASSES, seed=1).x
    weight = torch.tensor([[1.0, 0, 1, 1, 0, 1, 1], [1.0, 1, 1, 0, 0, 0, 0]]).double()
    for method in (LSTMMANN(CLASSES, memory=memory).double(), SNAIL(CLASSES).double()):
        whole = predict(method, replace(support, weight=weight), x)
        for t in range(2):
            kept = weight[t] > 0
            alone = Batch(support.x[t : t + 1, kept], support.y[t : t + 1, kept])
            torch.testing.assert_close(whole[t : t + 1], predict(method, alone, x[t : t + 1]))


def test_real_examples_come_first_in_their_order() -> None:
    support = Batch(torch.arange(5.0).view(1, 5, 1), torch.arange(5).view(1, 5), torch.tensor([[0.0, 1, 1, 0, 1]]))
    first, length = real_first(support)
    assert first.x.flatten().tolist() == [1, 2, 4, 0, 3]
    assert first.y.flatten().tolist() == [1, 2, 4, 0, 3]
    assert first.weights.tolist() == [[1, 1, 1, 0, 0]]
    assert length.tolist() == [3]


@pytest.mark.parametrize("cls", READERS)
def test_an_encoder_of_ones_own_is_used(cls: type[Method]) -> None:
    encoder = nn.Linear(4, 5)
    method, support = build(cls, CLASSES, 0, encoder=encoder).double(), batch(CLASSES)
    before = predict(method, support, support.x)
    with torch.no_grad():
        encoder.weight.mul_(-2)
    assert (predict(method, support, support.x) - before).abs().max() > 1e-6


# --- attention --------------------------------------------------------------------------------------------------------


def test_attention_is_pytorchs() -> None:
    g = generator()
    q, k, v = (torch.randn(2, n, 8, generator=g, dtype=torch.float64) for n in (3, 5, 5))
    seen = torch.rand(2, 3, 5, generator=g) > 0.3
    seen[..., 0] = True
    cut = lambda a: a.unflatten(-1, (4, 2)).transpose(1, 2)  # noqa: E731
    theirs = F.scaled_dot_product_attention(cut(q), cut(k), cut(v), seen.unsqueeze(1)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(q, k, v, seen, heads=4), theirs)


def test_attention_to_nothing_is_zero() -> None:
    one = torch.ones(1, 2, 4, requires_grad=True)
    out = attend(one, one, one, torch.zeros(1, 2, 2, dtype=torch.bool))
    assert out.eq(0).all()
    assert torch.autograd.grad(out.sum(), one)[0].isfinite().all()


def test_attentive_cnp_with_blunt_keys_is_the_plain_mean() -> None:
    """Keys that are all alike weigh all examples alike: what is left is the conditional neural process."""
    support, x = batch(NUMBERS), batch(NUMBERS, 5, seed=1).x
    method, plain = AttentiveCNP(NUMBERS).double(), CNP(NUMBERS, width=64).double()
    plain.encoder.load_state_dict(method.encoder.state_dict())
    plain.decoder.load_state_dict(method.decoder.state_dict())
    assert (predict(method, support, x) - predict(plain, support, x)).abs().max() > 1e-3
    with torch.no_grad():
        for p in method.key.parameters():
            p.zero_()
    ours, theirs = method.adapt(support)(x), plain.adapt(support)(x)
    assert isinstance(ours, Normal)
    assert isinstance(theirs, Normal)
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.stddev, theirs.stddev)


def test_attentive_cnp_with_sharp_keys_reads_the_nearest_example() -> None:
    """With keys x and a great sharpness, r at an example is that example's own, so that others are without effect."""
    method = AttentiveCNP(NUMBERS, heads=1).double()
    key = nn.Linear(4, 64, bias=False).double()
    with torch.no_grad():
        key.weight.copy_(torch.eye(64, 4) * 100)
    method.key = key  # type: ignore[assignment]
    support = batch(NUMBERS)
    support = replace(support, x=F.normalize(support.x, dim=-1))  # of one length: the nearest key is the largest score
    alone = Batch(support.x[:, :1], support.y[:, :1])
    torch.testing.assert_close(predict(method, support, support.x[:, :1]), predict(method, alone, support.x[:, :1]))


def test_attentive_cnp_looks_at_one_class_at_a_time() -> None:
    """A class's logit depends on its own examples only."""
    method, support, x = AttentiveCNP(CLASSES).double(), batch(CLASSES), batch(CLASSES, seed=1).x
    moved = replace(support, x=support.x + (support.y == 2).unsqueeze(-1))
    before, after = predict(method, support, x), predict(method, moved, x)
    torch.testing.assert_close(before[..., :2], after[..., :2])
    assert (before[..., 2] - after[..., 2]).abs().min() > 1e-6


# --- in context -------------------------------------------------------------------------------------------------------


def test_one_layer_of_linear_attention_by_hand() -> None:
    """All weights zero but the answer's and the embedding's: the answer is a linear map of the normalised query."""
    method = InContext(NUMBERS, layers=1).double()
    with torch.no_grad():
        for p in method.layers.parameters():
            p.zero_()
    support, x = batch(NUMBERS), batch(NUMBERS, 5, seed=1).x
    token = F.layer_norm(F.linear(x, method.read_x.weight), (64,))
    torch.testing.assert_close(predict(method, support, x), F.linear(token, method.answer.weight))


def test_in_context_reads_classes_by_their_means() -> None:
    """Without attention the logits are scaled products with the class means of the normalised tokens."""
    method = InContext(CLASSES, nn.Identity(), layers=1).double()
    with torch.no_grad():
        for p in method.layers.parameters():
            p.zero_()
        method.answer.weight.copy_(torch.eye(64))
    support, x = batch(CLASSES), batch(CLASSES, 5, seed=1).x
    token = lambda x: F.layer_norm(F.linear(x, method.read_x.weight), (64,))  # noqa: E731
    means = torch.stack([token(support.x[:, k::3]).mean(1) for k in range(3)], 1)
    torch.testing.assert_close(predict(method, support, x), token(x) @ means.mT / 8)


def test_who_shares_a_class_matters_to_the_tokens() -> None:
    """The learned number for pairs of one class changes what examples see of each other."""
    method, support, x = InContext(CLASSES).double(), batch(CLASSES), batch(CLASSES, seed=1).x
    before = predict(method, support, x)
    with torch.no_grad():
        dict(method.named_parameters())["layers.0.same"].fill_(2.0)
    assert (predict(method, support, x) - before).abs().max() > 1e-6


class LinearTasks:
    """``y = x'w + noise``, w standard normal: the posterior mean is ridge regression with the noise's variance."""

    problem = Problem((2,), "regression", 1, metric="explained variance")

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        x, w = torch.randn(n, 16, 2, generator=generator), torch.randn(n, 2, 1, generator=generator)
        y = x @ w + 0.3 * torch.randn(n, 16, 1, generator=generator)
        return Episodes(Batch(x[:, :8], y[:, :8]), Batch(x[:, 8:], y[:, 8:]))


@pytest.mark.parametrize(
    "make",
    [
        lambda p, g: InContext(p, width=32, layers=1, generator=g),
        lambda p, g: Hypernetwork(p, generator=g),
        lambda p, g: LSTMMANN(p, width=64, slots=10, generator=g),
    ],
    ids=["in-context", "hypernetwork", "lstm-mann"],
)
def test_learns_linear_regression_from_its_examples(make: Callable[[Problem, torch.Generator], Method]) -> None:
    """Half of the variance of the targets is explained after a few steps, which nobody can who reads no support."""
    family = LinearTasks()
    method = make(family.problem, generator())
    fit(method, family, steps=150, tasks=32, lr=3e-3, generator=generator(1))
    test = family.sample(200, generator(2))
    with torch.no_grad():
        assert float(method.losses(test).mean()) < 0.5 * float(test.query.y.square().mean())


# --- hypernetwork -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [CLASSES, NUMBERS], ids=["classes", "numbers"])
def test_hypernetwork_writes_a_linear_layer(problem: Problem) -> None:
    """In its features the predictor is affine, and each task has a layer of its own."""
    method = Hypernetwork(problem, nn.Identity()).double()
    support, x = batch(problem), batch(problem, 5, seed=1).x
    zero, basis = torch.zeros(2, 1, 4).double(), torch.eye(4).double().expand(2, 4, 4)
    bias = predict(method, support, zero)
    weight = predict(method, support, basis) - bias
    torch.testing.assert_close(predict(method, support, x), x @ weight + bias)
    assert (weight[0] - weight[1]).abs().max() > 1e-6


def test_hypernetwork_that_writes_one_layer_for_all_is_a_pooled_net() -> None:
    method, layer = Hypernetwork(NUMBERS, nn.Identity()).double(), nn.Linear(4, 2).double()
    with torch.no_grad():
        last = list(method.writer.parameters())
        last[-2].zero_()
        last[-1].copy_(torch.cat([layer.weight, layer.bias.unsqueeze(1)], 1).flatten())
    x = batch(NUMBERS, 5, seed=1).x
    torch.testing.assert_close(predict(method, batch(NUMBERS), x), layer(x).detach())


# --- sequences --------------------------------------------------------------------------------------------------------


def test_lstm_without_memory_is_pytorchs_lstm() -> None:
    """One query at a time through ``nn.LSTM``, at the end of the whole sequence."""
    method = LSTMMANN(CLASSES, nn.Identity(), memory=False, width=16).double()
    lstm = nn.LSTM(7, 16, batch_first=True).double()
    lstm.load_state_dict({f"{name}_l0": value for name, value in method.cell.state_dict().items()})
    support, x = batch(CLASSES), batch(CLASSES, 5, seed=1).x
    read = torch.cat([support.x, F.one_hot(support.y, 3)], -1)
    each = [lstm(torch.cat([read, F.pad(x[:, i : i + 1], (0, 3))], 1))[0][:, -1] for i in range(5)]
    torch.testing.assert_close(predict(method, support, x), method.answer(torch.stack(each, 1)).detach())


def test_memory_writes_to_the_slots_used_least() -> None:
    """With the gate on 'least used', the first keys land in slots of their own, each whole."""
    method = LSTMMANN(NUMBERS, slots=4, slot_width=3).double()
    with torch.no_grad():
        method.gate.fill_(-50.0)
    support = batch(NUMBERS, 4)
    x = torch.cat([support.x, F.pad(support.y, (0, 1), value=1.0)], -1)
    state = method._start(x)
    keys = []
    for t in range(4):
        state = method._step(x[:, t], state)
        keys.append(method.key(state[0]).tanh())
    slots = state[3]
    for key in keys:
        distance = (slots - key.unsqueeze(1)).norm(dim=-1).min(1).values
        assert (distance < 1e-12).all()
    fifth = method._step(x[:, 0], state)[3]
    assert ((fifth - slots).norm(dim=-1) > 1e-6).sum(1).tolist() == [1, 1], "one slot gives way, the others stay"


def test_memory_reads_the_slot_that_resembles_the_key() -> None:
    method = LSTMMANN(NUMBERS, slots=3, slot_width=3).double()
    with torch.no_grad():
        method.log_sharpness.fill_(5.0)
    slots = torch.eye(3).double().unsqueeze(0)
    weight = method._look(torch.tensor([[[0.0, 2, 0.1], [3, 0, 0]]]).double(), slots)
    assert weight.argmax(-1).tolist() == [[1, 0]]
    torch.testing.assert_close(weight.amax(-1), torch.ones(1, 2).double())


def test_snail_is_the_plain_sequence_model() -> None:
    """Each query at the end of the whole sequence, through ``conv1d`` and attention with a causal mask."""
    method = SNAIL(CLASSES, nn.Identity(), length=8, filters=5, keys=(6, 7, 8), values=(3, 4, 5)).double()
    support, x = batch(CLASSES, 7), batch(CLASSES, 5, seed=1).x
    read = torch.cat([support.x, F.one_hot(support.y, 3)], -1)
    dilations = []
    for i in range(5):
        z = torch.cat([read, F.pad(x[:, i : i + 1], (0, 3))], 1)
        for block in method._blocks():
            if isinstance(block, _Dense):
                dilations.append(block.dilation)
                taps = torch.stack([block.before.weight, block.now.weight], -1)
                past = F.pad(z.mT, (block.dilation, 0))
                f, g = F.conv1d(past, taps, block.now.bias, dilation=block.dilation).mT.chunk(2, -1)
                z = torch.cat([z, f.tanh() * g.sigmoid()], -1)
            else:
                q, k, v = block.query(z), block.key(z), block.value(z)
                z = torch.cat([z, F.scaled_dot_product_attention(q, k, v, is_causal=True)], -1)
        torch.testing.assert_close(predict(method, support, x)[:, i], method.answer(z[:, -1]).detach())
    assert dilations[:6] == [1, 2, 4, 1, 2, 4]


def test_sequences_depend_on_the_order() -> None:
    support, x = batch(CLASSES), batch(CLASSES, seed=1).x
    back = Batch(support.x.flip(1), support.y.flip(1))
    for method in (SNAIL(CLASSES).double(), LSTMMANN(CLASSES).double()):
        assert (predict(method, support, x) - predict(method, back, x)).abs().max() > 1e-6


# --- meta networks ----------------------------------------------------------------------------------------------------


def zero_maps(method: MetaNetworks, *names: str) -> None:
    with torch.no_grad():
        for name in names:
            for p in method.maps[name].parameters():
                p.zero_()


def test_meta_networks_without_fast_weights_is_the_slow_net() -> None:
    method, support = MetaNetworks(NUMBERS).double(), batch(NUMBERS)
    x = batch(NUMBERS, 5, seed=1).x
    assert (predict(method, support, x) - method.head(method.hidden(x).relu())).abs().max() > 1e-6
    zero_maps(method, "hidden", "head")
    torch.testing.assert_close(predict(method, support, x), method.head(method.hidden(x).relu()).detach())


def test_meta_information_is_each_examples_own_gradient() -> None:
    """Against backward through one example at a time."""
    method, support = MetaNetworks(CLASSES, nn.Identity()).double(), batch(CLASSES)
    params = {"hidden": method.hidden.weight, "head": method.head.weight}
    found = method._gradients(method._base, params, support.x, support)
    for t in range(2):
        for i in range(6):
            logits = method.head(method.hidden(support.x[t, i : i + 1]).relu())
            loss = F.cross_entropy(logits, support.y[t, i : i + 1])
            expected = torch.autograd.grad(loss, [method.hidden.weight, method.head.weight])
            torch.testing.assert_close(found["hidden"][t, i], expected[0])
            torch.testing.assert_close(found["head"][t, i], expected[1])


def test_fast_weights_are_mixed_by_attention() -> None:
    """Written out: the weights themselves are mixed, query by query."""
    method, support = MetaNetworks(NUMBERS).double(), batch(NUMBERS)
    x = batch(NUMBERS, 5, seed=1).x
    params = {"hidden": method.hidden.weight, "head": method.head.weight}
    taught = method._gradients(method._judged, {"embedding": method.embedding.weight}, support.x, support)
    base = method._gradients(method._base, params, support.x, support)
    found = predict(method, support, x)
    for t in range(2):
        fast_q = method.maps["embedding"](taught["embedding"][t]).mean(0)
        u = lambda z, fast_q=fast_q: (method.embedding(z).relu() + F.linear(z, fast_q).relu()).detach()  # noqa: E731
        for j in range(5):
            similar = F.cosine_similarity(u(x[t, j]), u(support.x[t]), dim=-1)
            a = (method.log_sharpness.exp() * similar).softmax(0)
            w = {k: (a.view(-1, 1, 1) * method.maps[k](base[k][t])).sum(0) for k in base}
            hidden = method.hidden(x[t, j]).relu() + F.linear(x[t, j], w["hidden"]).relu()
            expected = method.head(hidden) + F.linear(hidden, w["head"])
            torch.testing.assert_close(found[t, j], expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_gradient_map_is_continuous_where_its_two_forms_meet() -> None:
    method = MetaNetworks(NUMBERS).double()
    edge = torch.tensor([-7.0]).double().exp()
    near = torch.cat([edge * (1 - 1e-9), edge * (1 + 1e-9)])
    for sign in (1, -1):
        below, above = method.maps["head"](sign * near)
        torch.testing.assert_close(below, above, rtol=1e-6, atol=1e-8)
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(method.maps["head"](zero).sum(), zero)[0].isfinite().all()


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="divide width = 64.*Found 5"):
        InContext(NUMBERS, heads=5)
    with pytest.raises(InputError, match="divide width = 64.*Found 7"):
        AttentiveCNP(NUMBERS, heads=7)
    with pytest.raises(InputError, match="at least 2 slots. Found 1"):
        LSTMMANN(NUMBERS, slots=1)
    with pytest.raises(InputError, match="at least 2.*Found 1"):
        SNAIL(NUMBERS, length=1)
