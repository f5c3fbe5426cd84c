"""Perception that is learned first, from pictures with known poses, and then carried into reinforcement learning."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from quickstudy.core import InputError
from quickstudy.methods.rl.ppo import PPO
from quickstudy.nets import MLP


class PoseNet(nn.Module):
    r"""Supervised image-to-pose learning: features of a picture from which its pose can be read off linearly.

    .. math::
        L = \| W \varphi(x) + b - pose \|^2

    The loss asks features :math:`\varphi` for what the pose needs and for nothing else; few features leave little room
    for the rest. Levine et al. 2016 begin the training of visuomotor policies in this way.

    Args:
        seen: numbers of one picture, flattened.
        pose: numbers of a pose.
        features: numbers of :math:`\varphi`.
        width: of the two hidden layers.
        generator: draws the initial weights.

    Shape:
        pictures ``[..., seen]`` to features ``[..., features]``.

    Reference:
        Levine, Finn, Darrell, Abbeel 2016, End-to-end training of deep visuomotor policies, JMLR 17
        (pre-training by pose regression). Departs from it: fully connected, no spatial softmax.
    """

    def __init__(
        self,
        seen: int,
        pose: int,
        *,
        features: int = 8,
        width: int = 128,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.seen, self.size = seen, features
        self.encoder: nn.Module = MLP((seen, width, width, features), generator)
        self.reader: nn.Module = MLP((features, pose), generator)

    def forward(self, picture: Tensor) -> Tensor:
        """The features."""
        found: Tensor = self.encoder(picture)
        return found

    def pose(self, picture: Tensor) -> Tensor:
        """The pose. Shape: ``[..., seen]`` to ``[..., pose]``."""
        found: Tensor = self.reader(self(picture))
        return found

    def losses(self, picture: Tensor, pose: Tensor) -> Tensor:
        """The squared error of each picture's pose. Shape: ``[n, seen]`` and ``[n, pose]`` to ``[n]``."""
        return (self.pose(picture) - pose).square().sum(-1)


class Perceives(nn.Module):
    """A net that looks at the first numbers of an observation through an encoder, and takes the others as they are.

    Args:
        eyes: pictures ``[..., seen]`` to features; its ``seen`` says how many numbers a picture has, its ``size`` how
            many features.
        net: of features with the other numbers behind.

    Shape:
        observation ``[..., seen + o]`` to what the net gives.
    """

    def __init__(self, eyes: PoseNet, net: nn.Module) -> None:
        super().__init__()
        self.eyes, self.net = eyes, net

    def forward(self, observation: Tensor) -> Tensor:
        """Look, then go on."""
        picture, rest = observation[..., : self.eyes.seen], observation[..., self.eyes.seen :]
        found: Tensor = self.net(torch.cat([self.eyes(picture), rest], -1))
        return found


def give_eyes(method: PPO, eyes: PoseNet, *, frozen: bool, width: int = 64, generator: torch.Generator) -> None:
    """Put an encoder before policy and value of PPO, a copy for each; in place, before training.

    Trained or not, the same encoder makes the same net, so what is compared is what it has learned: ``frozen`` features
    stay as they are, others are fine-tuned by the policy's and the value's own losses.

    Args:
        method: its observations begin with the picture.
        eyes: an encoder, which is copied and not changed.
        frozen: whether its parameters stay.
        width: of the two hidden layers behind the features.
        generator: draws these layers' initial weights.

    Raises:
        InputError: observations are shorter than the encoder's pictures.
    """
    (seen,) = method.problem.x_shape if len(method.problem.x_shape) == 1 else (0,)
    if seen < eyes.seen:
        raise InputError(
            f"Expected observations that begin with the {eyes.seen} numbers of a picture, [T, {eyes.seen} or more]. "
            f"Found shape {method.problem.x_shape}. Wrap the environment in Pictured."
        )
    for part, outputs in ((method.actor, method.problem.n_outputs), (method.value, 1)):
        own = copy.deepcopy(eyes).requires_grad_(not frozen)
        own.reader.requires_grad_(False)  # nobody reads poses any more
        net = MLP((eyes.size + seen - eyes.seen, width, width, outputs), generator)
        with torch.no_grad():  # a first policy close to the middle, first values close to 0
            net[-1].weight.mul_(0.01)  # type: ignore[operator]
        part.net = Perceives(own, net)
