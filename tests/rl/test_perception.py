"""Pictures of places, encoders that learned poses, and rewards that are nearness in features of a demonstration."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from quickstudy.core import InputError
from quickstudy.methods import PPO
from quickstudy.methods.rl.perception import PoseNet, give_eyes
from quickstudy.tasks.acting import at_random, uniform
from quickstudy.tasks.grids import open_grid
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.tasks.pictures import Dots, FeatureReward, Pictured
from quickstudy.tasks.point import PointMaze
from quickstudy.training import collect, fit_poses, fit_rl

WORLD = PointMaze(open_grid(4, 4), start=None, within=1e-6, length=6)
DOTS, ALONE = Dots(), Dots(other=(0.0, 1.0))
NOWHERE = torch.tensor([-9.0, -9.0])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def itself(x: Tensor) -> Tensor:
    return x


def test_a_dot_lies_where_the_place_is() -> None:
    """The centre of its light, in room units; columns are x, as in the maze."""
    place = torch.tensor([[1.0, 3.0], [2.5, 1.5]])
    seen = ALONE(place, generator(0)).unflatten(1, (16, 16))
    pixel = (torch.arange(16) + 0.5) / 4
    light = seen.sum((1, 2))
    x, y = (seen.sum(1) * pixel).sum(1) / light, (seen.sum(2) * pixel).sum(1) / light
    torch.testing.assert_close(torch.stack([x, y], 1), place, atol=0.02, rtol=0)
    assert light.tolist() == pytest.approx([0.7 * 2 * math.pi * 0.4**2 * 16] * 2, rel=0.02)  # 16 pixels a unit area


def test_pixels_prefer_the_place_of_the_bright_thing() -> None:
    r"""What the recipe says of spots :math:`a e^{-r^2 / 2 w^2}`: the product of two in one place integrates to
    :math:`2 \pi a b w^2 v^2 / (w^2 + v^2)`, and falls off with their distance."""
    dots = Dots(side=64, room=8.0)
    middle = torch.tensor([[4.0, 4.0]])
    dot, other = dots.spot(middle, 0.7, 0.4), dots.spot(middle, 1.0, 0.8)
    with_dot, with_other = (float((dot * x).sum()) / 64 for x in (dot, other))  # 64 pixels a unit area
    assert with_dot == pytest.approx(math.pi * 0.49 * 0.16, rel=1e-3) and with_dot == pytest.approx(0.25, abs=0.005)
    assert with_other == pytest.approx(2 * math.pi * 0.7 * 0.16 * 0.64 / 0.8, rel=1e-3)
    assert with_other > 2 * with_dot


def test_what_is_pictured_is_the_world() -> None:
    """Same places, rewards and ends; the picture is of the place, and the goal is as it was."""
    seen, chance = Pictured(WORLD, ALONE, 256), 3
    tasks = WORLD.sample(5, generator(0))
    bare = collect(WORLD, at_random(WORLD.problem), tasks, generator(chance))
    trials = collect(seen, at_random(seen.problem), tasks, generator(chance))
    assert seen.problem.x_shape == (258,) and torch.equal(bare.reward, trials.reward)
    assert torch.equal(trials.observation[..., 256:], bare.observation[..., 2:])
    assert torch.equal(trials.observation[..., :256], ALONE(bare.observation[..., :2], generator(0)))


def test_an_encoder_learns_poses_and_its_features_forget_the_rest() -> None:
    """Where only the bright thing moves, pixels change nearly as much as where all does; features half as much."""
    eyes, chance = PoseNet(256, 2, features=4, width=64, generator=generator(0)), generator(1)
    place = uniform(0, 4, (20_000, 2), chance)
    fit_poses(eyes, DOTS(place, chance), place, steps=1000, lr=2e-3, generator=chance)
    new = uniform(0, 4, (1000, 2), chance)
    with torch.no_grad():
        error = float(eyes.losses(DOTS(new, chance), new).mean().sqrt())
        assert error < 0.8  # the middle of the room is off by 1.6
        one, again, elsewhere = DOTS(new, chance), DOTS(new, chance), DOTS(new.roll(1, 0), chance)
        share = [float((f(one) - f(again)).norm(dim=1).mean() / (f(one) - f(elsewhere)).norm(dim=1).mean())
                 for f in (eyes, itself)]  # fmt: skip
    assert share[0] < 0.6 and share[1] > 0.85


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_eyes_stay_and_others_learn(frozen: bool) -> None:
    seen = Pictured(WORLD, DOTS, 256)
    eyes = PoseNet(256, 2, width=16, generator=generator(0))
    before = copy.deepcopy(eyes.state_dict())
    method = PPO(seen.problem, generator=generator(1))
    give_eyes(method, eyes, frozen=frozen, generator=generator(2))
    heads = [copy.deepcopy(part.net.net.state_dict()) for part in (method.actor, method.value)]  # type: ignore[union-attr]
    fit_rl(method, seen, steps=1, tasks=4, passes=2, generator=generator(3))
    for part, head in zip((method.actor, method.value), heads, strict=True):
        moved = [not torch.equal(value, before[name]) for name, value in part.net.eyes.state_dict().items()]  # type: ignore[union-attr]
        assert any(moved) is not frozen
        assert any(not torch.equal(value, head[name]) for name, value in part.net.net.state_dict().items())  # type: ignore[union-attr]
    assert all(torch.equal(value, before[name]) for name, value in eyes.state_dict().items())  # what was given stays


def test_eyes_that_see_more_than_is_there_are_refused() -> None:
    method = PPO(WORLD.problem)
    with pytest.raises(InputError, match="begin with the 256 numbers of a picture"):
        give_eyes(method, PoseNet(256, 2), frozen=True, generator=generator(0))


def test_the_reward_is_nearness_in_features_and_nothing_but_time_ends_it() -> None:
    ends = uniform(0, 4, (3, 2), generator(0))
    world = FeatureReward(WORLD, lambda place, _: 2 * place, lambda x: 3 * x, 2 * ends, NOWHERE)
    tasks = world.known()
    trials = collect(world, at_random(world.problem), tasks, generator(1))
    there = trials.ends()[1]
    torch.testing.assert_close(trials.reward, -6 * (there - ends.unsqueeze(1)).norm(dim=-1))
    assert trials.done.sum(1).tolist() == [1.0] * 3 and not bool(trials.ends()[0].any())
    drawn = world.sample(200, generator(2))
    assert {tuple(row) for row in drawn.tolist()} == {tuple(row) for row in tasks.tolist()}
    shown = SeesIdentity(world).reset(tasks, generator(3))[1]
    assert shown.shape == (3, 5) and torch.equal(shown[:, 2:], torch.eye(3))
    with pytest.raises(InputError, match="last pictures of demonstrations"):
        FeatureReward(WORLD, ALONE, itself, ends[0], NOWHERE)


def test_a_policy_goes_to_the_end_of_a_demonstration_by_features_alone() -> None:
    """Without anything else in the picture, pixels' features of the best encoder, the place, lead there."""
    ends = torch.tensor([[0.5, 0.5], [3.5, 3.0]])
    pixel = (torch.arange(16) + 0.5) / 4

    def centre(picture: Tensor) -> Tensor:
        grid = picture.unflatten(-1, (16, 16))
        light = grid.sum((-2, -1)).unsqueeze(-1)
        return torch.stack([(grid.sum(-2) * pixel).sum(-1), (grid.sum(-1) * pixel).sum(-1)], -1) / light

    room = PointMaze(open_grid(4, 4), start=None, within=1e-6, length=20)
    world = SeesIdentity(FeatureReward(room, ALONE, centre, ALONE(ends, generator(0)), NOWHERE))
    method = PPO(world.problem, discount=0.95, generator=generator(1))
    fit_rl(method, world, steps=40, tasks=16, passes=10, lr=5e-3, generator=generator(2))
    tasks = world.sample(40, generator(3))
    last = collect(world, method.explorer(), tasks, generator(4)).ends()[1][:, -1, :2]
    far = (last - ends.repeat(20, 1)).norm(dim=1)
    assert float(far.mean()) < 0.5
