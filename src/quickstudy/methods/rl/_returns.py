"""What a step was worth: returns and advantages along trajectories, task by task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quickstudy.core import Trajectory
from quickstudy.methods.rl._policies import flat


def discounted(x: Tensor, goes_on: Tensor, factor: float) -> Tensor:
    r"""Sums from each step to the end of its episode.

    .. math::
        y_s = x_s + factor \cdot goes\_on_s \cdot y_{s+1}

    Args:
        x: what is summed.
        goes_on: 1 where the next step belongs to the same episode, else 0.
        factor: discount a step.

    Shape:
        all ``[T, time]``.
    """
    sums, running = [], torch.zeros_like(x[:, 0])
    for one, on in zip(x.flip(1).unbind(1), goes_on.flip(1).unbind(1), strict=True):
        running = one + factor * on * running
        sums.append(running)
    return torch.stack(sums[::-1], 1)


def returns_to_go(reward: Tensor, done: Tensor, discount: float) -> Tensor:
    r"""The discounted reward that was earned from each step on: :math:`\sum_{l \ge 0} \gamma^l r_{s+l}`.

    What would have come after an episode was cut off, or after the trajectory, is not in it. Shape: all ``[T, time]``.
    """
    return discounted(reward, 1 - done, discount)


def advantages(
    reward: Tensor, value: Tensor, after: Tensor, done: Tensor, terminated: Tensor, discount: float, decay: float
) -> Tensor:
    r"""The generalised advantage estimate, Schulman et al. 2016, equations 11, 12 and 16.

    .. math::
        \delta_s = r_s + \gamma (1 - terminated_s) V(s'_s) - V(s_s)

        A_s = \sum_{l \ge 0} (\gamma \lambda)^l \delta_{s+l}

    The sum stops with the episode. The value of the state that a step led to stands for what would have followed
    where the episode was cut off, and at the end of the trajectory; where it terminated, nothing would have.

    Args:
        reward: of each step.
        value: V of the states before the steps.
        after: V of the states that the steps led to.
        done: 1 where an episode ended.
        terminated: 1 where nothing would have followed.
        discount: gamma.
        decay: lambda; 0 trusts the values, 1 the rewards.

    Shape:
        all ``[T, time]``.
    """
    surprise = reward + discount * (1 - terminated) * after - value
    return discounted(surprise, 1 - done, discount * decay)


def reach(discount: float) -> float:
    r"""How many steps count, :math:`1 / (1 - \gamma)`; 1 where all do, as nobody then knows how many there are."""
    return 1 / (1 - discount) if discount < 1 else 1.0


class Value(nn.Module):
    r"""A value net that says what a step earns, which is of the rewards' own size: :math:`V(o) = v(o) / (1 - \gamma)`.

    A net starts near zero and moves by its step size, but values grow with the steps that count: at
    :math:`\gamma = .99` a reward of 1 a step is worth 100. While a value lags that far behind, every step looks better
    than expected, whatever was done, and the policy settles on what it happens to do.

    Args:
        net: v, ``[..., o]`` to ``[..., 1]``.
        discount: gamma.
    """

    def __init__(self, net: nn.Module, discount: float) -> None:
        super().__init__()
        self.net, self.discount = net, discount

    def forward(self, seen: Tensor) -> Tensor:
        """Shape: ``[..., o]`` to ``[..., 1]``."""
        worth: Tensor = reach(self.discount) * self.net(seen)
        return worth


def value_error(value: Tensor, target: Tensor, discount: float) -> Tensor:
    r"""The squared error of :math:`v = (1 - \gamma) V`. Shape: all alike."""
    return ((value - target) / reach(discount)).square()


def judge(value: nn.Module, trajectory: Trajectory, axes: int, discount: float, decay: float) -> tuple[Tensor, Tensor]:
    """What a value net says before each step, and the step's advantage by it, which carries no gradient.

    ``axes`` is how many one observation has. Shape: both ``[T, time]``.
    """
    terminated, after = trajectory.ends()
    before: Tensor = value(flat(trajectory.observation, axes)).squeeze(-1)
    with torch.no_grad():
        following = value(flat(after, axes)).squeeze(-1)
        advantage = advantages(
            trajectory.reward, before.detach(), following, trajectory.done, terminated, discount, decay
        )
    return before, advantage
