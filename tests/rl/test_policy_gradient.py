"""Policy gradients are the analytic ones on an MDP that can be written down, and steps keep their bounds."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from quickstudy.core import Explorer, InputError, Problem, Trajectory
from quickstudy.methods import PPO, TRPO, ActorCritic, Reinforce
from quickstudy.methods.rl._policies import Actor
from quickstudy.methods.rl._returns import advantages, judge, returns_to_go
from quickstudy.tasks.classic import Pendulum
from quickstudy.tasks.tabular import TabularMDPs
from quickstudy.training import collect, first_returns, fit_rl

STATES, ACTIONS, STEPS = 2, 2, 3
SEES = Problem((STATES + STEPS,), "classification", ACTIONS)  # where it is and what time it is, both one-hot


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def see(state: Tensor, time: int) -> Tensor:
    """Shape: ``[n]`` to ``[n, STATES + STEPS]``; after the last step no time is left to show."""
    clock = torch.zeros(len(state), STEPS, dtype=torch.float64)
    if time < STEPS:
        clock[:, time] = 1
    return torch.cat([torch.nn.functional.one_hot(state, STATES).double(), clock], 1)


def mdp() -> tuple[Tensor, Tensor]:
    """Transitions ``[S, A, S]`` and rewards ``[S, A]``."""
    weight = torch.rand(STATES, ACTIONS, STATES, generator=generator(0), dtype=torch.float64) + 0.1
    return weight / weight.sum(-1, keepdim=True), torch.randn(STATES, ACTIONS, generator=generator(1)).double()


def values(actor: Actor) -> tuple[Tensor, list[Tensor]]:
    """The expected return from state 0, with its graph, and the value of each state at each time."""
    p, r = mdp()
    value, every = torch.zeros(STATES, dtype=torch.float64), []
    for time in reversed(range(STEPS)):
        pi = actor(see(torch.arange(STATES), time)).softmax(-1)
        value = (pi * (r + p @ value)).sum(-1)
        every.append(value)
    return value[0], every[::-1]


def all_histories(actor: Actor) -> tuple[Trajectory, Tensor]:
    """Every history that there can be, and how likely each is. ``[8 * 8, STEPS]``."""
    p, r = mdp()
    rows, chance = [], []
    for moves in product(range(ACTIONS), range(STATES), repeat=STEPS):
        actions, states = torch.tensor(moves[::2]), torch.tensor((0, *moves[1::2]))
        seen = torch.cat([see(states[t : t + 1], t) for t in range(STEPS)])
        after = torch.cat([see(states[t + 1 : t + 2], t + 1) for t in range(STEPS)])
        log_prob = actor(seen).log_softmax(-1).gather(1, actions.unsqueeze(1)).squeeze(1).detach()
        end = torch.tensor([0.0] * (STEPS - 1) + [1.0], dtype=torch.float64)
        rows.append((seen, actions, r[states[:-1], actions], end, log_prob, end, after))
        chance.append(log_prob.sum().exp() * p[states[:-1], actions, states[1:]].prod())
    return Trajectory(*(torch.stack(part) for part in zip(*rows, strict=True))), torch.stack(chance)


def generic(method: Explorer) -> Explorer:
    """In float64, away from the symmetric first weights."""
    method = method.double()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(7), dtype=torch.float64), alpha=0.3)
    return method


def actor_of(method: Explorer) -> Actor:
    actor = method.actor
    assert isinstance(actor, Actor)
    return actor


def policy_gradient(method: Explorer) -> list[Tensor]:
    """What the method descends in expectation over all histories, as a gradient of the return."""
    trials, chance = all_histories(actor_of(method))
    assert float(chance.sum()) == pytest.approx(1)
    found = torch.autograd.grad((chance * method.losses(trials)).sum(), list(actor_of(method).parameters()))
    return [-STEPS * g for g in found]


@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce_follows_the_analytic_gradient(baseline: bool) -> None:
    method = generic(Reinforce(SEES, width=8, discount=1.0, baseline=baseline))
    expected = torch.autograd.grad(values(actor_of(method))[0], list(actor_of(method).parameters()))
    for a, b in zip(policy_gradient(method), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)
    assert max(float(b.abs().max()) for b in expected) > 1e-2


class Exact(torch.nn.Module):
    """The true value of what is seen, in place of a net."""

    def __init__(self, every: list[Tensor]) -> None:
        super().__init__()
        self.table = torch.stack([*every, torch.zeros(STATES, dtype=torch.float64)]).detach()

    def forward(self, seen: Tensor) -> Tensor:
        state, clock = seen[..., :STATES].argmax(-1), seen[..., STATES:]
        time = clock.argmax(-1).where(clock.sum(-1) > 0, STEPS)
        return self.table[time, state].unsqueeze(-1)


@pytest.mark.parametrize("gae", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("cls", [ActorCritic, PPO])
def test_with_true_values_every_lambda_follows_the_analytic_gradient(
    cls: type[ActorCritic] | type[PPO], gae: float
) -> None:
    method = generic(cls(SEES, width=8, discount=1.0, gae=gae, value_weight=0.0))
    best, every = values(actor_of(method))
    method.value = Exact(every)
    expected = torch.autograd.grad(best, list(actor_of(method).parameters()))
    for a, b in zip(policy_gradient(method), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_the_first_step_of_ppo_is_the_policy_gradient() -> None:
    """Before anything has moved all ratios are 1; afterwards a clipped one carries no gradient."""
    ppo, plain = (generic(cls(SEES, width=8, entropy_weight=0.1)) for cls in (PPO, ActorCritic))
    plain.load_state_dict(ppo.state_dict())
    trials, _ = all_histories(actor_of(ppo))
    for a, b in zip(
        torch.autograd.grad(ppo.losses(trials).sum(), list(ppo.parameters())),
        torch.autograd.grad(plain.losses(trials).sum(), list(plain.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    moved = Trajectory(**{**vars(trials), "log_prob": trials.log_prob - 1})  # all ratios are e
    alone = generic(PPO(SEES, width=8, value_weight=0.0))
    gained = Trajectory(**{**vars(moved), "reward": torch.full_like(moved.reward, 5e3)})  # all advantages positive
    found = torch.autograd.grad(alone.losses(gained).sum(), list(actor_of(alone).parameters()))
    assert all(not bool(g.any()) for g in found)


def test_values_are_learned_in_units_of_the_steps_that_count() -> None:
    """A reward of 1 a step is worth 100 at a discount of .99: the net itself need only say 1."""
    method = PPO(Problem((1,), "classification", 2), width=8, discount=0.99).double()
    for parameter in method.value.parameters():
        torch.nn.init.zeros_(parameter)
    last = list(method.value.parameters())[-1]
    torch.nn.init.ones_(last)
    seen = torch.zeros(1, 5, 1).double()
    torch.testing.assert_close(method.value(seen), torch.full((1, 5, 1), 100.0).double())
    still = torch.zeros(1, 5).double()
    trial = Trajectory(seen, still.long(), still + 1, still, still - 0.7, still, seen)  # 100 it is: no surprise
    torch.testing.assert_close(judge(method.value, trial, 1, 0.99, 0.95)[1], still, atol=1e-9, rtol=0)


def test_advantages_are_those_of_the_definition() -> None:
    """GAE against its double sum, over trials of several episodes, some cut off and some ended."""
    time, discount, decay = 7, 0.9, 0.8
    reward, value, after = (torch.randn(3, time, generator=generator(s)).double() for s in range(3))
    done = (torch.rand(3, time, generator=generator(4)) < 0.4).double()
    terminated = done * (torch.rand(3, time, generator=generator(5)) < 0.5).double()
    assert 0 < float(terminated.sum()) < float(done.sum())
    expected = torch.zeros_like(reward)
    for row in range(3):
        for s in range(time):
            for later in range(s, time):
                surprise = reward[row, later] - value[row, later]
                surprise = surprise + discount * (1 - terminated[row, later]) * after[row, later]
                expected[row, s] += (discount * decay) ** (later - s) * surprise
                if done[row, later]:
                    break
    found = advantages(reward, value, after, done, terminated, discount, decay)
    torch.testing.assert_close(found, expected)
    # with lambda 1 and episodes that end, an advantage is the return less the value
    last = torch.ones_like(done[:, -1:])
    ended = torch.cat([done[:, :-1], last], 1)
    chained = torch.cat([value[:, 1:], after[:, -1:]], 1)  # where a step led is where the next began
    whole = advantages(reward, value, chained, ended, ended, discount, 1.0)
    torch.testing.assert_close(whole, returns_to_go(reward, ended, discount) - value)


def test_a_cut_bootstraps_and_an_end_does_not() -> None:
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    after = torch.full((1, 1), 10.0)
    cut = advantages(one, zero, after, done=one, terminated=zero, discount=0.9, decay=0.95)
    ended = advantages(one, zero, after, done=one, terminated=one, discount=0.9, decay=0.95)
    assert float(cut) == pytest.approx(1 + 0.9 * 10) and float(ended) == pytest.approx(1)


def test_trials_tell_a_cut_from_an_end() -> None:
    """The pendulum is cut off and never ends; where a step led is never the next episode's beginning."""

    class Twice(Pendulum):
        @property
        def horizon(self) -> int:
            return 2 * self.length

    env = Twice(length=3)
    method = PPO(env.problem)
    trials = collect(env, method.explorer(), env.sample(4, generator(0)), generator(1))
    terminated, after = trials.ends()
    assert trials.done[0].tolist() == [0, 0, 1, 0, 0, 1] and not bool(terminated.any())
    within = trials.done[:, :-1] == 0
    torch.testing.assert_close(after[:, :-1][within], trials.observation[:, 1:][within])
    assert not torch.equal(after[:, 2], trials.observation[:, 3])


def test_a_trust_region_step_keeps_its_bound_and_gains() -> None:
    trials, _ = all_histories(actor_of(generic(TRPO(SEES, width=8))))
    for bound in (1e-4, 1e-2):
        method = generic(TRPO(SEES, width=8, bound=bound, discount=1.0, damping=1e-3))
        assert isinstance(method, TRPO)
        old = actor_of(method).distribution(trials.observation)
        old = type(old)(logits=old.logits.detach())  # type: ignore[call-arg, attr-defined]
        step = method.improve(trials)
        kl = float(kl_divergence(old, actor_of(method).distribution(trials.observation)).mean().detach())
        assert kl == pytest.approx(step.kl) and 0.2 * bound < kl <= bound
        assert step.gain > 0


def test_a_trust_region_step_points_along_the_natural_gradient() -> None:
    """On a policy that is a table of logits, F and g can be written down: the step is along F^-1 g."""
    problem = Problem((1,), "classification", 3)
    method = TRPO(problem, width=8, damping=1e-8, iterations=50, discount=1.0, bound=1e-6).double()
    linear = torch.nn.Linear(1, 3, bias=False, dtype=torch.float64)
    torch.nn.init.normal_(linear.weight, generator=generator(0))
    method.actor.net = torch.nn.Sequential(linear)
    logits = linear.weight.detach().clone().squeeze(1)
    pi = logits.softmax(-1)
    ones = torch.ones(3, 1, dtype=torch.float64)
    reward = torch.tensor([[1.0], [0.0], [-2.0]]).double()
    trials = Trajectory(
        ones.unsqueeze(-1), torch.arange(3).unsqueeze(1), reward, ones, pi.log().unsqueeze(1), ones, ones.unsqueeze(-1)
    )
    value = method.value(torch.ones(1, 1, dtype=torch.float64)).detach()
    each = ((reward - value).squeeze(1) / 3) * 1.0  # the surrogate is the mean over the three tasks
    gradient = each - pi * each.sum()
    fisher = torch.diag(pi) - pi.outer(pi) + 1e-8 * torch.eye(3, dtype=torch.float64)
    expected = torch.linalg.solve(fisher, gradient)
    method.improve(trials)
    moved = linear.weight.detach().squeeze(1) - logits
    cosine = torch.nn.functional.cosine_similarity(moved - moved.mean(), expected - expected.mean(), 0)
    assert float(cosine) > 1 - 1e-6 and float(moved.norm()) > 0


def test_returns_count_the_first_episode_only() -> None:
    reward, done = torch.ones(2, 4), torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 0]])
    trials = Trajectory(torch.zeros(2, 4, 1), torch.zeros(2, 4).long(), reward, done, torch.zeros(2, 4))
    assert first_returns(trials).tolist() == [2, 4]


@pytest.mark.parametrize("cls", [Reinforce, ActorCritic, PPO, TRPO])
def test_policy_gradients_find_the_better_action(cls: type[Explorer]) -> None:
    """An MDP whose best policy is known, from any first weights."""
    env = TabularMDPs(states=3, actions=2, length=4, noise=0.0)
    task = env.sample(1, generator(3))

    class One(TabularMDPs):
        def sample(self, n: int, generator: torch.Generator) -> Tensor:
            return task.expand(n, *task.shape[1:])

    one = One(states=3, actions=2, length=4, noise=0.0)
    method = cls(one.problem, width=16, discount=1.0)  # type: ignore[call-arg]
    floor = float(collect(one, method.explorer(), one.sample(500, generator(5)), generator(4)).reward.sum(1).mean())
    fit_rl(method, one, steps=60, tasks=64, passes=4 if cls in (PPO, TRPO) else 1, lr=2e-2, generator=generator(0))
    reached = float(collect(one, method.explorer(), one.sample(500, generator(5)), generator(4)).reward.sum(1).mean())
    best = float(one.optimal_return(task))  # of a policy that counts steps; this one cannot
    assert reached > floor + 0.75 * (best - floor)


def test_says_what_is_missing() -> None:
    short = Trajectory(torch.zeros(1, 2, 5), torch.zeros(1, 2).long(), *torch.zeros(3, 1, 2))
    with pytest.raises(InputError, match=r"where each step led.*Found None.*collect"):
        PPO(SEES).losses(short)
