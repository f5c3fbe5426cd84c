"""What all loops have in common: step down the losses, refuse a loss that is not finite, save, go on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core import RunError
from quickstudy.training.checkpoint import load_checkpoint, pack_optimiser, save_checkpoint, unpack_optimiser

Combine = Callable[[Tensor], Tensor]
Progress = Callable[[int, int], None]


class Descent:
    """AdamW whose step size falls to zero along a half cosine.

    Args:
        method: whose parameters move.
        steps: how many steps there will be.
        lr: first step size.
        weight_decay: decoupled.
        generator: the run's only source of randomness; saved with it.
        checkpoint: file to save to; None saves nothing.
    """

    def __init__(
        self,
        method: nn.Module,
        *,
        steps: int,
        lr: float,
        weight_decay: float,
        generator: torch.Generator,
        checkpoint: Path | None,
    ) -> None:
        self.method, self.steps, self.lr = method, steps, lr
        self.generator, self.checkpoint = generator, checkpoint
        parameters = [p for p in method.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)

    def step(self, number: int, losses: Tensor, combine: Combine | None, task: Tensor | None = None) -> float:
        """Take step ``number``, counted from 0; gives the mean loss before it.

        Args:
            number: which step.
            losses: of each task, ``[T]``.
            combine: makes one number of them; None where the parameters hold their gradients already.
            task: the tasks' ids, for the message.

        Raises:
            RunError: a loss is not finite.
        """
        if not bool(torch.isfinite(losses).all()):
            self._stop(losses, task, number)
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * number / self.steps))
        if combine is not None:
            self.optimiser.zero_grad()
            combine(losses).backward()
        self.optimiser.step()
        return float(losses.detach().mean())

    def _stop(self, losses: Tensor, task: Tensor | None, number: int) -> None:
        """Name the step and the task whose loss is not finite."""
        where = int((~torch.isfinite(losses)).nonzero()[0])
        name = where if task is None else int(task[where])
        kept = f" The run up to the last checkpoint is in {self.checkpoint}." if self.checkpoint is not None else ""
        raise RunError(
            f"Expected finite losses. Found {float(losses.detach()[where])} at step {number} in task {name}. "
            f"Lower the step size (or the inner step size), or look at that task's data.{kept}"
        )

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Save method, optimiser and generator, and what else the loop needs to go on."""
        if self.checkpoint is None:
            return
        optimiser_tensors, optimiser_plain = pack_optimiser(self.optimiser)
        every = {f"method/{k}": v for k, v in self.method.state_dict().items()}
        every |= {f"optimiser/{k}": v for k, v in optimiser_tensors.items()}
        every |= {"generator": self.generator.get_state()}
        save_checkpoint(self.checkpoint, every | tensors, {"optimiser": optimiser_plain, **facts})

    def load(self, resume: bool) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Put back what :meth:`save` saved and give the loop its part; None where there is nothing to resume."""
        if not resume or self.checkpoint is None or not self.checkpoint.is_file():
            return None
        tensors, facts = load_checkpoint(self.checkpoint)
        self.method.load_state_dict(under("method/", tensors))
        unpack_optimiser(self.optimiser, under("optimiser/", tensors), facts["optimiser"])
        self.generator.set_state(tensors["generator"])
        return tensors, facts


def under(head: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with ``head``, without it."""
    return {name[len(head) :]: value for name, value in tensors.items() if name.startswith(head)}
