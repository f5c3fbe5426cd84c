"""Hierarchical imitation: the likelihood falls into its parts, and each part learns from the tasks chosen for it."""

from __future__ import annotations

import pytest
import torch

from quickstudy.core import InputError, Problem, Trajectory
from quickstudy.methods import BehaviourCloning, HierarchicalImitation
from quickstudy.methods.rl.hierarchical import best_sources
from quickstudy.testing import check_explorer

K, A = 2, 3
PROBLEM = Problem((4 + 2,), "classification", K * A)  # four numbers, and the identity of two tasks


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def demonstrations(seed: int = 0) -> Trajectory:
    """One of each task."""
    seen = torch.randn(2, 6, 4, generator=generator(seed))
    seen = torch.cat([seen, torch.eye(2).unsqueeze(1).expand(2, 6, 2)], -1)
    zero = torch.zeros(2, 6)
    return Trajectory(seen, torch.randint(K * A, (2, 6), generator=generator(seed + 1)), zero, zero, zero)


def moved(**settings: object) -> HierarchicalImitation:
    """A method at a generic point."""
    method = HierarchicalImitation(PROBLEM, skills=K, tasks=2, width=8, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(3)), alpha=0.3)
    return method


def test_it_obeys_the_laws_with_skills_and_tasks() -> None:
    check_explorer(lambda problem: HierarchicalImitation(problem, skills=K, tasks=2, width=8), PROBLEM)


def test_the_likelihood_of_a_pair_is_that_of_the_skill_times_that_of_what_it_does() -> None:
    method, trials = moved(), demonstrations()
    log_prob = method.predict(trials.observation)
    torch.testing.assert_close(log_prob.logsumexp(-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    taken = log_prob.gather(-1, trials.action.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(method.losses(trials), -taken.mean(1))
    which, what = method.surprises(trials)
    torch.testing.assert_close(which + what, -taken)
    by_net, skill = method.by_net(trials), trials.action // A
    expected = [which.mean()] + [what[skill == k].mean() for k in range(K)]
    torch.testing.assert_close(by_net, torch.stack(expected))


def test_no_net_sees_which_task_it_is() -> None:
    method, trials = moved(), demonstrations()
    other = torch.cat([trials.observation[..., :4], trials.observation[..., 4:].flip(-1)], -1)
    assert torch.equal(method.predict(trials.observation), method.predict(other))


def gradients(method: HierarchicalImitation, trials: Trajectory) -> list[bool]:
    """Whether the procedure and each skill learn from these demonstrations."""
    last, skill = method.procedure[-1].weight, method.skill.weights[-1]
    of_procedure, of_skill = torch.autograd.grad(method.losses(trials).sum(), [last, skill])
    return [bool(of_procedure.any()), *(bool(one.any()) for one in of_skill)]


def test_each_net_learns_from_the_tasks_chosen_for_it() -> None:
    method, trials = moved(learns_from=[[True, False], [False, True], [True, True]]), demonstrations()
    assert all(set((trials.action[t] // A).tolist()) == {0, 1} for t in range(2))  # both skills at work in both tasks
    assert gradients(method, trials.tasks(slice(0, 1))) == [True, False, True]
    assert gradients(method, trials.tasks(slice(1, 2))) == [False, True, True]


def test_one_skill_is_behaviour_cloning() -> None:
    problem = Problem((4,), "classification", A)
    method, clone = HierarchicalImitation(problem, width=8), BehaviourCloning(problem, width=8)
    layers = [one for one in clone.actor.net if isinstance(one, torch.nn.Linear)]  # type: ignore[attr-defined]
    with torch.no_grad():
        for i, layer in enumerate(layers):
            layer.weight.copy_(method.skill.weights[i][0].mT)
            layer.bias.copy_(method.skill.biases[i][0, 0])
    trials = demonstrations()
    trials = Trajectory(**{**vars(trials), "observation": trials.observation[..., :4], "action": trials.action % A})
    torch.testing.assert_close(method.losses(trials), clone.losses(trials))


def test_sources_are_chosen_by_held_out_surprise() -> None:
    surprise = torch.tensor([[1.0, 5.0, torch.nan], [2.0, 1.0, torch.nan], [0.5, 3.0, 2.0]])
    assert best_sources(surprise) == [2, 1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skills": 4}, r"pairs of one of 4 skills.*Found 6 actions"),
        ({"skills": 2, "tasks": 6}, r"last 6 numbers are the task's identity.*Found shape \(6,\)"),
        ({"skills": 2, "tasks": 2, "learns_from": [[True, True]]}, r"each of 2 skills, of each of 2 tasks.*\(1, 2\)"),
    ],
)
def test_bad_input_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HierarchicalImitation(PROBLEM, **settings)  # type: ignore[arg-type]
