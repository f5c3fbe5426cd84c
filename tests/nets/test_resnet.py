"""ResNet-12 and the pooled Conv4: the number of parameters worked out by hand, sizes, what they leave alone."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from quickstudy.core import InputError, Problem
from quickstudy.nets import Conv4, ResNet12, encoder_for
from quickstudy.nets.basic import Norm
from quickstudy.nets.resnet import DropBlock


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_resnet12_has_as_many_parameters_as_worked_out_by_hand() -> None:
    """12.4 million; and block by block: three convolutions, one of 1 x 1, a scale and a shift for each of the four."""
    widths = [3, 64, 160, 320, 640]
    by_hand = sum(9 * a * b + 18 * b * b + a * b + 8 * b for a, b in zip(widths[:-1], widths[1:], strict=True))
    assert size(ResNet12()) == by_hand == 12_424_320
    assert size(ResNet12(pool="flatten")) == by_hand


def test_conv4_has_as_many_parameters_as_worked_out_by_hand() -> None:
    """The usual 111,936 on one channel, less 256 biases that the normalisation after them would take away again."""
    by_hand = 9 * 64 + 3 * 9 * 64 * 64 + 8 * 64
    assert size(Conv4(1, 64, pool=True)) == size(Conv4(1, 64)) == by_hand == 111_936 - 256
    widths = (3, 96, 192, 384, 512)
    wide = sum(9 * a * b + 2 * b for a, b in zip(widths[:-1], widths[1:], strict=True))
    assert size(Conv4(3, (96, 192, 384, 512), pool=True)) == wide


@pytest.mark.parametrize("pool, features", [("mean", 40), ("flatten", 160)])
@pytest.mark.parametrize("norm", ["running", "batch", "none"])
def test_resnet12_sizes(norm: Norm, pool: str, features: int) -> None:
    net = ResNet12(1, 4, norm, pool=pool)  # type: ignore[arg-type]
    x = torch.randn(3, 1, 32, 40, generator=seeded())
    assert net(x).shape == (3, features)


def test_a_block_is_the_sum_of_two_ways() -> None:
    """All convolutions zero but the middle of the side way: out comes the leaky, pooled input."""
    net = ResNet12(1, 1, "none", pool="flatten")
    block = net[0]
    with torch.no_grad():
        for name, p in block.named_parameters():
            p.fill_(float(name == "side.0.weight"))
    x = torch.tensor([[[[-1.0, -3.0], [-2.0, -4.0]]]])
    assert torch.allclose(block(x), torch.tensor([[[[-0.1]]]]))
    assert torch.allclose(block(-x), torch.tensor([[[[4.0]]]]))


def test_running_statistics_do_not_mix_examples() -> None:
    x = torch.randn(4, 3, 32, 32, generator=seeded())
    for net in (ResNet12(3, 4).eval(), Conv4(3, 4, pool=True).eval()):
        assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)
    mixes = ResNet12(3, 4, "batch").eval()
    assert not torch.allclose(mixes(x)[:1], mixes(x[:1]), atol=1e-3)


def test_resnet12_goes_through_vmap() -> None:
    """As gradient-based methods need it: a set of weights a task."""
    net = ResNet12(1, 2, "batch")
    params = {name: torch.stack([p, 2 * p]) for name, p in net.named_parameters()}
    x = torch.randn(2, 5, 1, 16, 16, generator=seeded())
    both = vmap(lambda p, x: functional_call(net, p, (x,)))(params, x)
    alone = functional_call(net, {name: p[1] for name, p in params.items()}, (x[1],))
    assert torch.allclose(both[1], alone, atol=1e-4)


def test_pooling_takes_the_largest_of_four() -> None:
    """With weights that copy the input, four poolings leave the image's maximum."""
    net = Conv4(1, 1, "none", pool=True)
    for conv in [part for part in net if isinstance(part, nn.Conv2d)]:
        with torch.no_grad():
            assert conv.bias is not None
            conv.weight.zero_()[:, :, 1, 1] = 1
    x = torch.rand(2, 1, 16, 16, generator=seeded())
    assert torch.equal(net(x).flatten(), x.flatten(1).amax(1))


def test_dropblock_drops_its_share_in_squares() -> None:
    drop = DropBlock(0.2, 3, seeded())
    x = torch.ones(400, 4, 12, 12)
    out = drop(x)
    zero = out == 0
    # squares overlap, so a little less than the rate is dropped
    assert 0.15 < float(zero.float().mean()) < 0.2
    assert abs(float(out.mean()) - 1) < 1e-5
    # every zero lies in a whole square of zeros
    whole = -torch.nn.functional.max_pool2d(-zero.float(), 3, 1)
    cover = torch.nn.functional.max_pool2d(torch.nn.functional.pad(whole, (2, 2, 2, 2)), 3, 1) > 0
    assert torch.equal(cover, zero)


def test_dropblock_is_off_where_nothing_is_drawn() -> None:
    x = torch.randn(2, 3, 32, 32, generator=seeded())
    net = ResNet12(3, 4, drop=0.1, drop_generator=seeded())
    plain = ResNet12(3, 4)
    assert torch.equal(net.eval()(x), plain.eval()(x))
    assert not torch.equal(net.train()(x), plain.train()(x))
    # a copy goes on as its original would, and does not disturb it
    net.train()
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), net(x))
    with pytest.raises(InputError, match="Expected a generator .*DropBlock"):
        ResNet12(3, 4, drop=0.1)
    with pytest.raises(InputError, match="rate from 0 to below 1"):
        ResNet12(3, 4, drop=1.0, drop_generator=seeded())


def test_the_encoder_that_is_chosen_is_as_before() -> None:
    """Strided, of one width: results that were measured with it stay comparable."""
    encoder, features = encoder_for(Problem((1, 28, 28), "classification", 5))
    assert isinstance(encoder, Conv4) and features == 4 * 32
    assert [part.stride for part in encoder if isinstance(part, nn.Conv2d)] == [(2, 2)] * 4
    assert not any(isinstance(part, nn.MaxPool2d) for part in encoder)
