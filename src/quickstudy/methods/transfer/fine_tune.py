"""Pre-train one net on all training data, then train a copy of it on the new task's examples."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, InputError, Method, Predictor, Problem
from quickstudy.methods._embed import embed
from quickstudy.methods._heads import Head, apply, fit_heads, fresh_heads
from quickstudy.methods._inner import settle
from quickstudy.methods._nets import at_rest, predict_each, spread, task_loss, trainable
from quickstudy.nets import is_large, net_for


class FineTune(Method):
    r"""Transfer: start from weights that were trained on everything else.

    .. math::
        \theta = \arg\min \sum_t L_t(\theta, D_t) \quad \text{(pre-training)}, \qquad
        \phi_t \leftarrow \text{Adam steps on } L_t(\phi, D_t^{tr}) \text{ from } \phi = \theta

    What is pre-trained depends on what labels mean. The same in every task: one net. Classes of a class set: one
    classifier of all training classes. Labels of their own in every task: one net with a head for each task. In the
    last two cases a new task needs a new head, which starts as the nearest class mean by cosine (numbers: zero).

    Args:
        problem: what the tasks look like.
        net: trunk ``[n, *x] -> [n, features]`` and ``nn.Linear`` head in a Sequential of two; by default the net that
            suits the inputs. The head must have :meth:`head_size` outputs.
        tune: ``"all"`` moves trunk and head, ``"head"`` the head only (the Baseline of Chen et al.); None takes
            ``"head"`` where the head is new, as few examples of new classes spoil a trunk, and ``"all"`` elsewhere.
        steps: Adam steps on the support; with 0 the start is all there is.
        inner_lr: their step size; 0 stands for 3e-4, and 1e-2 where the head alone moves.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, prediction ``[T, m, outputs]``.

    Reference:
        Yosinski et al. 2014, arXiv:1411.1792 (transfer); Chen et al. 2019, A Closer Look at Few-shot Classification,
        arXiv:1904.04232 (classes). Departs from the latter in two ways: the new head's start, there random; and in
        pre-training the softmax runs over the classes of an episode, not over all, because training visits each of
        thousands of classes a few times only (Omniglot, 300 steps, 5-way 1-shot: 62 % against 39 %).
    """

    name: ClassVar[str] = "fine-tune"
    summary: ClassVar[str] = "pre-train on everything, go on training on the task"
    standard: ClassVar[bool] = True
    reference: ClassVar[str] = "Chen et al. 2019, arXiv:1904.04232"
    consistent = True
    settings: dict[str, tuple[float, ...]] = {"steps": (0, 10, 50, 200)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Sequential | None = None,
        *,
        tune: Literal["all", "head"] | None = None,
        steps: int = 10,
        inner_lr: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if is_large(problem):
            self.settings = {"steps": (0, 10, 50)}
        self.tune = tune or ("all" if problem.shared_labels else "head")
        self.consistent = self.tune == "all"  # a head is bound by what the trunk kept
        self.steps, self.inner_lr = steps, inner_lr or (3e-4 if self.tune == "all" else 1e-2)
        self.net = net_for(problem, generator=generator, n_outputs=self.head_size(problem)) if net is None else net

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """Pre-training needs labels that mean something beyond one episode."""
        if problem.shared_labels or problem.n_classes or problem.n_tasks:
            return ""
        return "labels mean something else in every episode, and neither tasks nor classes have an identity"

    @staticmethod
    def head_size(problem: Problem) -> int:
        """Outputs of the head in pre-training."""
        if problem.shared_labels:
            return problem.n_outputs
        return problem.n_classes or problem.n_tasks * problem.n_outputs

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Train a copy on the support."""
        steps, n = int(self.steps), support.n_tasks
        trunk, head = self.net[0], cast(nn.Linear, self.net[1])
        if self.problem.shared_labels:
            start: Head = spread({"weight": head.weight, "bias": head.bias}, n)
        else:
            start = fresh_heads(self.problem, embed(trunk, support.x), support)
        if self.tune == "head":
            fitted = fit_heads(self.problem, start, embed(trunk, support.x), support, steps, self.inner_lr)
            return lambda x: apply(fitted, embed(trunk, x))
        copy = at_rest(self.net)
        phi = spread(trainable(copy), n) | {f"1.{name}": value for name, value in start.items()}
        phi = settle(task_loss(copy, self.problem), phi, support, steps, self.inner_lr)
        return lambda x: predict_each(copy, phi, x)

    def losses(self, episodes: Episodes) -> Tensor:
        """Pre-training: the net on all examples of each episode, by the outputs that its labels stand for."""
        both = episodes.support.join(episodes.query)
        logits = embed(self.net, both.x)
        if not self.problem.shared_labels:
            if self.problem.n_classes:
                classes = _known(episodes.classes, "classes")
                logits = logits.gather(-1, classes.unsqueeze(1).expand(-1, logits.shape[1], -1))
            else:
                task = _known(episodes.task, "task")
                logits = logits.unflatten(-1, (self.problem.n_tasks, -1))[torch.arange(len(task)), :, task]
        return self.problem.losses(logits, both)


def _known(identity: Tensor | None, what: str) -> Tensor:
    if identity is None:
        raise InputError(
            f"Expected training episodes that say which {what} they hold, as the problem promises. Found none. "
            "Train on a family that gives them out."
        )
    return identity
