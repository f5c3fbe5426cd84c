"""Plasticity against what one works out by hand, and the tasks that show it."""

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core import Batch, InputError, Problem
from quickstudy.methods import Backpropamine, Hebbian
from quickstudy.nets.plastic import Plastic, PlasticRNN
from quickstudy.tasks.plastic import CueReward, GridMaze, ImageCompletion, PatternCompletion

CLASSES = Problem((2,), "classification", 2, shared_labels=False)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(found: Tensor, expected: object) -> None:
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected, dtype=found.dtype))


def test_hebb_by_hand() -> None:
    """eta 1/4: (1 - 1/4) * 0 + 1/4 * x y, twice; then read with w = 0, alpha = 2."""
    layer = Plastic(2, 1, rule="decay", alpha="uniform", eta=0.25, scale=0.0, strength=2.0)
    x, y = torch.tensor([[1.0, -2.0]]), torch.tensor([[2.0]])
    synapses = layer.write(layer.start(1), x, y)
    close(synapses.hebb, [[[0.5], [-1.0]]])
    synapses = layer.write(synapses, x, -y)
    close(synapses.hebb, [[[-0.125], [0.25]]])
    close(layer.read(torch.tensor([[[1.0, 1.0]]]), synapses), [[[2 * 0.125]]])


def test_simple_modulation_by_hand_and_clipped() -> None:
    layer = Plastic(1, 1, rule="clip", modulation="simple")
    one, two = torch.ones(1, 1), torch.full((1, 1), 2.0)
    synapses = layer.write(layer.start(1), two, one, torch.tensor([-0.25]))
    close(synapses.hebb, [[[-0.5]]])
    close(layer.write(synapses, two, one, torch.tensor([-0.5])).hebb, [[[-1.0]]])
    with pytest.raises(InputError, match="signal"):
        layer.write(synapses, one, one)
    with pytest.raises(InputError, match="clip"):
        Plastic(1, 1, modulation="simple")


def test_the_trace_credits_what_came_before() -> None:
    """x y leaves a trace, 1/2; a step later, nothing active, M = -1/2 writes it: -1/4; the trace fades to 1/4."""
    layer = Plastic(1, 1, rule="clip", modulation="retroactive", eta=0.5)
    one, nothing = torch.ones(1, 1), torch.zeros(1, 1)
    synapses = layer.write(layer.start(1), one, one, torch.tensor([0.9]))
    close(synapses.hebb, [[[0.0]]])
    close(synapses.eligibility, [[[0.5]]])
    synapses = layer.write(synapses, nothing, nothing, torch.tensor([-0.5]))
    close(synapses.hebb, [[[-0.25]]])
    close(synapses.eligibility, [[[0.25]]])


def test_oja_stays_bounded_and_finds_the_first_component() -> None:
    """With y = x'Hebb its fixed point is the unit first eigenvector (Oja 1982); plain Hebb without decay runs away."""
    layer = Plastic(2, 1, rule="oja", eta=0.01)
    g, scale = gen(), torch.tensor([2.0, 0.5])
    synapses = layer.start(1)._replace(hebb=torch.full((1, 2, 1), 0.3))
    free = synapses.hebb
    with torch.no_grad():
        for _ in range(800):
            x = scale * torch.randn(1, 2, generator=g)
            free = free + 0.01 * x.unsqueeze(2) * (x.unsqueeze(1) @ free)
            synapses = layer.write(synapses, x, (x.unsqueeze(1) @ synapses.hebb).squeeze(1))
    assert float(free.norm()) > 1e6
    torch.testing.assert_close(synapses.hebb.flatten().abs(), torch.tensor([1.0, 0.0]), atol=0.1, rtol=0)


def test_inputs_hold_their_neurons_and_the_rest_recalls() -> None:
    """Held for two steps, x writes Hebb = x x^T. Then the free ones say tanh(alpha x^T x x), |x|^2 = .5625."""
    net = PlasticRNN(3, 3, rule="clip", alpha="uniform", hold=True, eta=1.0, scale=0.0, strength=0.5)
    x = torch.tensor([[0.5, -0.25, 0.5]])
    memory = net.start(1)
    for _ in range(2):
        h, memory = net(x, memory)
        close(h, x)
    close(memory[1].hebb, (x.T @ x).unsqueeze(0))
    h, _ = net(x * torch.tensor([1.0, 0.0, 0.0]), memory)
    rest = torch.tanh(0.5 * 0.5625 * x)
    close(h, torch.cat([x[:, :1], rest[:, 1:]], 1))
    with pytest.raises(InputError, match="give one"):
        PlasticRNN(3, 3, hold=True, clamp=20.0)


@pytest.mark.parametrize("modulation", ["none", "simple", "retroactive"])
def test_alpha_zero_is_the_plain_net(modulation: str) -> None:
    x = torch.randn(3, 6, 4, generator=gen(1))
    net = PlasticRNN(4, 5, alpha="uniform", modulation=modulation, strength=0.0, scale=0.5)  # type: ignore[arg-type]
    strong = PlasticRNN(4, 5, alpha="uniform", modulation=modulation, strength=0.9, scale=0.5)  # type: ignore[arg-type]
    plain = nn.RNN(4, 5, batch_first=True, bias=False)
    with torch.no_grad():
        plain.get_parameter("weight_ih_l0").copy_(net.input.weight)
        plain.get_parameter("weight_hh_l0").copy_(net.recurrent.weight.T)
        if modulation != "none":
            for each in (net, strong):
                each.modulator.bias.fill_(0.8)
    memory, other = net.start(3), strong.start(3)
    for t in range(6):
        (h, memory), (far, other) = net(x[:, t], memory), strong(x[:, t], other)
    torch.testing.assert_close(h, plain(x)[1].squeeze(0))
    assert float((far - h).detach().abs().max()) > 0.05, "with alpha > 0 plasticity must act"


@pytest.mark.parametrize("modulation", ["none", "simple", "retroactive"])
@pytest.mark.parametrize("rule", ["decay", "oja"])
def test_gradient_through_a_lifetime(modulation: str, rule: str) -> None:
    """Of w, alpha, eta and the signal, through five steps, against finite differences."""
    net = PlasticRNN(2, 3, rule=rule, modulation=modulation, scale=0.5, strength=0.5).double()  # type: ignore[arg-type]
    x = torch.randn(5, 2, 2, generator=gen(2), dtype=torch.float64)
    names, values = zip(*net.named_parameters(), strict=True)

    def live(*values: Tensor) -> Tensor:
        memory = net.start(2)
        for step in x:
            h, memory = torch.func.functional_call(net, dict(zip(names, values, strict=True)), (step, memory))
        return h

    assert torch.autograd.gradcheck(live, values)
    assert "recurrent.alpha" in names


def test_few_shot_oja_by_hand() -> None:
    """Each class's column moves half way to each of its examples, in order; the other's stays."""
    method = Hebbian(CLASSES, nn.Identity(), features=2, alpha="uniform").double()
    with torch.no_grad():
        method.layer.weight.zero_()
        method.layer.alpha.fill_(1.0)
    h = torch.tensor([[[0.4, 0.2], [-0.2, 0.6], [0.8, 0.0]]], dtype=torch.float64)
    support = Batch(torch.atanh(h), torch.tensor([[0, 1, 0]]))
    column = torch.stack([h[0, 0] / 4 + h[0, 2] / 2, h[0, 1] / 2], 1)
    query = torch.tensor([[[0.3, -0.1]]], dtype=torch.float64)
    logits = method.adapt(support)(torch.atanh(query))
    assert isinstance(logits, Tensor)
    torch.testing.assert_close(logits, query @ column)


@pytest.mark.parametrize("modulation", ["simple", "retroactive"])
def test_few_shot_with_a_constant_signal(modulation: str) -> None:
    """tanh b for every example. The trace, eta 1/2, acts one step late, the last one by the blank step."""
    method = Backpropamine(CLASSES, nn.Identity(), features=2, modulation=modulation).double()  # type: ignore[arg-type]
    with torch.no_grad():
        method.layer.weight.zero_()
        method.layer.alpha.fill_(1.0)
        method.modulator.weight.zero_()
        method.modulator.bias.fill_(0.5)
    h = torch.tensor([[[0.4, 0.2], [-0.2, 0.6]]], dtype=torch.float64)
    support = Batch(torch.atanh(h), torch.tensor([[0, 1]]))
    m = torch.tanh(torch.tensor(0.5, dtype=torch.float64))
    # the first example's trace is 1/2 when the second comes, 1/4 at the blank step
    column = m * torch.stack([h[0, 0] * (1 if modulation == "simple" else 0.75), h[0, 1]], 1)
    if modulation == "retroactive":
        column[:, 1] /= 2
    query = torch.tensor([[[0.3, -0.1]]], dtype=torch.float64)
    logits = method.adapt(support)(torch.atanh(query))
    assert isinstance(logits, Tensor)
    torch.testing.assert_close(logits, query @ column)


def test_patterns_are_shown_and_half_zeroed() -> None:
    task = PatternCompletion(size=10, patterns=3)
    x, target, hidden = task.sample(7, gen())
    assert x.shape == (7, task.time, 10)
    assert (hidden.sum(1) == 5).all()
    assert torch.equal(x[:, -1], target.masked_fill(hidden, 0))
    shown = x[:, : -task.probe]
    assert (shown == target.unsqueeze(1)).all(-1).any(1).all(), "the target is among those shown"
    assert (shown.abs().sum(-1) == 0).sum(1).tolist() == [3] * 7


def test_images_are_graded_and_half_zeroed() -> None:
    images = torch.arange(5 * 12.0).view(5, 3, 4).sin()
    task = ImageCompletion(images[:, :2], patterns=3, show=2)
    x, target, hidden = task.sample(40, gen())
    assert x.shape == (40, 3 * (2 + 1) + 3, 8)
    close(target.mean(1), torch.zeros(40))
    close(target.abs().amax(1), torch.ones(40))
    # upper or lower half, and both occur
    assert {tuple(row) for row in hidden.tolist()} == {(True,) * 4 + (False,) * 4, (False,) * 4 + (True,) * 4}
    assert torch.equal(x[:, -1], target.masked_fill(hidden, 0))
    same = (x[:, :-3:3].unsqueeze(2) == task.pixels).all(-1)  # [T, shown, images]
    assert (same.sum((1, 2)) == 3).all() and (same.sum(1) <= 1).all(), "three different ones of the given images"
    assert (x[:, :-3:3] == target.unsqueeze(1)).all(-1).any(1).all(), "the target is among those shown"
    with pytest.raises(InputError, match="at least 3"):
        ImageCompletion(images[:2])


def test_the_target_is_what_rewarded_pairs_share() -> None:
    """Exactly one cue lies in every pair with answer 1 and in no other; half of the answers are 1."""
    pair, answer = CueReward(trials=40).sample(50, gen())
    for cues, present in zip(pair, answer.bool(), strict=True):
        every = cues.flatten(0, 1).unique(dim=0)
        assert len(every) == 4
        inside = (cues.unsqueeze(2) == every).all(-1).any(1)  # [trials, 4]
        assert int((inside == present.unsqueeze(1)).all(0).sum()) == 1
        assert (inside.sum(1) == 2).all()
    assert 0.45 < float(answer.float().mean()) < 0.55


def test_maze_walls_stop_and_the_reward_moves_the_agent() -> None:
    maze = GridMaze(5)  # free: the ring around the pillar in the middle
    assert int((maze.walls == 0).sum()) == 8
    at = torch.tensor([6, 6, 7])
    to, reward = maze.step(at, torch.tensor([0, 3, 2]), torch.tensor([8, 7, 18]), gen())
    assert to[0] == 6 and to[2] == 6
    assert reward.tolist() == [0, 1, 0]
    assert maze.walls[to].sum() == 0
    assert maze.see(torch.tensor([6])).tolist() == [[1, 1, 1, 1, 0, 0, 1, 0, 1]]
