"""CAVIA: a small context vector adapts to the task; the net that reads it does not."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Method, Predictor, Problem
from quickstudy.methods._conditioned import condition
from quickstudy.methods._inner import descend
from quickstudy.methods._nets import Params, net_to_adapt, predict_each, run, uses_batch_statistics


class CAVIA(Method):
    r"""Adapt a context vector from zero, and nothing else.

    .. math::
        z_t = -\alpha \nabla_z L_t(\theta, z = 0, D_t^{tr}) \quad \text{(repeated ``steps`` times)} \qquad
        \min_\theta \sum_t L_t(\theta, z_t, D_t^{test})

    Where z enters, all with learned A and B:

    - a net with layers that normalise channels: behind each of them, :math:`h' = (1 + A z) \odot h + B z`;
    - any other with convolutions: the same behind each of them but a last one that gives the outputs;
    - otherwise its first linear layer's output, :math:`h' = h + B z`: what concatenating z to the input does.

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]`` with such layers; by default the net that suits the inputs. Its
            structure is copied, its parameters are the very ones given. Batch normalisation uses each task's own
            batch: :func:`~quickstudy.methods._nets.for_tasks` says what becomes of such parts.
        size: numbers in z.
        inner_lr: alpha, on the mean loss; None stands for the paper's 1, and for 10 on class episodes, where the
            default net's head starts at a tenth of its usual size and at 1 does not begin to learn (Omniglot).
        steps: gradient steps in training.
        test_steps: gradient steps at test; 0 stands for ``steps``.
        generator: draws the first weights.

    Shape:
        ``z [T, size]``; support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Raises:
        InputError: the net has no layer where the context could enter.

    Reference:
        Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson 2019, Fast Context Adaptation via Meta-Learning,
        arXiv:1810.03642. Departs in images: there z enters one layer (the third of four), here all.
    """

    name: ClassVar[str] = "context"
    summary: ClassVar[str] = "a context vector adapts from zero, the net that reads it does not"
    reference: ClassVar[str] = "Zintgraf et al. 2019, arXiv:1810.03642"
    expressive: ClassVar[bool] = True  # the construction for MAML moves a few biases, which z can stand for
    consistent = False  # a few numbers adapt, the net stays
    label_equivariant: ClassVar[bool] = False  # each label has its own row of the head
    settings: dict[str, tuple[float, ...]] = {"test_steps": (1, 3, 10)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Module | None = None,
        *,
        size: int | None = None,
        inner_lr: float | None = None,
        steps: int = 1,
        test_steps: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        net = net_to_adapt(problem, net, generator)
        self.size = (100 if len(problem.x_shape) == 3 else 5) if size is None else size
        self.net = copy.deepcopy(net, {id(value): value for value in net.parameters()})
        self.places = [f"{name}.context" for name in condition(self.net, self.size, generator)]
        usual = 1.0 if problem.kind == "regression" or problem.shared_labels else 10.0
        self.inner_lr = usual if inner_lr is None else inner_lr
        self.steps, self.test_steps = steps, test_steps
        self.transductive = uses_batch_statistics(self.net)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Take gradient steps on the context, from zero."""
        steps = self.steps if self.training or not self.test_steps else int(self.test_steps)
        z = descend(self._loss, {"z": self.net.get_buffer(self.places[0])}, support, steps, self.inner_lr)["z"]
        return lambda x: predict_each(self.net, dict.fromkeys(self.places, z), x)

    def _loss(self, params: Params, x: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        return self.problem.loss(run(self.net, dict.fromkeys(self.places, params["z"]), x), y, weight)
