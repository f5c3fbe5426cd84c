"""Few-shot by a net that reads the examples."""

from quickstudy.methods.blackbox.attentive_cnp import AttentiveCNP
from quickstudy.methods.blackbox.backpropamine import Backpropamine
from quickstudy.methods.blackbox.cnp import CNP
from quickstudy.methods.blackbox.hebbian import Hebbian
from quickstudy.methods.blackbox.hypernetwork import Hypernetwork
from quickstudy.methods.blackbox.in_context import InContext
from quickstudy.methods.blackbox.lstm_mann import LSTMMANN
from quickstudy.methods.blackbox.meta_networks import MetaNetworks
from quickstudy.methods.blackbox.snail import SNAIL

__all__ = [
    "CNP",
    "AttentiveCNP",
    "InContext",
    "Hypernetwork",
    "LSTMMANN",
    "SNAIL",
    "MetaNetworks",
    "Hebbian",
    "Backpropamine",
]
