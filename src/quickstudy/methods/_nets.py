"""Nets that run for all tasks at once, each task with its own copy of some parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm
from torch.nn.modules.dropout import _DropoutNd as AnyDropout
from torch.nn.modules.instancenorm import _InstanceNorm as AnyInstanceNorm
from torch.nn.parameter import is_lazy

from quickstudy.core import InputError, Problem
from quickstudy.nets import net_for
from quickstudy.nets.basic import Norm, _BatchNorm, centre_and_scale

Params = dict[str, Tensor]
TaskLoss = Callable[[Params, Tensor, Tensor, Tensor | None], Tensor]


def trainable(module: nn.Module) -> Params:
    """The parameters that may move, by name. Frozen ones stay where they are, in every task."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def net_to_adapt(problem: Problem, net: nn.Module | None, generator: torch.Generator | None) -> nn.Module:
    """The net that inner loops adapt: the one that suits the inputs, or a user's own (:func:`for_tasks`)."""
    if net is not None:
        return for_tasks(net)
    return net_for(problem, norm_to_adapt(problem), generator)


def norm_to_adapt(problem: Problem) -> Norm:
    """How nets that inner loops adapt normalise: by the batch at hand, where no padding would count in it."""
    # tasks of a table are padded to one length
    return "none" if problem.n_tasks else "batch"


def default_rate(problem: Problem) -> float:
    """An inner step size where nobody names one: on 5-way Omniglot 0.4 of the mean cross-entropy; elsewhere 0.1."""
    return 0.4 if problem.kind == "classification" and not problem.shared_labels else 0.1


def for_tasks(net: nn.Module) -> nn.Module:
    """A user's net made fit to run for all tasks at once (``torch.func.vmap``), second derivatives included.

    - Parameters are the very ones given: training trains the user's net. Frozen ones are the same in every task.
    - BatchNorm and InstanceNorm normalise by the data at hand, of one task, at test too, and neither read nor write
      running statistics; frozen ones (``requires_grad`` False) with running statistics keep to these. LayerNorm is
      written out. In all three PyTorch's fused kernels either write in place or have wrong second derivatives under
      ``vmap`` (torch 2.13). What calls ``F.layer_norm`` and the like by itself goes unnoticed.
    - Attention runs in elementary operations (:func:`run`): the fused kernels have no second derivative.
    - Dropout draws another mask for each task, in training mode, from torch's global generator: it has no other.
    - Any other state that ``forward`` writes is refused when it is written (:func:`run`).

    Raises:
        InputError: recurrent layers, lazy layers, or normalisation with a ``forward`` of its own.
    """
    fused = AnyBatchNorm | AnyInstanceNorm | nn.LayerNorm
    for name, part in net.named_modules():
        what = f"{type(part).__name__} at {name!r}" if name else type(part).__name__
        if isinstance(part, nn.RNNBase | nn.RNNCellBase):
            raise InputError(
                f"Expected a net that runs for all tasks at once (torch.func.vmap). Found {what}, whose kernel PyTorch "
                "cannot batch over tasks. Write the recurrence with nn.Linear, or use convolution or attention."
            )
        if any(is_lazy(value) for value in part.parameters(recurse=False)):
            raise InputError(f"Expected a net whose parameters exist. Found {what} unused. Call the net on data once.")
        own = type(part).forward not in (AnyBatchNorm.forward, AnyInstanceNorm.forward, nn.LayerNorm.forward)
        if isinstance(part, fused) and own:
            raise InputError(
                f"Expected PyTorch's own forward in normalisation layers, which are written anew for many tasks at "
                f"once. Found another in {what}. Write it as a plain nn.Module, in elementary operations."
            )
    if not any(isinstance(part, fused) for part in net.modules()):
        return net
    if isinstance(net, fused):
        return _Norm(net)
    # a copy of the structure only: what stands in a parameter's place is that parameter
    net = copy.deepcopy(net, {id(value): value for value in net.parameters()})
    for part in list(net.modules()):
        for name, child in part.named_children():
            if isinstance(child, fused):
                setattr(part, name, _Norm(child))
    return net


class _Norm(nn.Module):
    """A normalisation layer written out, with the scale and shift of the one it stands for, under their names."""

    def __init__(self, old: AnyBatchNorm | AnyInstanceNorm | nn.LayerNorm) -> None:
        super().__init__()
        self.register_parameter("weight", old.weight)
        self.register_parameter("bias", old.bias)
        self.eps = old.eps
        self.dims = len(old.normalized_shape) if isinstance(old, nn.LayerNorm) else 0
        self.over: Literal["batch", "example", "none"] = "batch" if isinstance(old, AnyBatchNorm) else "example"
        frozen = old.weight is not None and not old.weight.requires_grad
        if frozen and not isinstance(old, nn.LayerNorm) and old.running_mean is not None:
            self.over = "none"
            self.register_buffer("running_mean", old.running_mean)
            self.register_buffer("running_var", old.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: as the input."""
        room = (-1, *(1,) * (x.ndim - 2)) if not self.dims else x.shape[x.ndim - self.dims :]
        if self.over == "none":
            centred = x - self.get_buffer("running_mean").view(room)
            scale = (self.get_buffer("running_var").view(room) + self.eps).rsqrt()
        else:
            first = x.ndim - self.dims if self.dims else 2
            axes = (*((0,) if self.over == "batch" else ()), *range(first, x.ndim))
            centred, scale = centre_and_scale(x, axes, self.eps)
        weight, bias = self._parameters["weight"], self._parameters["bias"]  # None where the layer learns neither
        scale = scale if weight is None else scale * weight.view(room)
        y: Tensor = centred * scale
        return y if bias is None else y + bias.view(room)


def uses_batch_statistics(net: nn.Module) -> bool:
    """Whether a prediction depends on the other inputs of its task."""
    return any(isinstance(part, _BatchNorm) or getattr(part, "over", "") == "batch" for part in net.modules())


def draws(net: nn.Module) -> bool:
    """Whether a pass draws at random now: dropout in training mode."""
    return any(
        part.training
        and (
            (isinstance(part, AnyDropout) and part.p > 0)
            or (isinstance(part, nn.MultiheadAttention) and part.dropout > 0)
        )
        for part in net.modules()
    )


class SameDraws:
    """What is drawn at random within, each time the same: a net with dropout is one function then.

    The first ``with`` draws on from PyTorch's global generators, which dropout takes; each later one draws the same
    again and puts them back to where it found them.

    Args:
        device: where the net is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.first: list[Tensor] = []
        self.now: list[Tensor] = []

    def __enter__(self) -> None:
        self.now = self._states()
        if self.first:
            self._set(self.first)
        else:
            self.first, self.now = self.now, []

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.now:
            self._set(self.now)

    def _states(self) -> list[Tensor]:
        own = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return [torch.get_rng_state(), *own]

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self.device)


def at_rest(module: nn.Module) -> nn.Module:
    """A copy in eval mode, for inner loops: running statistics are read and never written."""
    return copy.deepcopy(module).eval()


def run(module: nn.Module, params: Params, x: Tensor) -> Tensor:
    """One task's pass with the task's own parameters, inside ``vmap``. Shape: ``[n, *x]`` to ``[n, out]``.

    Raises:
        InputError: the module writes to state of its own, which tasks would share, or cannot be run for all at once.
    """
    before = [(value, value._version) for value in module.buffers()]
    try:
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            prediction: Tensor = functional_call(module, params, (x,))
    except RuntimeError as error:
        written = bool(before) and "match the broadcast shape" in str(error)  # one number of each task into a buffer
        if not written and not any(word in str(error) for word in ("vmap", "atching rule", "captured Tensor")):
            raise
        raise InputError(
            "Expected a net that runs for all tasks at once (torch.func.vmap). Found "
            f"{type(module).__name__}, which stopped with: {' '.join(str(error).split())} Give up state that forward "
            "writes to (track_running_stats=False, no counters), and branches that depend on the data."
        ) from error
    after = list(module.buffers())
    for (value, version), now in zip(before, after, strict=False):
        if now is not value or now._version != version:
            name = next(name for name, buffer in module.named_buffers() if buffer is now)
            raise InputError(
                f"Expected a net that keeps nothing of what it sees: all tasks would share it. Found that forward of "
                f"{type(module).__name__} changes the buffer {name!r}. Compute it anew in each call, or keep it fixed."
            )
    return prediction


def task_loss(module: nn.Module, problem: Problem) -> TaskLoss:
    """One task's loss as a function of the parameters: ``(params, x [n, *x], y, weight) -> []``."""

    def loss(params: Params, x: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        return problem.loss(run(module, params, x), y, weight)

    return loss


def predict_each(module: nn.Module, params: Params, x: Tensor) -> Tensor:
    """Each task's inputs through the task's own parameters. Shape: ``[T, m, *x]`` to ``[T, m, out]``."""
    call = vmap(lambda p, one: run(module, p, one), randomness="different")
    prediction: Tensor = call(params, x)
    return prediction


def spread(params: Params, n_tasks: int) -> Params:
    """A copy for each task, without the memory: ``[*p]`` to ``[T, *p]``."""
    return {name: value.expand(n_tasks, *value.shape) for name, value in params.items()}
