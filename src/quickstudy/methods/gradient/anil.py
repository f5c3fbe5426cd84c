"""Almost no inner loop: features are learned across tasks, only the head adapts to a task."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, InputError, Method, Predictor, Problem
from quickstudy.methods._inner import descend
from quickstudy.methods._nets import (
    Params,
    default_rate,
    net_to_adapt,
    predict_each,
    task_loss,
    trainable,
    uses_batch_statistics,
)


class ANIL(Method):
    r"""MAML whose inner loop moves the last layer and nothing else.

    .. math::
        \phi_t = \big(\theta_1, \ldots, \theta_{l-1},\; \theta_l - \alpha \nabla_{\theta_l} L_t(\theta, D_t^{tr})\big)
        \quad \text{(repeated ``steps`` times)} \qquad \min_\theta \sum_t L_t(\phi_t, D_t^{test})

    Features are computed once for the support and once for the query, however many steps there are.

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]``; by default the net that suits the inputs. Its head is the last of
            its parts that has parameters (all of it where it has no parts). In a Sequential everything before is
            computed once; other modules are run as a whole at each step. Batch normalisation uses each task's own
            batch: :func:`~quickstudy.methods._nets.for_tasks` says what becomes of such parts.
        inner_lr: alpha, on the mean loss; None: :func:`~quickstudy.methods._nets.default_rate`.
        steps: gradient steps in training.
        test_steps: gradient steps at test; 0 stands for ``steps``.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Raises:
        InputError: the head is frozen.

    Reference:
        Raghu, Raghu, Bengio, Vinyals 2020, Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness
        of MAML, arXiv:1909.09157, section 4. A head moves slower than a whole net: more steps, or a larger alpha.
    """

    name: ClassVar[str] = "anil"
    summary: ClassVar[str] = "MAML whose inner loop moves the head only"
    reference: ClassVar[str] = "Raghu et al. 2020, arXiv:1909.09157"
    expressive: ClassVar[bool] = False  # affine in the labels, where the loss is squared
    consistent = False  # a head is bound by what the trunk kept
    label_equivariant: ClassVar[bool] = False  # each label starts from its own row of the head
    settings: dict[str, tuple[float, ...]] = {"test_steps": (1, 3, 10)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Module | None = None,
        *,
        inner_lr: float | None = None,
        steps: int = 5,
        test_steps: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.net = net_to_adapt(problem, net, generator)
        self.inner_lr = default_rate(problem) if inner_lr is None else inner_lr
        self.steps, self.test_steps = steps, test_steps
        self.transductive = uses_batch_statistics(self.net)
        if not self._split()[2]:
            raise InputError(
                "Expected a head that may move: the last part of the net that has parameters. Found it frozen. "
                "Set requires_grad of its parameters, or put a new layer at the end."
            )

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Take gradient steps on the head."""
        steps = self.steps if self.training or not self.test_steps else int(self.test_steps)
        trunk, head, start = self._split()
        features = Batch(predict_each(trunk, {}, support.x), support.y, support.weight)
        phi = descend(task_loss(head, self.problem), start, features, steps, self.inner_lr)
        return lambda x: predict_each(head, phi, predict_each(trunk, {}, x))

    def _split(self) -> tuple[nn.Module, nn.Module, Params]:
        """What is computed once, what is run at each step, and which of the latter's parameters move."""
        parts = [name for name, part in self.net.named_children() if next(part.parameters(), None) is not None]
        if not parts:
            return nn.Identity(), self.net, trainable(self.net)
        if type(self.net).forward is nn.Sequential.forward:
            children, at = list(self.net.children()), int(list(dict(self.net.named_children())).index(parts[-1]))
            head = nn.Sequential(*children[at:])
            return nn.Sequential(*children[:at]).train(self.training), head.train(self.training), trainable(head)
        start = {name: value for name, value in trainable(self.net).items() if name.startswith(f"{parts[-1]}.")}
        return nn.Identity(), self.net, start
