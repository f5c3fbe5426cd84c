"""The estimators are scikit-learn estimators: its own checks pass, and they compose with its tools."""

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from quickstudy.estimators import FewShotClassifier, FewShotRegressor


@pytest.mark.uses_global_rng  # scikit-learn's checks draw from numpy's
@parametrize_with_checks(
    [
        FewShotClassifier(),
        FewShotClassifier("nearest-neighbour"),
        FewShotClassifier("logistic"),
        FewShotRegressor(),
        FewShotRegressor("nearest-neighbour"),
    ]
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    """None is expected to fail."""
    check(estimator)
