"""Checkpoints that are either whole or not there: one safetensors file, written aside and then renamed."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quickstudy.core import InputError, RunError

VERSION = 1


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one and nothing between.

    Raises:
        RunError: the disk is full; the old file is as it was.
    """
    aside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"Expected room for {len(data):,} bytes to save {path}. Found a full disk. Free some space and run "
                "again with --resume; what was saved before is intact."
            ) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in their order."""
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def nulls(value: Any) -> Any:
    """The same plain values with null for NaN and infinities, which JSON does not know."""
    if isinstance(value, dict):
        return {key: nulls(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [nulls(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Save named tensors and JSON-able facts in one file."""
    # copies, because the format refuses tied weights: two names for one piece of memory
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = {"quickstudy": str(VERSION), "meta": json.dumps(meta)}
    write_atomic(path, save(plain, metadata=text))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        InputError: no such file, not a checkpoint, or one of another version.
    """
    if not path.is_file():
        raise InputError(f"Expected a checkpoint at {path}. Found no such file. Train first, or correct the path.")
    try:
        with safe_open(path, "pt") as file:
            text = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(
            f"Expected a safetensors checkpoint at {path}. Found a file that cannot be read ({error}). Use a copy."
        ) from error
    found = text.get("quickstudy", "none")
    if found != str(VERSION):
        raise InputError(
            f"Expected a checkpoint of version {VERSION} at {path}. Found version {found}. "
            "Load it with the release that wrote it, or train again."
        )
    return tensors, json.loads(text["meta"])


def pack_optimiser(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as named tensors and plain values."""
    state = optimiser.state_dict()
    tensors, plain = {}, {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                plain[f"{index}.{key}"] = value
    return tensors, plain


def unpack_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Put back what :func:`pack_optimiser` took."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **plain}.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            own = optimiser.state[parameter]
            for key, value in own.items():
                # fused optimisers read a parameter and its averages in one order of memory, whatever the strides say
                if key != "step" and isinstance(value, Tensor) and value.shape == parameter.shape:
                    own[key] = torch.empty_like(parameter).copy_(value)
