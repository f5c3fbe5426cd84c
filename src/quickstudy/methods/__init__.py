"""How to learn: one file a method. This list is the registry; names, docs and tests follow from the classes."""

from quickstudy.methods.maml import MAML
from quickstudy.methods.prototypical import Prototypical

__all__ = ["MAML", "Prototypical"]
