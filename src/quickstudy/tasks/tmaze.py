"""A corridor to remember something in: a sign at its beginning says where to turn at its end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core import InputError, Problem
from quickstudy.tasks.acting import Rule, check_action


@dataclass(frozen=True)
class TMaze:
    """Walk down a corridor and turn to the side that a sign at its beginning showed.

    Actions: 0 forward, 1 left, 2 right. In the corridor a turn only loses time; at its end, the junction, it ends the
    episode and earns 1 on the right side, -1 on the other. The task is the side, -1 (left) or 1 (right), and is seen
    in the first place only. Whoever remembers nothing earns 0 in the mean.

    Args:
        corridor: steps from the beginning to the junction.
        length: steps after which an episode is cut off; None is twice the corridor and 4 more.

    Shape:
        tasks ``[T, 1]``, state ``[T, 2]`` (place, steps so far), observation ``[T, 3]`` (sign, or 0 where none is;
        whether this is the beginning; whether it is the junction), action ``[T]``.

    Reference:
        Bakker 2002, Reinforcement learning with long short-term memory, NIPS 14. Departs from it: rewards of 1 and -1
        at the junction and none elsewhere, no noise.
    """

    corridor: int = 10
    length: int | None = None

    def __post_init__(self) -> None:
        if self.corridor < 1 or (self.length or self.horizon) <= self.corridor:
            raise InputError(
                f"Expected a corridor of at least 1 step, and time to walk it and turn. Found {self.corridor} and "
                f"{self.length}."
            )

    @property
    def problem(self) -> Problem:
        """Sign, beginning, junction; forward, left, right."""
        return Problem((3,), "classification", 3)

    @property
    def horizon(self) -> int:
        """One episode."""
        return 2 * self.corridor + 4 if self.length is None else self.length

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N sides."""
        return 2.0 * torch.randint(2, (n, 1), generator=generator, device=generator.device) - 1

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Every task at the sign."""
        state = tasks.new_zeros(len(tasks), 2)
        return state, self.see(state, tasks)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Forward, or a turn."""
        check_action(self.problem, action)
        place, time = state.unbind(1)
        terminated = (place == self.corridor) & (action > 0)
        right = (2.0 * action - 3) == tasks[:, 0]
        reward = (2.0 * right - 1).to(tasks.dtype).where(terminated, 0.0)
        place = (place + (action == 0)).clamp(max=self.corridor)
        state = torch.stack([place, time + 1], 1)
        return state, self.see(state, tasks), reward, terminated, (time + 1 >= self.horizon) & ~terminated

    def see(self, state: Tensor, tasks: Tensor) -> Tensor:
        """The sign in the first place only. Shape: ``[T, 3]``."""
        begins = (state[:, :1] == 0).to(tasks.dtype)
        return torch.cat([tasks * begins, begins, (state[:, :1] == self.corridor).to(tasks.dtype)], 1)

    def shown(self, state: Tensor, tasks: Tensor) -> Tensor:
        """What would be seen if the sign stood everywhere. Shape: ``[T, 3]``."""
        return torch.cat([tasks, self.see(state, tasks)[:, 1:]], 1)

    def optimal_return(self, tasks: Tensor) -> Tensor:
        """The right side is worth 1. Shape: ``[T]``."""
        return torch.ones_like(tasks[:, 0])

    def oracle(self, tasks: Tensor) -> Rule:
        """Walks on, and turns where the sign pointed, which it knows."""
        side = (tasks[:, 0] > 0).long() + 1
        return Rule(lambda seen, generator: side.where(seen[:, 2] > 0, 0))
