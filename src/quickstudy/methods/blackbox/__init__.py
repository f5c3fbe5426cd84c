"""Few-shot by a net that reads the examples."""

from quickstudy.methods.blackbox.backpropamine import Backpropamine
from quickstudy.methods.blackbox.cnp import CNP
from quickstudy.methods.blackbox.hebbian import Hebbian

__all__ = ["CNP", "Backpropamine", "Hebbian"]
