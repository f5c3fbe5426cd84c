"""Gradients lie in memory as their parameters do: fused optimisers do not look at strides."""

import torch
from torch import Tensor

from quickstudy.combine import mean
from quickstudy.methods import MAML
from quickstudy.tasks.toy import Sinusoids
from quickstudy.training.compiled import CompiledLosses, _flat


def test_a_transposed_gradient_steps_as_it_should() -> None:
    method, family = MAML(Sinusoids().problem), Sinusoids()
    episodes = family.sample(2, torch.Generator().manual_seed(0))
    parameters = [p for p in method.parameters() if p.requires_grad]
    made = [torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) for i, p in enumerate(parameters)]
    turned = [g.mT.contiguous().mT if g.ndim == 2 else g for g in made]
    assert any(g.stride() != p.stride() for g, p in zip(turned, parameters, strict=True))

    def program(state: list[Tensor], data: list[Tensor | None]) -> list[Tensor]:
        return [torch.zeros(2), *turned]

    losses = CompiledLosses(method, mean)
    shapes = tuple(None if value is None else (value.shape, value.dtype) for value in _flat(episodes))
    losses._programs[shapes] = program
    losses(episodes)
    before = [p.detach().clone() for p in parameters]
    torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.0, fused=True).step()
    for old, new, gradient in zip(before, parameters, made, strict=True):
        torch.testing.assert_close(new.detach() - old, -gradient.sign(), atol=1e-4, rtol=0)  # Adam's first step
