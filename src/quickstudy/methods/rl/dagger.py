"""DAgger: ask the teacher what to do where the learner went."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from quickstudy.core import Explorer, Kind, Prediction, Predictor, Problem, Trajectory
from quickstudy.methods.rl._policies import Actor, Memoryless, check_actions, drawn_from, log_prob_of


class DAgger(Explorer):
    r"""Dataset aggregation (Ross, Gordon, Bagnell 2011, algorithm 3.1).

    .. math::
        \pi_i = \beta_i \pi^{teacher} + (1 - \beta_i) \hat\pi_i, \qquad
        D \leftarrow D \cup \{(o, a^{teacher}(o))\}_{o \sim \pi_i}, \qquad
        \hat\pi_{i+1} = \arg\min_\pi -\sum_D \log \pi(a^{teacher} \mid o)

    The learner acts, the teacher labels where it came, and all rounds' data are learned from together: so errors
    grow linearly with the horizon. The rounds are those of ``fit_imitation``.

    Args:
        problem: what is seen and done.
        width: of the two hidden layers.
        decay: :math:`\beta_i = decay^i`; 0 lets the teacher act in the first round only.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]`` or ``[T, time, a]``.

    Reference:
        Ross, Gordon, Bagnell 2011, A reduction of imitation learning and structured prediction to no-regret online
        learning, arXiv:1011.0686. Departs from it: each round goes on from the weights of the last.
    """

    name: ClassVar[str] = "dagger"
    summary: ClassVar[str] = "does what the teacher would have done where the learner went"
    reference: ClassVar[str] = "Ross et al. 2011, arXiv:1011.0686"
    acts: ClassVar[tuple[Kind, ...]] = ("classification", "regression")

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 64,
        decay: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.decay = decay
        self.actor = Actor(problem, width, generator)

    def teacher_share(self, round: int) -> float:
        """Beta: all of the first round, less and less of the others."""
        return self.decay**round

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
