"""PPO: several steps on the same trials, none of which moves a probability far."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from quickstudy.core import Explorer, Kind, Prediction, Predictor, Problem, Trajectory
from quickstudy.methods.rl._policies import (
    Actor,
    Memoryless,
    Sharing,
    check_actions,
    drawn_from,
    log_prob_of,
    net_for,
)
from quickstudy.methods.rl._returns import Value, judge, value_error


class PPO(Explorer):
    r"""The clipped policy gradient (Schulman et al. 2017, equations 7, 9 and 11).

    .. math::
        L_t = \frac{1}{S} \sum_s -\min(\rho_s A_s, clip(\rho_s, 1 \pm \epsilon) A_s)
              + c_1 (1 - \gamma)^2 (V(o_s) - V^{targ}_s)^2 - c_2 H(\pi(\cdot \mid o_s))

    with :math:`\rho_s = \pi(a_s \mid o_s) / \pi_{old}(a_s \mid o_s)`, advantages by GAE and
    :math:`V^{targ} = A + V`. As long as no ratio has left the range, this is the policy gradient; a probability
    that has moved by more than :math:`\epsilon` in the direction of its advantage moves no further.

    Args:
        problem: what is seen and done.
        width: of the two hidden layers of policy and value.
        discount: gamma.
        gae: lambda.
        clip: epsilon.
        value_weight: c_1.
        entropy_weight: c_2.
        heads: last layers of policy and value, one a task, where observations end with the task's identity (see
            :class:`quickstudy.tasks.identity.SeesIdentity`); 0 for one that all tasks share.
        share: what tasks with heads have in common: the hidden layers ("trunk"); all but a learned vector, which the
            nets see in place of the identity ("embedding"); or "nothing", which makes them independent
            policies, trained side by side.
        embedding: numbers of that vector.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]`` or ``[T, time, a]``.

    Raises:
        InputError: a trajectory does not tell where its steps led.

    Reference:
        Schulman et al. 2017, Proximal policy optimization algorithms, arXiv:1707.06347. Departs from it: every pass
        takes all trials at once, in place of minibatches, and values its steps anew; separate nets for policy and
        value, which is learned in units of 1 / (1 - gamma); advantages are not standardised, so that no task's scale
        hangs on another's.
    """

    name: ClassVar[str] = "ppo"
    summary: ClassVar[str] = "policy gradient whose steps are clipped, several on the same trials"
    reference: ClassVar[str] = "Schulman et al. 2017, arXiv:1707.06347"
    acts: ClassVar[tuple[Kind, ...]] = ("classification", "regression")
    lr: ClassVar[float] = 3e-3
    passes: ClassVar[int] = 10

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 64,
        discount: float = 0.99,
        gae: float = 0.95,
        clip: float = 0.2,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
        heads: int = 0,
        share: Sharing = "trunk",
        embedding: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.discount, self.gae, self.clip = discount, gae, clip
        self.value_weight, self.entropy_weight = value_weight, entropy_weight
        self.actor = Actor(problem, width, generator, heads=heads, share=share, embedding=embedding)
        self.value = Value(net_for(problem, width, 1, generator, heads, share, embedding=embedding), discount)

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
        """The clipped policy gradient's and the value's loss of each task's trial. Shape: ``[T]``."""
        value, advantage = judge(self.value, trajectory, len(self.problem.x_shape), self.discount, self.gae)
        log_prob, entropy = log_prob_of(self.actor, trajectory)
        ratio = (log_prob - trajectory.log_prob).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        error = value_error(value, advantage + value.detach(), self.discount)
        return (-gain + self.value_weight * error - self.entropy_weight * entropy).mean(1)
