"""Search over architectures: which net a method learns best with, at the price of a given one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from quickstudy.core import Episodes, InputError, RunError, TaskFamily
from quickstudy.methods.registry import build, find
from quickstudy.nets import net_for
from quickstudy.nets.spec import Cost, NetSpec, cost, widest
from quickstudy.training.fit import fit, task_scores, weighted_mean
from quickstudy.training.search import Found, Range, Space, maximise

SPACE: Space = {
    "depth": Range(2, 8, whole=True),
    "kernels": ((3,), (3, 1), (1, 3), (3, 1, 1), (5, 3), (5, 1)),
    "halvings": Range(1, 4, whole=True),
    "where": ("first", "spread"),
    "norm": ("batch", "none"),
    "skip": (False, True),
    "double": (False, True),
    "head": ("flat", "mean"),
}


def search_net(
    method: str,
    train: TaskFamily,
    validation: Episodes,
    *,
    trials: int,
    space: Space = SPACE,
    cap: Cost | None = None,
    settings: Mapping[str, Any] | None = None,
    sampler: Literal["tpe", "random"] = "tpe",
    steps: int = 200,
    tasks: int = 16,
    lr: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Train a method anew with each net and score it on the validation tasks; the settings found are a ``NetSpec``'s.

    Every net is as wide as the cap allows (:func:`~quickstudy.nets.spec.widest`), starts from the same seed and is
    trained on the same episodes. What is found is to be trained again and tested once.

    Args:
        method: name of one that takes a ``net``.
        train: where training episodes come from.
        validation: fixed episodes that nets are judged on.
        trials: how many nets are tried.
        space: what of a :class:`~quickstudy.nets.spec.NetSpec` is searched; the rest has its defaults.
        cap: what a net may cost; None stands for the cost of the default net.
        settings: of the method, the same for all nets.
        sampler: see :func:`~quickstudy.training.search.maximise`.
        steps: training steps of each trial.
        tasks: tasks in a step.
        lr: step size of training; None stands for the method's.
        seed: of the sampler, of first weights and of training.
        progress: called with (trials done, trials).

    Raises:
        InputError: a method that takes no net, or that cannot serve these tasks.
        RunError: every trial failed.

    Reference:
        Kim et al. 2018, Auto-Meta, arXiv:1806.06927. Departs in how it searches: there cells are grown by progressive
        search (Liu et al. 2018, arXiv:1712.00559) around first-order learners; here few words describe the whole net
        and Optuna's sampler proposes them, for a budget of minutes.
    """
    problem = train.problem
    why = find(method).refuses(problem)
    if why:
        raise InputError(f"Expected a method that serves these tasks. Found {method!r}: {why}. Take another.")
    cap = cost(net_for(problem, "batch"), problem.x_shape) if cap is None else cap

    def score(words: dict[str, Any]) -> float:
        try:
            spec = widest(NetSpec(**words), problem, cap)
        except InputError as error:  # too dear at any width: a failed trial
            raise RunError(str(error)) from error
        net = spec.build(problem, torch.Generator().manual_seed(seed))
        learner = build(find(method), problem, seed, net=net, **(settings or {}))
        generator = torch.Generator().manual_seed(seed)
        fit(learner, train, steps=steps, tasks=tasks, lr=learner.lr if lr is None else lr, generator=generator)
        return weighted_mean(task_scores(learner, validation), problem.task_weights(validation.query))

    return maximise(score, space, trials=trials, sampler=sampler, seed=seed, progress=progress)
