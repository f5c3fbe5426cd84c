"""Nearest neighbour on raw inputs: the floor of every table."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core import Batch, InputError, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, squared_distance
from quickstudy.nets import is_large


class NearestNeighbour(Method):
    r"""Answer what the nearest labelled examples say. Nothing is learned, nothing is shared.

    .. math::
        \hat y(x) = y_{i^*}, \qquad i^* = \arg\min_i d(x, x_i)

    With k > 1: the mean of the k nearest values, or the majority of the k nearest labels, where ties go to the class
    that has the nearer example.

    Args:
        problem: what the tasks look like.
        metric: ``"cosine"`` or ``"euclidean"``; None takes cosine for images (the usual floor of Omniglot) and
            Euclidean elsewhere.
        k: how many neighbours; at most all of the support.

    Raises:
        InputError: another metric.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``; gives logits ``[T, m, N]`` or numbers ``[T, m, d]``.

    Reference:
        Cover, Hart 1967, Nearest Neighbor Pattern Classification, IEEE Trans. Inform. Theory 13:21-27.
    """

    name: ClassVar[str] = "nearest-neighbour"
    summary: ClassVar[str] = "what the nearest labelled examples say, on raw inputs"
    standard: ClassVar[bool] = True
    reference: ClassVar[str] = "Cover, Hart 1967, IEEE Trans. Inform. Theory 13:21-27"
    shares: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    settings: dict[str, tuple[float, ...]] = {"k": (1, 3, 10)}

    def __init__(self, problem: Problem, *, metric: Literal["cosine", "euclidean"] | None = None, k: int = 1) -> None:
        super().__init__(problem)
        if is_large(problem):
            self.settings = {"k": (1, 10)}
        self.metric = metric or ("cosine" if len(problem.x_shape) == 3 else "euclidean")
        if self.metric not in ("cosine", "euclidean"):
            raise InputError(f"Expected the metric 'cosine' or 'euclidean'. Found {metric!r}. Name one of the two.")
        self.k = k

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Keep the support."""
        known, missing = self._view(support.x), (support.weights <= 0).unsqueeze(1)
        k = min(int(self.k), support.n)

        def predict(x: Tensor) -> Tensor:
            distance = squared_distance(self._view(x), known).clamp_min(0).masked_fill(missing, torch.inf)
            nearest = distance.topk(k, largest=False)
            vote = torch.isfinite(nearest.values).to(x.dtype)  # fewer than k examples: all of them vote
            if self.problem.kind == "regression":
                y = support.y.unsqueeze(1).expand(-1, x.shape[1], -1, -1)
                values = y.gather(2, nearest.indices.unsqueeze(-1).expand(-1, -1, -1, y.shape[-1]))
                return (values * vote.unsqueeze(-1)).sum(2) / vote.sum(2, keepdim=True)
            member = F.one_hot(support.y, self.problem.n_outputs).to(x.dtype)
            label = support.y.unsqueeze(1).expand(-1, x.shape[1], -1).gather(2, nearest.indices)
            votes = x.new_zeros(*x.shape[:2], self.problem.n_outputs).scatter_add_(2, label, vote)
            of_class = torch.stack(
                [
                    distance.masked_fill(member[..., c].unsqueeze(1) == 0, torch.inf).amin(2)
                    for c in range(self.problem.n_outputs)
                ],
                -1,
            )
            # the second part lies in 0..1 and only decides ties
            return (votes + 1 / (1 + of_class)).where(torch.isfinite(of_class), NEVER)

        return predict

    def _view(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return F.normalize(flat, dim=-1) if self.metric == "cosine" else flat
