"""Raw partitions: cut at midnight without loss, the same when recorded again, checked when read."""

import json
import random
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from actors.commit import Piece, carry_gaps, commit
from actors.raw import (
    RAW_SCHEMA,
    Gap,
    day_of,
    day_start_ns,
    partition_path,
    partitions,
    read_manifest,
    read_partition,
)
from actors.recorder import Parts, Recorder
from actors.store import Store, sha256
from market.errors import QuaverError
from market.events import EVENT, Kind, Reason, mark
from market.products import Product, product, product_of
from market.windows import WindowBuilder
from tests.actors.wire import (
    BEAT_NS,
    BTC,
    DAY_NS,
    DAYS,
    DISCONNECT,
    ETH,
    MIDNIGHT_NS,
    SECOND_NS,
    START_NS,
    Advanced,
    Walk,
    assert_same_rows,
    assert_same_windows,
    live_windows,
    rebuilt_days,
    rebuilt_windows,
    record,
)

MIDNIGHT_BEAT = MIDNIGHT_NS // BEAT_NS


def events_of(store: Store, product_id: str = BTC, day: str = DAYS[0]) -> NDArray[np.void]:
    manifest = read_manifest(store, product_id, day)
    assert manifest is not None
    return read_partition(store, manifest)


def gaps(store: Store, product_id: str, day: str) -> list[tuple[int, str]]:
    manifest = read_manifest(store, product_id, day)
    assert manifest is not None
    return [(gap.ns, gap.reason) for session in manifest.sessions for gap in session.gaps]


def everything(root: Path | Store) -> dict[str, bytes]:
    """Every file under a root, in a folder hidden ones included."""
    if isinstance(root, Store) and not root.is_local:
        return {path: root.read(path) for path in root.files("")}
    root = Path(root.root) if isinstance(root, Store) else root
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# Midnight.


def synced(walk: Walk) -> list[bytes]:
    frames = walk.snapshots(MIDNIGHT_NS - 20 * SECOND_NS)
    return [*frames, *walk.frames(MIDNIGHT_NS - 19 * SECOND_NS, MIDNIGHT_NS + 20 * SECOND_NS)]


def not_synced(walk: Walk) -> list[bytes]:
    frames = walk.snapshots(MIDNIGHT_NS - 20 * SECOND_NS)
    frames += walk.frames(MIDNIGHT_NS - 19 * SECOND_NS, MIDNIGHT_NS - 6 * SECOND_NS)
    walk.wire.sequence += 1  # A gap: no book is known any more.
    frames += walk.frames(MIDNIGHT_NS - 6 * SECOND_NS, MIDNIGHT_NS + 5 * SECOND_NS)
    frames += walk.snapshots(MIDNIGHT_NS + 5 * SECOND_NS)
    return [*frames, *walk.frames(MIDNIGHT_NS + 6 * SECOND_NS, MIDNIGHT_NS + 20 * SECOND_NS)]


def silent(walk: Walk) -> list[bytes]:
    frames = walk.snapshots(MIDNIGHT_NS - 20 * SECOND_NS)
    frames += walk.frames(MIDNIGHT_NS - 19 * SECOND_NS, MIDNIGHT_NS - 9 * SECOND_NS)
    return [*frames, *walk.frames(MIDNIGHT_NS + 10 * SECOND_NS, MIDNIGHT_NS + 20 * SECOND_NS)]


def snapshot_first(walk: Walk) -> list[bytes]:
    frames = walk.snapshots(MIDNIGHT_NS - 20 * SECOND_NS)
    frames += walk.frames(MIDNIGHT_NS - 19 * SECOND_NS, MIDNIGHT_NS)
    frames += walk.snapshots(MIDNIGHT_NS)
    return [*frames, *walk.frames(MIDNIGHT_NS + SECOND_NS, MIDNIGHT_NS + 20 * SECOND_NS)]


def disconnected(walk: Walk) -> list[bytes]:
    frames = walk.snapshots(MIDNIGHT_NS - 20 * SECOND_NS)
    frames += [*walk.frames(MIDNIGHT_NS - 19 * SECOND_NS, MIDNIGHT_NS), DISCONNECT]
    walk.wire = Advanced()
    frames += walk.snapshots(MIDNIGHT_NS + 3 * SECOND_NS)
    return [*frames, *walk.frames(MIDNIGHT_NS + 4 * SECOND_NS, MIDNIGHT_NS + 20 * SECOND_NS)]


MIDNIGHTS = {f.__name__: f for f in (synced, not_synced, silent, snapshot_first, disconnected)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", MIDNIGHTS)
def test_partitions_rebuilt_alone_equal_one_unbroken_stream(
    tmp_path: Path, name: str, seed: int
) -> None:
    frames, store = MIDNIGHTS[name](Walk(seed)), Store(str(tmp_path))
    live = live_windows(frames)
    # 5 beats before midnight, 4 after: the beat at the end of the recording is not emitted.
    beats = np.arange(MIDNIGHT_BEAT - 5, MIDNIGHT_BEAT + 4)
    record(store, frames)
    assert partitions(store) == [(p, day) for p in (BTC, ETH) for day in DAYS]
    assert_same_windows(rebuilt_windows(store), live)
    for (_, day), windows in rebuilt_days(store).items():
        wanted = beats[beats < MIDNIGHT_BEAT] if day == DAYS[0] else beats[beats >= MIDNIGHT_BEAT]
        assert windows["beat"].tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("synced", [0, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("not_synced", [0, 1, 1, 0, 0, 0, 0, 1, 1]),
        ("silent", [0, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("snapshot_first", [0, 1, 1, 1, 1, 0, 1, 1, 1]),
        ("disconnected", [0, 1, 1, 1, 0, 0, 1, 1, 1]),
    ],
)
def test_midnight_costs_no_beat_that_was_known(tmp_path: Path, name: str, valid: list[int]) -> None:
    store = Store(str(tmp_path))
    record(store, MIDNIGHTS[name](Walk(1)))
    for windows in rebuilt_windows(store).values():
        assert windows["valid"].astype(int).tolist() == valid


def test_a_partition_starts_with_our_own_book_if_it_is_known(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record(store, synced(Walk(3)))
    carried = events_of(store, BTC, DAYS[1])
    carried = carried[: int(np.flatnonzero(carried["last"])[0]) + 1]
    assert set(carried["kind"]) == {Kind.CARRIED}
    assert set(carried["ns"]) == {MIDNIGHT_NS}
    assert len(carried) > 20


def test_every_row_of_a_partition_lies_in_its_day(tmp_path: Path) -> None:
    for name, frames in MIDNIGHTS.items():
        store = Store(str(tmp_path / name))
        record(store, frames(Walk(5)))
        for product_id, day in partitions(store):
            ns = events_of(store, product_id, day)["ns"]
            start_ns = day_start_ns(day)
            # The mark that closes the last beat is the midnight itself.
            assert start_ns <= ns.min() and ns.max() <= start_ns + DAY_NS
            assert (np.diff(ns) >= 0).all()


def test_days_are_utc() -> None:
    assert (day_of(MIDNIGHT_NS - 1), day_of(MIDNIGHT_NS)) == DAYS
    assert day_start_ns(DAYS[1]) == MIDNIGHT_NS
    for text in ("", "2026-8-9x", "20260809", "2026-02-30", "yesterday"):
        with pytest.raises(QuaverError, match="2026-08-09"):
            day_start_ns(text)


# Parts.


@pytest.mark.parametrize("part_rows", [1, 7, 100])
def test_parts_of_any_size_hold_the_same_events(tmp_path: Path, part_rows: int) -> None:
    frames = not_synced(Walk(2))
    whole, parts = Store(str(tmp_path / "whole")), Store(str(tmp_path / "parts"))
    record(whole, frames)
    record(parts, frames, part_rows=part_rows)
    for product_id, day in partitions(whole):
        manifest = read_manifest(parts, product_id, day)
        assert manifest is not None
        assert_same_rows(read_partition(parts, manifest), events_of(whole, product_id, day))
        assert gaps(parts, product_id, day) == gaps(whole, product_id, day)
    assert_same_windows(rebuilt_windows(parts), live_windows(frames))
    manifest = read_manifest(parts, BTC, DAYS[0])
    assert manifest is not None and len(manifest.sessions[0].parts) > 1


def test_a_manifest_says_what_its_parts_hold(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record(store, synced(Walk(2)), part_rows=50)
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert manifest is not None
        (session,) = manifest.sessions
        folder = partition_path(product_id, day)
        named = [f"{folder}/{part.name}" for part in session.parts]
        assert store.files(folder) == sorted([*named, f"{folder}/manifest.json"])
        for part, path in zip(session.parts, named, strict=True):
            assert sha256(store.read(path)) == part.sha256
            table = pq.read_table(tmp_path / path)
            assert table.schema.equals(RAW_SCHEMA)
            ns = table["ns"].to_numpy()
            assert (part.rows, part.first_ns, part.last_ns) == (len(ns), ns.min(), ns.max())
        assert (manifest.product, manifest.day) == (product_id, day)
        assert manifest.listed == product_of(product_id, "0.01", "0.00000001")


def test_parts_are_zstd_integers(tmp_path: Path) -> None:
    record(Store(str(tmp_path)), synced(Walk(2)))
    for path in tmp_path.rglob("*.parquet"):
        parquet = pq.ParquetFile(path)
        group = parquet.metadata.row_group(0)
        for i, field in enumerate(parquet.schema_arrow):
            assert group.column(i).compression == "ZSTD"
            assert str(field.type) in ("int64", "int8", "bool") and not field.nullable


def test_recording_the_same_frames_again_changes_no_byte(root: str) -> None:
    frames, store = not_synced(Walk(4)), Store(root)
    record(store, frames, part_rows=100)
    once = everything(store)
    record(store, frames, part_rows=100)
    assert everything(store) == once


def test_recording_again_in_other_parts_duplicates_no_row(tmp_path: Path) -> None:
    frames, store = synced(Walk(4)), Store(str(tmp_path))
    record(store, frames, part_rows=40)
    record(store, frames)
    assert_same_windows(rebuilt_windows(store), live_windows(frames))


def test_recording_again_in_fewer_parts_leaves_none_behind(root: str) -> None:
    """Who reads the folder without its manifest must not find rows twice either."""
    frames, store = synced(Walk(4)), Store(root)
    record(store, frames, part_rows=40)
    record(store, frames)
    manifests = [read_manifest(store, *partition) for partition in partitions(store)]
    parts = [part.name for m in manifests if m for s in m.sessions for part in s.parts]
    assert sorted(Path(p).name for p in store.files("") if p.endswith("parquet")) == sorted(parts)


def test_no_temporary_and_no_unlisted_file_is_left(tmp_path: Path) -> None:
    record(Store(str(tmp_path)), synced(Walk(6)), part_rows=30)
    names = {Path(name).name for name in everything(tmp_path)}
    assert all(name == "manifest.json" or name.startswith("part-") for name in names)


def test_a_part_that_is_not_listed_does_not_exist(root: str) -> None:
    store = Store(root)
    record(store, synced(Walk(6)))
    before = rebuilt_windows(store)
    folder = partition_path(BTC, DAYS[0])
    store.write(f"{folder}/part-00000000000000000000-0000.parquet", b"half a fi")
    store.write(f"{partition_path(BTC, '2026-08-08')}/part-1-0000.parquet", b"half a fi")
    assert_same_windows(rebuilt_windows(store), before)


def test_a_write_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("a file where a folder should be")
    with pytest.raises(QuaverError, match="raw"):
        record(Store(str(tmp_path)), synced(Walk(1)))


# Several recordings in one partition.


def stretch(seed: int, start_ns: int, seconds: int) -> list[bytes]:
    walk = Walk(seed)
    snapshots = walk.snapshots(start_ns)
    return [*snapshots, *walk.frames(start_ns + SECOND_NS, start_ns + seconds * SECOND_NS)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_recordings_of_a_day_stand_side_by_side(root: str, order: tuple[int, int]) -> None:
    store = Store(root)
    stretches = [stretch(1, START_NS, 30), stretch(2, START_NS + 100 * SECOND_NS, 30)]
    for i in order:
        record(store, stretches[i])
    first, second = (live_windows(frames) for frames in stretches)
    both = {p: np.concatenate([first[p], second[p]]) for p in (BTC, ETH)}
    assert_same_windows(rebuilt_windows(store), both)


def test_a_recording_that_broke_off_is_not_continued_by_the_next(tmp_path: Path) -> None:
    """A process that dies leaves no END; its book says nothing about the time until the next."""
    store = Store(str(tmp_path))
    record(store, stretch(1, START_NS, 30), end=False)
    record(store, stretch(2, START_NS + 100 * SECOND_NS, 30))
    for windows in rebuilt_windows(store).values():
        known = windows["beat"][windows["valid"]] - START_NS // BEAT_NS
        assert known.max() >= 25
        assert not ((known >= 7) & (known <= 25)).any()  # From second 28 to the next snapshot's.


@pytest.mark.parametrize("shift_s", [-15, 10])
def test_another_recording_of_the_same_time_is_refused(root: str, shift_s: int) -> None:
    store = Store(root)
    record(store, stretch(1, START_NS, 30))
    before = everything(store)
    with pytest.raises(QuaverError, match=f"{BTC}.*{DAYS[0]}.*another root"):
        record(store, stretch(2, START_NS + shift_s * SECOND_NS, 30))
    assert everything(store) == before


def test_another_grid_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record(store, stretch(1, START_NS, 30), (BTC,))
    before = everything(tmp_path)
    finer = {BTC: product_of(BTC, "0.001", "0.00000001")}
    with pytest.raises(QuaverError, match=r"0\.01"):
        record(store, stretch(1, START_NS + 100 * SECOND_NS, 30), products=finer)
    assert everything(tmp_path) == before


# What the manifest says was lost.


def test_gaps_carry_their_time_and_reason(tmp_path: Path) -> None:
    wire, frames = Advanced(), []

    def at(second: int) -> int:
        return START_NS + second * SECOND_NS

    frames += [wire.snapshot(at(0)), wire.snapshot(at(0), ETH), wire.heartbeat(at(5))]
    wire.sequence += 1
    frames += [wire.heartbeat(at(6)), wire.snapshot(at(7)), wire.snapshot(at(7), ETH)]
    frames += [wire.book(at(8), [("bid", "99.001", "1")]), wire.snapshot(at(9))]
    frames += [wire.book(at(10), [("bid", "103.00", "1")]), wire.snapshot(at(11))]
    frames += [wire.book(at(12), [("offer", f"{p}.00", "0") for p in (102, 103, 104)])]
    frames += [wire.snapshot(at(13)), DISCONNECT]
    store = Store(str(tmp_path))
    record(store, frames)
    assert gaps(store, BTC, DAYS[0]) == [
        (at(5), "gap"),
        (at(8), "corrupt"),
        (at(10), "crossed"),
        (at(12), "empty_side"),
        (at(13), "disconnect"),
    ]
    assert gaps(store, ETH, DAYS[0]) == [(at(5), "gap"), (at(13), "disconnect")]
    assert_same_windows(rebuilt_windows(store), live_windows(frames))


def test_the_manifest_counts_what_its_day_lost(tmp_path: Path) -> None:
    wire, frames = Advanced(), []
    frames = [wire.snapshot(MIDNIGHT_NS - 9 * SECOND_NS), wire.snapshot(MIDNIGHT_NS - 9, ETH)]
    frames += [frames[-1], wire.book(MIDNIGHT_NS - 8, [("bid", "99.001", "1")])]
    frames += [wire.trades(MIDNIGHT_NS - 7, [(9, "BUY", "99.00", "1"), (7, "BUY", "99.00", "1")])]
    frames += [wire.trades(MIDNIGHT_NS - 6, [(9, "BUY", "99.00", "1")])]
    frames += [wire.heartbeat(MIDNIGHT_NS + i * SECOND_NS) for i in range(9)]
    store = Store(str(tmp_path))
    record(store, frames)
    days = {}
    for day in DAYS:
        manifest = read_manifest(store, BTC, day)
        assert manifest is not None
        (session,) = manifest.sessions
        days[day] = session.counts
    names = ("duplicates", "corrupt", "gaps", "trade_duplicates", "trade_holes")
    assert [days[DAYS[0]].get(name) for name in names] == [1, 1, 0, 1, 1]
    assert [days[DAYS[1]].get(name) for name in names] == [0, 0, 0, 0, 0]


# What is not as it should be.


def damaged(store: Store, how: str) -> None:
    """Damage the first day's partition of BTC."""
    folder = partition_path(BTC, DAYS[0])
    part = next(name for name in store.files(folder) if name.endswith(".parquet"))
    manifest = f"{folder}/manifest.json"
    fields: dict[str, Any] = json.loads(store.read(manifest))
    changes: dict[str, Callable[[], None]] = {
        "missing part": lambda: store.delete(part),
        "tampered part": lambda: store.write(part, store.read(part)[:-1] + b"?"),
        "truncated part": lambda: store.write(part, store.read(part)[:100]),
        "part of another": lambda: store.write(part, store.read(part.replace(BTC, ETH))),
        "no JSON": lambda: store.write(manifest, b"{"),
        "not UTF-8": lambda: store.write(manifest, b'{"format":"\xff"}'),
        "no fields": lambda: store.write(manifest, b"{}"),
        "another version": lambda: store.write(
            manifest, json.dumps(fields | {"format": "quaver.raw.0"}).encode()
        ),
    }
    changes[how]()


@pytest.mark.parametrize(
    "how",
    [
        "missing part",
        "tampered part",
        "truncated part",
        "part of another",
        "no JSON",
        "not UTF-8",
        "no fields",
        "another version",
    ],
)
def test_a_damaged_partition_is_named_and_not_used(root: str, how: str) -> None:
    store = Store(root)
    record(store, stretch(1, START_NS, 20))
    damaged(store, how)
    with pytest.raises(QuaverError) as caught:
        events_of(store)
    assert partition_path(BTC, DAYS[0]) in str(caught.value)
    assert root in str(caught.value)


def test_there_is_no_manifest_where_nothing_was_recorded(root: str) -> None:
    store = Store(root)
    assert read_manifest(store, BTC, DAYS[0]) is None
    assert partitions(store) == []


def test_the_manifest_is_json_that_others_can_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record(store, stretch(1, START_NS, 20))
    path = f"{partition_path(BTC, DAYS[0])}/manifest.json"
    manifest = msgspec.json.decode(store.read(path))
    assert manifest["product"] == BTC
    assert manifest["quote_increment"] == "0.01"
    assert manifest["base_increment"] == "0.00000001"


def test_events_come_back_as_they_went_in(tmp_path: Path) -> None:
    """Every field of every row, whatever its value."""
    store, rng = Store(str(tmp_path)), random.Random(1)
    wire = Advanced()
    frames = [wire.snapshot(START_NS)]
    for i in range(1, 200):
        size = f"{rng.randrange(10**15) / 10**8:.8f}"
        frames.append(wire.book(START_NS + i * rng.randrange(10**7), [("bid", "99.00", size)]))
        frames.append(wire.trades(START_NS + i, [(2 * i, rng.choice(["BUY", "SELL"]), "1", size)]))
    record(store, frames, (BTC,))
    found = events_of(store)
    assert found.dtype == EVENT
    live = live_windows(frames, (BTC,))
    assert_same_windows(rebuilt_windows(store), live)
    assert (found["kind"] == Kind.TRADE).sum() == 199
    assert found["trade_id"][found["kind"] == Kind.TRADE].tolist() == [2 * i for i in range(1, 200)]


# What must not happen to a partition.


class _Refusing(Store):
    """A root that refuses one write of a part, and then takes all."""

    refused = 0

    def write(self, path: str, data: bytes | memoryview) -> None:
        if "part-" in path and path.endswith("0001.parquet") and not self.refused:
            self.refused += 1
            raise QuaverError(f"cannot write {path}: no space left")
        super().write(path, data)


def test_nothing_follows_a_part_that_could_not_be_written(root: str) -> None:
    store = _Refusing(root)
    wire = Advanced()
    frames = [wire.snapshot(START_NS)]
    frames += [wire.heartbeat(START_NS + i * BEAT_NS) for i in range(1, 40)]
    with pytest.raises(QuaverError, match="no space left"):
        record(store, frames, (BTC,), part_rows=8)
    ((product_id, day),) = partitions(store)
    manifest = read_manifest(store, product_id, day)
    assert manifest is not None
    assert [part.name[-12:] for part in manifest.sessions[0].parts] == ["0000.parquet"]
    assert len(read_partition(store, manifest)) == manifest.sessions[0].parts[0].rows


def test_a_quiet_product_is_written_after_a_quarter_of_an_hour(tmp_path: Path) -> None:
    wire, store = Advanced(), Store(str(tmp_path))
    frames = [wire.snapshot(START_NS)]
    frames += [wire.heartbeat(START_NS + i * BEAT_NS) for i in range(1, 230)]
    record(store, frames, (BTC,))
    ((product_id, day),) = partitions(store)
    manifest = read_manifest(store, product_id, day)
    assert manifest is not None and len(manifest.sessions[0].parts) == 2
    first = manifest.sessions[0].parts[0]
    assert first.last_ns - first.first_ns == 15 * 60 * SECOND_NS


def test_simulated_and_real_frames_do_not_mix_in_a_partition(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record(store, [Advanced().snapshot(START_NS)], (BTC,))
    later = [Advanced().snapshot(START_NS + 600 * SECOND_NS)]
    with pytest.raises(QuaverError, match="do not mix"):
        record(store, later, (BTC,), source="simulated exchange, seed 1")


# Gaps.


def levels(ns: int, bids: list[int], asks: list[int], kind: Kind = Kind.SNAPSHOT) -> list[Any]:
    rows = [(ns, 0, kind, 0, 0, 0, p, 1, 0) for p in bids]
    rows += [(ns, 0, kind, 1, 0, 0, p, 1, 0) for p in asks]
    return [*rows[:-1], (*rows[-1][:4], 1, *rows[-1][5:])]


def test_a_gap_reaches_from_the_mark_to_the_end_of_the_next_book() -> None:
    rows = [mark(Kind.CLOCK, 5, 0), *levels(7, [1, 2], [3])]
    rows += [mark(Kind.UNSYNC, 8, 0, Reason.GAP), mark(Kind.UNSYNC, 9, 0, Reason.CORRUPT)]
    rows += [*levels(12, [1], [3]), mark(Kind.UNSYNC, 13, 0, Reason.OVERFLOW)]
    assert carry_gaps([], np.array(rows, EVENT), begins=True) == [
        Gap(ns=5, until_ns=7, reason="start"),
        Gap(ns=8, until_ns=12, reason="gap"),
        Gap(ns=13, until_ns=None, reason="overflow"),
    ]


@pytest.mark.parametrize("kind", [Kind.SNAPSHOT, Kind.CARRIED])
def test_a_session_that_begins_with_a_book_has_no_gap_at_its_start(kind: Kind) -> None:
    rows = np.array(levels(7, [1, 2], [3], kind), EVENT)
    assert carry_gaps([], rows, begins=True) == []


def test_changes_close_no_gap() -> None:
    rows = np.array(levels(7, [1, 2], [3], Kind.CHANGE), EVENT)
    assert carry_gaps([], rows, begins=True) == [Gap(ns=7, until_ns=None, reason="start")]


def test_what_follows_a_break_shows_that_there_was_none() -> None:
    broke_off = Gap(ns=5, until_ns=None, reason="broke off")
    rows = np.array([mark(Kind.CLOCK, 6, 0)], EVENT)
    assert carry_gaps([broke_off], rows, begins=False) == []


@pytest.mark.parametrize("seed", range(20))
def test_gaps_do_not_depend_on_where_the_parts_end(seed: int) -> None:
    """Against a walk over single frames with one flag."""
    rng = random.Random(seed)
    frames: list[list[Any]] = []
    for ns in range(rng.randrange(1, 60)):
        mark_row = mark(Kind.UNSYNC, ns, 0, rng.choice(list(Reason)[1:]))
        kind = rng.choice([Kind.SNAPSHOT, Kind.CARRIED, Kind.CHANGE])
        book = levels(ns, [1] * rng.randrange(3), [3] * rng.randrange(1, 3), kind)
        frames.append(rng.choice([[mark_row], book, [mark(Kind.CLOCK, ns, 0)]]))
    wanted, since, why = [], 0, "start"
    known = False
    for ns, frame in enumerate(frames):
        kind = frame[0][2]
        if kind <= Kind.CARRIED and not known:
            known = True
            if why != "start" or ns:
                wanted.append(Gap(ns=since, until_ns=ns, reason=why))
        elif kind == Kind.UNSYNC and known:
            known, since, why = False, ns, Reason(frame[0][5]).name.lower()
    if not known:
        wanted.append(Gap(ns=since, until_ns=None, reason=why))
    found: list[Gap] = []
    at = 0
    while at < len(frames):
        size = rng.randrange(1, 10)
        rows = [row for frame in frames[at : at + size] for row in frame]
        found = carry_gaps(found, np.array(rows, EVENT), begins=at == 0)
        at += size
    assert found == wanted


@pytest.mark.parametrize(
    ("book", "why"),
    [
        ([("bid", "103.00", "1"), ("offer", "102.00", "1")], "crossed"),
        ([("bid", "100.00", "1")], "empty_side"),
    ],
)
def test_a_snapshot_that_is_no_book_closes_no_gap(
    tmp_path: Path, book: list[tuple[str, str, str]], why: str
) -> None:
    wire = Advanced()

    def at(second: int) -> int:
        return START_NS + second * SECOND_NS

    frames = [wire.snapshot(at(0)), wire.heartbeat(at(1)), DISCONNECT]
    wire = Advanced()
    frames += [wire.book(at(s), book, BTC, "snapshot") for s in (5, 6)]
    frames += [wire.heartbeat(at(9)), wire.snapshot(at(10)), wire.heartbeat(at(11))]
    store = Store(str(tmp_path))
    record(store, frames, (BTC,))
    manifest = read_manifest(store, BTC, DAYS[0])
    assert manifest is not None
    assert manifest.sessions[0].gaps == [
        Gap(ns=at(1), until_ns=at(5), reason="disconnect"),
        Gap(ns=at(5), until_ns=at(6), reason=why),
        Gap(ns=at(6), until_ns=at(10), reason=why),
    ]
    assert_same_windows(rebuilt_windows(store), live_windows(frames, (BTC,)))


# What the recorder hands on, and what an import holds.


class Listing:
    """A sink that lists what it gets."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, str, int, list[int], dict[str, int] | None]] = []

    def put(
        self,
        product: Product,
        day: str,
        session_ns: int,
        rows: NDArray[np.void],
        counts: dict[str, int] | None,
    ) -> None:
        self.puts.append((product.id, day, session_ns, rows["kind"].tolist(), counts))


def test_a_session_is_cut_at_midnight_and_ended_by_its_end() -> None:
    sink, counted, builder = Listing(), {"gaps": 0}, WindowBuilder()
    recorder, btc = Recorder(sink, lambda _: dict(counted)), product(BTC)
    before, after = MIDNIGHT_NS - SECOND_NS, MIDNIGHT_NS + SECOND_NS
    for gaps, rows in enumerate(
        [
            levels(before, [1], [3]),
            levels(after, [1], [3], Kind.CHANGE),
            [mark(Kind.CLOCK, after, 0)],
            [mark(Kind.END, after, 0)],
            levels(after + 1, [1], [3]),
        ]
    ):
        counted["gaps"] = gaps
        events = np.array(rows, EVENT)
        recorder.add(btc, events, builder)
        builder.feed(events)
    assert sink.puts == [
        (BTC, DAYS[0], before, [Kind.SNAPSHOT] * 2, None),
        (BTC, DAYS[0], before, [Kind.CLOCK], {"gaps": 1}),
        (BTC, DAYS[1], MIDNIGHT_NS, [Kind.CARRIED] * 2, None),
        (BTC, DAYS[1], MIDNIGHT_NS, [Kind.CHANGE] * 2, None),
        (BTC, DAYS[1], MIDNIGHT_NS, [Kind.CLOCK], {"gaps": 1}),
        (BTC, DAYS[1], MIDNIGHT_NS, [Kind.END], {"gaps": 2}),
        (BTC, DAYS[1], after + 1, [Kind.SNAPSHOT] * 2, None),
    ]
    assert recorder.rows == 8


def test_an_import_holds_few_rows_of_all_products_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quiet products too are written, at the same rows each time."""
    monkeypatch.setattr("actors.recorder._WAITING_ROWS", 120)
    frames = synced(Walk(1))
    for name in "ab":
        record(Store(str(tmp_path / name)), frames)
    assert everything(tmp_path / "a") == everything(tmp_path / "b")
    store = Store(str(tmp_path / "a"))
    assert_same_windows(rebuilt_windows(store), live_windows(frames))
    for product_id in (BTC, ETH):
        manifest = read_manifest(store, product_id, DAYS[0])
        assert manifest is not None
        rows = [part.rows for part in manifest.sessions[0].parts]
        assert len(rows) > 1 and max(rows) < 120 + 78  # The last frame may be a book.


def test_what_is_held_keeps_nothing_else_alive(tmp_path: Path) -> None:
    parts = Parts(Store(str(tmp_path)), "a test")
    batch = np.zeros(10_000, EVENT)
    batch["ns"] = START_NS
    gone = weakref.ref(batch)
    parts.put(product(BTC), DAYS[0], START_NS, batch[:3], None)
    del batch
    assert gone() is None
    parts.close()
    assert len(events_of(Store(str(tmp_path)))) == 3


def test_commits_beside_each_other_all_stand(root: str) -> None:
    """Collectors on several machines write to one manifest."""
    store, rows = Store(root), np.array(levels(START_NS, [1], [3]), EVENT)

    def one(writer: int) -> None:
        for number in range(5):
            piece = Piece(
                product=product(BTC),
                day=DAYS[0],
                session=f"{START_NS:020d}-{writer}",
                source="a test",
                number=number,
                rows=rows,
                live=True,
            )
            assert commit(store, piece) > 0
            assert commit(store, piece) == 0

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    manifest = read_manifest(store, BTC, DAYS[0])
    assert manifest is not None
    assert [len(session.parts) for session in manifest.sessions] == [5] * 8
