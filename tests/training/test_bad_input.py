"""Labels and episodes that make no sense are told by the library, with what was found; unequal shots are no error."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.common import run
from torch import nn

from quickstudy.core import Batch, Episodes, InputError, Problem
from quickstudy.estimators import FewShotClassifier
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.methods import Prototypical
from quickstudy.tasks import ClassEpisodes, ClassSet, TaskTable
from quickstudy.training import fit

PROBLEM = Problem((2,), "classification", 3, shared_labels=False)


@dataclass
class Always:
    """A family of one answer."""

    episodes: Episodes
    problem: Problem = PROBLEM

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        return self.episodes


def episodes(*labels: int, dtype: torch.dtype = torch.int64) -> Episodes:
    """Two tasks; the second has the labels given."""
    y = torch.tensor([[0, 1, 2], [0, 1, 2]])
    y[1] = torch.tensor(labels)
    x = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    good = Batch(x, torch.tensor([[0, 1, 2]] * 2))
    return Episodes(good, Batch(x, y.to(dtype)))


@pytest.mark.parametrize("labels, found", [((0, 1, 3), "3"), ((1, 2, 3), "3"), ((0, -1, 1), "-1"), ((5, 6, 7), "5")])
def test_labels_that_are_not_0_to_n_minus_1(labels: tuple[int, ...], found: str) -> None:
    method = Prototypical(PROBLEM)
    message = rf"labels 0 to N-1 = 2 in the query. Found {found} in task 1 of the batch, .*Number the classes"
    with pytest.raises(InputError, match=message):
        evaluate(method, episodes(*labels))
    before = [p.clone() for p in method.parameters()]
    with pytest.raises(InputError, match=message):
        fit(method, Always(episodes(*labels)), steps=2)
    assert all(torch.equal(p, q) for p, q in zip(before, method.parameters(), strict=True))
    swapped = Episodes(episodes(*labels).query, episodes(0, 1, 2).query)
    with pytest.raises(InputError, match=f"in the support. Found {found}"):
        evaluate(method, swapped)
    evaluate(method, episodes(2, 1, 0))


def test_labels_that_are_no_indices() -> None:
    with pytest.raises(InputError, match=r"int64, in the query. Found torch.float32 of shape \(2, 3\), such as 0"):
        evaluate(Prototypical(PROBLEM), episodes(0, 1, 2, dtype=torch.float32))


def test_labels_of_own_tables() -> None:
    """By name from :func:`quickstudy.load` any label will do; indices must be indices."""
    x = np.zeros((4, 2))
    for y, found in (([0, 1, -3, 1], "smallest -3"), ([0, 1, 0.5, 1], "smallest 0.0, largest 1.0")):
        with pytest.raises(InputError, match=f"class indices 0, 1, .*task 'b'.*{found}"):
            TaskTable.from_arrays({"a": (x, [0, 1, 0, 1]), "b": (x, y)}, "classification")


def test_labels_of_estimators_may_be_any_but_not_one() -> None:
    x = np.array([[0.0, 0], [0, 1], [5, 5], [5, 6]])
    fitted = FewShotClassifier().fit(x, [7, 7, -2, -2])
    assert fitted.predict(x).tolist() == [7, 7, -2, -2]
    with pytest.raises(InputError, match=r"at least two classes. Found 1 class, '7'.*Add examples of another class"):
        FewShotClassifier().fit(x, [7, 7, 7, 7])


def test_an_episode_of_one_class() -> None:
    classes = ClassSet(torch.zeros(4, 5, 2), ("a", "b", "c", "d"))
    for ways in (1, 0, -2):
        with pytest.raises(InputError, match=f"Expected at least 2 ways. Found {ways}"):
            ClassEpisodes(classes, range(4), ways=ways, shots=1, queries=1)


def test_one_class_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training with one way, adapting to one class: exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert run("train", "prototypical", "--data", "digits", "--ways", 1) == 2
    assert "at least 2 ways" in capsys.readouterr().err
    assert run("train", "prototypical", "--data", "digits", "--steps", 1, "--out", "r", "--question", "meet") == 0
    (tmp_path / "mine/only").mkdir(parents=True)
    for i in range(2):
        Image.new("L", (8, 8), 100 * i).save(tmp_path / f"mine/only/{i}.png")
    capsys.readouterr()
    assert run("adapt", "r", "mine", "-o", "model.safetensors") == 2
    err = capsys.readouterr().err
    assert "at least two classes. Found only 'only'" in err and "Traceback" not in err
    assert not (tmp_path / "model.safetensors").exists()


def test_unequal_shots_are_padded() -> None:
    """Three, two and one examples of a class: the padding, whatever it holds, changes nothing."""
    x = torch.randn(1, 8, 2, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[0, 0, 0, 1, 1, 2, 0, 0]])
    weight = torch.tensor([[1.0, 1, 1, 1, 1, 1, 0, 0]])
    query = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(1))
    method = Prototypical(PROBLEM, nn.Flatten())
    padded = method.adapt(Batch(x, y, weight))(query)
    bare = method.adapt(Batch(x[:, :6], y[:, :6]))(query)
    assert isinstance(padded, torch.Tensor) and isinstance(bare, torch.Tensor)
    assert torch.allclose(padded, bare, atol=1e-5)
    means = torch.stack([x[0, :3].mean(0), x[0, 3:5].mean(0), x[0, 5]])
    assert torch.allclose(padded[0], -(query[0][:, None] - means).square().sum(-1), atol=1e-4)
