"""Actor-critic: the policy gradient with advantages from a learned value."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from quickstudy.core import Explorer, Kind, Prediction, Predictor, Problem, Trajectory
from quickstudy.methods.rl._policies import Actor, Memoryless, check_actions, drawn_from, log_prob_of, net
from quickstudy.methods.rl._returns import Value, judge, value_error


class ActorCritic(Explorer):
    r"""The policy gradient with the generalised advantage estimate (Schulman et al. 2016, equations 11 and 16).

    .. math::
        L_t = \frac{1}{S} \sum_s -\log \pi(a_s \mid o_s) A_s + c_v (1 - \gamma)^2 (V(o_s) - (A_s + V(o_s))_{const})^2
              - c_e H(\pi(\cdot \mid o_s))

        A_s = \sum_{l \ge 0} (\gamma \lambda)^l \delta_{s+l}, \qquad
        \delta_s = r_s + \gamma (1 - terminated_s) V(o'_s) - V(o_s)

    Where an episode was cut off, the value of where it stood counts for what would have followed.

    The trajectories must come from the present policy: one step of the optimiser a trial (``fit_rl(passes=1)``).

    Args:
        problem: what is seen and done.
        width: of the two hidden layers of policy and value.
        discount: gamma.
        gae: lambda.
        value_weight: c_v.
        entropy_weight: c_e.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]`` or ``[T, time, a]``.

    Raises:
        InputError: a trajectory does not tell where its steps led.

    Reference:
        Schulman et al. 2016, High-dimensional continuous control using generalized advantage estimation,
        arXiv:1506.02438; Mnih et al. 2016, Asynchronous methods for deep reinforcement learning, arXiv:1602.01783.
        Departs from the first: a plain gradient step in place of a trust region; advantages are not standardised, so
        that no task's scale hangs on another's.
    """

    name: ClassVar[str] = "actor-critic"
    summary: ClassVar[str] = "policy gradient with advantages from a learned value (GAE)"
    reference: ClassVar[str] = "Schulman et al. 2016, arXiv:1506.02438"
    acts: ClassVar[tuple[Kind, ...]] = ("classification", "regression")

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 64,
        discount: float = 0.99,
        gae: float = 0.95,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.discount, self.gae = discount, gae
        self.value_weight, self.entropy_weight = value_weight, entropy_weight
        self.actor = Actor(problem, width, generator)
        self.value = Value(net(problem, width, 1, generator), discount)

    def explorer(self) -> Memoryless:
        """Draws from the policy."""
        return drawn_from(self.actor.distribution)

    def predict(self, observation: Tensor) -> Prediction:
        """The policy. Shape: ``[T, m, *o]`` to logits ``[T, m, actions]``, or a distribution over ``[T, m, a]``."""
        return self.actor.predict(observation)

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """The policy, whatever was read: a task shows in the observation or not at all."""
        return self.predict

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """The policy gradient's and the value's loss of each task's trial. Shape: ``[T]``."""
        log_prob, entropy = log_prob_of(self.actor, trajectory)
        value, advantage = self.judge(trajectory)
        error = value_error(value, advantage + value.detach(), self.discount)
        return (-log_prob * advantage + self.value_weight * error - self.entropy_weight * entropy).mean(1)

    def judge(self, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        """The value before each step, and the step's advantage, which carries no gradient. Shape: ``[T, time]``."""
        return judge(self.value, trajectory, len(self.problem.x_shape), self.discount, self.gae)
