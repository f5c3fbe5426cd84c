"""Nets from a few words: what they are equal to, what they cost, and that inner loops can run them."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core import Batch, InputError, Problem
from quickstudy.methods import MAML
from quickstudy.nets import MLP, net_for
from quickstudy.nets.spec import STEP, Cost, NetSpec, cost, widest

IMAGES = Problem((1, 14, 14), "classification", 5, shared_labels=False)
ROWS = Problem((6,), "regression", 2)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("norm", ["batch", "none", "running"])
def test_the_default_spec_is_the_default_net(norm: str) -> None:
    """Weight by weight, drawn from the same generator."""
    x = torch.randn(7, 1, 14, 14, generator=seeded())
    ours = NetSpec(norm=norm).build(IMAGES, seeded())  # type: ignore[arg-type]
    theirs = net_for(IMAGES, norm, seeded())  # type: ignore[arg-type]
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


def test_the_cost_is_counted_by_hand() -> None:
    assert cost(MLP((6, 5, 2)), (6,)) == Cost(6 * 5 + 5 + 5 * 2 + 2, 6 * 5 + 5 * 2)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 1, bias=False), nn.Flatten())
    # 7 x 7 places of 4 filters of 9, and of 8 filters of 4
    assert cost(net, (1, 14, 14)) == Cost(4 * 9 + 4 + 32, 49 * (4 * 9 + 8 * 4))


@pytest.mark.parametrize("problem", [IMAGES, ROWS], ids=["images", "rows"])
def test_nets_of_all_words_run_for_many_tasks_at_once(problem: Problem) -> None:
    """As MAML runs it: all tasks at once give what each gives alone."""
    words = product((1, 3), ((3,), (5, 1)), (0, 2), ("first", "spread"), ("batch", "none"), (False, True))
    shape = problem.x_shape
    for i, (depth, kernels, halvings, where, norm, skip) in list(enumerate(words))[::5]:
        double, head = bool(i % 2), ("flat", "mean")[i // 2 % 2]
        spec = NetSpec(depth, kernels, halvings, where, norm, skip, double, head, width=2)  # type: ignore[arg-type]
        x = torch.randn(3, 5, *shape, generator=seeded())
        y = torch.arange(5).expand(3, 5) if problem is IMAGES else torch.randn(3, 5, 2, generator=seeded())
        method = MAML(problem, spec.build(problem, seeded()))
        with torch.no_grad():
            together = method.adapt(Batch(x, y))(x)
            alone = [method.adapt(Batch(x[t : t + 1], y[t : t + 1]))(x[t : t + 1]) for t in range(3)]
        assert isinstance(together, Tensor)
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


def test_what_the_words_mean() -> None:
    def sizes(spec: NetSpec) -> list[tuple[int, int]]:
        """Filters and side of each convolution's output."""
        found: list[tuple[int, int]] = []
        net = spec.build(IMAGES)
        for part in net.modules():
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(lambda _, __, out: found.append((out.shape[1], out.shape[2])))
        net(torch.zeros(2, 1, 14, 14))
        return found

    assert sizes(NetSpec(depth=4, halvings=2, width=3)) == [(3, 7), (3, 4), (3, 4), (3, 4)]
    assert sizes(NetSpec(depth=4, halvings=2, where="spread", width=3)) == [(3, 7), (3, 7), (3, 4), (3, 4)]
    assert sizes(NetSpec(depth=3, halvings=3, double=True, width=3)) == [(3, 7), (6, 4), (12, 2)]
    assert sizes(NetSpec(depth=2, halvings=9, width=3)) == [(3, 7), (3, 4)]
    kernels = [p.kernel_size[0] for p in NetSpec(5, (5, 1)).build(IMAGES).modules() if isinstance(p, nn.Conv2d)]
    assert kernels == [5, 1, 5, 1, 5]
    flat, mean = (NetSpec(depth=1, halvings=1, width=2, head=head).build(IMAGES)[1] for head in ("flat", "mean"))
    assert isinstance(flat, nn.Linear) and isinstance(mean, nn.Linear)
    assert (flat.in_features, mean.in_features) == (2 * 49, 2)


def test_skips_add_the_input() -> None:
    """With layers that give nothing, all blocks but the first pass on what they get."""
    net = NetSpec(depth=4, halvings=1, norm="none", skip=True, width=3).build(IMAGES)
    x = torch.randn(2, 1, 14, 14, generator=seeded())
    layers = [part for part in net.modules() if isinstance(part, nn.Conv2d)]
    with torch.no_grad():
        for layer in layers[1:]:
            layer.weight.zero_()
    torch.testing.assert_close(net(x), net[1](layers[0](x).relu().flatten(1)))


@pytest.mark.parametrize("spec", [NetSpec(), NetSpec(6, (3, 1), 2, "spread", skip=True), NetSpec(3, double=True)])
def test_the_widest_net_is_within_the_cap_and_the_next_is_not(spec: NetSpec) -> None:
    cap = cost(net_for(IMAGES, "batch"), IMAGES.x_shape)
    found = widest(spec, IMAGES, cap)
    assert cost(found.build(IMAGES), IMAGES.x_shape).within(cap)
    wider = NetSpec(**{**vars(found), "width": found.width + STEP})
    assert not cost(wider.build(IMAGES), IMAGES.x_shape).within(cap)
    if spec == NetSpec():
        assert found.width == 32  # the default net itself


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(InputError, match="odd kernels"):
        NetSpec(kernels=(2,))
    with pytest.raises(InputError, match="at least one block"):
        NetSpec(depth=0)
    with pytest.raises(InputError, match="Raise the cap"):
        widest(NetSpec(), IMAGES, Cost(10, 10))
