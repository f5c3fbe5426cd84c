"""Few-shot by comparison in a learned embedding."""

from quickstudy.methods.metric.active_matching import ActiveMatching
from quickstudy.methods.metric.graph import Graph
from quickstudy.methods.metric.infinite_mixture import InfiniteMixture
from quickstudy.methods.metric.matching import Matching
from quickstudy.methods.metric.nearest import NearestNeighbour
from quickstudy.methods.metric.prototypical import Prototypical
from quickstudy.methods.metric.relation import Relation
from quickstudy.methods.metric.semi_supervised import SemiSupervisedProto
from quickstudy.methods.metric.siamese import Siamese

__all__ = [
    "ActiveMatching",
    "Graph",
    "InfiniteMixture",
    "Matching",
    "NearestNeighbour",
    "Prototypical",
    "Relation",
    "SemiSupervisedProto",
    "Siamese",
]
