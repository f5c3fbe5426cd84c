"""Arenas: what may be trained on and what is tested."""

import numpy as np
import pytest
import torch

from quickstudy.core import Batch, InputError
from quickstudy.tasks import ClassSet, Question, SplitClasses, Study, TaskTable


def table(sizes: list[int], n_classes: int = 0) -> TaskTable:
    """Inputs are 1000 * task + example."""
    tasks = {}
    for t, size in enumerate(sizes):
        example = np.arange(size)
        x = np.stack([1000.0 * t + example] * 4, 1).reshape(size, 1, 2, 2)  # images are not standardised
        tasks[f"task {t}"] = (x, example % n_classes if n_classes else example.astype(float))
    return TaskTable.from_arrays(tasks, "classification" if n_classes else "regression")


def rows(batch: Batch) -> set[int]:
    return {int(v) for v in batch.x[batch.weights > 0][:, 0, 0, 0].tolist()}


@pytest.mark.parametrize("n_classes", [0, 2])
def test_held_out_rows_of_known_tasks(n_classes: int) -> None:
    data = table([20, 33, 9], n_classes)
    arena = Study("s", data, None).arena("have", 1)
    training, val, test = rows(arena.validation.support), rows(arena.validation.query), rows(arena.test.query)
    assert not training & val and not training & test and not val & test
    # once all choices are made, the examples that they were made on may be learned from too
    assert training <= rows(arena.test.support) <= training | val
    assert len(training | val | test) == 62
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        episodes = arena.train.sample(3, generator)
        assert rows(episodes.support) | rows(episodes.query) <= training
    assert arena.test.task is not None and arena.test.task.tolist() == [0, 1, 2]
    assert arena.names == ("task 0", "task 1", "task 2") and arena.problem.n_tasks == 3


@pytest.mark.parametrize("n_classes", [0, 2])
def test_held_out_tasks(n_classes: int) -> None:
    """Three seeds test every task once; no test or validation task is trained on."""
    data = table([30] * 11, n_classes)
    study = Study("s", None, data, shots=3)
    tested: list[str] = []
    generator = torch.Generator().manual_seed(0)
    for seed in range(3):
        arena = study.arena("meet", seed)
        test = {value // 1000 for value in rows(arena.test.support) | rows(arena.test.query)}
        val = {value // 1000 for value in rows(arena.validation.support) | rows(arena.validation.query)}
        train = set()
        for _ in range(20):
            episodes = arena.train.sample(4, generator)
            train |= {value // 1000 for value in rows(episodes.support) | rows(episodes.query)}
        assert not train & val and not train & test and not val & test
        assert len(train | val | test) == 11 and arena.problem.n_tasks == len(train)
        assert arena.test.task is None and arena.validation.task is None
        assert {f"task {t}" for t in test} == set(arena.names)
        tested += arena.names
        per_task = 3 * max(1, n_classes)
        assert arena.test.support.x.shape[1] == per_task and arena.test.query.x.shape[1] == 30 - per_task
        assert arena.test_at is not None and arena.test_at(1).support.x.shape[1] == max(1, n_classes)
    assert sorted(tested) == sorted(data.names)


def test_new_tasks_get_k_examples_however_small_they_are() -> None:
    arena = Study("s", None, table([22, 250] * 4), shots=10).arena("meet", 0)
    assert arena.test.support.weights.sum(1).tolist() == [10] * len(arena.names)
    assert sorted(set(arena.test.query.weights.sum(1).tolist())) == [12, 200]


def test_the_same_seed_gives_the_same_arena_and_shots_can_be_set() -> None:
    study = Study("s", table([30] * 8), table([30] * 8), shots=3)
    questions: tuple[Question, ...] = ("have", "meet")
    for question in questions:
        one, two, other = (study.arena(question, seed) for seed in (0, 0, 1))
        assert torch.equal(one.test.query.x, two.test.query.x)
        assert one.test.query.x.shape != other.test.query.x.shape or not torch.equal(
            one.test.query.x, other.test.query.x
        )
    assert study.arena("meet", 0, shots=7).test.support.x.shape[1] == 7


def classes(per_class: int = 12) -> SplitClasses:
    x = (1000.0 * torch.arange(9).unsqueeze(1) + torch.arange(per_class)).unsqueeze(-1)
    splits = {"train": torch.arange(5), "val": torch.arange(5, 7), "test": torch.arange(7, 9)}
    return SplitClasses(ClassSet(x, tuple("abcdefghi")), splits, ways=2, queries=4)


def test_held_out_classes() -> None:
    arena = Study("s", None, classes(), shots=2).arena("meet", 0, episodes=30)
    part = lambda batch: {int(v) // 1000 for v in batch.x.flatten().tolist()}  # noqa: E731
    assert part(arena.test.support.join(arena.test.query)) == {7, 8}
    assert part(arena.validation.support.join(arena.validation.query)) == {5, 6}
    train = arena.train.sample(50, torch.Generator())
    assert part(train.support.join(train.query)) == {0, 1, 2, 3, 4}
    assert train.classes is not None and arena.test.classes is None
    assert arena.problem.n_classes == 5 and len(arena.names) == 30
    assert arena.test_at is not None and arena.test_at(5).support.x.shape == (30, 10, 1)


def test_published_classes_are_tested_on_the_same_episodes_for_every_seed() -> None:
    study = Study("s", None, classes(), shots=2)
    assert torch.equal(study.arena("meet", 0).test.query.x, study.arena("meet", 5).test.query.x)


def test_more_shots_than_a_class_of_a_new_task_has() -> None:
    with pytest.raises(InputError, match=r"more than K = 10 examples.*Found 10 of its smallest class in task 'task"):
        Study("s", None, table([20] * 8, 2), shots=10).arena("meet", 0)
    with pytest.raises(InputError, match=r"more than K = 20 examples.*Found 20 in all in task.*Lower --shots"):
        Study("s", None, table([20] * 8), shots=20).arena("meet", 0)


def test_more_shots_than_a_class_has() -> None:
    with pytest.raises(InputError, match=r"K \+ queries = 9 \+ 4 examples in every class. Found 12"):
        Study("s", None, classes(), shots=9).arena("meet", 0)


def test_too_few_tasks_to_hold_some_out() -> None:
    with pytest.raises(InputError, match="at least 6 tasks to hold some out. Found 5"):
        Study("s", None, table([20] * 5), shots=1).arena("meet", 0)


def test_a_question_that_cannot_be_asked_says_why() -> None:
    study = Study("mine", table([20] * 3), None, missing={"meet": "there are 3 tasks"})
    with pytest.raises(InputError, match="data for the question 'meet'. Found none in mine: there are 3 tasks"):
        study.arena("meet", 0)


def test_a_class_in_two_splits() -> None:
    whole = classes().classes
    with pytest.raises(InputError, match="every class in one split. Found 'b'"):
        SplitClasses(whole, {"train": torch.arange(2), "val": torch.arange(1, 4), "test": torch.arange(4, 9)})
