"""A hybrid: the net is conditioned on an embedding of the training set, and takes gradient steps on it as well."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Method, Predictor, Problem
from quickstudy.methods._conditioned import condition
from quickstudy.methods._embed import embed, n_features
from quickstudy.methods._inner import descend
from quickstudy.methods._nets import (
    Params,
    default_rate,
    for_tasks,
    net_to_adapt,
    norm_to_adapt,
    predict_each,
    run,
    trainable,
    uses_batch_statistics,
)
from quickstudy.methods.blackbox._reading import label_size, labels_of
from quickstudy.nets import MLP, encoder_for


class DataConditioned(Method):
    r"""Read the support into a vector that modulates the net; then adapt the modulated net by gradient descent.

    .. math::
        z_t = \frac{1}{n} \sum_i g_\psi(e_\psi(x_i), y_i), \qquad
        f(x; \phi, z): \quad h' = (1 + A z) \odot h + B z \ \text{ in the layers named below}

    .. math::
        \phi_t = \theta - \alpha \nabla_\theta L_t(f(\cdot\,; \theta, z_t), D_t^{tr}) \quad
        \text{(repeated ``steps`` times, } z_t \text{ as it is)} \qquad
        \min_{\theta, \psi, A, B} \sum_t L_t(f(\cdot\,; \phi_t, z_t), D_t^{test})

    The same examples speak twice: through z as in a black box, through the steps as in MAML. A and B begin at zero, so
    that training begins at MAML; where they stay zero it is MAML. Where z enters (as in ``context``):

    - a net with layers that normalise channels: behind each of them;
    - any other with convolutions: behind each of them but a last one that gives the outputs;
    - otherwise its first linear layer's output, shifted alone, :math:`h' = h + B z`.

    Args:
        problem: what the tasks look like.
        net: any module ``[n, *x] -> [n, outputs]`` with such layers; by default the net that suits the inputs. Its
            structure is copied, its parameters are the very ones given. Batch normalisation uses each task's own
            batch: :func:`~quickstudy.methods._nets.for_tasks` says what becomes of such parts.
        encoder: e, any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        size: numbers in z.
        inner_lr: alpha, on the mean loss; None: :func:`~quickstudy.methods._nets.default_rate`.
        steps: gradient steps in training.
        test_steps: gradient steps at test; 0 stands for ``steps``.
        generator: draws the first weights.

    Shape:
        ``z [T, size]``; support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Raises:
        InputError: the net has no layer where z could enter.

    Reference:
        Jiang et al. 2019, Learning to Learn with Conditional Class Dependencies, ICLR (CAML): features of a learner
        that takes gradient steps are transformed as an embedding of the data in a metric space says. Written from the
        idea: the metric space there has a loss of its own, for classes; here z is an average over the support, is
        trained by the query's loss alone, and serves numbers too.
    """

    name: ClassVar[str] = "data-conditioned"
    summary: ClassVar[str] = "MAML on a net that an embedding of the examples modulates"
    reference: ClassVar[str] = "Jiang et al. 2019, ICLR"
    label_equivariant: ClassVar[bool] = False  # each label starts from its own row of the head
    expressive: ClassVar[bool] = True  # MAML's f, for A = B = 0
    consistent = True  # z stays as it is while gradient descent goes on
    settings: dict[str, tuple[float, ...]] = {"test_steps": (1, 3, 10)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Module | None = None,
        encoder: nn.Module | None = None,
        *,
        size: int = 64,
        inner_lr: float | None = None,
        steps: int = 1,
        test_steps: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        net = net_to_adapt(problem, net, generator)
        self.net = copy.deepcopy(net, {id(value): value for value in net.parameters()})
        layers = condition(self.net, size, generator)
        self.places = [f"{name}.context" for name in layers]
        self.film = [f"{name}.film.weight" for name in layers]
        with torch.no_grad():
            for name in self.film:
                self.net.get_parameter(name).zero_()
        self.encoder = (
            encoder_for(problem, norm_to_adapt(problem), generator)[0] if encoder is None else for_tasks(encoder)
        )
        self.reader = MLP((n_features(self.encoder, problem) + label_size(problem), size, size), generator)
        self.inner_lr = default_rate(problem) if inner_lr is None else inner_lr
        self.steps, self.test_steps = steps, test_steps
        self.transductive = uses_batch_statistics(self.net)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Embed the support, then take gradient steps with the embedding held still."""
        steps = self.steps if self.training or not self.test_steps else int(self.test_steps)
        theta = {name: value for name, value in trainable(self.net).items() if name not in self.film}

        def start(x: Tensor, y: Tensor, weight: Tensor | None) -> Params:
            one = Batch(x.unsqueeze(0), y.unsqueeze(0), None if weight is None else weight.unsqueeze(0))
            return {**theta, "z": self.embedding(one).squeeze(0)}

        # a rate of zero is what holds z still
        rates = {name: support.x.new_tensor(self.inner_lr if name in theta else 0.0) for name in (*theta, "z")}
        phi = descend(self._loss, start, support, steps, rates)
        return lambda x: predict_each(self.net, self._placed(phi), x)

    def embedding(self, support: Batch) -> Tensor:
        """What the examples say, z. Shape: ``[T, size]``."""
        h = embed(self.encoder, support.x)
        each = self.reader(torch.cat([h, labels_of(self.problem, support)], -1)) * support.weights.unsqueeze(-1)
        z: Tensor = each.sum(1) / support.weights.sum(1, keepdim=True).clamp_min(1e-12)
        return z

    def _placed(self, params: Params) -> Params:
        """The net's own parameters, and z wherever it enters."""
        own = {name: value for name, value in params.items() if name != "z"}
        return own | dict.fromkeys(self.places, params["z"])

    def _loss(self, params: Params, x: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        return self.problem.loss(run(self.net, self._placed(params), x), y, weight)
