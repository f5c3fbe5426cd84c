"""TRPO: the step of the natural policy gradient that a bound on the change of the policy allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from quickstudy.core import Explorer, Kind, Prediction, Predictor, Problem, Trajectory
from quickstudy.methods._solve import conjugate_gradients
from quickstudy.methods.rl._policies import Actor, Memoryless, check_actions, drawn_from, log_prob_of, net
from quickstudy.methods.rl._returns import Value, judge, value_error


@dataclass(frozen=True)
class TrustStep:
    """What a step of :class:`TRPO` did.

    Args:
        kl: mean divergence of the old policy from the new one; at most the bound.
        gain: by how much the surrogate rose; 0 where no step was taken.
        halvings: how often the step was halved.
    """

    kl: float
    gain: float
    halvings: int


class TRPO(Explorer):
    r"""Trust region policy optimisation (Schulman et al. 2015, equation 14 and appendix C).

    .. math::
        \max_\theta \; E[\rho(\theta) A] \quad \text{so that} \quad
        E[D_{KL}(\pi_{old}(\cdot \mid o) \| \pi_\theta(\cdot \mid o))] \le \delta

    The direction :math:`x = F^{-1} g` (g the policy gradient, F the Fisher matrix of the mean divergence) comes from
    conjugate gradients, its length from :math:`\sqrt{2 \delta / x^T F x}`; it is halved until the bound holds and
    the surrogate has risen. The policy moves in :meth:`improve` only; ``losses`` are the value's.

    Args:
        problem: what is seen and done.
        width: of the two hidden layers of policy and value.
        discount: gamma.
        gae: lambda.
        bound: delta.
        iterations: of conjugate gradients.
        damping: added to the Fisher matrix's diagonal.
        halvings: of the step at most.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]`` or ``[T, time, a]``.

    Raises:
        InputError: a trajectory does not tell where its steps led.

    Reference:
        Schulman et al. 2015, Trust region policy optimization, arXiv:1502.05477. Departs from it: advantages by GAE
        in place of Q by whole returns.
    """

    name: ClassVar[str] = "trpo"
    summary: ClassVar[str] = "natural policy gradient within a bound on the policy's change"
    reference: ClassVar[str] = "Schulman et al. 2015, arXiv:1502.05477"
    acts: ClassVar[tuple[Kind, ...]] = ("classification", "regression")
    lr: ClassVar[float] = 1e-2
    passes: ClassVar[int] = 10

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 64,
        discount: float = 0.99,
        gae: float = 0.95,
        bound: float = 0.01,
        iterations: int = 10,
        damping: float = 0.1,
        halvings: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.discount, self.gae, self.bound = discount, gae, bound
        self.iterations, self.damping, self.halvings = iterations, damping, halvings
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
        """The value's squared error in each task's trial. Shape: ``[T]``."""
        value, advantage = self._judge(trajectory)
        return value_error(value, advantage + value.detach(), self.discount).mean(1)

    def improve(self, trajectory: Trajectory) -> TrustStep:
        """Move the policy by one step within the bound."""
        _, advantage = self._judge(trajectory)
        with torch.no_grad():
            old = self.actor.distribution(trajectory.observation)
        parameters = list(self.actor.parameters())

        def surrogate() -> Tensor:
            log_prob, _ = log_prob_of(self.actor, trajectory)
            return ((log_prob - trajectory.log_prob).exp() * advantage).mean()

        def divergence() -> Tensor:
            return kl_divergence(old, self.actor.distribution(trajectory.observation)).mean()

        before = surrogate()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(before, parameters)])
        if not bool(gradient.any()):
            return TrustStep(0.0, 0.0, 0)  # all advantages alike: nothing to gain
        first = torch.autograd.grad(divergence(), parameters, create_graph=True)
        slope = torch.cat([g.flatten() for g in first])

        def fisher(vector: Tensor) -> Tensor:
            product = torch.autograd.grad(slope @ vector, parameters, retain_graph=True)
            return torch.cat([p.flatten() for p in product]) + self.damping * vector

        direction = conjugate_gradients(fisher, gradient, self.iterations, 1e-20)
        curvature = float(direction @ fisher(direction))
        step = (2 * self.bound / max(curvature, 1e-30)) ** 0.5 * direction
        start = parameters_to_vector(parameters).detach().clone()
        for halved in range(self.halvings + 1):
            vector_to_parameters(start + 0.5**halved * step, parameters)
            with torch.no_grad():
                gain, kl = float(surrogate() - before), float(divergence())
            if gain > 0 and kl <= self.bound:
                return TrustStep(kl, gain, halved)
        vector_to_parameters(start, parameters)
        return TrustStep(0.0, 0.0, self.halvings)

    def _judge(self, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        """The value before each step, and the step's advantage, which carries no gradient. Shape: ``[T, time]``."""
        return judge(self.value, trajectory, len(self.problem.x_shape), self.discount, self.gae)
