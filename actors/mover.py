"""The mover: finished segments of the spool into parts under the root, oldest first.

It never gives up: while the root is away it tries again, ever more rarely, and segments stay on
disk. What a killed collector of this machine left is adopted by whichever mover locks it first.
"""

import os
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.commit import Piece, commit
from actors.durable import write_durably
from actors.raw import Unfit
from actors.segments import (
    Entry,
    Segment,
    encode_block,
    encode_header,
    read_segment,
    remove_if_done,
    segments_of,
    still_open,
    try_lock,
    writers,
)
from actors.store import Store
from market.errors import QuaverError
from market.events import EVENT, Kind, Reason, mark

REFUSED = "refused"  # Within the spool; a spool folder itself, for another root.
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.2, 30.0
_LOOK_FOR_ORPHANS_S = 10.0
_AT_ONCE = 4  # Partitions committed side by side: a root on S3 is slow to answer.


class Mover:
    """A thread that empties the folder `own`, and those of the spool that nobody holds any more."""

    def __init__(self, store: Store, folder: Path, own: Path) -> None:
        self._store = store
        self._folder = folder
        self._own = own
        self._offered: deque[tuple[Path, bool, float]] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._halt = threading.Event()
        self._counting = threading.Lock()
        self.parts = 0
        self.bytes = 0
        self._trying: str | None = None  # What does not work yet.
        self._told: str | None = None  # What somebody has to see to.
        # Threads that stay: each new one would bring an allocator's arena of its own.
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="mover")
        self._thread = threading.Thread(target=self._run, name="mover", daemon=True)
        self._thread.start()

    @property
    def last_error(self) -> str | None:
        """What stops the mover, or else what it could not do and somebody has to see to."""
        return self._trying or self._told

    @property
    def waiting(self) -> int:
        """How many segments of the own folder wait."""
        return len(self._offered)

    @property
    def oldest_s(self) -> float:
        """For how long the oldest of them has waited; 0 if there is none."""
        offered = list(self._offered)
        return time.monotonic() - offered[0][2] if offered else 0.0

    def offer(self, segment: Path, last: bool = False) -> None:
        """Take a finished segment of the own folder; `last` if no other will follow."""
        self._offered.append((segment, last, time.monotonic()))
        self._wake.set()

    def close(self, patience_s: float) -> bool:
        """Move what can be moved in this time; whether the mover has come to rest."""
        self._closing.set()
        self._wake.set()
        self._thread.join(patience_s)
        self._halt.set()
        self._thread.join(1.0)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with self._pool:
            self._move_all()

    def _move_all(self) -> None:
        while not self._halt.is_set():
            closing = self._closing.is_set()
            self._move_own()
            for folder in writers(self._folder):
                if folder != self._own:
                    self._adopt(folder)
            if closing and not self._offered:
                remove_if_done(self._own)
                return
            if not closing:
                self._wake.wait(_LOOK_FOR_ORPHANS_S)
                self._wake.clear()

    def _adopt(self, folder: Path) -> None:
        """Finish what a killed collector left, if it is dead and nobody else is at it."""
        lock = None
        try:
            lock = try_lock(folder)
            if lock is None:
                return
            segments = segments_of(folder)
            for path in segments:
                self._move_own()  # What has not been kept elsewhere longest waits least.
                if self._halt.is_set() or not self._move(path, path == segments[-1]):
                    return
            remove_if_done(folder)
        except OSError as e:
            self._told = f"cannot move what another collector left in {folder}: {e}"
        finally:
            if lock is not None:
                os.close(lock)

    def _move_own(self) -> None:
        """Move what was offered, trying until it is moved or the mover is halted."""
        wait_s = _FIRST_BACKOFF_S
        while self._offered and not self._halt.is_set():
            path, last, _ = self._offered[0]
            if self._move(path, last):
                self._offered.popleft()
                wait_s = _FIRST_BACKOFF_S
            else:
                self._halt.wait(wait_s * random.uniform(0.5, 1))
                wait_s = min(2 * wait_s, _MAX_BACKOFF_S)

    def _move(self, path: Path, last: bool) -> bool:
        """Have a segment under the root and delete it; False if that did not work."""
        try:
            if path.exists():
                self._move_once(path, last)
        except Exception as e:  # A mover that dies would fill the disk, whatever it was.
            what = str(e) if isinstance(e, QuaverError) else repr(e)
            self._trying = f"cannot move {path}: {what}; it is tried again"
            return False
        self._trying = None
        return True

    def _move_once(self, path: Path, last: bool) -> None:
        try:
            segment = read_segment(path)
        except QuaverError as e:
            self._set_aside(path, str(e))
            return
        if segment.lost_bytes and not last:
            self._told = (
                f"{path} is damaged: its last {segment.lost_bytes} bytes are lost, which the "
                "recording notes as a gap; check that disk"
            )
        pieces = pieces_of(segment, last)
        commits = [self._pool.submit(self._commit, some) for some in _by_partition(pieces)]
        wait(commits)  # All of them, also if one fails: nothing is committed twice at once.
        try:
            refused = [found for one in commits if (found := one.result())]
        finally:
            commits.clear()  # An error of theirs would hold this frame, and all its rows, in turn.
        for product_id, why in refused:
            self._keep_refused(segment, product_id, why)
        path.unlink()
        pa.default_memory_pool().release_unused()

    def _commit(self, pieces: list[Piece]) -> tuple[str, str] | None:
        """Commit the pieces of one partition; its product and why, if it does not take them."""
        try:
            for piece in pieces:
                written = commit(self._store, piece)
                with self._counting:
                    self.parts += written > 0
                    self.bytes += written
        except Unfit as e:
            return pieces[0].product.id, str(e)
        return None

    def _keep_refused(self, segment: Segment, product_id: str, why: str) -> None:
        header = segment.header
        folder = self._folder / REFUSED / f"{product_id}-{header.writer}"
        folder.mkdir(parents=True, exist_ok=True)
        data = [encode_header(header)]
        for block in segment.blocks:
            kept = [(e, rows) for e, rows in _split(block.entries, block.rows)
                    if e.product.id == product_id]  # fmt: skip
            data.append(encode_block([e for e, _ in kept], [rows for _, rows in kept]))
        write_durably(folder / f"{header.number:08d}.seg", b"".join(data))
        self._told = (
            f"{why}. What was received of {product_id} is kept in {folder.parent}: record with "
            "this as the spool folder into another root, or into this one once it takes it"
        )

    def _set_aside(self, path: Path, why: str) -> None:
        folder = self._folder / REFUSED / "damaged"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"{path.parent.name}-{path.stem}.bad")
        self._told = f"{why}; it is kept in {folder}, what it held is not in the recording"


def pieces_of(segment: Segment, last: bool) -> list[Piece]:
    """Return what a segment adds to each session, in order; `last` if its writer wrote no other.

    Where blocks of a segment are lost that others follow, no book is known after it.
    """
    header = segment.header
    found: dict[tuple[str, int], tuple[Entry, list[NDArray[np.void]]]] = {}
    is_open: dict[str, Entry] = {}
    follows: dict[tuple[str, int], int] = {}
    for block in segment.blocks:
        for entry, rows in _split(block.entries, block.rows):
            key = entry.product.id, entry.session_ns
            before, collected = found.get(key, (None, []))
            if entry.counts is None and before:
                entry.counts = before.counts
            if not entry.rows:
                follows[key] = entry.number
            found[key] = entry, [*collected, rows]
            still_open(is_open, entry)
    pieces = []
    for (product_id, session_ns), (entry, collected) in found.items():
        goes_on = is_open.get(entry.product.id) is entry
        if goes_on and segment.lost_bytes and not last:
            lost = mark(Kind.UNSYNC, entry.last_ns, 0, Reason.CORRUPT)
            collected.append(np.array([lost], EVENT))
        piece = Piece(
            product=entry.product,
            day=entry.day,
            session=f"{entry.session_ns:020d}-{header.writer}",
            source=header.source,
            number=header.number,
            rows=np.frombuffer(b"".join(collected), EVENT),
            counts=entry.counts,
            book=entry.book,
            follows=follows.get((product_id, session_ns)),
            live=True,
            broke_off=goes_on and last,
        )
        if len(piece.rows) or piece.broke_off:
            pieces.append(piece)
    return pieces


def _by_partition(pieces: list[Piece]) -> list[list[Piece]]:
    found: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        found.setdefault((piece.product.id, piece.day), []).append(piece)
    return list(found.values())


def _split(
    entries: list[Entry], rows: NDArray[np.void]
) -> Iterator[tuple[Entry, NDArray[np.void]]]:
    at = 0
    for entry in entries:
        yield entry, rows[at : at + entry.rows]
        at += entry.rows
