"""Soft Q-learning: the best is replaced by a soft best, so that near-equal ways are all kept."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical

from quickstudy.core import Explorer, Predictor, Problem, Trajectory
from quickstudy.methods.rl._critics import follow, target_of
from quickstudy.methods.rl._policies import Memoryless, Sharing, check_actions, drawn_from, flat, net_for


class SoftQ(Explorer):
    r"""Soft Q-learning for discrete actions (Haarnoja et al. 2017, theorem 1 and section 3.1).

    .. math::
        Q(o, a) \leftarrow r + \gamma (1 - terminated) V(o'), \qquad
        V(o) = \alpha \log \sum_a \exp(Q(o, a) / \alpha), \qquad
        \pi(a \mid o) = \exp((Q(o, a) - V(o)) / \alpha)

    The fixed point maximises reward plus :math:`\alpha` times the policy's entropy. It commits to an action where
    that is better by much more than :math:`\alpha`, and tries all those that look alike.

    Args:
        problem: what is seen and done; discrete actions.
        width: of the two hidden layers.
        discount: gamma.
        temperature: alpha; towards 0 this is Q-learning.
        rate: how fast the target follows, a share a step.
        heads: last layers, one a task, where observations end with the task's identity (see
            :class:`quickstudy.tasks.identity.SeesIdentity`); 0 for one that all tasks share.
        share: what tasks with heads have in common: the hidden layers ("trunk"); all but a learned vector, which the
            nets see in place of the identity ("embedding"); or "nothing", which makes them independent.
        embedding: numbers of that vector.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]``; the predictor gives logits :math:`Q / \alpha`,
        ``[T, m, actions]``.

    Raises:
        InputError: continuous actions; a trajectory that does not tell where its steps led.

    Reference:
        Haarnoja, Tang, Abbeel, Levine 2017, Reinforcement learning with deep energy-based policies,
        arXiv:1702.08165. Departs from it: actions are few, so sums are exact, where the paper draws from a sampler
        that it trains besides.
    """

    name: ClassVar[str] = "soft-q"
    summary: ClassVar[str] = "Q-learning with a soft best: reward and entropy"
    reference: ClassVar[str] = "Haarnoja et al. 2017, arXiv:1702.08165"
    off_policy: ClassVar[bool] = True  # the soft Bellman equation holds for whatever was done

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 128,
        discount: float = 0.99,
        temperature: float = 0.1,
        rate: float = 0.01,
        heads: int = 0,
        share: Sharing = "trunk",
        embedding: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.discount, self.temperature, self.rate = discount, temperature, rate
        self.q = net_for(problem, width, problem.n_outputs, generator, heads, share, embedding=embedding)
        self.target = target_of(self.q)

    def explorer(self) -> Memoryless:
        """Draws from the soft policy."""
        return drawn_from(lambda observation: Categorical(logits=self.predict(observation)))

    def predict(self, observation: Tensor) -> Tensor:
        """The soft policy's logits. Shape: ``[..., *o]`` to ``[..., actions]``."""
        return self.q(flat(observation, len(self.problem.x_shape))) / self.temperature

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """The soft policy, whatever was read: a task shows in the observation or not at all."""
        return self.predict

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """The squared error of the values, task by task. Shape: ``[T]``."""
        values = self.q(flat(trajectory.observation, len(self.problem.x_shape)))
        value = values.gather(-1, trajectory.action.unsqueeze(-1)).squeeze(-1)
        return (value - self.goal(trajectory)).square().mean(1)

    @torch.no_grad()
    def goal(self, trajectory: Trajectory) -> Tensor:
        """What the values should be. Shape: ``[T, time]``."""
        terminated, after = trajectory.ends()
        slow = self.target(flat(after, len(self.problem.x_shape)))
        soft = self.temperature * (slow / self.temperature).logsumexp(-1)
        return trajectory.reward + self.discount * (1 - terminated) * soft

    def follow(self) -> None:
        """The target moves a little."""
        follow(self.target, self.q, self.rate)
