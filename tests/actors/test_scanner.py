"""The scanner: of any bytes whatsoever, it and the general parser say what the parser alone says.

The usual shape must be scanned, since that is what it is for; whether a frame is scanned or not
must make no other difference, byte by byte, number by number, date by date.
"""

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.advanced_trade import decode, decoder
from actors.frames import CorruptFrame, Decoder, Frame, attempt
from actors.reader import Reader
from actors.scanner import Scanner
from market.events import ASK, BID, EVENT, Kind
from market.products import MAX_UNITS, UNIVERSE, Product, product_of
from sim.wire import Listing, shared_frame
from tests.actors.wire import (
    BTC,
    DAY_NS,
    DISCONNECT,
    ETH,
    MIDNIGHT_NS,
    START_NS,
    Advanced,
    Levels,
    Walk,
    listed,
    rfc3339,
)
from tests.helpers import recording

PRODUCTS = listed(BTC, ETH)
BOTH = decoder(PRODUCTS)
STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=2_000)
LEVELS: Levels = [("bid", "62318.81", "0"), ("offer", "62336.6", "0.03021537")]
SAMPLE = (
    b'{"channel":"l2_data","timestamp":"2024-10-08T09:10:36.04370306Z","sequence_num":9,"events":'
    b'[{"type":"update","product_id":"BTC-USD","updates":[{"side":"bid","event_time":'
    b'"2024-10-08T09:10:34.970831Z","price_level":"62318.81","new_quantity":"0"},{"side":"offer",'
    b'"event_time":"2024-10-08T09:10:34.970831Z","price_level":"62336.6","new_quantity":'
    b'"0.03021537"}]}]}'
)


def general(products: dict[str, Product]) -> Decoder:
    """The general parser alone, as a decoder."""
    return lambda batch: [attempt(decode, data, products) for data in batch]


def said(decoded: Frame | CorruptFrame) -> tuple[object, ...]:
    """All that a decoder said of a frame, as plain values."""
    if isinstance(decoded, CorruptFrame):
        return (decoded.kind, decoded.reason, decoded.sequence, decoded.ns, decoded.product_ids)
    assert all(rows.dtype == EVENT and rows.flags.writeable for _, rows in decoded.rows)
    rows = tuple((name, rows.tolist()) for name, rows in decoded.rows)
    return (decoded.name, decoded.sequence, decoded.ns, rows, decoded.foreign, decoded.trades)


def assert_same(frames: list[bytes], products: dict[str, Product] = PRODUCTS) -> None:
    """Decoded together with the scanner, frames say what the general parser says of each."""
    together = decoder(products)(frames)
    for data, ours, wanted in zip(frames, together, general(products)(frames), strict=True):
        assert said(ours) == said(wanted), data


def scanned(frames: list[bytes], products: dict[str, Product] = PRODUCTS) -> list[bool]:
    """Which frames the scanner reads by itself."""
    return [frame is not None for frame in Scanner(products)(frames)]


def updates(levels: Iterable[tuple[object, ...]]) -> list[dict[str, object]]:
    """Levels as the venue writes them."""
    keys = ("side", "event_time", "price_level", "new_quantity")
    return [dict(zip(keys, (s, rfc3339(0), p, q), strict=True)) for s, p, q in levels]


def frame_at(timestamp: str) -> bytes:
    """A frame of one level with this time."""
    return SAMPLE.replace(b"2024-10-08T09:10:36.04370306Z", timestamp.encode())


# What must be scanned.


def test_a_frame_of_the_usual_shape_is_scanned_to_its_rows() -> None:
    (frame,) = Scanner(PRODUCTS)([SAMPLE])
    assert frame is not None
    ns = 1_728_378_636_043_703_060
    rows = [
        (ns, 0, Kind.CHANGE, BID, 0, 0, 6231881, 0, 0),
        (ns, 0, Kind.CHANGE, ASK, 1, 0, 6233660, 3021537, 0),
    ]
    assert said(frame) == ("l2_data", 9, ns, ((BTC, rows),), 0, False)


def test_every_product_of_the_universe_is_scanned() -> None:
    products = {p.id: p for p in UNIVERSE}
    wire = Advanced()
    frames = [
        wire.book(START_NS, [("bid", f"{p.price(n):f}", f"{p.size(n):f}")], p.id, kind)
        for p in UNIVERSE
        for kind in ("update", "snapshot")
        for n in (1, 10, 12345678)
    ]
    assert all(scanned(frames, products))
    assert_same(frames, products)


def test_of_a_whole_stream_the_book_frames_are_scanned() -> None:
    walk = Walk(3)
    frames = walk.snapshots(START_NS) + list(walk.frames(START_NS, START_NS + 60 * 10**9))
    books = [b'"l2_data"' in frame for frame in frames]
    assert sum(books) > 40
    assert scanned(frames) == books
    assert_same(frames)


def test_frames_of_our_own_simulated_exchange_are_scanned() -> None:
    for listing in (Listing(p) for p in UNIVERSE):
        whole = listing.snapshot({100: 7, 99: 1}, {101: 10**13})
        changes = listing.updates([(BID, 99, 0), (ASK, 10**9, 5)], START_NS)
        for number, events in enumerate((whole, changes)):
            sent = shared_frame("level2", START_NS, events).numbered(number)
            products = {listing.product.id: listing.product}
            assert scanned([sent], products) == [True]
            assert_same([sent], products)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["advanced-btc-usd-180s", "advanced-btc-usd-60s"])
def test_every_book_frame_of_a_real_recording_is_scanned(name: str) -> None:
    with gzip.open(recording(f"{name}.jsonl.gz")) as file:
        frames = file.read().splitlines()
    assert scanned(frames) == [b'"l2_data"' in frame for frame in frames]
    assert_same(frames)


# Bytes.


@pytest.mark.slow
def test_any_one_byte_changed_makes_no_difference() -> None:
    for at in range(len(SAMPLE)):
        changed = [SAMPLE[:at] + bytes([byte]) + SAMPLE[at + 1 :] for byte in range(256)]
        assert_same(changed)


def test_any_one_byte_removed_doubled_or_put_in_makes_no_difference() -> None:
    for at in range(len(SAMPLE)):
        head, tail = SAMPLE[:at], SAMPLE[at:]
        put_in = [b'"', b"\\", b" ", b"0", b"9", b".", b"-", b"e", b",", b"]", b"}", b"\0", b"\xff"]
        assert_same([head + tail[1:], head + tail[:1] + tail, *(head + x + tail for x in put_in)])


def test_a_frame_cut_anywhere_is_read_no_further_than_its_end() -> None:
    assert scanned([SAMPLE]) == [True]
    for at in range(len(SAMPLE)):
        # What was cut off follows at once in memory, as the next frame.
        assert scanned([SAMPLE[:at], SAMPLE[at:]]) == [False, at == 0]
        assert_same([SAMPLE[:at], SAMPLE[at:], SAMPLE])


TOKENS = st.sampled_from(
    [
        *(bytes([byte]) for byte in b'"\\ 0159.-+eE,:[]{}TZ\n\0\xff'),
        b'"side":"bid",',
        b'"channel":"l2_data",',
        b'"new_quantity":"1",',
        b'{"side":"offer","event_time":"","price_level":"1","new_quantity":"1"},',
        b"\\u0030",
        b"00000000000000000000",
        b"1e3",
        b"]}]}",
        "é".encode(),
    ]
)
EDITS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 30), TOKENS | st.binary(max_size=3)),
    max_size=3,
)


@pytest.mark.slow
@STEADY
@given(batch=st.lists(st.tuples(st.integers(0, 5), EDITS), min_size=1, max_size=4))
def test_frames_damaged_anyhow_say_what_the_general_parser_says(
    batch: list[tuple[int, list[tuple[int, int, bytes]]]],
) -> None:
    frames = []
    for which, edits in batch:
        frame = ORIGINALS[which]
        for at, removed, put in edits:
            frame = frame[:at] + put + frame[at + removed :]
        frames.append(frame)
    assert_same(frames)


ORIGINALS = [
    SAMPLE,
    Advanced(7).book(START_NS, LEVELS * 2, ETH, "snapshot"),
    Advanced().book(START_NS, []),
    Advanced().snapshot(START_NS, "OTHER-USD"),
    Advanced().trades(START_NS, [(5, "BUY", "99.00", "1")]),
    Advanced().heartbeat(START_NS),
]


# Values.

NUMBERS = st.one_of(
    st.decimals(0, 10**12, places=2).map(str),
    st.decimals(0, 10**10, places=8).map(lambda n: f"{n:f}"),
    st.integers(0, 1 << 70).map(str),
    st.integers(MAX_UNITS - 2, MAX_UNITS + 2).map(lambda n: f"{Decimal(n).scaleb(-8):f}"),
    st.integers(MAX_UNITS - 2, MAX_UNITS + 2).map(lambda n: f"{Decimal(n).scaleb(-2):f}"),
    st.from_regex(r"\A-?[0-9]{0,19}\.?[0-9]{0,12}(e[0-9])?\Z"),
    st.sampled_from(
        ["", ".", "5.", ".5", "00.50", "0.000000000", "1_0", "+1", " 1", "१", "1" * 70]
    ),
)
TIMES = st.one_of(
    st.integers(-(10**15), 4_640_000_000 * 10**9).map(rfc3339),  # Into 2117.
    st.from_regex(r"\A20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]Z\Z"),
    st.from_regex(r"\A2024-0[0-2]-[0-3][0-9]T09:10:36(\.[0-9]{0,10})?Z?\Z"),
)
SEQUENCES = st.one_of(
    st.integers(0, 10**6),
    st.integers(-(1 << 65), 1 << 65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["9", None, True, [], {}]),
)
SIDES = st.sampled_from(["bid", "offer"] * 8 + ["ask", "BID", "", None])
LEVEL = st.fixed_dictionaries(
    {
        "side": SIDES,
        "event_time": st.sampled_from(["2024-10-08T09:10:34.970831Z"] * 6 + ["", "x", "é", '"', 5]),
        "price_level": NUMBERS,
        "new_quantity": NUMBERS,
    },
    optional={"orders": st.just(1)},
)
EVENTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["update"] * 4 + ["snapshot"] * 4 + ["Update", 1]),
        "product_id": st.sampled_from([BTC, BTC, ETH, ETH, "BTC-US", "BTC-USDC", "", "OTHER-USD"]),
        "updates": st.lists(LEVEL, max_size=4),
    }
)
FRAMES = st.fixed_dictionaries(
    {
        "channel": st.sampled_from(["l2_data"] * 8 + ["l2_dat", "level2"]),
        "timestamp": TIMES,
        "sequence_num": SEQUENCES,
        "events": st.lists(EVENTS, min_size=1, max_size=1) | st.lists(EVENTS, max_size=3),
    },
    optional={"client_id": st.just("")},
)


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same value with the keys of some objects in another order."""
    if isinstance(value, list):
        return [shuffled(part, chance) for part in value]
    if isinstance(value, dict):
        keys = list(value)
        if chance.random() < 0.1:
            chance.shuffle(keys)
        return {key: shuffled(value[key], chance) for key in keys}
    return value


@pytest.mark.slow
@STEADY
@given(frame=FRAMES, seed=st.integers(0, 1000), style=st.sampled_from(["compact"] * 4 + ["spaced"]))
def test_frames_of_any_values_say_what_the_general_parser_says(
    frame: dict[str, Any], seed: int, style: str
) -> None:
    separators = (",", ":") if style == "compact" else (", ", ": ")
    written = shuffled(frame, random.Random(seed))
    assert_same([json.dumps(written, separators=separators, ensure_ascii=bool(seed % 2)).encode()])


@pytest.mark.slow
@STEADY
@given(price=NUMBERS, size=NUMBERS)
def test_numbers_say_what_the_general_parser_says(price: str, size: str) -> None:
    for product_id in (BTC, ETH):
        assert_same([Advanced().book(START_NS, [("bid", price, size)], product_id)])


@pytest.mark.parametrize("increment", ["1", "0.1", "0.01", "0.00000001", "0.00000000000000001"])
def test_the_largest_number_is_scanned_and_none_beyond(increment: str) -> None:
    products = {BTC: product_of(BTC, increment, increment)}
    for units in (1, 9, 10, MAX_UNITS - 1, MAX_UNITS):
        text = f"{Decimal(increment) * units:f}"
        frame = Advanced().book(START_NS, [("bid", text, text)])
        assert scanned([frame], products) == [True]
        assert_same([frame], products)
        ((_, rows),) = decoder(products)([frame])[0].rows  # type: ignore[union-attr]
        assert (int(rows["price"][0]), int(rows["size"][0])) == (units, units)
    for units in (MAX_UNITS + 1, 10**18 - 1, 10**18, 1 << 63, (1 << 64) + 5, 10**19, 10**40):
        text = f"{Decimal(units).scaleb(Decimal(increment).as_tuple().exponent):f}"
        for level in (("bid", text, "1"), ("bid", "1", text)):
            frame = Advanced().book(START_NS, [level])
            assert scanned([frame], products) == [False]
            assert_same([frame], products)


def test_the_price_is_never_zero() -> None:
    for zero in ("0", "0.0", "0.00", "00"):
        frame = Advanced().book(START_NS, [("bid", zero, "1")])
        assert scanned([frame]) == [False]
        assert isinstance(BOTH([frame])[0], CorruptFrame)


@pytest.mark.parametrize(
    "sequence",
    ["0", "00", "01", "-0", "-1", "1.0", "1e2", "999999999999999999", "9" * 19, "9" * 40],
)
def test_the_number_of_a_frame_is_what_the_general_parser_says(sequence: str) -> None:
    assert_same([SAMPLE.replace(b'"sequence_num":9,', f'"sequence_num":{sequence},'.encode())])


# Times.


def test_every_day_of_a_century_and_a_half_is_scanned_to_its_time() -> None:
    days = [
        date(1970, 1, 1) + timedelta(n) for n in range((date(2116, 1, 1) - date(1970, 1, 1)).days)
    ]
    frames = Scanner(PRODUCTS)([frame_at(f"{day}T23:59:59.999999999Z") for day in days])
    midnight = [int(datetime(d.year, d.month, d.day, tzinfo=UTC).timestamp()) for d in days]
    wanted = [(second + 86_400) * 10**9 - 1 for second in midnight]
    assert [frame and frame.ns for frame in frames] == wanted


def test_dates_that_are_none_are_left_to_the_general_parser() -> None:
    frames = [
        frame_at(f"{year:04}-{month:02}-{day:02}T00:00:00Z")
        for year in (0, 1900, 1969, 1970, 2000, 2023, 2024, 2100, 2115, 2116, 2117, 9999)
        for month in range(14)
        for day in range(33)
    ]
    assert_same(frames)


def test_hours_minutes_and_seconds_that_are_none_are_left_to_the_general_parser() -> None:
    parts = [(at, value) for at in range(3) for value in range(100)]
    clocks = [":".join(f"{value if at == i else 7:02}" for i in range(3)) for at, value in parts]
    assert_same([frame_at(f"2024-10-08T{clock}Z") for clock in clocks])
    assert sum(scanned([frame_at(f"2024-10-08T{clock}Z") for clock in clocks])) == 24 + 60 + 60


@pytest.mark.parametrize("digits", range(12))
def test_a_fraction_of_one_to_nine_digits_is_scanned(digits: int) -> None:
    frames = [
        frame_at(f"2024-10-08T09:10:36.{text[:digits]}Z") for text in ("0" * 11, "12345678901")
    ]
    frames.append(frame_at(f"2024-10-08T09:10:36{'9' * digits}Z"))
    assert_same(frames)
    assert scanned(frames) == [1 <= digits <= 9] * 2 + [digits == 0]


# Products.


def test_grids_that_are_no_powers_of_ten_are_left_to_the_general_parser() -> None:
    for increment in (
        "0.25",
        "0.5",
        "10",
        "0.02",
        "1E-18",
        "0.010000001",
    ):
        for grids in ((increment, "0.01"), ("0.01", increment)):
            products = {BTC: product_of(BTC, *grids), ETH: PRODUCTS[ETH]}
            frames = [Advanced().book(START_NS, [("bid", "1000.50", "20")], p) for p in (BTC, ETH)]
            assert scanned(frames, products) == [False, True]
            assert_same(frames, products)
    written_otherwise = {BTC: product_of(BTC, "0.0100", "1E-8")}
    assert scanned([SAMPLE], written_otherwise) == [True]
    assert_same([SAMPLE], written_otherwise)


def test_rows_go_by_the_listing_not_by_the_name_on_the_wire() -> None:
    products = {BTC: product_of("BTC-USDC", "0.01", "0.00000001")}
    assert scanned([SAMPLE], products) == [True]
    assert_same([SAMPLE], products)


@pytest.mark.parametrize("name", ['A"B', "A\\nB", "A B", "É", "A" * 33, "A\nB", "A\0B", "BTC-US"])
def test_names_that_json_may_write_otherwise_are_left_to_the_general_parser(name: str) -> None:
    products = {name: product_of(name, "0.01", "0.00000001")}
    plain = Advanced().book(START_NS, LEVELS, name)
    raw = Advanced().book(START_NS, LEVELS, "NAME").replace(b"NAME", name.encode())
    assert scanned([plain, raw], products) == [name == "BTC-US"] * 2
    assert_same([plain, raw, SAMPLE], products)


def test_a_name_that_begins_another_is_told_apart() -> None:
    names = ("BTC-US", "BTC-USD", "BTC-USDC", "BTC-U")
    for ordered in (names, names[::-1]):
        products = {name: product_of(name, "0.01", "0.00000001") for name in ordered}
        frames = [Advanced().book(START_NS, LEVELS, name) for name in names]
        assert scanned(frames, products) == [True] * 4
        assert_same(frames, products)


def test_no_products_and_no_frames_are_no_difference() -> None:
    assert_same([SAMPLE], {})
    assert list(BOTH([])) == []


# Memory.


def test_rows_keep_what_they_say_whatever_is_scanned_later() -> None:
    wire = Advanced()
    large = wire.book(
        START_NS, [("bid", f"{n}.00", f"{n}") for n in range(1, 5_000)], kind="snapshot"
    )
    batches = [[SAMPLE], [large, SAMPLE], [SAMPLE[:-3], SAMPLE], [large], [SAMPLE]]
    found = [BOTH(batch) for batch in batches]
    for batch, decoded in zip(batches, found, strict=True):
        for ours, wanted in zip(decoded, general(PRODUCTS)(batch), strict=True):
            assert said(ours) == said(wanted)


def test_a_level_too_many_for_nothing_is_lost_in_frames_of_the_shortest_levels() -> None:
    level = b'{"side":"bid","event_time":"","price_level":"1","new_quantity":"0"}'
    head = SAMPLE[: SAMPLE.index(b'[{"side"') + 1]
    frames = [head + b",".join([level] * count) + b"]}]}" for count in (1, 2, 100)]
    assert scanned(frames) == [True] * 3
    assert_same(frames)


# The reader over both.


def hostile_stream(seed: int) -> Iterator[bytes]:
    """Books and trades with gaps, repetitions, snapshots, damage and leaps of time."""
    chance, walk = random.Random(seed), Walk(seed)
    yield from walk.snapshots(START_NS)
    for frame in walk.frames(START_NS, START_NS + 240 * 10**9):
        fate = chance.random()
        if fate < 0.02:
            continue
        if fate < 0.04:
            yield frame
        if fate < 0.05:
            yield from walk.snapshots(START_NS + chance.randrange(240) * 10**9)
        if fate < 0.08:
            at = chance.randrange(len(frame))
            frame = frame[:at] + chance.choice([b"", b"\xff", b'"', b"7"]) + frame[at + 1 :]
        if fate < 0.09:
            frame = frame.replace(b'"2026-', b'"2027-')
        yield frame


@pytest.mark.parametrize("seed", range(6))
def test_frames_read_in_batches_of_any_size_equal_frames_read_one_by_one_without_a_scanner(
    seed: int,
) -> None:
    frames = list(hostile_stream(seed))
    chance = random.Random(seed)
    cuts = sorted({0, len(frames), *(chance.randrange(len(frames)) for _ in range(40))})
    plain, ours = Reader(general, PRODUCTS), Reader(decoder, PRODUCTS)
    for first, last in pairwise(cuts):
        if chance.random() < 0.1:
            assert_same_events(ours.disconnected(3), plain.disconnected(3))
        events = ours.frames(frames[first:last], recv_ns=first)
        for data, found in zip(frames[first:last], events, strict=True):
            assert_same_events(found, plain.frame(data, first))
            # At every frame, not only at a batch's end.
            assert {k: n for k, n in ours.counts.items() if n} == dict(+plain.counts)
            assert ours.counts_of(BTC) == plain.counts_of(BTC)
    assert ours.corrupt == plain.corrupt
    assert min(ours.counts[k] for k in ("gaps", "duplicates", "corrupt", "market_trades")) > 0


def assert_same_events(
    found: list[tuple[str, np.ndarray]], wanted: list[tuple[str, np.ndarray]]
) -> None:
    """The same rows for the same products in the same order."""
    assert [name for name, _ in found] == [name for name, _ in wanted]
    for (_, ours), (_, theirs) in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()


def per_product(events: Iterable[tuple[str, np.ndarray]]) -> dict[str, list[Any]]:
    """All rows of each product, in order."""
    found: dict[str, list[Any]] = {}
    for name, rows in events:
        found.setdefault(name, []).extend(rows.tolist())
    return found


def assert_lines_equal_frames(frames: list[bytes], cuts: list[int], recv_ns: int = 7) -> Reader:
    """A capture's lines in blocks, and its frames one by one without a scanner, say the same."""
    plain, ours = Reader(general, PRODUCTS), Reader(decoder, PRODUCTS)
    wanted, found = [], []
    for data in frames:
        lost = data == DISCONNECT
        wanted += plain.disconnected(recv_ns) if lost else plain.frame(data, recv_ns)
    for first, last in pairwise(cuts):
        block = b"".join(frame + b"\n" for frame in frames[first:last])
        found += [event for events in ours.lines(block, recv_ns) for event in events]
    assert per_product(found) == per_product(wanted)
    assert dict(+ours.counts) == dict(+plain.counts)
    assert [ours.counts_of(p) for p in PRODUCTS] == [plain.counts_of(p) for p in PRODUCTS]
    assert ours.corrupt == plain.corrupt
    assert ours.read == len(frames)
    return ours


@pytest.mark.parametrize("seed", range(6))
def test_lines_in_blocks_of_any_size_equal_frames_read_one_by_one(seed: int) -> None:
    chance = random.Random(seed)
    frames = [
        part
        for frame in hostile_stream(seed)
        for part in ([DISCONNECT, frame] if chance.random() < 0.01 else [frame])
        if b"\n" not in frame and frame.strip() == frame
    ]
    frames = [frame.replace(b"\n", b"") for frame in frames]
    cuts = sorted({0, len(frames), *(chance.randrange(len(frames)) for _ in range(seed * 8))})
    ours = assert_lines_equal_frames(frames, cuts)
    kinds = ("gaps", "duplicates", "corrupt", "market_trades", "disconnects", "corrupt: time leap")
    assert min(ours.counts[kind] for kind in kinds) > 0


FATES = st.lists(
    st.tuples(
        st.sampled_from(["book"] * 8 + ["eth"] * 4 + ["snapshot", "trades", "heartbeat", "again"])
        | st.sampled_from(["skip", "damage", "disconnect", "foreign", "late"]),
        st.sampled_from([0, 1, 10**6, 3 * 10**9, 4 * 10**9, 9 * 10**9, 13 * 3_600 * 10**9]),
    ),
    max_size=60,
)


@pytest.mark.slow
@settings(STEADY, max_examples=400)
@given(fates=FATES, seed=st.integers(0, 99), first=st.sampled_from([0, 5]))
def test_lines_of_any_fate_equal_frames_read_one_by_one(
    fates: list[tuple[str, int]], seed: int, first: int
) -> None:
    wire, ns, frames, trade = Advanced(first), START_NS, [], 1
    chance = random.Random(seed)
    for fate, later_ns in fates:
        ns += later_ns
        if fate == "again" and frames:
            frames.append(frames[-1])
        elif fate == "skip":
            wire.sequence += chance.randrange(1, 3)
        elif fate == "disconnect":
            frames.append(DISCONNECT)
            wire = Advanced(chance.randrange(3))
        elif fate == "heartbeat":
            frames.append(wire.heartbeat(ns))
        elif fate == "trades":
            trade += chance.randrange(3)
            frames.append(wire.trades(ns, [(trade, "BUY", "99.00", "1")]))
        elif fate == "snapshot":
            frames.append(wire.snapshot(ns, chance.choice([BTC, ETH])))
        else:
            name = {"eth": ETH, "foreign": "OTHER-USD"}.get(fate, BTC)
            at_ns = ns - (10**10 if fate == "late" else 0)
            frame = wire.book(at_ns, LEVELS * chance.randrange(1, 3), name)
            frames.append(frame.replace(b"62318.81", b"62318.811") if fate == "damage" else frame)
    cuts = sorted({0, len(frames), *(chance.randrange(len(frames) + 1) for _ in range(5))})
    assert_lines_equal_frames(frames, cuts)


def test_lines_end_as_they_do_and_empty_ones_say_nothing() -> None:
    wire = Advanced()
    frames = [wire.snapshot(START_NS), *(wire.book(START_NS + i, LEVELS) for i in range(5))]
    found = []
    for end in (b"\n", b"\r\n", b" \n", b"\n\n \n"):
        ours = Reader(decoder, PRODUCTS)
        block = b"".join(frame + end for frame in frames)
        found.append(per_product(e for events in ours.lines(block, 0) for e in events))
        assert ours.read == 6
    assert all(one == found[0] for one in found) and len(found[0][BTC]) == 1 + 6 + 10


def test_a_frame_that_begins_a_day_stands_alone() -> None:
    wire = Advanced()
    times = [START_NS, START_NS + 1, MIDNIGHT_NS - 1, MIDNIGHT_NS, MIDNIGHT_NS + 1]
    block = b"".join(wire.book(ns, LEVELS) + b"\n" for ns in times)
    ours = Reader(decoder, PRODUCTS)
    days = [
        {int(ns) // DAY_NS for _, rows in events for ns in rows["ns"]}
        for events in ours.lines(block, 0)
        if events
    ]
    today = START_NS // DAY_NS
    assert days == [{today}, {today}, {today + 1}, {today + 1}]


def test_a_new_connection_that_has_had_a_time_may_not_leap() -> None:
    first, again = Advanced(), Advanced()
    frames = [first.snapshot(START_NS), first.book(START_NS + 1, LEVELS), DISCONNECT]
    frames += [again.trades(START_NS + 2, [(1, "BUY", "9", "1")], kind="snapshot")]  # No time.
    frames += [again.book(START_NS + 3, LEVELS), again.book(START_NS + 2 * DAY_NS, LEVELS)]
    ours = assert_lines_equal_frames(frames, [0, len(frames)])
    assert ours.counts["corrupt: time leap"] == 1
