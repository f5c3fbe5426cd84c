"""The shared types against plain loops and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.distributions import Independent, Normal

from quickstudy.core import Batch, Episodes, Estimate, InputError, Method, Prediction, Problem

CLASSES = Problem((2,), "classification", 3)
NUMBERS = Problem((2,), "regression", 2, metric="explained variance")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights() -> Tensor:
    return torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batches_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"agree in their axes \[T, n\]\. Found x \(2, 3, 1\) and y \(2, 4\)\. Give both"
    ):
        Batch(torch.zeros(2, 3, 1), torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"weight must have the axes \[T, n\] = \(2, 3\)\. Found \(2, 1\)"):
        Batch(torch.zeros(2, 3, 1), torch.zeros(2, 3), torch.ones(2, 1))


def test_missing_weights_are_ones() -> None:
    batch = Batch(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.long))
    assert torch.equal(batch.weights, torch.ones(2, 3))
    assert (batch.n_tasks, batch.n) == (2, 3)


def test_joining_keeps_every_example_and_its_weight() -> None:
    one = Batch(draw(3, 4, 2), torch.arange(12).view(3, 4), weights())
    two = Batch(draw(3, 1, 2, seed=1), torch.arange(3).view(3, 1))
    both = one.join(two)
    assert torch.equal(both.x, torch.cat([one.x, two.x], 1))
    assert torch.equal(both.y, torch.cat([one.y, two.y], 1))
    assert torch.equal(both.weights, torch.cat([weights(), torch.ones(3, 1)], 1))
    assert two.join(two).weight is None


def test_tasks_and_chunks_pick_whole_tasks() -> None:
    batch = Batch(draw(3, 4, 2), torch.arange(12).view(3, 4), weights())
    episodes = Episodes(batch, batch, torch.tensor([7, 8, 9]), torch.tensor([[1], [2], [3]]))
    parts = list(episodes.chunks(2))
    assert [part.n_tasks for part in parts] == [2, 1]
    last = parts[1]
    assert last.task is not None
    assert last.classes is not None
    assert torch.equal(last.support.y, batch.y[2:])
    assert torch.equal(last.query.weights, weights()[2:])
    assert (last.task.tolist(), last.classes.tolist()) == ([9], [[3]])
    assert torch.equal(episodes.tasks(torch.tensor([2, 0])).support.x, batch.x[[2, 0]])
    moved = Episodes(batch, batch).to("cpu")
    assert moved.task is None
    assert torch.equal(moved.support.x, batch.x)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_cross_entropy_equals_a_loop() -> None:
    logits, y = draw(3, 4, 3), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1], [0, 0, 0, 1]])
    found = CLASSES.losses(logits, Batch(torch.zeros(3, 4, 2), y, weights()))
    for t, n in enumerate((4, 2, 1)):
        one = [-float(logits[t, i, y[t, i]] - logits[t, i].exp().sum().log()) for i in range(n)]
        assert float(found[t]) == pytest.approx(sum(one) / n, rel=1e-5)


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: Normal(m, 0.5**0.5), lambda m: Independent(Normal(m, 1), 1)])
def test_regression_losses_equal_a_loop(wrap: Callable[[Tensor], Prediction]) -> None:
    mean, y = draw(3, 4, 2), draw(3, 4, 2, seed=1)
    prediction = wrap(mean)
    found = NUMBERS.losses(prediction, Batch(torch.zeros(3, 4, 2), y, weights()))
    for t, n in enumerate((4, 2, 1)):
        error = [float((mean[t, i, j] - y[t, i, j]) ** 2) for i in range(n) for j in range(2)]
        if isinstance(prediction, Normal):  # -log p with variance 1/2: the squared error, and a constant
            expected = sum(error) / (2 * n) + 0.5 * np.log(np.pi)
        elif isinstance(prediction, Independent):  # the d numbers jointly, so that they add up
            expected = 0.5 * sum(error) / n + np.log(2 * np.pi)
        else:
            expected = sum(error) / (2 * n)
        assert float(found[t]) == pytest.approx(float(expected), rel=1e-5)


def test_leading_axes_stay() -> None:
    logits, y = draw(5, 3, 4, 3), torch.zeros(5, 3, 4, dtype=torch.long)
    assert CLASSES.loss(logits, y).shape == (5, 3)
    assert CLASSES.pointwise(logits, y).shape == (5, 3, 4)
    one = torch.stack([CLASSES.loss(logits[i], y[i], weights()) for i in range(5)])
    torch.testing.assert_close(CLASSES.loss(logits, y, weights().expand(5, 3, 4)), one)


def test_the_loss_of_padding_alone_is_zero_and_has_a_gradient() -> None:
    """A task without any real example must not poison the step with NaN."""
    logits = draw(1, 2, 3).requires_grad_()
    loss = CLASSES.loss(logits, torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2))
    assert loss.tolist() == [0.0]
    loss.sum().backward()
    assert logits.grad is not None
    assert not bool(logits.grad.any())


def test_extreme_logits_have_a_finite_loss() -> None:
    logits = torch.tensor([[[1e4, -1e4, 0.0]]])
    assert float(CLASSES.loss(logits, torch.tensor([[1]]))) == pytest.approx(2e4)


# --- scores -----------------------------------------------------------------------------------------------------------


def test_accuracy_equals_a_loop() -> None:
    logits, y = draw(3, 4, 3), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1], [0, 0, 0, 1]])
    found = CLASSES.scores(logits, Batch(torch.zeros(3, 4, 2), y, weights()))
    expected = [
        np.mean([int(logits[t, i].argmax()) == int(y[t, i]) for i in range(n)]) for t, n in enumerate((4, 2, 1))
    ]
    assert found.tolist() == pytest.approx(expected)


AUC = Problem((1,), "classification", 2, metric="auc")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(-2, 2), st.booleans(), st.booleans()), min_size=6, max_size=6), max_size=4)
)
def test_auc_equals_scikit_learns(tasks: list[list[tuple[int, bool, bool]]]) -> None:
    """Few different scores make many ties; some examples are padding."""
    if not tasks:
        return
    score = torch.tensor([[float(s) for s, _, _ in task] for task in tasks])
    y = torch.tensor([[int(label) for _, label, _ in task] for task in tasks])
    weight = torch.tensor([[float(here) for _, _, here in task] for task in tasks])
    logits = torch.stack([torch.full_like(score, 3.0), 3.0 + score], -1)
    found = AUC.scores(logits, Batch(score.unsqueeze(-1), y, weight))
    for t in range(len(tasks)):
        here = weight[t] > 0
        labels = y[t][here]
        mixed = 0 < int(labels.sum()) < len(labels)
        expected = roc_auc_score(labels.numpy(), score[t][here].numpy()) if mixed else 0.5
        assert float(found[t]) == pytest.approx(expected, abs=1e-6)


def test_explained_variance_is_one_minus_error_over_spread() -> None:
    y, prediction = draw(3, 4, 2), draw(3, 4, 2, seed=1)
    found = NUMBERS.scores(prediction, Batch(torch.zeros(3, 4, 2), y, weights()), spread=2.5)
    for t, n in enumerate((4, 2, 1)):
        assert float(found[t]) == pytest.approx(1 - float((prediction[t, :n] - y[t, :n]).square().mean()) / 2.5)
    assert NUMBERS.scores(y, Batch(torch.zeros(3, 4, 2), y)).tolist() == [1.0, 1.0, 1.0]
    wide = Normal(prediction, 9.0)
    assert torch.equal(NUMBERS.scores(wide, Batch(y, y)), NUMBERS.scores(prediction, Batch(y, y)))


def test_weighted_by_rows_explained_variance_is_that_of_all_rows_together() -> None:
    """R2 over the rows of all tasks, as scikit-learn computes it."""
    from sklearn.metrics import r2_score

    from quickstudy.training.fit import target_spread, weighted_mean

    problem = Problem((1,), "regression", 1, metric="explained variance")
    y, prediction = draw(3, 4, 1), draw(3, 4, 1, seed=1)
    batch = Batch(torch.zeros(3, 4, 1), y, weights())
    spread = target_spread(problem, Episodes(batch, batch))
    found = weighted_mean(problem.scores(prediction, batch, spread), problem.task_weights(batch))
    here = weights() > 0
    assert found == pytest.approx(r2_score(y[here].numpy(), prediction[here].numpy()), abs=1e-5)


def test_tasks_count_by_rows_only_for_explained_variance() -> None:
    batch = Batch(torch.zeros(3, 4, 1), torch.zeros(3, 4, 1), weights())
    assert NUMBERS.task_weights(batch).tolist() == [4.0, 2.0, 1.0]
    assert CLASSES.task_weights(batch).tolist() == [1.0, 1.0, 1.0]


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_method_without_adapt_says_so() -> None:
    with pytest.raises(NotImplementedError):
        Method(CLASSES).adapt(Batch(torch.zeros(1, 1, 2), torch.zeros(1, 1)))
    assert Method.refuses(CLASSES) == ""


def test_an_estimate_is_written_with_its_interval() -> None:
    assert str(Estimate(0.975, 0.9711, 0.9794, 600)) == "0.975 [0.971, 0.979]"


def test_unlabelled_inputs_follow_their_tasks() -> None:
    more = draw(3, 5, 2, seed=2)
    batch = Batch(draw(3, 4, 2), torch.arange(12).view(3, 4), weights(), more)
    other = Batch(draw(3, 1, 2, seed=1), torch.arange(3).view(3, 1), unlabelled=draw(3, 2, 2))
    kept = batch.tasks(slice(1, 3)).unlabelled
    assert kept is not None and torch.equal(kept, more[1:])
    assert batch.join(other).unlabelled is more, "joining keeps the first's"
    moved = batch.to("meta").unlabelled
    assert moved is not None and moved.device.type == "meta"
    with pytest.raises(InputError, match=r"\[T, u, \*x\] of x \(3, 4, 2\)\. Found \(2, 5, 2\)"):
        Batch(batch.x, batch.y, unlabelled=more[:2])
