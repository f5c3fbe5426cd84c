"""A variational autoencoder: a density that can be drawn from, and a space in which distance means something."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quickstudy.nets.basic import MLP


class VAE(nn.Module):
    r"""Variational autoencoder with a normal decoder of a fixed deviation.

    .. math::
        p(x) = \int N(x; f(z), \sigma^2 I) N(z; 0, I) dz, \qquad q(z \mid x) = N(\mu(x), diag(s(x)^2))

    Args:
        size: numbers of an input.
        latent: numbers of a code.
        width: of the two hidden layers of encoder and decoder.
        deviation: :math:`\sigma`.
        generator: draws the initial weights.

    Shape:
        inputs ``[..., size]``, codes ``[..., latent]``.

    Reference:
        Kingma, Welling 2014, Auto-encoding variational Bayes, arXiv:1312.6114.
    """

    def __init__(
        self,
        size: int,
        latent: int,
        *,
        width: int = 64,
        deviation: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.size, self.latent, self.deviation = size, latent, deviation
        self.encoder: nn.Module = MLP((size, width, width, 2 * latent), generator)
        self.decoder: nn.Module = MLP((latent, width, width, size), generator)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean :math:`\mu` and deviation :math:`s` of the code. Shape: both ``[..., latent]``."""
        mean, log_deviation = self.encoder(x).chunk(2, -1)
        return mean, log_deviation.clamp(-6, 2).exp()

    def decode(self, z: Tensor) -> Tensor:
        """The middle of what a code stands for. Shape: ``[..., size]``."""
        return self.decoder(z)

    def draw(self, n: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """The middles of n codes from the prior. Shape: ``[n, size]``."""
        return self.decode(torch.randn(n, self.latent, generator=generator, device=device))

    def losses(self, x: Tensor, noise: Tensor) -> Tensor:
        r"""Minus the evidence bound of each input: :math:`-\log p(x \mid z) + KL(q(z \mid x) || p(z))`.

        Args:
            x: inputs, ``[n, size]``.
            noise: standard normal, ``[n, latent]``: the code's draw.

        Shape:
            ``[n]``.
        """
        mean, deviation = self.encode(x)
        far = (0.5 * (mean.square() + deviation.square() - 1) - deviation.log()).sum(-1)
        return far - normal(x, self.decode(mean + deviation * noise), self.deviation)

    def log_prob(self, x: Tensor, noise: Tensor) -> Tensor:
        r"""The density by importance sampling, :math:`\log \frac{1}{k} \sum_k p(x \mid z_k) p(z_k) / q(z_k \mid x)`.

        Args:
            x: inputs, ``[n, size]``.
            noise: standard normal, ``[k, n, latent]``: the codes' draws. With more of them the bound is closer.

        Shape:
            ``[n]``.
        """
        mean, deviation = self.encode(x)
        z = mean + deviation * noise
        each = normal(x, self.decode(z), self.deviation) + normal(z, torch.zeros_like(z), 1.0)
        each = each - normal(noise, torch.zeros_like(noise), 1.0) + deviation.log().sum(-1)
        return each.logsumexp(0) - math.log(len(noise))


def normal(x: Tensor, mean: Tensor, deviation: float) -> Tensor:
    """Log-density of independent normals, summed over the last axis. Shape: ``[..., d]`` to ``[...]``."""
    constant = math.log(deviation) + 0.5 * math.log(2 * math.pi)
    return (-0.5 * ((x - mean) / deviation).square() - constant).sum(-1)
