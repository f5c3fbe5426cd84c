"""The kit catches what it must, by the law that is meant, and lets sound methods pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.conformance.broken import BREAKS, FirstOrder, KnownTasksOnly, ReadsTheOrder, Rows, Sound, SoundSteps
from torch import Tensor

from quickstudy.combine import mean, worst
from quickstudy.core import Episodes, Explorer, InputError, Method, Predictor, Problem, Trajectory
from quickstudy.methods.rl.rl2 import RL2, RecurrentPolicy
from quickstudy.tasks.classes import ClassEpisodes, ClassSet
from quickstudy.tasks.table import Scale, TableTasks
from quickstudy.tasks.toy import Sinusoids, planted
from quickstudy.testing import ConformanceError, check_combine, check_explorer, check_method, check_task_family, laws
from quickstudy.testing.methods import METHOD_LAWS


@pytest.mark.parametrize("cls", [Sound, SoundSteps, FirstOrder, Rows])
def test_sound_methods_pass(cls: type[Method]) -> None:
    check_method(cls)


@pytest.mark.uses_global_rng  # methods that draw from it are what the kit must catch
@pytest.mark.parametrize("cls", list(BREAKS), ids=lambda cls: cls.__name__)
def test_broken_methods_are_caught_by_the_law_that_is_meant(cls: type[Method]) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_method(cls)
    assert BREAKS[cls] in caught.value.laws
    message = str(caught.value)
    assert message.startswith(cls.__name__)
    assert "Expected" in message and "Found" in message


def test_every_law_has_a_method_that_breaks_it() -> None:
    assert {law.__name__.replace("_", " ") for law in METHOD_LAWS} == set(BREAKS.values())


def test_most_broken_methods_break_one_law_only() -> None:
    """A kit whose laws fire together tells little about what is wrong."""
    for cls in (ReadsTheOrder, KnownTasksOnly):
        with pytest.raises(ConformanceError) as caught:
            check_method(cls)
        assert caught.value.laws == (BREAKS[cls],)


def test_a_law_broken_on_many_problems_is_told_once() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_method(ReadsTheOrder)
    message = str(caught.value)
    assert message.count("support order is without effect") == 1
    assert "(also: " in message
    assert "declare `order_free = False`" in message


def test_laws_one_by_one() -> None:
    fine, wrong = 0, []
    for name, law in laws(ReadsTheOrder, Problem((2,), "regression", 1)):
        try:
            law()
            fine += 1
        except ConformanceError:
            wrong.append(name)
    assert wrong == ["support order is without effect, on the given problem"]
    assert fine == len(METHOD_LAWS) - 1


def test_the_kit_leaves_the_default_precision_alone() -> None:
    check_method(Rows)
    assert torch.get_default_dtype() == torch.float32


def test_a_method_that_refuses_everything_cannot_pass() -> None:
    class Refuses(Sound):
        @classmethod
        def refuses(cls, problem: Problem) -> str:
            return "too hard"

    with pytest.raises(InputError, match=r"refuses all.*too hard.*check_method\(factory, problem\).*check_explorer"):
        check_method(Refuses)


# --- methods that act -------------------------------------------------------------------------------------------------


class Forgets(RL2):
    """Starts anew when asked to adapt."""

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        return super().adapt(replace(support, reward=0 * support.reward), task)


class MixesTasks(RL2):
    def see(self, observation: Tensor, memory: Tensor) -> Tensor:
        return super().see(observation - observation.mean(0), memory)


class LosesTasks(RL2):
    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        return super().losses(trajectory).mean()


class NotesOnSelf(RL2):
    def see(self, observation: Tensor, memory: Tensor) -> Tensor:
        self.last = observation.sum()
        return super().see(observation, memory)


class Throws(RecurrentPolicy):
    """Draws from the global generator."""

    def act(self, observation: Tensor, memory: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        return super().act(observation, memory, torch.Generator().manual_seed(int(torch.randint(99, ()))))


class Dice(RL2):
    def explorer(self) -> RecurrentPolicy:
        return Throws(self)


class Stubborn(RL2):
    def explorer(self) -> RecurrentPolicy:
        return Repeats(self)


class Repeats(RecurrentPolicy):
    """Draws the same whatever the generator says."""

    def act(self, observation: Tensor, memory: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        return super().act(observation, memory, torch.Generator().manual_seed(0))


BROKEN_EXPLORERS: dict[type[Explorer], str] = {
    Forgets: "acting is adapting",
    MixesTasks: "tasks do not leak into each other",
    LosesTasks: "losses are one finite number a task",
    NotesOnSelf: "acting and adapting change nothing",
    Dice: "the generator decides",
    Stubborn: "the generator decides",
}


@pytest.mark.uses_global_rng  # a policy that draws from it is what the kit must catch
@pytest.mark.parametrize("cls", list(BROKEN_EXPLORERS), ids=lambda cls: cls.__name__)
def test_broken_methods_that_act_are_caught(cls: type[Explorer]) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_explorer(cls)
    assert BROKEN_EXPLORERS[cls] in caught.value.laws


# --- families ---------------------------------------------------------------------------------------------------------


def _classes(known: bool = False) -> ClassEpisodes:
    x = torch.rand(6, 9, 4, generator=torch.Generator().manual_seed(0))
    return ClassEpisodes(ClassSet(x, tuple("abcdef")), range(6), ways=3, shots=2, queries=4, known=known)


def _table() -> TableTasks:
    table = planted(0.5, torch.Generator().manual_seed(0), tasks=5, examples=12, features=3)
    return TableTasks(table, table.present(), Scale.of(table, table.present()), support=4, query=4)


@pytest.mark.parametrize("family", [_classes(), _classes(known=True), _table(), Sinusoids()])
def test_families_of_the_library_pass(family: ClassEpisodes | TableTasks | Sinusoids) -> None:
    check_task_family(family)


class _Changed:
    """A family whose episodes are tampered with."""

    def __init__(self, change: Callable[[Episodes, torch.Generator], Episodes], problem: Problem | None = None) -> None:
        self.family, self.change = _classes(known=True), change
        self.problem = self.family.problem if problem is None else problem

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        return self.change(self.family.sample(n, generator), generator)


def _x(e: Episodes, x: Tensor) -> Episodes:
    return replace(e, query=replace(e.query, x=x))


_KNOWN = _classes(known=True)
BROKEN_FAMILIES: dict[str, tuple[str, _Changed]] = {
    "global draw": ("the generator decides", _Changed(lambda e, g: _x(e, e.query.x + torch.rand(())))),
    "always the same": (
        "the generator decides",
        _Changed(lambda e, g: _KNOWN.sample(e.n_tasks, torch.Generator().manual_seed(1))),
    ),
    "a copy of the generator": (
        "sampling moves the generator",
        _Changed(lambda e, g: _KNOWN.sample(e.n_tasks, torch.Generator().manual_seed(g.initial_seed()))),
    ),
    "wrong x": ("shapes agree with the problem", _Changed(lambda e, g: _x(e, e.query.x[..., :3]))),
    "double": ("shapes agree with the problem", _Changed(lambda e, g: _x(e, e.query.x.double()))),
    "labels from 1": (
        "labels and ids are in range",
        _Changed(lambda e, g: replace(e, support=replace(e.support, y=e.support.y + 1))),
    ),
    "ids without a number of tasks": (
        "labels and ids are in range",
        _Changed(lambda e, g: replace(e, task=torch.arange(e.n_tasks))),
    ),
    "NaN": ("numbers are finite", _Changed(lambda e, g: _x(e, e.query.x * torch.nan))),
    "empty query": (
        "every task has examples",
        _Changed(lambda e, g: replace(e, query=replace(e.query, weight=torch.zeros(e.query.y.shape)))),
    ),
    "query is the support": ("support and query are disjoint", _Changed(lambda e, g: replace(e, query=e.support))),
}


@pytest.mark.uses_global_rng  # a family that draws from it is what the kit must catch
@pytest.mark.parametrize("name", list(BROKEN_FAMILIES))
def test_broken_families_are_caught(name: str) -> None:
    law, family = BROKEN_FAMILIES[name]
    with pytest.raises(ConformanceError) as caught:
        check_task_family(family)
    assert law in caught.value.laws


def test_equal_examples_may_be_no_mistake() -> None:
    check_task_family(_Changed(lambda e, g: replace(e, query=e.support)), distinct=False)


# --- combine ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", [mean, worst])
def test_combines_of_the_library_pass(combine: Callable[[Tensor], Tensor]) -> None:
    check_combine(combine)


@pytest.mark.parametrize(
    ("combine", "law"),
    [
        (lambda losses: losses, "one number comes out"),
        (lambda losses: losses.log().sqrt().sum(), "one number comes out"),
        (lambda losses: losses.detach().mean(), "the gradient reaches the losses"),
        (lambda losses: -losses.mean(), "the gradient reaches the losses"),
        (lambda losses: (losses - losses).sum(), "the gradient reaches the losses"),
        (lambda losses: losses[0], "tasks are alike"),
    ],
)
def test_broken_combines_are_caught(combine: Callable[[Tensor], Tensor], law: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_combine(combine)
    assert law in caught.value.laws


def test_a_weight_a_task_is_allowed_where_said() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    check_combine(lambda losses: (weights * losses).sum(), symmetric=False)
    with pytest.raises(ConformanceError, match="symmetric=False"):
        check_combine(lambda losses: (weights * losses).sum())
