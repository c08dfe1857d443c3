"""Where files are kept: a local folder or `s3://bucket/prefix`, the same layout in both.

Files are written whole or not at all: a local file is renamed into place once it is on disk, an S3
object is one put. Credentials and endpoint come from the usual AWS environment, which boto3 (that
does all work here) and pyarrow (for libraries that want a file system) understand alike. Nothing is
sent before a path is used, so that a collector can start while its S3 is away; a server that is
gone, or accepts and then stays silent, makes a call fail within two minutes.
"""

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath

from botocore.exceptions import BotoCoreError, ClientError
from filelock import FileLock
from pyarrow import ArrowException, fs

from actors import s3
from actors.durable import make_folder, write_durably
from market.errors import QuaverError

_LOCK_TIMEOUT_S, _LOCK_POLL_S = 60.0, 0.005
_UPDATE_TRIES = 50
_UPDATE_BACKOFF_S = 0.02  # Doubled with each try, at most _UPDATE_MAX_BACKOFF_S; full jitter.
_UPDATE_MAX_BACKOFF_S = 1.0
_ABSENT_FILE = "raw"  # There is a folder of that name, never a file.


class Away(QuaverError):
    """The server did not answer, or is in trouble: it may work later."""


class Store:
    """A root under which paths like `raw/product=BTC-USD/day=2026-08-09/x` are read and written."""

    def __init__(self, root: str) -> None:
        self.is_local = not root.startswith("s3://")
        if not self.is_local:
            s3.check_uri(root)
        elif "://" in root:
            raise QuaverError(f"{root!r} is no data root; give a folder or s3://bucket/prefix")
        self._local = Path(root).absolute()
        # Absolute, because the workers of a Ray that is shared run in a folder of their own.
        self.root = str(self._local) if self.is_local else root
        try:
            if self.is_local:
                self._base = str(self._local)
            else:
                # With a region behind its own options, which go first, none is looked up.
                parsed = f"{root}{'&' if '?' in root else '?'}region=none"
                _, self._base = fs.FileSystem.from_uri(parsed)
                self._s3 = s3.client(root, s3.CONFIG)
            if not self._base:
                raise ValueError("there is no bucket in it")
        except (ArrowException, BotoCoreError, OSError, ValueError) as e:
            raise QuaverError(
                f"cannot use {root!r} as a data root: {e}; give a folder or s3://bucket/prefix"
            ) from None

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return (Store, (self.root,))

    @property
    def filesystem(self) -> fs.FileSystem:
        """The pyarrow file system, for libraries that want one; QuaverError as in `write`."""
        with self._named("reach", "what lies"):
            return self._fs

    def check(self) -> str | None:
        """Return in words why the root cannot be reached just now, None if it can; takes seconds.

        QuaverError if it is for the user to mend: no such bucket, wrong keys.
        """
        with self._named("read", _ABSENT_FILE):
            try:
                if not self.is_local:
                    client = s3.client(self.root, s3.CHECK_CONFIG)
                    client.get_object(**self._named_object(_ABSENT_FILE))
            except (BotoCoreError, ClientError) as e:
                if s3.is_away(e):
                    return str(e)
                if s3.code(e) not in s3.ABSENT:
                    raise
        return None

    def full_path(self, path: str = "") -> str:
        """Return a path as the file system names it."""
        return f"{self._base}/{path}" if path else self._base

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Put a file in place, whole; QuaverError if the root does not take it."""
        with self._named("write", path):
            if self.is_local:
                write_durably(self._local / path, data)
            else:
                self._s3.put_object(**self._named_object(path), Body=bytes(data))

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        """Put `change(bytes of the file, None if there is none)` in the place of a small file.

        Atomic among all who update it, threads, processes and machines. `change` may be called
        several times, on S3 also on a file that has it already, where the answer was lost: it must
        be idempotent. What it raises is raised, and nothing is written; nor where it changes
        nothing. QuaverError as in `write`.
        """
        if self.is_local:
            with self._locked(path):
                with self._named("read", path):
                    target = self._local / path
                    before = target.read_bytes() if target.exists() else None
                after = change(before)
                if after != before:
                    self.write(path, after)
            return
        for lost in range(_UPDATE_TRIES):
            with self._named("update", path):
                before, condition = self._read_tagged(path)
            after = change(before)
            if after == before:
                return
            with self._named("update", path):
                if self._put_if(path, after, condition):
                    return
            backoff_s = min(_UPDATE_MAX_BACKOFF_S, _UPDATE_BACKOFF_S * 2 ** min(lost, 16))
            time.sleep(random.uniform(0, backoff_s))
        raise QuaverError(
            f"cannot update {path} under {self.root}: others changed it {_UPDATE_TRIES} times "
            "meanwhile; try again when fewer write there"
        )

    def read(self, path: str) -> bytes:
        """Return a file's bytes; FileNotFoundError if there is none, QuaverError as all others."""
        with self._named("read", path, passing=FileNotFoundError):
            if self.is_local:
                with self._fs.open_input_file(self.full_path(path)) as f:
                    return bytes(f.read())
            # In one request: pyarrow asks for the size first, and cuts off what grows in between.
            data, _ = self._read_tagged(path)
            if data is None:
                raise FileNotFoundError(self.full_path(path))
            return data

    def read_if_changed(self, path: str, tag: str | None) -> tuple[bytes, str] | None:
        """Return a file's bytes and a tag of them; None if that is `tag`, which is cheap.

        It changes whenever the file is replaced. Errors as in `read`.
        """
        with self._named("read", path, passing=FileNotFoundError):
            if self.is_local:
                with (self._local / path).open("rb") as f:
                    of = os.fstat(f.fileno())
                    found = f"{of.st_ino}-{of.st_ctime_ns}-{of.st_size}"
                    return None if found == tag else (f.read(), found)
            condition = {"IfNoneMatch": tag} if tag else {}
            try:
                answer = self._s3.get_object(**self._named_object(path), **condition)
            except ClientError as e:
                if s3.code(e) in s3.UNCHANGED:
                    return None
                if s3.code(e) in s3.ABSENT:
                    raise FileNotFoundError(self.full_path(path)) from None
                raise
            return s3.body_of(answer), answer["ETag"]

    def exists(self, path: str) -> bool:
        """Whether there is a file at this path."""
        with self._named("look for", path):
            if self.is_local:
                return bool(self._fs.get_file_info(self.full_path(path)).type == fs.FileType.File)
            try:
                self._s3.head_object(**self._named_object(path))
            except ClientError as e:
                if s3.code(e) not in s3.ABSENT:
                    raise
                return False
            return True

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""
        with self._named("delete", path):
            if self.is_local:
                (self._local / path).unlink(missing_ok=True)
            else:
                self._s3.delete_object(**self._named_object(path))

    def delete_unfinished(self, folder: str) -> None:
        """Remove what writers into a folder left that were killed; nobody may be writing there."""
        if self.is_local:
            with self._named("clear", folder):
                for left in (self._local / folder).glob(".*.tmp"):
                    left.unlink(missing_ok=True)

    def files(self, under: str) -> list[str]:
        """Return the paths of all files under a folder, sorted; temporary ones left out."""
        return sorted(self.sizes(under))

    def sizes(self, under: str) -> dict[str, int]:
        """Return the path and bytes of every file under a folder; temporary ones left out."""
        with self._named("list", under):
            found = self._list_local(under) if self.is_local else self._list_s3(under)
            base = len(self._base) + 1
            return {
                path[base:]: size
                for path, size in found
                if not PurePosixPath(path).name.startswith(".")
            }

    @contextmanager
    def _named(
        self, doing: str, path: str, passing: type[OSError] | tuple[()] = ()
    ) -> Iterator[None]:
        """Turn what the file system raises, but for `passing`, into an error that says where."""
        try:
            yield
        except passing:
            raise
        except (ArrowException, BotoCoreError, ClientError, OSError) as e:
            away = isinstance(e, BotoCoreError | ClientError) and s3.is_away(e)
            if s3.is_full(e):
                advice = "there is no room for it: make room there, then try again"
            elif away and isinstance(e, ClientError):
                advice = (
                    "the server answers but is in trouble: if that does not pass, see whether its "
                    "disk is full, and what its log says"
                )
            else:
                advice = (
                    "check that this root is the right one, that it can be reached and that you "
                    "have the rights"
                )
            raise (Away if away else QuaverError)(
                f"cannot {doing} {path} under {self.root}: {e}; {advice}"
            ) from None

    @contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        """Hold a local file's lock, which the system lets go if its holder dies."""
        target = self._local / path
        beside = target.with_name(f".{target.name}.lock")
        lock = FileLock(
            beside,
            timeout=_LOCK_TIMEOUT_S,
            poll_interval=_LOCK_POLL_S,
            fallback_to_soft=False,  # That would be a file, which outlives its holder.
        )
        with self._named("lock", path):
            make_folder(target.parent)
            lock.acquire()
        try:
            yield
        finally:
            # Gone while it is held: who waits sees that its file has no name, and opens another.
            beside.unlink(missing_ok=True)
            lock.release()

    @cached_property
    def _fs(self) -> fs.FileSystem:
        return fs.LocalFileSystem() if self.is_local else s3.filesystem(self.root, self._s3)

    def _list_local(self, under: str) -> Iterator[tuple[str, int]]:
        selector = fs.FileSelector(self.full_path(under), recursive=True, allow_not_found=True)
        for found in self._fs.get_file_info(selector):
            if found.type == fs.FileType.File:
                yield found.path, found.size

    def _list_s3(self, under: str) -> Iterator[tuple[str, int]]:
        """Ask boto3, which says whether a server is away; pyarrow says it in words only."""
        bucket, _, folder = self.full_path(under).partition("/")
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{folder}/" if folder else ""
        )
        for page in pages:
            for found in page.get("Contents", []):
                if not found["Key"].endswith("/"):
                    yield f"{bucket}/{found['Key']}", found["Size"]

    def _named_object(self, path: str) -> dict[str, str]:
        bucket, _, key = self.full_path(path).partition("/")
        return {"Bucket": bucket, "Key": key}

    def _read_tagged(self, path: str) -> tuple[bytes | None, dict[str, str]]:
        """Return an object's bytes and the condition that it is still the same."""
        try:
            found = self._s3.get_object(**self._named_object(path))
            return s3.body_of(found), {"IfMatch": found["ETag"]}
        except ClientError as e:
            if s3.code(e) not in s3.ABSENT:
                raise
            return None, {"IfNoneMatch": "*"}

    def _put_if(self, path: str, data: bytes, condition: dict[str, str]) -> bool:
        """Put an object under a condition; False if it does not hold any more."""
        try:
            self._s3.put_object(**self._named_object(path), Body=data, **condition)
        except ClientError as e:
            if s3.code(e) not in s3.LOST_RACE | s3.ABSENT:
                raise
            return False
        return True


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()
