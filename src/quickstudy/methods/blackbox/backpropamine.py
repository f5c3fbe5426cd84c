"""Backpropamine: the net itself decides, example by example, how strongly its last layer learns."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import answerable, embed, mask_absent
from quickstudy.nets import encoder_for
from quickstudy.nets.plastic import Plastic


class Backpropamine(Method):
    r"""A learned encoder under one plastic layer whose plasticity a signal of the net's own turns up, down or round.

    .. math::
        M = \tanh(v^T [h(x), p, y] + b), \qquad p = softmax(o(x)), \quad h = \tanh f_\theta(x)

        \text{simple:}\ Hebb_{ik} \leftarrow [Hebb_{ik} + M h_i y_k]_{-1}^{1} \qquad
        \text{retroactive:}\ Hebb \leftarrow [Hebb + M E]_{-1}^{1}, \quad E \leftarrow (1 - \eta) E + \eta h_i y_k

    The signal sees the example's features, what the layer said before the label came, and the label: hence surprise.
    Queries are read without writing.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        features: what a given encoder gives.
        modulation: ``"simple"`` or ``"retroactive"``.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class without support is never chosen.

    Reference:
        Miconi, Rawal, Clune, Stanley 2019, Backpropamine, arXiv:2002.10585, equations of the plasticity. Departs: the
        paper has no few-shot experiment, the layer is that of Miconi et al. 2018 (see ``hebbian``). A trace acts one
        example late, so the retroactive variant ends with one blank step, which writes what the last example left.
    """

    name: ClassVar[str] = "backpropamine"
    summary: ClassVar[str] = "a last layer that the examples write, as strongly as the net decides"
    reference: ClassVar[str] = "Miconi et al. 2019, arXiv:2002.10585"
    expressive: ClassVar[bool] = False  # votes for the examples' classes, up or down
    consistent = False  # one step an example, in features that stay
    order_free: bool = False
    label_equivariant: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        features: int = 0,
        modulation: Literal["simple", "retroactive"] = "simple",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        if encoder is None:
            encoder, features = encoder_for(problem, generator=generator)
        self.encoder = encoder
        self.layer = Plastic(
            features,
            problem.n_outputs,
            rule="clip",
            modulation=modulation,
            eta=0.5,
            strength=features**-0.5,
            generator=generator,
        )
        self.modulator = nn.Linear(features + 2 * problem.n_outputs, 1)
        nn.init.normal_(self.modulator.weight, std=0.01, generator=generator)
        nn.init.constant_(self.modulator.bias, 0.5)  # plasticity is on at first, else no gradient reaches alpha

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """A label clamps one output neuron; a number names none."""
        return "" if problem.kind == "classification" else "needs classes; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Show the support once, in its order."""
        n_classes = self.problem.n_outputs
        h, y = torch.tanh(embed(self.encoder, support.x)), F.one_hot(support.y, n_classes).to(support.x.dtype)
        weight = support.weights
        if self.layer.modulation == "retroactive":  # the blank step
            h, y, weight = F.pad(h, (0, 0, 0, 1)), F.pad(y, (0, 0, 0, 1)), F.pad(weight, (0, 1), value=1.0)
        synapses = self.layer.start(support.n_tasks)
        for i in range(h.shape[1]):
            said = self.layer.read(h[:, i : i + 1], synapses).squeeze(1).softmax(-1)
            signal = torch.tanh(self.modulator(torch.cat([h[:, i], said, y[:, i]], -1))).squeeze(1)
            synapses = self.layer.write(synapses, h[:, i], y[:, i], signal, weight[:, i])

        def predict(x: Tensor) -> Tensor:
            logits = self.layer.read(torch.tanh(embed(self.encoder, x)), synapses)
            return mask_absent(self.problem, logits, support)

        return predict

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's cross-entropy, over the examples whose class was shown."""
        return super().losses(answerable(episodes, self.problem.n_outputs))
