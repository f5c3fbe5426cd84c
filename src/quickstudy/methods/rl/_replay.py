"""A memory of the past: a ring of steps in T environments side by side, in tensors on one device."""

from __future__ import annotations

import torch
from torch import Tensor

from quickstudy.core import InputError, Problem, Replayed, Trajectory
from quickstudy.tasks.acting import sent

PARTS = ("observation", "action", "reward", "terminated", "truncated", "after")


class Replay:
    """Keeps the last steps of T environments and draws from them.

    A step holds where it truly led, so what follows the end of an episode is never taken for it. That an episode
    ended (terminated) and that it was cut off (truncated) are kept apart.

    Args:
        length: how many steps of each environment are kept.

    Shape:
        slots ``[length, T, ...]``.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise InputError(f"Expected room for at least 1 step. Found {length}.")
        self.length, self.written = length, 0
        self.parts: dict[str, Tensor] = {}

    @classmethod
    def of(cls, trials: Trajectory) -> Replay:
        """All steps of T trials, as if they had been noted one by one.

        Raises:
            InputError: the trials do not tell where their steps led.
        """
        terminated, after = trials.ends()
        memory = cls(trials.reward.shape[1])
        end, over = terminated > 0, trials.done > 0
        noted = (trials.observation, trials.action, trials.reward, end, over & ~end, after)
        memory.parts = {name: part.transpose(0, 1).contiguous() for name, part in zip(PARTS, noted, strict=True)}
        memory.written = memory.length
        return memory

    @property
    def size(self) -> int:
        """How many steps of each environment it holds."""
        return min(self.written, self.length)

    def add(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        after: Tensor,
    ) -> None:
        """Note a step of all environments; the oldest goes where there is no room. Shape: all ``[T, ...]``."""
        step = (observation, action, reward, terminated, truncated, after)
        if not self.parts:
            self.parts = {
                name: value.new_zeros(self.length, *value.shape) for name, value in zip(PARTS, step, strict=True)
            }
        for part, value in zip(self.parts.values(), step, strict=True):
            part[self.written % self.length] = value
        self.written += 1

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """N steps, all alike likely, with replacement: their slots and their environments. Shape: both ``[n]``."""
        return self.places(self.lots(n, generator))

    def lots(self, n: int, generator: torch.Generator) -> Tensor:
        """The numbers of n steps, all alike likely, with replacement, on the generator's device. Shape: ``[n]``."""
        rows = self.parts["reward"].shape[1]
        return torch.randint(self.size * rows, (n,), generator=generator, device=generator.device)

    def places(self, lots: Tensor) -> tuple[Tensor, Tensor]:
        """Slots and environments of the steps with these numbers. Shape: ``[n]`` to twice ``[n]``."""
        reward = self.parts["reward"]
        rows, flat = reward.shape[1], sent(lots, reward)
        return flat // rows, flat % rows

    def take(self, slot: Tensor, row: Tensor) -> Replayed:
        """What was noted of these steps. Shape: ``[n, 1, ...]``."""
        place = slot * self.parts["reward"].shape[1] + row
        found = {name: part.flatten(0, 1).index_select(0, place).unsqueeze(1) for name, part in self.parts.items()}
        dtype = found["reward"].dtype
        done = (found["terminated"] | found.pop("truncated")).to(dtype)
        unknown = torch.full_like(found["reward"], torch.nan)
        terminated = found.pop("terminated").to(dtype)
        return Replayed(**found, done=done, log_prob=unknown, terminated=terminated)

    def rest(self, slot: Tensor, row: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """The steps from these to the ends of their episodes, or as far as is known, ``most`` at most.

        Shape:
            slots ``[n, most]`` and whether a place is still in the episode, bool ``[n, most]``; its first is.
        """
        ahead = torch.arange(most, device=slot.device)
        slots = (slot.unsqueeze(1) + ahead) % self.length
        known = (self.written - 1 - slot.unsqueeze(1)) % self.length >= ahead  # not round the ring into the past
        over = (self.parts["terminated"] | self.parts["truncated"])[slots, row.unsqueeze(1)]
        before = torch.cat([torch.zeros_like(over[:, :1]), over[:, :-1]], 1).cumsum(1)
        return slots, known & (before == 0)

    def state(self) -> dict[str, Tensor]:
        """All of it, to be saved."""
        return {**self.parts, "written": torch.tensor(self.written)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave."""
        self.parts = {name: state[name] for name in PARTS if name in state}
        self.written = int(state["written"])


def noise(n: int, problem: Problem, generator: torch.Generator) -> Tensor:
    """What losses draw actions by, on the generator's device; none where they are discrete. Shape: ``[n, 1, 2, a]``."""
    actions = 0 if problem.kind == "classification" else problem.n_outputs
    return torch.randn((n, 1, 2, actions), generator=generator, device=generator.device)


def with_noise(steps: Replayed, drawn: Tensor) -> Replayed:
    """The steps, each with chance of its own if there is any."""
    if not drawn.numel():
        return steps
    return Replayed(**{**vars(steps), "noise": sent(drawn, steps.reward).to(steps.reward)})
