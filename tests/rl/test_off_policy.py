"""Methods that learn from a memory: fixed points, what is kept apart, relabelling, and runs that go on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core import Explorer, InputError, Problem, Replayed, RunError
from quickstudy.methods import DDPG, DQN, PPO, SAC, FittedQ, SoftQ
from quickstudy.methods.rl._critics import follow, target_of
from quickstudy.methods.rl._policies import SquashedNormal, best_of
from quickstudy.methods.rl._replay import Replay
from quickstudy.methods.rl.planning import soft_value_iteration
from quickstudy.methods.rl.relabel import Hindsight, TaskRelabelling
from quickstudy.tasks.acting import at_random
from quickstudy.tasks.bitflip import BitFlip
from quickstudy.tasks.classic import Pendulum
from quickstudy.tasks.tabular import TabularMDPs, value_iteration
from quickstudy.training import collect, fit_off_policy

DISCOUNT = 0.8


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mdp(seed: int = 0, states: int = 4, actions: int = 3) -> tuple[Tensor, Tensor]:
    """An MDP that ends now and then: transitions ``[1, S, A, S]`` of sums below 1, rewards ``[1, S, A]``."""
    weight = torch.rand(1, states, actions, states, generator=generator(seed), dtype=torch.float64)
    return 0.9 * weight / weight.sum(-1, keepdim=True), torch.randn(
        1, states, actions, generator=generator(seed + 1), dtype=torch.float64
    )


def every_step(p: Tensor, r: Tensor) -> tuple[Replayed, Tensor]:
    """Every step that there can be in an MDP, and how likely each is given state and action."""
    _, states, actions, _ = p.shape
    s, a, z = torch.meshgrid(*(torch.arange(n) for n in (states, actions, states + 1)), indexing="ij")
    s, a, z = s.flatten(), a.flatten(), z.flatten()
    ends = z == states
    chance = torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1)[0, s, a, z]
    eye = torch.eye(states, dtype=torch.float64)
    column = lambda x: x.unsqueeze(1)  # noqa: E731
    return Replayed(
        observation=column(eye[s]),
        action=column(a),
        reward=column(r[0, s, a]),
        done=column(ends.double()),
        log_prob=column(torch.zeros_like(chance)),
        terminated=column(ends.double()),
        after=column(eye[z.clamp(max=states - 1)]),
    ), chance


class Table(nn.Module):
    """Values of one-hot states, one number each."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def forward(self, seen: Tensor) -> Tensor:
        return seen @ self.values


def settled(method: DQN | SoftQ, steps: Replayed, chance: Tensor, sweeps: int) -> Tensor:
    """Descend the expected losses, a full Newton step each, with targets that follow at once. Shape: ``[S, A]``."""
    for _ in range(sweeps):
        loss = (chance * method.losses(steps)).sum()
        assert isinstance(method.q, Table)
        (gradient,) = torch.autograd.grad(loss, [method.q.values])
        with torch.no_grad():
            method.q.values.sub_(gradient / 2)  # each (s, a) is a square of weight 1
        method.follow()
    assert isinstance(method.q, Table)
    return method.q.values.detach()


def tabular(method: DQN | SoftQ, values: Tensor) -> DQN | SoftQ:
    method.q, method.target = Table(values), Table(values).requires_grad_(False)
    return method


@pytest.mark.parametrize("double", [False, True])
def test_dqn_settles_where_value_iteration_does(double: bool) -> None:
    p, r = mdp()
    steps, chance = every_step(p, r)
    method = DQN(Problem((4,), "classification", 3), discount=DISCOUNT, double=double, rate=1.0)
    found = settled(tabular(method, torch.randn(4, 3, generator=generator(5)).double()), steps, chance, 200)
    torch.testing.assert_close(found, value_iteration(p, r, DISCOUNT, tolerance=1e-13)[0], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_soft_q_settles_at_the_log_sum_exp_fixed_point(temperature: float) -> None:
    p, r = mdp(3)
    steps, chance = every_step(p, r)
    method = SoftQ(Problem((4,), "classification", 3), discount=DISCOUNT, temperature=temperature, rate=1.0)
    found = settled(tabular(method, torch.zeros(4, 3).double()), steps, chance, 200)
    torch.testing.assert_close(found, soft_value_iteration(p, r, DISCOUNT, temperature)[0], atol=1e-8, rtol=1e-8)
    value = temperature * (found / temperature).logsumexp(-1)  # the equation itself, written out
    torch.testing.assert_close(found, r[0] + DISCOUNT * p[0] @ value, atol=1e-8, rtol=1e-8)


def test_the_soft_policy_is_the_best_for_reward_and_entropy() -> None:
    """No other policy has more reward plus alpha times entropy; and a cold one is that of value iteration."""
    p, r = mdp(7)
    alpha = 0.4
    q = soft_value_iteration(p, r, DISCOUNT, alpha)

    def worth(pi: Tensor) -> Tensor:
        own = (pi * (r[0] - alpha * pi.log())).sum(-1)
        return torch.linalg.solve(torch.eye(4).double() - DISCOUNT * torch.einsum("sa,saz->sz", pi, p[0]), own)

    best = worth((q[0] / alpha).softmax(-1))
    torch.testing.assert_close(best, alpha * (q[0] / alpha).logsumexp(-1))
    for seed in range(20):
        other = (q[0] / alpha + torch.randn(4, 3, generator=generator(seed)).double()).softmax(-1)
        assert bool((worth(other) <= best + 1e-12).all())
    cold = soft_value_iteration(p, r, DISCOUNT, 1e-4)
    torch.testing.assert_close(cold, value_iteration(p, r, DISCOUNT, tolerance=1e-12), atol=2e-3, rtol=0)
    with pytest.raises(RunError, match="Expected soft value iteration to settle within 3 backups"):
        soft_value_iteration(p, r, DISCOUNT, alpha, most=3)


def test_fitted_q_is_value_iteration_on_the_mdp_that_was_seen() -> None:
    """Batched over tasks; the model is counted from the same steps."""
    env = TabularMDPs(states=3, actions=2, length=400, noise=0.0)
    tasks = env.sample(4, generator(0)).double()
    method = FittedQ(env.problem, discount=DISCOUNT, ridge=0.0)
    trials = collect(env, method.explorer(), tasks, generator(1))
    _, after = trials.ends()
    did = nn.functional.one_hot(trials.action, 2).double()
    seen = torch.einsum("tis,tia,tiz->tsaz", trials.observation, did, after)
    assert float(seen.sum(-1).min()) > 0
    q = value_iteration(seen / seen.sum(-1, keepdim=True), tasks[..., -1], DISCOUNT, tolerance=1e-12)
    found = method.adapt(trials)(torch.eye(3).double().expand(4, 3, 3))
    torch.testing.assert_close(found, q, atol=1e-9, rtol=1e-9)
    assert float(method.losses(trials).max()) > 0  # noise of the transitions stays


@pytest.mark.parametrize("cls", [DQN, SoftQ, SAC])
def test_a_cut_bootstraps_and_an_end_does_not(cls: type[DQN] | type[SoftQ] | type[SAC]) -> None:
    """What follows is worth 10: it counts after a cut, and not after an end."""
    p, r = mdp()
    steps, _ = every_step(p, r)
    method = cls(Problem((4,), "classification", 3), discount=0.9).double()
    with torch.no_grad():
        for name, value in method.target.named_parameters():  # a constant 10
            last = "3.bias" in name or "4.bias" in name or "biases.2" in name
            value.fill_(10.0 if last else 0.0)
    goal = steps.reward + 0.9 * 10 * (1 - steps.ends()[0])
    if isinstance(method, SAC):
        loss = method.losses(steps)
        cut = Replayed(**{**vars(steps), "terminated": torch.zeros_like(steps.reward)})
        changed = (method.losses(cut) - loss).detach().abs()
        assert bool((changed > 1)[steps.done[:, 0] == 1].all()) and float(changed[steps.done[:, 0] == 0].max()) == 0
        return
    extra = method.temperature * torch.tensor(3.0).double().log() if isinstance(method, SoftQ) else 0.0
    torch.testing.assert_close(method.goal(steps), goal + 0.9 * extra * (1 - steps.ends()[0]))


def test_soft_actor_critic_evaluates_its_policy_exactly() -> None:
    """Discrete actions, one critic as a table, a policy that is held: Q comes to the soft value of that policy."""
    p, r = mdp(11)
    steps, chance = every_step(p, r)
    method = SAC(
        Problem((4,), "classification", 3), discount=DISCOUNT, rate=1.0, temperature=0.3, learn_temperature=False
    ).double()

    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values = nn.Parameter(torch.zeros(2, 4, 3, dtype=torch.float64))

        def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
            return x @ (self.values.detach() if frozen else self.values)

    method.critics = Tables()  # type: ignore[assignment]
    method.target = target_of(method.critics)
    for _ in range(200):
        (gradient,) = torch.autograd.grad((chance * method.losses(steps)).sum(), [method.critics.values])  # type: ignore[arg-type]
        with torch.no_grad():
            method.critics.values -= gradient / 2  # type: ignore[operator]
        method.follow()
    alpha = float(method.log_temperature.detach().exp())
    pi = method.distribution(torch.eye(4).double()).probs.detach()  # type: ignore[attr-defined]
    own = (pi * (r[0] - alpha * pi.log())).sum(-1)
    value = torch.linalg.solve(torch.eye(4).double() - DISCOUNT * torch.einsum("sa,saz->sz", pi, p[0]), own)
    expected = (r[0] + DISCOUNT * p[0] @ value).expand(2, 4, 3)
    torch.testing.assert_close(method.critics.values.detach(), expected, atol=1e-9, rtol=1e-9)  # type: ignore[operator]


def test_parts_of_the_losses_move_their_own_parts_only() -> None:
    """The policy's loss leaves critics alone, and the critics' leaves the policy alone."""
    method = SAC(Problem((3,), "regression", 2), width=8)
    steps = Replayed(
        torch.randn(5, 1, 3, generator=generator(0)), torch.rand(5, 1, 2, generator=generator(1)), torch.zeros(5, 1),
        torch.zeros(5, 1), torch.zeros(5, 1), torch.zeros(5, 1), torch.randn(5, 1, 3, generator=generator(2)),
        noise=torch.randn(5, 1, 2, 2, generator=generator(3)),
    )  # fmt: skip
    worth, entropy = method.worth(steps.observation, steps.noise[:, :, 0], method.critics)  # type: ignore[index]
    policy = -(worth + 0.2 * entropy).sum()
    left = torch.autograd.grad(policy, list(method.critics.parameters()), allow_unused=True, retain_graph=True)
    assert all(g is None for g in left)
    full = torch.autograd.grad(method.losses(steps).sum(), list(method.actor.parameters()))
    alone = torch.autograd.grad(policy, list(method.actor.parameters()))
    for a, b in zip(full, alone, strict=True):
        torch.testing.assert_close(a, b)


def test_squashed_actions_have_the_density_of_the_change_of_variables() -> None:
    over = SquashedNormal(torch.tensor([[0.3]]).double(), torch.tensor([[0.8]]).double())
    a = torch.linspace(-1 + 1e-6, 1 - 1e-6, 200_001, dtype=torch.float64)
    density = over.log_prob(a.view(-1, 1, 1)).exp().flatten()
    assert float(torch.trapezoid(density, a)) == pytest.approx(1, abs=1e-4)
    assert float(over.mean) == pytest.approx(float(torch.trapezoid(a * density, a)), abs=1e-4)
    spread = float(torch.trapezoid(a.square() * density, a)) - float(over.mean) ** 2
    assert float(over.variance) == pytest.approx(spread, abs=1e-4)
    action, log_prob = over.at(torch.tensor([[1.2]]).double())
    torch.testing.assert_close(over.log_prob(action), log_prob)
    assert bool(torch.isfinite(over.log_prob(torch.ones(1, 1).double())).all())


def test_the_deterministic_policy_climbs_the_value() -> None:
    """A critic that likes a = 0.5: the policy's gradient points there, and the critic's weights are left alone."""
    method = DDPG(Problem((1,), "regression", 1), width=8).double()

    class Likes(nn.Module):
        def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
            return -(x[..., 1:] - 0.5).square().unsqueeze(0)

    method.critic, method.slow_critic = Likes(), Likes()  # type: ignore[assignment]
    one = torch.ones(1, 1, dtype=torch.float64)
    steps = Replayed(one.unsqueeze(-1), one.unsqueeze(-1), one, one, one, one, one.unsqueeze(-1))
    descent = torch.optim.Adam(method.actor.parameters(), 0.05)
    for _ in range(200):
        descent.zero_grad()
        method.losses(steps).sum().backward()
        descent.step()
    assert float(method.predict(one).detach()) == pytest.approx(0.5, abs=0.01)


def test_targets_follow() -> None:
    net, slow = nn.Linear(2, 2), nn.Linear(2, 2)
    before = slow.weight.detach().clone()
    follow(slow, net, 0.25)
    torch.testing.assert_close(slow.weight.detach(), 0.25 * net.weight.detach() + 0.75 * before)
    assert not any(p.requires_grad for p in target_of(net).parameters())


# --- the memory -------------------------------------------------------------------------------------------------------


def remembered(ends: dict[int, str], steps: int, length: int) -> Replay:
    """Steps 0, 1, 2... of two environments; those of the second are 100 more and never end."""
    past = Replay(length)
    for t in range(steps):
        at = torch.tensor([[float(t)], [100.0 + t]])
        ended, cut = (torch.tensor([ends.get(t) == kind, False]) for kind in ("end", "cut"))
        past.add(at, torch.tensor([t, t]), at[:, 0], ended, cut, at + 0.5)
    return past


def test_the_memory_gives_back_what_was_noted_and_keeps_ends_and_cuts_apart() -> None:
    past = remembered({2: "end", 4: "cut"}, 6, 10)
    drawn = past.take(torch.tensor([2, 4, 5, 5]), torch.tensor([0, 0, 0, 1]))
    terminated, after = drawn.ends()
    assert drawn.observation.flatten().tolist() == [2, 4, 5, 105]
    assert after.flatten().tolist() == [2.5, 4.5, 5.5, 105.5]
    assert terminated.flatten().tolist() == [1, 0, 0, 0] and drawn.done.flatten().tolist() == [1, 1, 0, 0]


def test_the_rest_of_an_episode_stops_at_its_end_and_at_what_is_known() -> None:
    past = remembered({2: "end", 4: "cut"}, 6, 10)
    slots, within = past.rest(torch.tensor([0, 3, 5, 4]), torch.tensor([0, 0, 0, 1]), 4)
    assert [slots[i][within[i]].tolist() for i in range(4)] == [[0, 1, 2], [3, 4], [5], [4, 5]]
    ring = remembered({7: "end"}, 12, 5)  # holds steps 7 to 11, in slots 2, 3, 4, 0, 1
    assert ring.size == 5 and sorted(ring.parts["reward"][:, 0].tolist()) == [7, 8, 9, 10, 11]
    slots, within = ring.rest(torch.tensor([3, 2, 1]), torch.tensor([0, 0, 0]), 5)
    assert [ring.parts["reward"][slots[i][within[i]], 0].tolist() for i in range(3)] == [[8, 9, 10, 11], [7], [11]]


def test_all_that_is_held_is_drawn_alike() -> None:
    past = remembered({}, 7, 4)
    slot, row = past.draw(4000, generator(0))
    counts = torch.bincount(slot * 2 + row, minlength=8)
    assert bool(((counts - 500).abs() < 5 * 500**0.5).all())


# --- relabelling ------------------------------------------------------------------------------------------------------


def played(env: BitFlip, steps: int, tasks: int) -> Replay:
    """Random flips in a memory, episode after episode."""
    past, policy, task = Replay(steps), at_random(env.problem), env.sample(tasks, generator(0))
    state, seen = env.reset(task, generator(1))
    chance = generator(2)
    for _ in range(steps):
        action, _, _ = policy.act(seen, torch.zeros(tasks, 0), chance)
        state, after, reward, terminated, truncated = env.step(state, action, task, chance)
        past.add(seen, action, reward, terminated, truncated, after)
        fresh, first = env.reset(task, chance)
        done = (terminated | truncated).unsqueeze(1)
        state, seen = fresh.where(done, state), first.where(done, after)
    return past


@pytest.mark.parametrize("strategy", ["final", "future"])
def test_hindsight_takes_reward_and_end_from_the_next_achieved_goal(strategy: str) -> None:
    env = BitFlip(6)
    past = played(env, 40, 5)
    slot, row = past.draw(500, generator(3))
    plain = past.take(slot, row)
    label = Hindsight(env, strategy, share=1.0)  # type: ignore[arg-type]
    new = label(past, slot, row, plain, generator(4))
    terminated, after = new.ends()
    achieved, desired = env.goals(after)
    reached = (achieved == desired).all(-1)
    assert torch.equal(new.reward, reached.float() - 1) and torch.equal(terminated, reached.float())
    assert torch.equal(env.goals(new.observation)[1], desired)  # the goal is the same before and after the step
    assert torch.equal(env.goals(new.observation)[0], env.goals(plain.observation)[0])
    assert torch.equal(new.action, plain.action)
    slots, within = past.rest(slot, row, 6)
    for i in range(500):
        ways = [env.goals(past.parts["after"][slots[i, k], row[i]])[0] for k in range(int(within[i].sum()))]
        allowed = ways[-1:] if strategy == "final" else ways
        assert any(torch.equal(desired[i, 0], way) for way in allowed)
    # judged by where a step STARTED, other steps would have reached their goals
    before = (env.goals(plain.observation)[0] == desired).all(-1)
    assert bool((before != reached).any())
    last = within.sum(1) == 1
    assert bool(reached[last].all())  # the last step of an episode always reaches its own goal


def test_only_the_share_is_relabelled() -> None:
    env = BitFlip(6)
    past = played(env, 40, 5)
    slot, row = past.draw(4000, generator(3))
    plain = past.take(slot, row)
    new = Hindsight(env, share=0.25)(past, slot, row, plain, generator(4))
    changed = (new.observation != plain.observation).any(-1).float().mean()
    assert 0.15 < float(changed) < 0.25  # some of the goals are what was desired anyway
    none = Hindsight(env, share=0.0)(past, slot, row, plain, generator(4))
    assert torch.equal(none.observation, plain.observation) and torch.equal(none.reward, plain.reward)
    with pytest.raises(InputError, match=r"Expected a share in \[0, 1\]"):
        Hindsight(env, share=2.0)


def test_a_step_goes_to_the_task_that_it_served_best() -> None:
    env = BitFlip(2)  # few goals, so that some step reaches another's
    past = played(env, 30, 8)
    slot, row = past.draw(300, generator(3))
    plain = past.take(slot, row)
    new = TaskRelabelling(env, candidates=6, share=1.0)(past, slot, row, plain, generator(4))
    terminated, after = new.ends()
    reached = (env.goals(after)[0] == env.goals(after)[1]).all(-1)
    assert torch.equal(new.reward, reached.float() - 1) and torch.equal(terminated, reached.float())
    assert float(new.reward.mean()) > float(plain.reward.mean()) + 0.2
    own = plain.reward == 0  # what reached the goal that was meant keeps it
    assert torch.equal(new.observation[own[:, 0]], plain.observation[own[:, 0]])


def test_among_few_tasks_it_is_the_best_of_all() -> None:
    """With so many candidates that both tasks are among them, against every step's own future, step by step."""
    bits, tasks = BitFlip(3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])

    class Two(BitFlip):
        def sample(self, n: int, generator: torch.Generator) -> Tensor:
            return tasks[torch.randint(2, (n,), generator=generator)]

    past, chance = Replay(40), generator(0)
    env, now = Two(3), tasks[torch.tensor([0, 1, 0, 1])]
    state, seen = env.reset(now, chance)
    for _ in range(40):
        action = torch.randint(3, (4,), generator=chance)
        state, after, reward, terminated, truncated = env.step(state, action, now, chance)
        past.add(seen, action, reward, terminated, truncated, after)
        over = (terminated | truncated).unsqueeze(1)
        fresh, begun = env.reset(now, chance)
        state, seen = fresh.where(over, state), begun.where(over, after)
    slot, row = past.draw(200, generator(3))
    new = TaskRelabelling(env, candidates=40, share=1.0, discount=0.9)(past, slot, row, past.take(slot, row), chance)
    given, moved = bits.goals(new.observation)[1][:, 0], 0
    for i in range(200):
        worth = []
        for task in tasks:
            total, at = 0.0, int(slot[i])
            for ahead in range(40 - int(slot[i])):
                reward, reached = env.outcome(env.goals(past.parts["after"][at, row[i]])[0], task)
                total += 0.9**ahead * float(reward)
                if reached or past.parts["terminated"][at, row[i]] or past.parts["truncated"][at, row[i]]:
                    break
                at += 1
            worth.append(total)
        own = int((tasks == now[row[i]]).all(1).nonzero()[0])
        best = own if worth[own] == max(worth) else 1 - own
        assert torch.equal(given[i], tasks[best])
        moved += best != own
    assert 20 < moved < 180


# --- the loop ---------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("which", ["dqn", "sac"])
def test_a_killed_and_resumed_run_equals_an_unbroken_one(tmp_path: Path, which: str) -> None:
    file = tmp_path / "run.safetensors"

    def run(resume: bool, stop: int, checkpoint: Path | None) -> tuple[Explorer, object]:
        def progress(done: int, steps: int) -> None:
            if done == stop:
                raise Killed

        env = BitFlip(4) if which == "dqn" else Pendulum(length=5)
        method = (DQN if which == "dqn" else SAC)(env.problem, width=8, generator=generator(0))
        relabel = Hindsight(env) if isinstance(env, BitFlip) else None
        return method, fit_off_policy(
            method, env, steps=30, tasks=3, memory=45, batch=8, warmup=9, relabel=relabel, every=7,
            generator=generator(1), checkpoint=checkpoint, resume=resume, progress=progress,
        )  # fmt: skip

    whole, history = run(False, -1, None)
    with pytest.raises(Killed):
        run(False, 17, file)
    resumed, after = run(True, -1, file)
    assert after == history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_steps_by_a_program_are_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # what is compiled is tested where it is: here the step itself stands for the program
    monkeypatch.setattr("quickstudy.training.compiled.compiled", lambda step, *inputs, **names: step)

    def run(compile: bool) -> tuple[SAC, list[float]]:
        env = Pendulum(length=5)
        method = SAC(env.problem, width=8, generator=generator(0))
        history = fit_off_policy(
            method, env, steps=12, tasks=3, batch=8, warmup=9, updates=2, every=5, generator=generator(1),
            compile=compile,
        )  # fmt: skip
        return method, history.loss

    (plain, loss), (program, told) = run(False), run(True)
    assert told[1:] == pytest.approx(loss[1:], rel=1e-4)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(program.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_compiled_loss_that_is_not_finite_stops_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at once a step of the loop: so one step late."""
    broken = lambda method, combine: lambda steps: steps.reward[:, 0] * torch.inf  # noqa: E731
    monkeypatch.setattr(sys.modules[fit_off_policy.__module__], "CompiledLosses", broken)
    env = Pendulum(length=5)
    with pytest.raises(RunError, match="finite losses. Found .* at step 2 "):
        fit_off_policy(SAC(env.problem, width=8), env, steps=9, tasks=3, batch=8, warmup=9, updates=2, compile=True)


def test_relabelling_learns_to_flip_bits() -> None:
    env = BitFlip(4)
    method = DQN(env.problem, width=64, discount=0.9, explore=0.2, rate=0.05, bounds=(-10, 0), generator=generator(0))
    fit_off_policy(
        method, env, steps=250, tasks=16, batch=128, warmup=320, updates=2, relabel=Hindsight(env), lr=3e-3,
        every=250, generator=generator(1),
    )  # fmt: skip
    trials = collect(env, best_of(method), env.sample(500, generator(2)), generator(3))
    assert float((trials.ends()[0].sum(1) > 0).float().mean()) > 0.95


@dataclass(frozen=True)
class Reach(Pendulum):
    """One step; the reward is minus the squared distance of the action from what is seen."""

    @property
    def problem(self) -> Problem:
        return Problem((1,), "regression", 1)

    @property
    def horizon(self) -> int:
        return 1

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        state = torch.rand(len(tasks), 1, generator=generator) - 0.5
        return state, state

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        ended = torch.ones(len(tasks), dtype=torch.bool)
        return state, state, -(action - state).square().sum(1) * 10, ended, ~ended


@pytest.mark.parametrize("cls", [DDPG, SAC])
def test_continuous_actions_are_learned(cls: type[DDPG] | type[SAC]) -> None:
    env = Reach()
    method = cls(env.problem, width=32, generator=generator(0))
    fit_off_policy(method, env, steps=400, tasks=16, batch=64, warmup=320, lr=3e-3, every=400, generator=generator(1))
    trials = collect(env, best_of(method), env.sample(300, generator(2)), generator(3))
    assert float(trials.reward.mean()) > -0.1  # at random -4.2; the best constant -0.8


def test_says_which_loop_a_method_belongs_in_and_which_actions_it_takes() -> None:
    env = BitFlip(4)
    with pytest.raises(InputError, match=r"learns from a memory.*Found PPO.*fit_rl"):
        fit_off_policy(PPO(env.problem), env)
    with pytest.raises(InputError, match=r"Expected continuous actions.*'ddpg'.*Found 'classification'"):
        DDPG(env.problem)
    trials = collect(Pendulum(length=3), at_random(Pendulum().problem), torch.ones(2, 3), generator(0))
    with pytest.raises(InputError, match=r"with noise.*fit_off_policy"):
        SAC(Pendulum().problem).losses(trials)
    with pytest.raises(InputError, match="Expected a discount from 0 to below 1. Found 1"):
        FittedQ(env.problem, discount=1.0)
