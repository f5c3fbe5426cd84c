"""Few-shot by learning what an optimiser starts from, or how it steps."""

from quickstudy.methods.gradient.maml import MAML

__all__ = ["MAML"]
