"""The encoder in bfloat16: float in and out, near the same numbers, gradients in single precision."""

import torch

from quickstudy.nets import Bfloat16, Conv4


def test_bfloat16_is_the_same_net_to_three_digits() -> None:
    g = torch.Generator().manual_seed(0)
    plain = Conv4(1, 8, generator=g).eval()
    x = torch.rand(4, 1, 28, 28, generator=g)
    with torch.no_grad():
        exact = plain(x)
        rough = Bfloat16(plain)(x)
    assert rough.dtype == torch.float32 and rough.shape == exact.shape
    gap = float((rough - exact).abs().max() / exact.abs().max())
    assert 0 < gap < 0.03  # 8 bits of mantissa, four layers


def test_its_parameters_and_gradients_stay_in_single_precision() -> None:
    net = Bfloat16(Conv4(1, 4))
    net(torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    for parameter in net.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
