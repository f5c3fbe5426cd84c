"""Photographs that must be fetched by hand: miniImageNet, tieredImageNet, CUB, CelebA; read from a data folder."""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from quickstudy.core import InputError
from quickstudy.tasks.classes import ClassSet
from quickstudy.tasks.download import LARGEST_MEMBER, data_folder, members, prepared
from quickstudy.tasks.study import SplitClasses, Study
from quickstudy.tasks.table import Array, TaskTable

Name = Literal["mini-imagenet", "tiered-imagenet", "cub", "celeba"]
ABOUT = {
    "mini-imagenet": "miniImageNet: 100 classes of ImageNet, 600 photographs each; needs a data folder",
    "tiered-imagenet": "tieredImageNet: 608 classes of ImageNet, split by category; needs a data folder",
    "cub": "Caltech-UCSD Birds 200-2011: 200 species, 11,788 photographs; needs a data folder",
    "celeba": "CelebA: 40 attributes of faces as tasks; needs a data folder",
}
# what to put where, told to those who lack it
WANTED = {
    "mini-imagenet": (
        "mini-imagenet/train.csv, val.csv and test.csv (the columns filename,label of Ravi and Larochelle's split), "
        "and their images in mini-imagenet/images/ or mini-imagenet/images.zip"
    ),
    "tiered-imagenet": (
        "tiered-imagenet/{train,val,test}/CLASS/IMAGE, or tiered-imagenet/tiered_imagenet.tar with these folders (the "
        "pickled release is not read, since unpickling runs whatever code a file holds)"
    ),
    "cub": "cub/CUB_200_2011.tgz, or the folder cub/CUB_200_2011/ unpacked from it",
    "celeba": (
        "celeba/list_attr_celeba.txt, and the aligned images in celeba/img_align_celeba/ or "
        "celeba/img_align_celeba.zip; also celeba/identity_CelebA.txt, if there, keeps images of a person together"
    ),
}
PARTS = ("train", "val", "test")
MINI = {"train": 64, "val": 16, "test": 20}  # classes of each part
MINI_IMAGES = 600
TIERED = {"train": 351, "val": 97, "test": 160}
BIRDS = 11_788
ATTRIBUTES = 40
EACH = 500  # images of an attribute's task
FEWEST = 8  # of those with an attribute, and of those without
SIDE = 32  # pixels; papers take 84, which need 7 times the memory and time
ENDINGS = (".jpg", ".jpeg", ".png")


def _root(name: Name) -> Path:
    folder = data_folder()
    if folder is None or not (folder / name).is_dir():
        where = "the environment variable QUICKSTUDY_DATA unset" if folder is None else f"no folder {folder / name}"
        raise InputError(
            f"Expected the data of {name}, which must be fetched by hand, under its publisher's terms. Found {where}. "
            f"Set QUICKSTUDY_DATA to a folder that holds {WANTED[name]}."
        )
    return folder / name


def _missing(name: Name, found: str) -> InputError:
    return InputError(f"Expected {WANTED[name]}, in {data_folder()}. Found {found}. Put what is missing there.")


def _either(name: Name, *places: Path) -> Path:
    """The first of the places that is there."""
    for place in places:
        if place.exists():
            return place
    raise _missing(name, "neither " + " nor ".join(str(place) for place in places))


def _stamp(paths: Iterable[Path]) -> str:
    """Changes with files' names, sizes and times; their bytes would take minutes to read."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            facts = file.stat()
            digest.update(f"{file}|{facts.st_size}|{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _contents(place: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the images of a folder, a zip or a tar; nothing is unpacked to disk."""
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.suffix.lower() in ENDINGS:
                yield path.relative_to(place).as_posix(), path.read_bytes()
    elif place.suffix == ".zip":
        for name, data in members(place, ""):
            if name.lower().endswith(ENDINGS):
                yield name, data
    else:
        try:
            with tarfile.open(place) as archive:
                for info in archive:
                    source = archive.extractfile(info) if info.isfile() else None
                    if source is not None and info.name.lower().endswith(ENDINGS):
                        if info.size > LARGEST_MEMBER:
                            raise InputError(
                                f"Expected images of at most {LARGEST_MEMBER:,} bytes in {place}. Found {info.size:,} "
                                f"in {info.name!r}. Do not trust this file; get another copy."
                            )
                        yield info.name, source.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(
                f"Expected a whole archive at {place}. Found one that cannot be read ({error}). Get another copy."
            ) from error


def _hidden(name: str) -> bool:
    """Whether a file is no image of the set: what a Mac leaves in archives, for example."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _pixels(data: bytes, name: str, size: int, square: bool = False) -> Array:
    """Shape: uint8 ``[3, size, size]``; stretched, or the middle square of the image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            rgb = image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise InputError(f"Expected an image as {name}. Found one that cannot be read ({error}).") from error
    if square:
        side = min(rgb.size)
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        rgb = rgb.crop((left, top, left + side, top + side))
    return np.asarray(rgb.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


def _class_set(arrays: Mapping[str, Array]) -> ClassSet:
    return ClassSet(
        torch.as_tensor(arrays["images"]), tuple(map(str, arrays["names"])), torch.as_tensor(arrays["count"])
    )


def _padded(of: Mapping[str, list[Array]]) -> dict[str, Array]:
    """Classes in sorted order, filled up with zeros to the largest."""
    names = sorted(of)
    first = of[names[0]][0]
    images = np.zeros((len(names), max(map(len, of.values())), *first.shape), np.uint8)
    for row, name in zip(images, names, strict=True):
        row[: len(of[name])] = of[name]
    return {"images": images, "names": np.array(names), "count": np.array([len(of[name]) for name in names])}


def mini_imagenet(size: int = SIDE) -> tuple[ClassSet, dict[str, Tensor]]:
    """100 classes ``[100, 600, 3, size, size]`` and their split in 64, 16 and 20.

    Reference:
        Vinyals et al. 2016, arXiv:1606.04080; split of Ravi, Larochelle 2017.
    """
    root = _root("mini-imagenet")
    lists = {part: root / f"{part}.csv" for part in PARTS}
    images = _either("mini-imagenet", root / "images", root / "images.zip")
    label_of: dict[str, str] = {}
    part_of: dict[str, str] = {}
    for part, path in lists.items():
        if not path.is_file():
            raise _missing("mini-imagenet", f"no {path}")
        with path.open(newline="") as source:
            rows = csv.DictReader(source)
            if not {"filename", "label"} <= set(rows.fieldnames or ()):
                raise InputError(f"Expected the columns filename and label in {path}. Found {rows.fieldnames}.")
            for row in rows:
                label_of[row["filename"]] = row["label"]
                if part_of.setdefault(row["label"], part) != part:
                    raise InputError(f"Expected every class in one part. Found {row['label']} in two, see {path}.")
    for part, expected in MINI.items():
        found = sum(where == part for where in part_of.values())
        if found != expected:
            raise InputError(f"Expected {expected} classes in {lists[part]}. Found {found}. Get another copy.")

    def read() -> dict[str, Array]:
        of: dict[str, list[Array]] = {}
        for name, data in _contents(images):
            label = label_of.get(PurePosixPath(name).name)
            if label is not None and not _hidden(name):
                of.setdefault(label, []).append(_pixels(data, name, size))
        for label in part_of:
            if len(of.get(label, ())) != MINI_IMAGES:
                raise InputError(
                    f"Expected {MINI_IMAGES} images of every class in {images}. Found {len(of.get(label, ()))} of "
                    f"{label}. Get another copy."
                )
        return _padded(of)

    classes = _class_set(prepared(f"mini-imagenet-{size}-{_stamp([*lists.values(), images])}", read))
    return classes, _split(classes.names, part_of)


def tiered_imagenet(size: int = SIDE) -> tuple[ClassSet, dict[str, Tensor]]:
    """608 classes and their split in 351, 97 and 160; no category of classes is in two parts. About 2.4 GB at 32 x 32.

    Reference:
        Ren et al. 2018, arXiv:1803.00676.
    """
    root = _root("tiered-imagenet")
    place = root if (root / "train").is_dir() else _either("tiered-imagenet", root / "tiered_imagenet.tar")

    def read() -> dict[str, Array]:
        of: dict[str, list[Array]] = {}
        for name, data in _contents(place):
            parts = PurePosixPath(name).parts
            if len(parts) >= 3 and parts[-3] in PARTS and not _hidden(name):
                of.setdefault(f"{parts[-3]}/{parts[-2]}", []).append(_pixels(data, name, size))
        for part, expected in TIERED.items():
            found = sum(name.startswith(f"{part}/") for name in of)
            if found != expected:
                raise InputError(
                    f"Expected {expected} class folders in {part} of {place}. Found {found}. Get another copy."
                )
        return _padded(of)

    classes = _class_set(prepared(f"tiered-imagenet-{size}-{_stamp([place])}", read))
    return classes, _split(classes.names, {name: name.split("/")[0] for name in classes.names})


def cub(size: int = SIDE) -> tuple[ClassSet, dict[str, Tensor]]:
    """200 species of 41 to 60 images, and the split in 100, 50 and 50 that few-shot papers use.

    Reference:
        Wah et al. 2011, CNS-TR-2011-001; split as in Torchmeta.
    """
    root = _root("cub")
    place = _either("cub", root / "CUB_200_2011", root / "CUB_200_2011.tgz")
    folder = files("quickstudy.tasks") / "splits"
    part_of = {line: part for part in PARTS for line in (folder / f"cub_{part}.txt").read_text().split()}

    def read() -> dict[str, Array]:
        of: dict[str, list[Array]] = {}
        for name, data in _contents(place):
            parts = PurePosixPath(name).parts
            if len(parts) >= 3 and parts[-3] == "images" and not _hidden(name):
                of.setdefault(parts[-2], []).append(_pixels(data, name, size))
        odd = sorted(set(of) ^ set(part_of))
        if odd:
            raise InputError(
                f"Expected the {len(part_of)} species of CUB-200-2011 in {place}. Found {len(of)}, with {odd[0]!r} "
                "missing or unknown. Get another copy."
            )
        total = sum(map(len, of.values()))
        if total != BIRDS:
            raise InputError(f"Expected {BIRDS:,} images in {place}. Found {total:,}. Get another copy.")
        return _padded(of)

    classes = _class_set(prepared(f"cub-{size}-{_stamp([place])}", read))
    return classes, _split(classes.names, part_of)


def _split(names: Sequence[str], part_of: Mapping[str, str]) -> dict[str, Tensor]:
    return {part: torch.tensor([i for i, name in enumerate(names) if part_of[name] == part]) for part in PARTS}


def celeba(size: int = SIDE) -> TaskTable:
    """One task an attribute: has the face it or not? 500 images each, half with it where there are as many.

    Tasks have no image in common. Images are cut to their middle square.

    Reference:
        Liu et al. 2015, Deep Learning Face Attributes in the Wild, arXiv:1411.7766.
    """
    root = _root("celeba")
    table = root / "list_attr_celeba.txt"
    place = _either("celeba", root / "img_align_celeba", root / "img_align_celeba.zip")
    if not table.is_file():
        raise _missing("celeba", f"no {table}")
    names, attributes, has = _attributes(table)
    chosen = _share_out(has, table, attributes)
    wanted = {names[i] for mine in chosen for i in mine}

    def read() -> dict[str, Array]:
        found = {}
        for name, data in _contents(place):
            file = PurePosixPath(name).name
            if file in wanted and not _hidden(name):
                found[file] = _pixels(data, name, size, square=True)
        if len(found) != len(wanted):
            raise InputError(
                f"Expected all images that {table} lists in {place}. Found no {min(wanted - set(found))}. Get another "
                "copy."
            )
        order = sorted(found)
        return {"images": np.stack([found[file] for file in order]), "names": np.array(order)}

    arrays = prepared(f"celeba-{size}-{_stamp([table, place])}", read)
    row = {str(name): i for i, name in enumerate(arrays["names"])}
    tasks = {
        attribute: (arrays["images"][[row[names[i]] for i in mine]], has[mine, t].astype(np.int64))
        for t, (attribute, mine) in enumerate(zip(attributes, chosen, strict=True))
    }
    people = root / "identity_CelebA.txt"
    group = None
    if people.is_file():
        pairs = [line.split() for line in people.read_text().splitlines() if line.strip()]
        person = {pair[0]: int(pair[1]) for pair in pairs}
        group = {
            attribute: np.array([person[names[i]] for i in mine])
            for attribute, mine in zip(attributes, chosen, strict=True)
        }
    return TaskTable.from_arrays(tasks, "classification", labels=("without", "with"), group=group)


def _attributes(path: Path) -> tuple[list[str], list[str], Array]:
    """Images, attributes, and who has which. Shape: bool ``[images, attributes]``."""
    lines = path.read_text().splitlines()
    attributes = lines[1].split() if len(lines) > 2 else []
    rows = [line.split() for line in lines[2:] if line.strip()]
    if (
        len(attributes) != ATTRIBUTES
        or lines[0].strip() != str(len(rows))
        or any(len(row) != 1 + ATTRIBUTES or not set(row[1:]) <= {"1", "-1"} for row in rows)
    ):
        raise InputError(
            f"Expected in {path} the number of images, the names of {ATTRIBUTES} attributes, and for each image its "
            f"name and 1 or -1 an attribute. Found {len(attributes)} attributes and {len(rows)} images after "
            f"{lines[0].strip() if lines else 'nothing'!r}, or other values. Get another copy."
        )
    return [row[0] for row in rows], attributes, np.array([row[1:] for row in rows]) == "1"


def _share_out(has: Array, path: Path, attributes: Sequence[str]) -> list[Array]:
    """Images of each task: the rarest attribute chooses first, half with it and half without."""
    order = torch.randperm(len(has), generator=torch.Generator().manual_seed(0)).numpy()
    free = np.ones(len(has), bool)
    rare = np.minimum(has.sum(0), (~has).sum(0)).argsort(kind="stable")
    most = min(EACH, len(has) // (2 * len(attributes))) // 2  # half of all stay free, for the last to choose from
    chosen: list[Array] = [np.array([], int)] * len(attributes)
    for t in rare.tolist():
        halves = [order[free[order] & (has[order, t] == value)][:most] for value in (True, False)]
        fewest = min(map(len, halves))
        if fewest < FEWEST:
            raise InputError(
                f"Expected at least {FEWEST} images with and without every attribute in {path}. Found {fewest} left "
                f"for {attributes[t]!r}. Get another copy."
            )
        chosen[t] = np.concatenate(halves)
        free[chosen[t]] = False
    return chosen


def study(name: Name, size: int = SIDE) -> Study:
    """New classes, 5 ways, 1 shot (*meet*); for CelebA known attributes (*have*) and new ones (*meet*).

    Args:
        name: which data.
        size: pixels a side; 84 in most papers.

    Raises:
        InputError: the data are not there, or not as their publisher made them; says what to put where.
    """
    pixels = f"resized to {size} x {size} pixels" + (" (most papers: 84 x 84)" if size != 84 else "")
    if name == "celeba":
        table = celeba(size)
        about = f"CelebA, {table.n_tasks} attributes, {len(table.x):,} of 202,599 faces, {pixels}. "
        return Study(name, table, table, shots=5, about=about + "Liu et al. 2015, for research only.")
    read = {"mini-imagenet": mini_imagenet, "tiered-imagenet": tiered_imagenet, "cub": cub}[name]
    classes, splits = read(size)
    source = {
        "mini-imagenet": "miniImageNet, Vinyals et al. 2016, split of Ravi and Larochelle 2017; terms of ImageNet.",
        "tiered-imagenet": "tieredImageNet, Ren et al. 2018; terms of ImageNet.",
        "cub": "Caltech-UCSD Birds 200-2011, Wah et al. 2011; for research only.",
    }[name]
    about = f"{source} {len(classes.names)} classes, {int(classes.counts.sum()):,} photographs {pixels}."
    missing = {"have": "these classes come without tasks that one could have"}
    return Study(name, None, SplitClasses(classes, splits), shots=1, about=about, missing=missing)
