"""Graph neural networks: against a matching network, loops over nodes, and a rule that no vote can follow."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Problem
from quickstudy.methods import Graph, Matching, NearestNeighbour
from quickstudy.methods._embed import NEVER
from quickstudy.nets import Conv4
from quickstudy.training import fit, task_scores

CLASSES = Problem((2,), "classification", 3, shared_labels=False)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(seed: int, n: int = 9, tasks: int = 2) -> Batch:
    return Batch(draw(tasks, n, 2, seed=seed), torch.arange(n).remainder(3).repeat(tasks, 1))


def predict(method: Method, support: Batch, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits = method.adapt(support)(x)
    assert isinstance(logits, Tensor)
    return logits


def by_hand(sharpness: float) -> Graph:
    """One layer whose edges are -s times the L1 distance of the inputs, and which passes labels on."""
    method = Graph(CLASSES, nn.Identity(), features=2, layers=0, hidden=(4,)).double().eval()
    edges, message = method.edges[0], method.messages[0]
    assert isinstance(edges, nn.Sequential) and isinstance(message, nn.Linear)
    for norm in (method.project[1], edges[1]):
        assert isinstance(norm, nn.BatchNorm1d)
        norm.eps = 0.0  # running mean 0 and variance 1: an identity
    start, first, last = method.project[0], edges[0], edges[3]
    assert isinstance(start, nn.Linear) and isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    with torch.no_grad():
        for part in (start, first, last, message):
            part.weight.zero_()
            part.bias.zero_()
        start.weight.copy_(torch.eye(2))
        first.weight[0, :2] = 1.0  # the inputs' part of a node, and not the labels'
        last.weight[0, 0] = -sharpness
        message.weight[:, 5 + 2 :] = torch.eye(3)  # the labels' part of what was heard
    return method


def test_one_layer_by_hand_is_a_soft_nearest_neighbour() -> None:
    support = Batch(draw(2, 7, 2), torch.tensor([[0, 1, 2, 0, 1, 2, 0]]).repeat(2, 1), torch.ones(2, 7).double())
    support.weights[1, 3] = 0.0
    query = batch(1)
    found = predict(by_hand(1.5), support, query.x)
    for t in range(2):
        real = support.weights[t] > 0
        for q in range(9):
            far = (support.x[t] - query.x[t, q]).abs().sum(-1)
            votes = (-1.5 * far[real]).softmax(0)
            expected = torch.zeros(3).double().index_add(0, support.y[t][real], votes)
            torch.testing.assert_close(found[t, q], expected)


def test_sharp_edges_by_hand_are_the_nearest_neighbour() -> None:
    """In L1; on a line that is any distance."""
    support, query = batch(0, n=30), batch(1, n=60)
    line = torch.tensor([1.0, 0.0]).double()
    support = Batch(support.x * line, support.y)
    nearest = NearestNeighbour(CLASSES, metric="euclidean")
    found = predict(by_hand(1e4), support, query.x * line)
    assert torch.equal(found.argmax(-1), predict(nearest, support, query.x * line).argmax(-1))


def test_messages_as_loops_over_nodes() -> None:
    """Two layers of random weights, node by node and edge by edge."""
    method = Graph(CLASSES, nn.Identity(), features=4, layers=1, width=3, hidden=(5,)).double().eval()
    support, query = batch(0, n=5), batch(1, n=2)
    found = predict(method, support, query.x)
    embedded = lambda x: method.project(x[None])[0]  # noqa: E731
    third = torch.full((3,), 1 / 3).double()
    with torch.no_grad():
        for t in range(2):
            for q in range(2):
                nodes = [torch.cat([embedded(query.x[t, q]), third])]
                nodes += [
                    torch.cat([embedded(x), F.one_hot(y, 3)]) for x, y in zip(support.x[t], support.y[t], strict=True)
                ]
                for layer in range(2):
                    new = []
                    for i, one in enumerate(nodes):
                        others = [other for j, other in enumerate(nodes) if j != i]
                        score = torch.stack([method.edges[layer]((one - other).abs()[None])[0, 0] for other in others])
                        heard = (score.softmax(0)[:, None] * torch.stack(others)).sum(0)
                        new.append(method.messages[layer](torch.cat([one, heard])[None])[0])
                    nodes = [torch.cat([one, more]) for one, more in zip(nodes, new, strict=True)]
                torch.testing.assert_close(found[t, q], nodes[0][-3:])


def test_a_first_layer_lets_support_examples_speak_to_each_other() -> None:
    """Another example of the support changes what a query hears from the rest: not so in a matching network."""
    g = torch.Generator().manual_seed(0)
    support, query = batch(0, n=6), batch(1, n=1)
    moved = Batch(support.x.clone(), support.y)
    moved.x[:, 5] += 3.0  # of class 2
    graph, matching = Graph(CLASSES, generator=g).double().eval(), Matching(CLASSES, generator=g).double().eval()
    odds = lambda method, s: predict(method, s, query.x)[..., 0] - predict(method, s, query.x)[..., 1]  # noqa: E731
    torch.testing.assert_close(odds(matching, moved), odds(matching, support))
    assert (odds(graph, moved) - odds(graph, support)).abs().max() > 1e-3


def test_a_query_without_support_is_answered_and_chooses_nothing() -> None:
    support = Batch(draw(1, 3, 2), torch.arange(3)[None], torch.zeros(1, 3).double())
    logits = predict(Graph(CLASSES).double().eval(), support, draw(1, 2, 2))
    assert bool((logits == NEVER).all())


def test_the_size_of_an_encoder_is_found_without_touching_it() -> None:
    problem = Problem((1, 12, 12), "classification", 3, shared_labels=False)
    encoder = Conv4(1, 8)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    method = Graph(problem, encoder, features=6)
    assert method.project[0].in_features == 8
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


class Crossed:
    """Two classes of two blobs each at the corners of a square, crossed: their means fall together."""

    problem = Problem((2,), "classification", 2, shared_labels=False)

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        turn = 2 * math.pi * torch.rand(n, 1, generator=generator)
        corner = torch.arange(8).remainder(4)
        angle = turn + corner * math.pi / 2
        middle = 3 * torch.stack([angle.cos(), angle.sin()], -1)

        def half() -> Batch:
            return Batch(
                middle + 0.5 * torch.randn(middle.shape, generator=generator), corner.remainder(2).repeat(n, 1)
            )

        return Episodes(half(), half())


def test_classes_of_two_blobs_are_learned() -> None:
    family = Crossed()
    method = Graph(Crossed.problem, features=8, layers=1, hidden=(16,), generator=torch.Generator().manual_seed(0))
    fit(method, family, steps=100, tasks=8, lr=1e-2, generator=torch.Generator().manual_seed(1))
    test = family.sample(100, torch.Generator().manual_seed(2))
    assert float(task_scores(method, test).mean()) > 0.93
