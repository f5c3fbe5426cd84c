"""Parts to build methods from: networks, and the net that fits a problem where nobody names one."""

from quickstudy.nets.basic import MLP, Conv4, encoder_for, is_image, is_large, net_for
from quickstudy.nets.bfloat16 import Bfloat16
from quickstudy.nets.resnet import ResNet12

__all__ = ["MLP", "Bfloat16", "Conv4", "ResNet12", "encoder_for", "is_image", "is_large", "net_for"]
