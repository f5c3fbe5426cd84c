"""PCGrad: where two tasks' gradients point against each other, each gives way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PCGrad:
    r"""Project conflicting gradients (Yu et al. 2020, algorithm 1).

    For each task i, and the others j in random order: where :math:`g_i^{PC} \cdot g_j < 0`,

    .. math::
        g_i^{PC} \leftarrow g_i^{PC} - \frac{g_i^{PC} \cdot g_j}{|g_j|^2} g_j

    and the step follows the mean of all :math:`g_i^{PC}`; without conflict that is the gradient of the mean. Parts of
    a method (actor and critic) are treated apart. A call gives a number with the value of the tasks' mean loss (of all
    K, also where some task was not drawn) and with this gradient, so it stands where any combination does
    (``fit_rl(combine=...)``).

    A task's loss is the mean of the losses that are its own. Which those are the loops tell: by the ids of episodes, or
    by the identity that observations end with (:class:`quickstudy.tasks.identity.SeesIdentity`). So steps drawn from a
    memory may come in any order, and a task of which none was drawn asks for nothing.

    Args:
        parts: the parameters of each part; those that are in none stay as they are.
        tasks: K.
        generator: draws the orders. A run that is to resume exactly should not use it without saving its state.

    Shape:
        losses ``[T]`` and task ids ``[T]`` to ``[]``. Without ids loss i is of task ``i % K``.

    Reference:
        Yu et al. 2020, Gradient surgery for multi-task learning, arXiv:2001.06782.
    """

    def __init__(self, parts: Sequence[Sequence[nn.Parameter]], tasks: int, generator: torch.Generator) -> None:
        self.parts, self.tasks, self.generator = [list(part) for part in parts], tasks, generator

    def __call__(self, losses: Tensor, task: Tensor | None = None) -> Tensor:
        """The tasks' mean loss, whose gradient is the projected one."""
        task = torch.arange(len(losses), device=losses.device) % self.tasks if task is None else task
        mine = (task == torch.arange(self.tasks, device=losses.device).unsqueeze(1)).to(losses)  # [K, T]
        each = mine @ losses / mine.sum(1).clamp_min(1)
        flat = [parameter for part in self.parts for parameter in part]
        rows = [torch.autograd.grad(one, flat, retain_graph=True, materialize_grads=True) for one in each]
        total, start = each.mean().detach(), 0
        for part in self.parts:
            own = [row[start : start + len(part)] for row in rows]
            gradients = torch.stack([torch.cat([g.flatten() for g in row]) for row in own])
            step = project(gradients, self.generator).mean(0)
            moved = torch.cat([parameter.flatten() for parameter in part]) @ step
            total = total + moved - moved.detach()  # the value stays, the gradient is the step
            start += len(part)
        return total


def project(gradients: Tensor, generator: torch.Generator) -> Tensor:
    """Each task's gradient with its conflicts taken out. Shape: ``[K, d]`` to ``[K, d]``."""
    size, projected = gradients.square().sum(1).clamp_min(1e-30), gradients.clone()
    k = len(gradients)
    order = torch.rand(k, k, generator=generator, device=generator.device).argsort(1).to(gradients.device)
    for other in order.unbind(1):  # the same place in all tasks' orders at once
        against = gradients[other]
        dot = (projected * against).sum(1)
        conflict = (dot < 0) & (other != torch.arange(k, device=other.device))
        projected = projected - (dot / size[other] * conflict).unsqueeze(1) * against
    return projected
