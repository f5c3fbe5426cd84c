"""EWC around a method obeys every law that the method obeys."""

from __future__ import annotations

import pytest

from quickstudy.core import Method, Problem
from quickstudy.methods import EWC, MAML, Pooled, Prototypical
from quickstudy.testing import check_method

TABLE = Problem((5,), "classification", 3, n_tasks=4)
EPISODES = Problem((5,), "classification", 3, shared_labels=False)
NUMBERS = Problem((5,), "regression", 1, n_tasks=4, metric="explained variance")


@pytest.mark.parametrize(
    ("inner", "problem"), [(Pooled, TABLE), (Pooled, NUMBERS), (Prototypical, EPISODES), (MAML, NUMBERS)]
)
def test_obeys_the_laws_of_a_method(inner: type[Method], problem: Problem) -> None:
    check_method(lambda given: EWC(inner(given)), problem)
