"""Every method that the library exports obeys the laws, and declares what is true of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import quickstudy.methods
from quickstudy.core import Explorer, Method, Problem
from quickstudy.methods import EWC, MAML, MultiHead, Prototypical
from quickstudy.methods.registry import all_methods
from quickstudy.testing import check_explorer, check_method
from quickstudy.testing._cases import PROBLEMS, cases
from quickstudy.testing._law import obey, precision
from quickstudy.testing.methods import classes_can_be_renumbered

# settings that keep a check short; what is checked does not depend on them
SHORT: dict[str, dict[str, object]] = {
    "boosting": {"trees": 3},
    "fine-tune": {"steps": 3},
    "film": {"steps": 3},
    "imaml": {"steps": 1, "cg_steps": 2},
    "lstm-optimizer": {"steps": 1, "hidden": 2},
    "meta-networks": {"width": 8, "map_width": 4},
    "mamlpp": {"steps": 2},
    "reptile": {"steps": 2, "test_steps": 2},
    "scratch": {"steps": 3},
    "snail": {"length": 8, "filters": 8, "keys": (16, 16, 16), "values": (8, 8, 8)},
}


def short(cls: type[Method]) -> type[Method]:
    """The method with short settings, and with the first only of the values to choose from."""

    class Short(cls):  # type: ignore[misc, valid-type]
        settings = {key: values[:1] for key, values in cls.settings.items()}

        def __init__(self, problem: Problem) -> None:
            super().__init__(problem, **SHORT.get(cls.name, {}))

    Short.__name__ = cls.__name__
    return Short


EXPLORERS = {name: cls for name, cls in all_methods().items() if issubclass(cls, Explorer)}
METHODS = {name: short(cls) for name, cls in all_methods().items() if not issubclass(cls, Explorer)}
PAIRS = [(name, on) for name, cls in METHODS.items() for on, problem in PROBLEMS.items() if not cls.refuses(problem)]
SHUFFLED = {on for on, problem in PROBLEMS.items() if not problem.shared_labels}


@pytest.mark.parametrize(("name", "on"), PAIRS)
def test_method_obeys_the_laws(name: str, on: str) -> None:
    check_method(METHODS[name], PROBLEMS[on])


@pytest.mark.parametrize("cls", EXPLORERS.values(), ids=list(EXPLORERS))
def test_methods_that_act_obey_their_laws(cls: type[Explorer]) -> None:
    check_explorer(cls)


@pytest.mark.parametrize("inner", [Prototypical, MultiHead, MAML])
def test_wrapping_a_method_keeps_its_laws(inner: type[Method]) -> None:
    """EWC goes around a method, and declares what that one does."""

    class Wrapped(EWC):
        def __init__(self, problem: Problem) -> None:
            super().__init__(inner(problem))

        @classmethod
        def refuses(cls, problem: Problem) -> str:
            return inner.refuses(problem)

    check_method(Wrapped)


@pytest.mark.parametrize("name", METHODS)
def test_method_serves_some_problem(name: str) -> None:
    assert name in {served for served, _ in PAIRS}


@pytest.mark.parametrize("name", sorted({name for name, on in PAIRS if on in SHUFFLED}))
def test_label_equivariance_is_declared_where_it_holds(name: str) -> None:
    """The other direction of the law: a method says False only if that is so."""
    claims = type("Claims", (METHODS[name],), {"label_equivariant": True})
    shuffled = [replace(case, factory=claims) for case in cases(METHODS[name], None)[0] if case.name in SHUFFLED]
    with precision(torch.float64):
        holds = all(obey(classes_can_be_renumbered, case) is None for case in shuffled)
    assert METHODS[name].label_equivariant == holds


def test_every_exported_method_has_a_name_of_its_own() -> None:
    assert len(all_methods()) == len(quickstudy.methods.__all__)
    assert all(all_methods())
