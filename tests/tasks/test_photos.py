"""Sets that must be fetched by hand: readers on small made-up copies of their publishers' layout."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quickstudy.core import InputError
from quickstudy.tasks import SplitClasses, TaskTable, check_splits, download, load, photos

HAND = ("mini-imagenet", "tiered-imagenet", "cub", "celeba")


def image(colour: int, size: tuple[int, int] = (50, 40), kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (colour, 10, 20)).save(out, kind)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path


def write(place: Path, content: Mapping[str, bytes]) -> None:
    """A folder, a zip or a tar, by its name."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as out:
            for name, data in content.items():
                out.writestr(name, data)
    elif place.suffix in (".tar", ".tgz"):
        with tarfile.open(place, "w:gz" if place.suffix == ".tgz" else "w") as tar:
            for name, data in content.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        for name, data in content.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)


@pytest.mark.parametrize("name", HAND)
def test_what_to_put_where(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"Expected the data of {name}.*Found no folder.*Set QUICKSTUDY_DATA.*{name}/"):
        load(name)
    monkeypatch.delenv("QUICKSTUDY_DATA")
    with pytest.raises(InputError, match="QUICKSTUDY_DATA unset"):
        load(name)
    monkeypatch.setenv("QUICKSTUDY_DATA", str(folder))
    (folder / name).mkdir()
    with pytest.raises(InputError, match="Found (neither|no).*Put what is missing there"):
        load(name)


def mini(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str, images: int = 22) -> None:
    """Five classes to train on, five and six others; class k has the colour 10 k."""
    monkeypatch.setattr(photos, "MINI", {"train": 5, "val": 5, "test": 6})
    monkeypatch.setattr(photos, "MINI_IMAGES", 22)
    content, k = {"__MACOSX/images/._n00_0.jpg": b"not an image"}, 0
    (folder / "mini-imagenet").mkdir(exist_ok=True)
    for part, classes in photos.MINI.items():
        rows = ["filename,label"]
        for _ in range(classes):
            for i in range(images):
                content[f"images/n{k:02d}_{i}.jpg"] = image(10 * k, kind="PNG")
                rows.append(f"n{k:02d}_{i}.jpg,n{k:02d}")
            k += 1
        (folder / "mini-imagenet" / f"{part}.csv").write_text("\n".join(rows))
    if place == "images":
        content = {name.removeprefix("images/"): data for name, data in content.items() if "MAC" not in name}
    write(folder / "mini-imagenet" / place, content)


@pytest.mark.parametrize("place", ["images", "images.zip"])
def test_mini_imagenet(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    mini(folder, monkeypatch, place)
    study = load("mini-imagenet")
    assert study.have is None and isinstance(study.meet, SplitClasses)
    classes = study.meet.classes
    assert classes.x.shape == (16, 22, 3, 32, 32) and classes.x.dtype == torch.uint8
    assert classes.x[7, 3, :, 0, 0].tolist() == [70, 10, 20] and classes.names[7] == "n07"
    assert {part: index.tolist() for part, index in study.meet.splits.items()} == {
        "train": [*range(5)], "val": [*range(5, 10)], "test": [*range(10, 16)],
    }  # fmt: skip
    assert study.arena("meet", 0, episodes=2).test.support.x.shape == (2, 5, 3, 32, 32)
    with pytest.raises(InputError, match="without tasks that one could have"):
        study.arena("have", 0)
    assert photos.mini_imagenet(84)[0].x.shape[-2:] == (84, 84)


def test_mini_imagenet_with_images_or_classes_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini(folder, monkeypatch, "images", 21)
    with pytest.raises(InputError, match="Expected 22 images of every class.*Found 21 of n00"):
        load("mini-imagenet")
    monkeypatch.setattr(photos, "MINI", {"train": 64, "val": 16, "test": 20})
    with pytest.raises(InputError, match="Expected 64 classes in .*train.csv. Found 5"):
        load("mini-imagenet")
    (folder / "mini-imagenet/val.csv").write_text("filename,label\nx.jpg,n00\n")
    with pytest.raises(InputError, match="every class in one part. Found n00 in two"):
        load("mini-imagenet")
    (folder / "mini-imagenet/train.csv").write_text("name\nx.jpg\n")
    with pytest.raises(InputError, match=r"columns filename and label in .*Found \['name'\]"):
        load("mini-imagenet")


@pytest.mark.parametrize("place", ["", "tiered_imagenet.tar"])
def test_tiered_imagenet(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Classes of different size are padded."""
    monkeypatch.setattr(photos, "TIERED", {"train": 3, "val": 2, "test": 2})
    content = {
        f"{part}/n{c}{part}/{i}.JPEG": image(40 * c)
        for part, classes in photos.TIERED.items()
        for c in range(classes)
        for i in range(2 + c)
    }
    prefix = "tiered_imagenet/" if place else ""
    write(folder / "tiered-imagenet" / place, {prefix + name: data for name, data in content.items()})
    classes, splits = photos.tiered_imagenet()
    assert classes.x.shape == (7, 4, 3, 32, 32)
    assert {part: [int(classes.counts[i]) for i in index] for part, index in splits.items()} == {
        "train": [2, 3, 4], "val": [2, 3], "test": [2, 3],
    }  # fmt: skip
    monkeypatch.setattr(photos, "TIERED", {"train": 351, "val": 97, "test": 160})
    monkeypatch.setattr(download, "cache_folder", lambda: folder / "other")
    with pytest.raises(InputError, match="Expected 351 class folders in train.*Found 3"):
        photos.tiered_imagenet()


def species() -> list[str]:
    lists = files("quickstudy.tasks") / "splits"
    return sorted(line for part in photos.PARTS for line in (lists / f"cub_{part}.txt").read_text().split())


@pytest.mark.parametrize("place", ["CUB_200_2011", "CUB_200_2011.tgz"])
def test_cub(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    names = species()
    assert len(set(names)) == 200
    monkeypatch.setattr(photos, "BIRDS", 300)
    prefix = "CUB_200_2011/" if place.endswith("tgz") else ""
    content = {
        f"{prefix}images/{name}/{i}.jpg": image(k) for k, name in enumerate(names) for i in range(1 + k % 2)
    }  # fmt: skip
    write(folder / "cub" / place, content | {f"{prefix}attributes/x.png": b"no image of a bird"})
    classes, splits = photos.cub()
    assert classes.x.shape == (200, 2, 3, 32, 32) and classes.counts.tolist() == [1, 2] * 100
    assert int(classes.x[150, 0, 0, 0, 0]) == 150
    assert tuple(map(len, splits.values())) == (100, 50, 50)
    check_splits(classes, splits)
    monkeypatch.setattr(photos, "BIRDS", 11_788)
    monkeypatch.setattr(download, "cache_folder", lambda: folder / "other")
    with pytest.raises(InputError, match="Expected 11,788 images in .*Found 300"):
        photos.cub()


def write_celeba(folder: Path, place: str = "img_align_celeba.zip", n: int = 1600) -> np.ndarray:
    """Faces of which image i has the colour i % 251; every attribute is with about half of them."""
    (folder / "celeba").mkdir()
    has = torch.rand(n, 40, generator=torch.Generator().manual_seed(0)).numpy() < np.linspace(0.3, 0.6, 40)
    names = [f"{i + 1:06d}.jpg" for i in range(n)]
    lines = [str(n), " ".join(f"A{t}" for t in range(40)) + " "]
    lines += [
        f"{name} " + "  ".join("1" if value else "-1" for value in row) for name, row in zip(names, has, strict=True)
    ]
    (folder / "celeba/list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    prefix = "img_align_celeba/" if place.endswith("zip") else ""
    write(folder / "celeba" / place, {prefix + name: image(i % 251, (17, 21)) for i, name in enumerate(names)})
    return has


@pytest.mark.parametrize("place", ["img_align_celeba", "img_align_celeba.zip"])
def test_celeba(folder: Path, place: str) -> None:
    """Tasks are balanced, share no image, and have the answers of the list."""
    has = write_celeba(folder, place)
    study = load("celeba")
    table = study.have
    assert isinstance(table, TaskTable) and study.meet is table and table.n_tasks == 40
    assert table.count.tolist() == [20] * 40 and table.x.shape == (800, 3, 32, 32)
    assert bool((table.y.sum(1) == 10).all()) and table.labels == ("without", "with")
    colour = table.x[table.row][:, :, 0, 5, 5]
    for t, name in enumerate(table.names):
        assert name == f"A{t}"
        for c, y in zip(colour[t].tolist(), table.y[t].tolist(), strict=True):
            # colours come again every 251 images; one of those has this answer
            assert y in has[c::251, t].astype(int)
    assert len(table.row.unique()) == 800
    assert study.arena("meet", 0).test.support.x.shape[1] == 10


def test_people_of_celeba_stay_together(folder: Path) -> None:
    write_celeba(folder)
    names = [f"{i + 1:06d}.jpg {i // 3}" for i in range(1600)]
    (folder / "celeba/identity_CelebA.txt").write_text("\n".join(names))
    table = load("celeba").have
    assert table is not None and table.group is not None and 350 < len(table.group.unique()) <= 534


def test_broken_celeba(folder: Path) -> None:
    write_celeba(folder)
    path = folder / "celeba/list_attr_celeba.txt"
    whole = path.read_text()
    for broken in (whole.replace("-1", "0"), "\n".join(whole.splitlines()[:50]), ""):
        path.write_text(broken)
        with pytest.raises(InputError, match="names of 40 attributes.*Get another copy"):
            load("celeba")
    path.write_text(whole.replace("0000", "zzzz"))
    with pytest.raises(InputError, match=r"Found no zzzz\d\d.jpg"):
        load("celeba")


def test_a_broken_image_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "TIERED", {"train": 1, "val": 0, "test": 0})
    write(folder / "tiered-imagenet", {"train/n1/a.jpg": image(1)[:40]})
    with pytest.raises(InputError, match=r"Expected an image as .*train/n1/a.jpg"):
        photos.tiered_imagenet()
    (folder / "cub").mkdir()
    (folder / "cub/CUB_200_2011.tgz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="Expected a whole archive at .*CUB_200_2011.tgz"):
        load("cub")
