"""A run that was killed and resumed equals an unbroken one, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from quickstudy.core import Episodes, Method, TaskFamily
from quickstudy.methods import MAML, MultiHead, Prototypical
from quickstudy.nets import Bfloat16, Conv4
from quickstudy.tasks.classes import ClassEpisodes, ClassSet
from quickstudy.tasks.table import Scale, TableTasks
from quickstudy.tasks.toy import Sinusoids, planted
from quickstudy.training import History, fit

STEPS, EVERY = 11, 3
Setup = tuple[Method, TaskFamily, Episodes]


def images() -> Setup:
    """A convolutional net with running statistics, which are buffers."""
    classes = ClassSet(torch.rand(6, 6, 1, 12, 12, generator=torch.Generator().manual_seed(0)), tuple("abcdef"))
    family = ClassEpisodes(classes, range(6), ways=3, shots=1, queries=3)
    method = Prototypical(family.problem, Conv4(1, 4))
    return method, family, family.sample(6, torch.Generator().manual_seed(1))


def channels_last() -> Setup:
    """Weights whose order in memory is not that of their indices."""
    _, family, validation = images()
    return Prototypical(family.problem, Bfloat16(Conv4(1, 4))), family, validation


def tables() -> Setup:
    """A head for each of several tasks, on unequal numbers of examples."""
    table = planted(0.5, torch.Generator().manual_seed(0), tasks=6, examples=20, features=3)
    train, val, _ = table.split_rows(torch.Generator().manual_seed(1))
    family = TableTasks(table, train, Scale.of(table, train), support=6, query=6)
    every = torch.arange(6)
    return MultiHead(family.problem), family, Episodes(family.whole(every, train), family.whole(every, val), every)


def sinusoids() -> Setup:
    """Meta-gradients."""
    return (
        MAML(Sinusoids().problem, inner_lr=0.01),
        Sinusoids(),
        Sinusoids().sample(8, torch.Generator().manual_seed(1)),
    )


SETUPS = {"images": images, "channels-last": channels_last, "tables": tables, "sinusoids": sinusoids}


def run(setup: Setup, checkpoint: Path | None, progress: Callable[[int, int], None] | None = None) -> History:
    method, family, validation = setup
    return fit(
        method,
        family,
        steps=STEPS,
        tasks=4,
        lr=0.01,
        validation=validation,
        every=EVERY,
        generator=torch.Generator().manual_seed(2),
        checkpoint=checkpoint,
        resume=True,
        progress=progress,
    )


def assert_same(one: Method, two: Method) -> None:
    state = two.state_dict()
    assert state.keys() == one.state_dict().keys()
    for name, value in one.state_dict().items():
        assert torch.equal(value, state[name]), name
        assert value.dtype == state[name].dtype, name


class PulledPlugError(Exception):
    pass


@pytest.mark.parametrize("name", SETUPS)
def test_stopped_after_any_step(name: str, tmp_path: Path) -> None:
    whole = SETUPS[name]()
    expected = run(whole, None)
    for stop in range(1, STEPS + 1):
        path = tmp_path / f"{stop}.safetensors"

        def pull(done: int, steps: int, stop: int = stop) -> None:
            if done == stop:
                raise PulledPlugError

        with pytest.raises(PulledPlugError):
            run(SETUPS[name](), path, pull)
        assert path.exists() == (stop >= EVERY)
        again = SETUPS[name]()
        assert run(again, path) == expected
        assert_same(again[0], whole[0])


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    first = images()
    history = run(first, path)

    def fail(done: int, steps: int) -> NoReturn:
        raise AssertionError("trained again")

    again = images()
    assert run(again, path, fail) == history
    assert_same(again[0], first[0])


def test_without_resume_the_old_checkpoint_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(sinusoids(), path)
    method, family, _ = sinusoids()
    steps: list[int] = []
    fit(method, family, steps=2, tasks=4, every=1, checkpoint=path, progress=lambda done, _: steps.append(done))
    assert steps == [1, 2]


SLOWLY = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.training import test_resume
test_resume.STEPS, test_resume.EVERY = 120, 7
test_resume.run(test_resume.sinusoids(), Path(sys.argv[1]), lambda done, steps: time.sleep(0.01))
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX signal")
def test_kill_9_at_a_random_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment is another in every run of this test: the property holds for all of them."""
    path = tmp_path / "run.safetensors"
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(path)], cwd=root, env={**os.environ, "PYTHONPATH": root}
    )
    deadline = time.monotonic() + 120
    while not path.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    moment = float(torch.rand((), generator=torch.Generator().manual_seed(time.time_ns() % 2**31)))
    time.sleep(moment)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, (
        f"the child was to be killed while it trained, {moment} s after a checkpoint"
    )
    assert path.exists()
    monkeypatch.setattr(sys.modules[__name__], "STEPS", 120)
    monkeypatch.setattr(sys.modules[__name__], "EVERY", 7)
    resumed, whole = sinusoids(), sinusoids()
    left: list[int] = []
    history = run(resumed, path, lambda done, steps: left.append(done))
    assert 0 < len(left) < 120
    assert history == run(whole, None), f"killed {moment} s after a checkpoint"
    assert_same(resumed[0], whole[0])
