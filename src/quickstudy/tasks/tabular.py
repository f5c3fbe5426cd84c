"""Random tabular MDPs as a batched environment, and their exact solutions by dynamic programming."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core import InputError, Problem, RunError
from quickstudy.tasks.acting import Rule, check_action


@dataclass(frozen=True)
class TabularMDPs:
    r"""MDPs of a few states: :math:`p(\cdot \mid s, a)` is Dirichlet(1), the mean reward of (s, a) is N(1, 1).

    A reward is its mean plus noise. Every episode starts in state 0 and is cut off after ``length`` steps
    (truncated: these MDPs have no end of their own). A trial is ``episodes`` episodes of the same MDP.

    Args:
        states: S.
        actions: A.
        length: steps of an episode.
        episodes: episodes of a trial.
        noise: standard deviation of a reward around its mean.

    Shape:
        tasks ``[T, S, A, S + 1]``: ``p(s' | s, a)``, then the mean reward; state ``[T, 2]`` (where, steps so far);
        observation ``[T, S]`` (one-hot), action ``[T]``.

    Reference:
        Duan et al. 2016, RL2, section 3.2, arXiv:1611.02779; Osband and Van Roy 2017.
    """

    states: int = 10
    actions: int = 5
    length: int = 10
    episodes: int = 1
    noise: float = 1.0

    def __post_init__(self) -> None:
        if min(self.states, self.actions) < 2 or min(self.length, self.episodes) < 1 or self.noise < 0:
            raise InputError(
                "Expected at least 2 states and 2 actions, 1 step and 1 episode, and noise of 0 or more. Found "
                f"{self.states}, {self.actions}, {self.length}, {self.episodes} and {self.noise}. Raise them."
            )

    @property
    def problem(self) -> Problem:
        """The state, one logit an action."""
        return Problem((self.states,), "classification", self.actions, shared_labels=False)

    @property
    def horizon(self) -> int:
        """All episodes of a trial."""
        return self.length * self.episodes

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n MDPs."""
        device = generator.device
        weight = torch.empty(n, self.states, self.actions, self.states, device=device)
        weight.exponential_(generator=generator)  # normalised, these are Dirichlet(1)
        reward = 1 + torch.randn(n, self.states, self.actions, 1, generator=generator, device=device)
        return torch.cat([weight / weight.sum(-1, keepdim=True), reward], -1)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Every task in state 0."""
        state = torch.zeros(len(tasks), 2, dtype=torch.long, device=tasks.device)
        return state, self.see(state[:, 0], tasks)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Draw the next state and the reward."""
        check_action(self.problem, action)
        here, time = state.unbind(1)
        row = tasks[torch.arange(len(tasks), device=tasks.device), here, action]  # [T, S + 1]
        draw = torch.rand(len(tasks), 1, generator=generator, device=tasks.device)
        there = (row[:, :-1].cumsum(1) <= draw).sum(1).clamp(max=self.states - 1)  # rounding may leave a sum below 1
        reward = row[:, -1]
        if self.noise:
            reward = reward + self.noise * torch.randn(reward.shape, generator=generator, device=tasks.device)
        time = time + 1
        ended = torch.zeros_like(time, dtype=torch.bool)
        return torch.stack([there, time], 1), self.see(there, tasks), reward, ended, time >= self.length

    def see(self, where: Tensor, tasks: Tensor) -> Tensor:
        """One-hot. Shape: ``[T, S]``."""
        return tasks.new_zeros(len(tasks), self.states).scatter_(1, where.unsqueeze(1), 1)

    def model(self, tasks: Tensor) -> tuple[Tensor, Tensor]:
        """What planners read: transitions ``[T, S, A, S]`` and mean rewards ``[T, S, A]``."""
        return tasks[..., :-1], tasks[..., -1]

    def optimal_return(self, tasks: Tensor) -> Tensor:
        """Expected total reward of one episode of the best policy, which knows the task. Shape: ``[T]``."""
        return backward_induction(*self.model(tasks), self.length)[:, 0, 0].amax(-1)

    def oracle(self, tasks: Tensor) -> Rule:
        """The best policy, which knows the task and counts steps: make a new one for every trial."""
        best = backward_induction(*self.model(tasks), self.length).argmax(-1)  # [T, length, S]
        time = -1

        def rule(observation: Tensor, generator: torch.Generator) -> Tensor:
            nonlocal time
            time = (time + 1) % self.length  # all tasks' episodes are equally long
            return best[:, time].gather(1, observation.argmax(1, keepdim=True)).squeeze(1)

        return Rule(rule)


def backward_induction(p: Tensor, r: Tensor, steps: int) -> Tensor:
    r"""The best that can be had in the steps that are left, exactly.

    .. math::
        Q_t(s, a) = r(s, a) + \sum_{s'} p(s' \mid s, a) \max_{a'} Q_{t+1}(s', a') \qquad Q_{steps} = 0

    Args:
        p: transitions; where a row's sum is below 1, the rest is the chance that the episode ends.
        r: mean rewards.
        steps: of an episode.

    Shape:
        ``p [T, S, A, S]``, ``r [T, S, A]``; gives Q ``[T, steps, S, A]``.
    """
    value, best = r.new_zeros(r.shape[:2]), []
    for _ in range(steps):
        best.append(_backup(p, r, value, 1.0))
        value = best[-1].amax(-1)
    return torch.stack(best[::-1], 1)


def value_iteration(p: Tensor, r: Tensor, discount: float, tolerance: float = 1e-6, most: int = 100_000) -> Tensor:
    r"""The fixed point of :math:`Q(s, a) = r(s, a) + \gamma \sum_{s'} p(s' \mid s, a) \max_{a'} Q(s', a')`.

    Args:
        p: transitions; where a row's sum is below 1, the rest is the chance that the episode ends.
        r: mean rewards.
        discount: gamma; 1 is allowed where every best policy ends.
        tolerance: largest change of a last backup, as a share of the largest value; float32 rounds at 1e-7.
        most: backups at most.

    Shape:
        ``p [T, S, A, S]``, ``r [T, S, A]``; gives Q ``[T, S, A]``.

    Raises:
        RunError: no fixed point within ``most`` backups.
    """
    q = torch.zeros_like(r)
    for _ in range(most):
        new = _backup(p, r, q.amax(-1), discount)
        change, q = (new - q).abs().amax(), new
        if bool(change <= tolerance * q.abs().amax().clamp_min(1)):
            return q
    raise RunError(
        f"Expected value iteration to settle within {most} backups. The last changed a value by {float(change):.2g}. "
        "Lower the discount below 1, raise the tolerance, or use float64."
    )


def policy_iteration(p: Tensor, r: Tensor, discount: float, most: int = 1000) -> tuple[Tensor, Tensor]:
    r"""Solve :math:`(I - \gamma P_\pi) v = r_\pi`, act greedily, and again until nothing changes (Howard 1960).

    Args:
        p: transitions; where a row's sum is below 1, the rest is the chance that the episode ends.
        r: mean rewards.
        discount: gamma, below 1.
        most: improvements at most; a handful are needed.

    Shape:
        ``p [T, S, A, S]``, ``r [T, S, A]``; gives the policy ``[T, S]`` and its value ``[T, S]``.

    Raises:
        RunError: the policy still changes after ``most`` improvements.
    """
    eye = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    policy = r.argmax(-1)
    for _ in range(most):
        chosen = policy.unsqueeze(-1)
        under = p.gather(2, chosen.unsqueeze(-1).expand(-1, -1, -1, p.shape[-1])).squeeze(2)
        value = torch.linalg.solve(eye - discount * under, r.gather(2, chosen).squeeze(2))
        q = _backup(p, r, value, discount)
        # a tie, up to rounding, is no reason to change: else two policies of one value take turns
        better = q.amax(-1) > q.gather(2, chosen).squeeze(2) + 1e3 * torch.finfo(q.dtype).eps * q.abs().amax()
        if not bool(better.any()):
            return policy, value
        policy = q.argmax(-1).where(better, policy)
    raise RunError(f"Expected policy iteration to settle within {most} improvements. It did not: use float64.")


def _backup(p: Tensor, r: Tensor, value: Tensor, discount: float) -> Tensor:
    """One step ahead of ``value [T, S]``. Shape: ``[T, S, A]``."""
    return r + discount * torch.einsum("tsaz,tz->tsa", p, value)
