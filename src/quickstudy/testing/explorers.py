"""The laws of a method that collects its own data (reinforcement learning), one function each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.distributions import Distribution

from quickstudy.core import Advised, Explorer, Imitates, Kind, Prediction, Problem, Replayed, Trajectory
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
MOVING = Problem((3,), "regression", 2)  # three numbers are seen, two are done
KINDS: dict[Kind, Problem] = {"classification": ACTING, "regression": MOVING}


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


def check_explorer(factory: Factory, problem: Problem | None = None) -> None:
    """Check a method that acts against the laws that such methods obey, on made-up trials.

    Args:
        factory: makes the method for a problem; usually the class itself.
        problem: inputs are observations, and the outputs what is done. None stands for one of each kind of actions
            that the method declares that it can take (``acts``; discrete ones for a factory that does not say).

    Raises:
        ConformanceError: lists each broken law: what was expected, what was found, how to mend it.
    """
    kinds: tuple[Kind, ...] = getattr(factory, "acts", ("classification",))
    found: list[tuple[str, str, ConformanceError]] = []
    with precision(torch.float64):
        for one in [KINDS[kind] for kind in kinds] if problem is None else [problem]:
            trials = _trials(one, isinstance(factory(one), Imitates))
            case = _Case(factory, one, trials, _normal(5, TASKS, LATER, *one.x_shape))
            where = "trials" if one.kind == "classification" else "trials of continuous actions"
            for law in EXPLORER_LAWS:
                error = obey(law, case)
                if error is not None:
                    found.append((name_of(law), where, error))
    report(getattr(factory, "__name__", type(factory).__name__), found)


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _trials(problem: Problem, taught: bool) -> Trajectory:
    """What T tasks' policies saw and did, with all that any method that acts may read; or that a teacher said it."""
    discrete, n = problem.kind == "classification", problem.n_outputs
    generator = torch.Generator().manual_seed(3)
    done = torch.zeros(TASKS, TIME, dtype=torch.float64)
    done[:, TIME // 2] = 1  # trials of two episodes
    terminated = done.clone()
    terminated[0] = 0  # the first task's episodes are cut off
    trials = Trajectory(
        observation=_normal(1, TASKS, TIME, *problem.x_shape),
        action=torch.randint(n, (TASKS, TIME), generator=generator) if discrete else _normal(2, TASKS, TIME, n).tanh(),
        reward=_normal(3, TASKS, TIME),
        done=done,
        log_prob=torch.full((TASKS, TIME), 1 / n, dtype=torch.float64).log(),
        terminated=terminated,
        after=_normal(4, TASKS, TIME, *problem.x_shape),
    )
    if taught:
        return Advised(**vars(trials), advice=_normal(6, TASKS, TIME, n if discrete else 2 * n))
    return Replayed(**vars(trials), noise=_normal(6, TASKS, TIME, 2, n))


def logits_have_the_right_shape(case: _Case) -> None:
    """``adapt`` gives a predictor, which gives ``[T, m, actions]``, finite; a distribution by its mean."""
    with torch.no_grad():
        prediction = case.method().adapt(case.trials)(case.later)
    value = prediction.mean if isinstance(prediction, Distribution) else prediction
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
    """Actions in range with their log-probabilities ``[T]``, and a memory that keeps its shape.

    Discrete actions are ``[T]``; continuous ones ``[T, a]``, and the environment clips them.
    """
    discrete, n = case.problem.kind == "classification", case.problem.n_outputs
    expected = (TASKS,) if discrete else (TASKS, n)
    policy, trials = case.method().explorer(), case.trials
    memory = policy.start(TASKS)
    for t in range(TIME):
        with torch.no_grad():
            action, log_prob, after = policy.act(trials.observation[:, t], memory, torch.Generator().manual_seed(t))
            after = policy.learn(after, action, trials.reward[:, t], trials.done[:, t])
        if tuple(action.shape) != expected or tuple(log_prob.shape) != (TASKS,):
            what = f"actions {list(expected)} and log-probabilities [{TASKS}]"
            raise broken(what, f"{list(action.shape)}, {list(log_prob.shape)}", "One for each task.")
        if discrete and bool(((action < 0) | (action >= n)).any()):
            raise broken(f"actions in 0..{n - 1}", f"{action.tolist()}", "Draw from all actions.")
        if not discrete and not bool(torch.isfinite(action).all()):
            raise broken("finite actions", f"{action.tolist()}", "Look at the deviation that they are drawn with.")
        if discrete and bool((log_prob > 1e-9).any()):
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
    with torch.no_grad():
        read = _log_prob(method.adapt(case.trials)(case.later[:, :1]), action.unsqueeze(1)).squeeze(1)
    must_agree(
        log_prob, read, "that act's log-probability is the adapted predictor's", "Let both read the same memory."
    )


def tasks_do_not_leak_into_each_other(case: _Case) -> None:
    """Other data in one task change nothing in the others' predictions, losses and memories."""
    method, trials = case.method(), case.trials
    observation, reward = trials.observation.clone(), trials.reward.clone()
    observation[0], reward[0] = 3 - 2 * observation[0], 5 - reward[0]
    action = torch.cat([trials.action[:1].roll(1, 1), trials.action[1:]])
    after = torch.cat([trials.after[:1].roll(1, 1), trials.after[1:]]) if trials.after is not None else None
    other = replace(trials, observation=observation, action=action, reward=reward, after=after)
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


def _log_prob(prediction: Prediction, action: Tensor) -> Tensor:
    """Of actions ``[T, m]`` or ``[T, m, a]`` under what a predictor gave. Shape: ``[T, m]``."""
    if isinstance(prediction, Distribution):
        found: Tensor = prediction.log_prob(action)
        return found
    return torch.log_softmax(prediction, -1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def _each(trials: Trajectory) -> Iterator[Trajectory]:
    """The trials of each task alone."""
    for t in range(TASKS):
        yield trials.tasks(slice(t, t + 1))
