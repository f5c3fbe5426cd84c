"""Few-shot by learning what an optimiser starts from, or how it steps."""

from quickstudy.methods.gradient.anil import ANIL
from quickstudy.methods.gradient.context import CAVIA
from quickstudy.methods.gradient.data_conditioned import DataConditioned
from quickstudy.methods.gradient.fomaml import FOMAML
from quickstudy.methods.gradient.imaml import IMAML
from quickstudy.methods.gradient.leo import LEO
from quickstudy.methods.gradient.lstm_optimizer import LSTMOptimizer
from quickstudy.methods.gradient.maml import MAML
from quickstudy.methods.gradient.mamlpp import MAMLPlusPlus
from quickstudy.methods.gradient.meta_sgd import MetaSGD
from quickstudy.methods.gradient.proto_maml import ProtoMAML
from quickstudy.methods.gradient.reptile import Reptile

__all__ = [
    "MAML",
    "FOMAML",
    "Reptile",
    "ANIL",
    "MetaSGD",
    "MAMLPlusPlus",
    "CAVIA",
    "IMAML",
    "LSTMOptimizer",
    "ProtoMAML",
    "LEO",
    "DataConditioned",
]
