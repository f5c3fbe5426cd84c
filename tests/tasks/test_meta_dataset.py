"""The Meta-Dataset protocol: what it draws is as in its paper; methods learn from its padded episodes."""

import os

import pytest
import torch
from scipy import stats

from quickstudy.core import Episodes, InputError
from quickstudy.methods import Prototypical
from quickstudy.nets import Conv4
from quickstudy.tasks import ClassSet
from quickstudy.tasks.meta_dataset import FIVE, KNOWN, Protocol, Source, VariableEpisodes, resized, sources
from quickstudy.training import fit, task_scores

needs_data = pytest.mark.skipif(not os.environ.get("QUICKSTUDY_DATA"), reason="QUICKSTUDY_DATA is not set")


def numbered(classes: int, examples: int, count: torch.Tensor | None = None, channels: int = 1) -> Source:
    """Images of 2 x 2 pixels that say which they are: class, then example, in every pixel's value."""
    code = torch.arange(classes * examples, dtype=torch.float32).view(classes, examples, 1, 1, 1)
    x = code.expand(-1, -1, channels, 2, 2)
    return Source(ClassSet(x, tuple(map(str, range(classes))), count), torch.arange(classes))


def ways(episodes: Episodes) -> torch.Tensor:
    return episodes.support.y.amax(1) + 1


def shots(episodes: Episodes) -> torch.Tensor:
    """Support examples of each label. Shape: ``[T, N]``."""
    one_hot = torch.nn.functional.one_hot(episodes.support.y, 50) * episodes.support.weights.unsqueeze(-1)
    return one_hot.sum(1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ways_are_uniform_from_5_to_50() -> None:
    family = VariableEpisodes({"a": numbered(60, 4)}, size=2)
    assert family.problem.n_outputs == 50
    drawn = ways(family.sample(2000, seeded()))
    assert int(drawn.min()) == 5 and int(drawn.max()) == 50
    assert stats.chisquare(drawn.bincount(minlength=51)[5:].numpy()).pvalue > 0.001


def test_few_classes_are_the_most_ways() -> None:
    family = VariableEpisodes({"a": numbered(7, 4)}, size=2)
    assert family.problem.n_outputs == 7
    assert ways(family.sample(300, seeded())).unique().tolist() == [5, 6, 7]


def test_queries_are_10_of_each_class_or_half_the_smallest() -> None:
    count = torch.tensor([30, 30, 30, 30, 9, 30])
    family = VariableEpisodes({"a": numbered(6, 30, count)}, size=2)
    episodes = family.sample(200, seeded())
    one_hot = torch.nn.functional.one_hot(episodes.query.y, 6) * episodes.query.weights.unsqueeze(-1)
    each = one_hot.sum(1)
    member = (episodes.support.x[..., 0, 0, 0] // 30).long()
    small = ((member == 4) & (episodes.support.weights > 0)).any(1)
    assert 0 < int(small.sum()) < 200
    for task in range(200):
        n = int(ways(episodes)[task])
        assert set(each[task, :n].tolist()) == ({4.0} if small[task] else {10.0})
        assert float(each[task, n:].sum()) == 0


def test_support_and_query_are_of_the_right_class_and_share_no_example() -> None:
    family = VariableEpisodes({"a": numbered(20, 40)}, size=2)
    episodes = family.sample(50, seeded())
    for task in range(50):
        halves = []
        for half in (episodes.support, episodes.query):
            code = half.x[task, half.weights[task] > 0, 0, 0, 0].long()
            label = half.y[task, half.weights[task] > 0]
            assert len(code.unique()) == len(code)
            # one class a label, and the same in both halves
            halves.append(({int(c) for c in code}, {(int(k), int(c) // 40) for k, c in zip(label, code, strict=True)}))
        (support, of_support), (query, of_query) = halves
        assert not support & query
        assert of_support == of_query and len({k for k, _ in of_query}) == len(of_query) == int(ways(episodes)[task])


def test_the_support_has_1_to_500_examples_and_at_least_one_a_class() -> None:
    family = VariableEpisodes({"a": numbered(60, 150)}, size=2)
    episodes = family.sample(200, seeded())
    each, size = shots(episodes), episodes.support.weights.sum(1)
    present = torch.arange(50) < ways(episodes).unsqueeze(1)
    assert float(each[present].min()) == 1 and float(each[~present].abs().sum()) == 0
    assert float(size.max()) <= 500 and bool((size >= ways(episodes)).all())
    # rounding down costs each class less than one example, so the limit is all but reached
    assert float(size.max()) > 500 - 50
    # a class has at most what its query leaves
    assert float(each.max()) <= 140


def test_support_sizes_follow_beta() -> None:
    """Five ways of 1000 examples: |S| = 5 ceil(100 beta), uniform on 5, 10, ..., 500; rounding takes 0 to 4 more."""
    family = VariableEpisodes({"a": numbered(5, 1000)}, size=2)
    size = family.sample(500, seeded()).support.weights.sum(1)
    assert stats.kstest((size / 500).numpy(), "uniform", method="asymp").pvalue > 0.001


def test_imbalance_is_that_of_uniform_log_weights() -> None:
    """Of two classes of one size, log K_1 / K_2 is a difference of two numbers uniform on [log .5, log 2)."""
    family = VariableEpisodes({"a": numbered(5, 1000)}, size=2)
    each = shots(family.sample(1000, seeded()))[:, :5]
    each = each[each.sum(1) > 300] - 0.5  # floor + 1 adds half of an example on average
    ratio = (each[:, 0] / each[:, 1]).log()
    width = torch.tensor(4.0).log()
    assert float(ratio.abs().max()) < float(width) + 0.05
    assert abs(float(ratio.std()) - float(width / 6**0.5)) < 0.06
    triangle = stats.triang(0.5, -float(width), 2 * float(width))
    assert stats.kstest(ratio.numpy(), triangle.cdf).pvalue > 0.001


def test_larger_classes_have_more_shots() -> None:
    count = torch.tensor([1000, 250, 250, 250, 250])
    family = VariableEpisodes({"a": numbered(5, 1000, count)}, size=2)
    episodes = family.sample(400, seeded())
    each = shots(episodes)[:, :5]
    member = (episodes.support.x[..., 0, 0, 0] // 1000).long()
    large = (member == 0) & (episodes.support.weights > 0)
    share = large.float().sum(1) / each.sum(1)
    assert abs(float(share[each.sum(1) > 200].mean()) - 0.5) < 0.05


def test_classes_of_one_group() -> None:
    source = numbered(16, 6)
    group = torch.tensor([0] * 6 + [1] * 4 + [2] * 6)  # the second has too few for 5 ways
    family = VariableEpisodes({"a": Source(source.classes, source.members, group)}, size=2)
    episodes = family.sample(100, seeded())
    found = group[(episodes.support.x[..., 0, 0, 0] // 6).long()]
    assert bool((found == found[:, :1]).all()) and found.unique().tolist() == [0, 2]
    assert family.problem.n_outputs == 6


def test_each_task_is_of_one_set_and_sets_are_uniform() -> None:
    """Sets of 8 and 40 classes, grey and coloured; large ones are not drawn more often."""
    grey, colour = numbered(8, 4), numbered(40, 4, channels=3)
    other = Source(ClassSet(colour.classes.x + 1e4, colour.classes.names), colour.members)
    family = VariableEpisodes({"grey": grey, "colour": other}, size=2)
    assert family.problem.x_shape == (3, 2, 2) and family.problem.n_outputs == 40
    episodes = family.sample(600, seeded())
    which = episodes.support.x[:, :, 0, 0, 0] >= 1e4
    assert bool((which == which[:, :1]).all())
    assert bool((which[:, :1] == (episodes.query.x[:, :, 0, 0, 0] >= 1e4)).all())
    assert abs(float(which[:, 0].float().mean()) - 0.5) < 0.08
    assert torch.equal(episodes.support.x[:, :, 0], episodes.support.x[:, :, 2])
    alone = family.only("grey")
    assert alone.problem == family.problem
    assert float(alone.sample(50, seeded()).support.x.max()) < 1e4


def test_the_same_generator_gives_the_same_episodes() -> None:
    family = VariableEpisodes({"a": numbered(12, 6), "b": numbered(9, 12)}, size=2)
    one, two = family.sample(5, seeded(3)), family.sample(5, seeded(3))
    assert torch.equal(one.support.x, two.support.x) and torch.equal(one.query.weights, two.query.weights)
    assert not torch.equal(one.support.x, family.sample(5, seeded(4)).support.x[:, : one.support.n])


def test_images_are_resized() -> None:
    """A half black, half white picture stays one; a flat one keeps its value; small ones grow."""
    x = torch.zeros(2, 1, 1, 20, 20, dtype=torch.uint8)
    x[0, :, :, :, 10:], x[1] = 255, 77
    small = resized(ClassSet(x, ("half", "flat")), 4).x
    assert small.dtype == torch.uint8 and small.shape == (2, 1, 1, 4, 4)
    assert small[0, 0, 0, 0, 0] < 10 and small[0, 0, 0, 0, 3] > 245 and bool((small[1] == 77).all())
    assert abs(float(small[0].float().mean()) - 127.5) < 1
    assert resized(ClassSet(x, ("half", "flat")), 32).x.shape[-2:] == (32, 32)


def blobs(classes: int, seed: int, channels: int = 1) -> Source:
    """A coarse pattern a class, under noise and under a light that changes far more from image to image."""
    generator = seeded(seed)
    pattern = torch.rand(classes, 1, channels, 4, 4, generator=generator).repeat_interleave(4, -1)
    pattern = pattern.repeat_interleave(4, -2)
    noise = torch.rand(classes, 14, channels, 16, 16, generator=generator)
    light = torch.rand(classes, 14, 1, 1, 1, generator=generator)
    x = ((0.15 * pattern + 0.05 * noise + 0.8 * light) * 255).to(torch.uint8)
    return Source(ClassSet(x, tuple(map(str, range(classes)))), torch.arange(classes))


def test_a_metric_method_learns_across_sets() -> None:
    """A few steps over two sets help on new classes of both, whatever their number; absent classes are never said."""
    small = Protocol(most=8, support=40, queries=4)
    train = VariableEpisodes({"a": blobs(30, 0), "b": blobs(30, 1, 3)}, small, size=16)
    test = VariableEpisodes({"a": blobs(9, 2), "b": blobs(9, 3, 3)}, small, size=16)
    assert train.problem == test.problem
    episodes = test.sample(40, seeded())
    method = Prototypical(train.problem, Conv4(3, 16, "running", seeded()))
    fit(method, train, steps=60, tasks=2, lr=5e-3, generator=seeded(1))
    logits = method.adapt(episodes.support)(episodes.query.x)
    assert isinstance(logits, torch.Tensor)
    absent = torch.arange(8) >= ways(episodes).unsqueeze(1)
    assert bool((logits.argmax(-1) < ways(episodes).unsqueeze(1)).all())
    assert bool((logits.softmax(-1)[absent.unsqueeze(1).expand_as(logits)] == 0).all())
    scores = task_scores(method, episodes)
    untrained = task_scores(Prototypical(train.problem, Conv4(3, 16, "running", seeded())), episodes)
    assert float(scores.mean()) > float(untrained.mean()) + 0.2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: VariableEpisodes({}), "at least one set"),
        (lambda: VariableEpisodes({"a": numbered(4, 4)}, size=2), "at least 5 classes to draw from in 'a'. Found 4"),
        (lambda: VariableEpisodes({"a": numbered(5, 1)}, size=2), "at least 2 examples of every class.*Found 1 of '0'"),
        (lambda: VariableEpisodes({"a": numbered(5, 4, channels=2), "b": numbered(5, 4, channels=3)}, size=2), "grey"),
        (lambda: Protocol(least=1), "at least 2 ways.*Found 1 to 50"),
        (lambda: Protocol(support=20), "at least one example a class"),
        (lambda: sources("train", ("mnists",)), "Found 'train' and 'mnists'"),
        (lambda: VariableEpisodes({"a": numbered(5, 4)}, size=2).only("b"), "names among a. Found 'b'"),
    ],
)
def test_what_cannot_be_drawn_from(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(InputError, match=message):
        make()


@needs_data
def test_known_sets_have_no_class_in_two_parts() -> None:
    parts = {part: sources(part) for part in ("train", "val", "test")}
    assert tuple(parts["train"]) == tuple(parts["test"]) == KNOWN and tuple(parts["val"]) == KNOWN[:2]
    for name in KNOWN:
        seen: set[str] = set()
        for of in parts.values():
            if name in of:
                names = {of[name].classes.names[i] for i in of[name].members.tolist()}
                assert not names & seen
                seen |= names
        assert len(seen) == {"omniglot": 1623, "cifar100": 100}.get(name, 10)
    assert not set(FIVE["train"]) & set(FIVE["test"])
