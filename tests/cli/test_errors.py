"""Whatever the caller can mend is told in one message on stderr, without a traceback, with exit code 2."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.common import OWN, assert_same_run, run, write_own


@pytest.mark.parametrize(
    "command, expected",
    [
        ("comapre digits", "Did you mean 'compare'?"),
        ("compare digits --shot 3", "--shots"),
        ("compare digts", "Did you mean 'digits'?"),
        ("compare digits --methods mamll", "Did you mean 'maml'?"),
        ("compare digits --question hav", "'have'"),
        ("compare digits --seeds 0", "--seeds of at least 1"),
        ("compare digits --seeds three", "three"),
        ("compare", "Expected data"),
        ("compare --resume", "the folder by --out"),
        ("compare own.csv --task user --target prize", "Did you mean --target 'price'?"),
        ("compare own.csv --target price", "--task COLUMN"),
        ("compare own.csv --task user --target price --methods logistic", "Name another"),
        ("train mamll --data digits", "Did you mean 'maml'?"),
        ("train maml", "Expected data"),
        ("train maml --out run", "Expected DATA"),
        ("train --data digits --out run", "Expected METHOD"),
        ("train maml --data digits --set inner_rl=1", "Did you mean 'inner_lr'?"),
        ("train maml --data digits --set inner_lr", "KEY=VALUE"),
        ("train maml --data digits --ways 40", "Lower the number of ways"),
        ("train maml --data digits --ways 1", "at least 2 ways"),
        ("train maml --data digits --shots 200", "Lower the shots"),
        ("train maml --data digits --seed -1", "--seed"),
        ("train ridge --data digits", "it predicts numbers"),
        ("train ridge --data own.csv --task user --target price --ways 3", "Expected no --ways"),
        ("train ridge --data own.csv --task user --target price --question have --shots 3", "Expected no --shots"),
        ("evaluate nowhere", "Expected a run's folder"),
        ("adapt nowhere own.csv -o model", "Expected a run's folder"),
        ("adapt nowhere -o model", "neither"),
        ("predict nowhere own.csv", "Found no such file"),
        ("predict own.csv own.csv", "cannot be read"),
        ("claims", "Expected recipes"),
    ],
)
def test_a_message_and_exit_code_2(
    command: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write_own(tmp_path)
    assert run(*command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.csv"], "an error leaves nothing behind"


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    import quickstudy

    assert run("--version") == 0
    assert capsys.readouterr().out == f"{quickstudy.__version__}\n"


def test_help_takes_less_than_a_second() -> None:
    """Of processor time, so that a busy machine does not matter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "quickstudy.cli", "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(name in done.stdout for name in ("compare", "train", "evaluate", "adapt", "predict", "list", "claims"))
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_list_names_methods_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    from quickstudy.methods.registry import all_methods
    from quickstudy.tasks.load import NAMES

    assert run("list") == 0
    printed = capsys.readouterr().out
    assert [name for name in (*all_methods(), *NAMES) if name not in printed] == []


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_earlier_results_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new study in an old folder, other options, broken data, a full disk: what was there is as it was."""
    monkeypatch.chdir(tmp_path)
    table = write_own(tmp_path)
    study = ("compare", table, *OWN, "--workers", 1, "--question", "have", "--methods", "ridge,scratch", "--out", "s")
    plan = ("--seeds", 1, "--steps", 4)
    assert run(*study, *plan) == 0
    before = contents(tmp_path / "s")
    assert {"results.json", "report.html", "plan.json"} < set(before)
    capsys.readouterr()

    assert run(*study, *plan) == 2
    assert "--resume" in capsys.readouterr().err
    assert run(*study, "--seeds", 2, "--steps", 4, "--resume") == 2
    assert "seeds 1 (now 2)" in capsys.readouterr().err
    whole = table.read_text()
    table.write_text(whole.replace("hi", "nan"))
    assert run(*study, "--resume") == 2
    table.write_text(whole)
    assert contents(tmp_path / "s") == before

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("quickstudy.training.checkpoint.os.fsync", full)
        capsys.readouterr()
        assert run(*study, "--resume") == 2
        assert "Free some space" in capsys.readouterr().err
    assert contents(tmp_path / "s") == before


def test_a_full_disk_while_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint before it is whole, and the run goes on from there to the same model."""
    monkeypatch.chdir(tmp_path)
    write_own(tmp_path)
    train = ("train", "pooled", "--data", "own.csv", *OWN, "--steps", 20)
    assert run(*train, "--out", "unbroken") == 0
    fsync, calls = os.fsync, 0

    def full_later(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("quickstudy.training.checkpoint.os.fsync", full_later)
        assert run(*train, "--out", "broken") == 2
    assert "Free some space" in capsys.readouterr().err
    assert run("evaluate", "broken") == 2
    assert "--resume" in capsys.readouterr().err
    assert run("train", "--out", "broken", "--resume") == 0
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")
