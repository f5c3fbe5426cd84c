"""Differentiable plasticity: the last layer's weights are written by the examples as they pass."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import answerable, embed, mask_absent
from quickstudy.nets import encoder_for
from quickstudy.nets.plastic import Alpha, Plastic


class Hebbian(Method):
    r"""A learned encoder under one plastic layer; learning a task is showing its examples once, one after another.

    .. math::
        o_k(x) = \sum_i (w_{ik} + \alpha_{ik} Hebb_{ik}) h_i(x), \qquad h = \tanh f_\theta(x)

        Hebb_{ik} \leftarrow Hebb_{ik} + \eta y_k (h_i(x) - y_k Hebb_{ik})

    While an example is shown, its label clamps the outputs: y is one-hot. Queries are read without writing. No gradient
    is taken while a task is learned; w, alpha, eta and theta are trained through the whole of it.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        features: what a given encoder gives.
        rule: ``"oja"`` (above, the paper's choice for this task) or ``"decay"``.
        alpha: ``"free"`` (one for each weight), ``"uniform"`` or ``"none"``.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class without support is never chosen.

    Reference:
        Miconi, Stanley, Clune 2018, Differentiable plasticity, arXiv:1804.02464, the Omniglot experiment. Departs:
        alpha and eta begin large enough (features**-0.5 and 0.5) that plasticity acts from the first step, for the
        paper's training of millions of episodes is out of reach here; all queries are scored, not one an episode.
    """

    name: ClassVar[str] = "hebbian"
    summary: ClassVar[str] = "a last layer whose weights the examples write, by a learned Hebbian rule"
    reference: ClassVar[str] = "Miconi et al. 2018, arXiv:1804.02464"
    expressive: ClassVar[bool] = False  # a class's output is written by its own examples
    consistent = False  # one step an example, in features that stay
    order_free: bool = False
    label_equivariant: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        features: int = 0,
        rule: Literal["oja", "decay"] = "oja",
        alpha: Alpha = "free",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if encoder is None:
            encoder, features = encoder_for(problem, generator=generator)
        self.encoder = encoder
        self.layer = Plastic(
            features,
            problem.n_outputs,
            rule=rule,
            alpha=alpha,
            eta=0.5,
            strength=features**-0.5,
            generator=generator,
        )

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """A label clamps one output neuron; a number names none."""
        return "" if problem.kind == "classification" else "needs classes; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Show the support once, in its order."""
        n_classes = self.problem.n_outputs
        h, y = torch.tanh(embed(self.encoder, support.x)), F.one_hot(support.y, n_classes).to(support.x.dtype)
        weight = support.weights
        synapses = self.layer.start(support.n_tasks)
        for i in range(support.n):
            synapses = self.layer.write(synapses, h[:, i], y[:, i], weight=weight[:, i])

        def predict(x: Tensor) -> Tensor:
            logits = self.layer.read(torch.tanh(embed(self.encoder, x)), synapses)
            return mask_absent(self.problem, logits, support)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's cross-entropy, over the examples whose class was shown."""
        return super().losses(answerable(episodes, self.problem.n_outputs))
