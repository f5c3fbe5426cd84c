"""How to learn: one file a method. This list is the registry; names, docs and tests follow from the classes."""

from quickstudy.methods.classical import Boosting, Logistic, Ridge
from quickstudy.methods.cnp import CNP
from quickstudy.methods.ewc import EWC as EWC  # goes around a method: not made from a problem, so not in the list
from quickstudy.methods.film import FiLM
from quickstudy.methods.fine_tune import FineTune
from quickstudy.methods.independent import Independent
from quickstudy.methods.maml import MAML
from quickstudy.methods.mean_ridge import MeanRidge
from quickstudy.methods.multi_head import MultiHead
from quickstudy.methods.nearest import NearestNeighbour
from quickstudy.methods.pooled import Pooled
from quickstudy.methods.prototypical import Prototypical
from quickstudy.methods.rl2 import RL2

__all__ = [
    "NearestNeighbour",
    "Ridge",
    "Logistic",
    "Boosting",
    "Independent",
    "Pooled",
    "MultiHead",
    "FiLM",
    "FineTune",
    "MeanRidge",
    "Prototypical",
    "MAML",
    "CNP",
    "RL2",
]
