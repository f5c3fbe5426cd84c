"""A hypernetwork: one net reads the support set and writes the last layer of another."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import class_means, embed, known, mask_absent
from quickstudy.methods._heads import apply
from quickstudy.methods.blackbox._reading import features_for
from quickstudy.nets import MLP, encoder_for


class Hypernetwork(Method):
    r"""Write a task's last layer from what a net reads in its support.

    .. math::
        \hat{y}(x) = W f_\theta(x) + b, \qquad (W, b) = g_\theta(r), \quad
        r = \frac{1}{n} \sum_i h_\theta(f_\theta(x_i), y_i)

    Classification: class by class, by the same nets, with the mean over all classes for context,

    .. math::
        (w_k, b_k) = g_\theta(r_k, \bar{r}), \quad r_k = \frac{1}{|S_k|} \sum_{i \in S_k} h_\theta(f_\theta(x_i)), \quad
        \bar{r} = \frac{1}{N} \sum_k r_k

    Args:
        problem: what the tasks look like.
        encoder: f, any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        width: numbers in r, and in hidden layers.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, N]`` or ``[T, m, d]``; ``W`` has the shape
        ``[T, outputs, features]``; a class without support is never chosen.

    Reference:
        Ha, Dai, Le 2016, HyperNetworks, arXiv:1609.09106 (one net writes another's weights); Qiao et al. 2018,
        arXiv:1706.03466 (a class's weights from the mean activation of its examples). Departs from the latter by the
        context, and by training features and hypernetwork together on episodes.
    """

    name: ClassVar[str] = "hypernetwork"
    summary: ClassVar[str] = "a net reads the examples and writes the last layer"
    reference: ClassVar[str] = "Ha et al. 2016, arXiv:1609.09106"
    expressive: ClassVar[bool] = True  # any function of a sum over examples writes the weights
    consistent = False  # it has learned the tasks it was trained on

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        width: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        # a last layer needs features below it, for regression on vectors too
        given = encoder_for(problem, generator=generator)[0] if encoder is None else encoder
        self.encoder, self.size = features_for(problem, given, generator)
        regression = problem.kind == "regression"
        self.reader = MLP((self.size + problem.n_outputs * regression, width, width), generator)
        self.writer = (
            MLP((width, width, problem.n_outputs * (self.size + 1)), generator)
            if regression
            else MLP((2 * width, width, self.size + 1), generator)
        )
        with torch.no_grad():  # first predictions near zero, of the size that training can grow from
            list(self.writer.parameters())[-2].mul_(0.3 / self.size**0.5)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Read the support, write the layer."""
        written = self._write(support)
        head = {"weight": written[..., :-1], "bias": written[..., -1]}
        return lambda x: mask_absent(self.problem, apply(head, embed(self.encoder, x)), support)

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's loss; in classification over the examples whose class is in the support."""
        return super().losses(known(self.problem, episodes))

    def _write(self, support: Batch) -> Tensor:
        """Weights and bias of each task. Shape: ``[T, outputs, features + 1]``."""
        h = embed(self.encoder, support.x)
        if self.problem.kind == "regression":
            w = support.weights.unsqueeze(-1)
            r = (self.reader(torch.cat([h, support.y], -1)) * w).sum(1) / w.sum(1).clamp_min(1e-12)
            return torch.unflatten(self.writer(r), -1, (self.problem.n_outputs, self.size + 1))
        r, present = class_means(self.reader(h), support, self.problem.n_outputs)
        context = r.sum(1, keepdim=True) / present.sum(1).clamp_min(1).view(-1, 1, 1)
        return self.writer(torch.cat([r, context.expand_as(r)], -1))
