"""Where files come from: a data folder, a checked download, a cache."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from quickstudy.core import InputError
from quickstudy.tasks import download

CONTENT = b"what the source holds"


class _Source(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200 if self.path == "/file.bin" else 404)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    """A server on this machine."""
    _Source.asked = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Source)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no data folder."""
    monkeypatch.delenv("QUICKSTUDY_DATA", raising=False)
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def known(monkeypatch: pytest.MonkeyPatch, url: str, digest: str) -> None:
    monkeypatch.setitem(download.FILES, "set/file.bin", (url, digest))


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_is_downloaded_once(cache: Path, url: str, monkeypatch: pytest.MonkeyPatch, algorithm: str) -> None:
    digest = hashlib.new(algorithm, CONTENT).hexdigest()
    known(monkeypatch, f"{url}/file.bin", f"{algorithm}:{digest}")
    for _ in range(2):
        path = download.locate("set/file.bin")
        assert path == cache / "set" / "file.bin" and path.read_bytes() == CONTENT
    assert _Source.asked == 1


def test_a_file_that_was_damaged_in_the_cache_is_downloaded_again(
    cache: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, f"{url}/file.bin", f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")
    download.locate("set/file.bin").write_bytes(b"cut off")
    assert download.locate("set/file.bin").read_bytes() == CONTENT


def test_a_wrong_hash(cache: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expected, found, what to do; the bad file is gone and others are as they were."""
    known(monkeypatch, f"{url}/file.bin", f"sha256:{'0' * 64}")
    other = cache / "set" / "other.bin"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"earlier result")
    with pytest.raises(InputError) as error:
        download.locate("set/file.bin")
    assert f"sha256:{'0' * 64}" in str(error.value)
    assert hashlib.sha256(CONTENT).hexdigest() in str(error.value)
    assert "QUICKSTUDY_DATA" in str(error.value)
    assert [path.name for path in other.parent.iterdir()] == ["other.bin"]
    assert other.read_bytes() == b"earlier result"


def test_no_network(cache: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("http://127.0.0.1:9/file.bin", f"{url}/moved.bin"):
        known(monkeypatch, address, f"sha256:{'0' * 64}")
        with pytest.raises(InputError, match="Found that it failed .*Check the network, or set QUICKSTUDY_DATA"):
            download.locate("set/file.bin")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_data_folder_is_used_as_it_is(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    known(monkeypatch, "http://127.0.0.1:9/", f"sha256:{'0' * 64}")
    with pytest.raises(InputError, match=r"set/file.bin, since QUICKSTUDY_DATA names the folder .* Found none"):
        download.locate("set/file.bin")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin").write_bytes(b"my own")
    assert download.locate("set/file.bin").read_bytes() == b"my own"


def test_every_known_file_has_an_address_and_a_hash() -> None:
    length = {"md5": 32, "sha256": 64}
    for url, digest in download.FILES.values():
        algorithm, _, value = digest.partition(":")
        assert url.startswith("https://") and len(value) == length[algorithm]


def archive(path: Path, **content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for name, data in content.items():
            out.writestr(name, data)
    return path


def test_members_of_an_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", **{"b/2.png": b"two", "a/1.png": b"one", "a/notes.txt": b"no", "a/": b""})
    assert list(download.members(path)) == [("a/1.png", b"one"), ("b/2.png", b"two")]


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png"])
def test_an_archive_that_reaches_out_of_its_folder(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.zip", **{name: b"x"})
    with pytest.raises(InputError, match="inside the archive's own folder.*evil.*Do not trust this file"):
        list(download.members(path))


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LARGEST_MEMBER", 10)
    path = archive(tmp_path / "a.zip", **{"a.png": b"x" * 11})
    with pytest.raises(InputError, match=r"at most 10 bytes in .* Found 11 in 'a.png'"):
        list(download.members(path))


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", **{"a.png": b"x" * 100})
    data = bytearray(path.read_bytes())
    for spoiled in (bytes(data[:-30]), b"no zip at all", bytes(data[:40]) + b"?" + bytes(data[41:])):
        path.write_bytes(spoiled)
        with pytest.raises(InputError, match="a whole zip archive at .* cannot be read .*another copy"):
            list(download.members(path))


def test_what_takes_a_while_is_made_once(cache: Path) -> None:
    calls = []

    def make() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"a": np.arange(3)}

    for _ in range(2):
        assert download.prepared("thing", make)["a"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    kept = cache / "prepared" / "thing.npz"
    kept.write_bytes(kept.read_bytes()[:50])  # cut off: made again, and whole again
    for _ in range(2):
        assert download.prepared("thing", make)["a"].tolist() == [0, 1, 2]
    assert len(calls) == 2
    assert [path.name for path in kept.parent.iterdir()] == ["thing.npz"]


def test_nothing_in_the_cache_is_unpickled(cache: Path) -> None:
    kept = cache / "prepared" / "thing.npz"
    kept.parent.mkdir(parents=True)
    hostile = io.BytesIO()
    np.savez(hostile, a=np.array([{"any": "object"}], dtype=object), allow_pickle=True)
    kept.write_bytes(hostile.getvalue())
    assert download.prepared("thing", lambda: {"a": np.arange(2)})["a"].tolist() == [0, 1]


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")
    assert download.prepared("thing", lambda: {"a": np.arange(2)})["a"].tolist() == [0, 1]
