"""The spool: what a collector receives, on local disk within a second, whatever the root does.

The reading loop only appends to a list in memory. One thread writes it to the current segment and
fsyncs; a finished segment goes to the mover, which turns it into parts under the root.
"""

import hashlib
import os
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from actors.durable import write_durably
from actors.mover import Mover
from actors.segments import (
    Counts,
    Entry,
    Header,
    Put,
    SegmentFile,
    claim,
    encode_block,
    encode_header,
    gathered,
    make_writer,
    segments_of,
    still_open,
)
from actors.store import Store
from market.errors import QuaverError
from market.products import Product

_BLOCK_ROWS = 100_000  # Written and fsync'd at once.
_ROOM_AGAIN = 0.8  # Of a limit that was reached, before there is room again.
_RETRY_S = 0.2
_LOOKING = 50  # Times as long as it takes to look at the folder, until it is looked at again.


class SpoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where and how much is kept on the way to the root."""

    folder: Annotated[
        str | None,
        msgspec.Meta(description="local folder; by default in the root, or if that is S3 at home"),
    ] = None
    flush_s: Annotated[
        float, msgspec.Meta(gt=0, le=1, description="what is received is on disk after this long")
    ] = 0.5
    max_bytes: Annotated[
        int, msgspec.Meta(gt=0, description="of disk; beyond, frames are dropped and a gap noted")
    ] = 8 << 30
    buffer_rows: Annotated[
        int, msgspec.Meta(gt=0, description="that may wait in memory for the disk")
    ] = 1_000_000
    segment_rows: Annotated[
        int, msgspec.Meta(gt=0, description="after which a segment goes to the root")
    ] = 500_000
    segment_s: Annotated[
        float, msgspec.Meta(gt=0, description="after which a segment goes to the root")
    ] = 900.0


class SpoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What waits where, and what went wrong last."""

    buffered_rows: int
    spool_bytes: int  # Of all collectors of this folder, what is set aside included.
    segments: int  # Of this collector, the one being written included.
    moved_parts: int
    moved_bytes: int
    refused: int  # Files set aside because the root's partitions do not take them.
    last_error: str | None
    oldest_unmoved_s: float  # Since the oldest finished segment was; 0 if there is none.


def spool_folder(store: Store, config: SpoolConfig) -> Path:
    """Return the folder that collectors of this root on this machine share."""
    if config.folder:
        return Path(config.folder).expanduser().absolute()
    if store.is_local:
        return Path(store.root) / "spool"
    name = hashlib.sha256(store.root.encode()).hexdigest()[:12]
    return Path.home() / ".local" / "state" / "quaver" / "spool" / name


class Spool:
    """The recorder's sink of one collector. `put` is called by one thread, `close` by any.

    `source`, where the rows come from, may change: then all that is not written yet is of the new
    one, and in another segment than what is.
    """

    def __init__(self, store: Store, source: str, name: str, config: SpoolConfig) -> None:
        """Begin a segment, and adopt what killed collectors left; QuaverError without a folder."""
        self._config = config
        self.source, self._name = source, name
        self._folder = spool_folder(store, config)
        self._writer = secrets.token_hex(4)
        self._waiting: deque[Put | Callable[[], None]] = deque()
        self._put_rows = self._written_rows = 0
        self._disk_bytes = self._refused = 0
        self._look_again_s = 0.0
        self._over_disk = self._over_buffer = self._stuck = False
        self._error: str | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._open: dict[str, Entry] = {}
        try:
            if config.folder:
                claim(self._folder, store.root)
            safe = re.sub(r"[^A-Za-z0-9_.]", "_", name).lstrip(".")
            self._own, self._lock = make_writer(self._folder, f"{safe}-{self._writer}")
            self._current = self._begin_segment(0)
        except OSError as e:
            raise QuaverError(
                f"cannot keep a spool in {self._folder}: {e}; give a local folder that can be "
                "written"
            ) from None
        self._mover = Mover(store, self._folder, self._own)
        self._thread = threading.Thread(target=self._run, name=f"spool-{name}", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether there is no room: put no rows until there is, marks only."""
        waiting, limit = self._put_rows - self._written_rows, self._config.buffer_rows
        self._over_buffer = waiting >= limit * (_ROOM_AGAIN if self._over_buffer else 1)
        return self._over_buffer or self._over_disk or self._stuck

    def put(
        self,
        product: Product,
        day: str,
        session_ns: int,
        rows: NDArray[np.void],
        counts: Counts | None,
        book: str | None = None,
    ) -> None:
        """Take rows; never waits, and never raises for trouble with the disk or the root."""
        if not len(rows):
            return
        self._waiting.append((product, day, session_ns, rows, counts, book))
        self._put_rows += len(rows)
        if self._put_rows - self._written_rows > _BLOCK_ROWS and not self._wake.is_set():
            self._wake.set()

    def flush(self, done: Callable[[], None]) -> None:
        """Have all that was put so far on disk soon, then `done` called in the spool's thread."""
        self._waiting.append(done)
        self._wake.set()

    def status(self) -> SpoolStatus:
        """Return what waits where."""
        return SpoolStatus(
            buffered_rows=self._put_rows - self._written_rows,
            spool_bytes=self._disk_bytes,
            segments=self._mover.waiting + self._thread.is_alive(),
            moved_parts=self._mover.parts,
            moved_bytes=self._mover.bytes,
            refused=self._refused,
            last_error=self._error or self._mover.last_error,
            oldest_unmoved_s=self._mover.oldest_s,
        )

    def close(self, patience_s: float = 10.0) -> None:
        """Write what was put and move what can be moved in this time.

        What cannot stays on disk for the next collector on this machine; `status` says so.
        """
        until = time.monotonic() + patience_s
        self._closing.set()
        self._wake.set()
        self._thread.join(max(0.1, until - time.monotonic()))
        stopped = self._mover.close(max(0.1, until - time.monotonic()))
        if self._lock is not None and stopped and not self._thread.is_alive():
            os.close(self._lock)
            self._lock = None
        self._look_again_s = 0.0
        self._look_at_disk()
        if rows := self._put_rows - self._written_rows:
            self._error = f"{rows} rows could not be written to {self._own}: {self._error}"
        elif left := len(segments_of(self._own)):
            why = f" ({self._mover.last_error})" if self._mover.last_error else ""
            self._error = (
                f"{left} segments stay in {self._own}{why}; the next start moves them to the root"
            )

    def _begin_segment(self, number: int) -> "SegmentFile":
        """Begin a segment, which says first where it comes from and what sessions are open."""
        source = self.source
        header = Header(writer=self._writer, number=number, source=source, collector=self._name)
        path = self._own / f"{number:08d}.seg"
        data = encode_header(header)
        if self._open:
            data += encode_block(
                [msgspec.structs.replace(e, rows=0, counts=None) for e in self._open.values()], []
            )
        write_durably(path, data)
        self._source_written = source
        return SegmentFile(path, number, len(data))

    def _run(self) -> None:
        while True:
            closing = self._closing.is_set()
            if not closing:
                self._wake.wait(self._config.flush_s)
            self._wake.clear()
            puts, dones = self._take()
            if puts:
                self._write_until_done(puts)
            for done in dones:
                try:
                    done()
                except Exception as e:  # Its loop may have gone; ours goes on.
                    self._error = f"what waited for the spool failed: {e!r}"
            self._rotate()
            self._look_at_disk()
            if closing and not self._waiting:
                self._current.close()
                self._mover.offer(self._current.path, last=True)
                return

    def _take(self) -> tuple[list["Put"], list[Callable[[], None]]]:
        """Take a block's worth of what waits, in order; what is to be called stands behind it."""
        puts: list[Put] = []
        dones: list[Callable[[], None]] = []
        rows = 0
        while self._waiting and rows < _BLOCK_ROWS:
            item = self._waiting.popleft()
            if callable(item):
                dones.append(item)
            else:
                puts.append(item)
                rows += len(item[3])
        if self._waiting:
            self._wake.set()
        return puts, dones

    def _write_until_done(self, puts: list["Put"]) -> None:
        """Write one block, in a segment of its source."""
        if self._source_written != self.source:
            self._insist(self._next_segment)
        entries, rows = gathered(puts, self._current.number)
        count = sum(entry.rows for entry in entries)
        data = encode_block(entries, rows)
        self._insist(lambda: self._current.append(data, count))
        for entry in entries:
            still_open(self._open, entry)
        self._written_rows += count
        if self._stuck:
            self._stuck, self._error = False, None

    def _insist(self, step: Callable[[], None]) -> None:
        """Do what writes; where the disk does not take it, say so and try until it does."""
        while True:
            try:
                return step()
            except OSError as e:
                self._stuck = True
                self._error = f"cannot write to the spool {self._own}: {e}; make room on that disk"
                if self._closing.wait(_RETRY_S):
                    time.sleep(_RETRY_S)

    def _rotate(self) -> None:
        """Finish the segment if it is large or old enough."""
        aged = time.monotonic() - self._current.since_s >= self._config.segment_s
        if aged or self._current.rows >= self._config.segment_rows:
            self._finish_segment()

    def _finish_segment(self) -> None:
        """Go on in another segment if there is anything in this one."""
        if not self._current.rows:
            return
        try:
            self._next_segment()
        except OSError as e:
            self._error = f"cannot begin a segment in {self._own}: {e}; make room on that disk"
            return  # The old one goes on.
        self._error = None

    def _next_segment(self) -> None:
        """Begin a segment and hand the one before to the mover; one without rows is replaced."""
        old = self._current
        self._current = self._begin_segment(old.number + (old.rows > 0))
        old.close()
        if old.rows:
            self._mover.offer(old.path)

    def _look_at_disk(self) -> None:
        """Learn how much waits in the folder, at a cost that many files do not raise."""
        began_s = time.monotonic()
        if began_s < self._look_again_s:
            return
        with suppress(OSError):  # A folder that goes while it is listed.
            paths = list(self._folder.rglob("*.seg"))
            self._disk_bytes = sum(map(_size, paths))
            self._refused = sum(path.parent.parent != self._folder for path in paths)
        limit = self._config.max_bytes * (_ROOM_AGAIN if self._over_disk else 1)
        self._over_disk = self._disk_bytes >= limit
        if self._over_disk:
            self._finish_segment()  # What is in it can go as well.
        now_s = time.monotonic()
        self._look_again_s = now_s + _LOOKING * (now_s - began_s)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # Moved in between.
        return 0
