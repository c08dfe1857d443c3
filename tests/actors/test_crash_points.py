"""Death at any point: what the next start makes of it is whole, once, and says what is missing."""

import gc
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.advanced_trade import decoder
from actors.mover import Mover
from actors.raw import Gap, read_manifest
from actors.reader import Reader
from actors.recorder import Recorder
from actors.segments import encode_block, encode_header, read_segment, segments_of
from actors.spool import Spool, SpoolConfig
from actors.store import Store
from actors.stream import ProductStream
from datasets.unknown import unknown
from market.events import Kind, Reason
from market.products import product
from market.windows import BEAT_NS
from tests.actors.spooling import IDS, expected, put
from tests.actors.test_mover import SMALL, assert_all, left_behind, manifest_of, quick
from tests.actors.test_spool import LIMIT_S, flushed, recorded, spooling, wait_for
from tests.actors.wire import (
    BTC,
    ETH,
    MIDNIGHT_NS,
    SECOND_NS,
    Walk,
    Windows,
    assert_same_rows,
    listed,
    read,
    rebuilt_windows,
)
from tests.mortal import Dead, Life

__all__ = ["quick"]  # A fixture.


def adopted_by_hand(store: Store, folder: Path) -> None:
    """What the thread of a mover does with a folder that was left behind."""
    start = threading.Thread.start
    threading.Thread.start = lambda thread: None  # type: ignore[method-assign]
    try:
        mover = Mover(store, folder.parent, folder.parent / "none")
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
    mover._adopt(folder)


@pytest.mark.slow
def test_a_mover_that_dies_at_any_call_is_followed_by_one_that_finishes(tmp_path: Path) -> None:
    left_behind(tmp_path / "left", 3)
    for ends_at in range(10_000):
        root = tmp_path / str(ends_at)
        shutil.copytree(tmp_path / "left", root)
        (folder,) = (root / "spool").glob("dead-*")
        store = Store(str(root))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("actors.mover._AT_ONCE", 1)
            life = Life(patched, ends_at)
            try:
                adopted_by_hand(store, folder)
            except Dead:
                pass
            gc.collect()  # What a dead process holds, its locks above all, is let go.
        for path in store.files("raw"):  # Whole, at any time.
            assert path.endswith((".parquet", ".json"))
        for product_id in IDS:
            if manifest := read_manifest(store, product_id, "2026-08-09"):
                assert len(recorded(store, product_id)) == sum(
                    part.rows for session in manifest.sessions for part in session.parts
                )
        Spool(store, "a test", "next", SMALL).close(LIMIT_S)
        if folder.exists():  # Without its lock nobody knows whose it was; there is nothing in it.
            folder.rmdir()
        assert_all(store, 3)
        for product_id in IDS:
            last_ns = int(expected(product_id, 3)["ns"][-1])
            (session,) = manifest_of(store, product_id).sessions
            assert session.gaps == [Gap(ns=last_ns, until_ns=None, reason="broke off")]
        shutil.rmtree(root)
        if not life.ended:
            assert ends_at > 50
            return
    raise AssertionError("it never ended")


# Kills around midnight.


def streamed_around_midnight(root: Path) -> tuple[Path, list[tuple[int, Windows]]]:
    """A segment over midnight, and what had been streamed when so many blocks were on disk."""
    walk, store = Walk(3), Store(str(root))
    frames = [
        *walk.snapshots(MIDNIGHT_NS - 9 * SECOND_NS),
        *walk.frames(MIDNIGHT_NS - 8 * SECOND_NS, MIDNIGHT_NS + 9 * SECOND_NS),
    ]
    reader = Reader(decoder, listed(BTC, ETH))
    found: list[tuple[int, Windows]] = []
    windows: dict[str, list[NDArray[np.void]]] = {BTC: [], ETH: []}
    with spooling(store, SpoolConfig(flush_s=1.0)) as spool:
        recorder = Recorder(spool, reader.counts_of)
        streams = {name: ProductStream(recorder, product(name)) for name in (BTC, ETH)}
        for frame in frames:
            for name, rows in read(reader, frame):
                windows[name].append(streams[name].apply(rows))
            flushed(spool)
            (path,) = (root / "spool").glob("*/*.seg")
            so_far = {name: np.concatenate(parts) for name, parts in windows.items() if parts}
            found.append((len(read_segment(path).blocks), so_far))
        shutil.copy(path, root / "kept.seg")
    return root / "kept.seg", found


@pytest.mark.slow
def test_a_kill_at_any_block_around_midnight_keeps_every_window_that_was_streamed(
    tmp_path: Path,
) -> None:
    path, found = streamed_around_midnight(tmp_path)
    segment = read_segment(path)
    assert len(segment.blocks) > 20
    for blocks in range(1, len(segment.blocks) + 1):
        streamed = [windows for needed, windows in found if needed <= blocks]
        root = tmp_path / str(blocks)
        folder = root / "spool" / "dead-1"
        folder.mkdir(parents=True)
        cut = [encode_block(block.entries, [block.rows]) for block in segment.blocks[:blocks]]
        (folder / "00000000.seg").write_bytes(b"".join([encode_header(segment.header), *cut]))
        store = Store(str(root))
        Spool(store, "a test", "next", SMALL).close(LIMIT_S)
        rebuilt = rebuilt_windows(store)
        for product_id, windows in streamed[-1].items() if streamed else []:
            assert_same_rows(rebuilt[product_id][: len(windows)], windows)
            # What is known by the manifest is what was kept, to the end of the last beat that was.
            for window in windows[windows["valid"]]:
                ns = int(window["beat"]) * BEAT_NS
                day = "2026-08-09" if ns < MIDNIGHT_NS else "2026-08-10"
                assert unknown(manifest_of(store, product_id, day), ns, ns + BEAT_NS - 1) == []


# Segments that are missing between others.


def assert_no_book_after(store: Store, product_id: str, lost_after: int, puts: list[int]) -> None:
    """The rows of these puts, with a mark after so many of them that the book is not known."""
    rows = recorded(store, product_id)
    kept = np.concatenate([expected(product_id, n + 1)[-3:] for n in puts])
    at = 3 * lost_after
    assert rows["kind"][at] == Kind.UNSYNC and rows["reason"][at] == Reason.CORRUPT
    assert_same_rows(np.delete(rows, at), kept)
    gap = manifest_of(store, product_id).sessions[0].gaps[0]
    assert gap == Gap(ns=int(kept["ns"][at - 1]), until_ns=None, reason="corrupt")


@pytest.mark.parametrize("bad", [b"", b"garbage"])
def test_after_a_segment_that_is_missing_no_book_is_thought_known(
    tmp_path: Path, bad: bytes
) -> None:
    folder = left_behind(tmp_path, 10)
    second = segments_of(folder)[1]  # Holds the puts 2 and 3.
    if bad:
        second.write_bytes(bad)
    else:
        second.unlink()
    store = Store(str(tmp_path))
    Spool(store, "a test", "next", SMALL).close(LIMIT_S)
    assert_no_book_after(store, BTC, 1, [0, 4, 6, 8])
    assert_no_book_after(store, ETH, 1, [1, 5, 7, 9])


def test_a_part_that_comes_after_what_followed_it_is_refused(tmp_path: Path) -> None:
    """It was set aside when the partition did not take it, and now does."""
    folder = left_behind(tmp_path, 10)
    second = segments_of(folder)[1]
    late = tmp_path / "late.seg"
    second.rename(late)
    store = Store(str(tmp_path))
    Spool(store, "a test", "next", SMALL).close(LIMIT_S)
    before = {p: manifest_of(store, p) for p in IDS}
    folder.mkdir()
    late.rename(folder / second.name)
    spool = Spool(store, "a test", "next", SMALL)
    spool.close(LIMIT_S)
    assert {p: manifest_of(store, p) for p in IDS} == before
    assert spool.status().refused == 2
    assert "another root" in (spool.status().last_error or "")


def test_a_segment_in_which_a_product_was_quiet_is_not_missing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with spooling(store, SMALL) as spool:
        for number in (0, 1, 2, 4, 6, 8, 10, 11, 13):
            put(spool, number)
            flushed(spool)
    for product_id in IDS:
        assert not (recorded(store, product_id)["kind"] == Kind.UNSYNC).any()


# What must not hold up the rest.


def test_an_orphan_that_cannot_be_moved_holds_up_nobody(tmp_path: Path) -> None:
    stuck = left_behind(tmp_path, 2).rename(tmp_path / "spool" / "a-stuck")
    other = left_behind(tmp_path, 2).rename(tmp_path / "spool" / "b-other")
    (bad,) = (path for path in segments_of(stuck)[:1])
    bad.unlink()
    bad.mkdir()  # Reading it fails, whoever asks.
    store = Store(str(tmp_path))
    spool = Spool(store, "a test", "next", SMALL)
    try:
        wait_for(lambda: not other.exists())
        for number in range(4):
            put(spool, number)
            flushed(spool)
        wait_for(lambda: spool.status().moved_parts >= 4)
        wait_for(lambda: str(bad) in (spool.status().last_error or ""))
    finally:
        spool.close(LIMIT_S)
    assert stuck.exists()


def test_a_status_looks_at_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for by the reading loop, and thousands of segments may wait."""
    with spooling(Store(str(tmp_path))) as spool, monkeypatch.context() as patched:
        asked_by: list[str] = []

        def watched(call: Callable[..., Any]) -> Callable[..., Any]:
            def ours(*args: Any, **options: Any) -> Any:
                asked_by.append(threading.current_thread().name)
                return call(*args, **options)

            return ours

        for name in ("glob", "rglob", "stat", "iterdir"):
            patched.setattr(Path, name, watched(getattr(Path, name)))
        put(spool, 0)
        flushed(spool)
        assert spool.status().segments == 1
        assert threading.current_thread().name not in asked_by
