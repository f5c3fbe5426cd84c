"""Distributional planning networks: how far a goal is, learned by planning towards it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import InputError, Trajectory
from quickstudy.nets.basic import initialise


class PlanningMetric(nn.Module):
    r"""A metric in which planning towards what was reached gives what was done (Yu et al. 2019, DPN).

    Of unlabelled interaction, windows :math:`o_1, a_1, \dots, a_H, o_g` are read. A plan is one latent :math:`u_t` for
    each step. It begins at a draw from :math:`q(u \mid a)` and goes down the distance between where it leads, by a
    learned model :math:`g` of how latents move, and the goal:

    .. math::
        x_1 = f(o_1), \quad x_{t+1} = x_t + g(x_t, u_t), \qquad
        u \leftarrow u - \alpha_i \nabla_u \, D(x_{H+1}, f(o_g)), \quad i = 1 \dots n_p

        L = \frac{1}{H} \sum_t \| d(u_t) - a_t \|^2 + \beta \, KL(q(u \mid a) \,\|\, N(0, \sigma^2 I))

    with :math:`D` Huber's loss, summed over the latent's numbers. The loss reaches the encoder :math:`f` through the
    steps of planning only. So :math:`f` keeps what actions change, and :math:`D(f(o), f(o_g))` is a distance that a
    planner can go down: a reward for any method. What no action explains can only mislead a plan; but numbers of the
    latent that no plan moves are free to hold it, so the latent should have no more of them than a step's plan.

    Args:
        seen: numbers of one observation, flattened.
        actions: numbers of one action.
        latent: of an observation.
        plan: of one step's plan.
        width: of the hidden layers.
        updates: n_p, steps of planning.
        rate: first alpha; each step's is learned.
        spread: deviation of the prior, from which plans begin.
        beta: weight of the divergence.
        generator: draws the initial weights.

    Shape:
        observations ``[..., seen]``, latents ``[..., latent]``; trajectories ``[T, H, ...]``.

    Raises:
        InputError: a trajectory's observations or actions are of another size.

    Reference:
        Yu et al. 2019, Unsupervised visuomotor control through distributional planning networks, arXiv:1902.05542;
        constants (5 updates, beta 0.5, Huber's delta 1, gradients of plans cut at 10) are those of the authors' code.
        Departs from it: fully connected encoder, no readings of joints beside the picture; latents move by
        :math:`x + g`, where the code has :math:`g` alone, so that what is left to go is their difference from the
        beginning; plans begin with a deviation of 0.1 in place of 1, or its noise would drown what planning adds in
        plans of few numbers; alpha begins at 1 in place of 0.25, with a g that begins small.
    """

    CUT = 10.0

    def __init__(
        self,
        seen: int,
        actions: int,
        *,
        latent: int = 4,
        plan: int = 8,
        width: int = 128,
        updates: int = 5,
        rate: float = 1.0,
        spread: float = 0.1,
        beta: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.seen, self.actions, self.size, self.beta, self.spread = seen, actions, plan, beta, spread
        self.encoder: nn.Module = _net((seen, width, width, latent), generator, norm=True)
        moves = _net((latent + plan, width, latent), generator)
        self.dynamics: nn.Module = moves
        self.reader: nn.Module = _net((actions, width, 2 * plan), generator)
        self.decoder: nn.Module = _net((plan, width, actions), generator)
        self.rates = nn.Parameter(torch.full((updates,), rate))
        # planning begins with small steps: large ones lead anywhere, and are unlearned before the encoder learns
        with torch.no_grad():
            for parameter in moves[-1].parameters():
                parameter.mul_(0.1)

    def distance(self, observation: Tensor, goal: Tensor) -> Tensor:
        """How far a goal is. Shape: ``[..., seen]`` twice to ``[...]``."""
        return self.between(self.encoder(observation), self.encoder(goal))

    def between(self, one: Tensor, other: Tensor) -> Tensor:
        """D, of latents. Shape: ``[..., latent]`` twice to ``[...]``."""
        return F.huber_loss(one, other, reduction="none").sum(-1)

    def improve(self, here: Tensor, goal: Tensor, plan: Tensor) -> Tensor:
        """Plans that lead nearer to their goals: n_p steps down the distance, differentiable.

        Shape:
            latents ``[T, latent]``, plan ``[T, H, plan]`` to ``[T, H, plan]``.
        """
        with torch.enable_grad():
            plan = plan if plan.requires_grad else plan.detach().requires_grad_()
            for rate in self.rates.clamp_min(0):
                far = self.between(self.lead(here, plan), goal).sum()  # each task's gradient is that of its own
                (slope,) = torch.autograd.grad(far, plan, create_graph=True)
                plan = plan - rate * slope.clamp(-self.CUT, self.CUT)
        return plan

    def lead(self, here: Tensor, plan: Tensor) -> Tensor:
        """Where a plan leads. Shape: ``[T, latent]`` and ``[T, H, plan]`` to ``[T, latent]``."""
        for step in plan.unbind(1):
            here = here + self.dynamics(torch.cat([here, step], -1))
        return here

    def plan(self, observation: Tensor, goal: Tensor, noise: Tensor) -> Tensor:
        """Actions towards a goal, from a draw of the prior.

        Shape:
            observation and goal ``[T, seen]``, standard normal noise ``[T, H, plan]`` to ``[T, H, actions]``.
        """
        return self.decoder(self.improve(self.encoder(observation), self.encoder(goal), self.spread * noise))

    def losses(self, trajectory: Trajectory, noise: Tensor) -> Tensor:
        """How far the planned actions are from those that were taken, and the divergence. Shape: ``[T]``.

        Args:
            trajectory: windows ``[T, H]`` without an end of an episode in between; the last step led to the goal.
            noise: standard normal draws for the first plans, ``[T, H, plan]``.
        """
        observation, after = trajectory.observation, trajectory.ends()[1]
        if observation.shape[2:] != (self.seen,) or trajectory.action.shape[2:] != (self.actions,):
            raise InputError(
                f"Expected observations [T, H, {self.seen}] and actions [T, H, {self.actions}]. Found "
                f"{tuple(observation.shape)} and {tuple(trajectory.action.shape)}. Flatten pictures."
            )
        middle, log_deviation = self.reader(trajectory.action).chunk(2, -1)
        first = self.spread * (middle + log_deviation.exp() * noise)
        divergence = 0.5 * (middle.square() + (2 * log_deviation).exp() - 1 - 2 * log_deviation).sum(-1)
        plan = self.improve(self.encoder(observation[:, 0]), self.encoder(after[:, -1]), first)
        error = (self.decoder(plan) - trajectory.action).square().sum(-1)
        return (error + self.beta * divergence).mean(1)


def _net(sizes: tuple[int, ...], generator: torch.Generator, norm: bool = False) -> nn.Sequential:
    """Linear layers with SiLU between them, which has second derivatives: planning is differentiated twice."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        if i:
            layers += [nn.LayerNorm(fan_in)] * norm + [nn.SiLU()]
        layers.append(nn.Linear(fan_in, fan_out))
    made = nn.Sequential(*layers)
    initialise(made, generator)
    return made
