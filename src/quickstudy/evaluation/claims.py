"""Measured claims: one row a figure, written by the recipe that measured it, printed by ``quickstudy claims``."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from quickstudy.core import InputError
from quickstudy.training.checkpoint import write_json


@dataclass(frozen=True)
class Row:
    """One figure of a claim.

    Args:
        system: slug of the system that it shows.
        what: what was measured, in words.
        metric: the unit or score.
        value: the figure.
        low: lower end of its 95 % interval (None: exact, or a count).
        high: upper end.
        n: tasks (or runs) that it is over.
        seeds: training runs.
        target: what it was to reach.
        better: which direction is good.
        source: where the target comes from: paper and table, "computed", or "issue".
        tier: ``cpu`` (minutes on two cores) or ``full`` (published length).
        minutes: wall time of the measurement.
        command: what anyone runs to measure again.
        hardware: filled in by :func:`record`, but where a run that was kept says what it ran on.
        date: filled in by :func:`record`.
        met: whether the target is reached; filled in by :func:`record`.
    """

    system: str
    what: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    seeds: int
    target: float
    better: Literal["higher", "lower"]
    source: str
    tier: Literal["cpu", "full"]
    minutes: float
    command: str
    hardware: str = ""
    date: str = ""
    met: bool | None = None


def hardware() -> str:
    """Processor and cores, the accelerator if this process has used one, PyTorch's version."""
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    card = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_initialized() else ""
    return f"{card}{name}, {os.cpu_count()} cores, torch {torch.__version__}"


def record(folder: Path, rows: Iterable[Row], instead_of: Callable[[Row], bool] = lambda row: False) -> list[Row]:
    """Write ``result.json`` in a recipe's folder, each row with hardware, date and whether it is met.

    A row of the same system and ``what`` replaces the older one; other rows stay, but for those that ``instead_of``
    names: what a claim that is measured anew does not say any more.

    Raises:
        InputError: a figure, an end of its interval or its target is not finite; nothing is written.
    """
    rows = list(rows)
    for row in rows:
        given = [number for number in (row.value, row.low, row.high, row.target) if number is not None]
        if not all(map(math.isfinite, given)):
            raise InputError(
                f"Expected finite figures. Found {given} in {row.what!r}. Say what a run that did not get there counts."
            )
    path = folder / "result.json"
    old = read(path) if path.is_file() else []
    kept = {(row.system, row.what): row for row in old if not instead_of(row)}
    for row in rows:
        met = row.value >= row.target if row.better == "higher" else row.value <= row.target
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        facts = {"hardware": row.hardware or hardware(), "date": today, "met": bool(met)}
        kept[row.system, row.what] = Row(**(asdict(row) | facts))
    write_json(path, [asdict(row) for row in kept.values()])
    return list(kept.values())


def read(path: Path) -> list[Row]:
    """The rows of one ``result.json``.

    Raises:
        InputError: the file is no JSON, or a row lacks a field or has one too many.
    """
    try:
        rows = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"Expected rows in JSON in {path}. Found {error}. Run the recipe again.") from error
    names = {field.name for field in fields(Row)}
    for row in rows:
        if set(row) != names:
            odd = sorted(set(row) ^ names)
            raise InputError(f"Expected the fields of a claim in {path}. Found {odd} missing or extra. Run the recipe.")
    return [Row(**row) for row in rows]


def collect(recipes: Path) -> list[Row]:
    """All rows under a folder of recipes, in the order of their names."""
    return [row for path in sorted(recipes.glob("*/result.json")) for row in read(path)]
