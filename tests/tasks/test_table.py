"""Tables of tasks: how rows are split, scaled, drawn and padded."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quickstudy.core import Batch, InputError
from quickstudy.tasks import Scale, TableTasks, TaskTable

AS_IS = Scale(torch.zeros(()), torch.ones(()), torch.zeros(()), torch.ones(()))
SIZES = st.lists(st.integers(1, 40), min_size=2, max_size=6)
SEEDS = st.integers(0, 2**31)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(sizes: list[int], n_classes: int = 0) -> TaskTable:
    """Tasks whose every input is another number: 1000 * task + example. Targets: example mod classes, or example."""
    tasks = {}
    for t, size in enumerate(sizes):
        example = np.arange(size)
        tasks[f"task {t}"] = (1000.0 * t + example, example % n_classes if n_classes else example.astype(float))
    return TaskTable.from_arrays(tasks, "classification" if n_classes else "regression", labels=["c"] * n_classes)


def inputs(batch: Batch, t: int) -> list[int]:
    """The inputs of one task that are not padding."""
    return [int(v) for v in batch.x[t, batch.weights[t] > 0].flatten().tolist()]


# from arrays, from columns


def test_padding_points_nowhere_else() -> None:
    table = numbered([3, 5, 1])
    assert table.present().sum(1).tolist() == [3, 5, 1] == table.count.tolist()
    assert table.x[table.row[1][:5]].flatten().tolist() == [1000, 1001, 1002, 1003, 1004]
    assert table.y.shape == (3, 5, 1) and table.problem.kind == "regression"


def test_from_columns_leaves_out_what_was_not_measured() -> None:
    x = np.arange(8.0).reshape(4, 2)
    columns = {"a": [0, np.nan, 1, 1], "b": [np.nan, 1, np.nan, 0]}
    table = TaskTable.from_columns(x, columns, "classification", metric="auc", group=["p", "q", "p", "r"])
    assert table.x.shape == (4, 2)
    assert table.count.tolist() == [3, 2]
    assert table.row[0].tolist() == [0, 2, 3] and table.row[1, :2].tolist() == [1, 3]
    assert table.y[0].tolist() == [0, 1, 1] and table.y[1, :2].tolist() == [1, 0]
    assert table.group is not None and table.group.tolist() == [0, 1, 0, 2]
    assert table.problem.metric == "auc"


def test_numbers_to_predict_may_be_several() -> None:
    table = TaskTable.from_arrays({name: (np.zeros((3, 2)), np.ones((3, 4))) for name in "ab"}, "regression")
    assert table.problem.n_outputs == 4 and table.y.shape == (2, 3, 4)


NAN, INF = float("nan"), float("inf")
GOOD = (np.zeros((3, 2)), np.array([0, 1, 1]))


@pytest.mark.parametrize(
    "bad, message",
    [
        (None, r"at least two tasks. Found 1: \['good'\]"),
        ((np.zeros((0, 2)), []), "at least one example in every task. Found none in task 'bad'. Drop it"),
        ((np.array([[0, 1], [2, NAN], [0, 0]]), [0, 1, 1]), "finite numbers. Found 1 NaN.* inputs of task 'bad'. Fill"),
        ((np.array([[0, 1], [2, INF], [0, -INF]]), [0, 1, 1]), "Found 2 NaN, infinite.* inputs of task 'bad'"),
        ((np.array([[0, 1], [2, 1e39], [0, 0]]), [0, 1, 1]), "Found 1 NaN.* larger than 3e38"),
        ((np.zeros((3, 2)), [0, NAN, 1]), "finite numbers.* targets of task 'bad'"),
        ((np.zeros((3, 2)), [0, 1]), "Found 3 inputs and 2 targets in task 'bad'"),
        ((np.zeros((3, 4)), [0, 1, 1]), r"inputs of one shape, \(2,\). Found \(4,\) in task 'bad'"),
        ((np.zeros((3, 2)), [0, 0.5, 1]), "class indices 0, 1.* task 'bad'.*Number the classes from 0"),
        ((np.zeros((3, 2)), [0, -1, 1]), "class indices 0, 1.*smallest -1"),
        ((np.zeros((3, 2)), [[0], [1], [1]]), r"class indices.*Found shape \(3, 1\)"),
        ((np.zeros((3, 2)), ["a", "b", "b"]), "numbers for the targets of task 'bad'. Found <U1"),
        ((np.array([["x", "y"]] * 3), [0, 1, 1]), "numbers for the inputs of task 'bad'. Found <U1"),
    ],
)
def test_arrays_that_make_no_task(bad: Any, message: str) -> None:
    tasks = {"good": GOOD} if bad is None else {"good": GOOD, "bad": bad}
    with pytest.raises(InputError, match=message):
        TaskTable.from_arrays(tasks, "classification")


def test_no_task_at_all() -> None:
    with pytest.raises(InputError, match="at least two tasks. Found none"):
        TaskTable.from_arrays({}, "regression")


def test_one_class_only() -> None:
    with pytest.raises(InputError, match="at least two classes. Found one"):
        TaskTable.from_arrays({name: (np.zeros((3, 2)), np.zeros(3, int)) for name in "ab"}, "classification")


def test_targets_of_different_shape() -> None:
    tasks = {"a": (np.zeros((3, 2)), np.zeros((3, 2))), "b": (np.zeros((3, 2)), np.zeros((3, 5)))}
    with pytest.raises(InputError, match=r"targets of one shape, \(2,\). Found \(5,\) in task 'b'"):
        TaskTable.from_arrays(tasks, "regression")


def test_a_group_for_each_example() -> None:
    with pytest.raises(InputError, match=r"one group an example, 3 of them. Found \(2,\) in task 'b'"):
        TaskTable.from_arrays({"a": GOOD, "b": GOOD}, "classification", group={"a": [0, 1, 2], "b": [0, 1]})


def test_columns_that_make_no_task() -> None:
    x = np.zeros((3, 2))
    with pytest.raises(InputError, match="Found none in task 'b'. Drop it"):
        TaskTable.from_columns(x, {"a": [0, 1, 1], "b": [NAN] * 3}, "classification")
    with pytest.raises(InputError, match=r"one target an input, 3 of them. Found \(2,\) in task 'b'"):
        TaskTable.from_columns(x, {"a": [0, 1, 1], "b": [0, 1]}, "classification")
    with pytest.raises(InputError, match="at least two tasks. Found 1"):
        TaskTable.from_columns(x, {"a": [0, 1, 1]}, "classification")


# splitting rows


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(8, 60), min_size=2, max_size=5), n_classes=st.sampled_from([0, 2, 3]), seed=SEEDS)
def test_a_row_split_is_a_partition_of_the_right_sizes(sizes: list[int], n_classes: int, seed: int) -> None:
    table = numbered(sizes, n_classes)
    parts = table.split_rows(gen(seed))
    assert torch.equal(torch.stack(parts).sum(0), table.present().long())
    for part, fraction in zip(parts, (0.60, 0.15, 0.25), strict=True):
        assert bool((part.sum(1) - fraction * table.count).abs().max() < 2.01)
        for c in range(n_classes):
            of_class = table.present() & (table.y == c)
            # stratified: at most two examples off, where a random split of 20 would be off by 4 at times
            assert bool(((part & of_class).sum(1) - fraction * of_class.sum(1)).abs().max() < 2.01)


@pytest.mark.parametrize("n_classes", [0, 4])
def test_every_row_is_as_likely_as_any_other_to_train(n_classes: int) -> None:
    table = numbered([20, 9], n_classes)
    share = torch.zeros(3, 2, 20)
    for seed in range(600):
        share += torch.stack(table.split_rows(gen(seed))) / 600
    for part, fraction in enumerate((0.60, 0.15, 0.25)):  # standard error at most 0.02
        assert bool((share[part][table.present()] - fraction).abs().max() < 0.085)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=SEEDS)
def test_a_group_is_never_split(data: st.DataObject, seed: int) -> None:
    """All rows of a group fall in one part, in all tasks."""
    code = st.lists(st.integers(0, 25), min_size=30, max_size=30)
    groups = {name: data.draw(code) for name in "abc"}
    tasks = {name: (np.zeros((30, 1)), np.arange(30.0)) for name in "abc"}
    table = TaskTable.from_arrays(tasks, "regression", group=groups)
    try:
        parts = table.split_rows(gen(seed))
    except InputError:  # all rows of a task may be of few groups
        return
    for part in parts:
        inside = {
            g for t, name in enumerate("abc") for g, here in zip(groups[name], part[t].tolist(), strict=True) if here
        }
        outside = {
            g
            for t, name in enumerate("abc")
            for g, here in zip(groups[name], part[t].tolist(), strict=True)
            if not here
        }
        assert not inside & outside


def test_groups_are_split_by_number() -> None:
    tasks = {name: (np.zeros((40, 1)), np.arange(40.0)) for name in "ab"}
    groups = {"a": np.arange(40) // 2, "b": np.arange(40) // 2}
    parts = TaskTable.from_arrays(tasks, "regression", group=groups).split_rows(gen())
    assert [part.sum(1).tolist() for part in parts] == [[24, 24], [6, 6], [10, 10]]


def test_a_task_too_small_to_split() -> None:
    with pytest.raises(InputError, match="Found 2 in task 'task 1', which leaves none for .*. Drop tasks this small"):
        numbered([20, 2]).split_rows(gen())


# scale


def test_scale_reads_training_rows_only() -> None:
    table = numbered([12, 20])
    train, _, _ = table.split_rows(gen())
    scale = Scale.of(table, train)
    spoiled = numbered([12, 20])
    used = table.row[train].unique()
    others = torch.ones(len(table.x), dtype=torch.bool).index_fill(0, used, False)
    spoiled.x[others] = 1e6
    spoiled.y[~train] = -1e6
    again = Scale.of(spoiled, train)
    assert torch.equal(scale.x_mean, again.x_mean) and torch.equal(scale.x_std, again.x_std)
    assert torch.equal(scale.y_mean, again.y_mean) and torch.equal(scale.y_std, again.y_std)
    seen = TableTasks(table, train, scale, support=1, query=1).whole(torch.arange(2), train)
    y = seen.y[seen.weights > 0]
    assert torch.allclose(y.mean(), torch.zeros(()), atol=1e-5)
    assert torch.allclose(y.std(correction=0), torch.ones(()), atol=1e-5)


def test_a_row_that_two_tasks_share_counts_once() -> None:
    table = TaskTable.from_columns([[0.0], [10.0]], {"a": [1.0, 2.0], "b": [1.0, NAN]}, "regression")
    assert Scale.of(table, table.present()).x_mean.tolist() == [5.0]


def test_columns_that_never_vary_are_left_at_zero() -> None:
    x = np.stack([np.full(9, 123456.7), np.arange(9.0)], 1)
    table = TaskTable.from_arrays({name: (x, np.full(9, 3.3)) for name in "ab"}, "regression")
    scale = Scale.of(table, table.present())
    assert scale.x_std[0] == 1 and scale.y_std[0] == 1
    batch = TableTasks(table, table.present(), scale, support=2, query=2).whole(torch.arange(2), table.present())
    assert torch.allclose(batch.x[..., 0], torch.zeros(()), atol=0.02)
    assert torch.allclose(batch.y, torch.zeros(()), atol=1e-6)


def test_bytes_are_scaled_as_they_are_read() -> None:
    x = np.arange(0, 200, 10, dtype=np.uint8).reshape(20, 1)
    table = TaskTable.from_arrays({name: (x, np.arange(20.0)) for name in "ab"}, "regression")
    scale = Scale.of(table, table.present())
    batch = TableTasks(table, table.present(), scale, support=2, query=2).whole(torch.arange(2), table.present())
    assert torch.allclose(batch.x.mean(), torch.zeros(()), atol=1e-5)
    assert torch.allclose(batch.x.std(correction=0), torch.ones(()), atol=1e-5)


def test_images_are_not_standardised() -> None:
    x = np.full((4, 1, 2, 2), 255, np.uint8)
    table = TaskTable.from_arrays({name: (x, np.array([0, 1, 0, 1])) for name in "ab"}, "classification")
    family = TableTasks(table, table.present(), Scale.of(table, table.present()), support=1, query=1)
    assert bool((family.whole(torch.arange(2), table.present()).x == 1).all())


# episodes


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, support=st.integers(1, 12), query=st.integers(1, 12), few_shot=st.booleans(), seed=SEEDS)
def test_episodes_of_numbers(sizes: list[int], support: int, query: int, few_shot: bool, seed: int) -> None:
    """Support and query are different rows of their own task, as many as asked for where there are enough."""
    table = numbered(sizes)
    family = TableTasks(table, table.present(), AS_IS, support=support, query=query, per_class=few_shot)
    task = torch.arange(len(sizes)).flip(0)
    episodes = family.draw(task, gen(seed))
    assert episodes.task is not None and episodes.task.tolist() == task.tolist()
    for t, size in zip(range(len(sizes)), reversed(sizes), strict=True):
        own, asked = inputs(episodes.support, t), inputs(episodes.query, t)
        assert len({*own, *asked}) == len(own) + len(asked)
        assert {value // 1000 for value in own + asked} == {int(task[t])}
        expected = min(support, max(1, size - 1) if few_shot else max(1, size * support // (support + query)))
        assert len(own) == expected
        assert len(asked) == min(query, size - expected)
        targets = episodes.support.y[t, episodes.support.weights[t] > 0].flatten().tolist()
        assert targets == [value % 1000 for value in own]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(3, 40), min_size=2, max_size=6),
    n_classes=st.integers(2, 4),
    k=st.integers(1, 6),
    seed=SEEDS,
)
def test_k_of_each_class(sizes: list[int], n_classes: int, k: int, seed: int) -> None:
    """K examples of every class; a class that has no more leaves one for the query, unless it is the only one."""
    table = numbered(sizes, n_classes)
    family = TableTasks(table, table.present(), AS_IS, support=k, query=50, per_class=True)
    episodes = family.draw(torch.arange(len(sizes)), gen(seed))
    for t, size in enumerate(sizes):
        own, asked = inputs(episodes.support, t), inputs(episodes.query, t)
        assert sorted(own + asked) == [1000 * t + i for i in range(size)]
        labels = episodes.support.y[t, episodes.support.weights[t] > 0]
        have = torch.arange(size).remainder(n_classes).bincount(minlength=n_classes).tolist()
        expected = [min(k, max(n - 1, 1)) if n else 0 for n in have]
        assert labels.bincount(minlength=n_classes).tolist() == expected
        assert labels.tolist() == [value % 1000 % n_classes for value in own]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), sizes=SIZES, seed=SEEDS)
def test_only_masked_rows_are_seen_and_ids_count_the_members(data: st.DataObject, sizes: list[int], seed: int) -> None:
    table = numbered(sizes)
    bits = data.draw(st.lists(st.booleans(), min_size=table.row.numel(), max_size=table.row.numel()))
    mask = torch.tensor(bits).view(table.row.shape) & table.present()
    mask[-1, 0] = True  # at least one task, and its id is not its place where another is left out
    family = TableTasks(table, mask, AS_IS, support=3, query=3)
    members = [t for t in range(len(sizes)) if bool(mask[t].any())]
    assert family.problem.n_tasks == len(members)
    episodes = family.sample(len(sizes) + 3, gen(seed))
    assert episodes.task is not None
    assert sorted(episodes.task.tolist()) == list(range(len(members)))
    for t, known in enumerate(episodes.task.tolist()):
        member = members[known]
        allowed = {1000 * member + place for place in mask[member].nonzero().flatten().tolist()}
        assert {*inputs(episodes.support, t), *inputs(episodes.query, t)} <= allowed


def test_padding_has_no_weight_and_is_finite() -> None:
    table = numbered([2, 30], 2)
    family = TableTasks(table, table.present(), AS_IS, support=5, query=5)
    episodes = family.draw(torch.arange(2), gen())
    for batch, count in ((episodes.support, [1, 5]), (episodes.query, [1, 5])):
        assert batch.weights.sum(1).tolist() == count
        assert set(batch.weights.unique().tolist()) <= {0.0, 1.0}
        assert bool(torch.isfinite(batch.x).all())
    even = family.draw(torch.tensor([1]), gen())
    assert even.support.weight is None and even.query.weight is None


def test_whole_tasks_in_their_order() -> None:
    table = numbered([3, 6])
    mask = table.present()
    mask[1, ::2] = False
    batch = TableTasks(table, table.present(), AS_IS, support=1, query=1).whole(torch.tensor([1, 0]), mask)
    assert [inputs(batch, 0), inputs(batch, 1)] == [[1001, 1003, 1005], [0, 1, 2]]
    assert batch.weight is None


def test_rows_are_drawn_uniformly() -> None:
    table = numbered([6, 10], 2)
    family = TableTasks(table, table.present(), AS_IS, support=1, query=2, per_class=True)
    n = 4000
    episodes = family.draw(torch.zeros(n, dtype=torch.long), gen())
    share = episodes.support.x.flatten().long().bincount(minlength=6) / n  # one of three, twice
    assert torch.allclose(share, torch.full((6,), 1 / 3), atol=0.035)
    share = episodes.query.x.flatten().long().bincount(minlength=6) / n  # two of the four that are left
    assert torch.allclose(share, torch.full((6,), 1 / 3), atol=0.035)


def test_the_same_generator_state_gives_the_same_episodes() -> None:
    table = numbered([20, 9, 14], 3)
    family = TableTasks(table, table.present(), AS_IS, support=2, query=4, per_class=True, identity=False)
    one, two, other = (family.sample(2, gen(seed)) for seed in (3, 3, 4))
    assert one.task is None
    pairs: list[tuple[Tensor, Tensor]] = [(one.support.x, two.support.x), (one.query.y, two.query.y)]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert one.support.x.shape != other.support.x.shape or not torch.equal(one.support.x, other.support.x)
