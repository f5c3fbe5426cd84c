"""The loop: what it keeps, what it refuses, what it never sees."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem, RunError
from quickstudy.methods import MultiHead, NearestNeighbour, Pooled
from quickstudy.tasks.study import Study
from quickstudy.tasks.table import TaskTable
from quickstudy.tasks.toy import planted
from quickstudy.training import fit, task_scores
from quickstudy.training.checkpoint import load_checkpoint

PROBLEM = Problem((1,), "regression", 1, n_tasks=2, metric="explained variance")


class Together(Method):
    """Predicts one number a task; its loss pulls that number to 10."""

    uses_task: ClassVar[bool] = True

    def __init__(self, problem: Problem = PROBLEM, start: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__(problem)
        self.level = nn.Parameter(torch.tensor(start))

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        level = self.level if task is None else self.level[task]
        return lambda x: level.view(-1, 1, 1).expand(-1, x.shape[1], 1)


class Tens:
    """Two tasks whose targets are all 10."""

    problem = PROBLEM

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        return targets(10.0, 10.0)


def targets(first: float, second: float) -> Episodes:
    """One example a task, and a third task's worth of spread lest all targets be equal."""
    y = torch.tensor([first, second]).view(2, 1, 1).expand(2, 2, 1) + torch.tensor([[-0.5], [0.5]])
    batch = Batch(torch.zeros(2, 2, 1), y)
    return Episodes(batch, batch, torch.arange(2))


def test_the_best_on_validation_is_kept() -> None:
    method = Together()
    history = fit(method, Tens(), steps=100, lr=0.5, validation=targets(3.0, 3.0), every=1)
    best = max(range(100), key=lambda i: history.score[i])
    assert history.best_step == history.step[best] < 100
    assert history.score[best] > history.score[-1]
    assert method.level.tolist() == pytest.approx([3.0, 3.0], abs=0.3)
    scores = task_scores(method, targets(3.0, 3.0))
    assert float(scores.mean()) == pytest.approx(max(history.score))


def test_without_validation_the_last_is_kept() -> None:
    method = Together()
    history = fit(method, Tens(), steps=100, lr=0.5)
    assert history.best_step == 100
    assert history.score == []
    assert method.level.tolist() == pytest.approx([10.0, 10.0], abs=0.5)


def test_one_step_is_kept_for_all_tasks() -> None:
    """One task is best early, the other late: the step that serves their mean is kept."""
    method = Together()
    history = fit(method, Tens(), steps=100, lr=0.5, validation=targets(2.0, 9.0), every=1)
    assert method.level.tolist() == pytest.approx([method.level.tolist()[0]] * 2)
    assert history.score[history.best_step - 1] == max(history.score)


def test_history_holds_mean_losses() -> None:
    seen: list[float] = []

    class Records(Together):
        def losses(self, episodes: Episodes) -> Tensor:
            losses = super().losses(episodes)
            seen.append(float(losses.detach().mean()))
            return losses

    history = fit(Records(), Tens(), steps=7, every=3)
    assert history.step == [3, 6, 7]
    assert history.loss == pytest.approx([sum(seen[:3]) / 3, sum(seen[3:6]) / 3, seen[6]])


def test_the_step_size_falls_along_a_half_cosine() -> None:
    """Adam's first step on one parameter is lr; its later ones, at a constant gradient, are lr times the cosine."""

    class Slope(Together):
        def losses(self, episodes: Episodes) -> Tensor:
            return self.level

    method, steps, levels = Slope(), 10, [0.0]
    fit(method, Tens(), steps=steps, lr=0.1, progress=lambda done, _: levels.append(float(method.level[0].detach())))
    moved = [before - after for before, after in zip(levels[:-1], levels[1:], strict=True)]
    assert moved == pytest.approx([0.05 * (1 + math.cos(math.pi * s / steps)) for s in range(steps)], rel=1e-4)


@pytest.mark.parametrize("known", [True, False])
def test_a_loss_that_is_not_finite_names_step_and_task(known: bool, tmp_path: Path) -> None:
    class Explodes(Together):
        calls = 0

        def losses(self, episodes: Episodes) -> Tensor:
            self.calls += 1
            return super().losses(episodes) * torch.tensor([1.0, torch.nan if self.calls == 6 else 1.0])

    class Tasks(Tens):
        def sample(self, n: int, generator: torch.Generator) -> Episodes:
            return replace(super().sample(n, generator), task=torch.tensor([1, 0]) if known else None)

    path = tmp_path / "run.safetensors"
    task = 0 if known else 1  # its id, or its place in the step
    with pytest.raises(RunError, match=rf"finite losses\. Found nan at step 5 in task {task}\..*last checkpoint"):
        fit(Explodes(), Tasks(), steps=10, every=4, checkpoint=path)
    tensors, facts = load_checkpoint(path)
    assert facts["step"] == 4
    assert bool(torch.isfinite(tensors["method/level"]).all())


def test_a_method_without_parameters_is_left_alone() -> None:
    class NeverSampled(Tens):
        def sample(self, n: int, generator: torch.Generator) -> Episodes:
            raise AssertionError("nothing to train on")

    assert fit(NearestNeighbour(PROBLEM), NeverSampled()).step == []


def test_the_loop_cannot_be_given_test_tasks() -> None:
    assert not [name for name in inspect.signature(fit).parameters if "test" in name]


@pytest.mark.parametrize("method", [Pooled, MultiHead])
def test_test_examples_change_nothing_in_training(method: type[Method]) -> None:
    """The test rows of one table are replaced by nonsense: the trained parameters are the same."""
    table = planted(0.5, torch.Generator().manual_seed(0), tasks=4, examples=24, features=3)
    _, _, test = table.split_rows(torch.Generator().manual_seed(1000))
    x = table.x.clone()
    x[table.row[test]] = 1e6
    nonsense = replace(table, x=x, y=table.y.masked_fill(test.unsqueeze(-1), -1e6))
    assert not torch.equal(nonsense.x, table.x)

    def trained(data: TaskTable) -> dict[str, Tensor]:
        arena = Study("tables", data, data).arena("have", 0)
        one = method(arena.problem)
        fit(one, arena.train, steps=6, validation=arena.validation, every=2, tasks=arena.tasks_per_step)
        return one.state_dict()

    first, second = trained(table), trained(nonsense)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_scores_leave_the_mode_as_it_was() -> None:
    method = Together().train()
    task_scores(method, targets(1.0, 2.0))
    assert method.training
