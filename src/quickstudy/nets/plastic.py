"""Layers whose weights change while they are used: Hebbian plasticity, its strength learned by gradient descent."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.core import InputError

Rule = Literal["decay", "oja", "clip"]
Alpha = Literal["free", "uniform", "none"]
Modulation = Literal["none", "simple", "retroactive"]


class Synapses(NamedTuple):
    """What T tasks' connections have learned so far; both ``[T, inputs, outputs]``, both zero at the beginning."""

    hebb: Tensor
    eligibility: Tensor


class Plastic(nn.Module):
    r"""A linear map, part of whose weights is written by what passes through it.

    .. math::
        y_j = \sum_i (w_{ij} + \alpha_{ij} Hebb_{ij}(t)) x_i

        \text{decay:}\ Hebb \leftarrow (1 - \eta) Hebb + \eta x_i y_j \qquad
        \text{Oja:}\ Hebb \leftarrow Hebb + \eta y_j (x_i - y_j Hebb) \qquad
        \text{clip:}\ Hebb \leftarrow [Hebb + \eta x_i y_j]_{-1}^{1}

    Modulated by a signal M(t) of the net's own, either at once (simple) or by an eligibility trace that remembers what
    was active together (retroactive):

    .. math::
        Hebb \leftarrow [Hebb + M x_i y_j]_{-1}^{1} \qquad
        Hebb \leftarrow [Hebb + M E_{ij}]_{-1}^{1}, \quad E \leftarrow (1 - \eta) E + \eta x_i y_j

    w, alpha and eta are parameters, the same for all tasks; Hebb and E belong to a task and are passed in and out.

    Args:
        inputs: numbers in x.
        outputs: numbers in y.
        rule: how Hebb is kept from growing; without modulation only.
        alpha: one strength for each weight, one for all, or no plasticity at all.
        modulation: none, simple or retroactive.
        eta: first value of the rate.
        scale: deviation of the first w.
        strength: first alpha; free ones are uniform on ``[0, 2 strength]``, their mean the same.
        generator: draws the first weights.

    Shape:
        ``read``: ``x [T, m, inputs]`` to ``[T, m, outputs]``. ``write``: ``x [T, inputs]``, ``y [T, outputs]``,
        ``signal`` and ``weight [T]``.

    Raises:
        InputError: a modulated layer is asked for another rule than the clipped one.

    Reference:
        Miconi, Stanley, Clune 2018, arXiv:1804.02464 (decay, Oja); Miconi et al. 2019, arXiv:2002.10585 (modulation).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rule: Rule = "decay",
        alpha: Alpha = "free",
        modulation: Modulation = "none",
        eta: float = 0.1,
        scale: float = 0.01,
        strength: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if modulation != "none" and rule != "clip":
            raise InputError(f"Expected rule 'clip' where plasticity is modulated. Found {rule!r}. Give rule='clip'.")
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.rule, self.modulation, self.plastic = rule, modulation, alpha != "none"
        self.weight = nn.Parameter(scale * torch.randn(inputs, outputs, generator=generator))
        if self.plastic:
            free = 2 * strength * torch.rand(inputs, outputs, generator=generator)
            self.alpha = nn.Parameter(free if alpha == "free" else torch.full((), strength))
            if modulation != "simple":  # there M takes the place of eta
                self.eta = nn.Parameter(torch.tensor(eta))

    def start(self, n_tasks: int) -> Synapses:
        """Before anything was seen: nothing is written."""
        zero = self.weight.new_zeros(n_tasks, *self.weight.shape)
        return Synapses(zero, zero)

    def read(self, x: Tensor, synapses: Synapses) -> Tensor:
        """Through the fixed and the plastic weights; changes nothing."""
        fixed = x @ self.weight
        # apart: w is the same for all tasks, and adding it to each task's Hebb costs more than the product
        return fixed + x @ (self.alpha * synapses.hebb) if self.plastic else fixed

    def write(
        self, synapses: Synapses, x: Tensor, y: Tensor, signal: Tensor | None = None, weight: Tensor | None = None
    ) -> Synapses:
        """The synapses after x and y were active together; those of a task with weight 0 stay as they are."""
        if not self.plastic:
            return synapses
        hebb, trace = synapses
        before, after = x.unsqueeze(2), y.unsqueeze(1)  # their product is x y, which is never stored by itself
        if self.rule == "oja":
            hebb = hebb + self.eta * after * (before - after * hebb)
        elif self.rule == "decay":
            hebb = torch.baddbmm((1 - self.eta) * hebb, self.eta * before, after)
        elif self.modulation == "none":
            hebb = torch.baddbmm(hebb, self.eta * before, after).clamp(-1, 1)
        elif signal is None:
            raise InputError("Expected a signal: plasticity is modulated here. Found none. Give signal [T].")
        elif self.modulation == "simple":
            hebb = torch.baddbmm(hebb, signal[:, None, None] * before, after).clamp(-1, 1)
        else:
            hebb = torch.addcmul(hebb, signal[:, None, None], trace).clamp(-1, 1)
            trace = torch.baddbmm((1 - self.eta) * trace, self.eta * before, after)
        if weight is not None:
            keep = weight[:, None, None]
            hebb, trace = torch.lerp(synapses.hebb, hebb, keep), torch.lerp(synapses.eligibility, trace, keep)
        return Synapses(hebb, trace)


class PlasticRNN(nn.Module):
    r"""A recurrent net with plastic recurrent weights, one step at a time.

    .. math::
        h(t) = \tanh(U x(t) + (w + \alpha Hebb(t))^T h(t-1)), \quad M(t) = \tanh(v^T h(t) + b)

    Begin with small w and alpha: where w has spectral radius 1 and alpha is not small either, Hebb meets its bound
    within a few steps, gradients through it explode, and nothing is learned. The authors begin with at most 0.01.

    Args:
        inputs: numbers in x.
        width: numbers in h.
        alpha: see :class:`Plastic`; ``"none"`` is the plain recurrent net.
        modulation: see :class:`Plastic`.
        rule: see :class:`Plastic`; modulated nets clip.
        clamp: given, x has one number a neuron and U is this number times the identity: inputs hold neurons fast.
        hold: x has one number a neuron, and where it isn't 0 it *is* the neuron's activity: graded inputs hold neurons.
        eta: first value of the rate.
        scale: deviation of the first w.
        strength: first alpha.
        generator: draws the first weights.

    Shape:
        ``x [T, inputs]``, memory ``([T, width], Synapses)``.

    Reference:
        Miconi, Stanley, Clune 2018, arXiv:1804.02464; Miconi et al. 2019, arXiv:2002.10585.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        alpha: Alpha = "free",
        modulation: Modulation = "none",
        rule: Rule = "decay",
        clamp: float | None = None,
        hold: bool = False,
        eta: float = 0.1,
        scale: float = 0.01,
        strength: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        if hold and clamp is not None:
            raise InputError(f"Expected clamp or hold. Found hold and clamp {clamp}. Hold is the exact one: give one.")
        if (hold or clamp is not None) and inputs > width:
            raise InputError(f"Expected a neuron for every input. Found {inputs} inputs, width {width}. Raise width.")
        self.width, self.clamp, self.hold = width, clamp, hold
        self.recurrent = Plastic(
            width,
            width,
            rule=rule if modulation == "none" else "clip",
            alpha=alpha,
            modulation=modulation,
            eta=eta,
            scale=scale,
            strength=strength,
            generator=generator,
        )
        if clamp is None and not hold:
            self.input = _linear(inputs, width, generator)
        if modulation != "none":
            self.modulator = _linear(width, 1, generator)

    def start(self, n_tasks: int) -> tuple[Tensor, Synapses]:
        """Nothing active, nothing written."""
        return self.recurrent.weight.new_zeros(n_tasks, self.width), self.recurrent.start(n_tasks)

    def forward(self, x: Tensor, memory: tuple[Tensor, Synapses]) -> tuple[Tensor, tuple[Tensor, Synapses]]:
        """One step: activity, then what it writes."""
        before, synapses = memory
        h = self.recurrent.read(before.unsqueeze(1), synapses).squeeze(1)
        if self.clamp is None and not self.hold:
            h = torch.tanh(self.input(x) + h)
        else:
            x = torch.nn.functional.pad(x, (0, self.width - x.shape[1]))
            h = torch.where(x == 0, torch.tanh(h), x) if self.clamp is None else torch.tanh(self.clamp * x + h)
        signal = None if self.recurrent.modulation == "none" else torch.tanh(self.modulator(h)).squeeze(1)
        return h, (h, self.recurrent.write(synapses, before, h, signal))


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with weights of deviation ``1 / sqrt(inputs)``, no offset."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=inputs**-0.5, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
