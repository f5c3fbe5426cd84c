"""Few-shot by comparison in a learned embedding."""

from quickstudy.methods.metric.nearest import NearestNeighbour
from quickstudy.methods.metric.prototypical import Prototypical

__all__ = ["NearestNeighbour", "Prototypical"]
