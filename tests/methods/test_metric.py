"""Prototypes, nearest neighbours and the conditional neural process against what one works out by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from quickstudy.core import Batch, InputError, Problem
from quickstudy.methods import CNP, NearestNeighbour, Prototypical
from quickstudy.tasks.toy import Sinusoids
from quickstudy.training import fit

CLASSES = Problem((2,), "classification", 3, shared_labels=False)
NUMBERS = Problem((2,), "regression", 1, metric="explained variance")


def batch(generator: torch.Generator, n: int = 9) -> Batch:
    x = torch.randn(2, n, 2, generator=generator, dtype=torch.float64)
    return Batch(x, torch.arange(n).remainder(3).repeat(2, 1))


def test_prototypes_are_class_means_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    support, query = batch(g), batch(g)
    logits = Prototypical(CLASSES, nn.Identity()).adapt(support)(query.x)
    assert isinstance(logits, Tensor)
    for t in range(2):
        for k in range(3):
            centre = support.x[t][support.y[t] == k].mean(0)
            torch.testing.assert_close(logits[t, :, k], -(query.x[t] - centre).square().sum(-1))


def test_prototypes_are_a_linear_classifier() -> None:
    """Snell et al. 2017, eq. 8: up to what all classes share, the logit is ``2 c_k'x - |c_k|^2``."""
    g = torch.Generator().manual_seed(0)
    support, query = batch(g), batch(g)
    logits = Prototypical(CLASSES, nn.Identity()).adapt(support)(query.x)
    assert isinstance(logits, Tensor)
    centres = torch.stack([support.x[:, k::3].mean(1) for k in range(3)], 1)
    linear = 2 * query.x @ centres.mT - centres.square().sum(-1).unsqueeze(1)
    torch.testing.assert_close(logits.softmax(-1), linear.softmax(-1))


def line(*values: float) -> Tensor:
    """One task, points on a line. Shape: ``[1, n, 2]``."""
    return torch.tensor([[[v, 0.0] for v in values]])


def test_nearest_value_by_hand() -> None:
    support = Batch(line(0, 1, 10), torch.tensor([[[1.0], [3.0], [100.0]]]))
    near = NearestNeighbour(NUMBERS, metric="euclidean", k=1).adapt(support)(line(0.2, 0.7, 8))
    assert isinstance(near, Tensor)
    assert near.flatten().tolist() == [1.0, 3.0, 100.0]
    mean = NearestNeighbour(NUMBERS, metric="euclidean", k=2).adapt(support)(line(0.2))
    assert isinstance(mean, Tensor)
    assert mean.item() == 2.0


def test_padding_is_nobodys_neighbour() -> None:
    support = Batch(line(0, 1, 10), torch.tensor([[[1.0], [3.0], [100.0]]]), torch.tensor([[1.0, 0.0, 1.0]]))
    near = NearestNeighbour(NUMBERS, metric="euclidean", k=1).adapt(support)(line(0.9))
    every = NearestNeighbour(NUMBERS, metric="euclidean", k=3).adapt(support)(line(0.9))
    assert isinstance(near, Tensor)
    assert isinstance(every, Tensor)
    assert near.item() == 1.0
    assert every.item() == 50.5, "two real examples vote when three are asked for"


def test_nearest_label_by_hand() -> None:
    support = Batch(line(0, 1, 1.5, 10), torch.tensor([[0, 1, 1, 2]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    one = NearestNeighbour(CLASSES, metric="euclidean", k=1).adapt(support)(line(0.3, 0.8, 20))
    three = NearestNeighbour(CLASSES, metric="euclidean", k=3).adapt(support)(line(0.3))
    two = NearestNeighbour(CLASSES, metric="euclidean", k=2).adapt(support)(line(0.3))
    assert isinstance(one, Tensor)
    assert isinstance(two, Tensor)
    assert isinstance(three, Tensor)
    assert one.argmax(-1).tolist() == [[0, 1, 1]], "class 2 has padding only"
    assert three.argmax(-1).tolist() == [[1]], "the majority of three"
    assert two.argmax(-1).tolist() == [[0]], "one vote each: the nearer class"


def test_cosine_ignores_length() -> None:
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    support, query = Batch(x, torch.tensor([[0, 1]])), torch.tensor([[[0.1, 0.09], [9.0, 9.1]]])
    logits = NearestNeighbour(CLASSES, metric="cosine").adapt(support)(query)
    assert isinstance(logits, Tensor)
    assert logits.argmax(-1).tolist() == [[0, 1]]


def test_cnp_does_not_see_the_order_of_examples() -> None:
    g = torch.Generator().manual_seed(0)
    support = Batch(torch.randn(2, 7, 2, generator=g), torch.randn(2, 7, 1, generator=g))
    x, order = torch.randn(2, 5, 2, generator=g), torch.randperm(7, generator=g)
    method = CNP(NUMBERS, generator=g)
    one, two = (method.adapt(s)(x) for s in (support, Batch(support.x[:, order], support.y[:, order])))
    assert isinstance(one, Normal)
    assert isinstance(two, Normal)
    torch.testing.assert_close(one.mean, two.mean)
    torch.testing.assert_close(one.stddev, two.stddev)
    assert (one.stddev >= 0.1).all()


def test_cnp_swaps_its_logits_with_the_labels() -> None:
    g = torch.Generator().manual_seed(0)
    support, query = batch(g), batch(g)
    method = CNP(CLASSES, generator=g).double()
    swap = torch.tensor([2, 0, 1])
    logits = method.adapt(support)(query.x)
    swapped = method.adapt(Batch(support.x, swap[support.y]))(query.x)
    assert isinstance(logits, Tensor)
    assert isinstance(swapped, Tensor)
    torch.testing.assert_close(swapped[..., swap], logits)


def test_cnp_learns_sinusoids() -> None:
    """Better than the best constant: the loss falls below that of a Normal of the targets' own mean and width."""
    family = Sinusoids(shots=10, queries=10)
    method = CNP(family.problem, generator=torch.Generator().manual_seed(0))
    fit(method, family, steps=300, tasks=32, lr=2e-3, generator=torch.Generator().manual_seed(1))
    test = family.sample(200, torch.Generator().manual_seed(2))
    y = test.query.y
    constant = -Normal(y.mean(), y.std()).log_prob(y).mean()
    assert float(method.losses(test).mean().detach()) < float(constant) - 0.3


def test_a_bad_metric_is_named() -> None:
    with pytest.raises(InputError, match="'cosine' or 'euclidean'.*'manhattan'"):
        NearestNeighbour(NUMBERS, metric="manhattan")  # type: ignore[arg-type]
