"""Planning with entropy where the MDP is known: the exact answers that soft learners should come to."""

from __future__ import annotations

import torch
from torch import Tensor

from quickstudy.core import RunError


def soft_value_iteration(
    p: Tensor, r: Tensor, discount: float, temperature: float, tolerance: float = 1e-10, most: int = 100_000
) -> Tensor:
    r"""The fixed point of the soft Bellman equation, by iterating it (a contraction of factor gamma).

    .. math::
        Q(s, a) = r(s, a) + \gamma \sum_{s'} p(s' \mid s, a) \, \alpha \log \sum_{a'} \exp(Q(s', a') / \alpha)

    The best policy for reward plus :math:`\alpha` times entropy is ``softmax(Q / alpha)``.

    Args:
        p: transitions; where a row's sum is below 1, the rest is the chance that the episode ends.
        r: mean rewards.
        discount: gamma, below 1.
        temperature: alpha.
        tolerance: largest change of a last backup, as a share of the largest value; float32 rounds at 1e-7.
        most: backups at most.

    Shape:
        ``p [T, S, A, S]``, ``r [T, S, A]``; gives Q ``[T, S, A]``.

    Raises:
        RunError: no fixed point within ``most`` backups.

    Reference:
        Haarnoja et al. 2017, Reinforcement learning with deep energy-based policies, theorem 2, arXiv:1702.08165.
    """
    q = torch.zeros_like(r)
    for _ in range(most):
        value = temperature * (q / temperature).logsumexp(-1)
        new = r + discount * torch.einsum("tsaz,tz->tsa", p, value)
        change, q = (new - q).abs().amax(), new
        if bool(change <= tolerance * q.abs().amax().clamp_min(1)):
            return q
    raise RunError(
        f"Expected soft value iteration to settle within {most} backups. The last changed a value by "
        f"{float(change):.2g}. Lower the discount below 1, raise the tolerance, or use float64."
    )
