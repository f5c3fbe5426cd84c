"""Policy distillation: one policy learns what many teachers, one a task, would do and how sure of it they are."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from quickstudy.core import Advised, Explorer, InputError, Kind, Prediction, Predictor, Problem, Trajectory
from quickstudy.methods.rl._policies import (
    Actor,
    Memoryless,
    Predicts,
    Sharing,
    check_actions,
    draw,
    drawn_from,
    log_prob_of,
)


class Distillation(Explorer):
    r"""One policy from many: it matches the teachers' distributions, not their actions (Rusu et al. 2016, equation 3).

    .. math::
        L_{KL}(\theta) = \frac{1}{S} \sum_s \sum_a softmax(q^T_s / \tau)_a
            \ln \frac{softmax(q^T_s / \tau)_a}{softmax(q^S_s)_a}

    with :math:`q^T` the logits of the teacher, or the values that it gives to actions, and :math:`\tau` a temperature:
    below 1 it sharpens, which values need, above 1 it softens. For continuous actions both are normal, and

    .. math::
        L_{KL}(\theta) = \frac{1}{S} \sum_s \sum_i \ln \frac{\sigma^S_i}{\sigma^T_i}
            + \frac{(\sigma^T_i)^2 + (\mu^T_i - \mu^S_i)^2}{2 (\sigma^S_i)^2} - \frac{1}{2}

    The teachers' outputs come with the data (:class:`Advised`): :class:`Adviser` asks them. An entropy bonus keeps
    the student's policy soft, which is what makes it a good beginning for tasks to come.

    Args:
        problem: what is seen and done.
        width: of the two hidden layers.
        temperature: tau; for continuous actions the teachers' deviations are multiplied by it.
        entropy_weight: how much the student's own entropy counts for it.
        decay: in how many steps of round i the teachers act, ``decay ** i``; 1 leaves them alone at the wheel, as the
            paper does, 0 lets the student act from the second round on, where it sees its own mistakes.
        heads: last layers, one a task, where observations end with the task's identity; 0 for one that all share.
        share: what tasks with heads have in common: the hidden layers ("trunk") or "nothing".
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, advice ``[T, time, actions]`` or ``[T, time, 2 a]``.

    Raises:
        InputError: the trajectory does not hold what the teachers said.

    Reference:
        Rusu et al. 2016, Policy distillation, arXiv:1511.06295. Departs from it: all rounds' data are kept; the student
        may act in later rounds (Czarnecki et al. 2019 compare both); continuous actions.
    """

    name: ClassVar[str] = "distillation"
    summary: ClassVar[str] = "one policy that matches what many teachers would do"
    reference: ClassVar[str] = "Rusu et al. 2016, arXiv:1511.06295"
    acts: ClassVar[tuple[Kind, ...]] = ("classification", "regression")

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 64,
        temperature: float = 1.0,
        entropy_weight: float = 0.0,
        decay: float = 1.0,
        heads: int = 0,
        share: Sharing = "trunk",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        if temperature <= 0:
            raise InputError(f"Expected a temperature above 0. Found {temperature}.")
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.temperature, self.entropy_weight, self.decay = temperature, entropy_weight, decay
        self.actor = Actor(problem, width, generator, heads=heads, share=share)

    def teacher_share(self, round: int) -> float:
        """All of the first round, and as much of the others as ``decay`` says."""
        return self.decay**round

    def explorer(self) -> Memoryless:
        """Draws from what was learned."""
        return drawn_from(self.actor.distribution)

    def predict(self, observation: Tensor) -> Prediction:
        """The policy. Shape: ``[T, m, *o]`` to logits ``[T, m, actions]``, or a distribution over ``[T, m, a]``."""
        return self.actor.predict(observation)

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """The policy, whatever was read: a task shows in the observation or not at all."""
        return self.predict

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """How far the policy is from each task's teacher, less its own entropy's worth. Shape: ``[T]``."""
        if not isinstance(trajectory, Advised) or trajectory.advice is None:
            raise InputError(
                "Expected what the teachers said (`advice`): logits, or mean and log-deviation. Found none in the "
                "trajectory. Give fit_imitation a teacher that says it: Adviser(method)."
            )
        far = self.divergence(trajectory.advice, trajectory.observation)
        if self.entropy_weight:
            far = far - self.entropy_weight * log_prob_of(self.actor, trajectory)[1]
        return far.mean(1)

    def divergence(self, advice: Tensor, observation: Tensor) -> Tensor:
        """KL(teacher || student). Shape: ``[T, time]``."""
        if self.problem.kind == "classification":
            theirs, own = F.log_softmax(advice / self.temperature, -1), F.log_softmax(self.actor(observation), -1)
            return (theirs.exp() * (theirs - own)).sum(-1)
        mean, log_deviation = advice.chunk(2, -1)
        teacher = Normal(mean, self.temperature * log_deviation.exp(), validate_args=False)
        student = self.actor.distribution(observation)
        assert isinstance(student, Independent)
        return torch.distributions.kl_divergence(teacher, student.base_dist).sum(-1)


class Adviser(Memoryless):
    """A trained method that teaches: draws its actions, and says how likely it finds each.

    Its policy may know all tasks (:class:`PPO` with ``heads`` and ``share="nothing"`` is as many teachers as tasks).

    Args:
        method: gives logits or values of actions, or a normal distribution over continuous ones.
        seen: how many of the observation's numbers it sees, the first ones; None for all. A teacher that was trained
            without the task's identity teaches a student that sees it.
    """

    def __init__(self, method: Predicts, seen: int | None = None) -> None:
        self.method, self.seen = method, seen
        super().__init__(self.chosen)

    def predict(self, observation: Tensor) -> Prediction:
        """What the teacher thinks. Shape: ``[T, *o]`` to ``[T, actions]``, or a distribution over ``[T, a]``."""
        return self.method.predict(observation if self.seen is None else observation[..., : self.seen])

    def chosen(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """An action, and its log-probability."""
        found = self.predict(observation)
        over = found if isinstance(found, Distribution) else torch.distributions.Categorical(logits=found)
        action = draw(over, generator)
        return action, over.log_prob(action)

    def advise(self, observation: Tensor) -> Tensor:
        """Logits; or mean and log-deviation, one behind the other. Shape: ``[T, actions]`` or ``[T, 2 a]``."""
        found = self.predict(observation)
        if not isinstance(found, Distribution):
            return found.detach()
        if not (isinstance(found, Independent) and isinstance(found.base_dist, Normal)):
            raise InputError(
                f"Expected a teacher whose continuous actions are normal. Found {type(found).__name__}. "
                "Teach with PPO, or clone its actions with BehaviourCloning."
            )
        return torch.cat([found.mean, found.stddev.log()], -1).detach()
