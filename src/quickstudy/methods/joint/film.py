"""One net whose hidden features every task scales and shifts: multiplicative conditioning on the task."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, InputError, Method, Predictor, Problem
from quickstudy.methods._inner import settle
from quickstudy.methods._nets import Params, at_rest
from quickstudy.nets import net_for


class FiLM(Method):
    r"""Scale and shift each hidden layer by vectors that belong to the task.

    .. math::
        h' = (1 + \gamma_t) \odot h + \beta_t \quad \text{before each ReLU}, \qquad
        f_t(x) = W h_L + b + \delta_t

    :math:`z_t = (\gamma_t, \beta_t, \delta_t)` are parameters of a known task, zero at first (then all tasks share
    one net). A new task's z takes Adam steps on the support from the mean of the known ones, while the net rests.
    Heads and gates are special cases: a gamma of -1 switches a unit off for that task.

    Args:
        problem: what the tasks look like.
        net: trunk (a Sequential with ReLU layers) and head in a Sequential of two; by default the net that suits the
            inputs.
        steps: Adam steps on a new task's z.
        inner_lr: their step size.
        generator: draws the first weights.

    Shape:
        ``z [n_tasks, 2 * units + outputs]``; support.x ``[T, n, *x]``, query ``[T, m, *x]``,
        prediction ``[T, m, outputs]``.

    Reference:
        Perez et al. 2018, FiLM, arXiv:1709.07871 (there a net makes gamma and beta of a question; here they are the
        task's own). New tasks as in Zintgraf et al. 2019, CAVIA, arXiv:1810.03642, without its outer loop.
    """

    name: ClassVar[str] = "film"
    summary: ClassVar[str] = "one net, its features scaled and shifted by task"
    standard: ClassVar[bool] = True
    reference: ClassVar[str] = "Perez et al. 2018, arXiv:1709.07871"
    uses_task: ClassVar[bool] = True
    settings: dict[str, tuple[float, ...]] = {"steps": (0, 10, 50, 200)}

    def __init__(
        self,
        problem: Problem,
        net: nn.Sequential | None = None,
        *,
        steps: int = 10,
        inner_lr: float = 3e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.steps, self.inner_lr = steps, inner_lr
        net = net_for(problem, generator=generator) if net is None else net
        self.film = _Film(net, problem.x_shape)
        self.z = nn.Parameter(torch.zeros(problem.n_tasks, self.film.size + problem.n_outputs))

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """A task vector needs a task that is met again, and one head needs labels that mean the same."""
        if not problem.shared_labels:
            return "labels mean something else in every task; one head for all cannot fit"
        return "" if problem.n_tasks else "needs training tasks that have an identity; here every episode is a new task"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """A known task's own z, or a new one fitted on the support."""
        z = self._new(support) if task is None else self.z[task]
        return lambda x: self.film(x, z)

    def losses(self, episodes: Episodes) -> Tensor:
        """Each task's z on all examples of its episode; tasks without an id train the net under a new z."""
        if episodes.task is None:
            return super().losses(episodes)
        both = episodes.support.join(episodes.query)
        return self.problem.losses(self.film(both.x, self.z[episodes.task]), both)

    def _new(self, support: Batch) -> Tensor:
        film = at_rest(self.film)

        def loss(params: Params, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
            prediction = film(x.unsqueeze(0), params["z"].unsqueeze(0)).squeeze(0)
            return self.problem.loss(prediction, y, weight)

        start = {"z": self.z.mean(0).expand(support.n_tasks, -1)}
        return settle(loss, start, support, int(self.steps), self.inner_lr)["z"]


class _Film(nn.Module):
    """A trunk and a head with room for a task vector. Shape: ``x [T, m, *x]``, ``z [T, size + outputs]``."""

    def __init__(self, net: nn.Sequential, x_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk, self.head = net
        self.units: list[int] = []
        with torch.no_grad():
            h = torch.zeros(1, *x_shape)
            for layer in at_rest(self.trunk).children():
                if isinstance(layer, nn.ReLU):
                    self.units.append(h.shape[1])
                h = layer(h)
        if not self.units:
            raise InputError("Expected a trunk that is a Sequential with ReLU layers. Found none. Name another net.")
        self.size = 2 * sum(self.units)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        n_tasks, m = x.shape[:2]
        parts = iter(z[:, : self.size].split([size for units in self.units for size in (units, units)], 1))
        h = x.flatten(0, 1)
        for layer in self.trunk.children():
            if isinstance(layer, nn.ReLU):
                h = h.unflatten(0, (n_tasks, m))
                room = (n_tasks, 1, -1, *(1,) * (h.ndim - 3))
                gamma, beta = next(parts).reshape(room), next(parts).reshape(room)
                h = ((1 + gamma) * h + beta).flatten(0, 1)
            h = layer(h)
        return self.head(h).unflatten(0, (n_tasks, m)) + z[:, self.size :].unsqueeze(1)
