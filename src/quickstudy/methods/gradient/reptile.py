"""Reptile: move the initialisation towards what each task's own training ends at."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, InputError, Method, Predictor, Problem
from quickstudy.methods._inner import settle
from quickstudy.methods._nets import (
    Params,
    net_to_adapt,
    predict_each,
    spread,
    task_loss,
    trainable,
    uses_batch_statistics,
)

MOST = 4096  # examples whose order is drawn; further ones repeat it


class Reptile(Method):
    r"""Train on each task for several steps, then step from the start towards the end.

    .. math::
        \phi_t = U^k_t(\theta) \quad \text{(k steps of descent on minibatches of all the task's examples)} \qquad
        \theta \leftarrow \theta + \epsilon \frac{1}{T} \sum_t (\phi_t - \theta)

    What training minimises is :math:`\tfrac12 \lVert \theta - \phi_t \rVert^2` with :math:`\phi_t` taken as a constant:
    its gradient is :math:`\theta - \phi_t`, which the paper hands to plain descent or to Adam. There is no split of a
    training task: support and query are learned from alike. Training's loss is thus a squared distance.

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]``; by default the net that suits the inputs. Batch normalisation
            uses each task's own batch, the paper's "transduction": :func:`~quickstudy.methods._nets.for_tasks`.
        inner_lr: step size in a task.
        steps: k, steps in training; more than one, or Reptile trains on the mean task only.
        rows: examples of a training step; other ones at each, as the paper finds necessary.
        test_steps: steps at test, on all of the support.
        inner: plain ``descent``, or ``adam`` without momentum (beta1 = 0), as in the paper's experiments. There its
            second moment is carried from task to task; a pure function of a task's data must start it anew, and then
            its first steps are the gradient's sign and move all weights alike, however small their gradient. On
            Omniglot that cost much: after 1500 steps .80 of the validation classes, with descent .90.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Raises:
        InputError: another kind of inner steps.

    Reference:
        Nichol, Achiam, Schulman 2018, On First-Order Meta-Learning Algorithms, arXiv:1803.02999, algorithm 2 in
        batches, where U may be descent or Adam.
    """

    name: ClassVar[str] = "reptile"
    summary: ClassVar[str] = "an initialisation near all tasks' solutions"
    reference: ClassVar[str] = "Nichol et al. 2018, arXiv:1803.02999"
    # MAML's f with descent, but not shown to be expressive with Adam, whose step forgets how large a gradient was
    consistent = True  # the task's own training
    label_equivariant: ClassVar[bool] = False  # each label starts from its own row of the head
    exact_gradient: bool = False  # the end of a task's training is taken as a constant
    settings: dict[str, tuple[float, ...]] = {"test_steps": (5, 20, 50)}
    chance: Tensor

    def __init__(
        self,
        problem: Problem,
        net: nn.Module | None = None,
        *,
        inner_lr: float = 0.1,
        steps: int = 5,
        rows: int = 10,
        test_steps: int = 20,
        inner: Literal["descent", "adam"] = "descent",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if inner not in ("descent", "adam"):
            raise InputError(f"Expected inner 'descent' or 'adam'. Found {inner!r}.")
        self.inner = inner
        self.net = net_to_adapt(problem, net, generator)
        self.inner_lr, self.steps, self.rows, self.test_steps = inner_lr, steps, rows, test_steps
        self.transductive = uses_batch_statistics(self.net)
        # an order for examples that come class by class: a minibatch of neighbours would hold one class
        chance = torch.rand(MOST, generator=torch.Generator().manual_seed(0))
        self.register_buffer("chance", chance, persistent=False)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Steps on each task's support, all of it at every step."""
        phi = self._train(support, int(self.test_steps), support.n)
        return lambda x: predict_each(self.net, phi, x)

    def losses(self, episodes: Episodes) -> Tensor:
        """Half the squared distance to where training on the whole episode ends. Its gradient: theta - phi."""
        both = episodes.support.join(episodes.query)
        # a real example's place hangs on how many real ones stand before it, so that padding moves none
        real = both.weights > 0
        order = self.chance[(real.cumsum(1) - 1).clamp_min(0) % MOST].where(real, 2.0).argsort(dim=1, stable=True)
        task = torch.arange(both.n_tasks, device=both.x.device).unsqueeze(1)
        weight = None if both.weight is None else both.weight[task, order]
        phi = self._train(Batch(both.x[task, order], both.y[task, order], weight), self.steps, self.rows)
        squares = [(value - phi[name]).square().flatten(1).sum(1) for name, value in trainable(self.net).items()]
        return 0.5 * torch.stack(squares).sum(0)

    def _train(self, batch: Batch, steps: int, rows: int) -> Params:
        start = spread(trainable(self.net), batch.n_tasks)
        return settle(
            task_loss(self.net, self.problem), start, batch, steps, self.inner_lr, rows=rows, beta1=0.0,
            adam=self.inner == "adam",
        )  # fmt: skip
