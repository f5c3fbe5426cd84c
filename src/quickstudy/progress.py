"""How far a long run is and how long it will take: bars in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


class Watch:
    """Called with (cell, steps done, steps) again and again; a context manager.

    Args:
        console: where to show it.
        every: seconds between two lines, where the console is no terminal.
        clock: tells the seconds.
    """

    def __init__(self, console: Console, every: float = 20.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._every, self._clock = console, every, clock
        self._begin = self._said = clock()
        self._steps: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._before: dict[str, int] = {}  # steps of a cell that were done when it was first heard of
        self._bars: Progress | None = None
        self._row: dict[str, TaskID] = {}
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.fields[left]}"),
                console=console,
                transient=True,
            )
            self._all = self._bars.add_task("all", left="")

    def __call__(self, cell: str, done: int, steps: int) -> None:
        """Note it, and show it if it is time."""
        self._steps[cell], self._done[cell] = steps, done
        if done and cell not in self._before:
            if not self._before:
                self._begin = self._clock()
            self._before[cell] = done
        if self._bars is not None:
            self._draw(self._bars, cell, done, steps)
        elif self._clock() - self._said >= self._every:
            self._said = self._clock()
            self._console.print(self.line(), highlight=False, soft_wrap=True)

    def seconds_left(self) -> float | None:
        """At the pace so far; None before there is any. What was done beforehand tells nothing about the pace."""
        seen = sum(self._done[cell] - before for cell, before in self._before.items())
        if not seen:
            return None
        return (sum(self._steps.values()) - sum(self._done.values())) * (self._clock() - self._begin) / seen

    def line(self) -> str:
        """For example ``12 of 42 cells, 31 %, about 4 min left; now meet-0-maml 120/300``."""
        done, total = sum(self._done.values()), sum(self._steps.values())
        finished = sum(self._done[cell] >= steps for cell, steps in self._steps.items())
        now = [f"{c} {self._done[c]}/{n}" for c, n in self._steps.items() if 0 < self._done[c] < n]
        parts = [] if len(self._steps) == 1 else [f"{finished} of {len(self._steps)} cells"]
        parts += [f"{100 * done // max(total, 1)} %", *filter(None, [self._left()])]
        return ", ".join(parts) + (f"; now {', '.join(now)}" if now else "")

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _left(self) -> str:
        seconds = self.seconds_left()
        if seconds is None:
            return ""
        if seconds == 0:
            return "scoring"  # all steps are taken, and the last tests run
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

    def _draw(self, bars: Progress, cell: str, done: int, steps: int) -> None:
        """A bar for everything, and one for each cell that is running."""
        total = sum(self._steps.values())
        bars.update(self._all, completed=sum(self._done.values()), total=total, left=self._left())
        if len(self._steps) == 1:
            return
        if 0 < done < steps and cell not in self._row:
            self._row[cell] = bars.add_task(cell, total=steps, left="")
        if cell in self._row:
            bars.update(self._row[cell], completed=done)
            if done >= steps:
                bars.remove_task(self._row.pop(cell))
