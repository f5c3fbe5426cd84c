"""REINFORCE: do more of what was followed by much reward."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from quickstudy.core import Explorer, Kind, Prediction, Predictor, Problem, Trajectory
from quickstudy.methods.rl._policies import Actor, Memoryless, check_actions, drawn_from, flat, log_prob_of, net
from quickstudy.methods.rl._returns import Value, returns_to_go, value_error


class Reinforce(Explorer):
    r"""The likelihood-ratio policy gradient, with a learned baseline.

    .. math::
        \nabla J(\theta) = E \sum_s \nabla_\theta \log \pi_\theta(a_s \mid o_s) (G_s - b(o_s)),
        \qquad G_s = \sum_{l \ge 0} \gamma^l r_{s+l}

    What is minimised has this gradient, negated and divided by the number of steps S of a trial, and besides it
    :math:`c_v (1 - \gamma)^2 (b(o_s) - G_s)^2 - c_e H(\pi(\cdot \mid o_s))`. The baseline leaves the expected gradient
    as it is and takes away much of its variance. Rewards after an episode was cut off, or after the trial, are not
    credited: there is no value to stand for them.

    The trajectories must come from the present policy: one step of the optimiser a trial (``fit_rl(passes=1)``).

    Args:
        problem: what is seen and done.
        width: of the two hidden layers of policy and baseline.
        discount: gamma.
        baseline: whether there is one.
        value_weight: c_v.
        entropy_weight: c_e.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]`` or ``[T, time, a]``.

    Reference:
        Williams 1992, Simple statistical gradient-following algorithms for connectionist reinforcement learning.
        Departs from it: reward to go in place of the whole reward, whose earlier part only adds variance.
    """

    name: ClassVar[str] = "reinforce"
    summary: ClassVar[str] = "policy gradient from whole returns"
    reference: ClassVar[str] = "Williams 1992"
    acts: ClassVar[tuple[Kind, ...]] = ("classification", "regression")

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 64,
        discount: float = 0.99,
        baseline: bool = True,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.discount, self.value_weight, self.entropy_weight = discount, value_weight, entropy_weight
        self.actor = Actor(problem, width, generator)
        self.value = Value(net(problem, width, 1, generator), discount) if baseline else None

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
        """The policy gradient's loss of each task's trial. Shape: ``[T]``."""
        log_prob, entropy = log_prob_of(self.actor, trajectory)
        gain = returns_to_go(trajectory.reward, trajectory.done, self.discount)
        if self.value is None:
            return (-log_prob * gain - self.entropy_weight * entropy).mean(1)
        seen = flat(trajectory.observation, len(self.problem.x_shape))
        baseline = self.value(seen).squeeze(-1)
        error = value_error(baseline, gain, self.discount)
        policy = -log_prob * (gain - baseline.detach()) - self.entropy_weight * entropy
        return (policy + self.value_weight * error).mean(1)
