"""Many tasks in one policy: heads keep tasks apart, and conflicting gradients give way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from quickstudy.combine import PCGrad, mean
from quickstudy.combine.pcgrad import project
from quickstudy.core import InputError, Kind, Problem, Replayed
from quickstudy.methods import DQN, MAML, PPO, SAC, SoftQ
from quickstudy.methods.rl._policies import Apart, Embedded, Sharing, best_of, log_prob_of
from quickstudy.methods.rl._replay import Replay
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.tasks.point import ConflictingGoals
from quickstudy.tasks.toy import Sinusoids
from quickstudy.testing import check_explorer
from quickstudy.testing._law import numbers
from quickstudy.training import collect, fit, fit_off_policy, fit_offline, fit_rl
from quickstudy.training.compiled import CompiledLosses


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_identity_is_shown_and_tasks_come_in_turn() -> None:
    env = SeesIdentity(ConflictingGoals(tasks=4))
    tasks = env.sample(8, generator(0))
    trials = collect(env, PPO(env.problem).explorer(), tasks, generator(1))
    assert torch.equal(trials.observation[:, 0, 2:], torch.eye(4).repeat(2, 1))
    assert torch.equal(trials.observation[:, -1, 2:], torch.eye(4).repeat(2, 1))


def test_a_head_moves_its_own_task_only() -> None:
    env = SeesIdentity(ConflictingGoals(tasks=4))
    method = PPO(env.problem, heads=4, width=8)
    seen = torch.cat([torch.randn(1, 5, 2, generator=generator(0)), torch.eye(4)[2].expand(1, 5, 4)], -1)
    last = method.actor.net.net[-1]  # type: ignore[index]
    assert isinstance(last, torch.nn.Linear)
    (gradient,) = torch.autograd.grad(method.actor(seen).sum(), [last.weight])
    rows = gradient.abs().sum(1).view(4, 2) > 0  # one head has two outputs
    assert rows.tolist() == [[False] * 2, [False] * 2, [True] * 2, [False] * 2]
    with pytest.raises(InputError, match=r"last 4 numbers are the task's identity.*Found shape \(2,\).*SeesIdentity"):
        PPO(ConflictingGoals(tasks=4).problem, heads=4)


def test_projection_is_the_one_of_two_tasks_by_hand() -> None:
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    torch.testing.assert_close(project(g, generator(0)), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    agree = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    assert torch.equal(project(agree, generator(0)), agree)


def test_no_pair_of_two_tasks_conflicts_after_surgery() -> None:
    for seed in range(20):
        g = torch.randn(2, 6, generator=generator(seed))
        after = project(g, generator(seed))
        assert bool(((after * g.flip(0)).sum(1) > -1e-5).all())


def test_the_gradient_is_the_projected_one_part_by_part() -> None:
    a, b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))
    targets = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    losses = (targets @ a + torch.tensor([1.0, -2.0]) * b).repeat(2)  # two trials of each of two tasks
    combined = PCGrad([[a], [b]], 2, generator(0))(losses)
    torch.testing.assert_close(combined, mean(losses))
    combined.backward()
    torch.testing.assert_close(a.grad, torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(b.grad, torch.tensor([0.0]))  # straight against each other: nothing is left


def test_losses_may_come_in_any_order_if_it_is_told_whose_they_are() -> None:
    a, targets = nn.Parameter(torch.tensor([1.0, 2.0])), torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -2.0]])
    task = torch.tensor([1, 0, 1, 1])  # one loss of task 0, three of task 1, none of task 2
    PCGrad([[a]], 3, generator(0))(targets[task] @ a, task).backward()
    torch.testing.assert_close(a.grad, torch.tensor([0.5, 1.5]) / 3)


class TaskMeans:
    """Goes by tasks as PCGrad does, and projects nothing: the mean over tasks of each one's mean loss."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks

    def __call__(self, losses: Tensor, task: Tensor | None = None) -> Tensor:
        assert task is not None
        return torch.stack(
            [losses[task == one].sum() / (task == one).sum().clamp_min(1) for one in range(self.tasks)]
        ).mean()


def parts_of(method: SAC) -> list[list[nn.Parameter]]:
    return [list(method.actor.parameters()), list(method.critics.parameters()), [method.log_temperature]]


@pytest.mark.parametrize("tasks", [4, 3])
def test_tasks_that_share_nothing_have_no_conflict_in_what_is_drawn_from_a_memory(tasks: int) -> None:
    """So PCGrad does what their mean does, if the losses that it takes for a task's are that task's."""
    env, learned = SeesIdentity(ConflictingGoals(tasks=4, length=5)), []
    for surgery in (True, False):
        method = SAC(env.problem, width=8, heads=4, share="nothing", generator=generator(0))
        combine = PCGrad(parts_of(method), 4, generator(1)) if surgery else TaskMeans(4)
        fit_off_policy(
            method, env, steps=40, tasks=tasks, batch=16, warmup=20, updates=2, combine=combine, generator=generator(2)
        )
        learned.append(torch.cat([parameter.detach().flatten() for parameter in method.parameters()]))
    first = SAC(env.problem, width=8, heads=4, share="nothing", generator=generator(0))
    assert float((learned[0] - torch.cat([p.detach().flatten() for p in first.parameters()])).abs().max()) > 1e-3
    torch.testing.assert_close(learned[0], learned[1], atol=2e-4, rtol=0)


def test_what_goes_by_tasks_is_refused_where_nobody_knows_them() -> None:
    blind, pcgrad = ConflictingGoals(tasks=4), PCGrad([], 4, generator(0))
    wrong = (
        r"Expected observations whose last 4 numbers are the task's identity.*Found observations \(2,\).*SeesIdentity"
    )
    with pytest.raises(InputError, match=wrong):
        fit_rl(PPO(blind.problem, width=4), blind, steps=1, tasks=4, combine=pcgrad)
    with pytest.raises(InputError, match=wrong):
        fit_off_policy(SAC(blind.problem, width=4), blind, steps=9, tasks=4, warmup=4, combine=pcgrad)
    memory = Replay.of(collect(blind, PPO(blind.problem).explorer(), blind.sample(4, generator(0)), generator(1)))
    with pytest.raises(InputError, match=wrong):
        fit_offline(SAC(blind.problem, width=4), memory, steps=1, combine=pcgrad)
    more = SeesIdentity(ConflictingGoals(tasks=6))
    with pytest.raises(InputError, match=r"whose last 4 numbers.*as many tasks as that shows"):
        fit_rl(PPO(more.problem, width=4), more, steps=1, tasks=6, combine=pcgrad)
    new = Sinusoids()
    with pytest.raises(InputError, match="Expected task ids 0 to 3 for PCGrad.*Found none"):
        fit(MAML(new.problem), new, steps=1, tasks=4, combine=pcgrad)
    with pytest.raises(InputError, match="Found PCGrad, which goes by tasks and draws. Train without compile"):
        CompiledLosses(SAC(more.problem, width=4), pcgrad)


def test_heads_reach_goals_in_conflict() -> None:
    env = SeesIdentity(ConflictingGoals(tasks=2, scales=1.0, length=10))
    method = PPO(env.problem, heads=2, width=32, discount=0.9, generator=generator(0))
    fit_rl(method, env, steps=40, tasks=64, passes=5, lr=1e-2, generator=generator(1))
    tasks = env.sample(2, generator(0))
    trials = collect(env, best_of(method), tasks, generator(3))
    there = trials.ends()[1][:, -1, :2]
    assert float((there - tasks[:, :2]).norm(dim=1).max()) < 0.3


K = 3
KINDS: tuple[Kind, ...] = ("classification", "regression")
SHARINGS: tuple[Sharing, ...] = ("trunk", "embedding", "nothing")
SEEN = {kind: Problem((2 + K,), kind, 2) for kind in KINDS}


def steps_of(kind: Kind, rows: int = 12) -> Replayed:
    """Made-up steps, row i of task i % K."""
    identity = torch.eye(K)[torch.arange(rows) % K].unsqueeze(1)
    see = lambda seed: torch.cat([torch.randn(rows, 1, 2, generator=generator(seed)), identity], -1)  # noqa: E731
    discrete = kind == "classification"
    chosen, moves = torch.randint(2, (rows, 1), generator=generator(1)), torch.randn(rows, 1, 2, generator=generator(1))
    action = chosen if discrete else moves.tanh()
    zero = torch.zeros(rows, 1)
    return Replayed(
        see(0), action, torch.randn(rows, 1, generator=generator(2)), zero, zero, zero, see(3),
        noise=torch.randn(rows, 1, 2, 2, generator=generator(4)),
    )  # fmt: skip


MADE = [
    pytest.param(cls, kind, share, id=f"{cls.name}-{kind}-{share}")
    for cls in (PPO, SAC, DQN, SoftQ)
    for kind in cls.acts
    for share in SHARINGS
]


@pytest.mark.parametrize(("cls", "kind", "share"), MADE)
def test_methods_with_heads_obey_the_laws(cls: type[PPO | SAC | DQN | SoftQ], kind: Kind, share: Sharing) -> None:
    check_explorer(lambda problem: cls(problem, width=8, heads=K, share=share), SEEN[kind])


@pytest.mark.parametrize(("cls", "kind", "share"), MADE)
def test_what_a_task_moves(cls: type[PPO | SAC | DQN | SoftQ], kind: Kind, share: Sharing) -> None:
    """A step down one task's losses moves what all tasks do with a common trunk, and its own only with none."""
    method, steps = cls(SEEN[kind], width=8, heads=K, share=share, generator=generator(0)), steps_of(kind)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(7)), alpha=0.3)
        before = numbers(method.predict(steps.observation))
        if isinstance(method, PPO):  # as if it had acted itself: no ratio is clipped
            steps = replace(steps, log_prob=log_prob_of(method.actor, steps)[0])
    (method.losses(steps) * (torch.arange(12) % K == 1)).sum().backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
        moved = (numbers(method.predict(steps.observation)) - before).abs().flatten(1).sum(1).view(-1, K).amax(0) > 1e-6
    assert moved.tolist() == [share != "nothing", True, share != "nothing"]


@pytest.mark.parametrize("share", ["trunk", "nothing"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_critics_of_a_task_are_the_ones_that_its_loss_is_made_of(kind: Kind, share: Sharing) -> None:
    """Each task's losses hang on its own outputs, its own temperature, and both of its critics."""
    method, steps = SAC(SEEN[kind], width=8, heads=K, share=share, generator=generator(0)), steps_of(kind)
    losses = method.losses(steps)
    last = method.critics.weights[-1]
    for task in range(K):
        of_values, of_temperature = torch.autograd.grad(
            losses[task::K].sum(), [last, method.log_temperature], retain_graph=True
        )
        assert (of_temperature != 0).tolist() == [other == task for other in range(K)]
        # two critics, and their outputs task by task: side by side in the last layer, or in nets of their own
        own = of_values.unflatten(-1, (K, -1)).abs().sum((1, 3)) if share == "trunk" else of_values.abs().sum((1, 2))
        assert (own.view(2, K) != 0).tolist() == [[other == task for other in range(K)]] * 2


def test_nets_that_share_nothing_are_single_nets_side_by_side() -> None:
    apart = Apart(SEEN["regression"], 8, 2, K, generator(0))
    seen = torch.cat([torch.randn(2, 4, 2, generator=generator(1)), torch.eye(K)[1].expand(2, 4, K)], -1)
    h = seen
    for i, (weight, bias) in enumerate(zip(apart.nets.weights, apart.nets.biases, strict=True)):
        h = (h.relu() if i else h) @ weight[1] + bias[1]
    torch.testing.assert_close(apart(seen), h)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_a_vector_that_its_own_losses_move(kind: Kind) -> None:
    """Policy and critics are one net for all tasks, which sees the vector where it would see the identity."""
    method = SAC(SEEN[kind], width=8, heads=K, share="embedding", embedding=2, generator=generator(0))
    before, net = method.actor[0], method.actor[1]  # type: ignore[index]
    steps, rows = steps_of(kind), torch.arange(12) % K
    plain = torch.cat([steps.observation[..., :2], before.vectors[rows].unsqueeze(1)], -1)
    torch.testing.assert_close(method.actor(steps.observation), net(plain))
    own = method.critics.before
    assert isinstance(own, Embedded) and method.target.before is not own
    losses = method.losses(steps)
    for task in range(K):
        found = torch.autograd.grad(losses[task::K].sum(), [before.vectors, own.vectors], retain_graph=True)
        for gradient in found:
            assert (gradient.abs().sum(1) > 0).tolist() == [other == task for other in range(K)]
    following = method.worth(steps.observation, torch.zeros(12, 1, 2), method.critics)[0].sum()
    (moved,) = torch.autograd.grad(following, [own.vectors], materialize_grads=True)
    assert not bool(moved.any())  # the policy moves no critic


def test_an_embedding_needs_numbers_and_an_identity() -> None:
    with pytest.raises(InputError, match=r"at least 1 number.*Found 0"):
        DQN(SEEN["classification"], heads=K, share="embedding", embedding=0)
    with pytest.raises(InputError, match=r"last 4 numbers are the task's identity.*Found shape \(2,\)"):
        SAC(ConflictingGoals(tasks=4).problem, heads=4, share="embedding")


def test_an_unknown_sharing_is_refused() -> None:
    with pytest.raises(InputError, match=r"share 'trunk', 'embedding' or 'nothing'.*Found 'some'"):
        DQN(SEEN["classification"], heads=K, share="some")  # type: ignore[arg-type]
