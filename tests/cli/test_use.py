"""From a run to predictions: train, evaluate, adapt, predict, on tables and images."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.cli.common import OWN, run, write_own
from torch.distributions import Distribution

from quickstudy.model import Model
from quickstudy.run import Run
from quickstudy.tasks.load import load
from quickstudy.training.fit import task_scores


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """The table of a person's own, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return pd.read_csv(write_own(tmp_path))


def test_numbers_come_back_in_their_units(own: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    """Ridge on a linear task answers to within the noise, whatever the order of the columns, without the target."""
    task = own[own["user"] == "user 3"]
    task[:18][["c", "price", "b", "a"]].to_csv("support.csv", index=False)
    task[18:][["b", "user", "a", "c"]].to_csv("query.csv", index=False)
    assert run("train", "ridge", "--data", "own.csv", *OWN, "--out", "r") == 0
    assert run("adapt", "r", "support.csv", "-o", "user3.safetensors") == 0
    capsys.readouterr()
    assert run("predict", "user3.safetensors", "query.csv") == 0
    printed = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert run("predict", "user3.safetensors", "query.csv", "-o", "out.csv") == 0
    assert pd.read_csv("out.csv").equals(printed)
    assert list(printed.columns) == ["prediction"]
    error = (printed["prediction"].to_numpy() - task[18:]["price"].to_numpy()) / own["price"].std()
    assert np.sqrt(np.mean(error**2)) < 0.15


def test_the_model_is_what_was_scored(own: pd.DataFrame) -> None:
    """The command's answers are the trained method's own, standardised and back; its score is the arena's."""
    assert run("train", "cnp", "--data", "own.csv", *OWN, "--out", "r", "--steps", 12) == 0
    assert run("evaluate", "r") == 0
    trained = Run.load(Path("r"))
    method, arena = trained.model().method, trained.config.arena()
    scores = task_scores(method, arena.test)
    weights = arena.problem.task_weights(arena.test.query)
    found = json.loads(Path("r/evaluation.json").read_text())
    assert found["mean"] == pytest.approx(float((scores * weights).sum() / weights.sum()), abs=1e-6)
    assert found["low"] is None, "two tasks leave the interval open, and JSON has no infinity"

    task = own[own["user"] == "user 0"]
    task[:10].to_csv("support.csv", index=False)
    assert run("adapt", "r", "support.csv", "-o", "m") == 0
    model = Model.load(Path("m"))
    scale = model.scale
    assert scale is not None and model.support is not None
    c = task["c"].to_numpy()
    raw = torch.tensor(np.column_stack([task["a"], task["b"], c == "hi", c == "lo"]).astype(float), dtype=torch.float32)
    torch.testing.assert_close(model.support.x[0], (raw[:10] - scale.x_mean) / scale.x_std)
    with torch.no_grad():
        said = method.adapt(model.support)(((raw - scale.x_mean) / scale.x_std).unsqueeze(0))
    assert isinstance(said, Distribution)
    expected = said.mean[0] * scale.y_std + scale.y_mean
    np.testing.assert_array_equal(model.predict(raw.numpy()), expected.numpy())
    width = model.deviation(raw.numpy())
    np.testing.assert_array_equal(width, (said.stddev[0] * scale.y_std).numpy())


def test_a_task_that_the_run_knows(own: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    """The model of a training task uses that task's own parameters."""
    assert run("train", "scratch", "--data", "own.csv", *OWN, "--question", "have", "--out", "r", "--steps", 5) == 0
    assert run("adapt", "r", "--task", "user 5", "-o", "m") == 0
    model = Model.load(Path("m"))
    assert model.task is not None and model.task.tolist() == [5]
    arena = Run.load(Path("r")).config.arena()
    query, scale = arena.test.query, model.scale
    assert scale is not None
    with torch.no_grad():
        said = model.method.adapt(arena.test.support, arena.test.task)(query.x)
    assert isinstance(said, torch.Tensor)
    raw = query.x[5] * scale.x_std + scale.x_mean
    expected = said[5] * scale.y_std + scale.y_mean
    np.testing.assert_allclose(model.predict(raw.numpy()), expected.numpy(), rtol=1e-5)
    capsys.readouterr()
    assert run("adapt", "r", "--task", "user 55", "-o", "m") == 2
    assert "Did you mean 'user 5'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda t: t.drop(columns="a"), "Found no 'a'"),
        (lambda t: t.rename(columns={"price": "cost"}), "column 'price'"),
        (lambda t: t.assign(c="middle"), "'middle'"),
        (lambda t: t.assign(b=np.inf), "infinite in column 'b'"),
        (lambda t: t.assign(a="much"), "Expected numbers in column 'a'"),
        (lambda t: t.assign(price=np.nan), "24 empty"),
        (lambda t: t[:0], "Expected at least one row"),
    ],
)
def test_examples_that_do_not_fit(
    own: pd.DataFrame, change: object, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(change)
    assert run("train", "ridge", "--data", "own.csv", *OWN, "--out", "r") == 0
    change(own[own["user"] == "user 1"]).to_csv("support.csv", index=False)
    assert run("adapt", "r", "support.csv", "-o", "m") == 2
    assert expected in capsys.readouterr().err
    assert not Path("m").exists()


def test_classes_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that mean the same in every task; the support may lack some, and may not have others."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 2))
    y = np.array(["cold", "mild", "warm"])[(x[:, 0] > -0.5).astype(int) + (x[:, 0] > 0.5)]
    frame = pd.DataFrame({"u": x[:, 0], "v": x[:, 1], "y": y, "task": np.repeat([f"t{i}" for i in range(8)], 30)})
    frame.to_csv("t.csv", index=False)
    assert run("train", "nearest-neighbour", "--data", "t.csv", "--out", "r") == 0
    support = frame[frame["y"] != "mild"][:20]
    support.to_csv("support.csv", index=False)
    assert run("adapt", "r", "support.csv", "-o", "m") == 0
    assert run("predict", "m", "support.csv", "-o", "out.csv") == 0
    said = pd.read_csv("out.csv")
    assert list(said.columns) == ["prediction", "p(cold)", "p(mild)", "p(warm)"]
    assert (said["p(mild)"] < 1e-6).all()
    support.assign(y="hot").to_csv("support.csv", index=False)
    assert run("adapt", "r", "support.csv", "-o", "m2") == 2


def write_images(folder: Path, classes: int, each: int, generator: np.random.Generator) -> None:
    """Class folders of grey images 12 x 12: class c is bright in column c."""
    for c in range(classes):
        (folder / f"class {c}").mkdir(parents=True)
        for i in range(each):
            pixels = generator.integers(0, 60, (12, 12), dtype=np.uint8)
            pixels[:, c] = 255
            Image.fromarray(pixels).save(folder / f"class {c}" / f"{i}.png")


def test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of class folders trains and adapts; another number of classes where the method allows it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    write_images(Path("train"), 9, 6, rng)
    write_images(Path("new"), 3, 4, rng)
    (Path("query")).mkdir()
    for c in (2, 0, 1):
        (Path("new") / f"class {c}" / "3.png").rename(Path("query") / f"{c}.png")
    assert run("train", "prototypical", "--data", "train", "--out", "r", "--steps", 4) == 0
    assert run("evaluate", "r", "--episodes", 20, "--ways", 2) == 0
    assert run("adapt", "r", "new", "-o", "m") == 0
    assert run("predict", "m", "query", "-o", "out.csv") == 0
    said = pd.read_csv("out.csv")
    assert said["file"].tolist() == ["0.png", "1.png", "2.png"]
    assert said["prediction"].tolist() == ["class 0", "class 1", "class 2"]
    assert np.allclose(said[[f"p(class {c})" for c in range(3)]].sum(axis=1), 1)

    # an output layer has as many classes as it has: fewer will do, more will not
    assert run("train", "maml", "--data", "train", "--out", "g", "--ways", 2, "--steps", 2) == 0
    capsys.readouterr()
    assert run("adapt", "g", "new", "-o", "n") == 2
    assert "Expected at most 2 classes" in capsys.readouterr().err
    assert run("evaluate", "g", "--ways", 3) == 2
    (Path("new") / "class 2").rename("elsewhere")
    assert run("adapt", "g", "new", "-o", "n") == 0
    assert run("predict", "n", "query", "-o", "out.csv") == 0
    assert list(pd.read_csv("out.csv").columns) == ["file", "prediction", "p(class 0)", "p(class 1)"]


def test_data_without_column_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known data take a table's columns in their order."""
    monkeypatch.chdir(tmp_path)
    assert run("train", "ridge", "--data", "planted:1", "--out", "r") == 0
    table = load("planted:1").have
    assert table is not None
    frame = pd.DataFrame(table.x[table.row[0]].numpy())
    frame.assign(y=table.y[0].numpy()).to_csv("support.csv", index=False)
    frame.to_csv("query.csv", index=False)
    assert run("adapt", "r", "support.csv", "-o", "m") == 0
    assert run("predict", "m", "query.csv", "-o", "out.csv") == 0
    said = pd.read_csv("out.csv")["prediction"].to_numpy()
    assert np.corrcoef(said, table.y[0, :, 0])[0, 1] > 0.6
    frame.iloc[:, 1:].to_csv("query.csv", index=False)
    assert run("predict", "m", "query.csv") == 2


def test_a_method_of_ones_own(own: pd.DataFrame) -> None:
    """A class from a file is trained, saved and loaded again by its file and name."""
    Path("mine.py").write_text(
        "from quickstudy.methods import CNP\n\n\nclass Mine(CNP):\n    name = 'mine'\n    summary = 'as CNP'\n"
    )
    assert run("train", "mine.py:Mine", "--data", "own.csv", *OWN, "--steps", 3, "--set", "width=16") == 0
    assert run("evaluate", "runs/own-Mine") == 0
    assert Model.load(Path("runs/own-Mine")).settings == {"width": 16}
    Path("mine.py").rename("yours.py")
    assert run("evaluate", "runs/own-Mine") == 2
