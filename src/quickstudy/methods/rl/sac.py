"""SAC: an actor and two critics that maximise reward and entropy, from a memory of the past."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from quickstudy.core import Explorer, InputError, Kind, Prediction, Predictor, Problem, Replayed, Trajectory
from quickstudy.methods.rl._critics import Critics, each_its_own, follow, target_of
from quickstudy.methods.rl._policies import (
    Memoryless,
    Sharing,
    SquashedNormal,
    check_actions,
    draw,
    drawn_from,
    embedded,
    flat,
    net_for,
    of_task,
    which_task,
)


class SAC(Explorer):
    r"""Soft actor-critic with a learned temperature (Haarnoja et al. 2018b, sections 4 to 6).

    .. math::
        V(o) = E_{a \sim \pi} [\min_k Q_k(o, a) - \alpha \log \pi(a \mid o)]

        L_Q = \sum_k (Q_k(o, a) - r - \gamma (1 - terminated) \bar V(o'))^2, \quad
        L_\pi = -V_{const}(o), \quad L_\alpha = \alpha (H(\pi(\cdot \mid o)) - \bar H)

    Target nets give :math:`\bar V`; the policy's loss moves the policy only, through the action that it draws
    (:math:`a = \tanh(\mu + \sigma \epsilon)`, with the draws' noise in the data, see :class:`Replayed`). For discrete
    actions the expectations over actions are exact sums (Christodoulou 2019). The losses of all parts are added and
    one Adam moves them, which is the same as an Adam for each.

    Args:
        problem: what is seen and done.
        width: of the hidden layers of each net.
        discount: gamma.
        rate: how fast the targets follow, a share a step.
        temperature: alpha to begin with.
        learn_temperature: whether alpha moves so that the entropy comes to ``entropy``.
        entropy: the entropy to aim at; None stands for minus the number of continuous actions' dimensions, and for
            half of the largest possible for discrete ones.
        heads: last layers of policy and critics, one a task, and a temperature for each, where observations end with
            the task's identity (see :class:`quickstudy.tasks.identity.SeesIdentity`); 0 for one that all tasks share.
        share: what tasks with heads have in common: the hidden layers ("trunk"); all but a learned vector, which the
            nets see in place of the identity ("embedding"); or "nothing", which makes them independent.
        embedding: numbers of that vector.
        depth: how many hidden layers each net has.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]`` or ``[T, time, a]``; the predictor gives logits
        ``[T, m, actions]``, or a distribution over ``[T, m, a]``.

    Raises:
        InputError: a trajectory that does not tell where its steps led, or holds no noise.

    Reference:
        Haarnoja et al. 2018b, Soft actor-critic algorithms and applications, arXiv:1812.05905; Christodoulou 2019,
        Soft actor-critic for discrete action settings, arXiv:1910.07207. Departs from them: the temperature's
        gradient is taken for its logarithm without the factor alpha, as common code does; the discrete variant aims
        at half of the largest entropy, where the paper's 0.98 leaves a policy close to uniform.
    """

    name: ClassVar[str] = "sac"
    summary: ClassVar[str] = "actor and twin critics that maximise reward and entropy"
    reference: ClassVar[str] = "Haarnoja et al. 2018, arXiv:1812.05905"
    off_policy: ClassVar[bool] = True  # critics by the Bellman equation; the actor's actions are its own
    acts: ClassVar[tuple[Kind, ...]] = ("classification", "regression")

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 128,
        discount: float = 0.99,
        rate: float = 0.005,
        temperature: float = 0.2,
        learn_temperature: bool = True,
        entropy: float | None = None,
        heads: int = 0,
        share: Sharing = "trunk",
        embedding: int = 4,
        depth: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.discount, self.rate, self.discrete = discount, rate, problem.kind == "classification"
        actions, seen = problem.n_outputs, math.prod(problem.x_shape)
        self.aim = entropy if entropy is not None else 0.5 * math.log(actions) if self.discrete else -float(actions)
        self.heads, self.apart = heads, heads > 0 and share == "nothing"
        self.headed, before = heads > 0 and share == "trunk", None
        inputs, outputs = (seen, actions) if self.discrete else (seen + actions, 1)
        chosen = actions if self.discrete else 2 * actions
        self.actor = net_for(problem, width, chosen, generator, heads, share, depth, embedding)
        if heads and share == "embedding":
            before, inputs = embedded(problem, heads, embedding, generator), inputs - heads + embedding
        # with heads, a critic gives the values of all tasks side by side; where nothing is shared, each task has two
        wide = outputs * heads if self.headed else outputs
        self.critics = Critics(2 * heads if self.apart else 2, (inputs, *[width] * depth, wide), generator, before)
        self.target = target_of(self.critics)
        self.learns_temperature = learn_temperature
        first = torch.full((heads,) if heads else (), math.log(temperature))
        self.log_temperature = nn.Parameter(first, requires_grad=learn_temperature)

    def explorer(self) -> Memoryless:
        """Draws from the policy. Of continuous actions it does not tell the log-probabilities: nothing here asks."""
        if self.discrete:
            return drawn_from(self.distribution)

        def choose(observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            action = draw(self.distribution(observation), generator)
            return action, torch.full_like(action[:, 0], torch.nan)

        return Memoryless(choose)

    def distribution(self, observation: Tensor) -> Distribution:
        """The policy. Shape: ``[..., *o]`` to a distribution over ``[...]`` or ``[..., a]``."""
        output = self.actor(flat(observation, len(self.problem.x_shape)))
        if self.discrete:
            return Categorical(logits=output, validate_args=False)
        mean, log_deviation = output.chunk(2, -1)
        return SquashedNormal(mean, log_deviation.clamp(-5, 2).exp())

    def predict(self, observation: Tensor) -> Prediction:
        """Logits, or the distribution over continuous actions."""
        over = self.distribution(observation)
        return over.logits if isinstance(over, Categorical) else over

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """The policy, whatever was read: a task shows in the observation or not at all."""
        return self.predict

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """The losses of critics, policy and temperature, added, task by task. Shape: ``[T]``."""
        terminated, after = trajectory.ends()
        noise = self._noise(trajectory)
        log_temperature = self.own_temperature(trajectory.observation)
        temperature = log_temperature.exp().detach()
        with torch.no_grad():
            reward, entropy = self.worth(after, noise[:, :, 1], self.target)
            following = reward + temperature * entropy
            y = trajectory.reward + self.discount * (1 - terminated) * following
        error = (self.value(trajectory) - y).square().sum(0)
        reward, entropy = self.worth(trajectory.observation, noise[:, :, 0], self.critics)
        policy = -(reward + temperature * entropy)
        loss = error + policy
        if self.learns_temperature:
            loss = loss + log_temperature * (entropy.detach() - self.aim)
        return loss.mean(1)

    def own_temperature(self, observation: Tensor) -> Tensor:
        """The logarithm of each task's temperature. Shape: ``[T, time]``, or none where all share one."""
        return (observation[..., -self.heads :] * self.log_temperature).sum(-1) if self.heads else self.log_temperature

    def value(self, trajectory: Trajectory) -> Tensor:
        """Both critics' values of what was done. Shape: ``[2, T, time]``."""
        seen = flat(trajectory.observation, len(self.problem.x_shape))
        if self.discrete:
            every = self.judged(self.critics, seen, seen)
            return every.gather(-1, trajectory.action.expand(2, -1, -1).unsqueeze(-1)).squeeze(-1)
        return self.judged(self.critics, torch.cat([seen, trajectory.action], -1), seen).squeeze(-1)

    def worth(self, observation: Tensor, noise: Tensor, critics: Critics) -> tuple[Tensor, Tensor]:
        """The smaller value of what the policy would do, and its entropy; critics are held. Shape: ``[T, time]``."""
        seen, over = flat(observation, len(self.problem.x_shape)), self.distribution(observation)
        if isinstance(over, Categorical):
            values = self.judged(critics, seen, seen, frozen=True).amin(0)
            return (over.probs * values).sum(-1), over.entropy()
        assert isinstance(over, SquashedNormal)
        action, log_prob = over.at(noise)
        values = self.judged(critics, torch.cat([seen, action], -1), seen, frozen=True)
        return values.amin(0).squeeze(-1), -log_prob

    def judged(self, critics: Critics, inputs: Tensor, seen: Tensor, frozen: bool = False) -> Tensor:
        """What both critics say, of each task its own. Shape: ``[T, time, inputs]`` to ``[2, T, time, outputs]``."""
        rows = inputs.flatten(0, 1)
        if self.apart:
            own = each_its_own(critics, rows, which_task(seen.flatten(0, 1), self.heads), self.heads, frozen=frozen)
            return own.unflatten(1, seen.shape[:2])
        every = critics(rows, frozen=frozen).unflatten(1, seen.shape[:2])
        return of_task(every, seen, self.heads) if self.headed else every

    def _noise(self, trajectory: Trajectory) -> Tensor:
        """The data's draws. Shape: ``[T, time, 2, a]``."""
        if self.discrete:
            return trajectory.reward.new_zeros(*trajectory.reward.shape, 2, 0)
        if not isinstance(trajectory, Replayed) or trajectory.noise is None:
            raise InputError(
                "Expected steps drawn from a memory, with noise (`Replayed`), to draw actions by. Found a trajectory "
                "without. Train with quickstudy.training.fit_off_policy."
            )
        return trajectory.noise

    def follow(self) -> None:
        """The targets move a little."""
        follow(self.target, self.critics, self.rate)
