"""Checkpoints: whole or not there, and refused in words where they cannot be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from quickstudy.core import InputError, RunError
from quickstudy.methods import MAML
from quickstudy.tasks.toy import Sinusoids
from quickstudy.training import fit
from quickstudy.training.checkpoint import (
    load_checkpoint,
    pack_optimiser,
    save_checkpoint,
    unpack_optimiser,
    write_atomic,
)

FULL = Path("/dev/full")


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.safetensors"
    tensors = {"a.b": torch.arange(6).view(2, 3).T, "c": torch.tensor(1.5, dtype=torch.float64)}
    save_checkpoint(path, tensors, {"step": 3, "list": [0.1, 1e-300]})
    again, facts = load_checkpoint(path)
    assert facts == {"step": 3, "list": [0.1, 1e-300]}
    assert again.keys() == tensors.keys()
    assert all(torch.equal(value, again[name]) and value.dtype == again[name].dtype for name, value in tensors.items())
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_tied_weights(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    save_checkpoint(tmp_path / "tied", net.state_dict(), {})
    net.load_state_dict(load_checkpoint(tmp_path / "tied")[0])


@pytest.mark.skipif(not FULL.exists(), reason="a full disk is played by /dev/full, which is Linux's")
def test_a_full_disk_leaves_the_old_checkpoint_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    family = Sinusoids()

    def run(fill: bool) -> None:
        def progress(done: int, steps: int) -> None:
            if fill and done == 3:  # from here on, whatever is written beside the checkpoint finds no room
                (tmp_path / "run.safetensors.part").symlink_to(FULL)

        fit(MAML(family.problem), family, steps=4, every=2, checkpoint=path, resume=True, progress=progress)

    with pytest.raises(RunError, match=r"Found a full disk\. Free some space and run again with --resume.*intact") as e:
        run(fill=True)
    assert isinstance(e.value.__cause__, OSError)
    assert e.value.__cause__.errno == errno.ENOSPC
    assert load_checkpoint(path)[1]["step"] == 2
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]
    run(fill=False)
    assert load_checkpoint(path)[1]["step"] == 4


def test_a_full_disk_at_the_very_end_of_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems find out only when the data are forced to the disk."""
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="full disk"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_other_troubles_with_files_keep_their_own_error(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "file", b"new")


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, metadata={"quickstudy": "999", "meta": "{}"}))
    with pytest.raises(InputError, match=r"Expected a checkpoint of version 1 .* Found version 999\. Load it with the"):
        load_checkpoint(path)
    path.write_bytes(save({"a": torch.zeros(1)}))
    with pytest.raises(InputError, match="Found version none"):
        load_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused_and_left_alone(share: float, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"a": torch.rand(100, generator=torch.Generator().manual_seed(0))}, {"step": 1})
    part = path.read_bytes()[: int(share * path.stat().st_size)]
    path.write_bytes(part)
    with pytest.raises(InputError, match=r"cannot be read .*\. Use a copy"):
        load_checkpoint(path)
    family = Sinusoids()
    with pytest.raises(InputError, match="cannot be read"):
        fit(MAML(family.problem), family, steps=2, checkpoint=path, resume=True)
    assert path.read_bytes() == part


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Found no such file\. Train first, or correct the path"):
        load_checkpoint(tmp_path / "none")


def test_an_optimiser_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    def walk(optimiser: torch.optim.Optimizer, values: list[Tensor], steps: int) -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            sum((v * v).sum() for v in values).backward()  # type: ignore[union-attr]
            optimiser.step()

    start = [torch.tensor([1.0, -2.0]), torch.tensor([[3.0]], dtype=torch.float64)]
    whole, first = ([v.clone().requires_grad_() for v in start] for _ in range(2))
    walk(torch.optim.AdamW(whole, lr=0.1), whole, 6)
    optimiser = torch.optim.AdamW(first, lr=0.1)
    walk(optimiser, first, 3)
    tensors, plain = pack_optimiser(optimiser)
    save_checkpoint(tmp_path / "o", tensors, {"plain": plain})
    tensors, facts = load_checkpoint(tmp_path / "o")
    again = torch.optim.AdamW(first, lr=0.1)
    unpack_optimiser(again, tensors, facts["plain"])
    assert [v["step"].dtype for v in again.state.values()] == [v["step"].dtype for v in optimiser.state.values()]
    walk(again, first, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, first, strict=True))
