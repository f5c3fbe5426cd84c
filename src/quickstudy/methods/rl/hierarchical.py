"""Hierarchical imitation: a procedure calls skills, and each learns from the tasks chosen for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from quickstudy.core import Explorer, InputError, Predictor, Problem, Trajectory
from quickstudy.methods.rl._critics import Critics, each_its_own
from quickstudy.methods.rl._policies import Memoryless, check_actions, drawn_from, net


class HierarchicalImitation(Explorer):
    r"""Annotated demonstrations: every step says which skill is at work and what it does (Fox et al. 2019).

    .. math::
        -\log p_\theta(demonstration) = -\sum_s \log \pi_0(k_s \mid o_s) + \log \pi_{k_s}(a_s \mid o_s)

    The procedure :math:`\pi_0` says in every step which of the K skills :math:`\pi_1 \dots \pi_K` is at work. All are
    nets of their own, so that the sum falls into one supervised problem for each, and each may learn from other tasks:
    where two tasks do a skill alike, from both; where they do it differently, from its own task alone.

    Args:
        problem: what is seen and done; an action is a pair, the number ``k * actions + a``. What is seen must tell the
            procedure what it needs to go on, for instance which skill was at work in the step before.
        skills: K; 1 is behaviour cloning.
        tasks: how many tasks the demonstrations may come from, whose identity ends the observation, one-hot. No net
            sees it. 0 where there is one task.
        learns_from: which tasks the procedure and each skill learn from, ``[1 + K][tasks]``; None for all from all.
        width: of the two hidden layers of each net.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, o]``, action ``[T, time]``; the predictor gives logits ``[T, m, K * actions]``.

    Raises:
        InputError: actions that are not pairs with K skills; choices that are not one of each task for each net.

    Reference:
        Fox et al. 2019, Multi-task hierarchical imitation learning for home automation, CASE. Departs from it: a flat
        call stack of one procedure and its skills, and a skill ends when the procedure names another.
    """

    name: ClassVar[str] = "hierarchical-imitation"
    summary: ClassVar[str] = "clones a procedure and its skills, each from the tasks chosen for it"
    reference: ClassVar[str] = "Fox et al. 2019"

    learns_from: Tensor

    def __init__(
        self,
        problem: Problem,
        *,
        skills: int = 1,
        tasks: int = 0,
        learns_from: Sequence[Sequence[bool]] | None = None,
        width: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        if skills < 1 or problem.n_outputs % skills:
            raise InputError(
                f"Expected actions that are pairs of one of {skills} skills and what it does. Found "
                f"{problem.n_outputs} actions. Number them skill * actions + action."
            )
        if len(problem.x_shape) != 1 or problem.x_shape[0] <= tasks:
            raise InputError(
                f"Expected flat observations whose last {tasks} numbers are the task's identity. Found shape "
                f"{problem.x_shape}."
            )
        chosen = torch.ones(1 + skills, max(tasks, 1)) if learns_from is None else torch.tensor(learns_from).float()
        if chosen.shape != (1 + skills, max(tasks, 1)):
            raise InputError(
                f"Expected one choice for the procedure and each of {skills} skills, of each of {max(tasks, 1)} tasks. "
                f"Found shape {tuple(chosen.shape)}."
            )
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.skills, self.tasks, self.each = skills, tasks, problem.n_outputs // skills
        seen = problem.x_shape[0] - tasks
        self.procedure = net(Problem((seen,), "classification", skills), width, skills, generator)
        self.skill = Critics(skills, (seen, width, width, self.each), generator)
        self.register_buffer("learns_from", chosen)

    def teacher_share(self, round: int) -> float:
        """The teacher acts alone."""
        return 1.0

    def explorer(self) -> Memoryless:
        """Draws from what was learned."""
        return drawn_from(lambda seen: torch.distributions.Categorical(logits=self.predict(seen), validate_args=False))

    def predict(self, observation: Tensor) -> Tensor:
        """Log-probabilities of pairs. Shape: ``[..., o]`` to ``[..., K * actions]``."""
        which, what = self.parts(observation)
        return (which.unsqueeze(-1) + what).flatten(-2)

    def parts(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the skill, and of each skill's actions: ``[..., K]`` and ``[..., K, actions]``."""
        seen = observation[..., : observation.shape[-1] - self.tasks]
        what = self.skill(seen.flatten(0, -2)).movedim(0, 1).unflatten(0, seen.shape[:-1])
        return self.procedure(seen).log_softmax(-1), what.log_softmax(-1)

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """The policy, whatever was read."""
        return self.predict

    def surprises(self, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        """Minus the log-likelihood of each step's skill, and of what the skill did. Shape: both ``[T, time]``."""
        skill, action = trajectory.action // self.each, trajectory.action % self.each
        seen = trajectory.observation[..., : trajectory.observation.shape[-1] - self.tasks]
        which = self.procedure(seen).log_softmax(-1)
        did = (
            each_its_own(self.skill, seen.flatten(0, 1), skill.flatten(), self.skills)
            .log_softmax(-1)
            .view(*skill.shape, self.each)
        )
        return tuple(
            -part.gather(-1, index.unsqueeze(-1)).squeeze(-1) for part, index in ((which, skill), (did, action))
        )  # type: ignore[return-value]

    def by_net(self, trajectory: Trajectory) -> Tensor:
        """Mean surprise of the procedure and of each skill, over all steps; NaN where a skill did nothing. ``[1 + K]``.

        On held-out demonstrations of a task this says what each net should learn from: see :func:`best_sources`.
        """
        which, what = self.surprises(trajectory)
        at_work = torch.nn.functional.one_hot(trajectory.action // self.each, self.skills).to(what)
        return torch.cat([which.mean()[None], (what.unsqueeze(-1) * at_work).sum((0, 1)) / at_work.sum((0, 1))])

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """Minus the log-likelihood of each demonstration, of the steps that the nets are to learn from. ``[T]``."""
        which, what = self.surprises(trajectory)
        if self.tasks:
            identity = trajectory.observation[..., -self.tasks :]
            use = identity @ self.learns_from.to(identity).mT  # [T, time, 1 + K]
            skill = 1 + trajectory.action // self.each
            which, what = which * use[..., 0], what * use.gather(-1, skill.unsqueeze(-1)).squeeze(-1)
        return (which + what).mean(1)


def best_sources(surprise: Tensor) -> list[int]:
    """Which source of data suits each net: the one whose held-out surprise is least.

    Args:
        surprise: of each source's procedure and skills, as :meth:`HierarchicalImitation.by_net` gives it.

    Shape:
        ``[sources, 1 + K]``; gives 1 + K numbers.
    """
    best: list[int] = surprise.nan_to_num(torch.inf).argmin(0).tolist()
    return best
