"""Tasks that come one after the other."""

from quickstudy.methods.lifelong.ewc import (
    EWC as EWC,  # goes around a method: not made from a problem, so not in the list
)

__all__: list[str] = []
