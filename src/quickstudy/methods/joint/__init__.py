"""All tasks at once: one model, some of its parts shared."""

from quickstudy.methods.joint.film import FiLM
from quickstudy.methods.joint.mean_ridge import MeanRidge
from quickstudy.methods.joint.multi_head import MultiHead
from quickstudy.methods.joint.pooled import Pooled

__all__ = ["Pooled", "MultiHead", "FiLM", "MeanRidge"]
