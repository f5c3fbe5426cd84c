"""Elastic weight consolidation, around any method: what mattered for earlier tasks is held in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call, grad, jacrev, vmap

from quickstudy.core import Batch, Episodes, InputError, Method, Prediction, Predictor, Problem, RunError
from quickstudy.methods._nets import Params, trainable

ROWS = 64  # examples whose gradients are held at once
_Square = Callable[[Params, Tensor, Tensor], Params]


class EWC(Method):
    r"""Pull the parameters back to where earlier tasks left them, each as hard as those tasks depend on it.

    .. math::
        L(\theta) = L_B(\theta) + \frac{\lambda}{2} \sum_i F_i (\theta_i - \theta^*_i)^2 \quad (3)

    ``F`` is the diagonal of the Fisher information, summed over the tasks so far, and :math:`\theta^*` the parameters
    after the last of them: one penalty, not one a task. Kirkpatrick et al. keep one a task; Huszar shows that with a
    single running penalty around the latest parameters no task is counted twice, and memory does not grow.

    ``F`` is made of the gradients of single examples, averaged over the examples of a task, never of the gradient of a
    batch's mean loss, which vanishes where training converges. So it depends neither on batch size nor on the number
    of examples, and ``strength`` 1 weighs an earlier task as much as the present one.

    Args:
        inner: any method; trained through this one.
        strength: lambda.
        labels: ``"model"``: expectation over the labels that the model itself predicts, exact (for squared error,
            over targets normal around the prediction); ``"data"``: the examples' own labels, the "empirical Fisher".
        decay: what remains of the earlier tasks' sum with each new task (online EWC's gamma); 1 forgets nothing.

    Shape:
        as the inner method's; the Fisher has the parameters' shapes.

    Reference:
        Kirkpatrick et al. 2017, Overcoming catastrophic forgetting in neural networks, arXiv:1612.00796;
        Huszar 2017, On quadratic penalties in elastic weight consolidation, arXiv:1712.03847;
        van de Ven 2025, On the computation of the Fisher information in continual learning, arXiv:2502.11756.
    """

    name: ClassVar[str] = "ewc"
    summary: ClassVar[str] = "holds in place what mattered for earlier tasks; around any method"
    reference: ClassVar[str] = "Kirkpatrick et al. 2017, arXiv:1612.00796"

    def __init__(
        self,
        inner: Method,
        *,
        strength: float = 10.0,
        labels: Literal["model", "data"] = "model",
        decay: float = 1.0,
    ) -> None:
        super().__init__(inner.problem)
        self.inner, self.strength, self.labels, self.decay = inner, strength, labels, decay
        for name in (
            "shares",
            "trains",
            "uses_task",
            "transductive",
            "order_free",
            "label_equivariant",
            "exact_gradient",
            "expressive",
            "consistent",
            "uncertain",
        ):
            setattr(self, name, getattr(inner, name))
        for name, value in trainable(inner).items():
            self.register_buffer(_key("fisher", name), torch.zeros_like(value))
            self.register_buffer(_key("anchor", name), value.detach().clone())

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """A wrapper needs something to wrap, and a stream."""
        return "goes around another method, for tasks that come one after another"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """What the inner method does."""
        return self.inner.adapt(support, task)

    def losses(self, episodes: Episodes) -> Tensor:
        """The inner method's losses, each with the penalty. Shape: ``[T]``."""
        losses = self.inner.losses(episodes)
        return losses + self.penalty() if self.strength else losses

    def penalty(self) -> Tensor:
        """The second term of eq. (3). Shape: ``[]``."""
        pulls = [
            (self.get_buffer(_key("fisher", name)) * (value - self.get_buffer(_key("anchor", name))).square()).sum()
            for name, value in trainable(self.inner).items()
        ]
        return self.strength / 2 * torch.stack(pulls).sum()

    def consolidate(self, episodes: Episodes) -> None:
        """Add the task's Fisher information, taken at the query's examples, and anchor the parameters where they are.

        Raises:
            RunError: the predictions do not depend on the parameters, so that nothing would be held.
        """
        new = self.fisher(episodes)
        if not any(bool(value.any()) for value in new.values()):
            raise RunError(
                f"Expected predictions that change with the parameters. Found a Fisher information of zero: "
                f"{self.inner.name!r} passes no gradient from its predictions to its parameters. Wrap another method."
            )
        for name, value in trainable(self.inner).items():
            self.get_buffer(_key("fisher", name)).mul_(self.decay).add_(new[name])
            self.get_buffer(_key("anchor", name)).copy_(value.detach())

    def fisher(self, episodes: Episodes) -> Params:
        """Diagonal of the Fisher information of the adapted predictor, mean over the query's examples, by parameter."""
        training = self.inner.training
        self.inner.eval()
        params = {name: value.detach() for name, value in trainable(self.inner).items()}
        total = {name: torch.zeros_like(value) for name, value in params.items()}
        for one in episodes.chunks(1):
            each = vmap(self._example(one), in_dims=(None, 0, 0), randomness="different")
            x, y, w = one.query.x[0], one.query.y[0], one.query.weights[0]
            for rows in torch.arange(len(x)).split(ROWS):
                squares = each(params, x[rows], y[rows])
                for name, value in squares.items():
                    total[name] += torch.tensordot(w[rows], value, 1)
        self.inner.train(training)
        n = episodes.query.weights.sum()
        return {name: value / n for name, value in total.items()}

    def _example(self, one: Episodes) -> _Square:
        """One example's part of the Fisher information: ``(params, x [*x], y) -> [*p]``."""
        predictor = _Adapted(self.inner, one)

        def predict(params: Params, x: Tensor) -> Prediction:
            named = {f"inner.{name}": value for name, value in params.items()}
            prediction: Prediction = functional_call(predictor, named, (x[None, None],))
            return prediction

        def of_data(params: Params, x: Tensor, y: Tensor) -> Params:
            score = grad(lambda p: self.problem.pointwise(predict(p, x), y[None, None]).squeeze())(params)
            return {name: value.square() for name, value in score.items()}

        def of_model(params: Params, x: Tensor, y: Tensor) -> Params:
            def outputs(p: Params) -> tuple[Tensor, Tensor]:
                prediction = predict(p, x)
                if isinstance(prediction, Distribution):
                    raise InputError(
                        "Expected logits or numbers as predictions. Found a Distribution, over whose labels there is "
                        "no exact expectation. Use labels='data'."
                    )
                value = prediction[0, 0]
                if self.problem.kind == "classification":
                    log_p = F.log_softmax(value, -1)
                    return log_p, log_p.exp()
                # squared error is -log p of a normal with variance d/2: Fisher 2/d sum_j (df_j)^2
                return value, torch.full_like(value, 2 / len(value))

            slope, weight = jacrev(outputs, has_aux=True)(params)
            return {name: torch.tensordot(weight, value.square(), 1) for name, value in slope.items()}

        return of_data if self.labels == "data" else of_model


class _Adapted(nn.Module):
    """A method's predictor for one task, as a module: so that its parameters can be put in from outside."""

    def __init__(self, inner: Method, one: Episodes) -> None:
        super().__init__()
        self.inner, self.one = inner, one

    def forward(self, x: Tensor) -> Prediction:
        return self.inner.adapt(self.one.support, self.one.task)(x)


def _key(what: str, name: str) -> str:
    return f"{what}/{name.replace('.', '/')}"  # a buffer's name holds no dots
