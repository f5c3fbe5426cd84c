"""The types that every part shares: tasks' data, a problem, a method, a number.

Axes are named once, here, and used in every docstring:

- ``T`` tasks, ``n`` examples of a task, ``*x`` the shape of one input;
- ``N`` classes of one task, ``d`` numbers that a regression predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

Kind = Literal["classification", "regression"]
Prediction = Tensor | Distribution
Predictor = Callable[[Tensor], Prediction]


class QuickstudyError(Exception):
    """Root of the library's own errors. Every message says what was expected, what was found, what to do."""


class InputError(QuickstudyError, ValueError):
    """Something that the caller gave is unusable: data, an option, a file."""


class RunError(QuickstudyError, RuntimeError):
    """A run could not go on: a full disk, a checkpoint of another version, a loss that is not finite."""


@dataclass(frozen=True)
class Batch:
    """Examples of T tasks at once.

    Args:
        x: inputs.
        y: class indices 0..N-1 (int64), or regression targets (float).
        weight: 1 for an example, 0 for padding; None stands for all ones. Unequal shots are padded.
        unlabelled: further inputs of each task, without labels and without padding, for methods that learn from
            such too; all others pass them by. None where there are none.

    Shape:
        ``x [T, n, *x]``, ``y [T, n]`` (classes) or ``[T, n, d]`` (regression), ``weight [T, n]``,
        ``unlabelled [T, u, *x]``.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None = None
    unlabelled: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.shape[:2] != self.y.shape[:2]:
            raise InputError(
                f"x and y must agree in their axes [T, n]. Found x {tuple(self.x.shape)} and "
                f"y {tuple(self.y.shape)}. Give both a leading task axis and one row an example."
            )
        if self.weight is not None and self.weight.shape != self.y.shape[:2]:
            raise InputError(
                f"weight must have the axes [T, n] = {tuple(self.y.shape[:2])}. Found {tuple(self.weight.shape)}."
            )
        more = self.unlabelled
        if more is not None and (more.shape[:1] != self.x.shape[:1] or more.shape[2:] != self.x.shape[2:]):
            raise InputError(
                f"unlabelled must have the axes [T, u, *x] of x {tuple(self.x.shape)}. Found {tuple(more.shape)}. "
                "Give inputs of the same shape, as many for every task."
            )

    @property
    def n_tasks(self) -> int:
        """T, the number of tasks."""
        return self.x.shape[0]

    @property
    def n(self) -> int:
        """The number of examples of a task, padding included."""
        return self.x.shape[1]

    @property
    def weights(self) -> Tensor:
        """``weight``, or ones. Shape: ``[T, n]``."""
        return self.x.new_ones(self.y.shape[:2]) if self.weight is None else self.weight

    def tasks(self, index: slice | Tensor) -> Self:
        """The same examples of some of the tasks."""
        weight = None if self.weight is None else self.weight[index]
        unlabelled = None if self.unlabelled is None else self.unlabelled[index]
        return replace(self, x=self.x[index], y=self.y[index], weight=weight, unlabelled=unlabelled)

    def join(self, other: Batch) -> Batch:
        """Both batches' examples, task by task, and the first's unlabelled ones. Shape: ``[T, n + other.n, ...]``."""
        weight = None
        if self.weight is not None or other.weight is not None:
            weight = torch.cat([self.weights, other.weights], 1)
        return Batch(torch.cat([self.x, other.x], 1), torch.cat([self.y, other.y], 1), weight, self.unlabelled)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        weight = None if self.weight is None else self.weight.to(device)
        unlabelled = None if self.unlabelled is None else self.unlabelled.to(device)
        return replace(self, x=self.x.to(device), y=self.y.to(device), weight=weight, unlabelled=unlabelled)


@dataclass(frozen=True)
class Episodes:
    """T tasks, each with the examples to learn from and the examples to be judged on.

    Args:
        support: what ``adapt`` reads (the lectures' D_tr).
        query: what the predictor is scored on (D_test); disjoint from the support.
        task: ids 0..n_tasks-1 of training tasks that have an identity; None for tasks never met before.
        classes: for class episodes, which training class each of the N labels stands for; None elsewhere.

    Shape:
        ``task [T]``, ``classes [T, N]``, both int64.
    """

    support: Batch
    query: Batch
    task: Tensor | None = None
    classes: Tensor | None = None

    @property
    def n_tasks(self) -> int:
        """T, the number of tasks."""
        return self.support.n_tasks

    def tasks(self, index: slice | Tensor) -> Episodes:
        """Some of the tasks."""
        pick = lambda value: None if value is None else value[index]  # noqa: E731
        return Episodes(self.support.tasks(index), self.query.tasks(index), pick(self.task), pick(self.classes))

    def chunks(self, size: int) -> Iterator[Episodes]:
        """The tasks in groups of at most ``size``."""
        for start in range(0, self.n_tasks, size):
            yield self.tasks(slice(start, start + size))

    def to(self, device: torch.device | str) -> Episodes:
        """The same episodes on another device."""
        move = lambda value: None if value is None else value.to(device)  # noqa: E731
        return Episodes(self.support.to(device), self.query.to(device), move(self.task), move(self.classes))


@dataclass(frozen=True)
class Trajectory:
    """What T tasks' policies saw and did, in time order, over one or several episodes of each task.

    Args:
        observation: what the policy saw before it acted.
        action: what it did (int64 for discrete actions).
        reward: what it got for it.
        done: 1 where an episode ended with this step, for whatever reason.
        log_prob: log-probability of the action when it was taken.
        terminated: 1 where nothing would have followed. Where an episode was merely cut off (``done`` without
            ``terminated``), more would have, and a value of ``after`` may stand for it.
        after: the observation that the step led to, also where the episode ended; never the next episode's first.

    Shape:
        ``observation`` and ``after`` ``[T, time, *o]``, ``action [T, time]`` or ``[T, time, a]``, the others
        ``[T, time]``.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    done: Tensor
    log_prob: Tensor
    terminated: Tensor | None = None
    after: Tensor | None = None

    def tasks(self, index: slice | Tensor) -> Self:
        """Some of the tasks."""
        pick: dict[str, Any] = {name: None if value is None else value[index] for name, value in vars(self).items()}
        return replace(self, **pick)

    def ends(self) -> tuple[Tensor, Tensor]:
        """``terminated`` and ``after``.

        Raises:
            InputError: they were not noted.
        """
        if self.terminated is None or self.after is None:
            raise InputError(
                "Expected a trajectory that tells where each step led and whether anything would have followed "
                "(`after`, `terminated`). Found None. Collect it with quickstudy.training.collect, or fill them in."
            )
        return self.terminated, self.after


@dataclass(frozen=True)
class Replayed(Trajectory):
    """Single steps drawn from a memory of the past: T draws, time 1. Each comes with chance of its own.

    Args:
        noise: standard normal draws, for losses that are an expectation over continuous actions: first for the
            action after ``observation``, then for that after ``after``. So losses stay a function of their data.

    Shape:
        ``noise [T, time, 2, a]``.
    """

    noise: Tensor | None = None


@dataclass(frozen=True)
class Advised(Trajectory):
    """Trials in which a teacher said what it thinks of every action, not only which it would take.

    Args:
        advice: logits; or mean and log-deviation of continuous actions, one behind the other.

    Shape:
        ``advice [T, time, actions]`` or ``[T, time, 2 a]``.
    """

    advice: Tensor | None = None


@dataclass(frozen=True)
class Problem:
    """What all tasks of a family have in common: the shapes, and how a prediction is scored.

    Args:
        x_shape: shape ``*x`` of one input.
        kind: ``"classification"`` (predictions are logits) or ``"regression"`` (a tensor or a Distribution).
        n_outputs: N classes of one task, or d numbers to predict.
        n_tasks: how many training tasks have an identity; 0 when every episode is a new task.
        n_classes: how many classes all training tasks have together; 0 when labels mean the same in all tasks.
        shared_labels: whether label k means the same in every task. Where it does not, a net that is
            blind to the task has nothing to learn.
        metric: the score that people read, see :meth:`scores`.
    """

    x_shape: tuple[int, ...]
    kind: Kind
    n_outputs: int
    n_tasks: int = 0
    n_classes: int = 0
    shared_labels: bool = True
    metric: Literal["accuracy", "auc", "explained variance"] = "accuracy"

    def pointwise(self, prediction: Prediction, y: Tensor) -> Tensor:
        """The loss of every example: cross-entropy, squared error (mean over d), or -log p(y).

        Shape:
            ``prediction [..., n, N or d]``, ``y [..., n]`` or ``[..., n, d]``; gives ``[..., n]``.
        """
        if isinstance(prediction, Distribution):
            log_prob: Tensor = prediction.log_prob(y)
            return -log_prob if log_prob.ndim < y.ndim else -log_prob.mean(-1)
        if self.kind == "classification":
            return -F.log_softmax(prediction, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
        return (prediction - y).square().mean(-1)

    def loss(self, prediction: Prediction, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean loss of a task's examples, padding left out; any leading axes stay. Shape: gives ``[...]``."""
        each = self.pointwise(prediction, y)
        if weight is None:
            return each.mean(-1)
        return (each * weight).sum(-1) / weight.sum(-1).clamp_min(1e-12)

    def losses(self, prediction: Prediction, batch: Batch) -> Tensor:
        """The loss of each task. Shape: gives ``[T]``."""
        return self.loss(prediction, batch.y, batch.weight)

    def scores(self, prediction: Prediction, batch: Batch, spread: float = 1.0) -> Tensor:
        """The score of each task, higher is better. Shape: gives ``[T]``.

        - ``accuracy``: share of examples whose largest logit is the right class;
        - ``auc``: area under the ROC curve of class 1 against class 0, ties count half;
        - ``explained variance``: ``1 - mean squared error / spread``.

        Args:
            prediction: what a predictor gave.
            batch: the query.
            spread: variance of the targets over all tasks' queries (for explained variance only).
        """
        value = prediction.mean if isinstance(prediction, Distribution) else prediction
        w = batch.weights
        if self.metric == "accuracy":
            right = (value.argmax(-1) == batch.y).float()
            return (right * w).sum(1) / w.sum(1)
        if self.metric == "auc":
            return _auc(value[..., 1] - value[..., 0], batch.y, w)
        error = (value - batch.y).square().mean(-1)
        return 1 - (error * w).sum(1) / w.sum(1) / spread

    def task_weights(self, batch: Batch) -> Tensor:
        """What each task counts in the mean over tasks. Shape: ``[T]``.

        Explained variance is that of all rows together, so tasks count by their rows; other scores count alike.
        """
        rows = batch.weights.sum(1)
        return rows if self.metric == "explained variance" else torch.ones_like(rows)


def _auc(value: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Mann-Whitney: the share of (positive, negative) pairs in the right order. ``[T, n]`` to ``[T]``."""
    positive, negative = (y == 1) & (weight > 0), (y == 0) & (weight > 0)
    below = value.where(negative, torch.inf).sort(1).values
    n_negative = negative.sum(1, keepdim=True)
    less = torch.searchsorted(below, value.contiguous())
    less_or_equal = torch.searchsorted(below, value.contiguous(), right=True)
    pairs = (less.minimum(n_negative) + less_or_equal.minimum(n_negative)) / 2
    n_pairs = positive.sum(1) * n_negative.squeeze(1)
    # a task whose query holds one class only says nothing: half
    auc = (pairs * positive).sum(1) / n_pairs.clamp_min(1)
    return auc.where(n_pairs > 0, 0.5)


class Method(nn.Module):
    """A way of learning: f(D_tr, x; theta), with theta the module's parameters.

    A method reads a task's support set and gives back a predictor; everything else (loops, splits,
    scores, pictures) is the same for all methods. A concrete method writes :meth:`adapt`, and
    :meth:`losses` where training asks for more than the query's score.

    Class attributes are the method's declarations; the conformance kit checks them.

    Attributes:
        name: what people type, ``quickstudy train NAME``.
        summary: one line for tables and ``quickstudy list``.
        reference: the paper.
        standard: whether a study compares it unless told which methods to compare; what is named is always compared.
        shares: whether something is learned from other tasks (False: each task alone).
        trains: whether ``losses`` has something to train before ``adapt`` is of use.
        uses_task: whether a known task id changes the predictor.
        transductive: whether predictions for one query example depend on the other query examples. An instance may
            say otherwise than its class, where that hangs on its net.
        order_free: whether the order of the support examples is without effect. An instance may say otherwise.
        label_equivariant: whether, where labels mean nothing across tasks, renumbering a task's classes renumbers
            its logits and does nothing else.
        exact_gradient: whether training's gradient is that of ``losses``; False for methods that take another one
            on purpose (a first-order one). An instance may say otherwise than its class.
        expressive: whether f can stand for any learning procedure, any function of (D_tr, x), if its nets are large.
        consistent: whether ``adapt`` reaches the best that its model class allows on whatever task it is given, as K
            grows and with as many steps as it likes: the learned procedure is one that learns, also far from the
            training tasks. An instance may say otherwise than its class.
        uncertain: whether predictions say how much the support leaves open: a distribution over the tasks that it
            may have come from shows in a spread that is calibrated and shrinks as K grows.
        lr: the step size that training takes unless told otherwise.
        settings: settings of ``adapt`` that are chosen on validation data after training, with their values. An
            instance may try fewer where inputs are dear.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    standard: ClassVar[bool] = False
    shares: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    uses_task: ClassVar[bool] = False
    transductive: bool = False
    order_free: bool = True
    label_equivariant: ClassVar[bool] = True
    exact_gradient: bool = True
    expressive: ClassVar[bool] = False
    consistent: bool = False
    uncertain: ClassVar[bool] = False
    lr: ClassVar[float] = 1e-3
    settings: dict[str, tuple[float, ...]] = {}

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Why this method cannot serve this problem; empty where it can."""
        return ""

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Learn T tasks from their support sets; touches nothing on ``self``.

        Args:
            support: the labelled examples of each task.
            task: the tasks' ids ``[T]`` where they are training tasks; None where they are new.

        Returns:
            A predictor: inputs ``[T, m, *x]`` to logits ``[T, m, N]``, a tensor ``[T, m, d]`` or a Distribution.
        """
        raise NotImplementedError

    def losses(self, episodes: Episodes) -> Tensor:
        """What training minimises, task by task: the adapted predictor's loss on the query. Shape: ``[T]``."""
        predict = self.adapt(episodes.support, episodes.task)
        return self.problem.losses(predict(episodes.query.x), episodes.query)

    def forward(self, episodes: Episodes) -> Tensor:
        """:meth:`losses`, so that a method composes as any module does."""
        return self.losses(episodes)


class Policy(Protocol):
    """Acts in T tasks at once; what it remembers of them lives in ``memory``, never on itself."""

    def start(self, n_tasks: int) -> Tensor:
        """The memory before anything was seen. Shape: ``[T, *memory]``."""

    def act(self, observation: Tensor, memory: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw actions. Gives ``action [T]``, ``log_prob [T]`` (NaN where not known), and the memory after seeing."""

    def learn(self, memory: Tensor, action: Tensor, reward: Tensor, done: Tensor) -> Tensor:
        """The memory after the step's outcome is known. Shape: ``[T, *memory]``."""


class Explorer(Method):
    """A method that collects its own data (reinforcement learning): it reads trajectories, not batches.

    One more verb, :meth:`explorer`, because the data to learn from depend on who acts. Its problem describes what
    the policy sees and does: inputs are observations, and for discrete actions predictions are their logits.

    Attributes:
        acts: which kinds of actions it can take: ``"classification"`` (discrete), ``"regression"`` (continuous).
        exploring: whether what its explorer tries next depends on what it has seen of the task, so that how to explore
            is learned; elsewhere it tries by chance alone.
        off_policy: whether it finds the best policy in steps that another one took, as long as these try everything:
            it learns what an action is worth, whoever took it.
        passes: optimiser steps that training takes on the same trials unless told otherwise.
    """

    acts: ClassVar[tuple[Kind, ...]] = ("classification",)
    exploring: ClassVar[bool] = False
    off_policy: ClassVar[bool] = False
    passes: ClassVar[int] = 1

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Labelled examples leave nothing to act in."""
        return "learns by acting in an environment; these tasks are labelled examples"

    def explorer(self) -> Policy:
        """The policy that collects what ``adapt`` and ``losses`` read."""
        raise NotImplementedError

    def adapt(self, support: Trajectory, task: Tensor | None = None) -> Predictor:  # type: ignore[override]
        """Learn T tasks from what was seen and done in them.

        Returns:
            A predictor: observations ``[T, m, *o]`` to the adapted policy's action logits ``[T, m, actions]``; for
            continuous actions to their Distribution over ``[T, m, a]``, or to the actions themselves.
        """
        raise NotImplementedError

    def losses(self, trajectory: Trajectory) -> Tensor:  # type: ignore[override]
        """What training minimises, task by task, over a trajectory that :meth:`explorer` collected. Shape: ``[T]``."""
        raise NotImplementedError


@runtime_checkable
class Improves(Protocol):
    """A method whose policy does not go down the gradient of ``losses``: it takes a step of its own."""

    def improve(self, trajectory: Trajectory) -> object:
        """Called once for each trajectory that was collected, before the steps down the losses."""


@runtime_checkable
class Follows(Protocol):
    """A method that learns from a memory of the past, towards target nets that follow the trained ones slowly."""

    def follow(self) -> None:
        """Called after each optimiser step: the target nets move."""


@runtime_checkable
class Imitates(Protocol):
    """A method that learns what a teacher does."""

    def teacher_share(self, round: int) -> float:
        """In how many of a round's steps the teacher acts, and the learner in the others; rounds count from 0."""


@runtime_checkable
class Advises(Protocol):
    """A policy that teaches by saying what it thinks of every action, not only which it takes."""

    def advise(self, observation: Tensor) -> Tensor:
        """Logits, or mean and log-deviation. Shape: ``[T, *o]`` to ``[T, actions]`` or ``[T, 2 a]``."""


@runtime_checkable
class Consolidates(Protocol):
    """A method that keeps what it learned when tasks come one after another (lifelong learning)."""

    def consolidate(self, episodes: Episodes) -> None:
        """Called once after each task of a stream, with that task's data."""

    def penalty(self) -> Tensor:
        """What holding on to earlier tasks adds to every loss at present; on record, lest it do nothing unseen."""


class Environment(Protocol):
    """A family of tasks to act in: pure functions on T tasks at once, which own no randomness.

    What the policy sees and does is a :class:`Problem`. Discrete actions are ``"classification"``: ``n_outputs`` of
    them, int64 ``[T]``. Continuous ones are ``"regression"``: ``n_outputs`` numbers in [-1, 1], ``[T, n_outputs]``,
    which the environment scales to its own units; it takes a number beyond as the bound, as Gymnasium's do.
    """

    @property
    def problem(self) -> Problem:
        """What is seen and done."""

    @property
    def horizon(self) -> int:
        """Steps of one trial, which is all the time that a policy has in a task; one or several episodes."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n tasks. Shape: ``[n, *task]``."""

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Begin an episode of every task: state ``[T, *s]`` and observation ``[T, *o]``."""

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One step of every task: state, observation, reward, terminated, truncated; the last three ``[T]``.

        The observation is the one that the step led to, also where the episode ended with it. ``terminated``: nothing
        follows, so the value of what follows is 0. ``truncated``: time is up, though more would have followed.
        """


class GoalEnvironment(Environment, Protocol):
    """Tasks that are goals to reach: what relabelling in hindsight needs besides. Any leading axes."""

    def goals(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The goal that an observation has achieved and the one that is desired. Shape: both ``[..., g]``."""

    def relabel(self, observation: Tensor, goal: Tensor) -> Tensor:
        """The same observation with another goal desired. Shape: ``[..., *o]``."""

    def outcome(self, achieved: Tensor, desired: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and terminated of a step that led to ``achieved``, which the NEXT observation holds. ``[...]``."""


@runtime_checkable
class OnlyForward(Protocol):
    """An environment that keeps its state to itself: nobody can put it back to one that was saved."""

    only_forward: bool


@runtime_checkable
class Teaches(Protocol):
    """An environment that chooses which tasks training meets, by what came of those before: a curriculum.

    Its ``sample`` draws from what it would have met next. What it has learned is part of a run, and is saved with it.
    """

    def met(self, tasks: Tensor, returns: Tensor, last: Tensor, generator: torch.Generator) -> None:
        """Called with tasks of which an episode ended, its total reward, and what it led to.

        Shape:
            tasks ``[n, *task]``, returns ``[n]``, last observations ``[n, *o]``.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """What it has learned so far."""

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> object:
        """Put back what ``state_dict`` gave."""


class TaskFamily(Protocol):
    """Where training tasks come from. Owns no randomness: the same generator state, the same episodes."""

    @property
    def problem(self) -> Problem:
        """What methods are built for."""

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """Draw episodes of n tasks."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, over n tasks and a number of seeds. Never a bare float.

    Args:
        mean: the average over tasks.
        low: lower end of the interval.
        high: upper end.
        n: number of tasks.
        seeds: number of independent training runs.
    """

    mean: float
    low: float
    high: float
    n: int
    seeds: int = 1

    def __str__(self) -> str:
        """For example ``0.975 [0.971, 0.979]``."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"
