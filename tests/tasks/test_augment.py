"""Augmented images are the family's, mirrored and moved."""

import pytest
import torch
import torch.nn.functional as F

from quickstudy.core import InputError
from quickstudy.tasks import Augmented, ClassEpisodes, ClassSet, Sinusoids

seed = torch.Generator().manual_seed
CLASSES = ClassSet(torch.rand(6, 8, 2, 5, 7, generator=seed(0)) + 1, tuple("abcdef"))
FAMILY = ClassEpisodes(CLASSES, range(6), shots=2, queries=3)


def test_every_image_is_one_of_the_possible_versions_of_its_own() -> None:
    plain, changed = FAMILY.sample(3, seed(1)), Augmented(FAMILY, shift=2).sample(3, seed(1))
    assert torch.equal(plain.support.y, changed.support.y) and torch.equal(plain.query.y, changed.query.y)
    seen = set()
    for before, after in ((plain.support.x, changed.support.x), (plain.query.x, changed.query.x)):
        assert before.shape == after.shape
        for old, new in zip(before.flatten(0, 1), after.flatten(0, 1), strict=True):
            found = [
                (flip, i, j)
                for flip in (False, True)
                for i in range(5)
                for j in range(5)
                if torch.equal(new, F.pad(old.flip(-1) if flip else old, (2,) * 4)[:, i : i + 5, j : j + 7])
            ]
            assert len(found) == 1
            seen.update(found)
    assert len(seen) > 20 and {flip for flip, _, _ in seen} == {False, True}  # 75 images, 50 versions


def test_nothing_to_change_leaves_all_as_it_was() -> None:
    plain, same = FAMILY.sample(2, seed(1)), Augmented(FAMILY, flip=0.0, shift=0).sample(2, seed(1))
    assert torch.equal(plain.support.x, same.support.x) and torch.equal(plain.query.x, same.query.x)


def test_a_seed_draws_the_same_and_unlabelled_images_change_too() -> None:
    family = ClassEpisodes(CLASSES, range(6), ways=3, shots=1, queries=2, unlabelled=2, known=True)
    one, other = (Augmented(family).sample(2, seed(3)) for _ in range(2))
    assert one.support.unlabelled is not None and other.support.unlabelled is not None
    assert torch.equal(one.support.unlabelled, other.support.unlabelled)
    plain = family.sample(2, seed(3)).support.unlabelled
    assert plain is not None and one.support.unlabelled.shape == plain.shape
    assert not torch.equal(plain, one.support.unlabelled) and one.classes is not None


def test_numbers_are_no_images() -> None:
    with pytest.raises(InputError, match="Expected images"):
        Augmented(Sinusoids())
