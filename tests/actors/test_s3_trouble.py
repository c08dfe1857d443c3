"""What the store makes of answers that a server in trouble gives, read from a loopback port."""

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from actors.store import Away, Store
from market.errors import QuaverError

METHODS: dict[str, Callable[[Store], object]] = {
    "write": lambda store: store.write("raw/a", b"data"),
    "update": lambda store: store.update("raw/a", lambda before: b"data"),
    "read": lambda store: store.read("raw/a"),
    "read_if_changed": lambda store: store.read_if_changed("raw/a", None),
    "delete": lambda store: store.delete("raw/a"),
    "files": lambda store: store.files("raw"),
}


def answer(status: str, body: bytes, missing: int = 0) -> bytes:
    """An HTTP answer of which so many bytes never come."""
    length = len(body) + missing
    head = (
        f'HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\nETag: "1"\r\n\r\n'
    )
    return head.encode() + body


def error(status: str, code: str, said: str) -> bytes:
    """An error as S3 servers give it."""
    return answer(status, f"<Error><Code>{code}</Code><Message>{said}</Message></Error>".encode())


class Answering:
    """An S3 root whose server gives one answer to everything, and counts how often."""

    def __init__(self) -> None:
        self.says = b""
        self.asked = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self.asked += 1
                with client, suppress(ConnectionError):
                    client.recv(1 << 16)
                    client.sendall(self.says)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "REGION": "r"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    answering = Answering()
    monkeypatch.setenv("AWS_ENDPOINT_URL", answering.url)
    try:
        yield answering
    finally:
        answering.close()


@pytest.mark.parametrize("method", ["read", "read_if_changed"])
def test_a_file_cut_off_on_its_way_says_that_the_server_is_away(
    server: Answering, method: str
) -> None:
    server.says = answer("200 OK", b"the first half", missing=14)
    with pytest.raises(Away, match=r"cannot read raw/a under s3://bucket/prefix: .*"):
        METHODS[method](Store("s3://bucket/prefix"))


TROUBLES = [
    error("500 Internal Server Error", "InternalError", "We encountered an internal error"),
    error("503 Service Unavailable", "SlowDown", "Please reduce your request rate."),
    error("400 Bad Request", "RequestTimeout", "Your socket connection was not read from"),
    answer("502 Bad Gateway", b"<html>of a proxy before it</html>"),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_server_in_trouble_is_asked_again_and_then_away(
    server: Answering, method: str, trouble: bytes
) -> None:
    server.says = trouble
    with pytest.raises(Away, match=r"raw.* under s3://bucket/prefix: .*in trouble.* disk is full"):
        METHODS[method](Store("s3://bucket/prefix"))
    assert server.asked == 3


NO_ROOM = [
    error("507 Insufficient Storage", "XMinioStorageFull", "Please delete a few objects"),
    error("403 Forbidden", "QuotaExceeded", "of Ceph"),
    error("400 Bad Request", "XMinioAdminBucketQuotaExceeded", "Bucket quota exceeded"),
]


@pytest.mark.parametrize("no_room", NO_ROOM)
def test_a_server_that_says_it_is_full_is_not_waited_for(server: Answering, no_room: bytes) -> None:
    server.says = no_room
    with pytest.raises(QuaverError, match=r"write raw/a under s3://bucket/.*; .*make room") as e:
        Store("s3://bucket/prefix").write("raw/a", b"data")
    assert not isinstance(e.value, Away) and "the rights" not in str(e.value)
    assert server.asked == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_is_full_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(QuaverError, match=r"write a under .*; .*make room there") as e:
            Store(str(tmp_path)).write("a", b"data")
    assert not isinstance(e.value, Away) and "the rights" not in str(e.value)
