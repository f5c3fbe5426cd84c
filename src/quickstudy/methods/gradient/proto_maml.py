"""Proto-MAML: MAML whose head starts as the prototypical classifier of the task at hand."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, answerable, class_means
from quickstudy.methods._inner import descend
from quickstudy.methods._nets import Params, for_tasks, norm_to_adapt, run, trainable, uses_batch_statistics
from quickstudy.nets import encoder_for


class ProtoMAML(Method):
    r"""Start the head from the support's class means, then take gradient steps on encoder and head.

    .. math::
        c_k = \frac{1}{|S_k|} \sum_{(x, y) \in S_k} f_\theta(x), \qquad w_k = 2 c_k, \qquad b_k = -\lVert c_k \rVert^2

    .. math::
        \phi_0 = (\theta, w, b), \qquad \phi_{j+1} = \phi_j - \alpha \nabla L(\phi_j, D^{tr}), \qquad
        \min_\theta \sum_t L_t(\phi_{t, steps}, D_t^{test})

    Before the first step :math:`w_k^\top f(x) + b_k = -\lVert f(x) - c_k \rVert^2 + \lVert f(x) \rVert^2`: a
    prototypical network. The gradient in :math:`\theta` goes through the class means too.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs. Batch normalisation
            uses each task's own batch: :func:`~quickstudy.methods._nets.for_tasks` says what becomes of such parts.
        inner_lr: alpha, the step size of adaptation on the mean loss.
        steps: gradient steps in training.
        test_steps: gradient steps at test; 0 stands for ``steps``.
        first_order: ignore second derivatives, as the paper does for its figures.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class without support is never chosen.

    Reference:
        Triantafillou et al. 2020, Meta-Dataset, arXiv:1903.03096. Departs from its figures in the second
        derivatives, which are taken unless ``first_order``.
    """

    name: ClassVar[str] = "proto-maml"
    summary: ClassVar[str] = "MAML whose head starts from the class means"
    reference: ClassVar[str] = "Triantafillou et al. 2020, arXiv:1903.03096"
    # not shown to be expressive: the construction for MAML chooses the head that the class means make here
    consistent = True  # gradient descent on all weights
    settings: dict[str, tuple[float, ...]] = {"test_steps": (1, 3, 10)}

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        inner_lr: float = 0.01,
        steps: int = 1,
        test_steps: int = 0,
        first_order: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.encoder = (
            encoder_for(problem, norm_to_adapt(problem), generator)[0] if encoder is None else for_tasks(encoder)
        )
        self.inner_lr, self.steps, self.test_steps, self.first_order = inner_lr, steps, test_steps, first_order
        self.exact_gradient = not first_order
        self.transductive = uses_batch_statistics(self.encoder)

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Numbers to predict have no classes to average."""
        return "" if problem.kind == "classification" else "needs classes; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Average the embedded support of each class, then take gradient steps."""
        steps = self.steps if self.training or not self.test_steps else int(self.test_steps)
        theta, n_classes = trainable(self.encoder), self.problem.n_outputs

        def features(phi: Params, x: Tensor) -> Tensor:
            return run(self.encoder, {name: phi[name] for name in theta}, x).flatten(1)

        def logits(phi: Params, x: Tensor) -> Tensor:
            return F.linear(features(phi, x), phi["head weight"], phi["head bias"])

        def loss(phi: Params, x: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
            return self.problem.loss(logits(phi, x), y, weight)

        def start(x: Tensor, y: Tensor, weight: Tensor | None) -> Params:
            one = Batch(x.unsqueeze(0), y.unsqueeze(0), None if weight is None else weight.unsqueeze(0))
            means, present = class_means(features(theta, x).unsqueeze(0), one, n_classes)
            bias = (-means.square().sum(-1)).masked_fill(~present, NEVER)
            # no module has a parameter with a space in its name
            return {**theta, "head weight": 2 * means.squeeze(0), "head bias": bias.squeeze(0)}

        phi = descend(loss, start, support, steps, self.inner_lr, first_order=self.first_order)
        absent = (F.one_hot(support.y, n_classes) * support.weights.unsqueeze(-1)).sum(1, keepdim=True) <= 0
        predict = vmap(logits, randomness="different")
        return lambda x: predict(phi, x).masked_fill(absent, NEVER)

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's cross-entropy, over the examples whose class is in the support."""
        return super().losses(answerable(episodes, self.problem.n_outputs))
