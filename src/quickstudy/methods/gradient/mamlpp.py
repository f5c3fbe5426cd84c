"""MAML++: MAML with what makes its training steady: learned step sizes, and a loss after every step."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._inner import take_step
from quickstudy.methods._nets import (
    Params,
    default_rate,
    net_to_adapt,
    predict_each,
    run,
    spread,
    trainable,
    uses_batch_statistics,
)

STAGES = 10  # weights of the losses change this often while they are annealed


class MAMLPlusPlus(Method):
    r"""MAML that learns a step size for every layer and step, and at first minimises the loss after every step.

    .. math::
        \phi_{t,i} = \phi_{t,i-1} - \alpha_{i} \nabla L_t(\phi_{t,i-1}, D_t^{tr}) \qquad
        \min_{\theta, \alpha} \sum_t \sum_{i=1}^{K} v_i L_t(\phi_{t,i}, D_t^{test})

    With p the share of ``anneal`` that is over, :math:`v_i = (1 - p) / K` for i < K and the last takes the rest: from
    all steps alike to the last one alone. Scales and shifts of normalisation layers do not adapt; they are learned
    anew for each step (of K + 1, the last for the query after the last step), on statistics of the batch at hand.

    The number of training losses computed so far is kept in the buffer ``updates``, saved with the parameters; the
    :math:`v_i` follow it in ten stages, as the paper's change with epochs.

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]``; by default the net that suits the inputs. Batch normalisation
            uses each task's own batch: :func:`~quickstudy.methods._nets.for_tasks` says what becomes of such parts.
            Weights that are frozen when the method is made stay so.
        inner_lr: what every step size starts from; None: :func:`~quickstudy.methods._nets.default_rate`.
        steps: K, gradient steps in training.
        test_steps: gradient steps at test; 0 stands for ``steps``. Steps beyond K are taken as step K is.
        anneal: training steps until only the last step's loss counts; 0 for that from the start.
        first_order: training steps with first-order gradients before those with second-order ones.
        generator: draws the first weights.

    Shape:
        alpha ``[K, tensors]``; support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Reference:
        Antoniou, Edwards, Storkey 2019, How to Train Your MAML, arXiv:1810.09502. Step sizes belong to a tensor, as
        in the released code (a layer's weight and bias have one each). Departs in: no running statistics per step,
        which the released code keeps and does not normalise by; :math:`v_i` fall to zero, there to 0.03 / K; annealing
        the derivatives' order saves no time here (a compiled program has one course); ``training.fit`` anneals the
        outer step size for all methods.
    """

    name: ClassVar[str] = "mamlpp"
    summary: ClassVar[str] = "MAML with learned step sizes by layer and step, and a loss after every step"
    reference: ClassVar[str] = "Antoniou et al. 2019, arXiv:1810.09502"
    expressive: ClassVar[bool] = True  # MAML's f, where all step sizes are alike
    consistent = False  # learned step sizes may be zero, or climb
    label_equivariant: ClassVar[bool] = False  # each label starts from its own row of the head

    def __init__(
        self,
        problem: Problem,
        net: nn.Module | None = None,
        *,
        inner_lr: float | None = None,
        steps: int = 5,
        test_steps: int = 0,
        anneal: int = 500,
        first_order: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.net = net_to_adapt(problem, net, generator)
        self.steps, self.test_steps, self.anneal, self.first_order = steps, test_steps, anneal, first_order
        norms = {name for name, part in self.net.named_modules() if "Norm" in type(part).__name__}
        theta = trainable(self.net)
        by_step = {name: value for name, value in theta.items() if name.rpartition(".")[0] in norms}
        # names have dots, which a ParameterDict refuses
        self.norms, self.names = list(by_step), [name for name in theta if name not in by_step]
        # the net's own stand for the start; these are added to them at each step
        self.shifts = nn.ParameterList([torch.zeros(steps + 1, *value.shape) for value in by_step.values()])
        rate = default_rate(problem) if inner_lr is None else inner_lr
        self.alpha = nn.Parameter(torch.full((steps, len(self.names)), rate))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.exact_gradient = not first_order
        self.transductive = uses_batch_statistics(self.net)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Take gradient steps, each tensor by the step's own step size."""
        steps = self.steps if self.training or not self.test_steps else int(self.test_steps)
        phi = self._path(support, steps)[-1]
        return lambda x: self._predict(phi, steps, x)

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's loss after each step, weighted; outside training after the last."""
        if not self.training or not self.steps:
            return super().losses(episodes)
        path, query = self._path(episodes.support, self.steps)[1:], episodes.query
        each = [self.problem.losses(self._predict(phi, i + 1, query.x), query) for i, phi in enumerate(path)]
        v = self._importance()
        self.get_buffer("updates").add_(1)
        return (v.unsqueeze(-1) * torch.stack(each)).sum(0)

    def _importance(self) -> Tensor:
        """What the loss after each step counts. Shape: ``[K]``."""
        over = self.alpha.new_ones(())
        if self.anneal:
            stage = self.get_buffer("updates") // max(1, self.anneal // STAGES)
            over = (stage / STAGES).clamp(max=1).to(self.alpha.dtype)
        v = ((1 - over) / self.steps).expand(self.steps)
        return torch.cat([v[:-1], (1 - v[:-1].sum()).view(1)])

    def _path(self, support: Batch, steps: int) -> list[Params]:
        """Each task's parameters before the first step and after each."""
        weights = trainable(self.net)
        phi = {name: weights[name] for name in self.names}
        order = None
        if self.first_order and self.training:
            order = (self.get_buffer("updates") >= self.first_order).to(self.alpha.dtype)
        path = [spread(phi, support.n_tasks)]
        for i in range(steps):
            rates = dict(zip(self.names, self.alpha[min(i, self.steps - 1)], strict=True))
            norm = self._norm(i)

            def loss(p: Params, x: Tensor, y: Tensor, weight: Tensor | None, norm: Params = norm) -> Tensor:
                return self.problem.loss(run(self.net, {**norm, **p}, x), y, weight)

            # the first step starts from one shared point: a plain batched pass for all tasks
            phi = take_step(loss, phi, support, rates, shared=i == 0, order=order)
            path.append(phi)
        return path

    def _norm(self, step: int) -> Params:
        """Scales and shifts of the normalisation layers at one step, the same for all tasks."""
        weights, step = trainable(self.net), min(step, self.steps)
        return {name: weights[name] + change[step] for name, change in zip(self.norms, self.shifts, strict=True)}

    def _predict(self, phi: Params, step: int, x: Tensor) -> Tensor:
        return predict_each(self.net, {**spread(self._norm(step), x.shape[0]), **phi}, x)
