"""What all loops have in common: step down the losses, refuse a loss that is not finite, save, go on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from quickstudy.combine import ByTask
from quickstudy.core import Environment, InputError, RunError, Teaches, Trajectory
from quickstudy.methods._inner import looking_for_trouble
from quickstudy.methods.rl._policies import which_task
from quickstudy.training.checkpoint import load_checkpoint, pack_optimiser, save_checkpoint, unpack_optimiser
from quickstudy.training.memory import keep_freed_memory

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
        keep_freed_memory()
        self.method, self.steps, self.lr = method, steps, lr
        self.generator, self.checkpoint = generator, checkpoint
        parameters = [p for p in method.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)

    def step(
        self,
        number: int,
        losses: Tensor,
        combine: Combine | None,
        task: Tensor | None = None,
        again: Callable[[], object] | None = None,
    ) -> float:
        """Take step ``number``, counted from 0; gives the mean loss before it.

        Args:
            number: which step.
            losses: of each task, ``[T]``.
            combine: makes one number of them; None where the parameters hold their gradients already.
            task: the tasks' ids, for the message and for a combination that goes by tasks.
            again: takes the losses once more, to name the inner step where a method that has such went wrong.

        Raises:
            InputError: the combination goes by tasks, and these have no ids, or others than it knows.
            RunError: a loss is not finite.
        """
        average = float(losses.detach().mean())  # one look at a number a step: on CUDA each waits for all before it
        if not math.isfinite(average) and not bool(torch.isfinite(losses).all()):
            self._stop(losses, task, number, again)
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * number / self.steps))
        if combine is not None:
            self.optimiser.zero_grad()
            made = combine(losses, _known(combine, task)) if isinstance(combine, ByTask) else combine(losses)
            made.backward()
        self.optimiser.step()
        return average

    def _stop(self, losses: Tensor, task: Tensor | None, number: int, again: Callable[[], object] | None) -> NoReturn:
        """Name the step and the task whose loss is not finite, and the inner step where it began."""
        name = lambda place: place if task is None else int(task[place])  # noqa: E731
        where, began = int((~torch.isfinite(losses)).nonzero()[0]), ""
        if again is not None:
            with looking_for_trouble() as troubles:
                again()
            for trouble in troubles:
                of = "" if trouble.task is None else f" in task {name(trouble.task)}"
                began = f" It began in the inner loop{of}: {trouble.what}."
        raise RunError(
            f"Expected finite losses. Found {float(losses.detach()[where])} at step {number} in task {name(where)}."
            f"{began} Lower the step size (or the inner step size), or look at that task's data.{self._kept()}"
        )

    @contextlib.contextmanager
    def acting(self, step: int, save: Callable[[int], None]) -> Iterator[None]:
        """Around what the environment does: where it breaks down, what was learned until then is saved first.

        Chance is put back to what it was before, so that a run that goes on in a mended environment gives the same
        numbers as one that met no trouble.

        Args:
            step: of the loop.
            save: calls :meth:`save` with what the loop needs to go on from this step.

        Raises:
            RunError: the environment's own, with the step and where the run is.
        """
        before = self.generator.get_state()
        try:
            yield
        except RunError as error:
            kept = ""
            if self.checkpoint is not None:
                self.generator.set_state(before)
                save(step)
                kept = f" What was learned until then is in {self.checkpoint}."
            raise RunError(f"{error} It was in step {step} of training.{kept}") from error

    def _kept(self) -> str:
        saved = self.checkpoint is not None and self.checkpoint.is_file()
        return f" The run up to the last checkpoint is in {self.checkpoint}." if saved else ""

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Save method, optimiser and generator, and what else the loop needs to go on.

        Raises:
            RunError: a parameter is not finite. What was saved before stays.
        """
        if self.checkpoint is None:
            return
        for name, value in self.method.named_parameters():
            if not bool(torch.isfinite(value).all()):
                raise RunError(
                    f"Expected finite parameters to save. Found NaN or infinite values in {name!r} after step "
                    f"{facts['step'] - 1 if 'step' in facts else '?'}: the losses were finite, their gradient was not. "
                    f"Lower the step size (or the inner step size).{self._kept()}"
                )
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


def tasks_of(combine: Combine, trials: Trajectory) -> Tensor | None:
    """Which tasks trials are of, by the identity that they see first; None where the combination does not ask.

    Shape:
        ``[T]``, int64.

    Raises:
        InputError: observations do not end with an identity, one-hot over as many tasks as the combination knows.
    """
    if not isinstance(combine, ByTask):
        return None
    k, seen = combine.tasks, trials.observation
    if seen.ndim == 3 and seen.shape[2] >= k:
        identity = seen[:, 0, -k:]
        if bool((((identity == 0) | (identity == 1)).all(1) & (identity.sum(1) == 1)).all()):
            return which_task(seen[:, 0], k)
    raise InputError(
        f"Expected observations whose last {k} numbers are the task's identity, one-hot, for {type(combine).__name__}, "
        f"which goes by tasks. Found observations {tuple(seen.shape[2:])} that end otherwise. Wrap the environment in "
        "SeesIdentity, and give the combination as many tasks as that shows."
    )


def _known(combine: ByTask, task: Tensor | None) -> Tensor:
    """The ids, if all are of tasks that the combination knows."""
    if task is None or not bool(((task >= 0) & (task < combine.tasks)).all()):
        found = "none" if task is None else f"{int(task.min())} to {int(task.max())}"
        raise InputError(
            f"Expected task ids 0 to {combine.tasks - 1} for {type(combine).__name__}, which goes by tasks. Found "
            f"{found}. Train on tasks that have an identity, and give the combination their number."
        )
    return task


def under(head: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with ``head``, without it."""
    return {name[len(head) :]: value for name, value in tensors.items() if name.startswith(head)}


def learned_of(environment: Environment) -> dict[str, Tensor]:
    """What an environment that chooses its tasks has learned, to be saved; nothing of any other."""
    return {f"taught/{k}": v for k, v in environment.state_dict().items()} if isinstance(environment, Teaches) else {}


def give_back(environment: Environment, saved: dict[str, Tensor]) -> None:
    """Put back what :func:`learned_of` saved."""
    if isinstance(environment, Teaches):
        environment.load_state_dict(under("taught/", saved))
