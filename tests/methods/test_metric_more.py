"""Siamese, matching, relation networks, infinite mixtures, soft k-means: against loops, limits and known truths."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis, skew
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, InputError, Method, Problem
from quickstudy.methods import (
    InfiniteMixture,
    Matching,
    NearestNeighbour,
    Prototypical,
    Relation,
    SemiSupervisedProto,
    Siamese,
)
from quickstudy.methods._embed import NEVER
from quickstudy.methods.metric.semi_supervised import Refinement
from quickstudy.testing import check_method
from quickstudy.testing._cases import PROBLEMS, Case, made_up
from quickstudy.testing._law import precision
from quickstudy.testing.methods import METHOD_LAWS, support_order_is_without_effect

CLASSES = Problem((2,), "classification", 3, shared_labels=False)
REFINEMENTS: tuple[Refinement, ...] = ("soft", "cluster", "masked")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(seed: int, n: int = 9, tasks: int = 2) -> Batch:
    return Batch(draw(tasks, n, 2, seed=seed), torch.arange(n).remainder(3).repeat(tasks, 1))


def predict(method: Method, support: Batch, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits = method.adapt(support)(x)
    assert isinstance(logits, Tensor)
    return logits


# --- siamese ----------------------------------------------------------------------------------------------------------


def test_siamese_takes_the_best_match_by_hand() -> None:
    method = Siamese(CLASSES, width=4).double().eval()
    method.alpha.weight.data = draw(1, 4, seed=5)
    support, query = batch(0), batch(1)
    found = predict(method, support, query.x)
    h = lambda x: torch.sigmoid(method.units(method.encoder(x[None])))[0]  # noqa: E731
    for t in range(2):
        for q in range(9):
            odds = [float(method.alpha((h(query.x[t, q]) - h(x)).abs()).detach()) for x in support.x[t]]
            for k in range(3):
                best = max(o for o, y in zip(odds, support.y[t].tolist(), strict=True) if y == k)
                assert float(found[t, q, k]) == pytest.approx(best)


def test_siamese_weighs_same_and_different_pairs_alike() -> None:
    """A verifier blind to its inputs, with log-odds b for every pair, loses half of each kind's loss."""
    method = Siamese(CLASSES).double()
    b = 0.7
    method.alpha.weight.data.zero_()
    method.alpha.bias.data.fill_(b)
    uneven = Batch(draw(1, 9, 2), torch.tensor([[0, 0, 0, 0, 0, 0, 0, 1, 2]]), torch.tensor([[1.0] * 8 + [0.0]]))
    losses = method.losses(Episodes(uneven, batch(1, tasks=1)))
    assert float(losses.detach()) == pytest.approx((math.log1p(math.exp(-b)) + math.log1p(math.exp(b))) / 2)


# --- matching ---------------------------------------------------------------------------------------------------------


def test_matching_sums_attention_over_a_class_by_hand() -> None:
    method = Matching(CLASSES, scale=3.0).double().eval()
    support, query = batch(0, n=7), batch(1)
    found = predict(method, support, query.x).softmax(-1)
    f = lambda x: method.encoder(x[None])[0]  # noqa: E731
    for t in range(2):
        for q in range(9):
            cosine = torch.stack([torch.cosine_similarity(f(query.x[t, q]), f(x), dim=0) for x in support.x[t]])
            attention = (3.0 * cosine).softmax(0)
            votes = torch.zeros(3, dtype=torch.float64).index_add(0, support.y[t], attention)
            torch.testing.assert_close(found[t, q], votes)


def test_full_context_reads_as_a_bidirectional_lstm_does() -> None:
    method = Matching(CLASSES, full_context=True).double()
    x = draw(2, 5, 64)
    oracle = nn.LSTM(64, 64, batch_first=True, bidirectional=True).double()
    for name, value in oracle.named_parameters():
        cell = method.backwards if name.endswith("_reverse") else method.forwards
        value.data = cell.get_parameter(name.replace("_l0", "").removesuffix("_reverse")).data
    real = torch.ones(2, 5, dtype=torch.bool)
    both = torch.cat([method._read(method.forwards, x, real), method._read(method.backwards, x, real, True)], -1)
    torch.testing.assert_close(both, oracle(x)[0])
    # padding anywhere is as if it were not there
    real[:, 2] = False
    kept = [0, 1, 3, 4]
    without = method._read(method.backwards, x[:, kept], real[:, kept], True)
    torch.testing.assert_close(method._read(method.backwards, x, real, True)[:, kept], without)


def test_attention_of_full_context_by_hand() -> None:
    method = Matching(CLASSES, full_context=True, steps=2).double()
    x, known = draw(1, 1, 64), draw(1, 4, 64, seed=1)
    h = c = r = torch.zeros(1, 64, dtype=torch.float64)
    for _ in range(2):
        out, c = method.attend(torch.cat([x[0], r], -1), (h, c))
        h = out + x[0]
        r = (known[0] @ h[0]).softmax(0)[None] @ known[0]
    torch.testing.assert_close(method._attend(x, known, torch.ones(1, 4).bool())[0], h)


def test_context_that_says_nothing_leaves_plain_matching() -> None:
    """LSTMs whose weights are all zero put out zero."""
    plain, full = Matching(CLASSES).double(), Matching(CLASSES, full_context=True).double()
    for name, value in full.named_parameters():
        if not name.startswith("encoder"):
            value.data.zero_()
    support, query = batch(0), batch(1)
    torch.testing.assert_close(predict(full, support, query.x), predict(plain, support, query.x))


@pytest.mark.parametrize("on", ["class episodes", "tables of classes"])
def test_full_context_obeys_the_laws_and_sees_the_order(on: str) -> None:
    make = lambda problem: Matching(problem, full_context=True, steps=2)  # noqa: E731
    check_method(make, PROBLEMS[on])
    assert Matching(CLASSES).order_free

    def claims(problem: Problem) -> Method:
        method = make(problem)
        method.order_free = True
        return method

    case = Case(on, claims, PROBLEMS[on], made_up(PROBLEMS[on], torch.Generator().manual_seed(3)))
    with precision(torch.float64), pytest.raises(Exception, match="another order"):
        support_order_is_without_effect(case)


# --- relation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["class episodes", "images"])
def test_relation_compares_each_pair_by_hand(on: str) -> None:
    problem = PROBLEMS[on]
    with precision(torch.float64):
        episodes = made_up(problem, torch.Generator().manual_seed(0)).tasks(slice(0, 2))
    method = Relation(problem, width=4).double().eval()
    found = predict(method, episodes.support, episodes.query.x)
    n = problem.n_outputs
    expected = torch.zeros_like(found)
    with torch.no_grad():
        for t in range(2):
            for k in range(n):
                mean = method.encoder(episodes.support.x[t][episodes.support.y[t] == k]).mean(0)
                for q in range(episodes.query.n):
                    h = method.encoder(episodes.query.x[t, q][None])[0]
                    expected[t, q, k] = method.compare(torch.cat([h, mean])[None])[0, 0]
        torch.testing.assert_close(found, expected)
        right = torch.eye(n)[episodes.query.y]
        losses = (torch.sigmoid(expected) - right).square().mean((1, 2))
        torch.testing.assert_close(method.losses(episodes), losses)


# --- infinite mixture -------------------------------------------------------------------------------------------------


def line(*values: float) -> Tensor:
    return torch.tensor([[[v, 0.0] for v in values]], dtype=torch.float64)


def test_one_cluster_a_class_is_a_prototypical_network() -> None:
    support, query = batch(0), batch(1)
    one = InfiniteMixture(CLASSES, nn.Identity(), alpha=1e-100).double()
    prototypes = Prototypical(CLASSES, nn.Identity())
    torch.testing.assert_close(predict(one, support, query.x), predict(prototypes, support, query.x))
    several = InfiniteMixture(CLASSES, nn.Identity(), alpha=2.0).double()
    assert (predict(several, support, query.x) - predict(prototypes, support, query.x)).abs().max() > 0.1


def test_a_cluster_an_example_is_a_nearest_neighbour() -> None:
    support, query = batch(0, n=30), batch(1, n=60)
    each = InfiniteMixture(CLASSES, nn.Identity(), alpha=1e30, sigma=1e-4).double()
    nearest = NearestNeighbour(CLASSES, metric="euclidean")
    assert torch.equal(predict(each, support, query.x).argmax(-1), predict(nearest, support, query.x).argmax(-1))
    prototypes = Prototypical(CLASSES, nn.Identity())
    assert not torch.equal(predict(each, support, query.x).argmax(-1), predict(prototypes, support, query.x).argmax(-1))


def test_far_examples_found_clusters_by_hand() -> None:
    """Class 0 at -10, -9.9, 10, 10.1 (mean .05), class 1 at 0: one cluster at each end, none left in the middle."""
    support = Batch(line(-10, -9.9, 10, 10.1, 0.2, -0.2), torch.tensor([[0, 0, 0, 0, 1, 1]]))
    method = InfiniteMixture(replace(CLASSES, n_outputs=2), nn.Identity()).double()
    logits = predict(method, support, line(-9, 0.05, 10))
    # sigma is 1/2: minus the squared distances from -9.95, 10.05 and 0
    expected = torch.tensor([[[-(0.95**2), -81.0], [-(10.0**2), -(0.05**2)], [-(0.05**2), -100.0]]]).double()
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-3)


def test_a_class_of_two_blobs_is_learned_where_one_prototype_fails() -> None:
    """Classes 0 and 1 have two blobs each, crossed, so that their means fall together."""
    corners = torch.tensor([[[5.0, 5], [-5, -5]], [[5, -5], [-5, 5]]], dtype=torch.float64)
    problem = replace(CLASSES, n_outputs=2)

    def blobs(seed: int) -> Batch:
        y = torch.arange(20).remainder(2).repeat(10, 1)
        which = torch.arange(20).div(2, rounding_mode="floor").remainder(2).repeat(10, 1)
        return Batch(corners[y, which] + draw(10, 20, 2, seed=seed), y)

    support, query = blobs(0), blobs(1)
    score = lambda method: float(problem.scores(predict(method, support, query.x), query).mean())  # noqa: E731
    assert score(InfiniteMixture(problem, nn.Identity()).double()) > 0.98
    assert score(Prototypical(problem, nn.Identity())) < 0.75


# --- unlabelled examples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refinement", REFINEMENTS)
@pytest.mark.parametrize("none", [True, False])
def test_without_unlabelled_examples_all_are_prototypical_networks(refinement: Refinement, none: bool) -> None:
    episodes = Episodes(batch(0), batch(1))
    plain = Prototypical(CLASSES).double()
    method = SemiSupervisedProto(CLASSES, refinement=refinement).double()
    support = episodes.support if none else replace(episodes.support, unlabelled=draw(2, 0, 2))
    assert torch.equal(predict(method, support, episodes.query.x), predict(plain, support, episodes.query.x))
    losses = [m.losses(Episodes(support, episodes.query)) for m in (method, plain)]
    assert torch.equal(*losses)
    gradients = []
    for loss, m in zip(losses, (method, plain), strict=True):
        encoder = [p for name, p in m.named_parameters() if name.startswith("encoder")]
        gradients.append(torch.autograd.grad(loss.sum(), encoder))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_soft_k_means_by_hand(refinement: Refinement) -> None:
    """The formulas of the paper, in loops, for two steps."""
    support = replace(batch(0, n=7), weight=torch.tensor([[1.0] * 6 + [0.0], [1.0] * 7]).double())
    more, query = draw(2, 5, 2, seed=2), batch(1)
    method = SemiSupervisedProto(CLASSES, nn.Identity(), refinement=refinement, steps=2).double()
    beta, gamma, radius = 0.9, 2.5, 1.3
    if refinement == "masked":
        last = method.mask[2]
        assert isinstance(last, nn.Linear)
        last.weight.data.zero_()
        last.bias.data = torch.tensor([math.log(beta), math.log(gamma)], dtype=torch.float64)
    if refinement == "cluster":
        method.log_radius.data.fill_(math.log(radius))
    found = predict(method, replace(support, unlabelled=more), query.x)
    for t in range(2):
        h = [support.x[t][(support.y[t] == k) & (support.weights[t] > 0)] for k in range(3)]
        p = [part.mean(0) for part in h]
        for _ in range(2):
            d = torch.stack([(more[t] - c).square().sum(-1) for c in p], -1)
            z = (-d).exp()
            if refinement == "cluster":
                other = (-more[t].square().sum(-1) / radius**2).exp() / radius
                z = z / (z.sum(-1) + other).unsqueeze(-1)
            else:
                z = z / z.sum(-1, keepdim=True)
            if refinement == "masked":
                z = z / (1 + (gamma * (d / d.mean(0) - beta)).exp())
            p = [(h[k].sum(0) + (z[:, k, None] * more[t]).sum(0)) / (len(h[k]) + z[:, k].sum()) for k in range(3)]
        expected = torch.stack([-(query.x[t] - c).square().sum(-1) for c in p], -1)
        torch.testing.assert_close(found[t], expected)


def test_the_mask_reads_the_moments_of_the_distances() -> None:
    method = SemiSupervisedProto(CLASSES, nn.Identity(), refinement="masked").double()
    method.mask = nn.Sequential(nn.Identity())
    more, prototypes = draw(1, 8, 2), draw(1, 3, 2, seed=1)
    facts = method._cut(more, prototypes).log()[0].numpy()
    for k in range(3):
        d = (more[0] - prototypes[0, k]).square().sum(-1).numpy()
        d = d / d.mean()
        np.testing.assert_allclose(facts[k], [d.min(), d.max(), d.var(), skew(d), kurtosis(d)], rtol=1e-9)


def test_far_apart_clusters_are_found_whole() -> None:
    """Prototypes become the means of all examples of a cluster, labelled or not, though one each is labelled."""
    centres = 20 * torch.eye(3, 2, dtype=torch.float64)
    y = torch.arange(15).remainder(3)
    every = centres[y] + draw(1, 15, 2)
    support = Batch(every[:, :3], y[None, :3], unlabelled=every[:, 3:])
    method = SemiSupervisedProto(CLASSES, nn.Identity(), refinement="soft").double()
    means = torch.stack([every[0, k::3].mean(0) for k in range(3)])[None]
    assert predict(method, support, means)[0].diagonal().abs().max() < 1e-9
    assert predict(method, replace(support, unlabelled=None), means)[0].diagonal().abs().max() > 0.1


def test_a_cluster_at_the_origin_takes_distractors_in() -> None:
    """Distractors around the origin pull soft prototypes towards it, and leave those with a cluster alone."""
    centres = torch.tensor([[8.0, 0], [0, 8], [-8, 0]], dtype=torch.float64)
    support = Batch(centres[None], torch.arange(3)[None], unlabelled=draw(1, 30, 2))
    soft = SemiSupervisedProto(CLASSES, nn.Identity(), refinement="soft").double()
    cluster = SemiSupervisedProto(CLASSES, nn.Identity(), refinement="cluster").double()
    moved = [-predict(m, support, centres[None])[0].diagonal().max().item() for m in (soft, cluster)]
    assert moved[0] > 1 and moved[1] < 1e-6


@pytest.mark.parametrize("refinement", REFINEMENTS)
@pytest.mark.parametrize("on", ["class episodes", "images", "tables of classes"])
def test_the_laws_hold_with_unlabelled_examples(refinement: Refinement, on: str) -> None:
    problem = PROBLEMS[on]
    episodes = made_up(problem, torch.Generator().manual_seed(3))
    more = made_up(problem, torch.Generator().manual_seed(4)).query.x
    episodes = replace(episodes, support=replace(episodes.support, unlabelled=more))
    case = Case(on, lambda p: SemiSupervisedProto(p, refinement=refinement), problem, episodes)
    with precision(torch.float64):
        for law in METHOD_LAWS:
            law(case)
        method = case.method()
        shuffled = replace(episodes.support, unlabelled=more.flip(1))
        other = replace(episodes.support, unlabelled=1 - more)
        logits = [predict(method, s, episodes.query.x) for s in (episodes.support, shuffled, other)]
        torch.testing.assert_close(logits[0], logits[1])
        assert (logits[0] - logits[2]).abs().max() > 1e-3, "they count"
        lost = replace(episodes.support, weight=episodes.support.weights * (episodes.support.y > 0))
        assert bool((predict(method, lost, episodes.query.x)[..., 0] == NEVER).all())


def test_the_mask_and_the_radius_learn() -> None:
    """Both have a gradient where there are unlabelled examples."""
    episodes = Episodes(replace(batch(0), unlabelled=draw(2, 6, 2, seed=2)), batch(1))
    for refinement in REFINEMENTS[1:]:
        method = SemiSupervisedProto(CLASSES, nn.Identity(), refinement=refinement).double()
        if refinement == "cluster":
            method.log_radius.data.zero_()
        method.losses(episodes).sum().backward()
        own = [p for name, p in method.named_parameters() if not name.startswith("encoder")]
        assert own and all(p.grad is not None and bool(p.grad.any()) for p in own)


def test_an_unknown_refinement_is_named() -> None:
    with pytest.raises(InputError, match="'soft', 'cluster' or 'masked'.*'hard'"):
        SemiSupervisedProto(CLASSES, refinement="hard")  # type: ignore[arg-type]
