"""Learn many tasks, pick up a new one fast: multi-task, transfer and meta-learning in PyTorch.

A method reads a task's few labelled examples and gives back a predictor. Train one on many tasks, score it on tasks it
has never met, and use it on one of your own:

>>> import quickstudy as qs
>>> data = qs.load("digits")  # or your own CSV file, folder of tables or of images
>>> arena = data.arena("meet", seed=0, shots=1)  # new classes, one labelled example of each
>>> method = qs.methods.MAML(arena.problem, inner_lr=0.4)
>>> history = qs.fit(method, arena.train, validation=arena.validation, steps=20, every=10)
>>> print(qs.evaluate(method, arena.test))  # accuracy with its 95 % interval
0... [0..., 0...]
>>> task = arena.test.tasks(slice(0, 1))  # one new task: 5 images to learn from, 50 to name
>>> learner = qs.FewShotClassifier(method).fit(task.support.x[0], task.support.y[0])
>>> learner.predict(task.query.x[0]).shape
(50,)

Which way of learning fits your tasks: ``quickstudy compare DATA``, or :func:`compare`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quickstudy import combine, methods, nets, tasks
    from quickstudy.core import Batch, Episodes, Estimate, InputError, Method, Problem, RunError
    from quickstudy.estimators import FewShotClassifier, FewShotRegressor
    from quickstudy.evaluation.compare import Plan, compare
    from quickstudy.evaluation.evaluate import evaluate
    from quickstudy.model import Model
    from quickstudy.run import Run
    from quickstudy.tasks.load import load
    from quickstudy.training.fit import fit

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "Episodes",
    "Estimate",
    "FewShotClassifier",
    "FewShotRegressor",
    "InputError",
    "Method",
    "Model",
    "Plan",
    "Problem",
    "Run",
    "RunError",
    "combine",
    "compare",
    "evaluate",
    "fit",
    "load",
    "methods",
    "nets",
    "tasks",
]

# where each name lives; imported when first used, so that `quickstudy --help` answers at once
_HOME = {
    **dict.fromkeys(("Batch", "Episodes", "Estimate", "InputError", "Method", "Problem", "RunError"), "core"),
    **dict.fromkeys(("FewShotClassifier", "FewShotRegressor"), "estimators"),
    **dict.fromkeys(("Plan", "compare"), "evaluation.compare"),
    "Model": "model",
    "Run": "run",
    "evaluate": "evaluation.evaluate",
    "fit": "training.fit",
    "load": "tasks.load",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"quickstudy.{_HOME[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"quickstudy.{name}")
    raise AttributeError(f"module 'quickstudy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
