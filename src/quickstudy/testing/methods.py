"""The laws of a method, one function each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.distributions import Distribution

from quickstudy.core import Batch, Episodes, InputError, Method, Problem
from quickstudy.testing._cases import Case, Factory, altered, cases, frozen, padded
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


def check_method(factory: Factory, problem: Problem | None = None) -> None:
    """Check a method against the laws that every method obeys, on small made-up problems.

    Takes seconds. What the class declares (``order_free``, ``uses_task``, ``transductive``, ...) is checked too.

    Args:
        factory: makes the method for a problem; usually the class itself.
        problem: check on this problem only; by default on every kind that the method does not ``refuse``.

    Raises:
        ConformanceError: lists each broken law: what was expected, what was found, how to mend it.
        InputError: the method refuses every problem, so that nothing could be checked.
    """
    found = []
    for case in _cases(factory, problem):
        for law in METHOD_LAWS:
            error = _obey(law, case)
            if error is not None:
                found.append((name_of(law), case.name, error))
                if law is METHOD_LAWS[0]:  # without predictions, every other law would fail for the same reason
                    break
    report(_name(factory), found)


def laws(factory: Factory, problem: Problem | None = None) -> Iterator[tuple[str, Callable[[], None]]]:
    """The laws one by one, for ``pytest.mark.parametrize``: a name, and a function that raises if it is broken.

    Args:
        factory: makes the method for a problem; usually the class itself.
        problem: see :func:`check_method`.
    """

    def bind(law: Law[Case], case: Case) -> Callable[[], None]:
        def check() -> None:
            error = _obey(law, case)
            report(_name(factory), [] if error is None else [(name_of(law), case.name, error)])

        return check

    for case in _cases(factory, problem):
        for law in METHOD_LAWS:
            yield f"{name_of(law)}, on {case.name}", bind(law, case)


def _cases(factory: Factory, problem: Problem | None) -> list[Case]:
    accepted, refused = cases(factory, problem)
    if not accepted:
        raise InputError(
            f"Expected a problem that {_name(factory)} can serve. Found that it refuses all: {'; '.join(refused)}. "
            "Give one that suits it: check_method(factory, problem); or, for a method that acts, use check_explorer."
        )
    return accepted


def _name(factory: Factory) -> str:
    return getattr(factory, "__name__", type(factory).__name__)


def _obey(law: Law[Case], case: Case) -> ConformanceError | None:
    with precision(torch.float64):
        return obey(law, case)


# --- shapes -----------------------------------------------------------------------------------------------------------


def predictions_have_the_right_shape(case: Case) -> None:
    """``adapt`` gives a predictor, which gives ``[T, m, N]`` or ``[T, m, d]``, finite, in single precision too."""
    expected = (*case.episodes.query.y.shape[:2], case.problem.n_outputs)
    for dtype in (torch.float64, torch.float32):
        method, episodes = case.method().to(dtype), _as(case.episodes, dtype)
        with torch.no_grad(), precision(dtype):
            prediction = method.adapt(episodes.support, episodes.task)(episodes.query.x)
        value = prediction.mean if isinstance(prediction, Distribution) else prediction
        if tuple(value.shape) != expected:
            raise broken(
                f"predictions [T, m, outputs] = {list(expected)}",
                f"{list(value.shape)}",
                "Keep the task axis T and the example axis m in front.",
            )
        if not bool(torch.isfinite(value).all()):
            raise broken("finite predictions", "NaN or infinite ones", "For a class without support, give -1e4.")


def losses_are_one_finite_number_a_task(case: Case) -> None:
    """``losses`` gives ``[T]``."""
    losses = case.method(train=True).losses(case.episodes)
    if tuple(losses.shape) != (case.episodes.n_tasks,):
        raise broken(
            f"losses [T] = [{case.episodes.n_tasks}]",
            f"{list(losses.shape)}",
            "Average over examples, not over tasks: `problem.losses` does.",
        )
    if not bool(torch.isfinite(losses).all()):
        raise broken("finite losses", f"{losses.tolist()}", "Look for a division by zero or the log of zero.")


# --- no side effects --------------------------------------------------------------------------------------------------


def adapting_changes_nothing(case: Case) -> None:
    """Adapting and predicting leave every parameter, buffer and attribute of the method as it was."""
    method = case.method()
    before = frozen(method)
    _predict(method, case.episodes)
    if frozen(method) != before:
        changed = _changed(case)
        raise broken(
            "a method that is the same after adapt as before",
            f"a change in {changed}",
            "Keep what adapt learns in local variables that the predictor closes over, never on self.",
        )


def adapting_in_training_moves_no_parameter(case: Case) -> None:
    """In training mode running statistics may follow the data; parameters are the optimiser's to move."""
    method = case.method(train=True)
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    method.losses(case.episodes)
    moved = [name for name, value in method.named_parameters() if not torch.equal(value, before[name])]
    if moved or len(before) != len(list(method.parameters())):
        raise broken(
            "parameters that only the optimiser moves",
            f"that adapt or losses changed {moved or 'their number'}",
            "Adapt copies: start from parameter.detach().clone(), or use torch.func.functional_call.",
        )


def the_same_again(case: Case) -> None:
    """The same data give the same result, and no global generator is drawn from."""
    method, training = case.method(), case.method(train=True)
    state = global_state()
    first = _predict(method, case.episodes)
    second = _predict(method, case.episodes)
    training.losses(case.episodes)
    if global_state() != state:
        raise broken(
            "no draw from torch's or numpy's global generator",
            "one in adapt, in the predictor or in losses",
            "A resumed run could not repeat it. Make a torch.Generator with a fixed seed where you need one.",
        )
    must_agree(second, first, "the same predictions for the same data", "Seed every draw anew in each call.")


def first_weights_follow_from_the_arguments(case: Case) -> None:
    """Two methods made alike are alike: first weights come from a generator, not from the global one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = case.factory(case.problem).state_dict()
        torch.manual_seed(2)
        two = case.factory(case.problem).state_dict()
    other = [key for key in one if key not in two or difference(two[key].double(), one[key].double()) > 0]
    if other:
        raise broken(
            "the same first weights from the same arguments",
            f"others in {other}",
            "Take `generator: torch.Generator | None = None` in __init__ and hand it to quickstudy.nets.",
        )


def state_can_be_saved_and_loaded(case: Case) -> None:
    """A new method that loads the saved state predicts the same. Saved as checkpoints are: named tensors in a file."""
    old, new = case.method(), case.factory(case.problem).double().eval()
    state = {name: value.detach().contiguous().clone() for name, value in old.state_dict().items()}
    new.load_state_dict(load(save(state)))
    must_agree(
        _predict(new, case.episodes),
        _predict(old, case.episodes),
        "the same predictions from a new method with the saved state",
        "Register all that is learned as nn.Parameter, or as a buffer (register_buffer).",
    )


# --- tasks are apart --------------------------------------------------------------------------------------------------


def tasks_do_not_leak_into_each_other(case: Case) -> None:
    """Other data in one task change nothing in the predictions and losses of the other tasks."""
    method, e = case.method(), case.episodes
    first = torch.zeros(e.support.y.shape[:2], dtype=torch.bool)
    first[0] = True
    other = replace(
        e,
        support=altered(e.support, first),
        query=altered(e.query, first[:, :1].expand(e.query.y.shape[:2])),
    )
    fix = "Look for means, normalisation or loops over the task axis."
    what = "that one task's data change nothing in the other tasks'"
    must_agree(_predict(method, other)[1:], _predict(method, e)[1:], f"{what} predictions", fix)
    must_agree(_losses(method, other)[1:], _losses(method, e)[1:], f"{what} losses", fix)


def a_batch_is_its_tasks_one_by_one(case: Case) -> None:
    """T tasks at once give what each gives alone."""
    method, e = case.method(), case.episodes
    alone = [e.tasks(slice(t, t + 1)) for t in range(e.n_tasks)]
    fix = "Look for what depends on the number of tasks, or mixes the task axis with another."
    predictions = torch.cat([_predict(method, one) for one in alone])
    must_agree(_predict(method, e), predictions, "the predictions that each task gets alone", fix)
    losses = torch.cat([_losses(method, one) for one in alone])
    must_agree(_losses(method, e), losses, "the losses that each task gets alone", fix)


# --- examples ---------------------------------------------------------------------------------------------------------


def padding_changes_nothing(case: Case) -> None:
    """Examples of weight 0, in the support or in the query, are as if they were not there."""
    method, e = case.method(), case.episodes
    if method.transductive and case.problem.n_classes:
        return  # batch statistics count padding too; class episodes have none, as all their tasks have equal shots
    fix = "Multiply by batch.weights wherever examples are summed or compared."
    support = replace(e, support=padded(e.support))
    what = "that support examples of weight 0 change nothing in"
    must_agree(_predict(method, support), _predict(method, e), f"{what} the predictions", fix)
    must_agree(_losses(method, support), _losses(method, e), f"{what} the losses", fix)
    if not method.transductive:
        query = replace(e, query=padded(e.query))
        what = "that query examples of weight 0 change nothing in the losses"
        must_agree(_losses(method, query), _losses(method, e), what, fix)


def weights_of_one_are_no_weights(case: Case) -> None:
    """A support without weights is one whose weights are all 1."""
    method, e = case.method(), case.episodes
    none, ones = replace(e.support, weight=None), replace(e.support, weight=torch.ones(e.support.y.shape[:2]))
    must_agree(
        _predict(method, replace(e, support=none)),
        _predict(method, replace(e, support=ones)),
        "the same predictions with weight=None as with ones",
        "Read batch.weights, which stands for both.",
    )


def a_missing_class_does_no_harm(case: Case) -> None:
    """Small supports lack classes: predictions and losses stay finite."""
    if case.problem.kind != "classification":
        return
    method, e = case.method(), case.episodes
    lacking = replace(e, support=replace(e.support, weight=e.support.weights * (e.support.y > 0)))
    for what, value in (("predictions", _predict(method, lacking)), ("losses", _losses(method, lacking))):
        if not bool(torch.isfinite(value).all()):
            raise broken(
                f"finite {what} where the support has no example of class 0",
                "NaN or infinite ones",
                "Divide by size.clamp_min(1), and give a class that cannot be chosen the logit -1e4, not -inf.",
            )


def query_examples_are_apart(case: Case) -> None:
    """A prediction depends on its own query example only, unless the method is declared ``transductive``."""
    method, e = case.method(), case.episodes
    if method.transductive:
        return
    with torch.no_grad():
        predict = method.adapt(e.support, e.task)
        whole = numbers(predict(e.query.x))
        alone = torch.cat([numbers(predict(e.query.x[:, i : i + 1])) for i in range(e.query.n)], 1)
    must_agree(
        whole,
        alone,
        "for each query example the prediction that it gets alone",
        "Look for statistics over the query, or declare `transductive = True`.",
    )


def support_order_is_without_effect(case: Case) -> None:
    """Where ``order_free`` is declared, the support examples may come in any order."""
    method, e = case.method(), case.episodes
    if not method.order_free:
        return
    order = torch.rand(e.support.y.shape[:2], generator=torch.Generator().manual_seed(5)).argsort(1)
    row = torch.arange(e.n_tasks).unsqueeze(1)
    weight = None if e.support.weight is None else e.support.weight[row, order]
    shuffled = replace(e.support, x=e.support.x[row, order], y=e.support.y[row, order], weight=weight)
    must_agree(
        _predict(method, replace(e, support=shuffled)),
        _predict(method, e),
        "the same predictions for the support in another order",
        "Sum or average over the support, or declare `order_free = False`.",
    )


def classes_can_be_renumbered(case: Case) -> None:
    """Where labels mean nothing across tasks, renumbering the classes renumbers the logits and does nothing else."""
    method, e = case.method(), case.episodes
    if not method.label_equivariant or case.problem.kind != "classification" or case.problem.shared_labels:
        return
    shift = lambda batch: replace(batch, y=(batch.y + 1) % case.problem.n_outputs)  # noqa: E731
    must_agree(
        _predict(method, replace(e, support=shift(e.support))).roll(-1, -1),
        _predict(method, e),
        "logits that are renumbered as the classes are",
        "Treat all labels alike (no parameter belongs to one label), or declare `label_equivariant = False`.",
    )


# --- training ---------------------------------------------------------------------------------------------------------


def the_gradient_is_that_of_the_losses(case: Case) -> None:
    """Where the method ``trains``, its losses have a gradient, equal to finite differences along a random direction.

    A gradient that stops at the adapted parameters (a detached inner loop) is caught here. Methods that take
    another one on purpose (first-order MAML) declare ``exact_gradient = False``; theirs must not be zero.
    """
    method = case.method(train=True)
    if not method.trains:
        return
    parameters = [p for p in method.parameters() if p.requires_grad]
    fix = "Look for .detach(), .item(), .data or torch.no_grad between the parameters and the losses"
    if not parameters and not method.shares:  # tasks alone have nothing to train where tasks have no identity
        return
    if not parameters:
        raise broken("parameters to train", "none", "Register them, or declare `trains = False`.")
    losses = method.losses(case.episodes)
    if not losses.requires_grad:
        raise broken("losses with a gradient", "losses that depend on no parameter", f"{fix}.")
    reached = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    gradient = [torch.zeros_like(p) if g is None else g for g, p in zip(reached, parameters, strict=True)]
    if not any(bool(g.any()) for g in gradient):
        raise broken("a gradient", "zero for every parameter", f"{fix}.")
    if not method.exact_gradient:
        return
    generator = torch.Generator().manual_seed(11)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    length = math.sqrt(sum(float(d.square().sum()) for d in direction))
    direction = [d / length for d in direction]
    claimed = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
    measured = (_along(method, case.episodes, direction, 1e-6) - _along(method, case.episodes, direction, -1e-6)) / 2e-6
    if abs(claimed - measured) > 1e-4 * max(abs(measured), 1e-3 * (1 + float(losses.detach().abs().sum()))):
        raise broken(
            f"the derivative {measured:.6g} along a random direction (finite differences)",
            f"{claimed:.6g} from backward",
            f"{fix}, or, where that is meant, declare `exact_gradient = False`.",
        )


def task_ids_are_without_effect(case: Case) -> None:
    """Where ``uses_task`` is not declared, neither predictions nor losses depend on the tasks' ids."""
    method, e = case.method(), case.episodes
    if method.uses_task or e.task is None:
        return
    fix = "Leave the ids alone, or declare `uses_task = True`."
    for ids, which in ((e.task.roll(1), "other ids"), (None, "no ids")):
        other = replace(e, task=ids)
        must_agree(_predict(method, other), _predict(method, e), f"the same predictions with {which}", fix)


def unknown_tasks_are_served(case: Case) -> None:
    """New tasks have no id: ``adapt(support)`` works without one."""
    new = replace(case.episodes, task=None, classes=None)
    prediction = _predict(case.method(), new)
    if not bool(torch.isfinite(prediction).all()):
        raise broken("finite predictions for tasks without an id", "NaN or infinite ones", "Serve task=None as well.")


def tasks_alone_share_no_parameter(case: Case) -> None:
    """Where ``shares`` is declared False, no number is trained by two tasks."""
    method, e = case.method(train=True), case.episodes
    if method.shares or not method.trains or e.task is None:
        return
    reached = torch.zeros(sum(p.numel() for p in method.parameters()), dtype=torch.long)
    _, counts = e.task.unique(return_counts=True)
    if int(counts.max()) > 1:  # one task twice may well train its parameters twice
        return
    for gradient in _gradients(method, e):
        reached += torch.cat([value.flatten() != 0 for value in gradient.values()])
    if int(reached.max()) > 1:
        raise broken(
            "that every trained number belongs to one task",
            f"{int((reached > 1).sum())} numbers that several tasks' losses reach",
            "Give each task its own parameters, or declare `shares = True`.",
        )


def settings_exist(case: Case) -> None:
    """Each of the ``settings`` is an attribute, and ``adapt`` works with each of its values (well or badly)."""
    method = case.method()
    for name, values in method.settings.items():
        if not hasattr(method, name):
            raise broken(f"an attribute {name!r}, as `settings` declares", "none", "Set it in __init__.")
        before = getattr(method, name)
        for value in values:
            setattr(method, name, value)
            _predict(method, case.episodes)
        setattr(method, name, before)


METHOD_LAWS: tuple[Law[Case], ...] = (
    predictions_have_the_right_shape,
    losses_are_one_finite_number_a_task,
    adapting_changes_nothing,
    adapting_in_training_moves_no_parameter,
    the_same_again,
    first_weights_follow_from_the_arguments,
    state_can_be_saved_and_loaded,
    tasks_do_not_leak_into_each_other,
    a_batch_is_its_tasks_one_by_one,
    padding_changes_nothing,
    weights_of_one_are_no_weights,
    a_missing_class_does_no_harm,
    query_examples_are_apart,
    support_order_is_without_effect,
    classes_can_be_renumbered,
    the_gradient_is_that_of_the_losses,
    task_ids_are_without_effect,
    unknown_tasks_are_served,
    tasks_alone_share_no_parameter,
    settings_exist,
)


# --- how the laws look at a method ------------------------------------------------------------------------------------


def _predict(method: Method, episodes: Episodes) -> Tensor:
    """As evaluation does it: without history."""
    with torch.no_grad():
        return numbers(method.adapt(episodes.support, episodes.task)(episodes.query.x))


def _losses(method: Method, episodes: Episodes) -> Tensor:
    return method.losses(episodes).detach()


def _gradients(method: Method, episodes: Episodes) -> Iterator[dict[str, Tensor]]:
    """For each task, the gradient of its loss in every parameter."""
    parameters = dict(method.named_parameters())
    losses = method.losses(episodes)
    for loss in losses:
        values = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        yield {
            name: torch.zeros_like(parameter) if value is None else value
            for (name, parameter), value in zip(parameters.items(), values, strict=True)
        }


def _along(method: Method, episodes: Episodes, direction: list[Tensor], far: float) -> float:
    """The summed losses a little way along a direction; the parameters are put back."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, d in zip(parameters, direction, strict=True):
            p.add_(d, alpha=far)
    value = float(method.losses(episodes).detach().sum())
    with torch.no_grad():
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    return value


def _changed(case: Case) -> str:
    """Which attributes or tensors of a method change when it adapts, in words."""
    method = case.method()
    parts = lambda: {  # noqa: E731
        f"{where}.{key}".lstrip("."): frozen(value)
        for where, module in method.named_modules()
        for holder in (vars(module), module._parameters, module._buffers)
        for key, value in holder.items()
        if key not in ("_parameters", "_buffers", "_modules")
    }
    before = parts()
    _predict(method, case.episodes)
    after = parts()
    return ", ".join(sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key)))


def _as(episodes: Episodes, dtype: torch.dtype) -> Episodes:
    """Floating-point data in another precision."""

    def turn(batch: Batch) -> Batch:
        y = batch.y.to(dtype) if batch.y.is_floating_point() else batch.y
        weight, unlabelled = (None if v is None else v.to(dtype) for v in (batch.weight, batch.unlabelled))
        return Batch(batch.x.to(dtype), y, weight, unlabelled)

    return replace(episodes, support=turn(episodes.support), query=turn(episodes.query))
