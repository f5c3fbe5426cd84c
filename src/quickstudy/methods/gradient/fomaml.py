"""First-order MAML: the gradient at the adapted weights, as if adapting had been a shift."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Method, Predictor, Problem
from quickstudy.methods._inner import descend, straight_through
from quickstudy.methods._nets import (
    default_rate,
    net_to_adapt,
    predict_each,
    task_loss,
    trainable,
    uses_batch_statistics,
)


class FOMAML(Method):
    r"""MAML that takes :math:`\partial \phi_t / \partial \theta` as the identity: no second derivatives, no history.

    .. math::
        \phi_t = \theta - \alpha \nabla_\theta L_t(\theta, D_t^{tr}) \quad \text{(repeated ``steps`` times)}
        \qquad \theta \leftarrow \theta - \beta \sum_t \nabla_{\phi} L_t(\phi_t, D_t^{test})

    The same gradient as ``MAML(first_order=True)``; here the inner steps leave no trace, so that memory is that of one
    pass however many steps there are.

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]``; by default the net that suits the inputs. Batch normalisation
            uses each task's own batch: :func:`~quickstudy.methods._nets.for_tasks` says what becomes of such parts.
        inner_lr: alpha, on the mean loss; None: :func:`~quickstudy.methods._nets.default_rate`.
        steps: gradient steps in training.
        test_steps: gradient steps at test; 0 stands for ``steps``.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Reference:
        Finn, Abbeel, Levine 2017, Model-Agnostic Meta-Learning, arXiv:1703.03400, section 5.2; named in
        Nichol, Achiam, Schulman 2018, On First-Order Meta-Learning Algorithms, arXiv:1803.02999.
    """

    name: ClassVar[str] = "fomaml"
    summary: ClassVar[str] = "MAML without second derivatives"
    reference: ClassVar[str] = "Finn et al. 2017, arXiv:1703.03400"
    expressive: ClassVar[bool] = True  # MAML's f; what is first-order is how it is trained
    consistent = True  # gradient descent
    label_equivariant: ClassVar[bool] = False  # each label starts from its own row of the head
    exact_gradient: bool = False
    settings: dict[str, tuple[float, ...]] = {"test_steps": (1, 3, 10)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Module | None = None,
        *,
        inner_lr: float | None = None,
        steps: int = 3,
        test_steps: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.net = net_to_adapt(problem, net, generator)
        self.inner_lr = default_rate(problem) if inner_lr is None else inner_lr
        self.steps, self.test_steps = steps, test_steps
        self.transductive = uses_batch_statistics(self.net)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Take gradient steps from the shared initialisation, without history."""
        steps = self.steps if self.training or not self.test_steps else int(self.test_steps)
        theta = trainable(self.net)
        with torch.no_grad():
            fast = descend(task_loss(self.net, self.problem), theta, support, steps, self.inner_lr)
        phi = straight_through(theta, fast)
        return lambda x: predict_each(self.net, phi, x)
