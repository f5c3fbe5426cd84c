"""Learn on some tasks, carry over to another."""

from quickstudy.methods.transfer.fine_tune import FineTune

__all__ = ["FineTune"]
