"""CAVIA: a small context vector adapts to the task; the net that reads it does not."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, InputError, Method, Predictor, Problem
from quickstudy.methods._inner import descend
from quickstudy.methods._nets import Params, net_to_adapt, predict_each, run, uses_batch_statistics
from quickstudy.nets.basic import initialise

PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


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
        self.places = [f"{name}.context" for name in _condition(self.net, self.size, generator)]
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


class _Conditioned(nn.Module):
    """A layer whose output ``[n, units, ...]`` (or ``[..., units]``) a context scales and shifts, or only shifts.

    The context is a buffer of zeros that a call replaces by the task's own.
    """

    def __init__(self, layer: nn.Module, units: int, size: int, scale: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.layer, self.scale, self.last = layer, scale, isinstance(layer, nn.Linear)
        self.film = nn.Linear(size, 2 * units if scale else units, bias=False)
        initialise(self.film, generator)
        with torch.no_grad():
            self.film.weight.div_(math.sqrt(2))  # no ReLU follows: the context's variance passes unchanged
        weight = next(layer.parameters())
        self.film.to(weight)
        self.register_buffer("context", torch.zeros(size).to(weight), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: as the layer's."""
        h: Tensor = self.layer(x)
        change = self.film(self.get_buffer("context"))
        if not self.last:
            change = change.view(-1, *(1,) * (h.ndim - 2))
        if not self.scale:
            return h + change
        gamma, beta = change.chunk(2)
        return (1 + gamma) * h + beta


def _condition(net: nn.Module, size: int, generator: torch.Generator) -> list[str]:
    """Wrap the layers where the context enters; gives their names."""
    parts = [(name, part) for name, part in net.named_modules() if name]
    norms = [
        (name, part)
        for name, part in parts
        if "Norm" in type(part).__name__ and not getattr(part, "dims", 0) and getattr(part, "weight", None) is not None
    ]
    plain = [(name, part) for name, part in parts if type(part) in PLAIN]
    convolutions = [(name, part) for name, part in plain if not isinstance(part, nn.Linear)]
    if len(convolutions) > 1 and convolutions[-1][0] == plain[-1][0]:
        convolutions = convolutions[:-1]
    chosen = norms or convolutions or plain[:1]
    if not chosen:
        raise InputError(
            "Expected a net with linear, convolutional or normalisation layers inside, where a context can enter. "
            f"Found none in {type(net).__name__}. Put the layer in a Sequential, or name another net."
        )
    for name, part in chosen:
        where, _, last = name.rpartition(".")
        units = part.weight.shape[0]
        scale = not isinstance(part, nn.Linear)
        setattr(net.get_submodule(where), last, _Conditioned(part, int(units), size, scale, generator))
    return [name for name, _ in chosen]
