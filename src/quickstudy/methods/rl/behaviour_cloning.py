"""Behaviour cloning: make what the teacher did as likely as can be."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from quickstudy.core import Explorer, Kind, Prediction, Predictor, Problem, Trajectory
from quickstudy.methods.rl._policies import Actor, Memoryless, check_actions, drawn_from, log_prob_of
from quickstudy.nets import MLP


class BehaviourCloning(Explorer):
    r"""Supervised learning of a teacher's actions where the teacher went.

    .. math::
        L = -\frac{1}{S} \sum_s \log \pi_\theta(a^{teacher}_s \mid o_s)

    For continuous actions of fixed deviation this is least squares. The learner errs a little, goes where the teacher
    never was, and errs more: errors grow with the square of the horizon (Ross and Bagnell 2010).

    Args:
        problem: what is seen and done.
        width: of the two hidden layers.
        linear: no hidden layers: logits or mean action are linear in what is seen.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]`` or ``[T, time, a]``.

    Reference:
        Pomerleau 1989, ALVINN; Ross and Bagnell 2010, Efficient reductions for imitation learning.
    """

    name: ClassVar[str] = "behaviour-cloning"
    summary: ClassVar[str] = "does what the teacher did"
    reference: ClassVar[str] = "Pomerleau 1989"
    acts: ClassVar[tuple[Kind, ...]] = ("classification", "regression")

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 64,
        linear: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.actor = Actor(problem, width, generator)
        if linear:
            inputs = torch.Size(problem.x_shape).numel()
            self.actor.net = MLP((inputs, problem.n_outputs), generator)

    def teacher_share(self, round: int) -> float:
        """The teacher acts alone."""
        return 1.0

    def explorer(self) -> Memoryless:
        """Draws from what was learned."""
        return drawn_from(self.actor.distribution)

    def predict(self, observation: Tensor) -> Prediction:
        """The policy. Shape: ``[T, m, *o]`` to logits ``[T, m, actions]``, or a distribution over ``[T, m, a]``."""
        return self.actor.predict(observation)

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """The policy, whatever was read: a task shows in the observation or not at all."""
        return self.predict

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """Minus the log-likelihood of each task's actions. Shape: ``[T]``."""
        return -log_prob_of(self.actor, trajectory)[0].mean(1)
