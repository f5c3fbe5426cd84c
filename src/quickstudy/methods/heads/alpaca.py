"""ALPaCA: Bayesian linear regression on learned features, with a learned prior."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from quickstudy.core import Batch, Method, Predictor, Problem
from quickstudy.methods._embed import embed
from quickstudy.methods._nets import at_rest
from quickstudy.nets import encoder_for


class ALPaCA(Method):
    r"""Learn the features and the prior of Bayesian linear regression; a task's posterior is in closed form.

    .. math::
        y = K^\top \phi(x) + \epsilon, \quad \epsilon \sim N(0, \Sigma_\epsilon), \quad
        K \sim MN(\bar K_0, \Lambda_0^{-1}, \Sigma_\epsilon)

    .. math::
        \Lambda = \Phi^\top \Phi + \Lambda_0, \qquad
        \bar K = \Lambda^{-1} (\Phi^\top Y + \Lambda_0 \bar K_0), \qquad
        p(y \mid x) = N(\bar K^\top \phi(x),\ (1 + \phi(x)^\top \Lambda^{-1} \phi(x))\, \Sigma_\epsilon)

    Training minimises -log p of the query in :math:`\phi, \bar K_0, \Lambda_0 = L_0 L_0^\top` and
    :math:`\Sigma_\epsilon`.

    Args:
        problem: what the tasks look like.
        encoder: any module ``[n, *x] -> [n, features]``; by default the one that suits the inputs.
        noise: standard deviation of epsilon before training.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``; gives a Normal over ``[T, m, d]``. Solves systems of f + 1
        unknowns a task, f the number of features.

    Reference:
        Harrison, Sharma, Pavone 2018, Meta-Learning Priors for Efficient Online Bayesian Regression,
        arXiv:1807.08912. Departs in four ways: Sigma_epsilon is diagonal and learned (there: given); phi ends with a
        constant 1, for ReLU features have no offset of their own (there: tanh); L_0 is triangular with a positive
        diagonal; the number of examples of a training task is the problem's (there: drawn for each task).
    """

    name: ClassVar[str] = "alpaca"
    summary: ClassVar[str] = "Bayesian linear regression with learned features and prior"
    reference: ClassVar[str] = "Harrison et al. 2018, arXiv:1807.08912"
    expressive: ClassVar[bool] = False  # the mean is affine in the labels
    consistent = False  # a head is bound by what the encoder kept
    uncertain: ClassVar[bool] = True  # an exact posterior, under a learned prior
    lr: ClassVar[float] = 3e-3

    def __init__(
        self,
        problem: Problem,
        encoder: nn.Module | None = None,
        *,
        noise: float = 0.3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        if encoder is None:
            self.encoder, size = encoder_for(problem, generator=generator)
        else:
            self.encoder = encoder
            with torch.no_grad():
                size = at_rest(encoder)(torch.zeros(1, *problem.x_shape)).numel()
        self.prior_mean = nn.Parameter(torch.zeros(size + 1, problem.n_outputs))
        self.prior_root = nn.Parameter(torch.zeros(size + 1, size + 1))
        self.log_noise = nn.Parameter(torch.full((problem.n_outputs,), math.log(noise)))

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """A Gaussian likelihood is one of numbers."""
        return "" if problem.kind == "regression" else "predicts numbers; these tasks have classes"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Update the prior to each task's posterior."""
        phi, prior = self._features(support.x), self.prior_root.tril(-1) + self.prior_root.diagonal().exp().diag()
        # Lambda = L_0 (I + A A') L_0': what is factored has no eigenvalue below 1, however vague the prior
        a = torch.linalg.solve_triangular(prior, phi.mT, upper=False) * support.weights.sqrt().unsqueeze(1)
        one = torch.eye(len(prior), dtype=prior.dtype, device=prior.device)
        root = prior @ torch.linalg.cholesky(one + a @ a.mT)  # of Lambda
        evidence = (phi * support.weights.unsqueeze(-1)).mT @ support.y
        mean = torch.cholesky_solve(evidence + prior @ (prior.mT @ self.prior_mean), root)

        def predict(x: Tensor) -> Distribution:
            phi = self._features(x)
            # phi' Lambda^-1 phi as a sum of squares: never below zero
            spread = torch.linalg.solve_triangular(root, phi.mT, upper=False).square().sum(1)
            deviation = (1 + spread).sqrt().unsqueeze(-1) * self.log_noise.exp()
            return Normal(phi @ mean, deviation, validate_args=False)

        return predict

    def _features(self, x: Tensor) -> Tensor:
        return F.pad(embed(self.encoder, x), (0, 1), value=1.0)
