"""A partition alone gives the book that was running, and says so where it does not."""

import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from actors.raw import (
    Manifest,
    Part,
    book_sha256,
    encode_part,
    partition_path,
    partitions,
    read_manifest,
    read_parts,
    read_session,
)
from actors.store import Store, sha256
from datasets.rebuild import windows_of
from market.errors import QuaverError
from market.events import EVENT, Kind
from market.windows import WindowBuilder
from tests.actors.test_spool import live
from tests.actors.wire import (
    BTC,
    DAY_NS,
    DAYS,
    DISCONNECT,
    MIDNIGHT_NS,
    SECOND_NS,
    Walk,
    assert_same_rows,
    record,
)

Rows = NDArray[np.void]


def over_midnight(seed: int = 1) -> tuple[list[bytes], list[bytes]]:
    """Frames before and after midnight, of one connection."""
    walk = Walk(seed)
    snapshots = walk.snapshots(MIDNIGHT_NS - 60 * SECOND_NS)
    before = walk.frames(MIDNIGHT_NS - 59 * SECOND_NS, MIDNIGHT_NS - SECOND_NS)
    after = walk.frames(MIDNIGHT_NS, MIDNIGHT_NS + 60 * SECOND_NS)
    return [*snapshots, *before], list(after)


def manifest_of(store: Store, day: str) -> Manifest:
    manifest = read_manifest(store, BTC, day)
    assert manifest is not None
    return manifest


def plainly(rows: Rows) -> str:
    """The hash of a book, from its rows and the definitions."""
    book: dict[tuple[int, int], int] = {}
    for before, row in zip([None, *rows], rows, strict=False):
        if row["kind"] <= Kind.CARRIED and (before is None or before["kind"] != row["kind"]):
            book.clear()
        if row["kind"] <= Kind.CHANGE:
            book[int(row["side"]), int(row["price"])] = int(row["size"])
    sides = [sorted((p, n) for (s, p), n in book.items() if s == side and n) for side in (0, 1)]
    return sha256(
        b"|".join(np.array(levels, "<i8").tobytes() for levels in (sides[0][::-1], sides[1]))
    )


@pytest.mark.parametrize("how", [record, live])
def test_a_session_ends_with_the_hash_of_the_running_book(
    tmp_path: Path, how: Callable[[Store, list[bytes]], object]
) -> None:
    before, after = over_midnight()
    store = Store(str(tmp_path))
    how(store, before + after)
    assert len(partitions(store)) == 4
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert manifest is not None
        (session,) = manifest.sessions
        assert session.book_sha256 == plainly(read_session(store, manifest, session))
        windows_of(store, manifest)


def changed(store: Store, day: str, change: Callable[[Rows], Rows]) -> Manifest:
    """A partition whose rows were changed, and its manifest with them."""
    return cut(store, day, lambda rows: [change(rows)])


def cut(store: Store, day: str, pieces: Callable[[Rows], list[Rows]]) -> Manifest:
    """A partition of the parts that its rows are made into, and its manifest with them."""
    manifest = manifest_of(store, day)
    (session,) = manifest.sessions
    parts = []
    for number, rows in enumerate(pieces(read_session(store, manifest, session))):
        data = encode_part(rows, manifest.listed)
        part = Part(
            name=f"part-changed-{number:04d}.parquet",
            rows=len(rows),
            first_ns=int(rows["ns"][0]),
            last_ns=int(rows["ns"][-1]),
            sha256=sha256(data),
        )
        store.write(f"{partition_path(BTC, day)}/{part.name}", data)
        parts.append(part)
    session = msgspec.structs.replace(session, parts=parts)
    return msgspec.structs.replace(manifest, sessions=[session])


def in_parts_of(count: int) -> Callable[[Rows], list[Rows]]:
    """So many rows each, wherever frames, snapshots and beats end."""
    return lambda rows: np.split(rows, range(count, len(rows), count))


def last_of_a_level(rows: Rows) -> int:
    """Where a level got the size that it has in the end, not in the last row of a frame."""
    seen: set[tuple[int, int]] = set()
    for at in range(len(rows) - 1, -1, -1):
        level = int(rows["side"][at]), int(rows["price"][at])
        if rows["kind"][at] == Kind.CHANGE and level not in seen:
            if rows["size"][at] and not rows["last"][at]:
                return at
            seen.add(level)
    raise AssertionError("every change is deleted again")


def without_one(rows: Rows) -> Rows:
    return np.delete(rows, last_of_a_level(rows))


def other_size(rows: Rows) -> Rows:
    rows = rows.copy()
    rows["size"][last_of_a_level(rows)] += 1
    return rows


@pytest.mark.parametrize("change", [without_one, other_size])
@pytest.mark.parametrize("day", DAYS)
def test_a_row_that_is_missing_or_wrong_is_found(
    tmp_path: Path, day: str, change: Callable[[Rows], Rows]
) -> None:
    store = Store(str(tmp_path))
    record(store, [frame for part in over_midnight() for frame in part])
    manifest = changed(store, day, change)
    with pytest.raises(
        QuaverError, match=f"{BTC} on {day}.*session {manifest.sessions[0].session}"
    ):
        windows_of(store, manifest)


@pytest.mark.parametrize("day", DAYS)
@pytest.mark.parametrize("count", [7, 25])
def test_a_session_in_many_parts_gives_the_windows_of_one(
    tmp_path: Path, day: str, count: int
) -> None:
    store = Store(str(tmp_path))
    record(store, [frame for part in over_midnight() for frame in part])
    whole = manifest_of(store, day)
    many = cut(store, day, in_parts_of(count))
    (wanted,), (session,) = whole.sessions, many.sessions
    assert len(whole.sessions[0].parts) == 1 and len(session.parts) > 5
    assert_same_rows(read_session(store, many, session), read_session(store, whole, wanted))
    assert_same_rows(windows_of(store, many), windows_of(store, whole))


def test_a_row_that_no_reader_makes_is_named_with_its_part(tmp_path: Path) -> None:
    def at_no_price(rows: Rows) -> list[Rows]:
        rows = rows.copy()
        rows["price"][30] = 0
        return in_parts_of(25)(rows)

    store = Store(str(tmp_path))
    record(store, [frame for part in over_midnight() for frame in part])
    manifest = cut(store, DAYS[0], at_no_price)
    named = f"{BTC} on {DAYS[0]} .*, part-changed-0001.parquet: .*row 5 .*'price': 0"
    with pytest.raises(QuaverError, match=named):
        windows_of(store, manifest)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda path: path.unlink(), "part-changed-0003.parquet is listed .* but missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "0003.parquet is not what its"),
    ],
)
def test_a_part_in_the_middle_that_is_missing_or_spoilt_is_named(
    tmp_path: Path, spoil: Callable[[Path], object], named: str
) -> None:
    store = Store(str(tmp_path))
    record(store, [frame for part in over_midnight() for frame in part])
    manifest = cut(store, DAYS[0], in_parts_of(25))
    spoil(tmp_path / partition_path(BTC, DAYS[0]) / "part-changed-0003.parquet")
    with pytest.raises(QuaverError, match=named):
        windows_of(store, manifest)


def test_a_day_is_rebuilt_in_the_memory_of_its_parts_not_of_all_its_rows(tmp_path: Path) -> None:
    """A CLOCK mark over and over stands for the rows of a day: they are as large as any."""
    at_once = 20_000

    def many_marks(rows: Rows) -> list[Rows]:
        return [rows, *[np.repeat(rows[-1:], at_once)] * 15]

    store = Store(str(tmp_path))
    record(store, [frame for part in over_midnight() for frame in part])
    manifest = cut(store, DAYS[0], many_marks)
    windows_of(store, manifest)  # Compiles.
    tracemalloc.start()
    try:
        windows_of(store, manifest)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * at_once * EVENT.itemsize


class Remote(Store):
    """A folder that is read as S3 is, and answers when it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.is_local = False
        self._folder = Store(str(root))
        self.asked: list[str] = []
        self._changed = threading.Condition()

    def read(self, path: str) -> bytes:
        with self._changed:
            self.asked.append(path)
            self._changed.notify_all()
        return self._folder.read(path)

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= count, timeout=30)


def remote(root: Path, spoil: Callable[[Path], object] = Path.exists) -> tuple[Remote, Manifest]:
    """A root on S3 with a session of seven parts, the fourth of them spoilt."""
    store = Store(str(root))
    record(store, [frame for part in over_midnight() for frame in part])
    manifest = cut(store, DAYS[0], in_parts_of(25))
    assert len(manifest.sessions[0].parts) == 7
    spoil(root / partition_path(BTC, DAYS[0]) / "part-changed-0003.parquet")
    return Remote(root), manifest


def test_parts_on_s3_are_asked_for_ahead_a_few_at_once_and_come_in_order(tmp_path: Path) -> None:
    store, manifest = remote(tmp_path)
    parts = read_parts(store, manifest, manifest.sessions[0])
    found = [next(parts)]
    store.wait_for(5)
    assert len(store.asked) == 5  # The one that came and four more: memory stays that of a few.
    found += parts
    assert len(store.asked) == 7
    wanted = read_session(Store(str(tmp_path)), manifest, manifest.sessions[0])
    assert_same_rows(np.concatenate(found), wanted)


def test_a_part_on_s3_that_is_missing_or_spoilt_is_named_in_its_turn(tmp_path: Path) -> None:
    for name, spoil in (("missing", Path.unlink), ("SHA-256", lambda path: path.write_bytes(b""))):
        store, manifest = remote(tmp_path / name, spoil)
        parts = read_parts(store, manifest, manifest.sessions[0])
        assert [len(next(parts)) for _ in range(3)] == [25] * 3
        with pytest.raises(QuaverError, match=f"part-changed-0003.parquet .*{name}"):
            next(parts)


def test_who_stops_reading_a_session_on_s3_leaves_no_thread_behind(tmp_path: Path) -> None:
    store, manifest = remote(tmp_path)
    before = threading.active_count()
    parts = read_parts(store, manifest, manifest.sessions[0])
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_of_a_book_that_was_not_known_at_the_end_nothing_is_compared(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    before, after = over_midnight()
    record(store, [*before, *after, b"cut off"])
    manifest = changed(store, DAYS[1], without_one)
    assert manifest.sessions[0].gaps[-1].until_ns is None
    assert len(windows_of(store, manifest))


def test_a_recording_that_broke_off_has_no_hash(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    before, after = over_midnight()
    record(store, before + after, end=False)
    assert manifest_of(store, DAYS[0]).sessions[0].book_sha256
    assert manifest_of(store, DAYS[1]).sessions[0].book_sha256 is None


def test_a_book_without_a_side_has_a_hash_of_its_own() -> None:
    assert book_sha256(WindowBuilder()) == sha256(b"|")


def test_the_book_of_an_earlier_session_of_the_process_is_none_of_the_next(tmp_path: Path) -> None:
    """A leap of days after a reconnection ends a recording; the next begins with no book."""
    store, later, later_ns = Store(str(tmp_path)), Walk(2), MIDNIGHT_NS + 40 * DAY_NS
    before, _ = over_midnight()
    after = [*later.snapshots(later_ns), *later.frames(later_ns, later_ns + 9 * SECOND_NS)]
    record(store, [*before, DISCONNECT, *after])
    assert len(partitions(store)) == 4
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert manifest is not None
        windows_of(store, manifest)
