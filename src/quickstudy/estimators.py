"""Few-shot learners as scikit-learn estimators: ``fit`` adapts to a task's examples, ``predict`` answers."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from quickstudy.core import InputError, Method, Problem
from quickstudy.methods import Prototypical
from quickstudy.methods.registry import build, find
from quickstudy.model import Model
from quickstudy.tasks.columns import label_names
from quickstudy.tasks.table import Array, Scale


class _FewShot(BaseEstimator):
    """What both estimators share: where the model comes from, and inputs of any shape."""

    method: Method | str | Path | None
    model_: Model

    def _model(self, problem: Problem, x: Array, y: Array | None) -> Model:
        """The learner before it has seen this task's examples.

        Args:
            problem: what these examples look like; for methods that are built here.
            x: the examples' inputs ``[n, features]``.
            y: the numbers to predict ``[n, d]``; None for classes.
        """
        method = self.method
        if isinstance(method, Method):
            return Model(copy.deepcopy(method).eval())
        if isinstance(method, Path) or (method is not None and Path(method).exists()):
            return Model.load(Path(method))
        if method is None:
            learner = self._default(problem)
        else:
            learner = build(find(method), problem, 0)
            refusal = learner.refuses(problem)
            if refusal:
                raise ValueError(f"Expected a method for this target. Found that {method!r} {refusal}.")
            if learner.trains:
                raise ValueError(
                    f"Expected a method that needs no training, or a trained one. Found the name {method!r}. Train it "
                    "first, and give the trained method or the folder of its run."
                )
        return Model(learner.double().eval(), scale=_scale(problem, x, y))

    def _default(self, problem: Problem) -> Method:
        raise NotImplementedError

    def _flat(self, X: ArrayLike) -> tuple[Any, tuple[int, ...]]:
        """Inputs as scikit-learn checks them, ``[n, features]``, and the shape of one as it was given."""
        shape = tuple(getattr(X, "shape", ()))[1:]
        return (np.asarray(X).reshape(-1, math.prod(shape)), shape) if len(shape) > 1 else (X, ())

    def _query(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        flat: Array = validate_data(self, self._flat(X)[0], reset=False, dtype="numeric")
        return flat


def _scale(problem: Problem, x: Array, y: Array | None) -> Scale:
    """Measured on the examples to learn from, in double precision. Images are left as they are."""
    zero, one = torch.zeros((), dtype=torch.double), torch.ones((), dtype=torch.double)

    def moments(values: Array) -> tuple[torch.Tensor, torch.Tensor]:
        double = torch.as_tensor(values.astype(np.float64))
        mean, std = double.mean(0), double.std(0, correction=0)
        return mean, std.where(std > 1e-8 * (1 + mean.abs()), 1.0)

    x_mean, x_std = moments(x / 255 if x.dtype == np.uint8 else x) if len(problem.x_shape) == 1 else (zero, one)
    y_mean, y_std = (zero, one) if y is None else moments(y)
    return Scale(x_mean, x_std, y_mean, y_std)


class FewShotClassifier(ClassifierMixin, _FewShot):
    """Learns to tell classes apart from a few examples, by a method that was trained on other tasks.

    Args:
        method: a trained method; the folder of a run, or a model file; or the name of a method that needs no
            training, such as ``"nearest-neighbour"`` or ``"logistic"``. None takes the nearest class mean.

    Attributes:
        classes_: the classes of ``y``, sorted. Answers are among them, also where a run knows more.
        n_features_in_: numbers in one (flattened) input.
        model_: the :class:`quickstudy.model.Model` of this task.

    Inputs are ``[n, features]``, or images ``[n, channels, height, width]`` in their shape or flattened; uint8 stands
    for 0..255. A run's scaling is applied; methods given by name see inputs standardised on ``X``.
    """

    def __init__(self, method: Method | str | Path | None = None) -> None:
        self.method = method

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Adapt to labelled examples ``X [n, *x]``, ``y [n]``."""
        flat, shape = self._flat(X)
        flat, y = validate_data(self, flat, y, dtype="numeric")
        check_classification_targets(y)
        self.classes_, index = np.unique(np.asarray(y), return_inverse=True)
        shape = shape or flat.shape[1:]
        problem = Problem(tuple(shape), "classification", len(self.classes_), shared_labels=False)
        model = self._model(problem, flat, None)
        if len(self.classes_) < 2 and not model.problem.shared_labels:
            raise InputError(
                f"Expected examples of at least two classes. Found 1 class, {str(self.classes_[0])!r}: nothing to "
                "tell apart. Add examples of another class."
            )
        # classes that mean the same in every task have names; others are numbered here
        self.model_ = model.adapt(flat, np.asarray(y) if model.problem.shared_labels else index)
        return self

    def predict_proba(self, X: ArrayLike) -> Array:
        """How likely each of ``classes_`` is. Shape: ``[m, N]``."""
        query = self._query(X)
        names = label_names(self.classes_)[1] if self.model_.problem.shared_labels else self.model_.labels
        here = [self.model_.labels.index(name) for name in names]
        share = self.model_.probabilities(query)[:, here].astype(np.float64)
        probabilities: Array = share / share.sum(1, keepdims=True).clip(1e-300)
        return probabilities

    def predict(self, X: ArrayLike) -> Array:
        """The likeliest class of each input. Shape: ``[m]``."""
        likeliest = self.predict_proba(X).argmax(1)
        chosen: Array = self.classes_[likeliest]
        return chosen

    def _default(self, problem: Problem) -> Method:
        return Prototypical(problem, nn.Flatten())


class FewShotRegressor(RegressorMixin, _FewShot):
    """Learns to predict numbers from a few examples, by a method that was trained on other tasks.

    Args:
        method: a trained method; the folder of a run, or a model file; or the name of a method that needs no
            training, such as ``"nearest-neighbour"``. None takes ridge regression.

    Attributes:
        n_features_in_: numbers in one (flattened) input.
        model_: the :class:`quickstudy.model.Model` of this task.

    Inputs are as in :class:`FewShotClassifier`. Answers are in the units of ``y``.
    """

    def __init__(self, method: Method | str | Path | None = None) -> None:
        self.method = method

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Adapt to examples ``X [n, *x]``, ``y [n]`` or ``[n, d]``."""
        flat, shape = self._flat(X)
        flat, y = validate_data(self, flat, y, dtype="numeric", multi_output=True, y_numeric=True)
        targets = np.asarray(y, dtype=np.float64)
        self._single = targets.ndim == 1
        targets = targets.reshape(len(targets), -1)
        shape = shape or flat.shape[1:]
        problem = Problem(tuple(shape), "regression", targets.shape[1], metric="explained variance")
        self.model_ = self._model(problem, flat, targets).adapt(flat, targets)
        return self

    def predict(self, X: ArrayLike) -> Array:
        """The number of each input. Shape: ``[m]`` or ``[m, d]``."""
        query = self._query(X)
        values = self.model_.predict(query).astype(np.float64)
        return values[:, 0] if self._single else values

    def _default(self, problem: Problem) -> Method:
        return build(find("ridge"), problem, 0)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags = replace(tags.target_tags, multi_output=True, single_output=True)
        return tags
