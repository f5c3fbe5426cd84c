"""ALP-GMM: meet the tasks on which results change, for better or worse."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from quickstudy.core import InputError
from quickstudy.curricula.taught import Curriculum, anywhere, box, nearest


class AlpGmm(Curriculum):
    r"""Absolute learning progress with Gaussian mixtures (Portelas et al. 2019, section 4, algorithm 1).

    The progress on a task is :math:`ALP = |r - r_{old}|`, with :math:`r_{old}` the return of the nearest task met
    before. Every ``fit_every`` episodes, mixtures of 2 to ``most`` Gaussians are fitted to the latest (task, ALP)
    together, and the one with the best Akaike criterion is kept. A new task comes from a Gaussian that is drawn by
    its mean ALP, or, for a share ``random``, from anywhere in the box.

    Args:
        low: lowest corner of the box of tasks, ``[d]``.
        high: its highest.
        scale: what returns are divided by: about the range of returns.
        fit_every: episodes between fits, and how many the fit reads.
        most: Gaussians at most.
        random: share of the tasks that come from anywhere.
        room: episodes that are remembered to find the nearest in; the oldest go first.

    Shape:
        tasks ``[n, d]``.

    Raises:
        InputError: the corners do not make a box; numbers out of range.

    Reference:
        Portelas, Colas, Hofmann, Oudeyer 2019, Teacher algorithms for curriculum learning of deep RL in continuously
        parameterized environments, arXiv:1910.07224. Departs from it: episodes that end together are compared with
        those before them, not with each other; the memory of episodes is bounded.
    """

    low: Tensor
    high: Tensor
    past: Tensor
    n_past: Tensor
    latest: Tensor
    n_latest: Tensor
    weight: Tensor
    mean: Tensor
    root: Tensor

    def __init__(
        self,
        low: Tensor,
        high: Tensor,
        *,
        scale: float = 1.0,
        fit_every: int = 256,
        most: int = 10,
        random: float = 0.2,
        room: int = 4096,
    ) -> None:
        super().__init__()
        low, high = box(low, high)
        if not (scale > 0 and 2 <= most < fit_every <= room and 0 <= random <= 1):
            raise InputError(
                "Expected scale > 0, 2 <= most < fit_every <= room and a share `random` in [0, 1]. Found "
                f"{scale}, {most}, {fit_every}, {room} and {random}."
            )
        self.scale, self.fit_every, self.most, self.random, self.room = scale, fit_every, most, random, room
        d = len(low)
        for name, value in (
            ("low", low), ("high", high), ("past", low.new_zeros(room, d + 1)), ("n_past", torch.tensor(0)),
            ("latest", low.new_zeros(fit_every, d + 1)), ("n_latest", torch.tensor(0)),
            ("weight", low.new_zeros(most)),  # of each Gaussian; all 0 before the first fit
            ("mean", low.new_zeros(most, d)), ("root", low.new_zeros(most, d, d)),
        ):  # fmt: skip
            self.register_buffer(name, value)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Where results change, and some from anywhere."""
        tasks = anywhere(self.low, self.high, n, generator)
        if not bool(self.weight.any()):
            return tasks
        which = torch.multinomial(self.weight, n, replacement=True, generator=generator)
        noise = torch.randn(tasks.shape, generator=generator, device=tasks.device).to(tasks)
        found = self._from_unit(self.mean[which] + (self.root[which] @ noise.unsqueeze(-1)).squeeze(-1))
        chance = torch.rand(n, 1, generator=generator, device=tasks.device)
        return tasks.where(chance < self.random, found.clamp(self.low, self.high))

    def met(self, tasks: Tensor, returns: Tensor, last: Tensor, generator: torch.Generator) -> None:
        """Note the progress; once there is enough, fit."""
        unit = (tasks - self.low) / (self.high - self.low)
        now = torch.cat([unit, returns.unsqueeze(1).to(unit) / self.scale], 1)
        known = self.past[: min(int(self.n_past), self.room)]
        if len(known):
            before = known[nearest(unit, known[:, :-1])[1], -1]
            for row in torch.cat([unit, (now[:, -1] - before).abs().unsqueeze(1)], 1):
                self.latest[int(self.n_latest)] = row
                self.n_latest += 1
                if int(self.n_latest) == self.fit_every:
                    self._fit(generator)
                    self.n_latest.zero_()
        at = (int(self.n_past) + torch.arange(len(now), device=now.device)) % self.room
        self.past[at] = now
        self.n_past += len(now)

    def _from_unit(self, unit: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * unit

    def _fit(self, generator: torch.Generator) -> None:
        """Keep the best of some mixtures."""
        data = self.latest.double().cpu().numpy()
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # one that has not settled is a candidate as well
            mixtures = [
                GaussianMixture(k, random_state=seed, reg_covar=1e-5).fit(data) for k in range(2, self.most + 1)
            ]  # fmt: skip
        best = min(mixtures, key=lambda mixture: mixture.aic(data))
        progress = np.clip(best.means_[:, -1], 0, None)
        k = best.n_components
        self.weight.zero_()
        if progress.sum() > 0:
            self.weight[:k] = torch.from_numpy(progress / progress.sum()).to(self.weight)
        self.mean[:k] = torch.from_numpy(best.means_[:, :-1]).to(self.mean)
        self.root[:k] = torch.from_numpy(np.linalg.cholesky(best.covariances_[:, :-1, :-1])).to(self.root)
