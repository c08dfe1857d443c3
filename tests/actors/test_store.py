"""The store: files are whole or not there, and its errors can be read."""

import itertools
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from actors import s3
from actors import store as store_module
from actors.store import Store, sha256
from market.errors import QuaverError
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server

pytestmark = pytest.mark.slow


FILE = "raw/product=BTC-USD/day=2026-08-09/part.parquet"


METHODS: dict[str, Callable[[Store], object]] = {
    "write": lambda store: store.write(FILE, b"data"),
    "update": lambda store: store.update(FILE, lambda before: b"data"),
    "read": lambda store: store.read(FILE),
    "read_if_changed": lambda store: store.read_if_changed(FILE, None),
    "exists": lambda store: store.exists(FILE),
    "delete": lambda store: store.delete(FILE),
    "files": lambda store: store.files("raw"),
}


class UnreachableStore(Store):
    """An S3 root whose endpoint is a port where nobody listens."""

    def __init__(self, port: int) -> None:
        super().__init__("s3://bucket/prefix?region=us-east-1")
        self._s3 = boto3.session.Session("x", "y").client(
            "s3",
            region_name="us-east-1",
            endpoint_url=f"http://127.0.0.1:{port}",
            config=Config(retries={"total_max_attempts": 1}),
        )


def everything(root: Path) -> list[str]:
    """Every file under a folder, hidden ones included."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def plus_one(before: bytes | None) -> bytes:
    """The number in a file, one higher."""
    return str(int(before or b"0") + 1).encode()


def test_what_is_written_is_read_back_and_listed(root: str) -> None:
    store = Store(root)
    for data in (b"one", b"", bytes(range(256)) * 1000, os.urandom(12 << 20)):
        store.write(FILE, data)
        assert store.read(FILE) == data
    store.write("raw/a", memoryview(b"bytes"))
    assert store.files("raw") == ["raw/a", FILE]
    assert store.files("windows") == []
    assert store.exists(FILE) and not store.exists("raw") and not store.exists("raw/b")
    store.delete(FILE)
    store.delete(FILE)
    assert store.files("") == ["raw/a"]
    with pytest.raises(FileNotFoundError):
        store.read(FILE)


def test_nothing_but_what_was_written_lies_in_a_folder(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write(FILE, b"one")
    store.write(FILE, b"two")
    store.delete(FILE)
    assert everything(tmp_path) == []


# Updates.


def test_an_update_sees_what_was_there_and_replaces_it(root: str) -> None:
    store, seen = Store(root), []
    for after in (b"one", b"", b"two"):
        store.update(FILE, lambda before, after=after: (seen.append(before), after)[1])
        assert store.read(FILE) == after
    assert seen == [None, b"one", b""]
    assert store.files("raw") == [FILE]
    assert not store.is_local or everything(Path(root)) == [FILE]  # No lock is left.


def test_a_change_that_fails_changes_nothing_and_holds_nothing(root: str) -> None:
    store = Store(root)
    for before in (None, b"1"):
        with pytest.raises(ZeroDivisionError):
            store.update(FILE, lambda _: bytes(1 // 0))
        assert store.exists(FILE) == (before is not None)
        store.update(FILE, plus_one)
    assert store.read(FILE) == b"2"


COUNT = """
import sys
from actors.store import Store
store = Store(sys.argv[1])
sys.stdin.readline()
for _ in range(50):
    store.update(sys.argv[2], lambda before: str(int(before or b"0") + 1).encode())
"""


def in_another_process(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Python that runs `code`; its input and output are ours."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_that_update_one_file_lose_no_update(root: str) -> None:
    counting = [in_another_process(COUNT, root, FILE) for _ in range(4)]
    try:
        for one in counting:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        for one in counting:
            one.communicate(timeout=100)
            assert one.returncode == 0
    finally:
        for one in counting:
            one.kill()
            one.communicate()
    assert Store(root).read(FILE) == b"200"


def test_threads_that_share_a_store_lose_no_update(root: str) -> None:
    store = Store(root)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: store.update(FILE, plus_one), range(20)))
    assert store.read(FILE) == b"20"


HOLD = """
import sys, time
from actors.store import Store
def hold(before):
    print("held", flush=True)
    time.sleep(1000)
Store(sys.argv[1]).update(sys.argv[2], hold)
"""


def test_a_file_that_grows_is_read_whole_as_it_was_or_as_it_is(root: str) -> None:
    store, whole = Store(root), [b"x" * n + b"." for n in range(1, 3_000, 100)]
    store.write(FILE, whole[0])
    with ThreadPoolExecutor(1) as thread:
        growing = thread.submit(lambda: [store.write(FILE, data) for data in whole * 4])
        while not growing.done():
            assert store.read(FILE) in whole
        growing.result()


def test_who_is_killed_in_an_update_leaves_no_lock(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_LOCK_TIMEOUT_S", 0.1)
    store, holder = Store(root), in_another_process(HOLD, root, FILE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        if store.is_local:
            with pytest.raises(QuaverError, match="cannot lock raw/"):
                store.update(FILE, plus_one)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        store.update(FILE, plus_one)
    finally:
        holder.kill()
        holder.communicate()
    assert store.read(FILE) == b"1"


def test_an_update_that_others_always_overtake_gives_up(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_UPDATE_BACKOFF_S", 0.0)
    store, numbers = Store(s3_root), itertools.count()

    def overtaken(before: bytes | None) -> bytes:
        store.write(FILE, str(next(numbers)).encode())
        return b"mine"

    with pytest.raises(QuaverError, match="others changed it 50 times"):
        store.update(FILE, overtaken)
    assert store.read(FILE) == b"49"


def test_an_update_goes_on_where_the_file_was_deleted_meanwhile(s3_root: str) -> None:
    store, seen = Store(s3_root), []
    store.write(FILE, b"7")

    def change(before: bytes | None) -> bytes:
        seen.append(before)
        store.delete(FILE)
        return b"mine"

    store.update(FILE, change)
    assert (seen, store.read(FILE)) == ([b"7", None], b"mine")


# Writes that fail.


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
    folders = len(Path(FILE).parents) - 1
    before, (on_disk, visible), after = seen[:folders], seen[folders], seen[folders + 1 :]
    assert before == [([], [])] * folders  # Each folder's name is on disk before what it holds.
    assert len(on_disk) == 1  # Half written, under another name,
    assert visible == []  # which no reader lists.
    assert after == [([FILE], [FILE])]  # The rename is on disk before `write` returns.


class Cutter:
    """A port that leads to a server, but cuts each connection after so many bytes to it."""

    def __init__(self, server: str, cut_after: int) -> None:
        host, port = server.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self._cut_after = cut_after
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self.cut = 0

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                with client, socket.create_connection(self._server) as server:
                    left = self._cut_after
                    while left and (data := client.recv(min(left, 1 << 16))):
                        server.sendall(data)
                        left -= len(data)
                    self.cut += not left

    @contextmanager
    def open(self) -> Iterator["Cutter"]:
        """Serve until the end of the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["write", "update"])
@pytest.mark.parametrize("there_before", [False, True])
def test_a_put_that_is_cut_off_leaves_what_was_there(
    s3_root: str,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    there_before: bool,
    method: str,
) -> None:
    store, data = Store(s3_root), os.urandom(12 << 20)
    if there_before:
        store.write(FILE, b"before")
    monkeypatch.setattr(s3, "CONFIG", Config(retries={"total_max_attempts": 1}))
    with Cutter(s3_server.url, 8 << 20).open() as cutter:
        monkeypatch.setenv("AWS_ENDPOINT_URL", cutter.url)
        cut = Store(f"{s3_root}?region=us-east-1")
        if method == "update":  # Only the put is cut.
            monkeypatch.setattr(cut, "_read_tagged", store._read_tagged)
        with pytest.raises(QuaverError, match=FILE):
            cut.write(FILE, data) if method == "write" else cut.update(FILE, lambda _: data)
        assert cutter.cut == 1
    assert store.files("") == ([FILE] if there_before else [])
    assert not there_before or store.read(FILE) == b"before"
    listed = store._s3.list_multipart_uploads(Bucket=store.full_path().split("/")[0])
    assert not listed.get("Uploads")


@pytest.mark.slow
def test_what_a_server_acknowledged_before_it_was_killed_is_there(
    s3_root: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as once:
        once.setattr(s3, "CONFIG", Config(retries={"total_max_attempts": 1}))
        store = Store(s3_root)
    rng = random.Random(1)
    wanted = {f"raw/{i:04d}": rng.randbytes(rng.randrange(1, 1 << 19)) for i in range(2_000)}
    acknowledged: set[str] = set()
    enough = threading.Event()

    def write(path: str) -> None:
        store.write(path, wanted[path])
        acknowledged.add(path)
        if len(acknowledged) > 100:
            enough.set()

    with ThreadPoolExecutor(4) as threads:
        writes = [threads.submit(write, path) for path in wanted]
        assert enough.wait(60)
        s3_server.kill9()
        failed = sum(isinstance(w.exception(), QuaverError) for w in writes)
    s3_server.restart()
    assert failed == len(wanted) - len(acknowledged) > 0
    store = Store(s3_root)  # One that asks a server which has just come back more than once.
    found = set(store.files("raw"))
    assert acknowledged <= found
    assert all(store.read(path) == wanted[path] for path in found)
    store.write(FILE, b"after")
    assert store.read(FILE) == b"after"


# What errors say.


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


@pytest.mark.parametrize("method", METHODS)
def test_no_error_tells_a_key(s3_root: str, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong := "a-wrong-secret")
    store = Store(s3_root)
    with pytest.raises(QuaverError) as caught:
        METHODS[method](store)
    for key in (wrong, SECRET_KEY, ACCESS_KEY):
        assert key not in str(caught.value) + repr(store) + repr(store.__reduce__())


@pytest.mark.parametrize(
    "root", ["s3://name:word@bucket/x", "s3://bucket/x?access_key=name&secret_key=word"]
)
def test_a_root_with_keys_in_it_is_refused_without_repeating_them(root: str) -> None:
    with pytest.raises(QuaverError, match="must not hold keys") as caught:
        Store(root)
    assert "word" not in str(caught.value) and "name" not in str(caught.value)


def test_an_address_with_an_option_that_is_none_names_it() -> None:
    with pytest.raises(QuaverError, match=r"s3://bucket/x has the unknown options regio;.*region"):
        Store("s3://bucket/x?regio=us-east-1")


def test_an_address_may_name_the_server(
    s3_root: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(s3_root).write(FILE, b"data")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    server = s3_server.url.removeprefix("http://")
    store = Store(f"{s3_root}?scheme=http&endpoint_override={server}")
    store.update(FILE, lambda before: (before or b"") + b" and more")
    assert store.read(FILE) == b"data and more"
    assert store.files("raw") == [FILE] and store.exists(FILE)


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
