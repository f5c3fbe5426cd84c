"""The compiled step is the plain step: losses, gradients, running statistics, and what a whole run ends with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quickstudy.combine import mean, worst
from quickstudy.core import Batch, Episodes, Method, Predictor, Problem, RunError
from quickstudy.methods import MAML, Prototypical
from quickstudy.methods._program import MOST_SHAPES
from quickstudy.nets.basic import MLP
from quickstudy.tasks.toy import Sinusoids
from quickstudy.training import fit
from quickstudy.training.compiled import CompiledLosses

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler, which torch.compile needs on CPU"
)


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def maml(steps: int = 2) -> MAML:
    return MAML(Sinusoids().problem, MLP((1, 6, 1), seed()), inner_lr=0.01, steps=steps)


def double(episodes: Episodes) -> Episodes:
    s, q = episodes.support, episodes.query
    return Episodes(Batch(s.x.double(), s.y.double()), Batch(q.x.double(), q.y.double()))


@needs_compiler
def test_losses_and_second_order_gradients_are_those_of_the_plain_step() -> None:
    method, family = maml().double(), Sinusoids(5, 5)
    compiled = CompiledLosses(method, worst)
    for number in range(2):  # the second call reads other episodes through the same program
        episodes = double(family.sample(4, seed(number)))
        ours = compiled(episodes)
        gradients = [p.grad for p in method.parameters()]
        theirs = method(episodes)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-10, atol=1e-10)
        expected = torch.autograd.grad(theirs.max(), list(method.parameters()))
        torch.testing.assert_close(gradients, list(expected), rtol=1e-10, atol=1e-10)


@needs_compiler
def test_running_statistics_move_once_a_step_and_frozen_parameters_stay() -> None:
    problem = Problem((3,), "classification", 2)
    draw = torch.randn(4, 8, 3, generator=seed())
    y = torch.arange(2).repeat(2).expand(4, 4)
    episodes = Episodes(Batch(draw[:, :4], y), Batch(draw[:, 4:], y))

    def make() -> Prototypical:
        method = Prototypical(problem, nn.Sequential(MLP((3, 5), seed()), nn.BatchNorm1d(5)))
        next(method.parameters()).requires_grad_(False)
        return method

    plain, compiled = make(), make()
    run = CompiledLosses(compiled, mean)
    for _ in range(2):
        run(episodes)
        plain(episodes)
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(plain.named_buffers()))
    assert next(compiled.parameters()).grad is None


@needs_compiler
def test_a_compiled_run_ends_where_the_plain_run_ends_and_so_does_one_that_was_resumed(tmp_path: Path) -> None:
    runs = {}
    for name, compile, stops in (("plain", False, ()), ("compiled", True, ()), ("resumed", True, (4,))):
        method, family, file = maml(1), Sinusoids(5, 5), tmp_path / name
        settings = {"steps": 8, "tasks": 4, "every": 4, "validation": family.sample(4, seed(9)), "checkpoint": file}
        for until in (*stops, None):
            method = maml(1)  # a new process knows nothing but the checkpoint
            history = fit(method, family, until=until, resume=True, generator=seed(), compile=compile, **settings)  # type: ignore[arg-type]
        runs[name] = (history, method.state_dict())
    assert runs["compiled"][0] == runs["resumed"][0]
    torch.testing.assert_close(runs["compiled"][1], runs["resumed"][1], rtol=0, atol=0)
    torch.testing.assert_close(runs["compiled"][1], runs["plain"][1], rtol=1e-4, atol=1e-5)
    assert runs["compiled"][0].score == pytest.approx(runs["plain"][0].score, rel=1e-4)


class Odd(Method):
    """Does what a compiled program cannot follow."""

    def __init__(self, how: str) -> None:
        super().__init__(Sinusoids().problem)
        self.how, self.scale = how, nn.Parameter(torch.ones(1))

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        noise = torch.zeros(1)
        if self.how == "draws":
            noise = torch.nn.functional.dropout(torch.ones(200), training=True).sum()
        elif bool(support.y.sum() > 0):
            noise = noise + 1
        return lambda x: x * self.scale + noise


@needs_compiler
@pytest.mark.uses_global_rng(reason="shows that dropout, which draws from it, is refused")
def test_losses_that_are_drawn_at_random_are_refused() -> None:
    torch.manual_seed(0)  # by chance both could draw about the same, once in twenty times
    with pytest.raises(RunError, match="the plain one. Found a difference"):
        CompiledLosses(Odd("draws"), mean)(Sinusoids(5, 5).sample(4, seed()))


def test_losses_that_branch_on_data_are_refused() -> None:
    with pytest.raises(RunError, match="can be compiled. Found Odd"):
        CompiledLosses(Odd("branches"), mean)(Sinusoids(5, 5).sample(4, seed()))


def test_episodes_of_ever_new_shapes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda program, **_: program)
    compiled = CompiledLosses(maml(), mean)
    for shots in range(1, MOST_SHAPES + 1):
        compiled(Sinusoids(shots, 5).sample(2, seed()))
    with pytest.raises(RunError, match="different shapes to compile. Found one more"):
        compiled(Sinusoids(20, 5).sample(2, seed()))
