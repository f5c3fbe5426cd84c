"""A small table of a person's own, and the command line as a function."""

from pathlib import Path

import numpy as np
import pandas as pd

from quickstudy.cli import main
from quickstudy.training.checkpoint import load_checkpoint


def write_own(folder: Path, tasks: int = 8, rows: int = 24) -> Path:
    """``own.csv``: price = 100 + 20 (w_user . (a, b) + [c is hi]) + noise, a column of texts among the inputs."""
    rng = np.random.default_rng(0)
    w = rng.normal([2.0, -1.0], 0.7, (tasks, 2))
    x = rng.normal(size=(tasks, rows, 2))
    hi = rng.random((tasks, rows)) < 0.5
    price = 100 + 20 * (np.einsum("tnf,tf->tn", x, w) + hi) + rng.normal(size=(tasks, rows))
    frame = pd.DataFrame(
        {
            "user": np.repeat([f"user {t}" for t in range(tasks)], rows),
            "a": 10 * x[..., 0].ravel() + 5,
            "b": x[..., 1].ravel(),
            "c": np.where(hi.ravel(), "hi", "lo"),
            "price": price.ravel(),
        }
    )
    frame.to_csv(folder / "own.csv", index=False)
    return folder / "own.csv"


def run(*arguments: object) -> int:
    """The exit code of a command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def assert_same_run(one: Path, other: Path) -> None:
    """Both runs' weights, history and score are equal bit for bit."""
    tensors, facts = load_checkpoint(one / "model.safetensors")
    other_tensors, other_facts = load_checkpoint(other / "model.safetensors")
    assert facts == other_facts
    assert {k: v.numpy().tobytes() for k, v in tensors.items()} == {
        k: v.numpy().tobytes() for k, v in other_tensors.items()
    }
    for name in ("metrics.jsonl", "validation.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


OWN = ("--task", "user", "--target", "price")
