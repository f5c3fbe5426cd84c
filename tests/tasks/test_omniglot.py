"""Omniglot: reading (on small made-up archives), splits, and the floor that is known for the real drawings."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from quickstudy.core import Episodes, InputError
from quickstudy.tasks import ClassEpisodes, SplitClasses, TaskTable, check_splits, download, load, omniglot

needs_data = pytest.mark.skipif(not os.environ.get("QUICKSTUDY_DATA"), reason="QUICKSTUDY_DATA is not set")
SMALL = {"images_background": 3, "images_evaluation": 2}


def drawing(ink: slice) -> bytes:
    """A PNG of 1 bit like the real ones: white paper, a black bar in some of the columns."""
    pixels = np.ones((105, 105), bool)
    pixels[:, ink] = False
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write(folder: Path, part: str, characters: int, drawings: int = omniglot.DRAWINGS, data: bytes = b"") -> None:
    (folder / "omniglot").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "omniglot" / f"{part}.zip", "w") as out:
        out.writestr("__MACOSX/images_background/Greek/character01/._0001_01.png", b"not an image")
        for c in range(characters):
            for d in range(drawings):
                name = f"{part}/Greek/character{c + 1:02d}/{c:04d}_{d + 1:02d}.png"
                out.writestr(name, data or drawing(slice(80 + c, 105)))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Archives of five characters."""
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(omniglot, "CHARACTERS", SMALL)
    for part, characters in SMALL.items():
        write(tmp_path, part, characters)
    return tmp_path


def test_ink_is_1_and_paper_0(small: Path) -> None:
    images, names = omniglot.drawings()
    assert images.shape == (5, 20, 28, 28) and images.dtype == torch.uint8
    assert names[0] == "images_background/Greek/character01" and names[4] == "images_evaluation/Greek/character02"
    assert bool((images[:, :, :, -1] == 255).all()) and bool((images[:, :, :, 0] == 0).all())
    # smoothed at the edge, as Pillow only does for grey images
    assert set(images[0, 0, 0].tolist()) - {0, 255}


def test_the_second_time_it_is_read_from_the_cache(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = omniglot.drawings()
    monkeypatch.setattr(omniglot, "_pixels", None)
    again, _ = omniglot.drawings()
    assert torch.equal(first, again)
    monkeypatch.undo()


def test_a_turned_class_is_the_class_turned(small: Path) -> None:
    """The bar on the right comes to the top, then to the left, then to the bottom."""
    classes = omniglot.classes()
    assert classes.x.shape == (20, 20, 1, 28, 28)
    assert classes.names[:5] == (
        *(f"Greek/character01/rot{degrees}" for degrees in ("000", "090", "180", "270")),
        "Greek/character02/rot000",
    )
    for c in range(5):
        right, top, left, bottom = classes.x[4 * c : 4 * c + 4, 0, 0]
        assert right[:, -1].min() == 255 and top[0].min() == 255
        assert left[:, 0].min() == 255 and bottom[-1].min() == 255
        turned = Image.fromarray(right.numpy()).rotate(90)
        assert torch.equal(torch.as_tensor(np.array(turned)), top)
    assert classes.origin is not None and classes.origin.tolist() == [c for c in range(5) for _ in range(4)]
    with pytest.raises(InputError, match="'Greek/character01/rot090'.*in both"):
        check_splits(classes, {"train": torch.tensor([0]), "test": torch.tensor([1])})


def test_an_archive_with_characters_missing(small: Path) -> None:
    write(small, "images_evaluation", 1)
    with pytest.raises(InputError, match=r"Expected 2 characters in images_evaluation.zip. Found 1"):
        omniglot.drawings()


def test_an_archive_with_drawings_missing(small: Path) -> None:
    write(small, "images_evaluation", 2, drawings=19)
    with pytest.raises(InputError, match="20 drawings of every character. Found 19 of images_evaluation/Greek"):
        omniglot.drawings()


def test_an_archive_with_a_broken_image(small: Path) -> None:
    write(small, "images_evaluation", 2, data=drawing(slice(9))[:60])
    with pytest.raises(InputError, match=r"PNG image as images_evaluation/Greek/character01/0000_01.png.*another copy"):
        omniglot.drawings()


def test_alphabets_are_tasks_of_at_most_20_characters() -> None:
    names = [
        f"images_background/{a}/character{c:02d}" for a, size in (("A", 4), ("B", 5), ("C", 25)) for c in range(size)
    ]
    images = torch.arange(34, dtype=torch.uint8).view(34, 1, 1, 1).expand(34, 20, 28, 28)
    table = omniglot.alphabets(images, names, range(33))
    assert isinstance(table, TaskTable)
    assert table.names == ("B", "C") and table.count.tolist() == [100, 400]
    assert not table.problem.shared_labels and table.problem.n_outputs == 20
    of = table.x[:, 0, 0, 0][table.row]
    assert of[0, :100].tolist() == [4 + c for c in range(5) for _ in range(20)]
    assert of[1].tolist() == [9 + c for c in range(20) for _ in range(20)]
    assert torch.equal(table.y[1], of[1].long() - 9)


def nearest(episodes: Episodes) -> Tensor:
    """Accuracy of the nearest drawing by the cosine of raw pixels. Shape: ``[T]``."""
    unit = lambda x: torch.nn.functional.normalize(x.flatten(2), dim=2)  # noqa: E731
    closest = (unit(episodes.query.x) @ unit(episodes.support.x).mT).argmax(2)
    return (episodes.support.y.gather(1, closest) == episodes.query.y).float().mean(1)


@needs_data
def test_the_vinyals_split() -> None:
    study = load("omniglot")
    assert isinstance(study.meet, SplitClasses) and study.have is not None
    assert study.meet.classes.x.shape == (1623 * 4, 20, 1, 28, 28)
    assert {k: len(v) for k, v in study.meet.splits.items()} == {"train": 1028 * 4, "val": 172 * 4, "test": 423 * 4}
    assert len(torch.cat(list(study.meet.splits.values())).unique()) == 1623 * 4
    assert study.have.n_tasks == 33 and len(study.have.x) == 641 * 20
    # no drawing of a held-out character is in an alphabet (one drawing of the set is there twice, within Braille)
    held = torch.cat([study.meet.splits["val"], study.meet.splits["test"]])
    held = held[held % 4 == 0]
    drawings = {image.tobytes() for image in study.meet.classes.x[held].flatten(0, 1).numpy()}
    assert not drawings & {image.tobytes() for image in study.have.x.numpy()}


@needs_data
def test_the_lake_split_and_its_floor() -> None:
    """20 new alphabets; nearest neighbour on raw pixels gets 47.6 % (5 ways) and 29.1 % (20 ways) of 400 episodes."""
    study = load("omniglot-lake")
    assert isinstance(study.meet, SplitClasses) and study.have is not None
    splits, names = study.meet.splits, study.meet.classes.names
    assert len(splits["test"]) == 659 and len(splits["train"]) % 4 == 0
    alphabets = {part: {names[i].split("/")[0] for i in index.tolist()} for part, index in splits.items()}
    assert {part: len(of) for part, of in alphabets.items()} == {"train": 25, "val": 5, "test": 20}
    assert len(splits["train"]) // 4 + len(splits["val"]) == 964
    assert len(set.union(*alphabets.values())) == 50 and set(study.have.names) <= alphabets["train"]
    for ways, expected in ((5, 0.476), (20, 0.291)):
        family = ClassEpisodes(study.meet.classes, splits["test"], ways=ways, shots=1, queries=15)
        accuracy = nearest(family.sample(400, torch.Generator().manual_seed(0)))
        # both figures have a standard error of 0.005 (5 ways) and 0.002
        assert abs(float(accuracy.mean()) - expected) < 4 * 2**0.5 * float(accuracy.std()) / 20


@needs_data
def test_the_one_shot_runs() -> None:
    """The drawings are those of the evaluation set, and query i is of the same character as its training drawing."""
    runs = omniglot.one_shot_runs()
    assert runs.support.x.shape == runs.query.x.shape == (20, 20, 1, 28, 28)
    assert bool((runs.query.y.sort(1).values == torch.arange(20)).all())
    images, names = omniglot.drawings()
    character = {image.tobytes(): name for name, of in zip(names, images.numpy(), strict=True) for image in of}
    of = lambda x: [[character[image.tobytes()] for image in task] for task in (x * 255).byte().squeeze(2).numpy()]  # noqa: E731
    support, query = of(runs.support.x), of(runs.query.x)
    for t in range(20):
        assert query[t] == [support[t][label] for label in runs.query.y[t].tolist()]
        assert len({name.split("/")[1] for name in support[t]}) == 1
    assert 0.15 < float(nearest(runs).mean()) < 0.35  # well above 1 in 20, far below people's 95 %
