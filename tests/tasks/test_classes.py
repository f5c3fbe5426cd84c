"""Episodes of classes: what is drawn, from where, how often."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quickstudy.core import InputError
from quickstudy.tasks import ClassEpisodes, ClassSet, check_splits, label_some


def numbered(sizes: list[int], **options: Tensor) -> ClassSet:
    """Classes whose every example is another number: 1000 * class + example; padding is -1."""
    x = torch.full((len(sizes), max(sizes), 1), -1.0)
    for c, size in enumerate(sizes):
        x[c, :size, 0] = 1000 * c + torch.arange(size)
    return ClassSet(x, tuple(f"class {c}" for c in range(len(sizes))), torch.tensor(sizes), **options)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 9), min_size=3, max_size=8),
    ways=st.integers(2, 3),
    shots=st.integers(1, 2),
    queries=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_episodes_are_made_of_their_classes(sizes: list[int], ways: int, shots: int, queries: int, seed: int) -> None:
    """Each label stands for one class, has K + queries different examples of it, and none of them is padding."""
    members = list(range(1, len(sizes)))
    ways = min(ways, len(members))
    family = ClassEpisodes(numbered(sizes), members, ways=ways, shots=shots, queries=queries, known=True)
    episodes = family.sample(5, torch.Generator().manual_seed(seed))
    assert episodes.support.x.shape == (5, ways * shots, 1)
    assert episodes.query.x.shape == (5, ways * queries, 1)
    assert episodes.classes is not None and episodes.task is None
    both = episodes.support.join(episodes.query)
    value = both.x.squeeze(-1).long()
    assert bool((value >= 0).all())
    drawn = torch.as_tensor(members)[episodes.classes]
    assert torch.equal(value // 1000, drawn.gather(1, both.y))
    for t in range(5):
        assert len(set(value[t].tolist())) == ways * (shots + queries)
        assert len(set(drawn[t].tolist())) == ways
        assert episodes.support.y[t].bincount().tolist() == [shots] * ways
        assert episodes.query.y[t].bincount().tolist() == [queries] * ways


def test_classes_and_examples_are_drawn_uniformly() -> None:
    family = ClassEpisodes(numbered([4, 9, 4, 6]), range(4), ways=2, shots=1, queries=1, known=True)
    episodes = family.sample(6000, torch.Generator().manual_seed(0))
    assert episodes.classes is not None
    first = episodes.classes[:, 0].bincount() / 6000  # 0.25 each, standard error 0.0056
    assert torch.allclose(first, torch.full((4,), 0.25), atol=0.02)
    either = episodes.classes.flatten().bincount() / 6000
    assert torch.allclose(either, torch.full((4,), 0.5), atol=0.03)
    count = Counter(episodes.support.x.flatten().long().tolist())
    for example in range(9):  # each of class 1's nine examples: 3000 / 9, standard error 18
        assert abs(count[1000 + example] - 3000 / 9) < 90


def test_the_same_generator_state_gives_the_same_episodes() -> None:
    family = ClassEpisodes(numbered([6] * 5), range(5), ways=3, shots=2, queries=2)
    one, two, other = (family.sample(4, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(one.support.x, two.support.x)
    assert torch.equal(one.query.x, two.query.x)
    assert not torch.equal(one.support.x, other.support.x)


def test_bytes_are_read_as_0_to_1() -> None:
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(2, 2, 3)
    family = ClassEpisodes(ClassSet(x, ("a", "b")), range(2), ways=2, shots=1, queries=1)
    read = family.sample(1, torch.Generator()).support.x[0, 0]
    assert torch.allclose(read, torch.tensor([0.0, 0.2, 1.0]))


def test_a_problem_of_new_classes() -> None:
    known = ClassEpisodes(numbered([5] * 6), range(4), ways=3, shots=1, queries=2, known=True)
    assert (known.problem.n_outputs, known.problem.n_classes, known.problem.shared_labels) == (3, 4, False)
    assert known.at(3).sample(2, torch.Generator()).support.x.shape == (2, 9, 1)
    assert known.at(3).known


@settings(max_examples=30, deadline=None)
@given(origins=st.lists(st.integers(0, 9), min_size=10, max_size=30), seed=st.integers(0, 2**31))
def test_a_split_keeps_versions_of_a_class_together(origins: list[int], seed: int) -> None:
    classes = numbered([2] * len(origins), origin=torch.tensor(origins))
    splits = classes.split(torch.Generator().manual_seed(seed))
    check_splits(classes, splits)
    assert sorted(torch.cat(list(splits.values())).tolist()) == list(range(len(origins)))


def test_a_class_in_two_splits() -> None:
    classes = numbered([2] * 3)
    with pytest.raises(InputError, match=r"one split. Found 'class 1'.* in both 'train' and 'test'. Keep it in one"):
        check_splits(classes, {"train": torch.tensor([0, 1]), "test": torch.tensor([1, 2])})


def test_two_versions_of_a_class_in_two_splits() -> None:
    classes = numbered([2] * 3, origin=torch.tensor([0, 0, 1]))
    with pytest.raises(InputError, match="'class 1'.*in both 'train' and 'test'"):
        check_splits(classes, {"train": torch.tensor([0]), "test": torch.tensor([1, 2])})


def test_more_shots_than_a_class_has() -> None:
    with pytest.raises(
        InputError, match=r"5 \+ 2 examples in every class. Found 6 in class 'class 1'. Lower the shots"
    ):
        ClassEpisodes(numbered([9, 6, 9]), range(3), ways=2, shots=5, queries=2)


def test_a_small_class_that_is_never_drawn_does_no_harm() -> None:
    ClassEpisodes(numbered([9, 1, 9]), [0, 2], ways=2, shots=5, queries=2)


def test_fewer_classes_than_ways() -> None:
    with pytest.raises(InputError, match=r"at least N = 5 classes to draw from. Found 3. Lower the number of ways"):
        ClassEpisodes(numbered([9] * 3), range(3), ways=5)


def test_examples_that_are_not_finite() -> None:
    x = torch.zeros(2, 3, 4)
    x[1, 2, 0] = torch.nan
    with pytest.raises(InputError, match="finite numbers. Found NaN or infinite values in class 'b'. Fill or drop"):
        ClassSet(x, ("a", "b"))


def test_a_name_for_each_class() -> None:
    with pytest.raises(InputError, match="a name for each of 2 classes. Found 1"):
        ClassSet(torch.zeros(2, 3, 4), ("a",))


def test_unlabelled_examples_come_from_the_other_part_and_from_distractors() -> None:
    """With 10 % of 20 examples labelled: support and query are those two, unlabelled ones never are."""
    data = numbered([20] * 12)
    labelled = label_some(data, 0.1, torch.Generator().manual_seed(0))
    assert labelled.sum(1).tolist() == [2] * 12
    family = ClassEpisodes(
        data, range(1, 12), ways=3, shots=1, queries=1, known=True, unlabelled=4, distractors=2, labelled=labelled
    )
    episodes = family.sample(50, torch.Generator().manual_seed(1))
    assert episodes.support.unlabelled is not None and episodes.classes is not None
    assert episodes.support.unlabelled.shape == (50, 20, 1)
    assert episodes.query.unlabelled is None
    both = episodes.support.join(episodes.query)
    known = both.x.squeeze(-1).long()
    more = episodes.support.unlabelled.squeeze(-1).long()
    assert bool(labelled[known // 1000, known % 1000].all())
    assert not bool(labelled[more // 1000, more % 1000].any())
    ordered = 0
    for t in range(50):
        own = (episodes.classes[t] + 1).tolist()
        count = Counter((more[t] // 1000).tolist())
        assert len(set(more[t].tolist())) == 20
        assert set(own) < set(count) and len(count) == 5 and set(count.values()) == {4}
        ordered += (more[t] // 1000).tolist()[:4] == [own[0]] * 4
    assert ordered < 5, "the order of the unlabelled examples tells nothing"


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 9), min_size=4, max_size=7),
    unlabelled=st.integers(1, 2),
    distractors=st.integers(0, 2),
    seed=st.integers(0, 2**31),
)
def test_without_a_partition_no_example_is_used_twice(
    sizes: list[int], unlabelled: int, distractors: int, seed: int
) -> None:
    family = ClassEpisodes(
        numbered(sizes), range(len(sizes)), ways=2, shots=1, queries=1, unlabelled=unlabelled, distractors=distractors
    )
    episodes = family.sample(4, torch.Generator().manual_seed(seed))
    assert episodes.support.unlabelled is not None
    every = torch.cat([episodes.support.x, episodes.query.x, episodes.support.unlabelled], 1).squeeze(-1)
    assert bool((every >= 0).all())
    for t in range(4):
        assert len(set(every[t].tolist())) == 4 + (2 + distractors) * unlabelled
    again = family.at(1)
    assert (again.unlabelled, again.distractors) == (unlabelled, distractors)
    # the labelled part is what it is without them: options that are off change no draw
    plain = ClassEpisodes(numbered(sizes), range(len(sizes)), ways=2, shots=1, queries=1)
    if not distractors:
        assert torch.equal(plain.sample(4, torch.Generator().manual_seed(seed)).support.x, episodes.support.x)


def test_a_partition_leaves_padding_out_and_rounds_down() -> None:
    data = numbered([20, 9, 10])
    assert label_some(data, 0.15, torch.Generator().manual_seed(0)).sum(1).tolist() == [3, 1, 1]
    assert not bool(label_some(data, 1.0, torch.Generator().manual_seed(0))[1, 9:].any())


def test_too_few_unlabelled_examples_are_named() -> None:
    data = numbered([4, 4, 4])
    every = label_some(data, 0.5, torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"3 unlabelled examples in every class\. Found 2 in class 'class 0'"):
        ClassEpisodes(data, range(3), ways=2, shots=1, queries=1, unlabelled=3, labelled=every)
    with pytest.raises(InputError, match=r"1 \+ 2 labelled examples in every class\. Found 2"):
        ClassEpisodes(data, range(3), ways=2, shots=1, queries=2, labelled=every)
    with pytest.raises(InputError, match=r"N = 2 \+ 2 distractors classes to draw from\. Found 3"):
        ClassEpisodes(data, range(3), ways=2, shots=1, queries=1, unlabelled=1, distractors=2)
