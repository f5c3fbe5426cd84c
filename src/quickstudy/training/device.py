"""Where a run computes: a device by its name, and episodes that are brought there."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quickstudy.core import Episodes, InputError, Problem, TaskFamily
from quickstudy.tasks.classes import ClassEpisodes


def device_named(name: str) -> torch.device:
    """The device, tried out.

    Args:
        name: as PyTorch has it: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises:
        InputError: no such device, or PyTorch cannot use it here.
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise InputError(
            f"Expected a device that PyTorch can use here, such as cpu or cuda. Found {name!r}: {why}. "
            "Leave --device out, or install a PyTorch for your card."
        ) from error
    return device


@dataclass(frozen=True)
class Sent:
    """A family whose episodes are drawn where they always were, and then brought to a device.

    Args:
        family: where they come from.
        device: where they go.
    """

    family: TaskFamily
    device: torch.device

    @property
    def problem(self) -> Problem:
        """The family's."""
        return self.family.problem

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """The same episodes as on the processor."""
        return self.family.sample(n, generator).to(self.device)


def on_device(family: TaskFamily, device: torch.device) -> TaskFamily:
    """The family with its episodes there; class sets are moved as a whole, so that an episode is gathered there."""
    if device.type == "cpu":
        return family
    if isinstance(family, ClassEpisodes):
        return family.to(device)
    return Sent(family, device)
