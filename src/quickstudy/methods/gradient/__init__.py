"""Few-shot by learning what an optimiser starts from, or how it steps."""

from quickstudy.methods.gradient.imaml import IMAML
from quickstudy.methods.gradient.lstm_optimizer import LSTMOptimizer
from quickstudy.methods.gradient.maml import MAML

__all__ = ["IMAML", "LSTMOptimizer", "MAML"]
