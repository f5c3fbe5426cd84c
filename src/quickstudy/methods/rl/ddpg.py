"""DDPG: a deterministic policy climbs the gradient of a learned value."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from quickstudy.core import Explorer, Kind, Predictor, Problem, Trajectory
from quickstudy.methods.rl._critics import Critics, follow, target_of
from quickstudy.methods.rl._policies import Memoryless, check_actions, flat, net
from quickstudy.tasks.acting import sent


class DDPG(Explorer):
    r"""Deep deterministic policy gradient (Lillicrap et al. 2016, algorithm 1).

    .. math::
        y = r + \gamma (1 - terminated) \bar Q(o', \bar\mu(o')), \qquad L_Q = (Q(o, a) - y)^2, \qquad
        L_\mu = -Q_{const}(o, \mu(o))

    with :math:`\mu(o) = \tanh(f(o))`. Both nets have targets that follow.

    Args:
        problem: what is seen and done; continuous actions.
        width: of the two hidden layers of policy and value.
        discount: gamma.
        explore: deviation of the normal noise that the explorer adds to its actions.
        rate: how fast the targets follow, a share a step.
        bounds: what values are known to lie between; targets are clipped to it. None where nothing is known.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time, a]``; the predictor gives actions ``[T, m, a]``.

    Raises:
        InputError: discrete actions; a trajectory that does not tell where its steps led.

    Reference:
        Lillicrap et al. 2016, Continuous control with deep reinforcement learning, arXiv:1509.02971. Departs from it:
        independent normal noise in place of an Ornstein-Uhlenbeck process; the action enters at the first layer.
    """

    name: ClassVar[str] = "ddpg"
    summary: ClassVar[str] = "a deterministic policy that climbs a learned value"
    reference: ClassVar[str] = "Lillicrap et al. 2016, arXiv:1509.02971"
    off_policy: ClassVar[bool] = True  # the critic by the Bellman equation; the actor climbs it
    acts: ClassVar[tuple[Kind, ...]] = ("regression",)

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 128,
        discount: float = 0.99,
        explore: float = 0.1,
        rate: float = 0.005,
        bounds: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.discount, self.explore, self.rate, self.bounds = discount, explore, rate, bounds
        inputs = math.prod(problem.x_shape) + problem.n_outputs
        self.actor = net(problem, width, problem.n_outputs, generator)
        self.critic = Critics(1, (inputs, width, width, 1), generator)
        self.slow_actor, self.slow_critic = target_of(self.actor), target_of(self.critic)

    def explorer(self) -> Memoryless:
        """The policy's action and some noise."""

        def choose(observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            action = self.predict(observation)
            noise = sent(torch.randn(action.shape, generator=generator, device=generator.device), action)
            action = (action + self.explore * noise).clamp(-1, 1)
            return action, torch.full_like(action[:, 0], torch.nan)

        return Memoryless(choose)

    def predict(self, observation: Tensor) -> Tensor:
        """The action. Shape: ``[..., *o]`` to ``[..., a]``."""
        return self.actor(flat(observation, len(self.problem.x_shape))).tanh()

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """The policy, whatever was read: a task shows in the observation or not at all."""
        return self.predict

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """The value's error and the policy's loss, task by task. Shape: ``[T]``."""
        seen = flat(trajectory.observation, len(self.problem.x_shape))
        value = self.critic(torch.cat([seen, trajectory.action], -1).flatten(0, 1)).squeeze(-1)
        error = (value - self.goal(trajectory).flatten()).square().sum(0)
        own = torch.cat([seen, self.actor(seen).tanh()], -1).flatten(0, 1)
        worth = self.critic(own, frozen=True).squeeze(-1).mean(0)
        return (error - worth).view_as(trajectory.reward).mean(1)

    @torch.no_grad()
    def goal(self, trajectory: Trajectory) -> Tensor:
        """What the values should be: y. Shape: ``[T, time]``."""
        terminated, after = trajectory.ends()
        seen = flat(after, len(self.problem.x_shape))
        there = torch.cat([seen, self.slow_actor(seen).tanh()], -1).flatten(0, 1)
        value = self.slow_critic(there).amin(0).view_as(trajectory.reward)
        y = trajectory.reward + self.discount * (1 - terminated) * value
        return y if self.bounds is None else y.clamp(*self.bounds)

    def follow(self) -> None:
        """The targets move a little."""
        follow(self.slow_actor, self.actor, self.rate)
        follow(self.slow_critic, self.critic, self.rate)
