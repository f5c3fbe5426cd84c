"""Progress tells how far, how long, and what is running."""

import io

from rich.console import Console

from quickstudy.progress import Watch


class Clock:
    """A clock that goes when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_now_and_then_where_there_is_no_terminal() -> None:
    clock, printed = Clock(), io.StringIO()
    with Watch(Console(file=printed), every=20, clock=clock) as watch:
        for cell in ("a", "b", "c"):
            watch(cell, 0, 100)
        clock.now = 5  # loading takes its time, which tells nothing about the pace
        watch("a", 100, 100)  # was done by an earlier run
        watch("b", 1, 100)
        clock.now = 25
        watch("b", 51, 100)  # 50 steps in 20 seconds; 149 are left
        clock.now = 30
        watch("b", 61, 100)  # too soon for another line
    assert printed.getvalue() == "1 of 3 cells, 50 %, about 60 s left; now b 51/100\n"


def test_minutes_and_a_single_run() -> None:
    clock = Clock()
    watch = Watch(Console(file=io.StringIO()), clock=clock)
    watch("maml", 1, 1001)
    assert watch.seconds_left() is None
    clock.now = 60
    watch("maml", 101, 1001)
    assert watch.line() == "10 %, about 9 min left; now maml 101/1001"
    watch("maml", 1001, 1001)
    assert watch.line() == "100 %, scoring"


def test_bars_in_a_terminal() -> None:
    printed = io.StringIO()
    with Watch(Console(file=printed, force_terminal=True, width=100)) as watch:
        watch("a", 0, 10)
        watch("b", 0, 10)
        watch("b", 5, 10)
        assert watch._bars is not None
        shown = {task.description: (task.completed, task.total) for task in watch._bars.tasks}
        assert shown == {"all": (5, 20), "b": (5, 10)}
        watch("b", 10, 10)
        assert [task.description for task in watch._bars.tasks] == ["all"]
    assert "50 %" in printed.getvalue()
