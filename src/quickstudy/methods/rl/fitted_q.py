"""Fitted Q-iteration: regress values on what was seen of a task, again and again."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core import Explorer, InputError, Predictor, Problem, Trajectory
from quickstudy.methods.rl._policies import Memoryless, check_actions, flat


class FittedQ(Explorer):
    r"""Fitted Q-iteration with values linear in what is seen, for each task from its own steps (Ernst et al. 2005).

    .. math::
        y_i = r_i + \gamma (1 - terminated_i) \max_{a'} w_{a'}^\top o'_i, \qquad
        w \leftarrow \arg\min_w \sum_i (w_{a_i}^\top o_i - y_i)^2 + \lambda |w|^2

    The regression is solved exactly, K times, for all tasks at once. With one-hot states and every action tried this
    is value iteration on the MDP that was seen. Nothing is learned from other tasks.

    Targets are clipped to what the rewards seen allow, :math:`\min(0, r_{min}) / (1 - \gamma)` to
    :math:`\max(0, r_{max}) / (1 - \gamma)`: linear values may run away where they reach beyond their data.

    Args:
        problem: what is seen and done; discrete actions.
        discount: gamma.
        iterations: K.
        ridge: lambda.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]``; the predictor gives values ``[T, m, actions]``.

    Raises:
        InputError: continuous actions; a discount of 1 or more; a trajectory that does not tell where its steps led.

    Reference:
        Ernst, Geurts, Wehenkel 2005, Tree-based batch mode reinforcement learning, JMLR 6. Departs from it: linear
        values in place of trees.
    """

    name: ClassVar[str] = "fitted-q"
    summary: ClassVar[str] = "Q-iteration by linear regression on each task's own steps"
    reference: ClassVar[str] = "Ernst et al. 2005"
    off_policy: ClassVar[bool] = True  # the Bellman equation holds for whatever was done
    shares: ClassVar[bool] = False
    trains: ClassVar[bool] = False

    def __init__(self, problem: Problem, *, discount: float = 0.95, iterations: int = 300, ridge: float = 1e-6) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        if not 0 <= discount < 1:
            raise InputError(f"Expected a discount from 0 to below 1. Found {discount}. Lower it.")
        self.discount, self.iterations, self.ridge = discount, iterations, ridge

    def explorer(self) -> Memoryless:
        """Any action: what is learned may come from anyone."""

        def choose(observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            shape = observation.shape[:1]
            action = torch.randint(self.problem.n_outputs, shape, generator=generator, device=generator.device)
            return action, torch.full(shape, torch.nan, device=generator.device)

        return Memoryless(choose)

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """Iterate on each task's own steps."""
        weight = self.fit(support)
        axes = len(self.problem.x_shape)
        return lambda observation: flat(observation, axes) @ weight

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """The squared Bellman error that the fit leaves. Shape: ``[T]``."""
        axes, weight = len(self.problem.x_shape), self.fit(trajectory)
        terminated, after = trajectory.ends()
        value = (flat(trajectory.observation, axes) @ weight).gather(-1, trajectory.action.unsqueeze(-1)).squeeze(-1)
        best = (flat(after, axes) @ weight).amax(-1)
        return (value - trajectory.reward - self.discount * (1 - terminated) * best).square().mean(1)

    @torch.no_grad()
    def fit(self, trajectory: Trajectory) -> Tensor:
        """The weights of each action. Shape: ``[T, o, actions]``."""
        terminated, after = trajectory.ends()
        axes = len(self.problem.x_shape)
        seen, following = flat(trajectory.observation, axes), flat(after, axes)
        did = F.one_hot(trajectory.action, self.problem.n_outputs).to(seen)
        # each action has a regression of its own: A_a = sum_i 1[a_i = a] o_i o_i' + lambda I
        gram = torch.einsum("tia,tio,tip->taop", did, seen, seen)
        gram = gram + self.ridge * torch.eye(seen.shape[-1], dtype=seen.dtype, device=seen.device)
        solve = torch.linalg.solve(gram, torch.einsum("tia,tio->taoi", did, seen))  # [T, actions, o, time]
        weight = seen.new_zeros(len(seen), seen.shape[-1], self.problem.n_outputs)
        low, high = trajectory.reward.amin(1, keepdim=True), trajectory.reward.amax(1, keepdim=True)
        low, high = low.clamp_max(0) / (1 - self.discount), high.clamp_min(0) / (1 - self.discount)
        for _ in range(self.iterations):
            y = trajectory.reward + self.discount * (1 - terminated) * (following @ weight).amax(-1)
            weight = torch.einsum("taoi,ti->toa", solve, y.clamp(low, high))
        return weight
