"""RL2: a recurrent policy whose memory is the learning algorithm."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Explorer, InputError, Kind, Prediction, Predictor, Problem, Trajectory
from quickstudy.methods.rl._policies import check_actions, draw, gaussian
from quickstudy.methods.rl._returns import Value, advantages, reach, value_error
from quickstudy.tasks.acting import sent


class RL2(Explorer):
    r"""Learn to learn by reinforcement learning: a recurrent net acts through a whole trial of an unknown task.

    At every step the net reads the observation and what became of the step before: action, reward, whether an
    episode ended. Its memory is kept across the episodes of a task and begins anew in the next. What is maximised is
    the discounted reward of the whole trial, by the clipped policy gradient with a learned baseline:

    .. math::
        h_s = GRU(h_{s-1}, (o_s, a_{s-1}, r_{s-1}, d_{s-1})), \quad \pi(a \mid h_s)

        L_t = \frac{1}{S} \sum_s -\min(\rho_s A_s, clip(\rho_s, 1 \pm \epsilon) A_s)
              + c_v (1 - \gamma)^2 (V_s - G_s)^2 - c_e H(\pi(\cdot \mid h_s))

    with :math:`\rho_s` the ratio of the action's probability to what it was when it was taken, the baseline
    :math:`V_s` a second net of the same make, and the advantages :math:`A_s` and returns :math:`G_s = A_s + V_s` by
    GAE. Nothing is credited after the end of the trial.

    Continuous actions are drawn from :math:`N(W h_s + b, diag(\sigma^2))`, as PPO's are, and read as the environment
    takes them: a number beyond the bounds as the bound.

    A trial is a number of steps here. Where each step earns the same and an episode's end begins the next, as on a
    cart-pole that stands or falls, a trial therefore earns the same whatever is done, and nothing can be learned from
    it. ``credit="episode"`` lets each episode count for itself, as PPO does; the memory still spans the trial.

    Args:
        problem: what is seen and done; its outputs are the discrete actions, or the numbers of a continuous one.
        width: numbers in the memory.
        discount: of later rewards.
        gae: lambda of the generalised advantage estimate.
        clip: epsilon, how far a probability may move before its gradient stops.
        value_weight: c_v.
        entropy_weight: c_e.
        credit: what an action is credited with: all that the trial earns after it, so that exploring in one episode
            pays in the next ("trial"), or what its episode earns ("episode").
        deviation: first :math:`\sigma` of continuous actions.
        generator: draws the initial weights.

    Shape:
        observation ``[T, time, *o]``, action ``[T, time]`` or ``[T, time, a]``, logits ``[T, m, actions]``,
        memory ``[T, width + actions + 2]``: the net's, then last action (one-hot, or its a numbers), reward and done.

    Raises:
        InputError: no such credit; for an episode's credit, a trajectory that does not tell where
            its steps led.

    Reference:
        Duan et al. 2016, RL2: Fast Reinforcement Learning via Slow Reinforcement Learning, arXiv:1611.02779;
        Wang et al. 2016, Learning to reinforcement learn, arXiv:1611.05763. Departs from Duan et al.: PPO's
        clipped step (Schulman et al. 2017, arXiv:1707.06347) for TRPO, width 64 for 256, lambda 0.7 for 0.3; values
        are learned in units of 1 / (1 - gamma); an episode's credit.
    """

    name: ClassVar[str] = "rl2"
    summary: ClassVar[str] = "a recurrent policy that learns a task while it acts in it"
    reference: ClassVar[str] = "Duan et al. 2016, arXiv:1611.02779"
    acts: ClassVar[tuple[Kind, ...]] = ("classification", "regression")
    exploring: ClassVar[bool] = True  # it remembers the trial, and is trained on the whole of it
    lr: ClassVar[float] = 1e-2
    passes: ClassVar[int] = 8
    order_free: bool = False

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 64,
        discount: float = 0.99,
        gae: float = 0.7,
        clip: float = 0.2,
        value_weight: float = 0.5,
        entropy_weight: float = 0.01,
        credit: Literal["trial", "episode"] = "trial",
        deviation: float = 0.6,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        check_actions(self.name, self.acts, problem)
        if credit not in ("trial", "episode"):
            raise InputError(f"Expected credit 'trial' or 'episode'. Found {credit!r}.")
        self.actions, self.width, self.discrete = problem.n_outputs, width, problem.kind == "classification"
        self.discount, self.gae, self.clip = discount, gae, clip
        self.value_weight, self.entropy_weight, self.credit = value_weight, entropy_weight, credit
        inputs = torch.Size(problem.x_shape).numel() + self.actions + 2
        self.memory = nn.GRU(inputs, width, batch_first=True)
        self.policy_head = nn.Linear(width, self.actions)
        if not self.discrete:
            self.log_deviation = nn.Parameter(torch.full((self.actions,), math.log(deviation)))
        self.value_memory = nn.GRU(inputs, width, batch_first=True)
        self.value_head = Value(nn.Linear(width, 1), discount)
        self._initialise(torch.Generator().manual_seed(0) if generator is None else generator)

    def _initialise(self, generator: torch.Generator) -> None:
        """All weights orthogonal, gate by gate; biases zero. First continuous actions are near the middle, as PPO's."""
        for name, value in (*self.memory.named_parameters(), *self.value_memory.named_parameters()):
            if "bias" in name:
                nn.init.zeros_(value)
            else:
                for gate in value.chunk(3):
                    nn.init.orthogonal_(gate.data, generator=generator)
        for head in (self.policy_head, self.value_head):
            weight, bias = head.parameters()
            nn.init.orthogonal_(weight, generator=generator)
            nn.init.zeros_(bias)
        with torch.no_grad():  # first values are no larger than a reward, whatever they are learned in units of
            next(self.value_head.parameters()).div_(reach(self.discount))
            if not self.discrete:
                self.policy_head.weight.mul_(0.01)

    def explorer(self) -> RecurrentPolicy:
        """The net itself: it explores as it has learned to."""
        return RecurrentPolicy(self)

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """Read each task's history; what is learned of the task is the memory after it."""
        policy = self.explorer()
        memory = policy.start(len(support.action))
        for observation, action, reward, done in zip(
            support.observation.unbind(1),
            support.action.unbind(1),
            support.reward.unbind(1),
            support.done.unbind(1),
            strict=True,
        ):
            memory = policy.learn(self.see(observation, memory), action, reward, done)

        def predict(observation: Tensor) -> Prediction:
            m = observation.shape[1]
            seen = self.see(observation.flatten(0, 1), memory.repeat_interleave(m, 0))
            output: Tensor = self.policy_head(seen[:, : self.width]).unflatten(0, (-1, m))
            return output if self.discrete else gaussian(output, self.log_deviation)

        return predict

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """The clipped policy gradient's loss of each task's trial. Shape: ``[T]``."""
        log_prob, entropy = self._policy(self.memory(self._inputs(trajectory))[0], trajectory.action)
        value, advantage = self._judge(trajectory)
        ratio = (log_prob - trajectory.log_prob).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)
        error = value_error(value, advantage + value.detach(), self.discount)
        return (-gain + self.value_weight * error - self.entropy_weight * entropy).mean(1)

    def see(self, observation: Tensor, memory: Tensor) -> Tensor:
        """The memory after an observation. Shape: ``[T, *o]``, ``[T, memory]`` to ``[T, memory]``."""
        h, before = memory[:, : self.width], memory[:, self.width :]
        x = torch.cat([observation.flatten(1), before], 1)
        _, h = self.memory(x.unsqueeze(1), h.unsqueeze(0).contiguous())
        return torch.cat([h.squeeze(0), before], 1)

    def noted(self, action: Tensor) -> Tensor:
        """An action as the nets read it. Shape: ``[...]`` or ``[..., a]`` to ``[..., actions]``."""
        return F.one_hot(action, self.actions) if self.discrete else action.clamp(-1, 1)

    def _policy(self, h: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of what was done, and the policy's entropy. Shape: ``[T, time, width]`` to ``[T, time]``."""
        if not self.discrete:
            over = gaussian(self.policy_head(h), self.log_deviation)
            return over.log_prob(action), over.entropy()
        log_pi = F.log_softmax(self.policy_head(h), -1)
        return log_pi.gather(-1, action.unsqueeze(-1)).squeeze(-1), -(log_pi.exp() * log_pi).sum(-1)

    def _inputs(self, trajectory: Trajectory) -> Tensor:
        """What the nets read at every step of a trajectory. Shape: ``[T, time, inputs]``."""
        before = F.pad(self._outcome(trajectory), (0, 0, 1, 0))[:, :-1]  # at the first step nothing has happened yet
        return torch.cat([trajectory.observation.flatten(2), before], -1)

    def _outcome(self, trajectory: Trajectory) -> Tensor:
        """What became of every step: action, reward, done. Shape: ``[T, time, actions + 2]``."""
        done = trajectory.done.to(trajectory.reward.dtype)
        return torch.cat([self.noted(trajectory.action), trajectory.reward.unsqueeze(-1), done.unsqueeze(-1)], -1)

    def _judge(self, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        """What the value net says before each step, and the step's advantage by it. Shape: both ``[T, time]``."""
        memory = self.value_memory(self._inputs(trajectory))[0]
        value = self.value_head(memory).squeeze(-1)
        with torch.no_grad():
            if self.credit == "trial":  # goes on over all episodes, and is worth nothing after the last step
                after, never = F.pad(value, (0, 1))[:, 1:], torch.zeros_like(value)
                done, terminated = never, never
            else:
                done, (terminated, _) = trajectory.done, trajectory.ends()
                after = self._following(trajectory, memory)
            advantage = advantages(trajectory.reward, value, after, done, terminated, self.discount, self.gae)
        return value, advantage

    def _following(self, trajectory: Trajectory, memory: Tensor) -> Tensor:
        """The value of where each step led, also where its episode was cut off. Shape: ``[T, time]``."""
        x = torch.cat([trajectory.ends()[1].flatten(2), self._outcome(trajectory)], -1)
        _, h = self.value_memory(x.flatten(0, 1).unsqueeze(1), memory.flatten(0, 1).unsqueeze(0))
        value: Tensor = self.value_head(h).view(trajectory.reward.shape)
        return value


class RecurrentPolicy:
    """Acts with an :class:`RL2`'s net; all that it knows of a task is in the memory it is given."""

    def __init__(self, method: RL2) -> None:
        self.method = method

    def start(self, n_tasks: int) -> Tensor:
        """Nothing remembered, nothing done. Shape: ``[T, memory]``."""
        bias = self.method.policy_head.bias
        return bias.new_zeros(n_tasks, self.method.width + self.method.actions + 2)

    def act(self, observation: Tensor, memory: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw each task's action from the policy."""
        memory = self.method.see(observation, memory)
        output = self.method.policy_head(memory[:, : self.method.width])
        if not self.method.discrete:
            over = gaussian(output, self.method.log_deviation)
            drawn = draw(over, generator)
            return drawn, over.log_prob(drawn), memory
        log_pi = F.log_softmax(output, -1)
        action = sent(torch.multinomial(log_pi.exp().to(generator.device), 1, generator=generator), log_pi)
        return action.squeeze(1), log_pi.gather(1, action).squeeze(1), memory

    def learn(self, memory: Tensor, action: Tensor, reward: Tensor, done: Tensor) -> Tensor:
        """Note what was done and what came of it, to be read with the next observation."""
        done, noted = done.to(reward.dtype), self.method.noted(action)
        return torch.cat([memory[:, : self.method.width], noted, reward.unsqueeze(1), done.unsqueeze(1)], 1)
