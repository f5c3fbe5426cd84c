"""A family over a range of K."""

import pytest
import torch

from quickstudy.core import InputError
from quickstudy.tasks import Sinusoids
from quickstudy.tasks.shots import AnyShots
from quickstudy.testing import check_task_family


def test_every_k_is_drawn_about_equally_often() -> None:
    family = AnyShots(lambda k: Sinusoids(shots=k), (1, 5, 20))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([family.sample(2, generator).support.n for _ in range(300)])
    for k in (1, 5, 20):
        assert 70 < int((drawn == k).sum()) < 130
    assert set(drawn.tolist()) == {1, 5, 20}
    assert family.problem == Sinusoids().problem


def test_it_keeps_the_laws_of_a_family() -> None:
    check_task_family(AnyShots(lambda k: Sinusoids(shots=k), range(1, 6)))


@pytest.mark.parametrize("shots", [(), (0, 1)])
def test_no_examples_are_no_shots(shots: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        AnyShots(lambda k: Sinusoids(shots=k), shots)
