"""A ReLU net, built by hand, in which one gradient step computes a rule that is no fit of the support.

After Finn, Levine 2018, Meta-Learning and Universality, arXiv:1710.11622: one step from a deep enough net can stand for
any function of (D, x). Their construction in small, for ``f(D, x) = 3 x y_1 y_2`` with support inputs -1 and 1:

- before the step the net's output has the slope 1 in a bias z_i where x is the i-th support input, and lies so far from
  all labels that the residual is never zero: the step writes y_i, less a constant, into z_i (the loss's gradient loses
  no label);
- the same step moves a bias s past a threshold, which shuts the output from before the step and opens another;
- that one multiplies what it reads in z, by squares that are sums of ReLUs.

Departs from the paper: only the biases z and s are adapted (there all weights are, most of them arranged to have no
gradient), and the support's inputs are two fixed points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AWAY = 2.0  # the output before the step, out of the labels' reach of -1..1
SHUT = 100.0  # more than anything that goes through a gate


class OneStepProduct(nn.Module):
    """``[n, 1]`` to ``[n, 1]``; one step on the mean squared error makes it ``3 x y_1 y_2``.

    Args:
        pieces: straight pieces of each square.
        rate: of the step; the biases stand in units in which it counts as 1.
    """

    knots: Tensor

    def __init__(self, pieces: int = 64, rate: float = 1.0) -> None:
        super().__init__()
        self.unit = rate**-0.5  # a step moves unit * z by unit^2 * rate times the gradient
        self.z, self.s = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
        self.register_buffer("knots", torch.linspace(-1, 1, pieces + 1)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(x, self.unit * self.z, self.unit * self.s)

    def rule(self, x: Tensor, z: Tensor, s: Tensor) -> Tensor:
        """The net with its biases as inputs. Shape: ``x [n, 1]``, ``z [2]`` or ``[n, 2]``, ``s [1]`` or ``[n, 1]``."""
        place = torch.cat([1 - x, 1 + x], -1) / 2  # the i-th is 1 at the i-th support input, 0 at the other
        before = AWAY - 1 + F.relu(1 + z - SHUT * (1 - place)).sum(-1, keepdim=True) + s
        y = (z + AWAY).expand(len(x), 2)
        after = 3 * self.times(x, self.times(y[:, :1], y[:, 1:]))
        is_open = 1 - F.relu(1 - F.relu(2 + s))  # 1 and flat at s = 0; 0 from s = -2 on
        return gate(before, is_open) + gate(after, 1 - is_open)

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """``a b = ((a + b) / 2)^2 - ((a - b) / 2)^2`` of numbers in -1..1."""
        return self.square((a + b) / 2) - self.square((a - b) / 2)

    def square(self, a: Tensor) -> Tensor:
        """The square of ``[n, 1]``, straight between the knots: one layer of ReLUs."""
        step = 2 / len(self.knots)
        bend = torch.full_like(self.knots, 2 * step)
        bend[0] = -2 + step  # the first piece's slope
        return 1 + F.relu(a - self.knots) @ bend.unsqueeze(-1)


class ReadsContext(nn.Module):
    """The same net behind a first layer that a context shifts: ``[n, 4]``, which are x, z and s, to ``[n, 1]``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = OneStepProduct().requires_grad_(False)

    def forward(self, h: Tensor) -> Tensor:
        return self.inner.rule(h[:, :1], h[:, 1:3], h[:, 3:])


def passes_on(outputs: int) -> nn.Linear:
    """A first layer that is there to be shifted: its first output is the input, the others are zero."""
    layer = nn.Linear(1, outputs).requires_grad_(False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(outputs, 1))
        layer.bias.zero_()
    return layer


def gate(value: Tensor, is_open: Tensor) -> Tensor:
    """``value`` where the gate is 1, zero where it is 0."""
    shut = SHUT * (1 - is_open)
    return F.relu(value - shut) - F.relu(-value - shut)
