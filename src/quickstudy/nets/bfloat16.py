"""An encoder in bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bfloat16(nn.Module):
    """An encoder whose convolutions run in bfloat16, twice as fast on processors that know it; its output is float.

    Args:
        encoder: any module ``[n, *x] -> [n, features]`` on images; its parameters stay in single precision.

    Shape:
        ``[n, channels, height, width]`` to ``[n, features]``.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Shape: ``[n, *x]`` to ``[n, features]``."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            features: Tensor = self.encoder(x.contiguous(memory_format=torch.channels_last))
        return features.float()
