"""Help that is taken away as the learner copes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quickstudy.core import Environment, InputError
from quickstudy.curricula.taught import Curriculum


class Fading(Curriculum):
    r"""Tasks with training wheels (:mod:`quickstudy.tasks.wheels`): full help first, less whenever it is mastered.

    The total rewards of episodes at the present help h are kept; when ``needed`` are there, their mean decides, and
    they are forgotten:

    .. math::
        \bar R \ge enough(h): \; h \leftarrow \max(h - \Delta, 0)

    Help never comes back. The total is not discounted, and of an episode with breadcrumbs it holds those too: with a
    potential below 0, standing still earns :math:`-(1 - \gamma) h \Phi` a step. There, let what is enough grow with h.

    Args:
        environment: the outermost of the wheels.
        enough: mean total reward of an episode at which help is mastered, or a function of the help that gives it.
        delta: how much is taken away at once.
        needed: episodes that are judged together.
        wheels: how many wheels are around each other; all fade together.
        back: share of tasks whose help is drawn anew between the present one and full, lest that be forgotten.

    Shape:
        tasks ``[n, d + wheels]``.

    Raises:
        InputError: settings that make no sense.
    """

    help: Tensor
    total: Tensor
    episodes: Tensor

    def __init__(
        self,
        environment: Environment,
        *,
        enough: float | Callable[[float], float],
        delta: float = 0.1,
        needed: int = 64,
        wheels: int = 1,
        back: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < delta <= 1 or min(needed, wheels) < 1 or not 0 <= back <= 1:
            raise InputError(
                "Expected a delta in (0, 1], at least 1 episode and 1 wheel, and a share in [0, 1]. Found "
                f"{delta}, {needed}, {wheels} and {back}."
            )
        self.environment, self.enough, self.delta = environment, enough, delta
        self.needed, self.wheels, self.back = needed, wheels, back
        self.register_buffer("help", torch.ones(()))
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("episodes", torch.zeros(()))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N tasks of the environment's, with the help of today."""
        tasks = self.environment.sample(n, generator)
        draw = lambda: torch.rand(n, generator=generator, device=tasks.device)  # noqa: E731
        much = self.help.to(tasks).expand(n)
        if self.back:
            much = torch.lerp(much, torch.ones_like(much), draw()).where(draw() < self.back, much)
        return torch.cat([tasks[:, : -self.wheels], much.unsqueeze(1).expand(n, self.wheels)], 1)

    def met(self, tasks: Tensor, returns: Tensor, last: Tensor, generator: torch.Generator) -> None:
        """Count episodes at the present help; take some away where they went well."""
        now = tasks[:, -1] <= self.help.to(tasks) + 1e-6  # rounding; what was drawn with more help says nothing
        self.total += (returns * now).sum()
        self.episodes += now.sum()
        if bool(self.episodes >= self.needed):
            enough = self.enough(float(self.help)) if callable(self.enough) else self.enough
            if bool(self.total / self.episodes >= enough):
                self.help = (self.help - self.delta).clamp_min(0.0)
                self.help = self.help.where(self.help > 1e-6, 0.0)  # tenths do not add up to 1 exactly
            self.total, self.episodes = torch.zeros_like(self.total), torch.zeros_like(self.episodes)
