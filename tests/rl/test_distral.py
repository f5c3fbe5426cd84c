"""Distral against its closed forms: what policies are at rest, what the shared one is, and where gradients lead."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import InputError, Problem, Trajectory
from quickstudy.methods import Distral
from quickstudy.tasks.grids import Maze, geometry
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.testing import check_explorer
from quickstudy.training import collect

ALPHA, BETA, DISCOUNT = 0.6, 3.0, 0.9


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Table(nn.Module):
    """A number for each state that is seen one-hot, in place of a net."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.clone())

    def forward(self, seen: Tensor) -> Tensor:
        return seen @ self.rows


def identities(k: int) -> Tensor:
    """What is seen of each task: 1, which tells nothing, and its identity. Shape: ``[k, 1 + k]``."""
    return torch.cat([torch.ones(k, 1), torch.eye(k)], 1).double()


def bandits(prior: Tensor, own: Tensor, q: Tensor) -> tuple[Distral, list[nn.Parameter], Tensor]:
    """K tasks of one step, whose actions earn ``q [K, A]``: the method, its two columns, its expected loss."""
    k, a = q.shape
    method = Distral(Problem((1 + k,), "classification", a), heads=k, alpha=ALPHA, beta=BETA, value_weight=0.0).double()
    columns = Table(prior.unsqueeze(0)), Table(torch.cat([torch.zeros(1, a), own]))
    method.shared, method.own = columns
    seen = identities(k).repeat_interleave(a, 0).unsqueeze(1)
    action = torch.arange(a).repeat(k).unsqueeze(1)
    log_pi = method.policy(seen).gather(-1, action.unsqueeze(-1)).squeeze(-1).detach()
    one = torch.ones_like(log_pi)
    trials = Trajectory(seen, action, q.view(-1, 1), one, log_pi, one, seen)  # every action once a task
    loss = (log_pi.exp().squeeze(1) * method.losses(trials)).sum()
    return method, [column.rows for column in columns], loss


def objective(prior: Tensor, own: Tensor, q: Tensor) -> Tensor:
    """The paper's equation 1 written out, with c_KL = alpha / beta and c_Ent = (1 - alpha) / beta."""
    log_shared = F.log_softmax(prior, -1)
    log_pi = F.log_softmax(ALPHA * log_shared + own, -1)
    near = ALPHA / BETA * (log_pi - log_shared) + (1 - ALPHA) / BETA * log_pi
    return (log_pi.exp() * (q - near)).sum()


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_the_gradient_is_that_of_the_objective() -> None:
    """Of both columns, at any point: policy, divergence, entropy and distillation at once."""
    prior, own, q = drawn(4, seed=0), drawn(3, 4, seed=1), drawn(3, 4, seed=2)
    _, columns, loss = bandits(prior, own, q)
    found = torch.autograd.grad(loss, columns)
    places = [prior.requires_grad_(), own.requires_grad_()]
    expected = torch.autograd.grad(-objective(prior, own, q), places)
    for a, b in zip((found[0][0], found[1][1:]), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)
        assert float(b.abs().max()) > 1e-2


def test_at_rest_policies_are_the_closed_form_and_the_shared_one_is_their_mean() -> None:
    """pi_i ~ pi_0^alpha e^(beta A_i), pi_0 = mean of pi_i: by turns to the fixed point; there nothing moves."""
    q, shared = drawn(3, 4, seed=3), torch.full((4,), 0.25, dtype=torch.float64)
    for _ in range(500):
        pi = (shared.pow(ALPHA) * (BETA * q).exp()).div((shared.pow(ALPHA) * (BETA * q).exp()).sum(1, keepdim=True))
        shared = pi.mean(0)
    method, columns, loss = bandits(shared.log(), BETA * q, q)
    torch.testing.assert_close(method.policy(identities(3)).exp(), pi)
    for found in torch.autograd.grad(loss, columns):
        assert float(found.abs().max()) < 1e-10
    _, columns, loss = bandits(shared.log() + drawn(4, seed=4), BETA * q, q)  # and away from it something does
    assert float(torch.autograd.grad(loss, columns)[0].abs().max()) > 1e-3


def test_over_time_the_closed_form_leaves_nothing_to_gain() -> None:
    """Soft values of a maze, V = ln(sum_a pi_0^alpha e^(beta Q)) / beta: no action surprises by them.

    pi_0 is any policy. A step's reward less ln(pi / pi_0^alpha) / beta, plus what follows, is what was expected.
    """
    maze = Maze(("....", ".##.", "...."), start=(0, 0), length=7, shows_goal=False)
    goal = maze.sample(1, generator(1))
    moves, reward = (x[0].double() for x in maze.model(goal))
    cells, actions = reward.shape
    prior = F.log_softmax(drawn(cells, actions, seed=5), -1)
    v = torch.zeros(cells, dtype=torch.float64)
    for _ in range(800):
        q = reward + DISCOUNT * moves @ v
        v = (ALPHA * prior + BETA * q).logsumexp(-1) / BETA
    method = Distral(maze.problem, alpha=ALPHA, beta=BETA, discount=DISCOUNT, gae=0.8).double()
    own, value = Table(BETA * q), Table(v.unsqueeze(1))
    method.shared, method.own, method.value = Table(prior), own, value
    closed = (ALPHA * prior + BETA * (q - v.unsqueeze(1))).exp()
    torch.testing.assert_close(method.policy(torch.eye(cells, dtype=torch.float64)).exp(), closed)
    # the mean over actions of r + gamma V(s') is V plus the state's cost: no gradient reaches the task's own column
    cell, visits = geometry(maze.layout, torch.device("cpu")), torch.eye(cells, dtype=torch.float64)
    seen = visits.repeat_interleave(actions, 0).unsqueeze(1)
    action = torch.arange(actions).repeat(cells).unsqueeze(1)
    there = cell.after.reshape(-1)
    ended = 1 - moves.sum(-1).reshape(-1, 1)
    log_pi = method.policy(seen).gather(-1, action.unsqueeze(-1)).squeeze(-1).detach()
    each = Trajectory(seen, action, reward.reshape(-1, 1), ended, log_pi, ended, visits[there].unsqueeze(1))
    surprise = reward.reshape(-1, 1) + DISCOUNT * (1 - ended) * v[there].unsqueeze(1)
    surprise = surprise - (log_pi - ALPHA * prior.reshape(-1, 1)) / BETA - v.repeat_interleave(actions).unsqueeze(1)
    assert float(surprise.abs().max()) < 1e-10
    for found in torch.autograd.grad((log_pi.exp().squeeze(1) * method.losses(each)).sum(), [own.rows, value.rows]):
        assert float(found.abs().max()) < 1e-10


class Known(Maze):
    def known(self) -> Tensor:
        return torch.eye(self.n_cells)[:3]


def test_the_shared_policy_sees_no_task_and_tasks_share_nothing_else() -> None:
    seen = SeesIdentity(Known(shows_goal=False, length=4))
    method = Distral(seen.problem, heads=3, alpha=0.0, width=8, generator=generator(0))
    trials = collect(seen, method.explorer(), seen.sample(3, generator(0)), generator(1))
    first, second = trials.observation[0], torch.cat([trials.observation[0, :, :-3], trials.observation[1, :, -3:]], -1)
    torch.testing.assert_close(method.distilled(first), method.distilled(second))
    assert not torch.allclose(method.policy(first), method.policy(second))
    for task in range(3):  # alpha 0: independent learners
        nets = list(method.own.parameters())
        for found in torch.autograd.grad(method.losses(trials)[task], nets):
            assert [bool(of.any()) for of in found] == [i == task for i in range(3)]
        moved = torch.autograd.grad(method.losses(trials)[task], list(method.shared.parameters()))
        assert not any(bool(found.any()) for found in moved)


def test_keeps_the_contract_with_heads() -> None:
    check_explorer(lambda problem: Distral(problem, heads=2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"alpha": 1.5}, "alpha from 0 to 1"), ({"beta": 0.0}, "beta above 0"), ({"heads": 4}, "identity")],
)
def test_says_what_it_cannot_do(settings: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Distral(Problem((3,), "classification", 2), **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="discrete actions"):
        Distral(Problem((3,), "regression", 2))
