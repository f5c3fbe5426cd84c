"""Families over a range of K."""

import pytest
import torch

from quickstudy.core import InputError, Problem
from quickstudy.tasks import Sinusoids
from quickstudy.tasks.shots import AnyShots, FewerShots
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


def test_k_of_each_task_is_uniform_and_the_rest_is_padding() -> None:
    family = FewerShots(Sinusoids(shots=6), least=2)
    episodes = family.sample(2000, torch.Generator().manual_seed(0))
    weight = episodes.support.weights
    assert weight.shape == (2000, 6)
    assert torch.equal(weight, weight.sort(1, descending=True).values)  # the first K count, and no other
    counts = torch.bincount(weight.sum(1).long(), minlength=7)
    assert counts[:2].sum() == 0
    assert counts[2:].min() > 320 and counts[2:].max() < 480  # 400 each, standard deviation 18
    assert family.problem == Sinusoids().problem
    check_task_family(family)


def test_fewer_shots_refuses_what_it_cannot_do() -> None:
    with pytest.raises(InputError, match="at least 1 labelled"):
        FewerShots(Sinusoids(), least=0)
    with pytest.raises(InputError, match="at most 10 examples"):
        FewerShots(Sinusoids(shots=10), least=11).sample(1, torch.Generator())

    class Classes(Sinusoids):
        problem = Problem((1,), "classification", 2)

    with pytest.raises(InputError, match="Take AnyShots"):
        FewerShots(Classes())
