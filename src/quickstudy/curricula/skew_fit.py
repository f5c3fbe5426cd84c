"""Skew-Fit: imagined goals from a model of what was reached, which is made to favour what was reached seldom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from quickstudy.core import InputError
from quickstudy.curricula.taught import Curriculum
from quickstudy.nets.vae import VAE


def skewed(log_density: Tensor, alpha: float) -> Tensor:
    r"""What each of some draws counts: :math:`w(s) = p(s)^\alpha / Z`, the weights' sum being 1.

    Where the draws come from p itself and p is exact, what they stand for is :math:`p^{1 + \alpha} / Z`, so that t
    rounds lead to :math:`p^{(1 + \alpha)^t} / Z`: uniform in the limit for alpha in [-1, 0), and p itself for 0.

    Args:
        log_density: of each draw, ``[n]``.
        alpha: in [-1, 0].

    Raises:
        InputError: alpha is out of range.
    """
    if not -1 <= alpha <= 0:
        raise InputError(
            f"Expected alpha in [-1, 0]. Found {alpha}. Beyond -1 the rare becomes more frequent than the frequent "
            "was; above 0 the frequent becomes more so."
        )
    return (alpha * log_density).softmax(0)


class Density(Protocol):
    """A model of goals that can be drawn from; an ``nn.Module``, so that it is saved."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N goals. Shape: ``[n, g]``."""

    def log_prob(self, goals: Tensor, generator: torch.Generator) -> Tensor:
        """Log-density. Shape: ``[n, g]`` to ``[n]``."""

    def fit(self, goals: Tensor, weight: Tensor, generator: torch.Generator) -> None:
        """Maximise the weighted likelihood. Shape: ``[n, g]``, ``[n]``; the weights' sum is 1."""


class SkewFit(Curriculum):
    r"""Goals from a model of the goals achieved, fitted with weights (Pong et al. 2020, algorithm 1).

    .. math::
        \phi_{t+1} = \arg\max_\phi E_{s \sim memory} [w(s) \log p_\phi(s)], \qquad w(s) \propto p_{\phi_t}(s)^\alpha

    With ``alpha`` 0 this is RIG (Nair et al. 2018): goals are imagined where one has been most.

    Args:
        model: the density, fitted to the first goals at once.
        achieved: last observations ``[n, *o]`` to the goals that they achieve, ``[n, g]``.
        first: goals achieved before there was anything to imagine, ``[n, g]``: what a random policy comes by.
        alpha: in [-1, 0].
        every: episodes between fits.
        room: goals achieved that are remembered; the oldest go first. What is fitted approaches uniform where the
            memory is close to what the model proposes, so let it hold the latest rounds and no more.

    Shape:
        goals ``[n, g]``.

    Raises:
        InputError: alpha is out of range; more first goals than there is room for, or none.

    Reference:
        Pong, Dalal, Lin, Nair, Bahl, Levine 2020, Skew-Fit, arXiv:1903.03698; Nair, Pong, Dalal, Bahl, Lin, Levine
        2018, Visual reinforcement learning with imagined goals, arXiv:1807.04742. Departs from them: the memory holds
        what episodes ended with, in place of all that they came by.
    """

    memory: Tensor
    n_memory: Tensor
    n_new: Tensor

    def __init__(
        self,
        model: Density,
        achieved: Callable[[Tensor], Tensor],
        *,
        first: Tensor,
        alpha: float = -0.5,
        every: int = 64,
        room: int = 1024,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 0 < len(first) <= room:
            raise InputError(
                f"Expected some first goals, and no more than there is room for. Found {len(first)} of {room}."
            )
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.model, self.achieved, self.alpha, self.every, self.room = model, achieved, alpha, every, room
        self.register_buffer("memory", first.new_zeros(room, first.shape[1]))
        self.register_buffer("n_memory", torch.tensor(0))
        self.register_buffer("n_new", torch.tensor(0))
        self._note(first)
        skewed(first.new_zeros(1), alpha)  # refuses an alpha out of range at once
        for _ in range(10):  # a model that learns by steps needs more of them at first
            self.model.fit(first, torch.full_like(first[:, 0], 1 / len(first)), generator)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Imagined goals."""
        return self.model.sample(n, generator)

    def met(self, tasks: Tensor, returns: Tensor, last: Tensor, generator: torch.Generator) -> None:
        """Remember what was achieved; now and then, fit."""
        self._note(self.achieved(last))
        self.n_new += len(last)
        if int(self.n_new) >= self.every:
            self.n_new.zero_()
            known = self.memory[: min(int(self.n_memory), self.room)]
            self.model.fit(known, skewed(self.model.log_prob(known, generator), self.alpha), generator)

    def _note(self, goals: Tensor) -> None:
        at = (int(self.n_memory) + torch.arange(len(goals), device=goals.device)) % self.room
        self.memory[at] = goals
        self.n_memory += len(goals)


class Counted(nn.Module):
    """The exact density of one-hot goals: their weights, added up.

    Args:
        n: how many goals there are.
        floor: what is spread over all goals besides where a density is asked for, lest one that is new count as much
            as all others together; 0 is exact, and asks that every goal was fitted to.
    """

    share: Tensor

    def __init__(self, n: int, floor: float = 0.1) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("share", torch.full((n,), 1 / n))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """One-hot goals. Shape: ``[n, N]``."""
        drawn = torch.multinomial(self.share, n, replacement=True, generator=generator)
        return nn.functional.one_hot(drawn, len(self.share)).to(self.share)

    def log_prob(self, goals: Tensor, generator: torch.Generator) -> Tensor:
        """Of each goal."""
        return ((goals @ self.share + self.floor / len(self.share)) / (1 + self.floor)).log()

    def fit(self, goals: Tensor, weight: Tensor, generator: torch.Generator) -> None:
        """The exact maximum of the weighted likelihood."""
        self.share.copy_(weight @ goals)


class Imagined(nn.Module):
    """A VAE as the model of goals: states or images, flat.

    Args:
        vae: the density; its codes tell distances as well, see :class:`quickstudy.curricula.latent.LatentGoals`.
        updates: optimiser steps of a fit.
        batch: draws of each, by their weights.
        lr: step size.
        codes: draws that a density is estimated by.
        floor: how far below the median a log-density may lie, lest the weights single out what the VAE has never
            seen; infinity leaves all as they are.
    """

    def __init__(
        self,
        vae: VAE,
        *,
        updates: int = 50,
        batch: int = 128,
        lr: float = 1e-3,
        codes: int = 10,
        floor: float = 3.0,
    ) -> None:
        super().__init__()
        self.vae, self.updates, self.batch, self.lr, self.codes, self.floor = vae, updates, batch, lr, codes, floor

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Decoded codes from the prior. Shape: ``[n, size]``."""
        return self.vae.draw(n, generator, generator.device)

    @torch.no_grad()
    def log_prob(self, goals: Tensor, generator: torch.Generator) -> Tensor:
        """By importance sampling, not below the floor."""
        shape = (self.codes, len(goals), self.vae.latent)
        found = self.vae.log_prob(goals, torch.randn(shape, generator=generator, device=goals.device).to(goals))
        return found.clamp_min(found.median() - self.floor)

    @torch.enable_grad()
    def fit(self, goals: Tensor, weight: Tensor, generator: torch.Generator) -> None:
        """Some steps up the evidence bound of goals drawn by their weights, by an Adam that starts anew."""
        adam = torch.optim.Adam(self.vae.parameters(), lr=self.lr)
        for _ in range(self.updates):
            x = goals[torch.multinomial(weight, self.batch, replacement=True, generator=generator)]
            noise = torch.randn(self.batch, self.vae.latent, generator=generator, device=x.device).to(x)
            adam.zero_grad()
            self.vae.losses(x, noise).mean().backward()
            adam.step()
