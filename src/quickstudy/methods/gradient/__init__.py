"""Few-shot by learning what an optimiser starts from, or how it steps."""

from quickstudy.methods.gradient.anil import ANIL
from quickstudy.methods.gradient.context import CAVIA
from quickstudy.methods.gradient.fomaml import FOMAML
from quickstudy.methods.gradient.maml import MAML
from quickstudy.methods.gradient.mamlpp import MAMLPlusPlus
from quickstudy.methods.gradient.meta_sgd import MetaSGD
from quickstudy.methods.gradient.reptile import Reptile

__all__ = ["ANIL", "CAVIA", "FOMAML", "MAML", "MAMLPlusPlus", "MetaSGD", "Reptile"]
