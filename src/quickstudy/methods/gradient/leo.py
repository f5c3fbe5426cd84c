"""LEO: gradient steps in a small latent space from which the classes' weights are decoded."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Method, Predictor, Problem
from quickstudy.methods._embed import NEVER, answerable, class_means, embed
from quickstudy.nets import MLP, encoder_for
from quickstudy.nets.basic import initialise


class LEO(Method):
    r"""Encode the support to one latent code a class, descend on the codes, decode them to a softmax classifier.

    With :math:`h = f_\theta(x)` the features and E a linear encoder,

    .. math::
        z_k = \frac{1}{|S_k|} \sum_{i \in S_k} \frac{1}{n} \sum_j g_{\phi_r}(E h_i, E h_j), \qquad w_k = D z_k, \qquad
        p(y = k \mid x) \propto \exp(h^\top w_k / \sqrt{f})

    .. math::
        z \leftarrow z - \alpha \odot \nabla_z L^{tr}(D z) \ \text{(``steps`` times)}, \qquad
        w \leftarrow w - \omega \odot \nabla_w L^{tr}(w) \ \text{(``tune_steps`` times)}

    .. math::
        \min L^{val}(w') + \beta \tfrac{1}{2} \lVert z \rVert^2 + \gamma \lVert \mathrm{stop}(z') - z \rVert^2
        + \lambda_2 \lVert \mathrm{corr}(D) - I \rVert^2

    where :math:`z, z'` are the codes before and after their steps and each norm is a mean over its entries. The step
    sizes :math:`\alpha` (one for each latent number) and :math:`\omega` (one for each feature) are learned.

    The steps move codes and the classes' weights, never a net: so there is no net to bring, and no state, dropout or
    frozen part of one that they could meet. The encoder of h is the one that suits the inputs.

    Args:
        problem: what the tasks look like.
        latent: numbers in a code.
        inner_lr: alpha before training.
        tune_lr: omega before training.
        steps: gradient steps on the codes.
        tune_steps: gradient steps on the decoded weights.
        kl: beta.
        encoder_penalty: gamma.
        orthogonality: lambda_2.
        generator: draws the first weights.

    Shape:
        support.x ``[T, n, *x]``, query ``[T, m, *x]``, logits ``[T, m, N]``; a class without support is never chosen.

    Reference:
        Rusu et al. 2019, Meta-Learning with Latent Embedding Optimization, arXiv:1807.05960; sizes, steps and beta,
        gamma, lambda_2 as in the released code. Departs in five ways: the features come from an encoder that is
        trained along (there: from a wide residual net trained beforehand on the training classes, and kept); codes
        and weights are the means of their distributions in training too (there: draws), so that of the divergence
        from N(0, I) the term in the mean is left; logits are divided by the root of the number of features (there: by
        the number); relation net and encoder have biases; no dropout and no penalty on the size of weights.
    """

    name: ClassVar[str] = "leo"
    summary: ClassVar[str] = "gradient steps on latent codes, decoded to a classifier"
    reference: ClassVar[str] = "Rusu et al. 2019, arXiv:1807.05960"
    # not shown to be expressive: a code reads its class's examples beside the others' without their labels
    consistent = False  # a head is bound by what the features kept

    def __init__(
        self,
        problem: Problem,
        *,
        latent: int = 64,
        inner_lr: float = 1.0,
        tune_lr: float = 1e-3,
        steps: int = 5,
        tune_steps: int = 5,
        kl: float = 1e-3,
        encoder_penalty: float = 1e-9,
        orthogonality: float = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(problem)
        self.features, size = encoder_for(problem, generator=generator)
        self.encoder = nn.Linear(size, latent)
        initialise(self.encoder, generator)
        self.relation = MLP((2 * latent, 2 * latent, 2 * latent, latent), generator)
        self.decoder = nn.Linear(latent, size, bias=False)
        initialise(self.decoder, generator)
        self.inner_lr = nn.Parameter(torch.full((latent,), inner_lr))
        self.tune_lr = nn.Parameter(torch.full((size,), tune_lr))
        self.steps, self.tune_steps = steps, tune_steps
        self.kl, self.encoder_penalty, self.orthogonality = kl, encoder_penalty, orthogonality
        self.exact_gradient = encoder_penalty == 0  # a stop in the loss, hence a gradient of its own

    @classmethod
    def refuses(cls, problem: Problem) -> str:
        """One code a class."""
        return "" if problem.kind == "classification" else "needs classes; these tasks predict numbers"

    def adapt(self, support: Batch, task: Tensor | None = None) -> Predictor:
        """Encode, descend on the codes, decode, descend on the weights."""
        return self._adapt(support)[0]

    def losses(self, episodes: Episodes) -> Tensor:
        """The query's cross-entropy over the examples whose class is in the support, and the penalties."""
        episodes = answerable(episodes, self.problem.n_outputs)
        predict, first, last = self._adapt(episodes.support)
        row = F.normalize(self.decoder.weight.T, dim=-1)  # one for each latent number
        orthogonal = (row @ row.T - torch.eye(len(row), dtype=row.dtype, device=row.device)).square().mean()
        return (
            self.problem.losses(predict(episodes.query.x), episodes.query)
            + self.kl * 0.5 * first.square().mean((1, 2))
            + self.encoder_penalty * (last.detach() - first).square().mean((1, 2))
            + self.orthogonality * orthogonal
        )

    def codes(self, h: Tensor, support: Batch) -> tuple[Tensor, Tensor]:
        """Each class's code before any step, 0 for a class without support, and which classes have support.

        Shape:
            ``h [T, n, f]`` to ``[T, N, latent]`` and bool ``[T, N]``.
        """
        code = self.encoder(h)
        left, right = code.unsqueeze(2), code.unsqueeze(1)
        pair = torch.cat(torch.broadcast_tensors(left, right), -1)  # [T, n, n, 2 latent]
        w = support.weights / support.weights.sum(1, keepdim=True).clamp_min(1e-12)
        related = torch.einsum("tijl,tj->til", self.relation(pair), w)
        return class_means(related, support, self.problem.n_outputs)

    def _adapt(self, support: Batch) -> tuple[Predictor, Tensor, Tensor]:
        h = embed(self.features, support.x)
        first, present = self.codes(h, support)
        z = first
        for _ in range(self.steps):
            z = z - self.inner_lr * (self.slope(z @ self.decoder.weight.T, h, support, present) @ self.decoder.weight)
        w = z @ self.decoder.weight.T
        for _ in range(self.tune_steps):
            w = w - self.tune_lr * self.slope(w, h, support, present)
        return lambda x: self.logits(w, embed(self.features, x), present), first, z

    def logits(self, w: Tensor, h: Tensor, present: Tensor) -> Tensor:
        """Shape: ``w [T, N, f]``, ``h [T, m, f]``, ``present [T, N]``; gives ``[T, m, N]``."""
        return (h @ w.mT / h.shape[-1] ** 0.5).masked_fill(~present.unsqueeze(1), NEVER)

    def slope(self, w: Tensor, h: Tensor, support: Batch, present: Tensor) -> Tensor:
        """The gradient in w of the support's mean cross-entropy, written out: differentiable. Shape: ``[T, N, f]``."""
        share = support.weights / support.weights.sum(1, keepdim=True).clamp_min(1e-12)
        member = F.one_hot(support.y, self.problem.n_outputs)
        excess = (self.logits(w, h, present).softmax(-1) - member) * share.unsqueeze(-1)
        return excess.mT @ h / h.shape[-1] ** 0.5
