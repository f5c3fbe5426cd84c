"""DQN: learn what each action is worth from a memory of the past, towards a slow target."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core import Explorer, Predictor, Problem, Trajectory
from quickstudy.methods.rl._critics import follow, target_of
from quickstudy.methods.rl._policies import Memoryless, Sharing, check_actions, flat, net_for
from quickstudy.tasks.acting import sent


class DQN(Explorer):
    r"""Q-learning with a net, a memory and a target net (Mnih et al. 2015), doubled (van Hasselt et al. 2016).

    .. math::
        y = r + \gamma (1 - terminated) \bar Q(o', \arg\max_{a'} Q(o', a')), \qquad L = (Q(o, a) - y)^2

    The trained net chooses the next action and the target net values it; without ``double``, the target net does
    both: :math:`y = r + \gamma (1 - terminated) \max_{a'} \bar Q(o', a')`. Steps that were merely cut off are not
    terminated, so that what would have followed counts.

    Args:
        problem: what is seen and done; discrete actions.
        width: of the two hidden layers.
        discount: gamma.
        explore: how often the explorer takes any action.
        double: whether the trained net chooses the action that the target net values.
        rate: how fast the target follows, a share a step.
        bounds: what values are known to lie between; targets are clipped to it. None where nothing is known.
        heads: last layers, one a task, where observations end with the task's identity (see
            :class:`quickstudy.tasks.identity.SeesIdentity`); 0 for one that all tasks share.
        share: what tasks with heads have in common: the hidden layers ("trunk"); all but a learned vector, which the
            nets see in place of the identity ("embedding"); or "nothing", which makes them independent.
        embedding: numbers of that vector.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]``; the predictor gives values ``[T, m, actions]``.

    Raises:
        InputError: continuous actions; a trajectory that does not tell where its steps led.

    Reference:
        Mnih et al. 2015, Human-level control through deep reinforcement learning, Nature 518; van Hasselt, Guez,
        Silver 2016, Deep reinforcement learning with double Q-learning, arXiv:1509.06461. Departs from them: the
        target follows at each step (Lillicrap et al. 2016) in place of a copy now and then.
    """

    name: ClassVar[str] = "dqn"
    summary: ClassVar[str] = "Q-learning with a net, from a memory of the past"
    reference: ClassVar[str] = "Mnih et al. 2015; van Hasselt et al. 2016, arXiv:1509.06461"
    off_policy: ClassVar[bool] = True  # the Bellman equation holds for whatever was done

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 128,
        discount: float = 0.99,
        explore: float = 0.1,
        double: bool = True,
        rate: float = 0.01,
        bounds: tuple[float, float] | None = None,
        heads: int = 0,
        share: Sharing = "trunk",
        embedding: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.discount, self.explore, self.doubled, self.rate, self.bounds = discount, explore, double, rate, bounds
        self.q = net_for(problem, width, problem.n_outputs, generator, heads, share, embedding=embedding)
        self.target = target_of(self.q)

    def explorer(self) -> Memoryless:
        """The best action, now and then any other."""

        def choose(observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            best = self.predict(observation).argmax(-1)
            chance = torch.rand(len(best), generator=generator, device=generator.device)
            other = torch.randint(self.problem.n_outputs, best.shape, generator=generator, device=generator.device)
            chance, other = sent(chance, best), sent(other, best)
            action = other.where(chance < self.explore, best)
            return action, torch.full_like(chance, torch.nan)

        return Memoryless(choose)

    def predict(self, observation: Tensor) -> Tensor:
        """Each action's value. Shape: ``[..., *o]`` to ``[..., actions]``."""
        return self.q(flat(observation, len(self.problem.x_shape)))

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """The values, whatever was read: a task shows in the observation or not at all."""
        return self.predict

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """The squared error of the values, task by task. Shape: ``[T]``."""
        value = self.predict(trajectory.observation).gather(-1, trajectory.action.unsqueeze(-1)).squeeze(-1)
        return F.mse_loss(value, self.goal(trajectory), reduction="none").mean(1)

    @torch.no_grad()
    def goal(self, trajectory: Trajectory) -> Tensor:
        """What the values should be: y. Shape: ``[T, time]``."""
        terminated, after = trajectory.ends()
        slow = self.target(flat(after, len(self.problem.x_shape)))
        choice = (self.predict(after) if self.doubled else slow).argmax(-1, keepdim=True)
        y = trajectory.reward + self.discount * (1 - terminated) * slow.gather(-1, choice).squeeze(-1)
        return y if self.bounds is None else y.clamp(*self.bounds)

    def follow(self) -> None:
        """The target moves a little."""
        follow(self.target, self.q, self.rate)
