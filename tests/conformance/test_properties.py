"""Expressive, consistent, uncertain: what a method declares, it shows; what claims too much is caught."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.conformance.universal import OneStepProduct, ReadsContext, passes_on
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from quickstudy.core import Batch, Explorer, InputError, Kind, Method, Predictor, Problem, Replayed
from quickstudy.methods import CNP, EWC, MAML, FineTune, NearestNeighbour, Prototypical
from quickstudy.methods.registry import all_methods
from quickstudy.methods.rl._replay import Replay
from quickstudy.nets import MLP
from quickstudy.testing import ConformanceError, check_consistent, check_expressive, check_uncertain
from quickstudy.testing.properties import FarLines, Middle, Products, Stretched, acting_table, property_table, shortfall
from quickstudy.training import fit_offline, task_scores

ROOT = Path(__file__).parents[2]
Factory = Callable[[Problem], Method]
METHODS = {
    name: cls for name, cls in all_methods().items() if not issubclass(cls, Explorer) and not issubclass(cls, EWC)
}


def named(prop: str) -> list[str]:
    return [name for name, cls in METHODS.items() if getattr(cls, prop)]


# as many steps as it takes: consistency is a statement about the limit
Settings = dict[str, Callable[[Problem], dict[str, object]]]


def small(problem: Problem) -> MLP:
    return MLP((3, 32, problem.n_outputs))


def steps_of(n: int, rate: float) -> Callable[[Problem], dict[str, object]]:
    return lambda problem: {"net": small(problem), "test_steps": n, "inner_lr": rate}


ENOUGH: Settings = {
    "fine-tune": lambda problem: {"steps": 80, "inner_lr": 2e-2},
    "scratch": lambda problem: {"steps": 80, "inner_lr": 2e-2},
    "maml": steps_of(250, 0.1),
    "fomaml": steps_of(250, 0.1),
    "reptile": steps_of(250, 0.1),
    "data-conditioned": steps_of(250, 0.1),
    "proto-maml": lambda problem: {"test_steps": 150, "inner_lr": 0.02},
    # these are not consistent, and lack of steps is not why
    "anil": steps_of(250, 0.02),
    "context": steps_of(100, 0.1),
    "imaml": lambda problem: {"net": small(problem), "test_steps": 10},
    "lr-d2": lambda problem: {"steps": 20},
    "leo": lambda problem: {"steps": 20, "tune_steps": 60, "tune_lr": 0.1},
    "meta-sgd": steps_of(250, 0.1),
    "mamlpp": steps_of(250, 0.1),
    "lstm-optimizer": lambda problem: {"net": small(problem), "test_steps": 50},
}
# narrow nets do for one simple rule
NARROW: Settings = {
    "cnp": lambda problem: {"width": 64},
    "in-context": lambda problem: {"width": 32},
}


def with_settings(name: str, settings: Settings) -> type[Method]:
    """The method with other defaults, and with its own refusals."""
    cls = METHODS[name]

    class Set(cls):  # type: ignore[misc, valid-type]
        def __init__(self, problem: Problem) -> None:
            super().__init__(problem, **(settings[name](problem) if name in settings else {}))

    return Set


def made(name: str, problem: Problem, *given: object, **settings: object) -> Any:
    """Settings are the method's own, which its base class knows nothing of."""
    cls: Any = METHODS[name]
    return cls(problem, *given, **settings)


def predicted(method: Method, support: Batch, x: Tensor) -> Tensor:
    with torch.no_grad():
        found = method.eval().adapt(support)(x)
    return found.mean if isinstance(found, Distribution) else found


# --- what is declared holds, and what is not declared does not --------------------------------------------------------


@pytest.mark.parametrize("name", named("consistent"))
def test_consistent_methods_reach_the_single_task_optimum(name: str) -> None:
    check_consistent(with_settings(name, ENOUGH))


# refuse these tasks: labels, tasks or classes without identity
SERVES = [name for name in METHODS if not METHODS[name].refuses(FarLines(1).problem)
          or not METHODS[name].refuses(Stretched(1).problem)]  # fmt: skip
# update by what was learned: they descend at first, and need not when they are trained
LEARNED = ("meta-sgd", "mamlpp", "lstm-optimizer")
SLOW = ("boosting", "graph")  # trees; a graph of all examples for each query, which at K = 256 takes tens of GB


@pytest.mark.parametrize(
    "name", [name for name in SERVES if name not in named("consistent") and name not in (*LEARNED, *SLOW)]
)
def test_methods_that_are_not_declared_consistent_are_not(name: str) -> None:
    """With steps enough: where the nets have come to see one input of three, no head finds what the others say."""
    with pytest.raises(ConformanceError, match="single-task optimum"):
        check_consistent(with_settings(name, ENOUGH))


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_update_learns_only_what_it_was_made_for(name: str) -> None:
    """Near gradient descent, where training starts, it finds the optimum; at what training may end at, it does not."""

    class Learned(with_settings(name, ENOUGH)):  # type: ignore[misc]
        def __init__(self, problem: Problem) -> None:
            super().__init__(problem)
            with torch.no_grad():
                if name == "meta-sgd":
                    for of_first_layer in self.alpha[:2]:
                        of_first_layer.zero_()
                elif name == "mamlpp":
                    self.alpha[:, :2] = 0
                else:
                    self.gates.bias[1] = 0.0  # forgets a half at each step

    assert not METHODS[name].consistent
    with pytest.raises(ConformanceError, match="single-task optimum"):
        check_consistent(Learned)
    if name != "lstm-optimizer":  # whose untrained cell is near descent, and no better
        check_consistent(with_settings(name, ENOUGH))


@pytest.mark.parametrize("name", named("uncertain"))
def test_uncertain_methods_know_what_is_left_open(name: str) -> None:
    check_uncertain(with_settings(name, NARROW), steps=700 if name == "attentive-cnp" else 300, lr=3e-3)


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].refuses(Products.problem)])
def test_whoever_gives_a_distribution_of_numbers_says_that_it_is_true(name: str) -> None:
    episodes = Products().sample(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        settings: Settings = {"scratch": lambda problem: {"steps": 1}}
        found = with_settings(name, settings)(Products.problem).eval().adapt(episodes.support)(episodes.query.x)
    assert isinstance(found, Distribution) == METHODS[name].uncertain


# whose rule is shown by a net that is built by hand, not trained
BUILT: dict[str, Callable[[Problem], Method]] = {
    "maml": lambda problem: MAML(problem, OneStepProduct(), inner_lr=1.0),
    "fomaml": lambda problem: made("fomaml", problem, OneStepProduct(), inner_lr=1.0, steps=1),
    "meta-sgd": lambda problem: made("meta-sgd", problem, OneStepProduct(), inner_lr=1.0, steps=1),
    "mamlpp": lambda problem: made("mamlpp", problem, OneStepProduct(), inner_lr=1.0, steps=1),
    "lstm-optimizer": lambda problem: descending(problem, 0.5),
    "context": lambda problem: shifting(problem),
    "data-conditioned": lambda problem: made(
        "data-conditioned", problem, nn.Sequential(passes_on(1), OneStepProduct()), inner_lr=1.0, steps=1
    ),
}


def shifting(problem: Problem) -> Any:
    """A context of three numbers, the biases that one step moves."""
    net = nn.Sequential(passes_on(4), ReadsContext())
    method = made("context", problem, net, size=3, inner_lr=1.0, steps=1)
    with torch.no_grad():
        method.net.get_parameter("0.film.weight").copy_(torch.eye(4)[:, 1:])
    return method


def descending(problem: Problem, rate: float) -> Any:
    """The LSTM's gates at the rate and at 1, whatever it sees: one step of gradient descent."""
    method: Any = made("lstm-optimizer", problem, OneStepProduct(rate=rate), inner_lr=rate, steps=1)
    with torch.no_grad():
        for part in (method.gates.weight, method.again):
            part.zero_()
        method.gates.bias[1] = 40.0
    return method


@pytest.mark.parametrize("name", [name for name in named("expressive") if name not in BUILT])
def test_expressive_methods_learn_a_rule_that_is_no_fit(name: str) -> None:
    check_expressive(with_settings(name, NARROW), steps=300)


@pytest.mark.parametrize("name", BUILT)
def test_one_gradient_step_of_a_deep_net_stands_for_a_rule_that_is_no_fit(name: str) -> None:
    """MAML's universality, by construction: nothing is trained."""
    assert METHODS[name].expressive
    check_expressive(BUILT[name], steps=0, reach=0.999)


@pytest.mark.parametrize("name", ["ridge", "mean-ridge", "nearest-neighbour", "pooled", "anil", "r2d2", "alpaca"])
def test_what_is_affine_in_the_labels_is_not_declared_expressive(name: str) -> None:
    """Then ``f(1, 1) - f(1, -1) - f(-1, 1) + f(-1, -1)`` is zero, which is 12 x for the product of the labels."""
    method = METHODS[name](Products.problem).double()
    x, q = torch.tensor([[[-1.0], [1.0]]]).double(), torch.linspace(-1, 1, 7).double().view(1, 7, 1)
    at = {(a, b): predicted(method, Batch(x, torch.tensor([[[a], [b]]]).double()), q) for a in (1, -1) for b in (1, -1)}
    assert (at[1, 1] - at[1, -1] - at[-1, 1] + at[-1, -1]).abs().max() < 1e-9
    assert not METHODS[name].expressive


OWN = ["siamese", "matching", "prototypical", "relation", "semi-supervised-proto", "nearest-neighbour", "hebbian"]


@pytest.mark.parametrize("name", OWN)
def test_what_scores_a_class_by_its_own_examples_is_not_declared_expressive(name: str) -> None:
    """So it cannot know which class is the one in the middle."""
    problem = Middle.problem
    method = METHODS[name](problem).double()
    x, q = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0)).double(), torch.ones(1, 4, 2).double()
    y = torch.arange(6).view(1, 6) % 3
    other = x.clone()
    other[:, y[0] == 2] *= -3
    here, there = predicted(method, Batch(x, y), q), predicted(method, Batch(other, y), q)
    torch.testing.assert_close(here[..., :2], there[..., :2])
    assert (here[..., 2] - there[..., 2]).abs().min() > 1e-9
    assert not METHODS[name].expressive


def test_gradient_descent_on_a_linear_model_cannot_stand_for_it() -> None:
    """Depth is needed: on fixed features the adapted prediction is affine in the labels, after any number of steps."""
    features = torch.nn.Sequential(*MLP((1, 64, 64), torch.Generator().manual_seed(0)), nn.ReLU()).requires_grad_(False)
    for steps in (1, 5):
        net = nn.Sequential(features, MLP((64, 1), torch.Generator().manual_seed(1)))
        method = MAML(Products.problem, net, inner_lr=0.01, steps=steps).double()
        x = torch.tensor([[[-1.0], [1.0]]], dtype=torch.float64)
        q = torch.linspace(-1, 1, 7, dtype=torch.float64).view(1, 7, 1)

        def at(a: float, b: float, method: Method = method, x: Tensor = x, q: Tensor = q) -> Tensor:
            with torch.no_grad():
                y = torch.tensor([[[a], [b]]], dtype=torch.float64)
                value: Tensor = method.adapt(Batch(x, y))(q)  # type: ignore[assignment]
            return value

        # of 3 x y_1 y_2 this mixed difference is 12 x
        assert (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)).abs().max() < 1e-12
        # so the best that such a model can do is to explain nothing
        with pytest.raises(ConformanceError, match="Products"):
            check_expressive(partial(MAML, net=net.float(), inner_lr=0.01), steps=20)


def test_an_adapted_deep_net_is_not_affine_in_the_labels() -> None:
    """The same mixed difference, of the net built by hand, is that of the product."""
    method = MAML(Products.problem, OneStepProduct(), inner_lr=1.0)
    episodes = Products().sample(50, torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = method.adapt(episodes.support)(episodes.query.x)
    assert isinstance(found, Tensor)
    assert (found - episodes.query.y).abs().max() < 5e-3  # 64 pieces for each square
    rougher = MAML(Products.problem, OneStepProduct(pieces=8), inner_lr=1.0)
    with torch.no_grad():
        rough = rougher.adapt(episodes.support)(episodes.query.x)
    assert isinstance(rough, Tensor)
    assert (rough - episodes.query.y).abs().max() > 2e-2  # the error is that of the squares, nothing else


# --- methods that act -------------------------------------------------------------------------------------------------

SEEN, TASKS = 2, 200


def logged(kind: Kind) -> Replayed:
    """What one did who tries everything, and is wrong nine times of ten where it counts; 200 times.

    In the first state "stop" gives 0.3 and "go on" nothing. In the second the right action gives 1, and the other
    nothing: 0.1 on average as it was done, 1 for who does better. Each trial stopped once, and went on once.
    """
    g = torch.Generator().manual_seed(0)
    right = torch.rand(TASKS, generator=g) < 0.1
    each = lambda *steps: torch.stack([torch.as_tensor(s).expand(TASKS).float() for s in steps], 1)  # noqa: E731
    second, went, done = each(0, 0, 1), each(0, 1, right), each(1, 0, 1)
    return Replayed(
        observation=torch.stack([1 - second, second], -1),
        action=went.long() if kind == "classification" else (2 * went - 1).unsqueeze(-1),
        reward=each(0.3, 0, right),
        done=done,
        log_prob=each(0.5, 0.5, torch.where(right, 0.1, 0.9)).log(),
        terminated=done,
        after=torch.stack([done, 1 - done], -1),
        noise=torch.randn(TASKS, 3, 2, 1, generator=g),
    )


def goes_on(method: Explorer, log: Replayed) -> float:
    """How much the method leans to going on from the first state, after it has read all trials as one task's."""
    whole = Replayed(**{name: value.flatten(0, 1).unsqueeze(0) for name, value in vars(log).items()})
    with torch.no_grad():
        found = method.eval().adapt(whole)(torch.eye(SEEN)[:1].unsqueeze(0))
    value = found.mean if isinstance(found, Distribution) else found
    assert isinstance(value, Tensor)
    return float((value[..., -1] - (value[..., 0] if value.shape[-1] > 1 else 0)).mean())


ACTING = {name: cls for name, cls in all_methods().items() if issubclass(cls, Explorer)}


@pytest.mark.parametrize("name", [name for name, cls in ACTING.items() if cls.off_policy])
def test_what_is_off_policy_finds_the_best_in_what_a_bad_one_did(name: str) -> None:
    kind: Kind = ACTING[name].acts[0]
    log = logged(kind)
    # values first, then who climbs them: an actor that has run to a bound hardly comes back
    settings: dict[str, Any] = {"ddpg": {"rate": 0.1}}.get(name, {})
    method = ACTING[name](Problem((SEEN,), kind, 2 if kind == "classification" else 1), **settings)
    if method.trains:
        fit_offline(method, Replay.of(log), steps=400, batch=64, lr=3e-3)
    assert goes_on(method, log) > 0.05


@pytest.mark.parametrize("name", ["reinforce", "actor-critic", "ppo", "behaviour-cloning"])
def test_what_is_on_policy_believes_that_the_future_is_as_it_was(name: str) -> None:
    """On the same steps, it learns to stop: who went on did badly. (The imitator sees no reward at all.)"""
    log = logged("classification")
    method = ACTING[name](Problem((SEEN,), "classification", 2))
    assert not method.off_policy
    optimiser = torch.optim.Adam(method.parameters(), lr=1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        method(log).mean().backward()
        optimiser.step()
    assert goes_on(method, log) < 0.05


@pytest.mark.parametrize("name", list(ACTING))
def test_what_explores_by_what_it_has_seen_is_declared_so(name: str) -> None:
    """After other rewards for the same actions the explorer's choice is another one, or not."""
    kind: Kind = ACTING[name].acts[0]
    method = ACTING[name](Problem((SEEN,), kind, 3))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g), alpha=0.3)
        policy, seen, found = method.explorer(), torch.randn(500, SEEN, generator=g), []
        for reward in (-3.0, 3.0):
            memory = policy.start(500)
            for step in range(3):
                action, _, memory = policy.act(seen, memory, torch.Generator().manual_seed(step))
                done = torch.full((500,), float(step == 1))
                memory = policy.learn(memory, torch.zeros_like(action), torch.full((500,), reward), done)
            found.append(policy.act(seen, memory, torch.Generator().manual_seed(9))[0])
    assert torch.equal(*found) is not ACTING[name].exploring


# --- what does not hold is caught -------------------------------------------------------------------------------------


class FirstFive(Method):
    """Ridge on the first five examples: learns, and stops learning."""

    consistent = True

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        inner = METHODS["mean-ridge"](self.problem)
        return inner.adapt(Batch(support.x[:, :5], support.y[:, :5], support.weights[:, :5]))


class Wrapped(Method):
    """A CNP whose spread is made another one."""

    uncertain: ClassVar[bool] = True

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.inner = CNP(problem, width=64)

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        predict = self.inner.adapt(support)

        def other(x: Tensor) -> Distribution | Tensor:
            prediction = predict(x)
            assert isinstance(prediction, Normal)
            return self.other(prediction)

        return other

    def other(self, prediction: Normal) -> Distribution | Tensor:
        raise NotImplementedError


class Sure(Wrapped):
    """Right on average over K, and the same whatever the support says."""

    def other(self, prediction: Normal) -> Distribution:
        return Normal(prediction.mean, torch.full_like(prediction.mean, 1.0))


class TooSure(Wrapped):
    def other(self, prediction: Normal) -> Distribution:
        return Normal(prediction.mean, prediction.stddev.detach() / 3)


class OnlyNumbers(Wrapped):
    def other(self, prediction: Normal) -> Tensor:
        return prediction.mean


@pytest.mark.parametrize(
    "liar",
    [FirstFive, CNP, Prototypical, NearestNeighbour, METHODS["pooled"], lambda problem: FineTune(problem, steps=2)],
    ids=["first five", "cnp", "prototypical", "nearest neighbour", "pooled", "too few steps"],
)
def test_methods_that_do_not_reach_the_optimum_are_caught(liar: Factory) -> None:
    with pytest.raises(ConformanceError, match="single-task optimum"):
        check_consistent(liar)


def test_the_optimum_is_what_it_is_said_to_be() -> None:
    """Against a linear discriminant with the true direction, on many examples."""
    episodes = Stretched(4, queries=20_000).sample(4, torch.Generator().manual_seed(0))
    x, y = episodes.query.x.double(), 2 * episodes.query.y.double() - 1
    # least squares on +-1 has the discriminant's direction (Fisher 1936)
    w = torch.linalg.lstsq(x, y.unsqueeze(-1)).solution
    accuracy = ((x @ w).squeeze(-1) * y > 0).double().mean(1)
    assert (accuracy - Stretched(4).optimum(episodes.query)).abs().max() < 0.01


def test_a_catastrophic_start_is_not_left() -> None:
    """Gradient descent is consistent from where gradients reach: a net whose units are all off stays as it is."""
    net = MLP((3, 32, 32, 1), torch.Generator().manual_seed(0))
    with torch.no_grad():
        net[0].bias.fill_(-100.0)  # type: ignore[operator]
    dead = MAML(FarLines(1).problem, net, test_steps=100)
    alive = MAML(FarLines(1).problem, MLP((3, 32, 32, 1), torch.Generator().manual_seed(0)), test_steps=100)
    episodes = FarLines(256).sample(4, torch.Generator().manual_seed(0))
    assert float(task_scores(alive, episodes).mean()) > 0.8
    assert float(task_scores(dead, episodes).mean()) < 0.4  # it finds each task's mean, and no more
    with torch.no_grad():
        value = dead.adapt(episodes.support)(episodes.query.x)
    assert isinstance(value, Tensor)
    assert float(value.std(1).max()) < 1e-6


@pytest.mark.parametrize(
    ("liar", "message"), [(Sure, "variance says"), (TooSure, "variance says"), (OnlyNumbers, "a Distribution")]
)
def test_methods_that_do_not_know_how_sure_they_are_are_caught(liar: Factory, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_uncertain(liar, steps=150, lr=3e-3)


def test_a_spread_that_does_not_fall_is_caught() -> None:
    """One that is true at each K to within the tolerance, and the same at all of them."""
    with pytest.raises(ConformanceError, match="falls as K grows"):
        check_uncertain(Sure, steps=5, tolerance=1e9)


@pytest.mark.parametrize("liar", [Prototypical, METHODS["mean-ridge"], NearestNeighbour])
def test_methods_that_only_fit_the_support_are_caught(liar: Factory) -> None:
    with pytest.raises(ConformanceError, match="no fit of the support"):
        check_expressive(liar, steps=50)


def test_what_serves_none_of_the_tasks_cannot_be_checked() -> None:
    class Images(Method):
        @classmethod
        def refuses(cls, problem: Problem) -> str:
            return "images only"

    with pytest.raises(InputError, match="nothing to check"):
        check_consistent(Images)


def test_fewer_examples_are_further_from_the_optimum() -> None:
    gaps = shortfall(METHODS["mean-ridge"])
    assert set(gaps) == {"regression", "classification"}
    assert gaps["regression"] == sorted(gaps["regression"], reverse=True)


def test_a_wrapper_declares_what_its_method_does() -> None:
    problem = FarLines(1).problem
    wrapped = EWC(FineTune(problem, tune="head"))
    assert not wrapped.consistent
    assert EWC(FineTune(problem)).consistent
    assert EWC(CNP(problem)).uncertain


def test_the_documented_table_is_what_methods_declare() -> None:
    """To write it anew: ``print(quickstudy.testing.properties.property_table())``, and ``acting_table()``."""
    documented = (ROOT / "docs" / "properties.md").read_text()
    assert property_table() in documented
    assert acting_table() in documented
    assert documented.count("| `") == len(METHODS) + len(ACTING)
