"""Where files are kept: a local folder or `s3://bucket/prefix`, the same layout in both.

Files are written whole or not at all: a local file is renamed into place once it is on disk, an S3
object appears with its completed upload. Credentials come from the usual AWS environment.
"""

import hashlib
import os
from pathlib import Path, PurePosixPath

from pyarrow import ArrowException, fs

from market.errors import QuaverError


class Store:
    """A root under which paths like `raw/product=BTC-USD/day=2026-08-09/x` are read and written."""

    def __init__(self, root: str) -> None:
        self.root = root
        if "://" in root and not root.startswith("s3://"):
            raise QuaverError(f"{root!r} is no data root; give a folder or s3://bucket/prefix")
        self.is_local = not root.startswith("s3://")
        self._local = Path(root).absolute()
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
        try:
            if self.is_local:
                self._write_local(self._local / path, data)
            else:
                with self._fs.open_output_stream(self.full_path(path)) as out:
                    out.write(data)
        except (ArrowException, OSError) as e:
            raise QuaverError(f"cannot write {path} under {self.root}: {e}") from None

    def read(self, path: str) -> bytes:
        """Return a file's bytes; FileNotFoundError if there is none."""
        with self._fs.open_input_file(self.full_path(path)) as f:
            return bytes(f.read())

    def exists(self, path: str) -> bool:
        """Whether there is a file at this path."""
        return bool(self._fs.get_file_info(self.full_path(path)).type == fs.FileType.File)

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""
        if self.exists(path):
            self._fs.delete_file(self.full_path(path))

    def files(self, under: str) -> list[str]:
        """Return the paths of all files under a folder, sorted; temporary ones left out."""
        selector = fs.FileSelector(self.full_path(under), recursive=True, allow_not_found=True)
        found = (i.path for i in self._fs.get_file_info(selector) if i.type == fs.FileType.File)
        base = len(self._base) + 1
        return sorted(p[base:] for p in found if not PurePosixPath(p).name.startswith("."))

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
