"""scikit-learn's models, task by task: what a careful person would try first."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from threadpoolctl import threadpool_limits
from torch import Tensor

from quickstudy.core import Batch, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER

Rows = NDArray[np.float64]


class _Classical(Method):
    """One estimator a task, on flattened inputs; weights are respected, tasks never see each other."""

    shares: ClassVar[bool] = False
    trains: ClassVar[bool] = False

    def estimator(self, n: int) -> Any:
        """A fresh scikit-learn estimator for n examples."""
        raise NotImplementedError

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Fit each task's estimator on its support."""
        fit = self._fit_classes if self.problem.kind == "classification" else self._fit_numbers
        rows = [np.asarray(value.flatten(1).double().cpu()) for value in support.x]
        weights = np.asarray(support.weights.double().cpu())
        # one thread: in a process of one thread each, and the same numbers everywhere
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopped early is regularised, not wrong
            models = [
                fit(x[w > 0], np.asarray(y.cpu())[w > 0], w[w > 0])
                for x, y, w in zip(rows, support.y, weights, strict=True)
            ]

        def predict(x: Tensor) -> Tensor:
            with threadpool_limits(1):
                each = [m(np.asarray(one.flatten(1).double().cpu())) for m, one in zip(models, x, strict=True)]
            return torch.as_tensor(np.stack(each), dtype=x.dtype, device=x.device)

        return predict

    def _fit_numbers(self, x: Rows, y: Rows, weight: Rows) -> Callable[[Rows], Rows]:
        single = y.shape[1] == 1
        models = [self.estimator(len(x)).fit(x, column, sample_weight=weight) for column in y.T]
        return lambda new: models[0].predict(new)[:, None] if single else np.stack([m.predict(new) for m in models], 1)

    def _fit_classes(self, x: Rows, y: Rows, weight: Rows) -> Callable[[Rows], Rows]:
        classes = np.unique(y)

        def logits(new: Rows) -> Rows:
            out = np.full((len(new), self.problem.n_outputs), NEVER)
            if model is None:  # one class only: nothing to fit
                out[:, classes] = 0.0
            else:
                out[:, classes] = np.log(model.predict_proba(new).clip(1e-12))
            return out

        model = None if len(classes) == 1 else self.estimator(len(x)).fit(x, y, sample_weight=weight)
        return logits


class Ridge(_Classical):
    r"""Ridge regression of each task alone: :math:`\min_w \sum_i (y_i - x_i^\top w - b)^2 + \alpha \lVert w \rVert^2`.

    Args:
        problem: what the tasks look like.
        alpha: the penalty; chosen on validation, one for all tasks.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, d]``.

    Reference:
        Hoerl, Kennard 1970, Ridge Regression, Technometrics 12:55-67.
    """

    name: ClassVar[str] = "ridge"
    summary: ClassVar[str] = "ridge regression, each task alone (scikit-learn)"
    standard: ClassVar[bool] = True
    reference: ClassVar[str] = "Hoerl, Kennard 1970, Technometrics 12:55-67"
    consistent = True
    settings: dict[str, tuple[float, ...]] = {"alpha": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)}

    def __init__(self, problem: Problem, *, alpha: float = 1.0) -> None:
        super().__init__(problem)
        self.alpha = alpha

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Numbers only."""
        return "" if problem.kind == "regression" else "predicts numbers; these tasks have classes (see logistic)"

    def estimator(self, n: int) -> SklearnRidge:
        """scikit-learn's Ridge."""
        return SklearnRidge(alpha=self.alpha)


class Logistic(_Classical):
    r"""Logistic regression of each task alone, with penalty :math:`\lVert w \rVert^2 / 2C`.

    A task whose support has one class predicts that class.

    Args:
        problem: what the tasks look like.
        C: inverse of the penalty; chosen on validation, one for all tasks.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``.

    Reference:
        Cox 1958, The Regression Analysis of Binary Sequences, J. R. Stat. Soc. B 20:215-242.
    """

    name: ClassVar[str] = "logistic"
    summary: ClassVar[str] = "logistic regression, each task alone (scikit-learn)"
    standard: ClassVar[bool] = True
    reference: ClassVar[str] = "Cox 1958, J. R. Stat. Soc. B 20:215-242"
    consistent = True
    settings: dict[str, tuple[float, ...]] = {"C": (0.0001, 0.001, 0.01, 0.1, 1.0)}

    def __init__(self, problem: Problem, *, C: float = 0.1) -> None:
        super().__init__(problem)
        self.C = C

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Classes only."""
        return "" if problem.kind == "classification" else "predicts classes; these tasks have numbers (see ridge)"

    def estimator(self, n: int) -> LogisticRegression:
        """scikit-learn's LogisticRegression by L-BFGS."""
        return LogisticRegression(C=self.C, max_iter=100, tol=1e-3)


class Boosting(_Classical):
    """Gradient-boosted trees of each task alone, on binned features.

    Args:
        problem: what the tasks look like.
        trees: rounds of boosting.
        learning_rate: shrinkage of each round.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``; gives logits ``[T, m, N]`` or numbers ``[T, m, d]``.

    Reference:
        Friedman 2001, Greedy Function Approximation: A Gradient Boosting Machine, Ann. Stat. 29:1189-1232.
    """

    name: ClassVar[str] = "boosting"
    summary: ClassVar[str] = "gradient-boosted trees, each task alone (scikit-learn)"
    standard: ClassVar[bool] = True
    reference: ClassVar[str] = "Friedman 2001, Ann. Stat. 29:1189-1232"

    def __init__(self, problem: Problem, *, trees: int = 30, learning_rate: float = 0.1) -> None:
        super().__init__(problem)
        self.trees, self.learning_rate = trees, learning_rate

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Trees on pixels are weak, and many classes mean many trees."""
        if len(problem.x_shape) > 1:
            return "trees on raw pixels are slow and weak"
        if problem.kind == "classification" and problem.n_outputs > 10:
            return f"fits a tree a class and round; {problem.n_outputs} classes would take too long"
        return ""

    def estimator(self, n: int) -> Any:
        """scikit-learn's HistGradientBoosting; leaves may be small where there are few examples."""
        cls = HistGradientBoostingClassifier if self.problem.kind == "classification" else HistGradientBoostingRegressor
        return cls(
            max_iter=int(self.trees),
            max_bins=63,  # 0/1 columns have two anyway, and a third of the time goes into empty bins
            learning_rate=self.learning_rate,
            min_samples_leaf=max(1, min(20, n // 10)),
            early_stopping=False,
            random_state=0,
        )
