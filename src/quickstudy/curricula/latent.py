"""Goals that are observations, states or images, and a reward that is nearness in the codes of a VAE."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quickstudy.core import GoalEnvironment, InputError, Problem
from quickstudy.nets.vae import VAE
from quickstudy.tasks.acting import Wrapped


class LatentGoals(Wrapped, nn.Module):
    r"""An environment without tasks of its own, in which to reach what was imagined (Nair et al. 2018, section 4).

    A task is an observation to come to; a step earns :math:`-\|\mu(x) - \mu(x_g)\|`, the distance of the codes of
    what it led to and of the goal. The VAE may be trained meanwhile: rewards hang on what it is at the time.

    Args:
        environment: gives what is there by its ``goals``: the goal achieved stands for the state.
        vae: whose codes tell distances; the environment does not train it.
        nowhere: a task of the environment's that cannot be reached, ``[*task]``: episodes end by time only.
        look: the goal achieved ``[..., g]`` to what is seen of it, flat, ``[..., size]``; None sees it as it is.

    Shape:
        tasks ``[T, size]``, observation ``[T, 2 size]`` (what is seen, goal); goals of relabelling ``[..., size]``.

    Raises:
        InputError: the VAE is for another size than what is seen.

    Reference:
        Nair, Pong, Dalal, Bahl, Lin, Levine 2018, Visual reinforcement learning with imagined goals,
        arXiv:1807.04742. Departs from it: the policy reads what is seen and the decoded goal, as in the lectures, in
        place of their codes, so that what is remembered does not age with the VAE.
    """

    environment: GoalEnvironment

    def __init__(
        self,
        environment: GoalEnvironment,
        vae: VAE,
        *,
        nowhere: Tensor,
        look: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.environment, self.nowhere, self.look = environment, nowhere, look
        self.codes = [vae]  # in a list, so that it is not saved twice: it belongs to the model of goals
        _, observation = environment.reset(nowhere.unsqueeze(0), torch.Generator(nowhere.device).manual_seed(0))
        found = self.seen(observation).shape[-1]
        if found != vae.size:
            raise InputError(f"Expected a VAE for the {found} numbers that are seen. Found one for {vae.size}.")
        self.size = found

    @property
    def problem(self) -> Problem:
        """What is seen, and what is to be seen; what is done is as it was."""
        inner = self.environment.problem
        return Problem((2 * self.size,), inner.kind, inner.n_outputs)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Imagined goals: decoded codes from the prior."""
        with torch.no_grad():
            return self.codes[0].draw(n, generator, generator.device)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The environment's start, and the goal."""
        state, observation = self.environment.reset(self._nowhere(tasks), generator)
        return state, torch.cat([self.seen(observation), tasks], 1)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A step of the environment's, and how near it came."""
        state, observation, _, _, truncated = self.environment.step(state, action, self._nowhere(tasks), generator)
        seen = self.seen(observation)
        reward, terminated = self.outcome(seen, tasks)
        return state, torch.cat([seen, tasks], 1), reward, terminated, truncated

    def seen(self, observation: Tensor) -> Tensor:
        """What is seen at an observation of the environment's. Shape: ``[..., size]``."""
        achieved = self.environment.goals(observation)[0]
        return achieved if self.look is None else self.look(achieved)

    def goals(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen, and what is to be seen."""
        return observation[..., : self.size], observation[..., self.size :]

    def relabel(self, observation: Tensor, goal: Tensor) -> Tensor:
        """The same place, with another goal."""
        return torch.cat([observation[..., : self.size], goal], -1)

    @torch.no_grad()
    def outcome(self, achieved: Tensor, desired: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the distance of the codes, and no end."""
        reward = -(self.codes[0].encode(achieved)[0] - self.codes[0].encode(desired)[0]).norm(dim=-1)
        return reward, torch.zeros_like(reward, dtype=torch.bool)

    def _nowhere(self, tasks: Tensor) -> Tensor:
        return self.nowhere.expand(len(tasks), *self.nowhere.shape)
