"""Policies without a memory: nets that give a distribution over actions, and who acts with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from quickstudy.core import InputError, Kind, Prediction, Problem, Trajectory
from quickstudy.methods.rl._critics import Critics, each_its_own
from quickstudy.nets import MLP
from quickstudy.tasks.acting import sent


def check_actions(name: str, acts: tuple[Kind, ...], problem: Problem) -> None:
    """Refuse a problem whose actions a method cannot take.

    Raises:
        InputError: names the kinds that it can.
    """
    if problem.kind not in acts:
        words: dict[Kind, str] = {
            "classification": "discrete actions (kind 'classification')",
            "regression": "continuous actions (kind 'regression')",
        }
        raise InputError(
            f"Expected {' or '.join(words[kind] for kind in acts)} for {name!r}. Found {problem.kind!r}. "
            "Take a method for such actions; `acts` says which those are."
        )


def net(problem: Problem, width: int, outputs: int, generator: torch.Generator, depth: int = 2) -> MLP:
    """Hidden layers over a flattened observation, two unless told otherwise; small last weights.

    The last layer's are a hundredth of the usual, so that a first policy is close to uniform and first values to 0.
    """
    made = MLP((math.prod(problem.x_shape), *[width] * depth, outputs), generator)
    last = made[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(0.01)
    return made


def check_identity(problem: Problem, tasks: int) -> None:
    """Refuse observations that cannot end with the task's identity.

    Raises:
        InputError: they are not flat, or too short to hold it.
    """
    if len(problem.x_shape) != 1 or problem.x_shape[0] < tasks:
        raise InputError(
            f"Expected observations whose last {tasks} numbers are the task's identity, one-hot. Found shape "
            f"{problem.x_shape}. Wrap the environment in SeesIdentity, or set heads=0."
        )


def which_task(seen: Tensor, tasks: int) -> Tensor:
    """The task that is seen. Shape: ``[..., o]``, which ends with the identity, to ``[...]``."""
    return seen[..., -tasks:].argmax(-1)


def of_task(every: Tensor, seen: Tensor, tasks: int) -> Tensor:
    """The outputs of the task that is seen, among those of all tasks side by side.

    Shape:
        ``every [..., tasks * outputs]``, ``seen [..., o]``, which ends with the identity; gives ``[..., outputs]``.
    """
    return (seen[..., -tasks:].unsqueeze(-1) * every.unflatten(-1, (tasks, -1))).sum(-2)


class Heads(nn.Module):
    """Hidden layers that all tasks share, and a last layer for each.

    Args:
        problem: its observations end with the task's identity, one-hot over ``heads`` tasks.
        width: of the hidden layers.
        outputs: of each head.
        heads: how many tasks.
        generator: draws the initial weights.
        depth: how many hidden layers.

    Shape:
        ``[..., o]`` to ``[..., outputs]``.

    Raises:
        InputError: observations are not flat, or too short to hold the identity.
    """

    def __init__(
        self, problem: Problem, width: int, outputs: int, heads: int, generator: torch.Generator, depth: int = 2
    ) -> None:
        super().__init__()
        check_identity(problem, heads)
        self.heads = heads
        self.net = net(problem, width, heads * outputs, generator, depth)

    def forward(self, seen: Tensor) -> Tensor:
        """The task's own outputs."""
        return of_task(self.net(seen), seen, self.heads)


class Apart(nn.Module):
    """A whole net for each task, which shares nothing: what sharing is compared with. All compute side by side.

    Args:
        problem: its observations end with the task's identity, one-hot over ``tasks`` tasks.
        width: of the hidden layers of each net.
        outputs: of each net.
        tasks: how many.
        generator: draws the initial weights.
        depth: how many hidden layers.

    Shape:
        ``[..., o]`` to ``[..., outputs]``.

    Raises:
        InputError: observations are not flat, or too short to hold the identity.
    """

    def __init__(
        self, problem: Problem, width: int, outputs: int, tasks: int, generator: torch.Generator, depth: int = 2
    ) -> None:
        super().__init__()
        check_identity(problem, tasks)
        self.nets = Critics(tasks, (problem.x_shape[0], *[width] * depth, outputs), generator)

    def forward(self, seen: Tensor) -> Tensor:
        """The task's own net's outputs."""
        rows = seen.flatten(0, -2)
        own = each_its_own(self.nets, rows, which_task(rows, self.nets.k), self.nets.k)
        return own.squeeze(0).unflatten(0, seen.shape[:-1])


class Embedded(nn.Module):
    """Inputs in which the task's identity, one-hot, has become a vector that is learned for it.

    Args:
        start: where the identity begins.
        tasks: how many tasks it tells apart.
        size: of the vectors.
        generator: draws them at first, standard normal.

    Shape:
        ``[..., i]`` to ``[..., i - tasks + size]``.
    """

    def __init__(self, start: int, tasks: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.start, self.end = start, start + tasks
        self.vectors = nn.Parameter(torch.randn(tasks, size, generator=generator))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """With the task's vector; with ``frozen`` a gradient reaches the inputs and not the vectors."""
        vectors = self.vectors.detach() if frozen else self.vectors
        return torch.cat([x[..., : self.start], x[..., self.start : self.end] @ vectors, x[..., self.end :]], -1)


def embedded(problem: Problem, tasks: int, size: int, generator: torch.Generator) -> Embedded:
    """Observations, and what may stand behind them, with the task's vector.

    Raises:
        InputError: no numbers; observations are not flat, or too short to hold the identity.
    """
    check_identity(problem, tasks)
    if size < 1:
        raise InputError(f"Expected at least 1 number of a task's embedding. Found {size}. Raise `embedding`.")
    return Embedded(problem.x_shape[0] - tasks, tasks, size, generator)


Sharing = Literal["trunk", "embedding", "nothing"]


def net_for(
    problem: Problem,
    width: int,
    outputs: int,
    generator: torch.Generator,
    heads: int = 0,
    share: Sharing = "trunk",
    depth: int = 2,
    embedding: int = 4,
) -> nn.Module:
    """A net of the kind that was asked for: one for all tasks, which may have a vector or a head each, or one for each.

    Args:
        problem: what is seen.
        width: of the hidden layers.
        outputs: of the net.
        generator: draws the initial weights.
        heads: how many tasks have their own; 0 for one net for all.
        share: what tasks with their own have in common: the hidden layers ("trunk"), all but a learned vector that
            stands for the task's identity ("embedding"), or "nothing".
        depth: how many hidden layers.
        embedding: numbers of such a vector.

    Raises:
        InputError: no such sharing; observations that cannot end with the identity.
    """
    if share not in ("trunk", "embedding", "nothing"):
        raise InputError(f"Expected share 'trunk', 'embedding' or 'nothing'. Found {share!r}.")
    if not heads:
        return net(problem, width, outputs, generator, depth)
    if share == "embedding":
        before = embedded(problem, heads, embedding, generator)
        shorter = replace(problem, x_shape=(before.start + embedding,))
        return nn.Sequential(before, net(shorter, width, outputs, generator, depth))
    return (Heads if share == "trunk" else Apart)(problem, width, outputs, heads, generator, depth)


class Actor(nn.Module):
    r"""A distribution over actions, given what is seen.

    Discrete: :math:`softmax(f(o))`. Continuous: :math:`N(f(o), diag(\sigma^2))` with a deviation that does not hang
    on what is seen (:func:`gaussian`).

    Args:
        problem: what is seen and done.
        width: of the two hidden layers.
        generator: draws the initial weights.
        deviation: first :math:`\sigma`.
        heads: last layers, one a task, where observations end with the task's identity; 0 for one that all share.
        share: what tasks with heads have in common, see :func:`net_for`.
        embedding: numbers of a task's vector, where that is all it has of its own.

    Shape:
        ``[..., *o]`` to a distribution over ``[...]`` or ``[..., a]``; two leading axes or one.
    """

    net: nn.Module

    def __init__(
        self,
        problem: Problem,
        width: int,
        generator: torch.Generator,
        deviation: float = 0.6,
        heads: int = 0,
        share: Sharing = "trunk",
        embedding: int = 4,
    ) -> None:
        super().__init__()
        self.axes, self.discrete = len(problem.x_shape), problem.kind == "classification"
        self.net = net_for(problem, width, problem.n_outputs, generator, heads, share, embedding=embedding)
        if not self.discrete:
            self.own = heads if share == "nothing" else 0  # where nothing is shared, each task has its deviation
            shape = (self.own, problem.n_outputs) if self.own else (problem.n_outputs,)
            self.log_deviation = nn.Parameter(torch.full(shape, math.log(deviation)))

    def forward(self, observation: Tensor) -> Tensor:
        """Logits, or the mean action."""
        return self.net(flat(observation, self.axes))

    def distribution(self, observation: Tensor) -> Distribution:
        """Over the actions."""
        output = self(observation)
        if self.discrete:
            return Categorical(logits=output, validate_args=False)
        own = self.log_deviation[which_task(observation, self.own)] if self.own else self.log_deviation
        return gaussian(output, own)

    def predict(self, observation: Tensor) -> Prediction:
        """What ``adapt`` promises: logits, or a distribution."""
        return self(observation) if self.discrete else self.distribution(observation)


def gaussian(mean: Tensor, log_deviation: Tensor) -> Distribution:
    r""":math:`N(\mu, diag(\sigma^2))` over continuous actions; the environment clips it to its bounds.

    Shape:
        ``mean [..., a]``; the log-deviation alike, or ``[a]`` for all.
    """
    normal = Normal(mean, log_deviation.exp().expand_as(mean), validate_args=False)
    return Independent(normal, 1, validate_args=False)


def flat(observation: Tensor, axes: int) -> Tensor:
    """The axes of one observation made one. Shape: ``[..., *o]`` to ``[..., o]``."""
    if axes == 1:
        return observation
    return observation.unsqueeze(-1) if axes == 0 else observation.flatten(-axes)


class SquashedNormal(Distribution):
    r""":math:`a = \tanh(u)`, :math:`u \sim N(\mu, diag(\sigma^2))`: actions in (-1, 1).

    .. math::
        \log \pi(a) = \log N(u; \mu, \sigma^2) - \sum_i \log(1 - \tanh^2 u_i)

    (Haarnoja et al. 2018, appendix C). Mean and variance are exact up to quadrature with 32 nodes.

    Shape:
        ``loc`` and ``scale`` ``[..., a]``; actions ``[..., a]``, their log-probabilities ``[...]``.
    """

    has_rsample = True
    arg_constraints: dict[str, Any] = {}

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def at(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The action that standard normal draws make, and its log-probability; both carry gradients."""
        raw = self.loc + self.scale * noise
        normal = -0.5 * noise.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which does not round to log 0
        squash = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
        return raw.tanh(), (normal - squash).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of actions in [-1, 1]; the bounds themselves count as the number next to them."""
        edge = 1 - torch.finfo(value.dtype).eps
        raw = value.clamp(-edge, edge).atanh()
        return self.at((raw - self.loc) / self.scale)[1]

    @property
    def mode(self) -> Tensor:
        r""":math:`\tanh(\mu)`: the middle action, which is what is done where chance is unwanted."""
        return self.loc.tanh()

    @property
    def mean(self) -> Tensor:
        """Of the actions."""
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        """Of the actions."""
        return self._moment(2) - self._moment(1).square()

    def _moment(self, power: int) -> Tensor:
        """Gauss-Hermite quadrature of a power."""
        node, weight = (self.loc.new_tensor(part) for part in np.polynomial.hermite_e.hermegauss(32))
        values = (self.loc.unsqueeze(-1) + self.scale.unsqueeze(-1) * node).tanh() ** power
        return (values * weight).sum(-1) / weight.sum()


def draw(distribution: Distribution, generator: torch.Generator) -> Tensor:
    """One action from each, by the generator that is given (torch's own ``sample`` knows the global one only)."""
    if isinstance(distribution, Categorical):
        probs = distribution.probs
        return sent(torch.multinomial(probs.to(generator.device), 1, generator=generator), probs).squeeze(-1)
    if isinstance(distribution, SquashedNormal):
        loc = distribution.loc
        noise = torch.randn(loc.shape, generator=generator, device=generator.device)
        return (loc + distribution.scale * sent(noise, loc).to(loc)).tanh()
    mean = distribution.mean
    noise = sent(torch.randn(mean.shape, generator=generator, device=generator.device), mean).to(mean)
    return mean + distribution.stddev * noise


class Memoryless:
    """Remembers nothing of a task: what it does hangs on what it sees.

    Args:
        choose: observation ``[T, *o]`` and generator to action and log-probability (NaN where not known).
    """

    def __init__(self, choose: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]) -> None:
        self.choose = choose

    def start(self, n_tasks: int) -> Tensor:
        """Nothing. Shape: ``[T, 0]``."""
        return torch.zeros(n_tasks, 0)

    def act(self, observation: Tensor, memory: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Choose by what is seen."""
        return *self.choose(observation, generator), memory

    def learn(self, memory: Tensor, action: Tensor, reward: Tensor, done: Tensor) -> Tensor:
        """Nothing."""
        return memory


def drawn_from(distribution: Callable[[Tensor], Distribution]) -> Memoryless:
    """Who draws its actions from a distribution that hangs on what it sees."""

    def choose(observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        over = distribution(observation)
        action = draw(over, generator)
        return action, over.log_prob(action)

    return Memoryless(choose)


class Predicts(Protocol):
    """A method whose policy hangs on nothing but what it sees."""

    problem: Problem

    def predict(self, observation: Tensor) -> Prediction:
        """What ``adapt`` gives, whatever it read."""


def best_of(method: Predicts) -> Memoryless:
    """Who does what a method thinks best and leaves nothing to chance: to be judged by.

    The largest logit of discrete actions; the middle of a distribution over continuous ones.
    """

    def choose(observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        found = method.predict(observation.unsqueeze(1))
        action = (found.mode if isinstance(found, Distribution) else found)[:, 0]
        if method.problem.kind == "classification":
            action = action.argmax(-1)
        return action, torch.full((len(action),), torch.nan, device=action.device)

    return Memoryless(choose)


def log_prob_of(actor: Actor, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
    """Log-probability of what was done, and the policy's entropy. Shape: both ``[T, time]``."""
    over = actor.distribution(trajectory.observation)
    return over.log_prob(trajectory.action), over.entropy()
