"""Bernoulli bandits as a batched environment, the classical ways to play them, and the best there is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from quickstudy.core import InputError, Problem


@dataclass(frozen=True)
class BernoulliBandits:
    """Slot machines: arm i of a task pays 1 with probability ``p_i``, else 0; every ``p_i`` is uniform on [0, 1].

    A task is its arms' means. One trial is one episode of ``horizon`` pulls; there is nothing to observe.
    All functions are pure: the same arguments and the same generator state give the same result.

    Args:
        arms: how many arms.
        horizon: pulls of a trial.

    Shape:
        tasks ``[T, arms]``, state ``[T]`` (pulls so far), observation ``[T, 0]``, action ``[T]``.
    """

    arms: int = 5
    horizon: int = 10

    def __post_init__(self) -> None:
        if self.arms < 2 or self.horizon < 1:
            raise InputError(
                f"Expected at least 2 arms and 1 pull. Found {self.arms} arms and {self.horizon} pulls. Raise them."
            )

    @property
    def problem(self) -> Problem:
        """Nothing to see, one logit an arm."""
        return Problem((0,), "classification", self.arms, shared_labels=False)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """The means of n tasks' arms. Shape: ``[n, arms]``."""
        return torch.rand(n, self.arms, generator=generator, device=generator.device)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """State and observation before the first pull."""
        return torch.zeros(len(tasks), dtype=torch.long, device=tasks.device), tasks.new_zeros(len(tasks), 0)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Pull one arm of every task. Gives state, observation, reward, terminated, truncated; the last two bool."""
        mean = tasks.gather(1, action.unsqueeze(1)).squeeze(1)
        reward = (torch.rand(mean.shape, generator=generator, device=mean.device) < mean).to(tasks.dtype)
        state = state + 1
        return state, tasks.new_zeros(len(tasks), 0), reward, state >= self.horizon, torch.zeros_like(state).bool()


class CountingPolicy:
    """Remembers wins and losses of every arm and pulls the one that looks best, ties at random.

    Meant to be compared with, not to train on: log-probabilities of its actions are not known (NaN).

    Args:
        arms: how many arms.
    """

    def __init__(self, arms: int) -> None:
        self.arms = arms

    def value(self, wins: Tensor, losses: Tensor, generator: torch.Generator) -> Tensor:
        """How good each arm looks. Shape: all ``[T, arms]``."""
        raise NotImplementedError

    def start(self, n_tasks: int) -> Tensor:
        """No pulls yet. Shape: ``[T, arms, 2]``."""
        return torch.zeros(n_tasks, self.arms, 2, dtype=torch.float64)

    def act(self, observation: Tensor, memory: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pull the arm that looks best."""
        value = self.value(memory[..., 0], memory[..., 1], generator)
        tie = 1e-9 * torch.rand(value.shape, generator=generator, dtype=torch.float64)
        action = (value + tie).argmax(1)
        return action, torch.full(action.shape, torch.nan), memory

    def learn(self, memory: Tensor, action: Tensor, reward: Tensor, done: Tensor) -> Tensor:
        """Count the outcome."""
        pulled = torch.nn.functional.one_hot(action, self.arms)
        outcome = torch.stack([reward, 1 - reward], -1).unsqueeze(1)
        return memory + pulled.unsqueeze(-1) * outcome


class RandomArm(CountingPolicy):
    """Any arm: the floor."""

    def value(self, wins: Tensor, losses: Tensor, generator: torch.Generator) -> Tensor:
        """All alike."""
        return torch.zeros_like(wins)


class Greedy(CountingPolicy):
    """The largest posterior mean under the Beta(1, 1) prior."""

    def value(self, wins: Tensor, losses: Tensor, generator: torch.Generator) -> Tensor:
        """``(wins + 1) / (wins + losses + 2)``."""
        return (wins + 1) / (wins + losses + 2)


class Thompson(CountingPolicy):
    """Draw each arm's mean from its posterior under the Beta(1, 1) prior and pull the largest.

    Reference:
        Thompson 1933, On the likelihood that one unknown probability exceeds another.
    """

    def value(self, wins: Tensor, losses: Tensor, generator: torch.Generator) -> Tensor:
        """A draw from ``Beta(wins + 1, losses + 1)``."""
        a, b = (torch._standard_gamma(count + 1, generator=generator) for count in (wins, losses))
        return a / (a + b)


class UCB1(CountingPolicy):
    r"""An upper confidence bound of each arm's mean.

    .. math::
        \hat\mu_i + c \sqrt{2 \log t / n_i}

    with one win and one loss counted in advance, as in Duan et al. 2016, section 3.1.

    Args:
        arms: how many arms.
        c: width of the bound; 1 in the original.

    Reference:
        Auer, Cesa-Bianchi, Fischer 2002, Finite-time analysis of the multiarmed bandit problem.
    """

    def __init__(self, arms: int, c: float = 1.0) -> None:
        super().__init__(arms)
        self.c = c

    def value(self, wins: Tensor, losses: Tensor, generator: torch.Generator) -> Tensor:
        """The bound at pull ``t``, counted from 1."""
        n = wins + losses + 2
        t = 1 + (wins + losses).sum(1, keepdim=True)
        return (wins + 1) / n + self.c * (2 * t.log() / n).sqrt()


class Gittins(CountingPolicy):
    r"""The finite-horizon Gittins index under the Beta(1, 1) prior.

    The index of an arm with m pulls to go is the fee a pull at which it is just worth to begin, when one may stop
    at any time:

    .. math::
        \nu_m = \sup \{ \nu : \max_{\tau \le m} E \sum_{t=1}^{\tau} (r_t - \nu) \ge 0, \; \tau \ge 1 \}

    Near the optimum, not the optimum itself: that the index is optimal holds with discounting and no end only.
    See :func:`optimal_reward`. Room and time grow with ``horizon ** 2 * grid``, times ``horizon`` for the time.

    Args:
        arms: how many arms.
        horizon: pulls of a trial.
        grid: fees that are tried; between them the gain is interpolated.

    Reference:
        Gittins 1979, Bandit processes and dynamic allocation indices; for the finite horizon: Kaufmann 2018, On
        Bayesian index policies for sequential resource allocation, arXiv:1601.01190.
    """

    def __init__(self, arms: int, horizon: int, grid: int = 501) -> None:
        super().__init__(arms)
        self.horizon = horizon
        self.index = _gittins(horizon, grid)

    def value(self, wins: Tensor, losses: Tensor, generator: torch.Generator) -> Tensor:
        """Look the index up."""
        left = (self.horizon - (wins + losses).sum(1, keepdim=True)).long().expand_as(wins)
        return self.index[left, wins.long(), losses.long()]


def _gittins(horizon: int, grid: int) -> Tensor:
    """Index by pulls to go, wins and losses, ``[horizon + 1, horizon, horizon]``, by dynamic programming."""
    fee = torch.linspace(0, 1, grid, dtype=torch.float64)
    count = torch.arange(horizon, dtype=torch.float64)
    wins, losses = count.view(-1, 1, 1), count.view(1, -1, 1)
    p = (wins + 1) / (wins + losses + 2)
    index = torch.zeros(horizon + 1, horizon, horizon, dtype=torch.float64)
    value = torch.zeros(horizon + 1, horizon + 1, grid, dtype=torch.float64)  # of stopping or going on
    for left in range(1, horizon + 1):
        gain = p - fee + p * value[1:, :-1] + (1 - p) * value[:-1, 1:]  # of one pull at least: falls with the fee
        last = (gain >= 0).sum(-1).clamp(1, grid - 1) - 1
        above, below = (gain.gather(-1, (last + step).unsqueeze(-1)).squeeze(-1) for step in (0, 1))
        index[left] = fee[last] + above / (above - below) * (fee[1] - fee[0])
        # counts beyond those reachable in ``horizon`` pulls stay at 0 and are never looked up
        value[:-1, :-1] = gain.clamp_min(0)
    return index


def optimal_reward(arms: int, horizon: int) -> float:
    """Expected total reward of the Bayes-optimal policy under uniform means, by exact dynamic programming.

    Arms are interchangeable, so a state is the sorted counts of all of them. 5 arms and 10 pulls take a second;
    the number of states grows like ``horizon ** (2 * arms)``, divided by the orders.
    """

    @cache
    def best(counts: tuple[tuple[int, int], ...], left: int) -> float:
        if not left:
            return 0.0
        values = []
        for i in range(arms):
            if i and counts[i] == counts[i - 1]:
                continue
            wins, losses = counts[i]
            p = (wins + 1) / (wins + losses + 2)
            rest = counts[:i] + counts[i + 1 :]
            won, lost = (tuple(sorted((*rest, arm))) for arm in ((wins + 1, losses), (wins, losses + 1)))
            values.append(p * (1 + best(won, left - 1)) + (1 - p) * best(lost, left - 1))
        return max(values)

    return best(((0, 0),) * arms, horizon)
