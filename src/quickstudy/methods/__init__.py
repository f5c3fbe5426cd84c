"""How to learn: one file a method, one line in its folder's list. Names, docs and tests follow from the classes."""

from quickstudy.methods import alone, blackbox, gradient, heads, joint, lifelong, metric, rl, transfer
from quickstudy.methods.alone import *  # noqa: F403
from quickstudy.methods.blackbox import *  # noqa: F403
from quickstudy.methods.gradient import *  # noqa: F403
from quickstudy.methods.heads import *  # noqa: F403
from quickstudy.methods.joint import *  # noqa: F403
from quickstudy.methods.lifelong import EWC as EWC
from quickstudy.methods.metric import *  # noqa: F403
from quickstudy.methods.rl import *  # noqa: F403
from quickstudy.methods.transfer import *  # noqa: F403

__all__: list[str] = []
__all__ += alone.__all__
__all__ += joint.__all__
__all__ += transfer.__all__
__all__ += metric.__all__
__all__ += heads.__all__
__all__ += blackbox.__all__
__all__ += gradient.__all__
__all__ += lifelong.__all__
__all__ += rl.__all__
