"""The store: files are whole or not there, and its errors can be read."""

import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from actors.store import Store, sha256
from market.errors import QuaverError

FILE = "raw/product=BTC-USD/day=2026-08-09/part.parquet"


METHODS: dict[str, Callable[[Store], object]] = {
    "write": lambda store: store.write(FILE, b"data"),
    "read": lambda store: store.read(FILE),
    "exists": lambda store: store.exists(FILE),
    "delete": lambda store: store.delete(FILE),
    "files": lambda store: store.files("raw"),
}


class UnreachableStore(Store):
    """An S3 root whose endpoint is a port where nobody listens."""

    def __init__(self, port: int) -> None:
        super().__init__("s3://bucket/prefix?region=us-east-1")
        self._fs = fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{port}",
            scheme="http",
            access_key="x",
            secret_key="y",
            connect_timeout=1,
            request_timeout=1,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        )


def everything(root: Path) -> list[str]:
    """Every file under a folder, hidden ones included."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_what_is_written_is_read_back_and_listed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for data in (b"one", b"", bytes(range(256)) * 1000):
        store.write(FILE, data)
        assert store.read(FILE) == data
    store.write("raw/a", memoryview(b"bytes"))
    assert store.files("raw") == ["raw/a", FILE]
    assert store.files("windows") == []
    assert store.exists(FILE) and not store.exists("raw") and not store.exists("raw/b")
    store.delete(FILE)
    store.delete(FILE)
    assert everything(tmp_path) == ["raw/a"]
    with pytest.raises(FileNotFoundError):
        store.read(FILE)


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("there_before", [False, True])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, there_before: bool
) -> None:
    store = Store(str(tmp_path))
    if there_before:
        store.write(FILE, b"before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(QuaverError, match="No space left"):
            store.write(FILE, b"after")
    assert everything(tmp_path) == ([FILE] if there_before else [])
    assert not there_before or store.read(FILE) == b"before"


def test_a_file_is_on_disk_before_it_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, seen = Store(str(tmp_path)), []
    fsync = os.fsync

    def watched(fd: int) -> None:
        seen.append((everything(tmp_path), store.files("raw")))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    store.write(FILE, b"data")
    ((on_disk, visible),) = seen
    assert len(on_disk) == 1  # Half written, under another name,
    assert visible == []  # which no reader lists.


def test_a_root_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("a file where a folder should be")
    with pytest.raises(QuaverError) as caught:
        Store(str(tmp_path)).write(FILE, b"data")
    assert str(tmp_path) in str(caught.value) and FILE in str(caught.value)


@pytest.mark.parametrize("method", ["write", "read", "files"])
def test_a_file_where_a_folder_belongs_says_so(tmp_path: Path, method: str) -> None:
    (tmp_path / "raw").write_text("a file where a folder should be")
    with pytest.raises(QuaverError, match=r"(?i)not a directory|file exists") as caught:
        METHODS[method](Store(str(tmp_path)))
    assert str(tmp_path) in str(caught.value) and "raw" in str(caught.value)


def test_a_folder_where_a_file_belongs_and_a_name_that_is_none_say_so(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (tmp_path / FILE).mkdir(parents=True)
    with pytest.raises(QuaverError, match="is a directory"):
        store.read(FILE)
    for method in (store.exists, store.delete, store.read, store.files):
        with pytest.raises(QuaverError, match="File name too long"):
            method("x" * 300)


@pytest.mark.parametrize("method", METHODS)
def test_an_endpoint_that_cannot_be_reached_says_so(method: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound, but it does not listen.
        store = UnreachableStore(taken.getsockname()[1])
        with pytest.raises(QuaverError) as caught:
            METHODS[method](store)
    said = str(caught.value)
    assert "s3://bucket/prefix" in said and "raw" in said and "can be reached" in said


def test_a_local_root_is_the_same_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("data")
    store.write(FILE, b"data")
    sent = pickle.dumps(store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(sent).read(FILE) == Store(store.root).read(FILE) == b"data"
    assert store.root == str(tmp_path / "data")


@pytest.mark.parametrize("root", ["nowhere://bucket/prefix", "s3x:// /", "://"])
def test_a_root_that_is_none_says_what_to_give(root: str) -> None:
    with pytest.raises(QuaverError, match="s3://bucket/prefix"):
        Store(root)


def test_a_store_travels_between_processes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write(FILE, b"data")
    assert pickle.loads(pickle.dumps(store)).read(FILE) == b"data"


def test_sha256_is_that_of_the_bytes() -> None:
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(b"abc") == sha256(memoryview(b"abc")) == wanted
