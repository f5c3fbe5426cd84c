"""Methods that act."""

from quickstudy.methods.rl.rl2 import RL2

__all__ = ["RL2"]
