"""A run whose inner loop goes wrong says in which step, task and inner step, and keeps what it saved."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from quickstudy.core import Batch, Episodes, Method, RunError
from quickstudy.methods import IMAML, MAML, LSTMOptimizer
from quickstudy.nets.basic import MLP
from quickstudy.tasks.classes import ClassEpisodes, ClassSet
from quickstudy.tasks.toy import Sinusoids
from quickstudy.training import fit
from quickstudy.training.checkpoint import load_checkpoint
from quickstudy.training.fit import History


def maml(rate: float, steps: int = 3, adjoint: bool = False) -> MAML:
    return MAML(Sinusoids().problem, MLP((1, 8, 1)), inner_lr=rate, steps=steps, adjoint=adjoint)


@dataclass
class Spoiled:
    """Sinusoids whose second task has an example without a value from the n-th draw on."""

    after: int
    known: bool = False
    drawn: int = 0
    problem = Sinusoids().problem

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        episodes = Sinusoids().sample(n, generator)
        self.drawn += 1
        if self.drawn > self.after:
            episodes.support.y[1, 3] = torch.nan
        return replace(episodes, task=torch.tensor([7, 4])) if self.known else episodes


@pytest.mark.parametrize(("known", "task"), [(False, 1), (True, 4)])
@pytest.mark.parametrize("adjoint", [False, True])
def test_a_loss_without_a_value_names_the_task_and_where_it_began(
    known: bool, task: int, adjoint: bool, tmp_path: Path
) -> None:
    path, method = tmp_path / "run.safetensors", maml(0.001, adjoint=adjoint)
    began = rf"at step 5 in task {task}\. It began in the inner loop in task {task}: the support loss is nan before"
    with pytest.raises(RunError, match=rf"{began}.*inner step size.*last checkpoint"):
        fit(method, Spoiled(5, known), steps=10, tasks=2, every=2, checkpoint=path)
    tensors, facts = load_checkpoint(path)
    assert facts["step"] == 4
    assert all(bool(torch.isfinite(v).all()) for k, v in tensors.items() if k.startswith("method/"))


@pytest.mark.parametrize("adjoint", [False, True])
def test_an_inner_rate_that_diverges_names_the_inner_step(adjoint: bool) -> None:
    """On y = w x, one step multiplies the error by (1 - 2 rate mean x^2): the step where float32 ends is known."""
    x = torch.ones(2, 4, 1)
    y = torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 4, 1)

    class Family:
        problem = Sinusoids().problem

        def sample(self, n: int, generator: torch.Generator) -> Episodes:
            return Episodes(Batch(x, y), Batch(x, y))

    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)  # task 0 begins at its optimum and stays; task 1 diverges
    method = MAML(Family.problem, net, inner_lr=5e4, steps=8, adjoint=adjoint)
    # errors 1, 1e5, 1e10, 1e15, 1e20: the square of the last is beyond float32
    with pytest.raises(RunError, match=r"in task 1\..*in task 1: the support loss is inf after inner step 4 of 8"):
        fit(method, Family(), steps=3, tasks=2)


@pytest.mark.parametrize("cls", [IMAML, LSTMOptimizer])
def test_other_inner_loops_name_it_too(cls: type[Method]) -> None:
    method = cls(Sinusoids().problem, MLP((1, 8, 1)), steps=1)  # type: ignore[call-arg]
    with pytest.raises(RunError, match="at step 1 in task 1.*in task 1: the support loss is nan before"):
        fit(method, Spoiled(1), steps=3, tasks=2)


def test_class_episodes_name_the_tasks_place() -> None:
    classes = ClassSet(torch.rand(6, 4, 3, generator=torch.Generator().manual_seed(0)), tuple("abcdef"))
    family = ClassEpisodes(classes, range(6), ways=2, shots=1, queries=2, known=True)

    class Family:
        problem = family.problem

        def sample(self, n: int, generator: torch.Generator) -> Episodes:
            episodes = family.sample(n, generator)
            episodes.support.x[2] = torch.inf
            return episodes

    with pytest.raises(RunError, match=r"at step 0 in task 2\. It began in the inner loop in task 2: .* inner step"):
        fit(MAML(family.problem), Family(), steps=2, tasks=4)


def test_an_inner_loop_that_is_fine_is_not_blamed() -> None:
    class Family:
        problem = Sinusoids().problem

        def sample(self, n: int, generator: torch.Generator) -> Episodes:
            episodes = Sinusoids().sample(n, generator)
            episodes.query.y[1] = torch.nan
            return episodes

    with pytest.raises(RunError, match=r"Found nan at step 0 in task 1\. Lower the step size"):
        fit(maml(0.001), Family(), steps=2, tasks=2)


class Overflows(MAML):
    """Finite losses, no finite gradient: the root of a difference that is zero."""

    def losses(self, episodes: Episodes) -> torch.Tensor:
        return super().losses(episodes) + sum(p.sum() * 0 for p in self.parameters()).abs().sqrt()  # type: ignore[union-attr]


def test_parameters_that_are_not_finite_are_not_saved_over_good_ones(tmp_path: Path) -> None:
    path, problem = tmp_path / "run.safetensors", Sinusoids().problem
    fit(MAML(problem, MLP((1, 8, 1)), inner_lr=0.001), Sinusoids(), steps=4, until=3, tasks=2, checkpoint=path)
    broken = Overflows(problem, MLP((1, 8, 1)), inner_lr=0.001)
    with pytest.raises(RunError, match=r"finite parameters to save.*after step 3.*last checkpoint"):
        fit(broken, Sinusoids(), steps=4, tasks=2, checkpoint=path, resume=True, every=4)
    assert load_checkpoint(path)[1]["step"] == 3
    with pytest.raises(RunError, match="at step 1.*parameters are not finite: the gradient of the step before"):
        fit(Overflows(problem, MLP((1, 8, 1)), inner_lr=0.001), Sinusoids(), steps=4, tasks=2)


def test_a_validation_score_without_a_value_does_not_stay_the_best() -> None:
    class Late(MAML):
        def adapt(self, support, task=None):  # type: ignore[no-untyped-def]
            predict, scale = super().adapt(support, task), 1.0
            if not self.training:
                self.looks = getattr(self, "looks", 0) + 1
                scale = torch.nan if self.looks == 1 else 1.0
            return lambda x: predict(x) * scale  # type: ignore[operator]

    method = Late(Sinusoids().problem, MLP((1, 8, 1)), inner_lr=0.001)
    validation = Sinusoids().sample(2, torch.Generator().manual_seed(1))
    history: History = fit(method, Sinusoids(), steps=3, tasks=2, every=1, validation=validation)
    assert history.score[0] != history.score[0]
    assert history.best_step > 1
