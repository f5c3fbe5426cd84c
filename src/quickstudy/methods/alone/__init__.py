"""Each task alone: what every way of sharing is measured against."""

from quickstudy.methods.alone.classical import Boosting, Logistic, Ridge
from quickstudy.methods.alone.independent import Independent

__all__ = ["Ridge", "Logistic", "Boosting", "Independent"]
