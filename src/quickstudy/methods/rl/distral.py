"""Distral: a policy for each task, drawn to one that all share, which is distilled from them meanwhile."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from quickstudy.core import Explorer, InputError, Kind, Predictor, Problem, Trajectory
from quickstudy.methods.rl._policies import Memoryless, check_actions, check_identity, drawn_from, flat, net, net_for
from quickstudy.methods.rl._returns import Value, judge, value_error


class Distral(Explorer):
    r"""Distil and transfer (Teh et al. 2017): tasks share what they do, not their parameters.

    The objective (their equation 1) pays each task's policy for staying close to a shared one and for keeping its
    choices open:

    .. math::
        J(\pi_0, \{\pi_i\}) = \sum_i E_{\pi_i} \Big[ \sum_t \gamma^t \Big( R_i(a_t, s_t)
            - c_{KL} \ln \frac{\pi_i(a_t \mid s_t)}{\pi_0(a_t \mid s_t)} - c_{Ent} \ln \pi_i(a_t \mid s_t) \Big) \Big]

    With :math:`\alpha = c_{KL} / (c_{KL} + c_{Ent})` and :math:`\beta = 1 / (c_{KL} + c_{Ent})`, the best policies
    are :math:`\pi_i \propto \pi_0^\alpha e^{\beta A_i}`, and the shared one is their mean. Policies have that form
    (two columns): one net :math:`h` for all tasks, which does not see which task it is, and one :math:`f_i` for each,

    .. math::
        \pi_0 = softmax(h), \qquad \pi_i = softmax(\alpha h + \beta f_i),

    so that what one task finds moves what all others try. What is minimised, task by task, is PPO's clipped loss of
    the rewards less the cost of their states, and that cost itself:

    .. math::
        D_s = \frac{1}{\beta} \sum_a \pi_i(a \mid s) \big( \ln \pi_i(a \mid s) - \alpha \ln \pi_0(a \mid s) \big)

        L_t = \frac{1}{S} \sum_s -\min(\rho_s A_s, clip(\rho_s, 1 \pm \epsilon) A_s) + D_s
              + c_1 (1 - \gamma)^2 (V(o_s) - V^{targ}_s)^2

    with advantages :math:`A_s` by GAE of the rewards :math:`R_s - D_s`. The gradient of :math:`D_s` with respect to
    :math:`\pi_0` is the one that distils: it draws :math:`\pi_0` to the tasks' policies.

    Args:
        problem: what is seen and done; discrete actions.
        width: of the two hidden layers of each net.
        discount: gamma.
        gae: lambda.
        clip: epsilon.
        value_weight: c_1.
        alpha: how much of what holds a policy back is the shared policy; 0 makes tasks independent learners whose
            entropy is rewarded, 1 rewards no entropy.
        beta: how much rewards count against what holds a policy back; in units of 1 / reward.
        heads: how many tasks, whose identity observations end with (see
            :class:`quickstudy.tasks.identity.SeesIdentity`); 0 for a single task.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]``.

    Raises:
        InputError: continuous actions; no such alpha or beta; observations cannot end with the identity; a trajectory
            does not tell where its steps led.

    Reference:
        Teh et al. 2017, Distral: robust multitask reinforcement learning, arXiv:1707.04175. Departs from it: PPO's
        clipped steps for A3C's; the divergence of a step's own state is exact, a sum over actions, where a draw would
        do; nets give beta f_i, so that their step size does not hang on beta; only two columns.
    """

    name: ClassVar[str] = "distral"
    summary: ClassVar[str] = "a policy for each task, drawn to a shared one that is distilled from them"
    reference: ClassVar[str] = "Teh et al. 2017, arXiv:1707.04175"
    acts: ClassVar[tuple[Kind, ...]] = ("classification",)
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
        alpha: float = 0.5,
        beta: float = 100.0,
        heads: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        if not (0 <= alpha <= 1 and 0 < beta < math.inf):
            raise InputError(f"Expected alpha from 0 to 1 and a finite beta above 0. Found {alpha} and {beta}.")
        if heads:
            check_identity(problem, heads)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.discount, self.gae, self.clip, self.value_weight = discount, gae, clip, value_weight
        self.alpha, self.beta, self.heads = alpha, beta, heads
        blind = replace(problem, x_shape=(math.prod(problem.x_shape) - heads,))
        self.shared: nn.Module = net(blind, width, problem.n_outputs, generator)
        self.own = net_for(problem, width, problem.n_outputs, generator, heads, "nothing")
        self.value: nn.Module = Value(net_for(problem, width, 1, generator, heads, "nothing"), discount)

    def distilled(self, observation: Tensor) -> Tensor:
        """The shared policy's log-probabilities. Shape: ``[..., *o]``, identity behind, to ``[..., actions]``."""
        seen = flat(observation, len(self.problem.x_shape))
        return F.log_softmax(self.shared(seen[..., : seen.shape[-1] - self.heads]), -1)

    def policy(self, observation: Tensor) -> Tensor:
        """The task's own policy's log-probabilities. Shape: ``[..., *o]``, identity behind, to ``[..., actions]``."""
        seen = flat(observation, len(self.problem.x_shape))
        return F.log_softmax(self.alpha * self.distilled(observation) + self.own(seen), -1)

    def explorer(self) -> Memoryless:
        """Draws from the tasks' own policies."""

        def distribution(observation: Tensor) -> Distribution:
            return Categorical(logits=self.policy(observation), validate_args=False)

        return drawn_from(distribution)

    def predict(self, observation: Tensor) -> Tensor:
        """The tasks' own policies. Shape: ``[T, m, *o]`` to logits ``[T, m, actions]``."""
        return self.policy(observation)

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """The policy, whatever was read: a task shows in the observation or not at all."""
        return self.predict

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """The clipped policy gradient's, the divergence's and the value's loss of each task's trial. Shape: ``[T]``."""
        log_pi, log_shared = self.policy(trajectory.observation), self.distilled(trajectory.observation)
        cost = (log_pi.exp() * (log_pi - self.alpha * log_shared)).sum(-1) / self.beta
        paid = replace(trajectory, reward=trajectory.reward - cost.detach())
        value, advantage = judge(self.value, paid, len(self.problem.x_shape), self.discount, self.gae)
        ratio = (log_pi.gather(-1, trajectory.action.unsqueeze(-1)).squeeze(-1) - trajectory.log_prob).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        error = value_error(value, advantage + value.detach(), self.discount)
        return (-gain + cost + self.value_weight * error).mean(1)
