"""Architecture search: the planted net is found, the cap is kept, what fails is never chosen."""

from typing import Any

import pytest
import torch

from quickstudy.core import Batch, Episodes, InputError, Problem
from quickstudy.nets.spec import Cost, NetSpec
from quickstudy.training.architecture import SPACE, search_net
from quickstudy.training.search import Range


class Places:
    """Two classes of images: which of two small patterns is somewhere in the image. A mean over places tells."""

    problem = Problem((1, 8, 8), "classification", 2)

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        """An upright or a slanted cross of five pixels at a random place, in noise."""
        patterns = torch.tensor([[[0.0, 1, 0], [1, 1, 1], [0, 1, 0]], [[1.0, 0, 1], [0, 1, 0], [1, 0, 1]]])
        y = (torch.arange(12) % 2).expand(n, 12)
        x = 0.1 * torch.randn(n, 12, 1, 8, 8, generator=generator)
        at = torch.randint(0, 6, (n, 12, 2), generator=generator)
        for t in range(n):
            for i in range(12):
                a, b = at[t, i].tolist()
                x[t, i, 0, a : a + 3, b : b + 3] += patterns[y[t, i]]
        return Episodes(Batch(x[:, :6], y[:, :6]), Batch(x[:, 6:], y[:, 6:]))


def validation() -> Episodes:
    return Places().sample(20, torch.Generator().manual_seed(9))


def test_a_net_that_sees_patterns_is_found_among_nets_that_see_pixels() -> None:
    """1x1 filters, averaged over places, tell how much ink there is, and both classes have the same."""
    space: dict[str, Any] = {"kernels": ((1,), (3,)), "norm": ("none", "batch")}
    cap = Cost(3000, 40_000)
    found = search_net("maml", Places(), validation(), trials=4, space=space | {"depth": (2,), "halvings": (0,),
                       "head": ("mean",)}, cap=cap, steps=60, tasks=8, lr=1e-2)  # fmt: skip
    assert found.best.settings["kernels"] == (3,)
    assert found.best.score > 0.85
    assert max(t.score for t in found.trials if t.settings["kernels"] == (1,)) < 0.65


def test_the_seed_decides_and_the_space_is_that_of_a_spec() -> None:
    assert set(SPACE) <= set(vars(NetSpec()))
    one, again = (search_net("maml", Places(), validation(), trials=2, steps=1, tasks=2) for _ in range(2))
    assert one == again


def test_nets_that_are_too_dear_fail_and_are_not_chosen() -> None:
    space: dict[str, Any] = {"depth": Range(1, 8, whole=True), "kernels": ((3,), (5,)), "halvings": (0,)}
    found = search_net("maml", Places(), validation(), trials=8, space=space, cap=Cost(400, 6000), steps=1, tasks=2,
                       sampler="random")  # fmt: skip
    assert any(t.score == -torch.inf for t in found.trials)
    assert found.best.score > -torch.inf


def test_methods_that_cannot_take_part_are_refused() -> None:
    with pytest.raises(InputError, match="serves these tasks"):
        search_net("ridge", Places(), validation(), trials=1)
    with pytest.raises(InputError, match="setting of 'cnp'"):
        search_net("cnp", Places(), validation(), trials=1, steps=1)
