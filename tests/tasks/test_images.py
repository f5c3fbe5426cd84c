"""CIFAR-100, MNIST and Fashion-MNIST: readers on small made-up files, published splits, the floor that is known."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy.core import InputError
from quickstudy.methods import Prototypical
from quickstudy.tasks import (
    ClassEpisodes,
    ClassSet,
    SplitClasses,
    TaskTable,
    check_splits,
    cifar,
    download,
    load,
    mnist,
)
from quickstudy.training import task_scores

needs_data = pytest.mark.skipif(not os.environ.get("QUICKSTUDY_DATA"), reason="QUICKSTUDY_DATA is not set")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path


def fine() -> list[str]:
    return sorted(row[1] for row in cifar._lines())


def write_binary(folder: Path, train: int = 3, test: int = 1, names: list[str] | None = None) -> None:
    """The author's archive with a few images of a class; class k's are of colour (k, image, 7), in no order."""
    (folder / "cifar100").mkdir(exist_ok=True)
    written = list(reversed(fine())) if names is None else names
    with tarfile.open(folder / cifar.ARCHIVE, "w:gz") as out:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(f"cifar-100-binary/{name}")
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))

        add("fine_label_names.txt", "\n".join(written).encode())
        for part, images in (("train", train), ("test", test)):
            records = [
                bytes((0, k)) + bytes((k,)) * 1024 + bytes((i + 10 * (part == "test"),)) * 1024 + bytes((7,)) * 1024
                for i in range(images)
                for k in range(len(written))
            ]
            add(f"{part}.bin", b"".join(records))


def test_the_binary_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "IMAGES", 4)
    monkeypatch.setattr(cifar, "TRAINING", 3)
    write_binary(folder)
    images, names, jpeg = cifar.photographs()
    assert images.shape == (100, 4, 3, 32, 32) and images.dtype == torch.uint8 and not jpeg
    assert list(names) == fine()
    # the file numbers classes from the last; training images come first
    assert images[0, :, :, 5, 5].tolist() == [[99, i, 7] for i in (0, 1, 2, 10)]
    monkeypatch.setattr(cifar, "_binary", None)
    assert torch.equal(cifar.photographs()[0], images), "the second time from the cache"
    assert "JPEG" not in load("cifar-fs").about


@pytest.mark.parametrize(
    "change, message",
    [
        ({"test": 2}, "Expected 1 images of every class in test.bin.*Found 2 to 2"),
        ({"names": ["cat", "dog"]}, "Expected the 100 classes of CIFAR-100"),
    ],
)
def test_a_binary_version_of_something_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(cifar, "IMAGES", 4)
    monkeypatch.setattr(cifar, "TRAINING", 3)
    write_binary(folder, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        cifar.photographs()


def test_broken_archives(folder: Path) -> None:
    (folder / "cifar100").mkdir()
    (folder / cifar.ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(InputError, match="Expected a whole archive at .*cifar-100-binary"):
        load("cifar100")
    (folder / cifar.ARCHIVE).unlink()
    with pytest.raises(InputError, match=r"Expected the file .*Put it there \(from https://www.cs.toronto.edu"):
        load("fc100")


def test_jpeg_mosaics(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles row by row, and the data say that they are JPEG; one missing class is named."""
    monkeypatch.setattr(cifar, "IMAGES", 60)  # 30 rows of 2 in place of 20
    monkeypatch.setattr(cifar, "EACH", 10)
    (folder / cifar.JPEG).mkdir()
    for k, name in enumerate(fine()):
        pixels = np.full((960, 64, 3), k, np.uint8)
        pixels[32:64, 32:] = 200  # row 1, column 1: image 3
        Image.fromarray(pixels).save(folder / cifar.JPEG / f"{name}.jpg", quality=95, subsampling=0)
    images, _, jpeg = cifar.photographs()
    assert jpeg and images.shape == (100, 60, 3, 32, 32)
    middle = images[9, :, 0, 16, 16]
    assert (middle > 150).nonzero().flatten().tolist() == [3] and int(middle[4]) == 9
    assert "JPEG" in load("fc100").about
    (folder / cifar.JPEG / "baby.jpg").unlink()
    with pytest.raises(InputError, match="Found no baby.jpg"):
        cifar.photographs()


def test_the_published_splits() -> None:
    """Sizes of the papers; FC100 splits coarse classes, which CIFAR-FS does not."""
    coarse_of = {row[1]: row[0] for row in cifar._lines()}
    names = fine()
    assert len(coarse_of) == 100 and len(set(coarse_of.values())) == 20
    for name, sizes, overlap in (("cifar-fs", (64, 16, 20), True), ("fc100", (60, 20, 20), False)):
        parts = cifar.split(name)  # type: ignore[arg-type]
        assert tuple(map(len, parts.values())) == sizes
        assert len(torch.cat(list(parts.values())).unique()) == 100
        above = [{coarse_of[names[i]] for i in part.tolist()} for part in parts.values()]
        assert bool(above[0] & above[2]) == overlap
    assert {names[i] for i in cifar.split("cifar-fs")["test"].tolist()} >= {"baby", "rocket", "worm", "whale"}


def write_idx(path: Path, values: np.ndarray, keep: int | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    head = bytes((0, 0, 8, values.ndim)) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    path.write_bytes(gzip.compress((head + values.astype(np.uint8).tobytes())[:keep]))


def write_mnist(folder: Path, name: str = "mnist", n: int = 400) -> None:
    """Pictures whose corner pixel is their number, of kinds 0 to 9 in turn."""
    for part, size in (("train", n), ("t10k", n // 4)):
        x = np.zeros((size, 28, 28), np.uint8)
        x[:, 0, 0] = np.arange(size) % 251
        write_idx(folder / name / f"{part}-images-idx3-ubyte.gz", x)
        write_idx(folder / name / f"{part}-labels-idx1-ubyte.gz", np.arange(size) % 10)


def test_idx_files(folder: Path) -> None:
    write_mnist(folder)
    x, y = mnist.pictures()
    assert x.shape == (500, 28, 28) and x.dtype == np.uint8
    assert x[37, 0, 0] == 37 and x[407, 0, 0] == 7 and y[37] == 7 and y[407] == 7
    classes = mnist.classes()
    assert classes.x.shape == (10, 50, 1, 28, 28) and classes.names == tuple("0123456789")
    assert classes.x[3, :3, 0, 0, 0].tolist() == [3, 13, 23]


def test_broken_idx_files(folder: Path) -> None:
    write_mnist(folder)
    images, labels = folder / "mnist/train-images-idx3-ubyte.gz", folder / "mnist/t10k-labels-idx1-ubyte.gz"
    whole = images.read_bytes()
    write_idx(images, np.zeros((400, 28, 28)), keep=5000)
    with pytest.raises(InputError, match=r"Expected an IDX file .*Found a head 00000803, a shape \(400, 28, 28\)"):
        mnist.pictures()
    images.write_bytes(whole[:50])
    with pytest.raises(InputError, match="Expected a whole gzip file"):
        mnist.pictures()
    images.write_bytes(whole)
    write_idx(labels, np.arange(99) % 10)
    with pytest.raises(InputError, match="and its labels. Found .*99 labels"):
        mnist.pictures()


def test_permuted_tasks_are_the_same_pixels_elsewhere(folder: Path) -> None:
    x = torch.randint(256, (200, 28, 28), generator=torch.Generator().manual_seed(0)).byte().numpy()
    table = mnist.permuted(x, np.arange(200) % 10, tasks=4)
    assert table.n_tasks == 4 and table.problem.shared_labels and table.problem.n_outputs == 10
    originals = {np.sort(image.ravel()).tobytes(): image for image in x}
    where = []
    for task in range(4):
        rows = table.x[table.row[task, : int(table.count[task])]].squeeze(1)
        same = [np.array_equal(originals[np.sort(image.numpy().ravel()).tobytes()], image) for image in rows]
        where.append(all(same))
        assert all(same) or not any(same)
        assert sorted(table.y[task].bincount().tolist()) == [5] * 10
    assert where == [True, False, False, False]
    # one permutation a task: the pixel that moved to the corner is the same in all its pictures
    assert len(table.x.flatten(1).sort(1).values.unique(dim=0)) == 200, "no picture is in two tasks"


def test_rotated_tasks_turn_anticlockwise(folder: Path) -> None:
    x = np.zeros((720, 28, 28), np.uint8)
    x[:, 10:18, 22:] = 255  # a block on the right
    table = mnist.rotated(x, np.arange(720) % 10)
    assert table.names[9] == "angle 90" and table.n_tasks == 36
    turned = table.x[table.row[9, 0], 0].float()
    assert float(turned[:6, 10:18].mean()) > 250 and float(turned[10:18, 22:].mean()) < 5


def test_fashion_small_or_whole(folder: Path) -> None:
    """The small copy is read where there is nothing better."""
    (folder / "fashion_mini").mkdir()
    np.savez(folder / mnist.MINI, images=np.zeros((10, 90, 28, 28), np.uint8))
    study = load("fashion")
    assert isinstance(study.have, TaskTable) and isinstance(study.meet, SplitClasses)
    assert study.have.n_tasks == 36 and study.meet.classes.x.shape == (40, 90, 1, 28, 28)
    check_splits(study.meet.classes, study.meet.splits)
    write_mnist(folder, "fashion", 800)
    assert mnist.pictures("fashion")[0].shape == (1000, 28, 28)


@needs_data
@pytest.mark.parametrize("name", ["cifar-fs", "fc100", "cifar100", "mnist-permuted", "mnist-rotated", "fashion"])
def test_known_image_sets_answer_both_questions(name: str) -> None:
    study = load(name)
    assert study.name == name
    generator = torch.Generator().manual_seed(0)
    for question in ("have", "meet"):
        arena = study.arena(question, 0, episodes=4)
        x = arena.train.sample(2, generator).support.x
        assert x.shape[2:] == arena.problem.x_shape and 0 <= float(x.min()) < float(x.max()) <= 1


@needs_data
def test_the_floor_of_cifar_fs() -> None:
    """Class means of raw pixels get 40.1 % of 300 episodes, 5 ways and 5 shots (standard error .5 %)."""
    images, names, jpeg = cifar.photographs()
    if not jpeg:
        pytest.skip("the floor was measured on the JPEG copy")
    classes, splits = ClassSet(images, names), cifar.split("cifar-fs")
    assert classes.x.shape == (100, 600, 3, 32, 32)
    means = classes.x[:, ::10].float().mean((0, 1, 3, 4)) / 255
    assert torch.allclose(means, torch.tensor([0.507, 0.487, 0.441]), atol=0.01)
    family = ClassEpisodes(classes, splits["test"], ways=5, shots=5, queries=15)
    episodes = family.sample(100, torch.Generator().manual_seed(0))
    accuracy = task_scores(Prototypical(family.problem, torch.nn.Flatten()), episodes)
    assert abs(float(accuracy.mean()) - 0.401) < 0.04
