"""The laws of a method that collects its own data (reinforcement learning), one function each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from safetensors.torch import load, save
from torch import Tensor

from quickstudy.core import Explorer, Problem, Trajectory
from quickstudy.testing._cases import frozen
from quickstudy.testing._law import (
    ConformanceError,
    Law,
    broken,
    difference,
    global_state,
    must_agree,
    name_of,
    numbers,
    obey,
    precision,
    report,
)

TASKS, TIME, LATER = 4, 6, 3
Factory = Callable[[Problem], Explorer]
ACTING = Problem((3,), "classification", 4)  # three numbers are seen, one of four actions is taken


@dataclass(frozen=True)
class _Case:
    """The factory, and what T tasks' policies saw and did; all in float64."""

    factory: Factory
    problem: Problem
    trials: Trajectory
    later: Tensor

    def method(self, *, train: bool = False) -> Explorer:
        """A new one, moved to a generic point: first weights that are zero would hide much."""
        method = self.factory(self.problem).double()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.1)
        return method.train(train)


def check_explorer(factory: Factory, problem: Problem = ACTING) -> None:
    """Check a method that acts against the laws that such methods obey, on made-up trials with discrete actions.

    Args:
        factory: makes the method for a problem; usually the class itself.
        problem: inputs are observations, and the outputs are the actions' logits.

    Raises:
        ConformanceError: lists each broken law: what was expected, what was found, how to mend it.
    """
    generator = torch.Generator().manual_seed(3)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    action = torch.randint(problem.n_outputs, (TASKS, TIME), generator=generator)
    done = torch.zeros(TASKS, TIME, dtype=torch.float64)
    done[:, TIME // 2] = 1  # trials of two episodes
    log_prob = torch.full((TASKS, TIME), 1 / problem.n_outputs, dtype=torch.float64).log()
    trials = Trajectory(normal(TASKS, TIME, *problem.x_shape), action, normal(TASKS, TIME), done, log_prob)
    case = _Case(factory, problem, trials, normal(TASKS, LATER, *problem.x_shape))
    found: list[tuple[str, str, ConformanceError]] = []
    with precision(torch.float64):
        for law in EXPLORER_LAWS:
            error = obey(law, case)
            if error is not None:
                found.append((name_of(law), "trials", error))
    report(getattr(factory, "__name__", type(factory).__name__), found)


def logits_have_the_right_shape(case: _Case) -> None:
    """``adapt`` gives a predictor, which gives ``[T, m, actions]``, finite."""
    value = _predict(case.method(), case)
    expected = (TASKS, LATER, case.problem.n_outputs)
    if tuple(value.shape) != expected or not bool(torch.isfinite(value).all()):
        raise broken(f"finite logits {list(expected)}", f"{list(value.shape)}", "Keep the axes T and m in front.")


def losses_are_one_finite_number_a_task(case: _Case) -> None:
    """``losses`` gives ``[T]``, and trains something."""
    method = case.method(train=True)
    losses = method.losses(case.trials)
    if tuple(losses.shape) != (TASKS,) or not bool(torch.isfinite(losses).all()):
        raise broken(f"finite losses [{TASKS}]", f"{losses.tolist()}", "Average over time, not over tasks.")
    if method.trains:
        parameters = [p for p in method.parameters() if p.requires_grad]
        gradient = torch.autograd.grad(losses.sum(), parameters, allow_unused=True) if losses.requires_grad else ()
        if not any(g is not None and bool(g.any()) for g in gradient):
            raise broken("a gradient", "none", "Look for .detach() between the parameters and the losses.")


def a_policy_acts_in_every_task(case: _Case) -> None:
    """Actions ``[T]`` in range with their log-probabilities ``[T]``, and a memory that keeps its shape."""
    policy, trials = case.method().explorer(), case.trials
    memory = policy.start(TASKS)
    for t in range(TIME):
        with torch.no_grad():
            action, log_prob, after = policy.act(trials.observation[:, t], memory, torch.Generator().manual_seed(t))
            after = policy.learn(after, action, trials.reward[:, t], trials.done[:, t])
        if tuple(action.shape) != (TASKS,) or tuple(log_prob.shape) != (TASKS,):
            raise broken(f"actions and log-probabilities [{TASKS}]", f"{list(action.shape)}", "One for each task.")
        if bool(((action < 0) | (action >= case.problem.n_outputs)).any()):
            raise broken(f"actions in 0..{case.problem.n_outputs - 1}", f"{action.tolist()}", "Draw from all actions.")
        if bool((log_prob > 1e-9).any()):
            raise broken("log-probabilities of 0 or less", f"{log_prob.tolist()}", "Give log pi(a), or NaN.")
        if after.shape != memory.shape:
            raise broken(f"a memory {list(memory.shape)}", f"{list(after.shape)}", "Keep the memory's shape.")
        memory = after


def the_generator_decides(case: _Case) -> None:
    """The same generator state, the same actions; another state, others; no global generator is drawn from."""
    method, state = case.method(), global_state()
    first, again = _act(method, case, 0), _act(method, case, 0)
    others = [_act(method, case, seed) for seed in range(1, 30)]
    _predict(method, case)
    method.losses(case.trials)
    fix = "Draw actions from the generator that act is given."
    if global_state() != state:
        raise broken("no draw from torch's or numpy's global generator", "one", fix)
    if not torch.equal(first, again):
        raise broken("the same actions from the same generator state", "others", fix)
    if method.trains and all(torch.equal(first, other) for other in others):
        raise broken("other actions from other generator states", "the same ones", fix)


def acting_and_adapting_change_nothing(case: _Case) -> None:
    """All that is remembered of the tasks is in the memory, none of it on the method."""
    method = case.method()
    before = frozen(method)
    _act(method, case, 0)
    _predict(method, case)
    if frozen(method) != before:
        raise broken("a method that is the same after acting and adapting", "a change", "Keep it in the memory.")


def acting_is_adapting(case: _Case) -> None:
    """Who has lived through a trial acts as who has read of it: ``act`` draws from the adapted predictor."""
    method, trials = case.method(), case.trials
    policy = method.explorer()
    memory = policy.start(TASKS)
    with torch.no_grad():
        for t in range(TIME):
            _, _, memory = policy.act(trials.observation[:, t], memory, torch.Generator().manual_seed(t))
            memory = policy.learn(memory, trials.action[:, t], trials.reward[:, t], trials.done[:, t])
        action, log_prob, _ = policy.act(case.later[:, 0], memory, torch.Generator().manual_seed(0))
    if bool(torch.isnan(log_prob).all()):
        return
    read = torch.log_softmax(_predict(method, case)[:, 0], -1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
    must_agree(
        log_prob, read, "that act's log-probability is the adapted predictor's", "Let both read the same memory."
    )


def tasks_do_not_leak_into_each_other(case: _Case) -> None:
    """Other data in one task change nothing in the others' predictions, losses and memories."""
    method, trials = case.method(), case.trials
    observation, reward = trials.observation.clone(), trials.reward.clone()
    observation[0], reward[0] = 3 - 2 * observation[0], 5 - reward[0]
    action = torch.cat([trials.action[:1].roll(1, 1), trials.action[1:]])
    other = replace(trials, observation=observation, action=action, reward=reward)
    changed = replace(case, trials=other)
    fix = "Look for means, normalisation or loops over the task axis."
    what = "that one task's trial changes nothing in the other tasks'"
    must_agree(_predict(method, changed)[1:], _predict(method, case)[1:], f"{what} predictions", fix)
    must_agree(_losses(method, other)[1:], _losses(method, trials)[1:], f"{what} losses", fix)
    must_agree(_memory(method, other)[1:], _memory(method, trials)[1:], f"{what} memories", fix)


def a_batch_is_its_tasks_one_by_one(case: _Case) -> None:
    """T tasks at once give what each gives alone."""
    method = case.method()
    fix = "Look for what depends on the number of tasks, or mixes the task axis with another."
    alone = [replace(case, trials=one, later=case.later[t : t + 1]) for t, one in enumerate(_each(case.trials))]
    predictions = torch.cat([_predict(method, one) for one in alone])
    must_agree(_predict(method, case), predictions, "the predictions that each task gets alone", fix)
    losses = torch.cat([_losses(method, one.trials) for one in alone])
    must_agree(_losses(method, case.trials), losses, "the losses that each task gets alone", fix)


def first_weights_follow_from_the_arguments(case: _Case) -> None:
    """Two methods made alike are alike: first weights come from a generator, not from the global one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = case.factory(case.problem).state_dict()
        torch.manual_seed(2)
        two = case.factory(case.problem).state_dict()
    other = [key for key in one if difference(two[key].double(), one[key].double()) > 0]
    if other:
        raise broken("the same first weights from the same arguments", f"others in {other}", "Take a generator.")


def state_can_be_saved_and_loaded(case: _Case) -> None:
    """A new method that loads the saved state predicts the same."""
    old, new = case.method(), case.factory(case.problem).double().eval()
    new.load_state_dict(load(save({key: value.detach().clone() for key, value in old.state_dict().items()})))
    must_agree(
        _predict(new, case),
        _predict(old, case),
        "the same predictions from a new method with the saved state",
        "Register all that is learned as nn.Parameter, or as a buffer (register_buffer).",
    )


EXPLORER_LAWS: tuple[Law[_Case], ...] = (
    logits_have_the_right_shape,
    losses_are_one_finite_number_a_task,
    a_policy_acts_in_every_task,
    the_generator_decides,
    acting_and_adapting_change_nothing,
    acting_is_adapting,
    tasks_do_not_leak_into_each_other,
    a_batch_is_its_tasks_one_by_one,
    first_weights_follow_from_the_arguments,
    state_can_be_saved_and_loaded,
)


def _predict(method: Explorer, case: _Case) -> Tensor:
    with torch.no_grad():
        return numbers(method.adapt(case.trials)(case.later))


def _losses(method: Explorer, trials: Trajectory) -> Tensor:
    return method.losses(trials).detach()


def _act(method: Explorer, case: _Case, seed: int) -> Tensor:
    """The first actions. Shape: ``[T]``."""
    policy = method.explorer()
    with torch.no_grad():
        return policy.act(case.trials.observation[:, 0], policy.start(TASKS), torch.Generator().manual_seed(seed))[0]


def _memory(method: Explorer, trials: Trajectory) -> Tensor:
    """The memory after the trials' first step. Shape: ``[T, ...]``."""
    policy = method.explorer()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        _, _, memory = policy.act(trials.observation[:, 0], policy.start(TASKS), generator)
        return policy.learn(memory, trials.action[:, 0], trials.reward[:, 0], trials.done[:, 0])


def _each(trials: Trajectory) -> Iterator[Trajectory]:
    """The trials of each task alone."""
    for t in range(TASKS):
        yield Trajectory(*(getattr(trials, part.name)[t : t + 1] for part in fields(Trajectory)))
