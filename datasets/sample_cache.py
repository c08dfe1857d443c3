"""Samples as plain columns on the local disk, mapped into memory: what training reads.

Parquet has to be decoded anew each time and gives rows in order only. So the samples of a root are
decoded once, into one array a column, under a name made of what they are: any row is then reached
without reading the others, and all trials on a machine share the same pages of memory.
"""

import errno
import hashlib
import os
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from actors.store import Store, sha256
from datasets.loader import no_samples, parse_samples
from datasets.recipe import Recipe
from datasets.samples import Samples
from datasets.table_manifest import Partition, in_threads, read_table_manifests
from datasets.tables import SAMPLES_FORMAT, stored, table_path
from market.errors import QuaverError

_LAYOUT = "1"  # Raised when the same samples give other files.
_EXACT = {"medians", "label"}  # What decides by small differences; models take the rest as f32.
_READERS = 4

OnFile = Callable[[int, int], None]  # Files done, and of how many.


def samples_under(store: Store, recipe: Recipe) -> "CachedSamples":
    """Return what lies under a root just now, by the hashes of its samples files."""
    found = stored(store, "samples")
    known = read_table_manifests(store, "samples", found)

    def digest(of: Partition) -> str:
        return known[of].sha256 if of in known else sha256(_read(store, table_path("samples", *of)))

    hashes = in_threads(digest, found)
    paths = [table_path("samples", *of) for of in found]
    return CachedSamples(store, recipe, tuple(zip(paths, hashes, strict=True)))


@dataclass(frozen=True)
class CachedSamples:
    """The samples that a root held when it was looked at; can be sent to other machines."""

    store: Store
    recipe: Recipe
    files: tuple[tuple[str, str], ...]  # (path, SHA-256), in order of product and day.

    def open(self, on_file: OnFile = lambda done, total: None) -> Samples:
        """Return all samples, in order of product and beat, as read-only maps of files.

        Shares are f32, everything else is as in Parquet. The first call on a machine writes the
        files (`on_file` is told how far it is) and removes those of other samples of the root.
        QuaverError where there are no samples, where they were made by another recipe, where a
        file is broken or has changed, or where the disk does not take them.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", fallback_to_soft=False):
                try:
                    return self._mapped()
                except (OSError, ValueError, EOFError):  # Not there, or damaged: a copy.
                    self._write(on_file)
                    return self._mapped()
        except OSError as e:
            advice = "free some space" if e.errno == errno.ENOSPC else "check its rights"
            raise QuaverError(
                f"cannot keep the samples of {self.store.root} in {self.folder}: {e}; {advice} "
                "and run the same command again"
            ) from None

    @property
    def folder(self) -> Path:
        """The local folder for columns of this root: in the root, or if that is S3 at home."""
        if self.store.is_local:
            return Path(self.store.root) / "cache" / "samples"
        name = hashlib.sha256(self.store.root.encode()).hexdigest()[:16]
        return Path.home() / ".cache" / "quaver" / "samples" / name

    @property
    def key(self) -> str:
        """The name of these samples: the hash of all that decides their columns."""
        parts = (_LAYOUT, SAMPLES_FORMAT, self.recipe, self.files)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]

    def _mapped(self) -> Samples:
        return Samples(
            **{
                column.name: _map(self.folder / self.key / f"{column.name}.npy")
                for column in fields(Samples)
            }
        )

    def _write(self, on_file: OnFile) -> None:
        """Put the columns in place, whole, in place of all others."""
        for other in self.folder.iterdir():
            if other.is_dir():  # Mapped by a run that goes on, it stays until that ends.
                shutil.rmtree(other)
        part = self.folder / f".{uuid.uuid4().hex}"
        part.mkdir()
        try:
            with ExitStack() as stack:
                columns = {
                    column.name: stack.enter_context(_Column(part / f"{column.name}.npy"))
                    for column in fields(Samples)
                }
                for done, day in enumerate(self._days(), 1):
                    for name, column in columns.items():
                        values = getattr(day, name)
                        narrow = values.dtype == np.float64 and name not in _EXACT
                        column.append(values.astype(np.float32) if narrow else values)
                    on_file(done, len(self.files))
                if not columns["beat"].rows:
                    raise no_samples(self.store)
            part.rename(self.folder / self.key)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _days(self) -> Iterator[Samples]:
        """Yield the samples of each file, read a few files ahead."""
        with ThreadPoolExecutor(_READERS) as readers:
            ahead: deque[Future[Samples]] = deque()
            try:
                for path, digest in self.files:
                    ahead.append(readers.submit(self._day, path, digest))
                    if len(ahead) > _READERS:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for day in ahead:
                    day.cancel()

    def _day(self, path: str, digest: str) -> Samples:
        data = _read(self.store, path)
        if sha256(data) != digest:
            raise _changed(self.store, path)
        return parse_samples(self.store, path, data, self.recipe)


def _map(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    # Nothing cannot be mapped: signals, if there are none.
    return np.load(path, mmap_mode=None if 0 in shape else "r")


def _read(store: Store, path: str) -> bytes:
    try:
        return store.read(path)
    except FileNotFoundError:
        raise _changed(store, path) from None


def _changed(store: Store, path: str) -> QuaverError:
    return QuaverError(
        f"{path} under {store.root} is not what its manifest says, or has changed since this run "
        "began: wait for a build that is running or run quaver build --force, then start this run "
        "again, a sweep under another name"
    )


class _Column:
    """A .npy file that grows by rows; on disk, or not at all, when it is left."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._described: dict[str, Any] = {}
        self.rows = 0

    def append(self, values: NDArray[Any]) -> None:
        if not self._described:
            self._describe(values)
        self._file.write(np.ascontiguousarray(values).data)
        self.rows += len(values)

    def _describe(self, values: NDArray[Any]) -> None:
        self._described = {
            "descr": np.lib.format.dtype_to_descr(values.dtype),
            "fortran_order": False,
            "shape": (0, *values.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(self._file, self._described)

    def __enter__(self) -> "_Column":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None and self.rows:
                # The header leaves room for a longer shape, so that a file can grow.
                shape = (self.rows, *self._described["shape"][1:])
                self._file.seek(0)
                np.lib.format.write_array_header_1_0(self._file, self._described | {"shape": shape})
                self._file.flush()
                os.fsync(self._file.fileno())
