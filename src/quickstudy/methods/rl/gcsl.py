"""GCSL: whatever was done is imitated, for the goal that it happened to reach."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from quickstudy.core import Explorer, Kind, Prediction, Predictor, Problem, Trajectory
from quickstudy.methods.rl._policies import Actor, Memoryless, check_actions, drawn_from, log_prob_of


class GCSL(Explorer):
    r"""Goal-conditioned supervised learning (Ghosh et al. 2021, algorithm 1): no reward, no value, no teacher.

    Every stretch of a trajectory is an example of how to get where it ends. So steps are drawn from a memory, each is
    given a goal that was reached later, :math:`g = s_{t+h}`, and what was done becomes more likely:

    .. math::
        L = -\log \pi_\theta(a_t \mid s_t, g = s_{t+h})

    Trained by :func:`quickstudy.training.fit_off_policy` it collects with the present policy for goals of the
    environment's, as the paper does; by :func:`quickstudy.training.fit_offline` it learns from data that others
    collected: at random, or in play. Both need ``relabel``: ``Hindsight(environment, share=1.0)``, or ``Windows`` for
    play (Lynch et al. 2019). Without it the policy only learns to do what it does.

    What is learned is :math:`p(a \mid s, g \text{ later})` of the data, which is not the fastest way: where the data
    wander, so may the policy. For data at random take few discrete actions (:class:`Discretised`) and do the likeliest.

    Args:
        problem: what is seen, the goal with it, and what is done.
        width: of the two hidden layers.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]`` or ``[T, time, a]``; the predictor gives logits
        ``[T, m, actions]``, or a distribution over ``[T, m, a]``.

    Reference:
        Ghosh et al. 2021, Learning to reach goals via iterated supervised learning, arXiv:1912.06088. The policy does
        not read how many steps are left, which is the default of the paper's code.
    """

    name: ClassVar[str] = "gcsl"
    summary: ClassVar[str] = "imitates what was done, for the goal that it reached"
    reference: ClassVar[str] = "Ghosh et al. 2021, arXiv:1912.06088"
    acts: ClassVar[tuple[Kind, ...]] = ("classification", "regression")

    def __init__(self, problem: Problem, *, width: int = 128, generator: torch.Generator | None = None) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.actor = Actor(problem, width, generator)

    def explorer(self) -> Memoryless:
        """Draws from what was learned."""
        return drawn_from(self.actor.distribution)

    def predict(self, observation: Tensor) -> Prediction:
        """The policy. Shape: ``[T, m, *o]`` to logits ``[T, m, actions]``, or a distribution over ``[T, m, a]``."""
        return self.actor.predict(observation)

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """The policy, whatever was read: the goal shows in the observation."""
        return self.predict

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """Minus the log-likelihood of what was done, for the goals that the steps carry. Shape: ``[T]``."""
        return -log_prob_of(self.actor, trajectory)[0].mean(1)

    def follow(self) -> None:
        """There are no target nets: nothing moves."""
