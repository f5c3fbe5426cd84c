"""A study that is stopped at any moment and resumed gives the numbers of an unbroken one, and leaves nobody behind."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cli.common import OWN, assert_same_run, run, write_own

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes in Linux's /proc")


def children(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    try:
        direct = [
            int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()
        ]
    except OSError:  # it ended meanwhile
        return []
    return direct + [grandchild for child in direct for grandchild in children(child)]


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def start(folder: Path, *command: str) -> tuple["subprocess.Popen[str]", list[int]]:
    """A study in a process group of its own, some random moment after its two workers came up; and its children."""
    study = subprocess.Popen(
        [sys.executable, "-m", "quickstudy.cli", *command],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while len(workers(study.pid)) < 2 and study.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(secrets.randbelow(3000) / 1000)
    return study, children(study.pid)


def workers(pid: int) -> list[int]:
    """The spawned workers among the children; the other is a tracker of resources."""
    found = []
    for child in children(pid):
        try:
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(child)
        except OSError:
            continue
    return found


def gone(pids: list[int]) -> bool:
    """Whether all of them end within a few seconds."""
    end = time.monotonic() + 15
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def numbers(value: Any) -> Any:
    """Everything but the time it took and the day."""
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items() if k not in ("minutes", "seconds", "date")}
    return [numbers(v) for v in value] if isinstance(value, list) else value


def test_stopped_killed_and_resumed_equals_unbroken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_own(tmp_path)
    which = ("--question", "have", "--methods", "ridge,scratch,cnp", "--seeds", "1", "--steps", "100")
    study = ("compare", "own.csv", *OWN, *which)
    assert run(*study, "--out", "unbroken", "--workers", 1) == 0

    process, pids = start(tmp_path, *study, "--out", "stopped", "--workers", "2")
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
        message = process.communicate(timeout=60)[1]
        assert process.returncode in (130, 0), message  # 0: it had just finished
        if process.returncode == 130:
            assert "quickstudy compare own.csv --out stopped --resume" in message
            assert "Traceback" not in message
    assert gone(pids)

    process, pids = start(tmp_path, "compare", "--out", "stopped", "--workers", "2", "--resume")
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 0)
    assert gone(pids), "workers go on after their study was killed"

    assert run("compare", "own.csv", "--out", "stopped", "--resume", "--workers", 1) == 0
    for name in ("results.json", *(f"cells/{path.name}" for path in (tmp_path / "unbroken/cells").glob("*.json"))):
        pair = [json.loads((tmp_path / folder / name).read_text()) for folder in ("unbroken", "stopped")]
        assert numbers(pair[0]) == numbers(pair[1]), name


def test_a_stopped_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C between two checkpoints: the resumed run ends with the unbroken run's bytes."""
    monkeypatch.chdir(tmp_path)
    write_own(tmp_path)
    train = ("train", "multi-head", "--data", "own.csv", *OWN, "--question", "have", "--steps", 40)
    assert run(*train, "--out", "unbroken") == 0
    from quickstudy.progress import Watch

    show = Watch.__call__

    def stop(self: Watch, cell: str, done: int, steps: int) -> None:
        show(self, cell, done, steps)
        if done == 27:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "__call__", stop)
        capsys.readouterr()
        assert run(*train, "--out", "stopped") == 130
        assert "quickstudy train multi-head --data own.csv --out stopped --resume" in capsys.readouterr().err
    assert not (tmp_path / "stopped/model.safetensors").exists()
    assert run("train", "--out", "stopped", "--resume") == 0
    assert_same_run(tmp_path / "stopped", tmp_path / "unbroken")
