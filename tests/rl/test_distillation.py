"""Distillation: the divergence against its closed forms, what the student of several teachers is, and who may teach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quickstudy.core import Advised, Explorer, InputError, Kind, Problem
from quickstudy.methods import DQN, PPO, SAC, Distillation
from quickstudy.methods.rl._policies import Sharing, best_of
from quickstudy.methods.rl.distillation import Adviser
from quickstudy.tasks.acting import Rule
from quickstudy.tasks.bandits import BernoulliBandits
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.tasks.point import ConflictingGoals
from quickstudy.testing import check_explorer
from quickstudy.training import collect, fit_imitation
from quickstudy.training.fit_imitation import taught

DISCRETE, MOVING = Problem((3,), "classification", 4), Problem((3,), "regression", 2)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def trials(observation: Tensor, advice: Tensor) -> Advised:
    zero = observation.new_zeros(observation.shape[:2])
    return Advised(observation, zero.long(), zero, zero, zero, advice=advice)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_the_loss_of_logits_is_the_divergence_summed_over_actions(temperature: float) -> None:
    method = Distillation(DISCRETE, temperature=temperature)
    seen, advice = normal(0, 2, 5, 3), normal(1, 2, 5, 4)
    p, q = (advice / temperature).softmax(-1), method.actor(seen).softmax(-1)
    torch.testing.assert_close(method.losses(trials(seen, advice)), (p * (p / q).log()).sum(-1).mean(1))


def test_the_loss_of_normal_actions_is_the_divergence_by_quadrature() -> None:
    method = Distillation(MOVING, temperature=1.5).double()
    seen, advice = normal(0, 1, 2, 3).double(), normal(1, 1, 2, 4).double()
    x = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    mean, deviation = advice[..., :2], 1.5 * advice[..., 2:].exp()
    expected = 0.0
    for place in range(2):
        own = method.actor.distribution(seen).base_dist  # type: ignore[attr-defined]
        for i in range(2):
            theirs = torch.distributions.Normal(mean[0, place, i], deviation[0, place, i])
            ours = torch.distributions.Normal(own.mean[0, place, i].detach(), own.stddev[0, place, i].detach())
            density = theirs.log_prob(x)
            expected += float(torch.trapezoid(density.exp() * (density - ours.log_prob(x)), x)) / 2
    assert float(method.losses(trials(seen, advice)).detach()) == pytest.approx(expected, rel=1e-6)


def descend(method: Explorer, data: Advised) -> None:
    solver = torch.optim.LBFGS(method.parameters(), max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def loss() -> Tensor:
        solver.zero_grad()
        value = method.losses(data).mean()
        value.backward()
        return value

    solver.step(loss)


def test_a_student_that_cannot_tell_its_teachers_apart_is_their_mixture() -> None:
    """The KL is least at the mean of the teachers' distributions: one wrong teacher takes its share of all."""
    method = Distillation(DISCRETE, width=8).double()
    seen, advice = normal(0, 1, 1, 3).double().expand(3, 1, 3), normal(1, 3, 1, 4).double() * 2
    descend(method, trials(seen, advice))
    found = method.actor(seen[0]).softmax(-1).detach()
    torch.testing.assert_close(found, advice.softmax(-1).mean(0), atol=1e-5, rtol=0)


def test_a_normal_student_of_several_teachers_has_their_mean_and_their_spread() -> None:
    method = Distillation(MOVING, width=8).double()
    seen, advice = normal(0, 1, 1, 3).double().expand(3, 1, 3), normal(1, 3, 1, 4).double()
    descend(method, trials(seen, advice))
    over = method.actor.distribution(seen[:1])
    mean, deviation = advice[:, 0, :2], advice[:, 0, 2:].exp()
    spread = (deviation.square() + (mean - mean.mean(0)).square()).mean(0)
    torch.testing.assert_close(over.mean[0, 0].detach(), mean.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(over.variance[0, 0].detach(), spread, atol=1e-4, rtol=1e-4)


def test_an_entropy_bonus_softens_as_a_temperature_does() -> None:
    """KL(p || q) - w H(q) for two actions, at its least, lies between p and evens."""
    found = []
    for weight in (0.0, 0.5, 5.0):
        method = Distillation(Problem((1,), "classification", 2), width=4, entropy_weight=weight).double()
        data = trials(torch.ones(1, 1, 1).double(), torch.tensor([[[2.0, 0.0]]]).double())
        descend(method, data)
        q = method.actor(data.observation).softmax(-1)[0, 0].detach()
        p = torch.tensor(2.0).double().sigmoid()
        found.append(float(q[0]))
        # stationary: the derivatives of both parts by the first logit cancel
        slope = q[0] - p + weight * q[0] * q[1] * (q[0].log() - q[1].log())
        assert abs(float(slope)) < 1e-3
    assert float(torch.tensor(2.0).sigmoid()) == pytest.approx(found[0], abs=1e-5) and found[0] > found[1] > found[2]
    assert found[2] > 0.5


@pytest.mark.parametrize("share", ["trunk", "nothing"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_students_with_heads_obey_the_laws(kind: Kind, share: Sharing) -> None:
    check_explorer(lambda problem: Distillation(problem, width=8, heads=3, share=share), Problem((5,), kind, 2))


def test_teachers_are_asked_where_the_student_goes_and_the_student_comes_to_do_as_they_do() -> None:
    env = SeesIdentity(ConflictingGoals(tasks=4, length=8))
    teachers = PPO(env.problem, heads=4, share="nothing", width=16, generator=generator(0))
    with torch.no_grad():  # whatever they do, they do it surely and differently
        for weight in teachers.actor.net.nets.weights:  # type: ignore[union-attr]
            weight.mul_(3)
    adviser = Adviser(teachers)
    tasks = env.sample(8, generator(1))
    data = taught(env, best_of(teachers), adviser, tasks, 0.5, generator(2))
    assert isinstance(data, Advised)
    torch.testing.assert_close(data.advice, adviser.advise(data.observation))
    student = Distillation(env.problem, width=64, decay=0.0, generator=generator(3))
    assert [student.teacher_share(i) for i in range(3)] == [1, 0, 0]
    history = fit_imitation(
        student, env, lambda _: adviser, rounds=2, tasks=32, passes=300, lr=1e-2, generator=generator(4)
    )
    own, theirs = (collect(env, best_of(m), tasks, generator(5)).action.clamp(-1, 1) for m in (student, teachers))
    assert float((own - theirs).abs().mean()) < 0.05 < float(theirs.abs().mean())
    assert history.loss[-1] < 0.1


def test_values_teach_as_logits_and_teachers_may_see_less_than_students() -> None:
    teacher = DQN(DISCRETE, width=16, generator=generator(0))
    adviser, seen = Adviser(teacher), normal(0, 6, 3)
    torch.testing.assert_close(adviser.advise(seen), teacher.predict(seen).detach())
    assert torch.equal(Adviser(teacher, seen=3).advise(torch.cat([seen, seen], 1)), adviser.advise(seen))


def test_who_cannot_teach_is_refused() -> None:
    with pytest.raises(InputError, match=r"whose continuous actions are normal.*Found SquashedNormal.*PPO"):
        Adviser(SAC(MOVING)).advise(normal(0, 4, 3))
    env = SeesIdentity(ConflictingGoals(tasks=4, length=8))
    student = Distillation(env.problem)
    rule = Rule(lambda seen, _: seen[:, :2])
    with pytest.raises(InputError, match=r"what the teachers said.*Adviser\(method\)"):
        fit_imitation(student, env, lambda _: rule, rounds=1, tasks=4)
    with pytest.raises(InputError, match=r"temperature above 0. Found 0"):
        Distillation(DISCRETE, temperature=0)


def test_an_oracle_is_found_behind_an_identity_that_it_does_not_see() -> None:
    inside = ConflictingGoals(tasks=4, length=20)
    env = SeesIdentity(inside)
    tasks = env.sample(4, generator(0))
    there = collect(env, env.oracle(tasks), tasks, generator(1))
    assert torch.equal(there.reward, collect(inside, inside.oracle(tasks), tasks, generator(1)).reward)
    assert not hasattr(SeesIdentity(BernoulliBandits(arms=2)), "oracle")  # type: ignore[arg-type]
