"""Few-shot by learning what an optimiser starts from, or how it steps."""

from quickstudy.methods.gradient.imaml import IMAML
from quickstudy.methods.gradient.leo import LEO
from quickstudy.methods.gradient.lstm_optimizer import LSTMOptimizer
from quickstudy.methods.gradient.maml import MAML
from quickstudy.methods.gradient.proto_maml import ProtoMAML

__all__ = ["MAML", "IMAML", "LSTMOptimizer", "ProtoMAML", "LEO"]
