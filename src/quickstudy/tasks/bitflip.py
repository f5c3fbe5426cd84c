"""Bit-flip: make a row of bits equal to another, one flip a step, with no hint of being closer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core import InputError, Problem
from quickstudy.tasks.acting import Rule, check_action


@dataclass(frozen=True)
class BitFlip:
    """``bits`` bits; action i flips bit i; a step earns 0 if it led to the goal, which ends the episode, else -1.

    The task is the goal. Start and goal are uniform, each episode's start anew; an episode is cut off after as many
    steps as there are bits. The fewest steps are the Hamming distance; where start and goal are the same, it takes
    two, as some bit must be flipped.

    Args:
        bits: how many.

    Shape:
        tasks ``[T, bits]``, state ``[T, bits + 1]`` (bits, steps so far), observation ``[T, 2 bits]`` (bits, goal),
        action ``[T]``; goals of relabelling ``[..., bits]``.

    Reference:
        Andrychowicz et al. 2017, Hindsight experience replay, section 3.1, arXiv:1707.01495.
    """

    bits: int = 10

    def __post_init__(self) -> None:
        if self.bits < 2:
            raise InputError(f"Expected at least 2 bits. Found {self.bits}. Raise them.")

    @property
    def problem(self) -> Problem:
        """Bits and goal, one logit a bit."""
        return Problem((2 * self.bits,), "classification", self.bits)

    @property
    def horizon(self) -> int:
        """One episode of full length."""
        return self.bits

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N goals."""
        return self.row(n, generator)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Any bits."""
        bits = self.row(len(tasks), generator).to(tasks)
        return torch.cat([bits, torch.zeros_like(bits[:, :1])], 1), torch.cat([bits, tasks], 1)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Flip one bit of every task."""
        check_action(self.problem, action)
        bits, time = state[:, :-1], state[:, -1] + 1
        flip = torch.zeros_like(bits).scatter(1, action.unsqueeze(1), 1)
        bits = (bits - flip).abs()
        reward, terminated = self.outcome(bits, tasks)
        truncated = (time >= self.bits) & ~terminated
        return torch.cat([bits, time.unsqueeze(1)], 1), torch.cat([bits, tasks], 1), reward, terminated, truncated

    def goals(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The bits, and those that are wanted."""
        return observation[..., : self.bits], observation[..., self.bits :]

    def relabel(self, observation: Tensor, goal: Tensor) -> Tensor:
        """The same bits, with others wanted."""
        return torch.cat([observation[..., : self.bits], goal], -1)

    def outcome(self, achieved: Tensor, desired: Tensor) -> tuple[Tensor, Tensor]:
        """0 and the end where all bits agree, else -1."""
        reached = (achieved == desired).all(-1)
        return reached.to(achieved.dtype) - 1, reached

    def optimal_steps(self, observation: Tensor) -> Tensor:
        """The fewest steps from here: the Hamming distance, or 2. The best return is 1 less, negated."""
        bits, goal = self.goals(observation)
        distance = (bits != goal).sum(-1)
        return distance.where(distance > 0, 2)

    def oracle(self, tasks: Tensor) -> Rule:
        """Flips the first bit that is wrong."""

        def rule(observation: Tensor, generator: torch.Generator) -> Tensor:
            bits, goal = self.goals(observation)
            return (bits != goal).int().argmax(1)

        return Rule(rule)

    def row(self, n: int, generator: torch.Generator) -> Tensor:
        """N rows of uniform bits, as numbers."""
        return torch.randint(2, (n, self.bits), generator=generator, device=generator.device).to(
            torch.get_default_dtype()
        )
