"""Segment files: the append-only log of what a collector received, before it becomes parts.

    SPOOL/<writer>/writer.lock     held with flock while the writer lives
    SPOOL/<writer>/00000000.seg    a header, then blocks

A block holds the rows of several sessions and is good as a whole or not at all: its length and
CRC-32 stand before it. What a killed writer left ends at the first block that is not good.
"""

import contextlib
import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.durable import write_durably
from market.errors import QuaverError
from market.events import EVENT, Kind
from market.products import Product

FORMAT = "quaver.spool.1"
LOCK = "writer.lock"
_HEAD = struct.Struct("<4sIIII")  # Magic, bytes of entries, of rows, of rows packed, CRC-32.
_MAGIC = b"QSB1"
_LZ4 = pa.Codec("lz4")

Counts = dict[str, int]


class Entry(msgspec.Struct, kw_only=True, array_like=True):
    """The next rows of one session; none where it is only said that the session is open."""

    product: Product
    day: str
    session_ns: int
    last_ns: int  # Event time of the session's last row so far.
    rows: int
    counts: Counts | None = None  # Of the session so far, where they were looked up.
    ended: bool = False
    book: str | None = None  # Hash of the running book after the session's last row.
    number: int = 0  # Of the segment that holds the session's newest rows.


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Whose segment this is. Parts are named by it, not by where the file lies."""

    format: str = FORMAT
    writer: str  # The start of a collector, unlike any other.
    number: int
    source: str
    collector: str


class Block(msgspec.Struct, frozen=True):
    """Entries, and their rows (EVENT[n]) one after the other."""

    entries: list[Entry]
    rows: NDArray[np.void]


# Rows (EVENT[n], n > 0) of a session with its product, day and first event time, counts and book.
Put = tuple[Product, str, int, NDArray[np.void], Counts | None, str | None]


class Segment(msgspec.Struct, frozen=True):
    """What is good of a segment file."""

    header: Header
    blocks: list[Block]
    lost_bytes: int  # After the last good block.


class SegmentFile:
    """A segment that is being written."""

    def __init__(self, path: Path, number: int, size: int) -> None:
        self.path = path
        self.number = number
        self.rows = 0
        self.since_s = time.monotonic()
        self._file = path.open("r+b", buffering=0)
        self._size = size  # Of what is good and on disk.

    def append(self, data: bytes, rows: int) -> None:
        """Have a block on disk, whole; OSError if it is not: the same block is to be tried again.

        It is written over what is there of it, also after an fsync that failed: what that was to
        keep may be lost.
        """
        self._file.seek(self._size)
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) or 0 :]
        os.fsync(self._file.fileno())
        self._size += len(data)
        self.rows += rows

    def close(self) -> None:
        """Write no more; what of a block is on disk that was not confirmed may be read."""
        with contextlib.suppress(OSError):  # What counts is on disk already.
            self._file.close()


def encode_header(header: Header) -> bytes:
    """Return the bytes that a segment file begins with."""
    return _framed(msgspec.json.encode(header), 0, b"")


def encode_block(entries: list[Entry], rows: Iterable[NDArray[np.void]]) -> bytes:
    """Return entries and their rows, contiguous and in their order, as the bytes of a block."""
    raw = b"".join(rows)
    packed = _LZ4.compress(raw, asbytes=True) if raw else b""
    return _framed(msgspec.json.encode(entries), len(raw), packed)


def read_segment(path: Path) -> Segment:
    """Return what is good of a segment file; QuaverError if that is not even its header."""
    data = memoryview(path.read_bytes())
    at, framed = _next(data, 0)
    try:
        header = msgspec.json.decode(framed[0], type=Header) if framed else None
    except (msgspec.DecodeError, ValueError):
        header = None
    if header is None or header.format != FORMAT:
        raise QuaverError(f"{path} is no segment of a spool of this version ({FORMAT})")
    blocks: list[Block] = []
    while True:
        end, framed = _next(data, at)
        if framed is None:
            return Segment(header, blocks, len(data) - at)
        entries, raw = framed
        rows = np.frombuffer(raw, EVENT)
        blocks.append(Block(msgspec.json.decode(entries, type=list[Entry]), rows))
        at = end


def still_open(open_entries: dict[str, Entry], entry: Entry) -> None:
    """Note in the open session of each product what an entry says: a newer one ends an older."""
    if entry.ended:
        open_entries.pop(entry.product.id, None)
    else:
        open_entries[entry.product.id] = entry


def gathered(puts: Iterable[Put], number: int) -> tuple[list[Entry], list[NDArray[np.void]]]:
    """Return one entry for each session that something was put of, and the rows in their order.

    `number` is that of the segment they go to.
    """
    found: dict[tuple[str, int], tuple[Entry, list[NDArray[np.void]]]] = {}
    for product, day, session_ns, rows, counts, book in puts:
        key = (product.id, session_ns)
        if key not in found:
            entry = Entry(
                product=product,
                day=day,
                session_ns=session_ns,
                last_ns=session_ns,
                rows=0,
                number=number,
            )
            found[key] = entry, []
        entry, collected = found[key]
        collected.append(rows)
        entry.rows += len(rows)
        entry.counts = entry.counts if counts is None else counts
        entry.book = book
    for entry, collected in found.values():
        entry.last_ns = collected[-1]["ns"].item(-1)
        entry.ended = collected[-1]["kind"].item(-1) == Kind.END
    return [e for e, _ in found.values()], [r for _, rows in found.values() for r in rows]


def claim(folder: Path, root: str) -> None:
    """Note whose folder this is: what one root's collectors leave must not end in another."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "root"
    if not note.exists():
        write_durably(note, root.encode())
    elif (claimed := note.read_text()) != root:
        raise QuaverError(
            f"{folder} is the spool of {claimed}, not of {root}; give each root a folder of its own"
        )


def make_writer(spool: Path, name: str) -> tuple[Path, int | None]:
    """Make a writer's folder, locked before others see it; return it and what holds the lock."""
    hidden = spool / f".{name}"
    hidden.mkdir(parents=True)
    lock = try_lock(hidden)
    return hidden.rename(spool / name), lock


def try_lock(folder: Path) -> int | None:
    """Lock a writer's folder; the descriptor that holds it, None if its writer lives or it is gone.

    To be closed, or left to the end of the process.
    """
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def segments_of(folder: Path) -> list[Path]:
    """Return the segment files of a writer, oldest first."""
    return sorted(folder.glob("*.seg"))


def writers(spool: Path) -> list[Path]:
    """Return the folders of writers in a spool, alive or not."""
    found = {path.parent for name in (LOCK, "*.seg") for path in spool.glob(f"[!.]*/{name}")}
    return sorted(found)


def remove_if_done(folder: Path) -> None:
    """Remove a writer's folder, locked by the caller, if it holds no segment any more."""
    if segments_of(folder):
        return
    for path in [*folder.glob(".*.tmp"), folder / LOCK]:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Something of another's is in it.
        folder.rmdir()


def _framed(entries: bytes, raw_bytes: int, packed: bytes) -> bytes:
    body = entries + packed
    lengths = (len(entries), raw_bytes, len(packed))
    crc = zlib.crc32(body, zlib.crc32(repr(lengths).encode()))
    return _HEAD.pack(_MAGIC, *lengths, crc) + body


def _next(data: memoryview, at: int) -> tuple[int, tuple[bytes, bytes] | None]:
    """The block at `at`: where it ends, and its entries and rows; None if it is not good."""
    if len(data) - at < _HEAD.size:
        return at, None
    magic, entries_bytes, raw_bytes, packed_bytes, crc = _HEAD.unpack_from(data, at)
    start = at + _HEAD.size
    end = start + entries_bytes + packed_bytes
    lengths = (entries_bytes, raw_bytes, packed_bytes)
    if magic != _MAGIC or end > len(data):
        return at, None
    if zlib.crc32(data[start:end], zlib.crc32(repr(lengths).encode())) != crc:
        return at, None
    packed = data[start + entries_bytes : end]
    raw = _LZ4.decompress(packed, raw_bytes, asbytes=True) if raw_bytes else b""
    return end, (bytes(data[start : start + entries_bytes]), raw)
