"""Model-agnostic meta-learning: an initialisation from which a few gradient steps learn a task."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, InputError, Method, Predictor, Problem
from quickstudy.methods._adjoint import CompiledSteps, Steps, descend_adjoint
from quickstudy.methods._inner import descend
from quickstudy.methods._nets import net_to_adapt, predict_each, task_loss, trainable, uses_batch_statistics
from quickstudy.nets import is_large


class MAML(Method):
    r"""Learn the initialisation :math:`\theta` that gradient descent adapts best.

    .. math::
        \phi_t = \theta - \alpha \nabla_\theta L_t(\theta, D_t^{tr}) \quad \text{(eq. 1, repeated ``steps`` times)}
        \qquad \min_\theta \sum_t L_t(\phi_t, D_t^{test}) \quad \text{(eq. 2)}

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]``; by default the net that suits the inputs. Batch normalisation
            uses each task's own batch: :func:`~quickstudy.methods._nets.for_tasks` says what becomes of such parts.
        inner_lr: alpha, the step size of adaptation on the mean loss.
        steps: gradient steps in training.
        test_steps: gradient steps at test; 0 stands for ``steps``.
        later_lr: step size of all steps but the first; None stands for ``inner_lr``. Trained on one step, the loss may
            curve so much around the adapted weights that more steps of the same length diverge on some tasks; the
            authors' code for reinforcement learning halves it.
        first_order: ignore second derivatives (FOMAML).
        adjoint: the same gradient without the steps' graph, for many steps: memory grows by the weights of a step, not
            by all that was computed in it (Conv4, 100 steps: a ninth), and a step takes 1.3 to 1.8 times as long.
            Dropout draws each step's masks again. ``"compiled"``: the same by two programs, a step forwards and one
            backwards, which are compiled once and serve any number of steps; pays in long runs on supports of one size,
            not beside ``fit(compile=True)``, which compiles all steps as one, and the net may not have dropout.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Raises:
        InputError: both ``later_lr`` and ``adjoint``, whose steps all have one length.

    Reference:
        Finn, Abbeel, Levine 2017, Model-Agnostic Meta-Learning, arXiv:1703.03400. Departs from the released code in
        two ways: the inner loss is the mean over examples (there: a sum over classes), and batch
        normalisation's scale is learned too.
    """

    name: ClassVar[str] = "maml"
    summary: ClassVar[str] = "an initialisation that a few gradient steps adapt"
    standard: ClassVar[bool] = True
    reference: ClassVar[str] = "Finn et al. 2017, arXiv:1703.03400"
    label_equivariant: ClassVar[bool] = False  # each label starts from its own row of the head
    expressive: ClassVar[bool] = True  # a deep net and one step: Finn, Levine 2018, arXiv:1710.11622
    consistent = True
    settings: dict[str, tuple[float, ...]] = {"test_steps": (1, 3, 5, 10)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Module | None = None,
        *,
        inner_lr: float = 0.1,
        steps: int = 1,
        test_steps: int = 0,
        later_lr: float | None = None,
        first_order: bool = False,
        adjoint: bool | Literal["compiled"] = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if adjoint and later_lr is not None:
            raise InputError(
                "Expected later_lr=None with adjoint=True, whose steps all have one length. "
                f"Found {later_lr}. Leave one of them out."
            )
        if is_large(problem):
            self.settings = {"test_steps": (1, 5)}
        self.net = net_to_adapt(problem, net, generator)
        self.inner_lr, self.steps, self.test_steps, self.first_order = inner_lr, steps, test_steps, first_order
        self.later_lr = later_lr
        self.adjoint, self.exact_gradient = adjoint, not first_order
        self._steps = CompiledSteps(self.net, problem) if adjoint == "compiled" else None
        self.transductive = uses_batch_statistics(self.net)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Take gradient steps from the shared initialisation, on each task's support."""
        steps = self.steps if self.training or not self.test_steps else int(self.test_steps)
        loss, theta = task_loss(self.net, self.problem), trainable(self.net)
        if self.adjoint and not self.first_order:  # a first-order one has no graph of the steps in the first place
            compiled = self._steps if torch.is_grad_enabled() else None  # nothing saved is nothing worth a program
            phi = descend_adjoint(compiled or Steps(loss, self.net), theta, support, steps, self.inner_lr)
        else:
            phi = descend(loss, theta, support, steps, self.inner_lr, later=self.later_lr, first_order=self.first_order)
        return lambda x: predict_each(self.net, phi, x)
