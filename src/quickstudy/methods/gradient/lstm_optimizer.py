"""An LSTM that steps each parameter by what it has seen of that parameter's gradients."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, InputError, Method, Predictor, Problem
from quickstudy.methods._inner import check_step, each_gradient, looking
from quickstudy.methods._nets import (
    Params,
    net_to_adapt,
    predict_each,
    spread,
    task_loss,
    trainable,
    uses_batch_statistics,
)

P = 10.0  # gradients below exp(-P) in size count as small, Andrychowicz et al., appendix A


class LSTMOptimizer(Method):
    r"""Learn the update rule as the cell of an LSTM, and what it starts from.

    .. math::
        \theta_s = f_s \odot \theta_{s-1} - i_s \odot \nabla_{\theta_{s-1}} L_s \quad \text{(eq. 2)}, \qquad
        \begin{aligned}
        i_s &= \sigma(W_I [h_s, \theta_{s-1}, i_{s-1}] + b_I) \\
        f_s &= \sigma(W_F [h_s, \theta_{s-1}, f_{s-1}] + b_F)
        \end{aligned}
        \quad \text{(eqs. 3, 4)}

    One :math:`\theta` is one parameter of the net: all share the weights, each has its own memory. :math:`h_s` is a
    plain LSTM's output on the preprocessed gradient and loss, where

    .. math::
        x \mapsto \begin{cases}
        (\log |x| / p,\ \mathrm{sgn}\, x) & |x| \ge e^{-p} \\ (-1,\ e^p x) & \text{else}
        \end{cases} \qquad p = 10

    Gradients and losses count as constants when the rule is trained: no second derivatives.

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]``; by default the net that suits the inputs.
        steps: updates in training.
        test_steps: updates at test; 0 stands for ``steps``.
        hidden: numbers in h, for each parameter of the net: memory and time grow with both.
        inner_lr: what the input gate gives at first, so that training starts near gradient descent with this rate.
        learn_start: whether theta_0 is learned too, as in the paper; else it stays as drawn.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Raises:
        InputError: ``inner_lr`` is not between 0 and 1, which is what a gate can be.

    Reference:
        Ravi, Larochelle 2017, Optimization as a Model for Few-Shot Learning, ICLR (no arXiv number); preprocessing:
        Andrychowicz et al. 2016, Learning to Learn by Gradient Descent by Gradient Descent, arXiv:1606.04474,
        appendix A. Departs in that each step reads the whole support (there: a mini-batch), and that the query's
        batch normalisation uses the query's own statistics (there: those of the last support batch).
    """

    name: ClassVar[str] = "lstm-optimizer"
    summary: ClassVar[str] = "an LSTM that makes the update of each parameter"
    reference: ClassVar[str] = "Ravi & Larochelle 2017, ICLR; Andrychowicz et al. 2016, arXiv:1606.04474"
    expressive: ClassVar[bool] = True  # gradient descent is among its rules, hence MAML's f
    consistent = False  # the rule was learned: it may forget, or stand still
    label_equivariant: ClassVar[bool] = False  # each label starts from its own row of the head
    exact_gradient: bool = False  # gradients and losses are inputs, taken as constants
    settings: dict[str, tuple[float, ...]] = {"test_steps": (3, 5, 10)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Module | None = None,
        *,
        steps: int = 5,
        test_steps: int = 0,
        hidden: int = 20,
        inner_lr: float = 0.05,
        learn_start: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if not 0 < inner_lr < 1:
            raise InputError(f"Expected 0 < inner_lr < 1, as a gate can give it. Found {inner_lr}.")
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        self.net = net_to_adapt(problem, net, generator)
        self.steps, self.test_steps, self.learn_start = steps, test_steps, learn_start
        self.memory = nn.Linear(4 + hidden, 4 * hidden)  # the plain LSTM's four gates in one map
        self.gates = nn.Linear(hidden + 1, 2)  # of h and theta: b_I and b_F with it
        self.again = nn.Parameter(torch.zeros(2))  # of i and f themselves
        with torch.no_grad():
            for weight in (self.memory.weight, self.gates.weight):
                weight.uniform_(-0.01, 0.01, generator=generator)
            self.memory.bias.zero_()
            self.gates.bias.copy_(torch.tensor([math.log(inner_lr / (1 - inner_lr)), 5.0]))
        self.transductive = uses_batch_statistics(self.net)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Let the cell step from the shared start, on each task's support."""
        steps = self.steps if self.training or not self.test_steps else int(self.test_steps)
        loss, start = task_loss(self.net, self.problem), spread(trainable(self.net), support.n_tasks)
        shapes = {name: value.shape for name, value in start.items()}
        theta = torch.cat([value.flatten(1) for value in start.values()], 1)  # [T, parameters]
        theta = theta if self.learn_start else theta.detach()
        h = c = theta.new_zeros(*theta.shape, self.memory.out_features // 4)
        gates = theta.new_zeros(*theta.shape, 2)
        for step in range(steps):
            with torch.no_grad():
                phi = named(theta, shapes)
                g, losses = each_gradient(loss, phi, support, randomness="different")
                check_step(step, steps, losses, phi)
                gradient = torch.cat([value.flatten(1) for value in g.values()], 1)
                seen = torch.cat([preprocess(gradient), preprocess(losses).unsqueeze(1).expand(*theta.shape, 2)], -1)
            h, c = self._remember(seen, h, c)
            raw = self.gates(torch.cat([h, theta.unsqueeze(-1)], -1)) + self.again * gates
            gates = torch.sigmoid(raw)
            theta = gates[..., 1] * theta - gates[..., 0] * gradient
        fast = named(theta, shapes)
        if looking():
            check_step(steps, steps, each_gradient(loss, fast, support, randomness="different")[1], fast)
        return lambda x: predict_each(self.net, fast, x)

    def _remember(self, seen: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """A plain LSTM cell. Shape: ``seen [T, parameters, 4]``, ``h`` and ``c [T, parameters, hidden]``."""
        enter, forget, show, new = self.memory(torch.cat([seen, h], -1)).chunk(4, -1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(new)
        return torch.sigmoid(show) * torch.tanh(c), c


def preprocess(x: Tensor) -> Tensor:
    """Size and sign of numbers that differ by magnitudes. Shape: ``[...]`` to ``[..., 2]``."""
    large = x.abs() >= math.exp(-P)
    size = torch.where(large, x.abs().clamp_min(math.exp(-P)).log() / P, -1.0)
    return torch.stack([size, torch.where(large, x.sign(), math.exp(P) * x)], -1)


def named(theta: Tensor, shapes: dict[str, torch.Size]) -> Params:
    """``[T, parameters]`` as the net's parameters, ``[T, *p]`` each."""
    parts = theta.split([shape[1:].numel() for shape in shapes.values()], 1)
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
