"""A trained method together with what its inputs and answers mean; after ``adapt``, a model of one task."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import Distribution

from quickstudy.core import Batch, InputError, Method, Prediction, Predictor, Problem
from quickstudy.methods.registry import build, find
from quickstudy.tasks.columns import Columns, label_names
from quickstudy.tasks.table import Array, Scale
from quickstudy.training.checkpoint import load_checkpoint, save_checkpoint

CHUNK = 1000  # examples predicted at once, where they do not depend on each other


@dataclass(frozen=True, eq=False)
class Model:
    """What a run leaves behind: learns a task from a few raw examples, and predicts in the data's own words and units.

    Args:
        method: trained (or in no need of it), in eval mode.
        source: the method's registered name, or ``my_file.py:MyMethod``; empty where it cannot be saved.
        settings: what it was built with.
        scale: how inputs and targets were standardised; None leaves them as they are.
        columns: what the columns of a table mean; None where the data had no names.
        labels: the classes' names; empty for numbers, and before ``adapt`` where every task has classes of its own.
        support: the examples adapted to, standardised, ``[1, n, ...]``; None before ``adapt``.
        task: the id ``[1]`` of the training task this model is for; None for a new task.
    """

    method: Method
    source: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    scale: Scale | None = None
    columns: Columns | None = None
    labels: tuple[str, ...] = ()
    support: Batch | None = None
    task: Tensor | None = None

    @property
    def problem(self) -> Problem:
        """What the method was trained for."""
        return self.method.problem

    @property
    def known_labels(self) -> tuple[str, ...]:
        """The classes' names where they mean the same in every task; numbers where nobody named them."""
        return self.labels or tuple(map(str, range(self.problem.n_outputs)))

    def adapt(self, x: ArrayLike, y: ArrayLike) -> Model:
        """Learn one task.

        Args:
            x: raw inputs ``[n, *x]``, or flattened; uint8 stands for 0..255 and is read as 0..1.
            y: labels ``[n]``, texts or numbers; or the numbers to predict, ``[n]`` or ``[n, d]``.

        Raises:
            InputError: inputs of another shape, NaN or infinite numbers, unknown labels, or more classes than the
                method can tell apart.
        """
        inputs, answers = self._inputs(x), np.asarray(y)
        if len(answers) != inputs.shape[1]:
            raise InputError(
                f"Expected one target an example. Found {inputs.shape[1]} examples, {len(answers)} targets."
            )
        labels = self.labels
        if self.problem.kind == "regression":
            targets = self._targets(answers)
        else:
            index, names = label_names(answers)
            if len(names) < 2 and not self.problem.shared_labels:
                raise InputError(
                    f"Expected examples of at least two classes. Found only {', '.join(map(repr, names)) or 'none'}: "
                    "there is nothing to tell apart. Add examples of another class."
                )
            if self.problem.shared_labels:
                index, labels = self._known(names)[index], self.known_labels
            else:
                labels = names
            targets = torch.as_tensor(index)
        adapted = replace(self, labels=labels, support=Batch(inputs, targets.unsqueeze(0)), task=None)
        _ = adapted._predictor  # learns now, so that what cannot be learned is told now
        return adapted

    def of_task(self, support: Batch, task: Tensor) -> Model:
        """The model of a training task, from its standardised examples ``[1, n, ...]`` and its id ``[1]``."""
        labels = self.known_labels if self.problem.kind == "classification" else ()
        return replace(self, labels=labels, support=support, task=task)

    def predict(self, x: ArrayLike) -> Array:
        """The answers: names of classes ``[m]``, or numbers ``[m, d]`` in the data's units."""
        if self.problem.kind == "classification":
            chosen: Array = np.array(self.labels)[self.probabilities(x).argmax(1)]
            return chosen
        prediction = self._raw(x)
        value = prediction.mean if isinstance(prediction, Distribution) else prediction
        numbers = value if self.scale is None else value * self.scale.y_std + self.scale.y_mean
        return np.asarray(numbers)

    def probabilities(self, x: ArrayLike) -> Array:
        """How likely each of ``labels`` is. Shape: ``[m, N]``."""
        logits = self._raw(x)
        assert isinstance(logits, Tensor)
        return np.asarray(logits[:, : len(self.labels)].softmax(1))

    def deviation(self, x: ArrayLike) -> Array | None:
        """Standard deviation of each predicted number ``[m, d]``; None where the method tells none."""
        prediction = self._raw(x)
        if not isinstance(prediction, Distribution):
            return None
        width = prediction.stddev if self.scale is None else prediction.stddev * self.scale.y_std
        return np.asarray(width)

    @cached_property
    def _predictor(self) -> Predictor:
        if self.support is None:
            raise InputError("Expected a model of a task. Found one that has seen none. Adapt it first.")
        method = self.method
        if self.problem.kind == "classification" and not self.problem.shared_labels:
            method = with_classes(method, len(self.labels), at_least=False)
        with torch.no_grad():
            return method.adapt(self.support, self.task)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_predictor"}

    def _raw(self, x: ArrayLike) -> Prediction:
        """What the predictor says of standardised inputs. Shape: ``[m, outputs]``."""
        inputs, predict = self._inputs(x), self._predictor
        parts = (inputs,) if self.method.transductive else inputs.split(CHUNK, 1)
        with torch.no_grad():
            said = [predict(part) for part in parts]
        if all(isinstance(one, Tensor) for one in said):
            return torch.cat([one for one in said if isinstance(one, Tensor)], 1).squeeze(0)
        mean = torch.cat([one.mean for one in said if isinstance(one, Distribution)], 1).squeeze(0)
        width = torch.cat([one.stddev for one in said if isinstance(one, Distribution)], 1).squeeze(0)
        return torch.distributions.Normal(mean, width, validate_args=False)

    def _inputs(self, x: ArrayLike) -> Tensor:
        """Checked, shaped and standardised. Shape: ``[1, n, *x]``."""
        array = np.array(x)
        shape = self.problem.x_shape
        if array.dtype.kind not in "biuf" or array.ndim < 1:
            raise InputError(f"Expected numbers as inputs. Found {array.dtype} of shape {array.shape}.")
        if array[0].size != int(np.prod(shape)):
            raise InputError(
                f"Expected inputs of shape {shape}, or {int(np.prod(shape))} numbers each. Found {array.shape[1:]}. "
                "Give inputs as the training data have them."
            )
        values = torch.as_tensor(array).to(self._dtype)
        if array.dtype == np.uint8:
            values = values / 255
        if not bool(torch.isfinite(values).all()):
            raise InputError(
                "Expected finite inputs. Found NaN, infinite or too large numbers. Fill or drop those rows."
            )
        values = values.reshape(-1, *shape)
        if self.scale is not None:
            values = (values - self.scale.x_mean) / self.scale.x_std
        return values.unsqueeze(0)

    @property
    def _dtype(self) -> torch.dtype:
        """The weights' precision; double where there are none."""
        return next(
            (value.dtype for value in self.method.state_dict().values() if value.is_floating_point()), torch.double
        )

    def _targets(self, y: Array) -> Tensor:
        """Standardised numbers. Shape: ``[n, d]``."""
        if y.dtype.kind not in "biuf":
            raise InputError(f"Expected numbers as targets. Found {y.dtype}, such as {y.flat[0]!r}.")
        values = torch.as_tensor(y.astype(np.float64)).reshape(len(y), -1)
        if values.shape[1] != self.problem.n_outputs:
            raise InputError(f"Expected {self.problem.n_outputs} numbers a target. Found {values.shape[1]}.")
        if not bool(torch.isfinite(values).all()):
            raise InputError("Expected finite targets. Found NaN or infinite ones. Drop those rows.")
        if self.scale is not None:
            values = (values - self.scale.y_mean) / self.scale.y_std
        return values.to(self._dtype)

    def _known(self, names: tuple[str, ...]) -> Array:
        """Where each name stands among the labels of the training data."""
        known = self.known_labels
        odd = [name for name in names if name not in known]
        if odd:
            raise InputError(
                f"Expected the labels of the training data: {', '.join(known)}. Found {odd[0]!r}. Correct those rows."
            )
        return np.array([known.index(name) for name in names])

    def save(self, path: Path) -> None:
        """Write weights, support and meaning in one safetensors file.

        Raises:
            InputError: the method has no name by which it could be built again.
            RunError: the disk is full; an older file is intact.
        """
        if not self.source:
            raise InputError("Expected a method by its name, to build it again. Found an object. Train it by its name.")
        tensors = {f"method/{name}": value for name, value in self.method.state_dict().items()}
        if self.scale is not None:
            tensors |= {f"scale/{name}": value for name, value in vars(self.scale).items()}
        if self.support is not None:
            tensors |= {"support/x": self.support.x, "support/y": self.support.y}
            tensors |= {} if self.support.weight is None else {"support/weight": self.support.weight}
            tensors |= {} if self.support.unlabelled is None else {"support/unlabelled": self.support.unlabelled}
        if self.task is not None:
            tensors["task"] = self.task
        facts = {
            "holds": "model",
            "source": self.source,
            "settings": dict(self.settings),
            "chosen": {key: getattr(self.method, key) for key in self.method.settings},
            "problem": asdict(self.problem),
            "labels": self.labels,
            "columns": None if self.columns is None else asdict(self.columns),
        }
        save_checkpoint(path, tensors, facts)

    @classmethod
    def load(cls, path: Path) -> Model:
        """Read a model file, or the model of a run's folder.

        Raises:
            InputError: no such file, no model, or one that was trained by other code.
        """
        path = path / "model.safetensors" if path.is_dir() else path
        tensors, facts = load_checkpoint(path)
        if facts.get("holds") != "model":
            raise InputError(
                f"Expected a model at {path}. Found a checkpoint of a training. Give a run's folder, or what "
                "`quickstudy adapt` wrote."
            )
        shape = tuple(facts["problem"].pop("x_shape"))
        problem = Problem(x_shape=shape, **facts["problem"])
        method = build(find(facts["source"]), problem, 0, **facts["settings"])
        for key, value in facts["chosen"].items():
            setattr(method, key, value)
        part = lambda head: {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}  # noqa: E731
        try:
            method.load_state_dict(part("method/"))
        except RuntimeError as error:
            raise InputError(
                f"Expected the weights of {facts['source']!r} in {path}. Found others ({error}). Train again with the "
                "code as it is now."
            ) from error
        scale, columns = part("scale/"), facts["columns"]
        if columns is not None:
            columns = Columns(tuple((name, tuple(texts)) for name, texts in columns["inputs"]), columns["target"])
        return cls(
            method.eval(),
            facts["source"],
            facts["settings"],
            Scale(**scale) if scale else None,
            columns,
            tuple(facts["labels"]),
            Batch(**part("support/")) if "support/x" in tensors else None,
            tensors.get("task"),
        )


def with_classes(method: Method, n: int, *, at_least: bool = True) -> Method:
    """The same method for tasks of ``n`` classes, where its weights allow it.

    Args:
        method: trained for ``problem.n_outputs`` classes.
        n: how many classes the tasks have.
        at_least: False also allows more outputs than classes, the rest to be ignored.

    Raises:
        InputError: the number of outputs is part of the weights.
    """
    trained = method.problem.n_outputs
    if n == trained:
        return method
    other = copy.copy(method)
    other.problem = replace(method.problem, n_outputs=n)
    # whether a method minds is known by trying: two examples of each class
    dtype = next((value.dtype for value in method.state_dict().values() if value.is_floating_point()), torch.double)
    x = torch.randn(1, 2 * n, *method.problem.x_shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    try:
        with torch.no_grad():
            said = other.adapt(Batch(x, torch.arange(n).repeat(2).unsqueeze(0)))(x)
        if isinstance(said, Tensor) and said.shape[-1] == n:
            return other
    except (RuntimeError, IndexError, ValueError):
        pass  # it minds
    if n < trained and not at_least:
        return method
    raise InputError(
        f"Expected {'at most ' if not at_least else ''}{trained} classes, the outputs that {method.name!r} was trained "
        f"with. Found {n}. Train with --ways {n}, or take a method that compares with examples."
    )
