"""Independent, pooled, multi-head, FiLM and fine-tuned nets: what is shared, what is not, what adaptation does."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.core import Batch, Episodes, InputError, Problem
from quickstudy.methods import FiLM, FineTune, Independent, MultiHead, Pooled
from quickstudy.methods._inner import settle
from quickstudy.methods._nets import spread, task_loss, trainable

NUMBERS = Problem((3,), "regression", 1, n_tasks=4, metric="explained variance")
CLASSES = Problem((3,), "classification", 2, n_classes=5, shared_labels=False)


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def episodes(task: Tensor | None = None, tasks: int = 4) -> Episodes:
    g = seed(3)
    batch = lambda: Batch(  # noqa: E731
        torch.randn(tasks, 6, 3, generator=g), torch.randn(tasks, 6, 1, generator=g)
    )
    return Episodes(batch(), batch(), task)


def class_episodes() -> Episodes:
    g = seed(3)
    y = torch.tensor([0, 1, 0, 1]).repeat(2, 1)
    batch = lambda: Batch(torch.randn(2, 4, 3, generator=g), y)  # noqa: E731
    return Episodes(batch(), batch(), classes=torch.tensor([[3, 0], [1, 4]]))


def tensor(prediction: object) -> Tensor:
    assert isinstance(prediction, Tensor)
    return prediction


def test_independent_equals_each_net_trained_alone() -> None:
    """Five steps of gradient descent on all tasks together, against each task's net by itself."""
    method, data = Independent(NUMBERS, generator=seed()), episodes(torch.arange(4))
    for _ in range(5):
        grads = torch.autograd.grad(method.losses(data).sum(), list(method.parameters()))
        with torch.no_grad():
            for p, g in zip(method.parameters(), grads, strict=True):
                p.sub_(0.01 * g)
    for t in range(4):
        alone = Pooled(NUMBERS, generator=seed())  # one net with the same first weights
        mine = data.tasks(torch.tensor([t]))
        for _ in range(5):
            grads = torch.autograd.grad(alone.losses(mine).sum(), list(alone.parameters()))
            with torch.no_grad():
                for p, g in zip(alone.parameters(), grads, strict=True):
                    p.sub_(0.01 * g)
        together = tensor(method.adapt(mine.support, torch.tensor([t]))(mine.query.x))
        torch.testing.assert_close(together, tensor(alone.adapt(mine.support)(mine.query.x)), rtol=1e-4, atol=1e-5)


def test_independent_tasks_get_no_gradient_from_others() -> None:
    method, data = Independent(NUMBERS, generator=seed()), episodes(torch.arange(4))
    method.losses(data)[2].backward()
    for name, p in method.named_parameters():
        assert p.grad is not None
        assert torch.equal(p.grad[[0, 1, 3]], torch.zeros_like(p.grad[[0, 1, 3]])), name
    assert sum(float(p.grad[2].abs().sum()) for p in method.parameters() if p.grad is not None) > 0


def test_independent_has_nothing_to_train_where_every_task_is_new() -> None:
    method = Independent(Problem((3,), "regression", 1, metric="explained variance"), generator=seed())
    assert list(method.parameters()) == []
    data = episodes()
    method.steps = 0
    start = method.losses(data)
    method.steps = 30
    support = lambda: method.problem.losses(method.adapt(data.support)(data.support.x), data.support)  # noqa: E731
    learned = support()
    method.steps = 0
    assert (learned < 0.8 * support()).all()
    assert start.shape == (4,)


def test_multi_head_gradients_stay_in_the_batch() -> None:
    method, data = MultiHead(NUMBERS, generator=seed()), episodes(torch.tensor([0, 2]), tasks=2)
    method.losses(data).sum().backward()
    for p in (method.weight, method.bias):
        assert p.grad is not None
        assert torch.equal(p.grad[[1, 3]], torch.zeros_like(p.grad[[1, 3]]))
        assert (p.grad[[0, 2]].flatten(1).abs().sum(1) > 0).all()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in method.trunk.parameters())


def test_multi_head_starts_a_new_head_from_the_mean() -> None:
    method, data = MultiHead(NUMBERS, steps=0, generator=seed()), episodes()
    with torch.no_grad():
        method.weight.normal_(generator=seed(5))
    h = method.trunk(data.query.x.flatten(0, 1)).unflatten(0, (4, 6))
    expected = F.linear(h, method.weight.mean(0), method.bias.mean(0))
    torch.testing.assert_close(tensor(method.adapt(data.support)(data.query.x)), expected)


@pytest.mark.parametrize("cls", [MultiHead, FiLM])
def test_a_new_task_is_fitted_on_its_support(cls: type[MultiHead] | type[FiLM]) -> None:
    method, data = cls(NUMBERS, inner_lr=1e-2, generator=seed()), episodes()
    error = {}
    for steps in (0, 50):
        method.steps = steps
        error[steps] = method.problem.losses(method.adapt(data.support)(data.support.x), data.support)
    assert (error[50] < 0.9 * error[0]).all()


def test_film_without_modulation_is_the_pooled_net() -> None:
    data = episodes(torch.arange(4))
    film, pooled = FiLM(NUMBERS, generator=seed()), Pooled(NUMBERS, generator=seed())
    torch.testing.assert_close(film.losses(data), pooled.losses(data))


def test_film_scales_and_shifts_by_hand() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), nn.Linear(2, 1))
    method, data = FiLM(NUMBERS, net), episodes(torch.arange(4))
    with torch.no_grad():
        method.z.normal_(generator=seed(5))
    trunk, head = net[0], net[1]
    assert isinstance(trunk, nn.Sequential)
    for t in range(4):
        gamma, beta, delta = method.z[t].split([2, 2, 1])
        h = ((1 + gamma) * trunk[0](data.query.x[t]) + beta).relu()
        mine = data.tasks(torch.tensor([t]))
        torch.testing.assert_close(
            tensor(method.adapt(mine.support, mine.task)(mine.query.x))[0], head(h) + delta, rtol=1e-5, atol=1e-6
        )


def test_film_needs_a_place_to_modulate() -> None:
    with pytest.raises(InputError, match="ReLU"):
        FiLM(NUMBERS, nn.Sequential(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), nn.Linear(2, 1)))


def test_fine_tuning_by_no_step_is_the_pre_trained_net() -> None:
    data = episodes(torch.arange(4))
    tuned, pooled = FineTune(NUMBERS, steps=0, generator=seed()), Pooled(NUMBERS, generator=seed())
    torch.testing.assert_close(tuned.losses(data), pooled.losses(data))
    torch.testing.assert_close(
        tensor(tuned.adapt(data.support)(data.query.x)), tensor(pooled.adapt(data.support)(data.query.x))
    )


def test_fine_tuning_is_adam_on_each_copy() -> None:
    data = episodes()
    method = FineTune(NUMBERS, steps=7, inner_lr=0.01, generator=seed())
    predicted = tensor(method.adapt(data.support)(data.query.x))
    for t in range(4):
        alone = Pooled(NUMBERS, generator=seed())
        optimiser = torch.optim.Adam(alone.parameters(), lr=0.01)
        mine = data.tasks(torch.tensor([t]))
        for _ in range(7):
            optimiser.zero_grad()
            alone.problem.losses(alone.adapt(mine.support)(mine.support.x), mine.support).sum().backward()
            optimiser.step()
        expected = tensor(alone.adapt(mine.support)(mine.query.x))[0]
        torch.testing.assert_close(predicted[t], expected.detach(), rtol=1e-3, atol=1e-4)


def test_fine_tuning_pre_trains_on_all_classes() -> None:
    method, data = FineTune(CLASSES, generator=seed()), class_episodes()
    both = data.support.join(data.query)
    logits = method.net(both.x.flatten(0, 1)).unflatten(0, (2, 8))
    mine = torch.stack([logits[0][:, [3, 0]], logits[1][:, [1, 4]]])  # the outputs of the episodes' classes
    expected = F.cross_entropy(mine.mT, torch.tensor([0, 1] * 4).repeat(2, 1), reduction="none").mean(1)
    torch.testing.assert_close(method.losses(data), expected)
    with pytest.raises(InputError, match="classes"):
        method.losses(Episodes(data.support, data.query))


def test_a_new_head_starts_at_the_class_means() -> None:
    method, data = FineTune(CLASSES, steps=0, generator=seed()), class_episodes()
    feature = lambda x: F.normalize(method.net[0](x.flatten(0, 1)).unflatten(0, x.shape[:2]), dim=-1)  # noqa: E731
    raw = method.net[0](data.support.x.flatten(0, 1)).unflatten(0, (2, 4))
    means = F.normalize(torch.stack([raw[:, k::2].mean(1) for k in range(2)], 1), dim=-1)
    cosine = feature(data.query.x) @ means.mT
    predicted = tensor(method.adapt(data.support)(data.query.x))
    assert torch.equal(predicted.argmax(-1), cosine.argmax(-1))


def test_unshared_labels_with_task_ids_pre_train_a_head_for_each_task() -> None:
    problem = Problem((3,), "regression", 1, n_tasks=4, shared_labels=False, metric="explained variance")
    method, data = FineTune(problem, generator=seed()), episodes(torch.tensor([1, 3]), tasks=2)
    method.losses(data).sum().backward()
    head = method.net[1]
    assert isinstance(head, nn.Linear)
    assert head.weight.grad is not None
    assert [bool(row.abs().sum() > 0) for row in head.weight.grad] == [False, True, False, True]
    assert Pooled.refuses(problem)
    assert FiLM.refuses(problem)
    assert not FineTune.refuses(problem)
    assert MultiHead.refuses(CLASSES)


def test_large_supports_count_every_real_example_alike() -> None:
    """More rows than a step reads: padding, wherever it stands, and short tasks beside long ones change nothing."""
    g = seed()
    net = nn.Linear(2, 1)
    loss, start = task_loss(net, NUMBERS), trainable(net)
    x, y = torch.randn(1, 5, 2, generator=g), torch.randn(1, 5, 1, generator=g)
    whole = settle(loss, spread(start, 1), Batch(x, y), 4, 0.1, rows=8)
    wide = torch.full((1, 11, 2), 1e3), torch.full((1, 11, 1), 1e3), torch.zeros(1, 11)
    real = torch.tensor([0, 3, 4, 7, 9])
    wide[0][0, real], wide[1][0, real], wide[2][0, real] = x[0], y[0], torch.ones(5)
    padded = settle(loss, spread(start, 1), Batch(*wide), 4, 0.1, rows=8)
    for name, value in whole.items():
        torch.testing.assert_close(padded[name], value)
