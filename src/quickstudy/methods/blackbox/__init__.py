"""Few-shot by a net that reads the examples."""

from quickstudy.methods.blackbox.cnp import CNP

__all__ = ["CNP"]
