"""The embedded digits."""

import numpy as np
import torch

from quickstudy.tasks import SplitClasses, check_splits, digits, load

STUDY = load("digits")


def test_forty_classes_of_ten_digits() -> None:
    classes = digits.classes()
    assert classes.x.shape == (40, 183, 1, 8, 8) and classes.x.dtype == torch.float32
    assert float(classes.x.min()) == 0 and float(classes.x.max()) == 1
    assert int(classes.counts.sum()) == 4 * 1797 and sorted(set(classes.counts.tolist()))[0] == 174
    assert classes.origin is not None and classes.origin.bincount().tolist() == [4] * 10


def test_a_turned_class_is_the_class_turned() -> None:
    """Anticlockwise: the top right corner comes to the top left."""
    x = digits.classes().x
    for digit in range(10):
        for turn in range(1, 4):
            before, after = x[4 * digit + turn - 1], x[4 * digit + turn]
            assert torch.equal(after, before.transpose(-2, -1).flip(-2))
            assert torch.equal(after[..., 0, 0], before[..., 0, -1])


def test_no_digit_is_in_two_splits_and_6_and_9_are_together() -> None:
    assert isinstance(STUDY.meet, SplitClasses)
    splits = STUDY.meet.splits
    check_splits(STUDY.meet.classes, splits)
    assert {part: len(members) for part, members in splits.items()} == {"train": 24, "val": 8, "test": 8}
    assert {4 * 6, 4 * 6 + 2, 4 * 9, 4 * 9 + 2} <= set(splits["train"].tolist())
    arena = STUDY.arena("meet", 0)
    assert arena.problem.n_outputs == 5 and arena.test.support.x.shape == (200, 5, 1, 8, 8)


def test_each_image_is_at_one_angle() -> None:
    table = STUDY.have
    assert table is not None
    assert table.names[:2] == ("angle 0", "angle 10") and table.n_tasks == 36
    assert table.count.sum() == len(table.x) == 1797 and set(table.count.tolist()) <= {49, 50}
    for t in range(36):
        assert set(table.y[t, : table.count[t]].bincount().tolist()) <= {4, 5, 6}
    assert float(table.x.min()) >= 0 and float(table.x.max()) <= 1 + 1e-6
    # at 0 degrees images are as they were, under their labels
    x, y = digits.images()
    still = table.x[table.row[0, : table.count[0]]].squeeze(1).numpy()
    every = {(image.tobytes(), int(label)) for image, label in zip(x, y, strict=True)}
    mine = {(image.tobytes(), int(label)) for image, label in zip(still, table.y[0].tolist(), strict=False)}
    assert len(mine) == int(table.count[0]) and mine <= every
    # at 180 degrees the interpolation hits pixels exactly
    assert table.names[18] == "angle 180"
    half = table.x[table.row[18, : table.count[18]]].squeeze(1).flip(1, 2)
    close = np.abs(half.numpy()[:, None] - x[None]).max((2, 3)).min(1)
    assert float(close.max()) < 1e-5


def test_the_study_is_the_same_every_time() -> None:
    again = digits.study().have
    assert STUDY.have is not None and again is not None
    assert torch.equal(STUDY.have.x, again.x) and torch.equal(STUDY.have.y, again.y)


def test_rows_of_known_angles_can_be_split() -> None:
    for seed in range(5):
        arena = STUDY.arena("have", seed)
        assert arena.problem.shared_labels and arena.problem.n_tasks == 36
        for part, fraction in (
            (arena.validation.support, 0.6),
            (arena.validation.query, 0.15),
            (arena.test.query, 0.25),
        ):
            assert abs(float(part.weights.sum()) / 1797 - fraction) < 0.02
