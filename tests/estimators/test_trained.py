"""Estimators around trained methods: what they answer, and how they meet the rest of scikit-learn."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, make_regression
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from quickstudy.core import Batch, InputError, Method, Predictor, Problem
from quickstudy.estimators import FewShotClassifier, FewShotRegressor
from quickstudy.methods import CNP, MAML, Prototypical
from quickstudy.run import Config, train
from quickstudy.tasks.load import load


def test_in_a_pipeline_and_cross_validated() -> None:
    x, y = load_iris(return_X_y=True)
    scores = cross_val_score(make_pipeline(StandardScaler(), FewShotClassifier("nearest-neighbour")), x, y, cv=3)
    assert scores.min() > 0.9
    x, y = make_regression(100, 5, noise=1.0, random_state=0)
    assert cross_val_score(FewShotRegressor(), x, y, cv=3).min() > 0.99


def test_ridge_is_ridge_on_standardised_numbers() -> None:
    x, y = make_regression(40, 3, noise=5.0, random_state=1)
    x = x * [1, 10, 100] + 7
    z, t = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    expected = Ridge().fit(z, t).predict(z) * y.std() + y.mean()
    np.testing.assert_allclose(FewShotRegressor("ridge").fit(x, y).predict(x), expected, rtol=1e-9)


def test_the_default_is_the_nearest_class_mean() -> None:
    x = np.array([[0.0, 0], [2, 0], [10, 0], [12, 0]])
    learner = FewShotClassifier().fit(x, ["left", "left", "right", "right"])
    assert learner.predict([[5.9, 3], [6.1, -3]]).tolist() == ["left", "right"]


@pytest.mark.parametrize("build", [Prototypical, MAML, CNP])
def test_the_answers_are_the_methods_own(build: type[Method]) -> None:
    """Images in their shape, flattened, or as 0..255: the same answers as adapt's."""
    arena = load("digits").arena("meet", 0, shots=2, episodes=1)
    method = build(arena.problem).eval()
    support, query = arena.test.support, arena.test.query
    with torch.no_grad():
        said = method.adapt(support)(query.x)
    assert isinstance(said, Tensor)
    learner = FewShotClassifier(method).fit(support.x[0].numpy(), support.y[0].numpy())
    assert learner.n_features_in_ == 64
    np.testing.assert_array_equal(learner.predict(query.x[0].numpy()), said[0].argmax(1).numpy())
    np.testing.assert_allclose(learner.predict_proba(query.x[0].flatten(1).numpy()), said[0].softmax(1), atol=1e-5)

    bytes_x, names = (support.x[0] * 255).byte().numpy(), np.array(list("edcba"))[support.y[0].numpy()]
    learner = FewShotClassifier(method).fit(bytes_x, names)
    assert learner.classes_.tolist() == list("abcde")
    assert set(learner.predict(bytes_x.reshape(len(bytes_x), -1))) <= set("abcde")


def test_fewer_classes_than_trained_with_and_more() -> None:
    arena = load("digits").arena("meet", 0, shots=2, episodes=1)
    x = arena.test.support.x[0].numpy()
    assert FewShotClassifier(MAML(arena.problem)).fit(x[:6], [0, 0, 1, 1, 2, 2]).predict_proba(x).shape == (10, 3)
    assert FewShotClassifier(Prototypical(arena.problem)).fit(x, range(10)).predict_proba(x).shape == (10, 10)
    with pytest.raises(InputError, match="at most 5 classes"):
        FewShotClassifier(MAML(arena.problem)).fit(x, range(10))


def test_a_run_by_its_folder(tmp_path: Path) -> None:
    """The run's scaling is applied: raw numbers in, raw numbers out."""
    run, _ = train(Config("cnp", "planted:1", steps=5), tmp_path / "run")
    table = load("planted:1").have
    assert table is not None
    x, y = table.x[table.row[0]].numpy(), table.y[0, :, 0].numpy()
    learner = FewShotRegressor(run.folder).fit(x[:20], y[:20])
    model = run.model().adapt(x[:20], y[:20])
    np.testing.assert_allclose(learner.predict(x), model.predict(x)[:, 0], rtol=1e-6)
    again = copy.deepcopy(learner)  # as pickling does, without what can be computed again
    np.testing.assert_array_equal(again.predict(x), learner.predict(x))
    by_name = FewShotRegressor(str(run.folder / "model.safetensors")).fit(x[:20], y[:20])
    np.testing.assert_array_equal(by_name.predict(x), learner.predict(x))


class Fixed(Method):
    """Answers the same logits whatever it has seen: classes 0..3 mean something in every task."""

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        logits = torch.tensor([0.1, 0.2, 0.6, 0.1]).log()
        return lambda x: logits.expand(*x.shape[:2], 4)


def test_shared_classes_answer_among_those_of_y() -> None:
    """A run that knows four classes, a task with two of them: probabilities over the two."""
    learner = FewShotClassifier(Fixed(Problem((2,), "classification", 4))).fit(np.eye(2), [1, 3])
    np.testing.assert_allclose(learner.predict_proba(np.eye(2)), [[2 / 3, 1 / 3]] * 2, rtol=1e-6)
    assert learner.predict(np.eye(2)).tolist() == [1, 1]
    with pytest.raises(InputError, match="labels of the training data"):
        FewShotClassifier(Fixed(Problem((2,), "classification", 4))).fit(np.eye(2), [1, 4])


@pytest.mark.parametrize(
    "method, expected",
    [
        ("prototypical", "needs no training, or a trained one"),
        ("ridge", "predicts numbers"),
        ("nearest-neighbor", "Did you mean 'nearest-neighbour'"),
    ],
)
def test_names_that_cannot_be_used(method: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        FewShotClassifier(method).fit(np.eye(3), [0, 1, 1])


def test_the_method_is_left_as_it_is() -> None:
    """Fitting neither trains nor switches the method that was given."""
    problem = Problem((2,), "classification", 2, shared_labels=False)
    method = Prototypical(problem, nn.BatchNorm1d(2)).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    learner = FewShotClassifier(method).fit(np.eye(2), [0, 1])
    learner.predict(np.eye(2))
    assert method.training and learner.method is method
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
