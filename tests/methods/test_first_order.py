"""Where the curvature that first-order MAML leaves out decides, it goes the wrong way; exact MAML does not."""

from dataclasses import replace

import pytest
import torch

from quickstudy.core import Batch, Episodes
from quickstudy.methods import MAML
from quickstudy.nets import MLP
from quickstudy.tasks.toy import UnlikeCurvature
from quickstudy.testing import check_task_family

FAMILY = UnlikeCurvature()


def at(theta: float, rate: float, first_order: bool) -> MAML:
    net = MLP((FAMILY.size, 1)).double()
    with torch.no_grad():
        net[0].weight.fill_(theta)  # type: ignore[operator]
        net[0].bias.zero_()  # type: ignore[operator]
    net[0].bias.requires_grad_(False)
    return MAML(FAMILY.problem, net, inner_lr=rate, first_order=first_order)


def ten() -> Episodes:
    """Eight flat and two steep tasks without spread, the query being as exact as the support."""
    family = replace(FAMILY, spread=0.0)
    many = family.sample(400, torch.Generator().manual_seed(0))
    steep = (many.support.y[:, 0, 0] < 0).nonzero().flatten()[:2]
    flat = (many.support.y[:, 0, 0] > 0).nonzero().flatten()[:8]
    some = many.tasks(torch.cat([flat, steep])).support
    both = Batch(some.x.double(), some.y.double())
    return Episodes(both, both)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("rate", [0.05, 0.25])
def test_training_stands_still_where_the_closed_form_says(rate: float, first_order: bool) -> None:
    start = FAMILY.best_start(rate, first_order=first_order)
    for theta, still in ((start, True), (start + 0.1, False)):
        method = at(theta, rate, first_order)
        (slope,) = torch.autograd.grad(method.losses(ten()).mean(), [method.net[0].weight])  # type: ignore[index]
        assert bool(slope.abs().max() < 1e-4) == still
        if not first_order and not still:
            assert bool((slope > 0).all())  # a minimum


@pytest.mark.parametrize("rate", [0.05, 0.25])
def test_the_loss_is_what_the_closed_form_says(rate: float) -> None:
    found = at(0.3, rate, False).losses(ten()).detach().mean()
    assert float(found) == pytest.approx(replace(FAMILY, spread=0.0).loss(0.3, rate), rel=1e-6)


def test_how_far_first_order_is_off() -> None:
    """A small step: next to nothing. One that oversets a fifth of the tasks: 4 - 3 (-1) = 7 instead of 1 / 7."""
    assert FAMILY.best_start(0.02, first_order=True) == pytest.approx(FAMILY.best_start(0.02), abs=0.05)
    assert FAMILY.best_start(0.25) == pytest.approx(1 / 7)
    assert FAMILY.best_start(0.25, first_order=True) == pytest.approx(7.0)
    assert FAMILY.loss(7.0, 0.25) > 20 * FAMILY.loss(1 / 7, 0.25)


def test_the_family_keeps_the_laws() -> None:
    check_task_family(UnlikeCurvature())
