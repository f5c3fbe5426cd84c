"""Methods that break one law each. The kit must name the law that is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from quickstudy.core import Batch, Episodes, Method, Prediction, Predictor, Problem
from quickstudy.nets import MLP
from quickstudy.nets.basic import initialise

BREAKS: dict[type[Method], str] = {}


def breaks(law: Callable[..., None]) -> Callable[[type[Method]], type[Method]]:
    """Note which law a class breaks."""

    def note(cls: type[Method]) -> type[Method]:
        BREAKS[cls] = law.__name__.replace("_", " ")
        return cls

    return note


class Sound(Method):
    """A class, or all numbers, as the mean over the support, in a learned embedding: breaks no law."""

    def __init__(self, problem: Problem, generator: torch.Generator | None = None) -> None:
        super().__init__(problem)
        size = int(torch.tensor(problem.x_shape).prod())
        self.net = MLP((size, 8, 8), generator)

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(2))

    def memory(self, support: Batch) -> tuple[Tensor, Tensor]:
        """Keys and the values that they stand for. Shape: ``[T, k, 8]``, ``[T, k, outputs]``."""
        values = support.y
        if self.problem.kind == "classification":
            values = nn.functional.one_hot(support.y, self.problem.n_outputs).to(support.x)
        return self.embed(support.x), values

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        """Values weighted by likeness, padding left out."""
        score = torch.exp(-(query.unsqueeze(2) - keys.unsqueeze(1)).square().mean(-1)) * weight.unsqueeze(1)
        return score @ values / score.sum(-1, keepdim=True).clamp_min(1e-12)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        keys, values = self.memory(support)
        return lambda x: self.attend(self.embed(x), keys, values, support.weights)


import quickstudy.testing.methods as law  # noqa: E402 (the laws by name, next to the classes that break them)


@breaks(law.predictions_have_the_right_shape)
class LosesTheTaskAxis(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        predict = super().adapt(support, task)
        return lambda x: _tensor(predict(x)).flatten(0, 1)


@breaks(law.predictions_have_the_right_shape)
class KnowsOnlyDouble(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        predict = super().adapt(support, task)
        return lambda x: _tensor(predict(x)) @ torch.eye(self.problem.n_outputs, dtype=torch.float64)


@breaks(law.losses_are_one_finite_number_a_task)
class AveragesOverTasks(Sound):
    def losses(self, episodes: Episodes) -> Tensor:
        return super().losses(episodes).mean()


@breaks(law.losses_are_one_finite_number_a_task)
class DividesByZero(Sound):
    def losses(self, episodes: Episodes) -> Tensor:
        return super().losses(episodes) / (episodes.query.weights - 1).sum(1).clamp_min(0)


@breaks(law.adapting_changes_nothing)
class RemembersOnSelf(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        self.last = support.x.mean()
        return super().adapt(support, task)


@breaks(law.adapting_changes_nothing)
class RemembersInAList(Sound):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.seen: dict[str, list[float]] = {"means": []}

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        self.seen["means"].append(float(support.x.mean()))
        return super().adapt(support, task)


@breaks(law.adapting_changes_nothing)
class RemembersWhilePredicting(Sound):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.register_buffer("calls", torch.zeros(()))
        self.calls: Tensor

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        predict = super().adapt(support, task)

        def count(x: Tensor) -> Prediction:
            self.calls += 1
            return predict(x)

        return count


@breaks(law.adapting_in_training_moves_no_parameter)
class StepsInPlace(Sound):
    def losses(self, episodes: Episodes) -> Tensor:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(0.999)
        return super().losses(episodes)


@breaks(law.the_same_again)
class DrawsFromTheGlobalGenerator(Sound):
    def losses(self, episodes: Episodes) -> Tensor:
        return super().losses(episodes) + 0 * torch.rand(())


@breaks(law.the_same_again)
class DrawsFromNumpy(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        np.random.rand()  # noqa: NPY002 (that is what is wrong with it)
        return super().adapt(support, task)


@breaks(law.the_same_again)
class DropsOut(Sound):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.drop = nn.Dropout(0.5)

    def embed(self, x: Tensor) -> Tensor:
        return self.drop(super().embed(x))


GENERATOR = torch.Generator().manual_seed(0)


@breaks(law.the_same_again)
class DrawsAnew(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        keys, values = self.memory(support)
        keys = keys + torch.rand(1, generator=GENERATOR)
        return lambda x: self.attend(self.embed(x), keys, values, support.weights)


@breaks(law.first_weights_follow_from_the_arguments)
class GlobalFirstWeights(Sound):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.net.append(nn.Linear(8, 8))


@breaks(law.state_can_be_saved_and_loaded)
class HidesItsParameters(Sound):
    first = 0

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        type(self).first += 1
        self.scale = [torch.tensor(1.0 + type(self).first % 2)]

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x) * self.scale[0].to(x)


@breaks(law.state_can_be_saved_and_loaded)
class SavesWhatIsNoTensor(Sound):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state["version"] == 1


@breaks(law.tasks_do_not_leak_into_each_other)
class NormalisesOverTasks(Sound):
    def embed(self, x: Tensor) -> Tensor:
        features = super().embed(x)
        return features - features.mean((0, 1))


@breaks(law.tasks_do_not_leak_into_each_other)
class LossesLeak(Sound):
    def losses(self, episodes: Episodes) -> Tensor:
        losses = super().losses(episodes)
        return losses + 0.1 * losses.mean()


@breaks(law.a_batch_is_its_tasks_one_by_one)
class CountsTheTasks(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        predict = super().adapt(support, task)
        return lambda x: _tensor(predict(x)) / support.n_tasks


@breaks(law.padding_changes_nothing)
class ReadsPadding(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        keys, values = self.memory(support)
        return lambda x: self.attend(self.embed(x), keys, values, torch.ones_like(support.weights))


@breaks(law.padding_changes_nothing)
class LossesReadPadding(Sound):
    def losses(self, episodes: Episodes) -> Tensor:
        predict = self.adapt(episodes.support, episodes.task)
        return self.problem.loss(predict(episodes.query.x), episodes.query.y)


@breaks(law.weights_of_one_are_no_weights)
class IgnoresMissingWeights(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        predict = super().adapt(support, task)
        return lambda x: _tensor(predict(x)) * (1 if support.weight is None else 2)


@breaks(law.a_missing_class_does_no_harm)
class ForbidsMissingClasses(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        predict = super().adapt(support, task)
        if self.problem.kind == "regression":
            return predict
        _, values = self.memory(support)
        there = (values * support.weights.unsqueeze(-1)).sum(1, keepdim=True)
        return lambda x: _tensor(predict(x)).masked_fill(there == 0, -torch.inf)


@breaks(law.query_examples_are_apart)
class SecretlyTransductive(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        keys, values = self.memory(support)

        def predict(x: Tensor) -> Tensor:
            query = self.embed(x)
            return self.attend(query - query.mean(1, keepdim=True), keys, values, support.weights)

        return predict


@breaks(law.support_order_is_without_effect)
class ReadsTheOrder(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        keys, values = self.memory(support)
        fade = 1 / (1 + torch.arange(support.n).to(support.x))
        return lambda x: self.attend(self.embed(x), keys, values, support.weights * fade)


@breaks(law.classes_can_be_renumbered)
class PrefersTheFirstClass(Sound):
    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        predict = super().adapt(support, task)
        return lambda x: _tensor(predict(x)) + torch.eye(self.problem.n_outputs)[0].to(x)


class _Steps(Sound):
    """One gradient step on a linear map of the embedding."""

    label_equivariant: ClassVar[bool] = False
    detached: ClassVar[bool] = False

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.head = nn.Linear(8, problem.n_outputs)
        initialise(self.head, None)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        parameters: dict[str, Tensor] = dict(self.named_parameters())

        def output(p: dict[str, Tensor], x: Tensor) -> Tensor:
            features = functional_call(self.net, {k[4:]: v for k, v in p.items() if k.startswith("net.")}, x.flatten(1))
            return features @ p["head.weight"].mT + p["head.bias"]

        def loss(p: dict[str, Tensor], x: Tensor, y: Tensor, w: Tensor) -> Tensor:
            return self.problem.loss(output(p, x), y, w)

        step = vmap(grad(loss), in_dims=(None, 0, 0, 0))(parameters, support.x, support.y, support.weights)
        step = {k: v.detach() if self.detached else v for k, v in step.items()}
        fast = {k: v - 0.1 * step[k] for k, v in parameters.items()}
        return lambda x: vmap(output)(fast, x)


class SoundSteps(_Steps):
    """Second-order, nothing wrong with it."""


class FirstOrder(_Steps):
    """First-order and says so: nothing wrong with it."""

    detached: ClassVar[bool] = True
    exact_gradient: bool = False


@breaks(law.the_gradient_is_that_of_the_losses)
class SecretlyFirstOrder(_Steps):
    detached: ClassVar[bool] = True


@breaks(law.the_gradient_is_that_of_the_losses)
class NoMetaGradient(Sound):
    def losses(self, episodes: Episodes) -> Tensor:
        return super().losses(episodes).detach()


@breaks(law.the_gradient_is_that_of_the_losses)
class DetachesTheSupport(Sound):
    def memory(self, support: Batch) -> tuple[Tensor, Tensor]:
        keys, values = super().memory(support)
        return keys.detach(), values


@breaks(law.the_gradient_is_that_of_the_losses)
class NothingToTrain(Sound):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.requires_grad_(False)


@breaks(law.task_ids_are_without_effect)
class ReadsTheTask(Sound):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.offset = nn.Parameter(torch.zeros(problem.n_tasks + 1, 1, problem.n_outputs))

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        predict = super().adapt(support, task)
        row = torch.full((support.n_tasks,), -1) if task is None else task
        return lambda x: _tensor(predict(x)) + self.offset[row]


@breaks(law.unknown_tasks_are_served)
class KnownTasksOnly(Sound):
    uses_task: ClassVar[bool] = True

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        return "" if problem.n_tasks else "needs tasks with an identity"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        if task is None:
            raise NotImplementedError("no idea")
        return super().adapt(support, task)


class Rows(Method):
    """A row of numbers for each task, which is what it predicts: breaks no law."""

    uses_task: ClassVar[bool] = True
    shares: ClassVar[bool] = False

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.rows = nn.Parameter(torch.zeros(problem.n_tasks, problem.n_outputs))

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        return "" if problem.n_tasks else "needs tasks with an identity"

    def rows_of(self, task: Tensor) -> Tensor:
        return self.rows[task]

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        row = self.rows.new_zeros(support.n_tasks, self.rows.shape[1]) if task is None else self.rows_of(task)
        return lambda x: row.unsqueeze(1).expand(-1, x.shape[1], -1)


@breaks(law.tasks_alone_share_no_parameter)
class SecretlyShares(Rows):
    def rows_of(self, task: Tensor) -> Tensor:
        return self.rows[task] + self.rows.mean(0)


@breaks(law.settings_exist)
class InventsASetting(Sound):
    settings: dict[str, tuple[float, ...]] = {"temperature": (1.0, 2.0)}


@breaks(law.settings_exist)
class CannotTakeItsSetting(Sound):
    settings: dict[str, tuple[float, ...]] = {"k": (1, 0)}

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.k = 1

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        if self.k < 1:
            raise ValueError("k must be at least 1")
        return super().adapt(support, task)


def _tensor(prediction: Prediction) -> Tensor:
    assert isinstance(prediction, Tensor)
    return prediction
