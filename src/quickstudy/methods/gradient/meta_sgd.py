"""Meta-SGD: an initialisation, and a learned step size for every single weight."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Method, Predictor, Problem
from quickstudy.methods._inner import descend
from quickstudy.methods._nets import (
    default_rate,
    net_to_adapt,
    predict_each,
    task_loss,
    trainable,
    uses_batch_statistics,
)


class MetaSGD(Method):
    r"""Learn where to start, and for every weight how far, and which way, to follow its gradient.

    .. math::
        \phi_t = \theta - \alpha \circ \nabla_\theta L_t(\theta, D_t^{tr}) \qquad
        \min_{\theta, \alpha} \sum_t L_t(\phi_t, D_t^{test}) \qquad \alpha \text{ of the shape of } \theta

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]``; by default the net that suits the inputs. Batch normalisation
            uses each task's own batch: :func:`~quickstudy.methods._nets.for_tasks` says what becomes of such parts.
            Weights that are frozen when the method is made have no step size.
        inner_lr: what every entry of alpha starts from; None: :func:`~quickstudy.methods._nets.default_rate`.
        steps: gradient steps in training, all with the same alpha.
        test_steps: gradient steps at test; 0 stands for ``steps``.
        generator: draws the first weights.

    Shape:
        alpha ``[*p]`` as its weight; support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Reference:
        Li, Zhou, Chen, Li 2017, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, arXiv:1707.09835
        (algorithm 1). Departs in alpha's first values: there random, here all alike, so that training starts as MAML.
    """

    name: ClassVar[str] = "meta-sgd"
    summary: ClassVar[str] = "MAML with a learned step size for every weight"
    reference: ClassVar[str] = "Li et al. 2017, arXiv:1707.09835"
    expressive: ClassVar[bool] = True  # MAML's f, where all of alpha are alike
    consistent = False  # learned step sizes may be zero, or climb
    label_equivariant: ClassVar[bool] = False  # each label starts from its own row of the head
    settings: dict[str, tuple[float, ...]] = {"test_steps": (1, 3, 10)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Module | None = None,
        *,
        inner_lr: float | None = None,
        steps: int = 1,
        test_steps: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.net = net_to_adapt(problem, net, generator)
        rate = default_rate(problem) if inner_lr is None else inner_lr
        theta = trainable(self.net)
        self.names = list(theta)  # names have dots, which a ParameterDict refuses
        self.alpha = nn.ParameterList([torch.full_like(value, rate) for value in theta.values()])
        self.steps, self.test_steps = steps, test_steps
        self.transductive = uses_batch_statistics(self.net)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Take gradient steps, each weight by its own step size."""
        steps = self.steps if self.training or not self.test_steps else int(self.test_steps)
        alpha = dict(zip(self.names, self.alpha, strict=True))
        theta = {name: value for name, value in trainable(self.net).items() if name in alpha}
        phi = descend(task_loss(self.net, self.problem), theta, support, steps, alpha)
        return lambda x: predict_each(self.net, phi, x)
