"""Few-shot by heads that are solved, not stepped, on a shared encoder: closed forms and convex problems."""

from quickstudy.methods.heads.alpaca import ALPaCA
from quickstudy.methods.heads.lrd2 import LRD2
from quickstudy.methods.heads.metaoptnet import MetaOptNet
from quickstudy.methods.heads.r2d2 import R2D2

__all__ = ["ALPaCA", "LRD2", "MetaOptNet", "R2D2"]
