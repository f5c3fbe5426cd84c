"""Active matching: hidden labels stay hidden, the policy's gradient is the exact one, hand-set weights go far first."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Problem
from quickstudy.methods import ActiveMatching
from quickstudy.methods.metric.active_matching import Reading, advantages
from quickstudy.training import fit

CLASSES = Problem((4,), "classification", 3, shared_labels=False)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pool(seed: int = 0, n: int = 9, tasks: int = 2) -> Batch:
    return Batch(draw(tasks, n, 4, seed=seed), torch.arange(n).remainder(3).repeat(tasks, 1))


def predict(method: Method, support: Batch, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits = method.adapt(support)(x)
    assert isinstance(logits, Tensor)
    return logits


def make(**settings: int) -> ActiveMatching:
    return ActiveMatching(CLASSES, nn.Identity(), **settings).double().eval()  # type: ignore[arg-type]


def likeliest(score: Tensor) -> Tensor:
    return score.argmax(1)


def forced(*items: int) -> Callable[[Tensor], Tensor]:
    """Choose these items, one after another, in every task."""
    rest = list(items)
    return lambda score: torch.full((len(score),), rest.pop(0))


def far_first(method: ActiveMatching) -> None:
    """Set the weights by hand: whatever the state, want what is least like the most similar known item."""
    with torch.no_grad():
        for part in (method.gate, method.score):
            part.weight.zero_()
        method.gate.bias.fill_(20.0)  # all gates are open
        method.score.weight[0, 0] = -50.0


@pytest.mark.parametrize("budget", [1, 3, 5])
def test_labels_that_were_not_asked_for_are_not_known(budget: int) -> None:
    method, support, query = make(budget=budget), pool(), draw(2, 4, 4, seed=1)
    known = method.explore(support, likeliest).known
    assert known.sum(1).tolist() == [budget, budget]
    hidden = replace(support, y=support.y.where(known, (support.y + 1) % 3))
    assert torch.equal(predict(method, hidden, query), predict(method, support, query))
    told = replace(support, y=support.y.where(~known, (support.y + 1) % 3))
    assert (predict(method, told, query) - predict(method, support, query)).abs().max() > 1e-3


def test_a_budget_beyond_the_pool_reads_all_of_it() -> None:
    support = replace(pool(n=4), weight=torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 1]]).double())
    with torch.no_grad():
        reading = make(budget=9).explore(support, likeliest)
    assert torch.equal(reading.known, support.weights > 0)
    assert reading.log_policy.shape == (2, 4)
    assert float(reading.log_policy[0, 3]) == 0 and float(reading.value[0, 3]) == 0, "nothing is left to choose"


def test_the_budget_may_change_after_training() -> None:
    method, support, query = make(), pool(), draw(2, 4, 4, seed=1)
    assert method.budget == 3
    before = predict(method, support, query)
    method.budget = 6
    assert method.explore(support, likeliest).known.sum(1).tolist() == [6, 6]
    assert not torch.equal(predict(method, support, query), before)


def test_hand_set_weights_choose_the_least_similar() -> None:
    method, support = make(budget=4), pool(n=12)
    far_first(method)
    known = method.explore(support, likeliest).known
    method.budget = 1
    # what the first is, is left to the method: nothing is known that could be far
    chosen = method.explore(support, likeliest).known
    unit = F.normalize(support.x, dim=-1)
    for t in range(2):
        mine = chosen[t].nonzero().flatten().tolist()
        for _ in range(3):
            largest = (unit[t] @ unit[t, mine].T).amax(1)
            largest[mine] = 2.0
            mine.append(int(largest.argmin()))
        assert sorted(mine) == known[t].nonzero().flatten().tolist()


def clusters(n: int, each: int, seed: int, ways: int = 3) -> Episodes:
    """Classes around directions that are at right angles, pool and query alike."""
    frame = torch.linalg.qr(draw(n, 4, 4, seed=seed)).Q[:, :ways]
    y = torch.arange(ways * each) % ways

    def half(at: int) -> Batch:
        return Batch(4 * frame[:, y] + 0.3 * draw(n, ways * each, 4, seed=seed + at), y.repeat(n, 1))

    return Episodes(half(1), half(2))


def covered(reading: Reading) -> float:
    """The share of tasks of which a label of each class was read."""
    return float((reading.label * reading.known.unsqueeze(-1)).amax(1).all(-1).double().mean())


def test_far_first_reads_one_label_of_each_of_clear_clusters() -> None:
    method, episodes = make(), clusters(50, 4, 0)
    far_first(method)
    reading = method.explore(episodes.support, likeliest)
    assert covered(reading) == 1
    right = predict(method, episodes.support, episodes.query.x).argmax(-1) == episodes.query.y
    assert right.double().mean() > 0.99


def test_the_policy_gradient_is_the_exact_one() -> None:
    """Averaged over all pairs of choices, the surrogate's gradient is that of minus the expected reward."""
    method, support = make(budget=2), pool(n=4, tasks=1)
    parameters = [method.score.weight, method.gate.weight, method.gate.bias]
    method.trace = 1.0
    expected = torch.zeros((), dtype=torch.float64)
    averaged = [torch.zeros_like(p) for p in parameters]
    for first in range(4):
        for second in set(range(4)) - {first}:
            reading = method.explore(support, forced(first, second))
            slow = torch.tensor([0.3 * first - 0.7 * second], dtype=torch.float64)  # any reward of the choices
            likely = reading.log_policy.sum().exp()
            expected = expected + likely * (reading.fast.detach().sum() + slow.sum())
            found = torch.autograd.grad(method.surrogate(reading, slow).sum(), parameters, retain_graph=True)
            averaged = [a + likely.detach() * g for a, g in zip(averaged, found, strict=True)]
    exact = torch.autograd.grad(-expected, parameters)
    for ours, theirs in zip(averaged, exact, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert any(bool(g.abs().max() > 1e-3) for g in exact)


def test_advantages_are_their_sum() -> None:
    reward, value, trace = draw(3, 5), draw(3, 5, seed=1), 0.7
    after = torch.cat([value[:, 1:], torch.zeros(3, 1)], 1)
    for t in range(5):
        by_hand = sum(trace**k * (reward + after - value)[:, t + k] for k in range(5 - t))
        torch.testing.assert_close(advantages(reward, value, trace)[:, t], by_hand)
    # with a trace of 1: the return, less the value
    torch.testing.assert_close(advantages(reward, value, 1.0)[:, 0], reward.sum(1) - value[:, 0])


def test_choices_are_drawn_in_proportion() -> None:
    method = make(budget=1)
    one = pool(n=5, tasks=1)
    many = Batch(one.x.expand(4000, -1, -1), one.y.expand(4000, -1))
    with torch.no_grad():
        share = method.explore(many, method._sampler()).known.double().mean(0)
        each = torch.stack([method.explore(one, forced(i)).log_policy[0, 0].exp() for i in range(5)])
    assert (share - each).abs().max() < 4 * 0.5 / 4000**0.5
    assert float(each.sum()) == pytest.approx(1.0)


def test_training_draws_anew_and_a_saved_state_goes_on() -> None:
    method, other = make(budget=2).train(), make(budget=2).train()
    episodes = Episodes(pool(tasks=6), pool(1, tasks=6))
    method.losses(episodes)
    other.load_state_dict(method.state_dict())
    losses = [method.losses(episodes).detach() for _ in range(3)]
    assert not torch.equal(losses[0], losses[1]) and not torch.equal(losses[1], losses[2])
    assert torch.equal(other.losses(episodes).detach(), losses[0])
    one, two = (ActiveMatching(CLASSES, generator=torch.Generator().manual_seed(seed)).draws for seed in (0, 1))
    assert int(one) != int(two)


def test_without_attention_steps_the_slow_prediction_is_a_vote() -> None:
    method, support, query = make(budget=4, steps=0), pool(), draw(2, 3, 4, seed=1)
    found = predict(method, support, query)
    with torch.no_grad():
        reading = method.explore(support, likeliest)
        sharp = method.sharpen(reading.state)[:, 1].exp()
    for t in range(2):
        mine = reading.known[t]
        for q in range(3):
            cosine = torch.cosine_similarity(query[t, q][None], support.x[t][mine], dim=-1)
            votes = torch.zeros(3).double().index_add(0, support.y[t][mine], (sharp[t] * cosine).softmax(0))
            torch.testing.assert_close(found[t, q].exp(), 0.95 * votes + 0.05 / 3)


def test_it_learns_to_read_one_label_of_each_class() -> None:
    class Clusters:
        problem = CLASSES

        def sample(self, n: int, generator: torch.Generator) -> Episodes:
            episodes = clusters(n, 4, int(torch.randint(10**6, (), generator=generator)))
            turn = lambda batch: Batch(batch.x.float(), batch.y)  # noqa: E731
            return Episodes(turn(episodes.support), turn(episodes.query))

    method = ActiveMatching(CLASSES, nn.Identity(), size=16, generator=torch.Generator().manual_seed(0))
    fit(method, Clusters(), steps=100, tasks=32, lr=3e-2, generator=torch.Generator().manual_seed(1))
    test = Clusters().sample(200, torch.Generator().manual_seed(2)).support
    with torch.no_grad():
        # three of twelve labels at random are of three classes with probability 4^3 / 220
        assert covered(method.explore(test, likeliest)) > 0.9 > 3 * 64 / 220
