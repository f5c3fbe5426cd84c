"""Search finds what was planted; hypergradients are the closed form's."""

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from quickstudy.core import InputError, RunError
from quickstudy.methods.joint.mean_ridge import ridge
from quickstudy.tasks.toy import UnlikeCurvature
from quickstudy.training.hypergradient import hypergradient
from quickstudy.training.search import Range, maximise, search

SPACE: dict[str, Any] = {
    "lr": Range(1e-5, 1.0, log=True),
    "steps": Range(1, 64, whole=True, log=True),
    "method": ("a", "b", "c"),
    "width": Range(0.0, 1.0),
}


def planted(settings: dict[str, Any]) -> float:
    """0 at lr = 1e-3, 8 steps of method b, width 0.3; below it elsewhere."""
    return -(
        math.log10(settings["lr"] / 1e-3) ** 2
        + math.log2(settings["steps"] / 8) ** 2 / 4
        + (settings["method"] != "b")
        + 4 * (settings["width"] - 0.3) ** 2
    )


def test_a_planted_optimum_is_found_and_random_search_is_further_away() -> None:
    kinds: tuple[Literal["tpe", "random"], ...] = ("tpe", "random")
    best = {kind: [maximise(planted, SPACE, trials=60, sampler=kind, seed=s).best for s in range(3)] for kind in kinds}
    mean = {kind: sum(trial.score for trial in found) / 3 for kind, found in best.items()}
    assert mean["tpe"] > -0.15
    assert mean["tpe"] > mean["random"]
    for trial in best["tpe"]:
        assert trial.settings["method"] == "b"
        assert 1e-4 < trial.settings["lr"] < 1e-2
        assert isinstance(trial.settings["steps"], int)


def test_the_seed_decides() -> None:
    one, again, other = (maximise(planted, SPACE, trials=15, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_failed_trials_are_kept_and_never_chosen() -> None:
    def score(settings: dict[str, Any]) -> float:
        if settings["lr"] > 1e-2:
            raise RunError("not finite")
        return math.nan if settings["lr"] < 1e-4 else settings["lr"]

    found = maximise(score, {"lr": SPACE["lr"]}, trials=30)
    assert len(found.trials) == 30
    assert any(trial.score == -math.inf for trial in found.trials)
    assert 1e-3 < found.best.score <= 1e-2
    with pytest.raises(RunError, match="in 3 trials"):
        maximise(lambda settings: math.nan, {"lr": SPACE["lr"]}, trials=3)


def test_search_finds_the_method_and_its_rate() -> None:
    """Tasks of two opposite kinds: one model for all explains nothing, and large inner steps of a net go astray."""
    family = UnlikeCurvature(curvature=(2.0, 2.0), share=0.5, size=2)
    validation = family.sample(32, torch.Generator().manual_seed(5))
    space: dict[str, Any] = {
        "method": ("pooled", "maml"),
        "maml.inner_lr": Range(0.003, 1.0, log=True),
        "lr": (1e-3, 1e-2),
    }
    found = search("maml", family, validation, space, trials=16, steps=15, tasks=8)
    assert found.best.settings["method"] == "maml"
    assert found.best.settings["maml.inner_lr"] < 0.1
    assert found.best.score > 0.3
    assert max(t.score for t in found.trials if t.settings["method"] == "pooled") < 0.1


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"method": ("prototypical",)}, "serve these tasks"),
        ({"inner_rl": (0.1,)}, "Did you mean 'inner_lr'"),
        ({}, "1 setting"),
    ],
)
def test_what_cannot_be_searched_is_refused(space: dict[str, Any], message: str) -> None:
    family = UnlikeCurvature()
    with pytest.raises(InputError, match=message):
        search("maml", family, family.sample(4, torch.Generator().manual_seed(0)), space, trials=1, steps=1)


@pytest.mark.parametrize(("low", "high", "log"), [(1.0, 1.0, False), (2.0, 1.0, False), (0.0, 1.0, True)])
def test_empty_ranges_are_refused(low: float, high: float, log: bool) -> None:
    with pytest.raises(InputError, match="low < high"):
        Range(low, high, log=log)


# --- hypergradients ---------------------------------------------------------------------------------------------------


class RidgeProblem:
    """Training and validation rows of one task; the hyperparameter is log lambda, one for each weight."""

    def __init__(self, n: int = 12, f: int = 5) -> None:
        generator = torch.Generator().manual_seed(0)
        normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        w = normal(f, 1)
        self.x, self.x_val = normal(n, f), normal(40, f)
        self.y, self.y_val = self.x @ w + normal(n, 1), self.x_val @ w + normal(40, 1)

    def inner(self, w: Tensor, log_strength: Tensor) -> Tensor:
        x = torch.cat([self.x, torch.ones_like(self.y)], 1)
        return (x @ w - self.y).square().sum() + (log_strength.exp().unsqueeze(-1) * w.square()).sum()

    def outer(self, w: Tensor, log_strength: Tensor) -> Tensor:
        x = torch.cat([self.x_val, torch.ones_like(self.y_val)], 1)
        return (x @ w - self.y_val).square().mean()

    def solve(self, log_strength: Tensor) -> Tensor:
        """The library's closed form, whose penalty is on the intercept as well."""
        return ridge(self.x[None], self.y[None], torch.ones_like(self.y.mT), log_strength.exp())[0]


def test_the_hypergradient_of_ridge_is_the_closed_forms_and_finite_differences() -> None:
    task = RidgeProblem()
    at = torch.linspace(-1, 2, 6, dtype=torch.float64)
    found = hypergradient(task.inner, task.outer, task.solve(at), at)
    through = at.clone().requires_grad_()
    (exact,) = torch.autograd.grad(task.outer(task.solve(through), through), through)
    assert (found - exact).abs().max() < 1e-10
    for j in range(6):
        e = 1e-5 * torch.eye(6, dtype=torch.float64)[j]
        rise = task.outer(task.solve(at + e), at + e) - task.outer(task.solve(at - e), at - e)
        assert float(found[j]) == pytest.approx(float(rise) / 2e-5, rel=1e-5, abs=1e-9)
    assert exact.abs().min() > 1e-4  # nothing of it is zero by chance


def test_a_loss_that_names_the_hyperparameters_keeps_that_part() -> None:
    task = RidgeProblem()
    at = torch.zeros(6, dtype=torch.float64)
    plain = hypergradient(task.inner, task.outer, task.solve(at), at)
    more = hypergradient(task.inner, lambda w, h: task.outer(w, h) + (3 * h).sum(), task.solve(at), at)
    assert torch.allclose(more - plain, torch.full_like(plain, 3.0))


def test_fewer_conjugate_gradient_steps_are_less_exact() -> None:
    task = RidgeProblem()
    at = torch.zeros(6, dtype=torch.float64)
    exact = hypergradient(task.inner, task.outer, task.solve(at), at)
    far = []
    for k in (0, 1, 6):
        rough = hypergradient(task.inner, task.outer, task.solve(at), at, iterations=k)
        far.append(float((rough - exact).norm()))
    assert far[0] > far[1] > 1e-6 > far[2]


def test_descending_it_finds_the_best_penalty() -> None:
    """The same as a grid of closed forms finds."""
    task = RidgeProblem(n=7)
    one = torch.ones(6, dtype=torch.float64)
    grid = torch.linspace(-4, 6, 2001, dtype=torch.float64)
    best = grid[torch.stack([task.outer(task.solve(s * one), one) for s in grid]).argmin()]
    s = torch.zeros((), dtype=torch.float64)
    for _ in range(100):
        slope = hypergradient(
            lambda w, h: task.inner(w, h * one), lambda w, h: task.outer(w, h * one), task.solve(s * one), s
        )
        s = s - 0.5 * slope
    assert float(s) == pytest.approx(float(best), abs=0.02)


def test_where_it_is_no_minimum_it_says_so() -> None:
    with pytest.raises(RunError, match="curves upwards"):
        hypergradient(lambda w, h: -(h * w.square()).sum(), lambda w, h: w.sum(), torch.zeros(2), torch.ones(()))
