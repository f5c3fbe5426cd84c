"""Where the files of known data sets are: a folder of one's own, else a download checked by its hash."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pooch

from quickstudy.core import InputError
from quickstudy.tasks.table import Array

_GITHUB = "https://raw.githubusercontent.com"
_OMNIGLOT = f"{_GITHUB}/brendenlake/omniglot"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_FASHION = f"{_GITHUB}/zalandoresearch/fashion-mnist/master/data/fashion"

# each file's place in the data folder, where it comes from, and its hash there
FILES: dict[str, tuple[str, str]] = {
    "omniglot/images_background.zip": (
        f"{_OMNIGLOT}/master/python/images_background.zip",
        "md5:68d2efa1b9178cc56df9314c21c6e718",
    ),
    "omniglot/images_evaluation.zip": (
        f"{_OMNIGLOT}/master/python/images_evaluation.zip",
        "md5:6b91aef0f799c5bb55b94e3f2daec811",
    ),
    "omniglot/all_runs.zip": (
        f"{_OMNIGLOT}/32aee47094f15296299b761dcaa01400b90c60d5/python/one-shot-classification/all_runs.zip",
        "sha256:437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
    ),
    "multitask_tables/school.mat": (
        f"{_GITHUB}/jiayuzhou/MALSAR/ca3d55b878cc4113f0d9603e8ac46538aeb1ecd9/data/school.mat",
        "sha256:57fb3238fdd03a9aa17276e2ce18d9bbb5d128c3261e794fe6233b58b6909068",
    ),
    "moleculenet/tox21.csv.gz": (
        f"{_GITHUB}/deepchem/deepchem/55d2274beebf3ce7e5e5eeec79891088b18c88f1/datasets/tox21.csv.gz",
        "sha256:48b34e4e59a2bae6f95734cd206c1869ab355f50a5e50bb7371a21f861d5e297",
    ),
    "cifar100/cifar-100-binary.tar.gz": (
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "md5:03b5dce01913d631647c71ecec9e9cb8",
    ),
    **{
        f"mnist/{name}": (f"{_MNIST}/{name}", f"md5:{digest}")
        for name, digest in (
            ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        )
    },
    **{
        f"fashion/{name}": (f"{_FASHION}/{name}", f"md5:{digest}")
        for name, digest in (
            ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        )
    },
}

LARGEST_MEMBER = 64 * 2**20  # bytes; far above any file of these archives, far below what a hostile one unpacks to


def data_folder() -> Path | None:
    """The folder that the environment variable ``QUICKSTUDY_DATA`` names, if any."""
    folder = os.environ.get("QUICKSTUDY_DATA", "")
    return Path(folder).expanduser() if folder else None


def cache_folder() -> Path:
    """Where downloads and prepared data are kept between runs."""
    return Path(pooch.os_cache("quickstudy"))


def locate(name: str) -> Path:
    """The path of one of :data:`FILES`, downloaded first where there is no data folder.

    Files of a data folder are used as they are: loaders check what they read.

    Raises:
        InputError: the data folder lacks the file, there is no network, or the download has another hash.
    """
    url, expected = FILES[name]
    folder = data_folder()
    if folder is not None:
        path = folder / name
        if not path.is_file():
            raise InputError(
                f"Expected the file {path}, since QUICKSTUDY_DATA names the folder {folder}. Found none. "
                f"Put it there (from {url}), or unset QUICKSTUDY_DATA to download it."
            )
        return path
    path = cache_folder() / name
    try:
        pooch.retrieve(url, expected, path.name, path.parent)
    except ValueError as error:
        found = re.search(r"but got (\w+)", str(error))
        raise InputError(
            f"Expected {url} to have the hash {expected}. Found {found[1] if found else error}. The download was "
            "removed and nothing else touched. Try again; if it stays so, the file was changed at its source: get it "
            f"elsewhere and set QUICKSTUDY_DATA to the folder that holds {name}."
        ) from error
    except OSError as error:
        raise InputError(
            f"Expected to download {url}. Found that it failed ({error}). Check the network, or set QUICKSTUDY_DATA "
            f"to a folder that holds {name}."
        ) from error
    return path


def members(path: Path, suffix: str = ".png") -> Iterator[tuple[str, bytes]]:
    """Names and bytes of a zip's files in sorted order, read without unpacking anything to disk.

    Raises:
        InputError: not a zip, a damaged one, or one with a member outside its folder or too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                name = PurePosixPath(info.filename)
                if name.is_absolute() or ".." in name.parts or "\\" in info.filename:
                    raise InputError(
                        f"Expected members inside the archive's own folder in {path}. Found {info.filename!r}. "
                        "Do not trust this file; get another copy."
                    )
                if info.file_size > LARGEST_MEMBER:
                    raise InputError(
                        f"Expected members of at most {LARGEST_MEMBER:,} bytes in {path}. Found {info.file_size:,} in "
                        f"{info.filename!r}. Do not trust this file; get another copy."
                    )
                if info.filename.endswith(suffix):
                    yield info.filename, archive.read(info)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(
            f"Expected a whole zip archive at {path}. Found one that cannot be read ({error}). Get another copy."
        ) from error


def fingerprint(*paths: Path) -> str:
    """A short hash of files' bytes, which names what was prepared from them."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def prepared(name: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """Arrays that take a while to make: from the cache, else made and put there, whole or not at all.

    Args:
        name: of the cache file; must change with the sources and with the code that reads them.
        make: gives the arrays.
    """
    path = cache_folder() / "prepared" / f"{name}.npz"
    if path.is_file():
        try:
            with path.open("rb") as source, np.load(source, allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)  # damaged: made anew below
    arrays = make()
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as out:
            np.savez_compressed(out, allow_pickle=False, **arrays)
        aside.replace(path)
    except OSError as error:  # a cache saves time, nothing else
        with contextlib.suppress(OSError):
            aside.unlink()
        logging.getLogger(__name__).warning("could not keep %s: %s", path, error)
    return arrays
