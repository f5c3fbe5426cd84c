"""The guard of tests/conftest.py has teeth and lets nets be built."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from torch import nn

DRAWS: list[Callable[[], object]] = [lambda: torch.rand(1), lambda: np.random.rand()]  # noqa: NPY002


@pytest.mark.parametrize("draw", DRAWS, ids=["torch", "numpy"])
@pytest.mark.uses_global_rng  # it draws on purpose
def test_a_global_draw_is_seen(draw: Callable[[], object]) -> None:
    """A draw from a global generator changes what the guard compares."""
    from tests.conftest import global_states

    before = global_states()
    draw()
    assert global_states() != before


@pytest.mark.parametrize("_time", [1, 2])
def test_nets_may_be_built(_time: int) -> None:
    """A layer's weights are the same in every test and leave the global generator alone."""
    weights = nn.Linear(2, 1).weight
    expected = nn.init.kaiming_uniform_(torch.empty(1, 2), a=5**0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weights, expected)
    nn.TransformerEncoderLayer(4, 2), nn.LSTM(2, 2), nn.Conv2d(1, 1, 3), nn.Embedding(3, 2)


@given(strategies.floats())
def test_hypothesis_passes_the_guard(_x: float) -> None:
    """Hypothesis seeds the global generators and puts them back."""
