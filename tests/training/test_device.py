"""Training elsewhere: the same episodes there, and a clear refusal of a device that is not here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quickstudy.core import Batch, Episodes, InputError, Problem
from quickstudy.run import Config, train
from quickstudy.tasks import ClassEpisodes, ClassSet, Sinusoids
from quickstudy.training.device import device_named, on_device

seed = torch.Generator().manual_seed
META = torch.device("meta")  # shapes without numbers: a device that every PyTorch has
CLASSES = ClassEpisodes(
    ClassSet(torch.ones(6, 8, 3, dtype=torch.uint8), tuple("abcdef")), range(6), ways=3, shots=2, queries=3,
    known=True, unlabelled=2,
)  # fmt: skip


@pytest.mark.parametrize("family", [CLASSES, Sinusoids(5, 5)], ids=["classes", "sinusoids"])
def test_episodes_come_there_and_chance_is_spent_alike(family: ClassEpisodes | Sinusoids) -> None:
    here, there = seed(1), seed(1)
    near, far = family.sample(4, here), on_device(family, META).sample(4, there)
    assert torch.equal(here.get_state(), there.get_state())
    for ours, theirs in ((near.support, far.support), (near.query, far.query)):
        assert theirs.x.device == theirs.y.device == META
        assert ours.x.shape == theirs.x.shape and ours.y.dtype == theirs.y.dtype
    assert (near.classes is None) == (far.classes is None) and (near.task is None) == (far.task is None)


class _Counted:
    """Notes where its episodes were asked for."""

    def __init__(self) -> None:
        self.problem = Problem((1,), "regression", 1)

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        x = torch.rand(n, 2, 1, generator=generator)
        return Episodes(Batch(x, x), Batch(x, x))


def test_any_family_can_be_sent_and_the_processor_needs_no_sending() -> None:
    family = _Counted()
    assert on_device(family, torch.device("cpu")) is family
    sent = on_device(family, META)
    assert sent.problem is family.problem and sent.sample(2, seed(0)).query.y.device == META


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta"])
def test_a_device_that_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"Expected a device .* Found '{name}'"):
        device_named(name)
    with pytest.raises(InputError, match="Leave --device out"):
        train(Config("prototypical", "digits", steps=1), tmp_path / "run", device=name)
    assert not (tmp_path / "run").exists()


def test_the_processor_is_a_device() -> None:
    assert device_named("cpu") == torch.device("cpu")
