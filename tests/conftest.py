"""What every test runs under: one thread, no display, and a guard on the global random generators."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(1)  # the workers share the cores

INITIALISERS = [
    name for name, f in inspect.getmembers(torch.nn.init, inspect.isfunction)
    if name.endswith("_") and not name.startswith("_") and "generator" in inspect.signature(f).parameters
]  # fmt: skip
BORROWERS = [torch.nn.init, torch.nn.modules.activation, torch.nn.modules.transformer]


def global_states() -> dict[str, object]:
    """The state of torch's and numpy's global generator, in a form that can be compared.

    Python's own is left out: other libraries draw from it on import, and a linter keeps it out of this one.
    """
    _, keys, position, *gauss = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (np.asarray(keys).tobytes(), position, *gauss),
    }


def drawing_from(generator: torch.Generator, initialiser: Callable[..., Any]) -> Callable[..., Any]:
    """The initialiser with `generator` where none is given."""

    @functools.wraps(initialiser)
    def initialise(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("generator") is None and len(args) < len(inspect.signature(initialiser).parameters):
            kwargs["generator"] = generator
        return initialiser(*args, **kwargs)

    return initialise


@pytest.fixture(autouse=True)
def rng_guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that changes a global random state: randomness is an argument.

    PyTorch's layers fill their weights from the global generator and take no other. Under the guard they draw from
    a private one, seeded anew for each test, so that building a net is allowed and reproducible.
    """
    if request.node.get_closest_marker("uses_global_rng"):
        before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        yield
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        return
    generator = torch.Generator().manual_seed(0)
    for module in BORROWERS:
        for name in INITIALISERS:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, drawing_from(generator, getattr(module, name)))
    before_test = global_states()
    yield
    after = global_states()
    changed = [name for name, state in before_test.items() if after[name] != state]
    if changed:
        pytest.fail(
            f"This test changed the global random state of {', '.join(changed)}. Expected: randomness comes from a "
            "torch.Generator passed as an argument. Pass one, or mark the test with "
            "@pytest.mark.uses_global_rng where a global generator is what it tests.",
            pytrace=False,
        )
