"""Where files are kept: a local folder or `s3://bucket/prefix`, the same layout in both.

Files are written whole or not at all: a local file is renamed into place once it is on disk, an S3
object appears with its completed upload. Credentials come from the usual AWS environment.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pyarrow import ArrowException, fs

from market.errors import QuaverError


class Store:
    """A root under which paths like `raw/product=BTC-USD/day=2026-08-09/x` are read and written."""

    def __init__(self, root: str) -> None:
        if "://" in root and not root.startswith("s3://"):
            raise QuaverError(f"{root!r} is no data root; give a folder or s3://bucket/prefix")
        self.is_local = not root.startswith("s3://")
        self._local = Path(root).absolute()
        # Absolute, because the workers of a Ray that is shared run in a folder of their own.
        self.root = str(self._local) if self.is_local else root
        try:
            if self.is_local:
                self._fs, self._base = fs.LocalFileSystem(), str(self._local)
            else:
                self._fs, self._base = fs.FileSystem.from_uri(root)
            if not self._base:
                raise ValueError("there is no bucket in it")
        except (ArrowException, OSError, ValueError) as e:
            raise QuaverError(
                f"cannot use {root!r} as a data root: {e}; give a folder or s3://bucket/prefix"
            ) from None

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return (Store, (self.root,))

    @property
    def filesystem(self) -> fs.FileSystem:
        """The pyarrow file system, for libraries that want one."""
        return self._fs

    def full_path(self, path: str = "") -> str:
        """Return a path as the file system names it."""
        return f"{self._base}/{path}" if path else self._base

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Put a file in place, whole; QuaverError if the root does not take it."""
        with self._named("write", path):
            if self.is_local:
                self._write_local(self._local / path, data)
            else:
                with self._fs.open_output_stream(self.full_path(path)) as out:
                    out.write(data)

    def read(self, path: str) -> bytes:
        """Return a file's bytes; FileNotFoundError if there is none, QuaverError as all others."""
        with (
            self._named("read", path, passing=FileNotFoundError),
            self._fs.open_input_file(self.full_path(path)) as f,
        ):
            return bytes(f.read())

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a file by what `change` makes of its bytes (None if there is none), atomically.

        Others that update it at the same time wait. What `change` raises is passed on.
        """
        with self._locked(path):
            old = self.read(path) if self.exists(path) else None
            new = change(old)
            if new != old:
                self.write(path, new)

    def exists(self, path: str) -> bool:
        """Whether there is a file at this path."""
        with self._named("look for", path):
            return bool(self._fs.get_file_info(self.full_path(path)).type == fs.FileType.File)

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""
        if self.exists(path):
            with self._named("delete", path):
                self._fs.delete_file(self.full_path(path))

    def files(self, under: str) -> list[str]:
        """Return the paths of all files under a folder, sorted; temporary ones left out."""
        selector = fs.FileSelector(self.full_path(under), recursive=True, allow_not_found=True)
        with self._named("list", under):
            found = [i.path for i in self._fs.get_file_info(selector) if i.type == fs.FileType.File]
        base = len(self._base) + 1
        return sorted(p[base:] for p in found if not PurePosixPath(p).name.startswith("."))

    @contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        """Hold a lock on a file of a local root; the lock file goes with its last holder."""
        if not self.is_local:
            yield
            return
        target = self._local / path
        lock = target.with_name(f".{target.name}.lock")
        while True:
            with self._named("lock", path):
                lock.parent.mkdir(parents=True, exist_ok=True)
                held = lock.open("a")
            with held:
                fcntl.flock(held, fcntl.LOCK_EX)
                try:
                    if not os.path.samestat(lock.stat(), os.fstat(held.fileno())):
                        continue
                except FileNotFoundError:
                    continue
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return

    @contextmanager
    def _named(
        self, doing: str, path: str, passing: type[OSError] | tuple[()] = ()
    ) -> Iterator[None]:
        """Turn what the file system raises, but for `passing`, into an error that says where."""
        try:
            yield
        except passing:
            raise
        except (ArrowException, OSError) as e:
            raise QuaverError(
                f"cannot {doing} {path} under {self.root}: {e}; check that this root is the right "
                "one, that it can be reached and that you have the rights"
            ) from None

    @staticmethod
    def _write_local(target: Path, data: bytes | memoryview) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()
