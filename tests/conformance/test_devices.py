"""A training step stays on the device of its data and looks at no number, so that it can be captured as one graph."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quickstudy.core import TaskFamily
from quickstudy.methods.registry import all_methods, build
from quickstudy.tasks.classes import ClassEpisodes, ClassSet
from quickstudy.tasks.toy import Sinusoids
from quickstudy.training.compiled import _flat, _like

LOOKS = {"active-matching": "what it asks for next hangs on the answers, drawn from a generator of its own"}
seed = torch.Generator().manual_seed
IMAGES = ClassEpisodes(
    ClassSet(torch.rand(12, 5, 1, 28, 28, generator=seed(0)), tuple(map(str, range(12)))), range(12), shots=2,
    queries=3, known=True,
)  # fmt: skip
FAMILIES: dict[str, TaskFamily] = {"images": IMAGES, "sinusoids": Sinusoids(5, 5)}
CASES = [
    pytest.param(name, family, id=f"{name}-{family}")
    for name, cls in all_methods().items()
    for family, tasks in FAMILIES.items()
    if hasattr(cls, "refuses") and not cls.refuses(tasks.problem) and name not in LOOKS
]


class Mixed(TorchDispatchMode):
    """Notes operations that take or give tensors of two devices, numbers apart."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        every = [value for value in tree_leaves((args, kwargs, out)) if isinstance(value, Tensor)]
        if {"meta", "cpu"} <= {value.device.type for value in every if value.ndim or value.device.type == "meta"}:
            ours = [frame for frame in traceback.extract_stack() if "/quickstudy/" in frame.filename]
            self.found.append(f"{func} at {ours[-1].filename}:{ours[-1].lineno}")
        return out


@pytest.mark.parametrize("name, family", CASES)
def test_a_step_stays_on_its_device(name: str, family: str) -> None:
    tasks = FAMILIES[family]
    method = build(all_methods()[name], tasks.problem, 0)
    if not method.trains or not any(p.requires_grad for p in method.parameters()):
        pytest.skip("has nothing to learn in training")
    away = lambda value: None if value is None else value.to("meta")  # noqa: E731 (shapes without numbers)
    state = {**dict(method.named_parameters()), **dict(method.named_buffers())}
    moved = {key: value.detach().to("meta") for key, value in state.items()}
    moving = [moved[key].requires_grad_() for key, value in method.named_parameters() if value.requires_grad]
    episodes = tasks.sample(2, seed(1))
    there = _like(episodes, iter([away(value) for value in _flat(episodes)]))
    with Mixed() as mixed:
        losses = functional_call(method.train(), moved, (there,))
        torch.autograd.grad(losses.mean(), moving, allow_unused=True)
    assert losses.device.type == "meta"
    assert not mixed.found
