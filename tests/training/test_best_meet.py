"""A method whose parameters belong to tasks can be chosen on tasks that are none of them."""

import torch

from quickstudy.methods import Independent
from quickstudy.tasks.load import load
from quickstudy.training.fit import fit


def test_separable_parameters_and_new_validation_tasks() -> None:
    arena = load("planted:0.5").arena("meet", 0)
    assert arena.validation.task is None and arena.validation.n_tasks != arena.problem.n_tasks
    method = Independent(arena.problem, steps=2, generator=torch.Generator().manual_seed(0))
    history = fit(method, arena.train, steps=2, every=1, validation=arena.validation)
    assert len(history.score) == 2 and history.best_step in (1, 2)
