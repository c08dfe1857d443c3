"""The spool: on disk within a second, whole blocks or none, and no thread that a disk can stop."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import actors.spool
from actors.advanced_trade import decoder
from actors.raw import partitions, read_manifest, read_partition
from actors.reader import Reader
from actors.recorder import Recorder
from actors.segments import Block, Entry, Header, encode_block, encode_header, read_segment
from actors.spool import Spool, SpoolConfig, spool_folder
from actors.store import Store
from actors.stream import ProductStream
from market.errors import QuaverError
from market.events import EVENT, Kind, Reason, mark
from market.products import product
from tests.actors.spooling import DAY, IDS, SESSION_NS, expected, put
from tests.actors.test_recorder import MIDNIGHTS
from tests.actors.wire import (
    BTC,
    ETH,
    Walk,
    assert_same_rows,
    assert_same_windows,
    listed,
    live_windows,
    read,
    rebuilt_windows,
    record,
)

pytestmark = pytest.mark.slow


LIMIT_S = 20.0
QUICK = SpoolConfig(flush_s=0.01)


def wait_for(true: Callable[[], bool]) -> None:
    """Wait until something becomes true, but not for ever."""
    waiting = threading.Event()
    for _ in range(int(LIMIT_S * 100)):
        if true():
            return
        waiting.wait(0.01)
    raise AssertionError("it never became true")


def flushed(spool: Spool) -> None:
    """Wait until all that was put is on disk."""
    done = threading.Event()
    spool.flush(done.set)
    assert done.wait(LIMIT_S)


@contextmanager
def spooling(store: Store, config: SpoolConfig = QUICK) -> Iterator[Spool]:
    spool = Spool(store, "a test", "ours", config)
    try:
        yield spool
    finally:
        spool.close(LIMIT_S)


def recorded(store: Store, product_id: str, day: str = DAY) -> NDArray[np.void]:
    manifest = read_manifest(store, product_id, day)
    assert manifest is not None
    return read_partition(store, manifest)


def live(store: Store, frames: list[bytes], config: SpoolConfig = QUICK) -> None:
    """Frames the way of a collector: through a reader and a recorder into the spool."""
    reader = Reader(decoder, listed(BTC, ETH))
    with spooling(store, config) as spool:
        recorder = Recorder(spool, reader.counts_of)
        streams = {name: ProductStream(recorder, product(name)) for name in (BTC, ETH)}
        for frame in frames:
            for name, rows in read(reader, frame):
                streams[name].apply(rows)
        for name, rows in reader.ended(0):
            streams[name].apply(rows)


# From put to partition.


@pytest.mark.parametrize("segment_rows", [1, 100, 500_000])
@pytest.mark.parametrize("name", MIDNIGHTS)
def test_what_went_through_the_spool_equals_an_import(
    tmp_path: Path, name: str, segment_rows: int
) -> None:
    frames = MIDNIGHTS[name](Walk(1))
    ours, imported = Store(str(tmp_path / "ours")), Store(str(tmp_path / "imported"))
    live(ours, frames, SpoolConfig(flush_s=0.01, segment_rows=segment_rows))
    record(imported, frames)
    assert partitions(ours) == partitions(imported)
    for product_id, day in partitions(imported):
        assert_same_rows(recorded(ours, product_id, day), recorded(imported, product_id, day))
        manifests = [read_manifest(store, product_id, day) for store in (ours, imported)]
        found, wanted = (m.sessions for m in manifests if m)
        assert [s.gaps for s in found] == [s.gaps for s in wanted]
        assert [s.counts for s in found] == [s.counts for s in wanted]
    assert_same_windows(rebuilt_windows(ours), live_windows(frames))
    assert not list((tmp_path / "ours" / "spool").iterdir())


def test_a_segment_of_a_session_is_a_part_of_it_in_order(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with spooling(store, SpoolConfig(flush_s=0.01, segment_rows=10)) as spool:
        for number in range(60):
            put(spool, number)
            if number % 10 == 9:
                flushed(spool)
    for product_id in IDS:
        manifest = read_manifest(store, product_id, DAY)
        assert manifest is not None
        (session,) = manifest.sessions
        assert session.live and len(session.parts) > 3
        assert_same_rows(recorded(store, product_id), expected(product_id, 60))
        assert session.counts == {"duplicates": 58 + IDS.index(product_id)}


def test_an_old_segment_goes_to_the_root_before_it_is_full(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with spooling(store, SpoolConfig(flush_s=0.01, segment_s=0.02)) as spool:
        for number in range(2):
            put(spool, number)
        wait_for(lambda: spool.status().moved_parts == 2)


def test_what_was_flushed_can_be_read_while_the_writer_lives(tmp_path: Path) -> None:
    """What `flush` confirms is in the file, for whoever finds it after a kill."""
    store = Store(str(tmp_path))
    with spooling(store, SpoolConfig(flush_s=1.0)) as spool:
        for number in range(7):
            put(spool, number)
        flushed(spool)
        (path,) = (tmp_path / "spool").glob("*/*.seg")
        kept = sum(len(block.rows) for block in read_segment(path).blocks)
        assert kept == 7 * 3 == sum(len(expected(i, 7)) for i in IDS)
        assert spool.status().buffered_rows == 0


def test_a_callback_that_fails_stops_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with spooling(store) as spool:
        spool.flush(lambda: 1 // 0 and None)
        put(spool, 0)
        flushed(spool)
        assert "ZeroDivisionError" in (spool.status().last_error or "")


# Segment files.


def blocks(puts: int = 4) -> list[tuple[Entry, NDArray[np.void]]]:
    listed, rng = product(BTC), np.random.default_rng(1)
    found = []
    for number in range(puts):
        rows = np.zeros(int(rng.integers(1, 6)), EVENT)
        rows["price"] = rng.integers(1, 1 << 50, len(rows))
        entry = Entry(
            product=listed, day=DAY, session_ns=SESSION_NS, last_ns=number, rows=len(rows)
        )
        found.append((entry, rows))
    return found


def segment() -> tuple[list[bytes], list[tuple[Entry, NDArray[np.void]]]]:
    written = blocks()
    header = Header(writer="w", number=3, source="a test", collector="c")
    return [encode_header(header), *(encode_block([e], [rows]) for e, rows in written)], written


def assert_prefix(found: list[Block], written: list[Any], count: int) -> None:
    assert len(found) == count
    for block, (entry, rows) in zip(found, written, strict=False):
        assert block.entries == [entry]
        assert_same_rows(block.rows, rows)


def test_a_segment_cut_anywhere_gives_its_whole_blocks_and_nothing_else(tmp_path: Path) -> None:
    encoded, written = segment()
    data, path = b"".join(encoded), tmp_path / "a.seg"
    ends = np.cumsum([len(block) for block in encoded])
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = int((ends <= cut).sum())
        if not whole:
            with pytest.raises(QuaverError, match="no segment"):
                read_segment(path)
            continue
        found = read_segment(path)
        assert_prefix(found.blocks, written, whole - 1)
        assert found.lost_bytes == cut - ends[whole - 1]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_a_flipped_bit_loses_its_block_and_what_follows(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    encoded, written = segment()
    at = data.draw(st.integers(0, sum(map(len, encoded)) - 1))
    bad = bytearray(b"".join(encoded))
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.seg"
    path.write_bytes(bad)
    ends = np.cumsum([len(block) for block in encoded])
    whole = int((ends <= at).sum())
    if whole == 0:
        with pytest.raises(QuaverError):
            read_segment(path)
    else:
        assert_prefix(read_segment(path).blocks, written, whole - 1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_garbage_after_a_block_is_not_read(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    encoded, written = segment()
    path = tmp_path_factory.getbasetemp() / "garbage.seg"
    path.write_bytes(b"".join(encoded) + garbage)
    found = read_segment(path)
    assert_prefix(found.blocks, written, len(written))
    assert found.lost_bytes == len(garbage)


# When there is no room.


def test_over_its_limit_the_spool_is_full_takes_marks_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.mover._FIRST_BACKOFF_S", 0.01)
    store = _Away(str(tmp_path))
    store.away = True
    with spooling(store, SpoolConfig(flush_s=0.01, segment_rows=30, max_bytes=20_000)) as spool:
        number = 0
        while not spool.full:
            put(spool, number)
            flushed(spool)
            number += 1
        # The mark stands for the moment at which rows began to be dropped.
        ns = SESSION_NS + number * 10**6
        lost = np.array([mark(Kind.UNSYNC, ns, 0, Reason.OVERFLOW)], EVENT)
        spool.put(product(BTC), DAY, SESSION_NS, lost, None)
        flushed(spool)
        assert spool.full and spool.status().spool_bytes >= 20_000
        assert "away" in (spool.status().last_error or "")
        store.away = False
        wait_for(lambda: not spool.full)
        assert spool.status().spool_bytes < 16_000
        wait_for(lambda: spool.status().last_error is None)
    assert_same_rows(recorded(store, ETH), expected(ETH, number))
    rows = recorded(store, BTC)
    assert_same_rows(rows[:-1], expected(BTC, number))
    manifest = read_manifest(store, BTC, DAY)
    assert manifest is not None
    assert [(g.ns, g.reason) for g in manifest.sessions[0].gaps][:1] == [(ns, "overflow")]


def test_a_limit_below_a_segment_is_no_end(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with spooling(store, SpoolConfig(flush_s=0.01, max_bytes=2_000)) as spool:
        number = 0
        while not spool.full and number < 200:
            put(spool, number)
            flushed(spool)
            number += 1
        wait_for(lambda: spool.status().moved_parts > 0 and not spool.full)
    assert_same_rows(recorded(store, BTC), expected(BTC, number))


def test_a_limit_reached_where_no_segment_can_be_begun_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the very moment at which the segment should go."""
    store = Store(str(tmp_path))
    with spooling(store, SpoolConfig(flush_s=0.01, max_bytes=2_000)) as spool:
        failures, write = [], actors.spool.write_durably

        def fails_first(path: Path, data: bytes) -> None:
            failures.append(path)
            if len(failures) < 4:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(path, data)

        monkeypatch.setattr(actors.spool, "write_durably", fails_first)
        for number in range(200):
            if spool.full:
                break
            put(spool, number)
            flushed(spool)
        wait_for(lambda: spool.status().moved_parts > 0 and not spool.full)
        assert len(failures) >= 4
        wait_for(lambda: spool.status().last_error is None)


class _Away(Store):
    """A root that can be away."""

    away = False

    def write(self, path: str, data: bytes | memoryview) -> None:
        if self.away:
            raise QuaverError(f"cannot write {path}: the root is away")
        super().write(path, data)


class _Disk:
    """What the spool's thread finds when it asks the disk for an fsync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses = threading.Event()
        self.asked = 0
        fsync = os.fsync

        def ours(descriptor: int) -> None:
            if threading.current_thread().name == "spool-ours" and self.refuses.is_set():
                self.asked += 1
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", ours)


def test_a_disk_without_space_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _Disk(monkeypatch)
    monkeypatch.setattr(actors.spool, "_RETRY_S", 0.01)
    store = Store(str(tmp_path))
    with spooling(store) as spool:
        put(spool, 0)
        flushed(spool)
        disk.refuses.set()
        put(spool, 1)
        wait_for(lambda: spool.full and disk.asked > 2)
        assert "No space left" in (spool.status().last_error or "")
        assert "make room" in (spool.status().last_error or "")
        put(spool, 2)
        disk.refuses.clear()
        flushed(spool)
        assert not spool.full
        assert spool.status().last_error is None
    for product_id in IDS:
        assert_same_rows(recorded(store, product_id), expected(product_id, 3))


def test_a_killed_writer_leaves_no_half_of_a_block_that_the_disk_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block that failed is written over, not after: what follows it can be read."""
    disk = _Disk(monkeypatch)
    monkeypatch.setattr(actors.spool, "_RETRY_S", 0.01)
    with spooling(Store(str(tmp_path)), SpoolConfig(flush_s=0.01)) as spool:
        disk.refuses.set()
        put(spool, 0)
        wait_for(lambda: disk.asked > 2)
        disk.refuses.clear()
        put(spool, 1)
        flushed(spool)
        (path,) = (tmp_path / "spool").glob("*/*.seg")
        found = read_segment(path)
        assert found.lost_bytes == 0
        assert sum(len(block.rows) for block in found.blocks) == 6


def test_a_disk_that_cannot_keep_up_makes_the_spool_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _Disk(monkeypatch)
    monkeypatch.setattr(actors.spool, "_RETRY_S", 0.01)
    store = Store(str(tmp_path))
    with spooling(store, SpoolConfig(flush_s=0.01, buffer_rows=30)) as spool:
        disk.refuses.set()
        for number in range(10):
            assert spool.status().buffered_rows == 3 * number
            put(spool, number)
        assert spool.full
        disk.refuses.clear()
        flushed(spool)
        assert not spool.full


def test_a_segment_that_cannot_begin_lets_the_old_one_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, begin, refused = Store(str(tmp_path)), actors.spool.write_durably, threading.Event()

    def full(path: Path, data: bytes) -> None:
        if path.name == "00000001.seg" and not refused.is_set():
            refused.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        begin(path, data)

    monkeypatch.setattr(actors.spool, "write_durably", full)
    with spooling(store, SpoolConfig(flush_s=0.01, segment_rows=3)) as spool:
        for number in range(6):
            put(spool, number)
            flushed(spool)
    assert refused.is_set()
    for product_id in IDS:
        assert_same_rows(recorded(store, product_id), expected(product_id, 6))


# Where the rows come from.


def source_of(store: Store, product_id: str = BTC) -> set[str]:
    manifest = read_manifest(store, product_id, DAY)
    assert manifest is not None
    return {session.source for session in manifest.sessions}


def rows_in_spool(store: Store) -> int:
    """How many rows are in the spool."""
    paths = list(spool_folder(store, QUICK).rglob("*.seg"))
    return sum(len(block.rows) for path in paths for block in read_segment(path).blocks)


def test_a_source_learnt_before_the_first_row_is_that_of_all_rows(tmp_path: Path) -> None:
    """Also of those that somebody else moves, should this process be killed."""
    store = Store(str(tmp_path))
    with spooling(store) as spool:
        spool.source = "simulated at last"
        put(spool, 0)
        flushed(spool)
        (path,) = spool_folder(store, QUICK).rglob("*.seg")
        assert read_segment(path).header.source == "simulated at last"
        put(spool, 2)
    assert source_of(store) == {"simulated at last"}
    assert_same_rows(recorded(store, BTC), expected(BTC, 3))


def test_rows_of_another_source_do_not_join_a_session(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with spooling(store) as spool:
        for number in (0, 2):
            put(spool, number)
            flushed(spool)
        spool.source = "simulated at last"
        for number in (4, 6):
            put(spool, number)
            flushed(spool)
    assert source_of(store) == {"a test"}
    assert_same_rows(recorded(store, BTC), expected(BTC, 3))
    assert "simulated and real ones do not mix" in (spool.status().last_error or "")
    (refused,) = (spool_folder(store, QUICK) / "refused").rglob("*.seg")
    found = read_segment(refused)
    assert found.header.source == "simulated at last"
    rows = np.concatenate([block.rows for block in found.blocks])
    assert_same_rows(rows, expected(BTC, 7)[len(expected(BTC, 3)) :])


def test_a_source_that_the_disk_does_not_take_is_written_before_any_row_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, write, room = Store(str(tmp_path)), actors.spool.write_durably, threading.Event()

    def full(path: Path, data: bytes) -> None:
        if not room.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    with spooling(store) as spool:
        monkeypatch.setattr(actors.spool, "write_durably", full)
        spool.source = "simulated at last"
        put(spool, 0)
        wait_for(lambda: "make room" in (spool.status().last_error or ""))
        assert spool.full and not rows_in_spool(store)
        room.set()
        flushed(spool)
        assert spool.status().last_error is None and not spool.full
    assert source_of(store) == {"simulated at last"}
    assert_same_rows(recorded(store, BTC), expected(BTC, 1))


# Where it is.


def test_the_spool_lies_in_a_local_root_and_at_home_for_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spool_folder(Store(str(tmp_path)), QUICK) == tmp_path / "spool"
    elsewhere = SpoolConfig(folder=str(tmp_path / "x"))
    assert spool_folder(Store(str(tmp_path)), elsewhere) == tmp_path / "x"
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    folders = {spool_folder(Store(f"s3://bucket/{name}?region=x"), QUICK) for name in "ab"}
    assert len(folders) == 2
    for folder in folders:
        assert folder.parent == tmp_path / ".local" / "state" / "quaver" / "spool"


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(QuaverError, match="give a local folder"):
        Spool(Store(str(tmp_path)), "a test", "x", SpoolConfig(folder=str(tmp_path / "file")))


def test_a_folder_that_is_the_spool_of_another_root_is_refused(tmp_path: Path) -> None:
    """What one root's collectors left would be moved to the other."""
    config = SpoolConfig(flush_s=0.01, folder=str(tmp_path / "spool"))
    for _ in range(2):
        Spool(Store(str(tmp_path / "a")), "a test", "x", config).close(LIMIT_S)
    with pytest.raises(QuaverError, match="a folder of its own"):
        Spool(Store(str(tmp_path / "b")), "a test", "x", config)


def test_no_rows_are_no_trouble_and_closing_twice_neither(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    spool = Spool(store, "a test", "ours", QUICK)
    spool.put(product(BTC), DAY, SESSION_NS, np.zeros(0, EVENT), None)
    put(spool, 1)
    spool.close(LIMIT_S)
    spool.close(LIMIT_S)
    assert spool.status().last_error is None
    assert_same_rows(recorded(store, ETH), expected(ETH, 2))
