"""Ridge regression around a learned centre: tasks are alike, so their weights are near a common point."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Method, Predictor, Problem
from quickstudy.methods._solve import solve


class MeanRidge(Method):
    r"""Shrink each task's linear model towards one that all tasks share, as strongly as suits the tasks.

    .. math::
        (w_t, b_t) = \arg\min_{w, b} \sum_{i \in D_t^{tr}} \lVert y_i - x_i^\top w - b \rVert^2
        + \sum_j \lambda_j (w_j - w_{0j})^2 + \lambda_b (b - b_0)^2

    in closed form. :math:`\theta = (w_0, b_0, \log\lambda, \log\lambda_b)` minimises the query's loss through that
    form. :math:`\lambda \to \infty` is one model for all tasks, :math:`\lambda \to 0` each task alone.

    Classification: least squares on targets +1 (the class) and -1 (the others); logits are the predictions times a
    learned scale.

    Args:
        problem: what the tasks look like.
        strength: before training every lambda_j is ``strength * f`` and lambda_b is ``strength``; proportional to f,
            because the more features there are, the smaller is each one's share.

    Shape:
        support.x ``[T, n, *x]`` (flattened to f numbers), query ``[T, m, *x]``, prediction ``[T, m, outputs]``;
        solves systems of ``min(n, f + 1)`` unknowns a task.

    Reference:
        Evgeniou, Pontil 2004, Regularized multi-task learning, KDD (w_t = w_0 + v_t, there with hinge loss);
        Denevi et al. 2018, Learning To Learn Around A Common Mean, NeurIPS (ridge around a learned mean). Departs
        from both: the lambdas are learned with the centre, one for each feature (what hardly varies between tasks is
        held close) and one for the intercept.
    """

    name: ClassVar[str] = "mean-ridge"
    summary: ClassVar[str] = "ridge regression around a centre learned from all tasks"
    standard: ClassVar[bool] = True
    reference: ClassVar[str] = "Denevi et al. 2018, NeurIPS; Evgeniou, Pontil 2004, KDD"
    consistent = True  # the centre's pull is of one strength, the data's grows with K
    lr: ClassVar[float] = 3e-2

    def __init__(self, problem: Problem, *, strength: float = 3.0) -> None:
        super().__init__(problem)
        self.size = torch.Size(problem.x_shape).numel()
        # in units of 1 / sqrt(f), so that one step size suits few features and many
        self.centre = nn.Parameter(torch.zeros(self.size, problem.n_outputs))
        self.bias = nn.Parameter(torch.zeros(problem.n_outputs))
        self.log_strength = nn.Parameter(torch.full((self.size + 1,), math.log(strength)))  # the intercept's last
        if problem.kind == "classification":
            self.log_scale = nn.Parameter(torch.zeros(()))

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """A centre of weights needs outputs that mean the same."""
        return "" if problem.shared_labels else "labels mean something else in every task; weights have no centre"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Solve for the task's deviation from the centre."""
        y = support.y
        if self.problem.kind == "classification":
            y = 2 * F.one_hot(y, self.problem.n_outputs).to(self.centre.dtype) - 1
        x, centre = support.x.flatten(2), self.centre / math.sqrt(self.size)
        strength = self.log_strength.exp()
        penalty = torch.cat([strength[:-1] * self.size, strength[-1:]])
        v = ridge(x, y - x @ centre - self.bias, support.weights, penalty)
        weight, bias = centre + v[:, :-1], self.bias + v[:, -1:]
        scale = self.log_scale.exp() if self.problem.kind == "classification" else 1.0
        return lambda x: (x.flatten(2) @ weight + bias) * scale


def ridge(x: Tensor, y: Tensor, weight: Tensor, penalty: Tensor) -> Tensor:
    r"""Weighted ridge regression with a penalised intercept, T tasks at once, differentiable.

    With rows scaled by the root of their weight and columns by the root of their penalty, :math:`A = W^{1/2} [X, 1]
    P^{-1/2}`: :math:`v = P^{-1/2} (A^\top A + I)^{-1} A^\top W^{1/2} y`, or, where there are fewer rows than columns,
    :math:`v = P^{-1/2} A^\top (A A^\top + I)^{-1} W^{1/2} y`.

    Shape:
        ``x [T, n, f]``, ``y [T, n, d]``, ``weight [T, n]``, ``penalty [f + 1]``; gives ``[T, f + 1, d]``; the
        intercept comes last in both.
    """
    root = weight.sqrt().unsqueeze(-1)
    width = penalty.rsqrt()
    a = torch.cat([x, torch.ones_like(root)], -1) * width * root
    target = y * root
    n, f = a.shape[1:]
    if n < f:
        v = a.mT @ solve(a @ a.mT + torch.eye(n, dtype=a.dtype, device=a.device), target)
    else:
        v = solve(a.mT @ a + torch.eye(f, dtype=a.dtype, device=a.device), a.mT @ target)
    return v * width.unsqueeze(-1)
