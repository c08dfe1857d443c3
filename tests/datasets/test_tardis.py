"""Tardis CSV: what its files say becomes the windows of the same events; what is bad is named."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.raw import partitions, read_manifest, read_partition
from actors.store import Store
from datasets import captures
from datasets.imports import Imported, import_capture
from datasets.tardis import import_tardis
from market.errors import QuaverError
from market.events import Kind
from market.products import Product, product_of
from tests.actors.wire import (
    BEAT_NS,
    BTC,
    DAY_NS,
    DAYS,
    ETH,
    MIDNIGHT_NS,
    SECOND_NS,
    START_NS,
    Walk,
    assert_same_windows,
    rebuilt_windows,
)
from tests.datasets.test_imports import capture, files, reasons
from tests.helpers import recording

BOOK = "exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount"
TRADES = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"
DELAY_US = 5_000  # From the venue to the vendor.


def write(path: Path, header: str, rows: Iterable[str]) -> Path:
    text = "".join(f"{line}\n" for line in (header, *rows)).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


def row(ns: int, *fields: object, symbol: str = BTC, exchange: str = "coinbase") -> str:
    """A row of an event at a time, which arrived a little later."""
    us = ns // 1000
    return ",".join(map(str, (exchange, symbol, us, us + DELAY_US, *fields)))


def snapshot(ns: int, bid: int = 100, **names: str) -> list[str]:
    sides = [("bid", bid - i) for i in range(3)] + [("ask", bid + 2 + i) for i in range(3)]
    return [row(ns, "true", side, f"{price}.00", "1.5", **names) for side, price in sides]


def tardis(frames: Iterable[bytes]) -> tuple[list[str], list[str]]:
    """Frames of Advanced Trade as the rows of both files; times are cut to microseconds."""
    books: list[str] = []
    trades: list[str] = []
    for frame in map(json.loads, frames):
        us = int(np.datetime64(frame["timestamp"].rstrip("Z"), "ns").astype("i8")) // 1000
        for event in frame["events"]:
            for level in event.get("updates", ()):
                side = "bid" if level["side"] == "bid" else "ask"
                fields = (event["product_id"], us, us + DELAY_US + frame["sequence_num"])
                whole = "true" if event["type"] == "snapshot" else "false"
                fields += (whole, side, level["price_level"], level["new_quantity"])
                books.append(",".join(map(str, ("coinbase", *fields))))
            for trade in reversed(event.get("trades", ())):
                side = "sell" if trade["side"] == "BUY" else "buy"  # The taker's.
                fields = (trade["product_id"], us, us + DELAY_US + frame["sequence_num"])
                fields += (trade["trade_id"], side, trade["price"], trade["size"])
                trades.append(",".join(map(str, ("coinbase", *fields))))
    return books, trades


def load(root: Path, *paths: Path, **increments: Product) -> tuple[Store, Imported]:
    store = Store(str(root))
    return store, import_tardis(store, list(paths), increments)


def events_of(store: Store, product_id: str = BTC, day: str = DAYS[0]) -> NDArray[np.void]:
    manifest = read_manifest(store, product_id, day)
    assert manifest is not None
    return read_partition(store, manifest)


def walk(seed: int, start_ns: int = START_NS, seconds: int = 60) -> list[bytes]:
    """Frames whose times are whole microseconds and, like the rows' arrivals, all different."""
    made = Walk(seed)
    frames = [
        *made.snapshots(start_ns),
        *made.frames(start_ns + SECOND_NS, start_ns + seconds * SECOND_NS),
    ]
    return [f for f in frames if b'"heartbeats"' not in f]


def without_ends(windows: dict[str, NDArray[np.void]], beats: int) -> dict[str, NDArray[np.void]]:
    """The first beats of each product: without heartbeats, its last ones never close."""
    return {product_id: found[:beats] for product_id, found in windows.items()}


def by_capture(root: Path, frames: list[bytes]) -> dict[str, NDArray[np.void]]:
    """The windows of the same frames, times cut to microseconds, through the other import."""
    cut = []
    for number, frame in enumerate(frames):
        fields = json.loads(frame)
        whole, _, fraction = fields["timestamp"].rstrip("Z").partition(".")
        fields |= {"timestamp": f"{whole}.{fraction[:6]}Z", "sequence_num": number}
        cut.append(json.dumps(fields, separators=(",", ":")).encode())
    store = Store(str(root))
    import_capture(store, capture(root.with_suffix(".jsonl"), cut), "coinbase-advanced", {})
    return rebuilt_windows(store)


# What is read.


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
@pytest.mark.parametrize("start_ns", [START_NS, MIDNIGHT_NS - 30 * SECOND_NS])
def test_books_and_trades_give_the_windows_of_the_same_events(
    tmp_path: Path, suffix: str, start_ns: int
) -> None:
    frames = walk(3, start_ns)
    books, trades = tardis(frames)
    paths = (
        write(tmp_path / f"b.{suffix}", BOOK, books),
        write(tmp_path / f"t.{suffix}", TRADES, trades),
    )
    store, done = load(tmp_path / "root", *paths)
    wanted = by_capture(tmp_path / "capture", frames)
    found = rebuilt_windows(store)
    assert {p: len(w) >= 12 for p, w in found.items()} == {BTC: True, ETH: True}
    assert_same_windows(without_ends(found, 12), without_ends(wanted, 12))
    assert found[BTC]["trades"].sum() > 0 and found[BTC]["valid"].sum() >= 11
    assert done.frames == len(books) + len(trades)
    assert set(done.products) == {BTC, ETH}


@pytest.mark.slow
def test_a_real_recording_as_tardis_csv_gives_its_windows(tmp_path: Path) -> None:
    with gzip.open(recording("advanced-btc-usd-60s.jsonl.gz")) as file:
        frames = [
            f for f in file.read().splitlines() if b'"l2_data"' in f or b'"market_trades"' in f
        ]
    books, trades = tardis(frames)
    paths = [
        write(tmp_path / "b.csv.gz", BOOK, books),
        write(tmp_path / "t.csv.gz", TRADES, trades),
    ]
    store, _ = load(tmp_path / "root", *paths)
    found, wanted = rebuilt_windows(store), by_capture(tmp_path / "capture", frames)
    assert found[BTC]["valid"].sum() >= 12
    assert_same_windows(found, wanted)


def test_the_order_is_that_of_arrival_over_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books, trades = tardis(walk(5, seconds=300))
    paths = [write(tmp_path / "b.csv", BOOK, books), write(tmp_path / "t.csv", TRADES, trades)]
    store, _ = load(tmp_path / "whole", *paths)
    wanted = events_of(store)
    assert wanted["recv_ns"][wanted["kind"] <= Kind.TRADE].tolist() == sorted(
        wanted["recv_ns"][wanted["kind"] <= Kind.TRADE].tolist()
    )
    for size in (200, 1_000, 7_777):
        monkeypatch.setattr(captures, "BLOCK_BYTES", size)
        small, _ = load(tmp_path / str(size), *paths)
        for product_id in (BTC, ETH):
            assert events_of(small, product_id).tolist() == events_of(store, product_id).tolist()


def test_rows_of_one_arrival_are_one_frame_and_keep_both_times(tmp_path: Path) -> None:
    change = [row(START_NS + SECOND_NS, "false", side, "99.50", "0") for side in ("bid", "ask")]
    path = write(tmp_path / "b.csv", BOOK, [*snapshot(START_NS), *change])
    events = events_of(load(tmp_path / "root", path)[0])[:-1]  # Without the END.
    assert events["last"].tolist() == [0] * 5 + [1, 0, 1]
    assert (events["recv_ns"] - events["ns"] == DELAY_US * 1000).all()
    assert events["kind"].tolist() == [Kind.SNAPSHOT] * 6 + [Kind.CHANGE] * 2
    assert events["price"].tolist()[:2] == [10_000, 9_900]


def test_the_clock_does_not_go_back(tmp_path: Path) -> None:
    us = START_NS // 1000
    late = [
        f"coinbase,{BTC},{us - 7},{us + 10_000_000 + i},false,bid,99.00,{i + 1}" for i in range(2)
    ]
    path = write(tmp_path / "b.csv", BOOK, [*snapshot(START_NS), *late])
    assert set(events_of(load(tmp_path / "root", path)[0])["ns"]) == {START_NS}


def test_times_ids_and_exponents_are_exact(tmp_path: Path) -> None:
    rows = [
        row(START_NS, 900719925474099301, "buy", "99.01", "1e-8"),
        row(START_NS, "not-a-number", "sell", "100", "9.9E-7"),
        row(START_NS, "", "unknown", "100", "1"),
    ]
    store, done = load(tmp_path / "root", write(tmp_path / "t.csv", TRADES, rows))
    events = events_of(store)[:-1]
    assert events["trade_id"].tolist() == [900719925474099301, 0]
    assert events["size"].tolist() == [1, 99]
    assert events["price"].tolist() == [9901, 10_000]
    assert events["side"].tolist() == [0, 1]
    assert done.counts["trades of unknown side"] == 1


def test_a_trade_that_is_repeated_counts_once(tmp_path: Path) -> None:
    rows = [row(START_NS + i * 1000, n, "buy", "99", "1") for i, n in enumerate((5, 6, 6, 9, 8))]
    store, _ = load(tmp_path / "root", write(tmp_path / "t.csv", TRADES, rows))
    assert events_of(store)["trade_id"].tolist() == [5, 6, 9, 8, 0]
    manifest = read_manifest(store, BTC, DAYS[0])
    assert manifest is not None
    counts = manifest.sessions[0].counts
    assert (counts["trade_duplicates"], counts["trade_holes"]) == (1, 1)


# What is known of a book.


def test_a_book_is_not_known_between_its_last_row_and_the_next_snapshot(tmp_path: Path) -> None:
    books = snapshot(START_NS)
    books += [row(START_NS + i * BEAT_NS, "false", "bid", "90", f"{i}") for i in range(1, 4)]
    books += snapshot(START_NS + 8 * BEAT_NS, bid=200)
    books += [row(START_NS + i * BEAT_NS, "false", "bid", "90", f"{i}") for i in range(9, 13)]
    trades = [row(START_NS + i * BEAT_NS + 1000, i + 1, "buy", "101", "1") for i in range(13)]
    paths = write(tmp_path / "b.csv", BOOK, books), write(tmp_path / "t.csv", TRADES, trades)
    store, done = load(tmp_path / "root", *paths)
    windows = rebuilt_windows(store)[BTC]
    valid = windows["beat"][windows["valid"]] - START_NS // BEAT_NS
    # Beat 3 holds the last row before, beat 8 the snapshot; the last, 12, never ends.
    assert valid.tolist() == [1, 2, 9, 10, 11]
    assert windows["trades"].tolist() == [1] * 12
    assert done.counts["disconnects"] == 1
    assert "disconnect" in reasons(store)


def test_trades_after_the_end_of_a_book_close_no_valid_beat(tmp_path: Path) -> None:
    books = [*snapshot(START_NS), row(START_NS + BEAT_NS, "false", "bid", "90", "1")]
    trades = [row(START_NS + i * BEAT_NS + 1000, i + 1, "buy", "101", "1") for i in range(5)]
    paths = write(tmp_path / "b.csv", BOOK, books), write(tmp_path / "t.csv", TRADES, trades)
    assert not rebuilt_windows(load(tmp_path / "root", *paths)[0])[BTC]["valid"].any()


def test_changes_before_the_first_snapshot_are_of_no_book(tmp_path: Path) -> None:
    books = [row(START_NS + i * BEAT_NS, "false", "bid", "90", "1") for i in range(3)]
    path = write(tmp_path / "b.csv", BOOK, [*books, *snapshot(START_NS + 3 * BEAT_NS)])
    windows = rebuilt_windows(load(tmp_path / "root", path)[0])[BTC]
    assert not windows["valid"].any() and not windows["bid"].any() and not windows["updates"].any()


@pytest.mark.parametrize(
    ("price", "amount"),
    [("99.001", "1"), ("99", "0.000000001"), ("0", "1"), ("-1", "1"), ("x", "1")],
)
def test_a_frame_off_the_grid_is_dropped_whole_and_unsyncs(
    tmp_path: Path, price: str, amount: str
) -> None:
    bad = [
        row(START_NS + SECOND_NS, "false", "bid", p, a) for p, a in (("98", "7"), (price, amount))
    ]
    after = [row(START_NS + i * BEAT_NS, "false", "bid", "90", "1") for i in range(1, 4)]
    path = write(tmp_path / "b.csv", BOOK, [*snapshot(START_NS), *bad, *after])
    store, done = load(tmp_path / "root", path)
    assert done.counts["corrupt"] == 1
    events = events_of(store)
    assert 7 * 10**8 not in events["size"].tolist()
    assert events["kind"].tolist()[6] == Kind.UNSYNC
    assert not rebuilt_windows(store)[BTC]["valid"].any()
    (kept,) = store.files("quarantine")
    assert f"{price},{amount}".encode() in store.read(kept) and b"line 9" in store.read(kept)


def test_a_time_far_ahead_is_corrupt_and_files_days_apart_are_two_recordings(
    tmp_path: Path,
) -> None:
    us = START_NS // 1000
    leap = f"coinbase,{BTC},{us + 2 * 86_400_000_000},{us + 9_000},false,bid,90,1"
    later = snapshot(START_NS + 20 * DAY_NS)
    path = write(tmp_path / "b.csv", BOOK, [*snapshot(START_NS), leap, *later])
    store, done = load(tmp_path / "root", path)
    assert done.counts["corrupt"] == 1
    assert [day for _, day in partitions(store)] == [DAYS[0], "2026-08-29"]
    assert events_of(store)["kind"].tolist() == [Kind.SNAPSHOT] * 6 + [Kind.UNSYNC, Kind.END]


# Symbols.


def test_symbols_of_another_exchange_need_their_increments(tmp_path: Path) -> None:
    rows = [*snapshot(START_NS), *snapshot(START_NS + 1000, symbol="btcusdt", exchange="binance")]
    path = write(tmp_path / "b.csv", BOOK, rows)
    _, done = load(tmp_path / "a", path)
    assert (done.products, done.skipped) == ((BTC,), ("btcusdt",))
    assert done.frames == 6
    _, done = load(tmp_path / "b", path, btcusdt=product_of("btcusdt", "0.5", "0.5"))
    assert done.products == (BTC, "btcusdt")
    assert_same_windows(
        rebuilt_windows(load(tmp_path / "c", path)[0]),
        rebuilt_windows(load(tmp_path / "a", path)[0]),
    )


def test_a_file_of_unknown_symbols_alone_asks_for_their_grid(tmp_path: Path) -> None:
    path = write(tmp_path / "b.csv", BOOK, snapshot(START_NS, symbol="BTC-USD", exchange="dydx"))
    with pytest.raises(QuaverError, match=r"BTC-USD.*--increments BTC-USD="):
        load(tmp_path / "root", path)
    assert files(tmp_path / "root") == {}


def test_a_symbol_of_two_exchanges_is_refused(tmp_path: Path) -> None:
    rows = [*snapshot(START_NS), *snapshot(START_NS + 1000, exchange="dydx")]
    with pytest.raises(QuaverError, match=r"line 8.*dydx"):
        load(
            tmp_path / "root",
            write(tmp_path / "b.csv", BOOK, rows),
            **{BTC: product_of(BTC, "1", "1")},
        )


# What is wrong with a file.


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("coinbase,BTC-USD,1,2", "columns"),
        ("coinbase,BTC-USD,1,2,false,bid,1,1,1", "columns"),
        (row(START_NS + SECOND_NS, "maybe", "bid", "1", "1"), "is_snapshot"),
        (row(START_NS + SECOND_NS, "false", "buy", "1", "1"), "side"),
        (f"coinbase,BTC-USD,x,{START_NS // 1000 + 10**6},false,bid,1,1", "timestamp"),
        (f"coinbase,BTC-USD,{10**17},{START_NS // 1000 + 10**6},false,bid,1,1", "timestamp"),
        (row(START_NS - SECOND_NS, "false", "bid", "1", "1"), "goes back"),
        ("\xff\xfe,,,,,,,", "line 10"),
    ],
)
def test_a_bad_row_is_named_and_what_was_good_stays(tmp_path: Path, line: str, why: str) -> None:
    good = [*snapshot(START_NS), row(START_NS + 1000, "false", "bid", "99", "2")]
    later = row(START_NS + 2000, "false", "bid", "99", "3")
    path = tmp_path / "b.csv"
    path.write_bytes("\n".join([BOOK, *good, later, line, later]).encode("latin-1"))
    with pytest.raises(QuaverError, match=r"b\.csv: line 10: ") as caught:
        load(tmp_path / "root", path)
    assert why in str(caught.value)
    assert len(events_of(Store(str(tmp_path / "root")))) == 8  # Not what may be half a frame.


@pytest.mark.parametrize(
    "data", ["", "\n", "hello\n", BOOK.replace("side", "Side"), '{"type":"x"}']
)
def test_a_wrong_header_names_those_that_are_right(tmp_path: Path, data: str) -> None:
    path = tmp_path / "b.csv"
    path.write_text(data)
    with pytest.raises(QuaverError) as caught:
        load(tmp_path / "root", path)
    assert all(text in str(caught.value) for text in ("b.csv", "line 1", BOOK, TRADES))


def test_a_file_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuaverError, match=r"b\.csv: no rows"):
        load(tmp_path / "root", write(tmp_path / "b.csv", BOOK, []))


def test_a_broken_gzip_is_named_and_what_was_good_stays(tmp_path: Path) -> None:
    books, _ = tardis(walk(9, seconds=1_000))
    path = write(tmp_path / "b.csv.gz", BOOK, books)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(QuaverError, match=r"b\.csv\.gz: cannot be read after line \d+"):
        load(tmp_path / "root", path)
    assert len(events_of(Store(str(tmp_path / "root")))) > 100


def test_windows_line_ends_and_another_import_change_nothing(tmp_path: Path) -> None:
    books, _ = tardis(walk(9))
    plain = write(tmp_path / "b.csv", BOOK, books)
    dos = tmp_path / "d.csv"
    dos.write_bytes(plain.read_bytes().replace(b"\n", b"\r\n"))
    load(tmp_path / "a", plain)
    once = files(tmp_path / "a")
    load(tmp_path / "a", plain)
    load(tmp_path / "b", dos)
    assert files(tmp_path / "a") == files(tmp_path / "b") == once
