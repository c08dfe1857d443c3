"""Wire formats: what each frame says, in ticks and lots, and which frames are corrupt."""

import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors import advanced_trade, exchange_feed
from actors.frames import CorruptFrame, Frame, WireFormat, parse_ns, taker_of
from market.events import ASK, BID, BUY, SELL, Kind
from market.products import Product, product_of
from tests.actors.wire import BTC, ETH, Advanced, Levels, listed

PRODUCTS = listed(BTC, ETH)
COLUMNS = ["kind", "side", "price", "size", "trade_id"]
TIME = "2024-10-08T09:10:36.04370306Z"
TIME_NS = 1_728_378_636_043_703_060
STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=300)


def read(data: bytes, wire: WireFormat, products: dict[str, Product] = PRODUCTS) -> Frame:
    """What one frame says, its rows as (kind, side, price, size, trade_id); CorruptFrame."""
    (decoded,) = wire(products)([data])
    if isinstance(decoded, CorruptFrame):
        raise decoded
    return msgspec.structs.replace(
        decoded, rows=tuple((name, rows[COLUMNS].tolist()) for name, rows in decoded.rows)
    )


def advanced(frame: object) -> Frame:
    return read(json.dumps(frame, separators=(",", ":")).encode(), advanced_trade.decoder)


def exchange(frame: object) -> Frame:
    return read(json.dumps(frame).encode(), exchange_feed.decoder)


def envelope(channel: str, events: object, **other: object) -> dict[str, Any]:
    return {"channel": channel, "timestamp": TIME, "sequence_num": 9, "events": events} | other


def book(*levels: tuple[str, str, str], product_id: str = BTC, kind: str = "update") -> Any:
    updates = [
        {"side": s, "event_time": "1970-01-01T00:00:00Z", "price_level": p, "new_quantity": q}
        for s, p, q in levels
    ]
    event = {"type": kind, "product_id": product_id, "updates": updates}
    return envelope("l2_data", [event])


def trade(**other: object) -> dict[str, Any]:
    return {
        "product_id": BTC,
        "trade_id": "22381691",
        "price": "2375.56",
        "size": "0.5",
        "time": "2024-10-04T07:13:31.088388Z",
        "side": "BUY",
    } | other


def trades(*rows: dict[str, Any], kind: str = "update") -> Any:
    return envelope("market_trades", [{"type": kind, "trades": list(rows)}])


def without(frame: dict[str, Any], *path: str | int) -> dict[str, Any]:
    """A copy of a frame that lacks one field."""
    copy = json.loads(json.dumps(frame))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return copy


# Samples, as the fact sheet gives them.


def test_the_level2_sample_gives_a_deletion_and_an_ask() -> None:
    sample = (
        b'{"channel":"l2_data","timestamp":"2024-10-08T09:10:36.04370306Z","sequence_num":9,'
        b'"events":[{"type":"update","product_id":"BTC-USD","updates":[{"side":"bid","event_time":'
        b'"2024-10-08T09:10:34.970831Z","price_level":"62318.81","new_quantity":"0"},{"side":'
        b'"offer","event_time":"2024-10-08T09:10:34.970831Z","price_level":"62336.65",'
        b'"new_quantity":"0.03021537"}]}]}'
    )
    assert read(sample, advanced_trade.decoder) == Frame(
        "l2_data",
        9,
        TIME_NS,
        ((BTC, [(Kind.CHANGE, BID, 6231881, 0, 0), (Kind.CHANGE, ASK, 6233665, 3021537, 0)]),),
        0,
    )


def test_the_market_trades_sample_gives_a_taker_who_sold() -> None:
    sample = (
        b'{"channel":"market_trades","timestamp":"2024-10-04T07:13:31.158696693Z","sequence_num":2,'
        b'"events":[{"type":"update","trades":[{"product_id":"ETH-USDT","trade_id":"22381691",'
        b'"price":"2375.56","size":"0.5","time":"2024-10-04T07:13:31.088388Z","side":"BUY"}]}]}'
    )
    products = {"ETH-USDT": product_of("ETH-USDT", "0.01", "0.00000001")}
    assert read(sample, advanced_trade.decoder, products) == Frame(
        "market_trades",
        2,
        1_728_026_011_158_696_693,
        (("ETH-USDT", [(Kind.TRADE, SELL, 237556, 50_000_000, 22381691)]),),
        trades=True,
    )


def test_the_exchange_samples_give_their_rows() -> None:
    snapshot = (
        b'{"type":"snapshot","product_id":"BTC-USD","bids":[["10101.10","0.45054140"]],'
        b'"asks":[["10102.55","0.57753524"]]}'
    )
    rows = [(Kind.SNAPSHOT, BID, 1010110, 45054140, 0), (Kind.SNAPSHOT, ASK, 1010255, 57753524, 0)]
    assert read(snapshot, exchange_feed.decoder) == Frame("snapshot", None, None, ((BTC, rows),))
    update = (
        b'{"type":"l2update","product_id":"BTC-USD","time":"2019-08-14T20:42:27.265Z","changes":'
        b'[["buy","10101.80000000","0.162567"],["sell","10105.00","0.00000000"]]}'
    )
    rows = [(Kind.CHANGE, BID, 1010180, 16256700, 0), (Kind.CHANGE, ASK, 1010500, 0, 0)]
    ns = 1_565_815_347_265_000_000
    assert read(update, exchange_feed.decoder) == Frame("l2update", None, ns, ((BTC, rows),))
    match = (
        b'{"type":"match","trade_id":10,"sequence":50,"maker_order_id":"a","taker_order_id":"b",'
        b'"time":"2014-11-07T08:19:27.028459Z","product_id":"BTC-USD","size":"5.23512",'
        b'"price":"400.23","side":"sell"}'
    )
    rows = [(Kind.TRADE, BUY, 40023, 523512000, 10)]
    ns = 1_415_348_367_028_459_000
    frame = Frame("match", None, ns, ((BTC, rows),), trades=True)
    assert read(match, exchange_feed.decoder) == frame


# What is data, and what moves the clock.


def test_the_taker_is_the_other_side_than_the_maker() -> None:
    for maker, taker in (("BUY", SELL), ("SELL", BUY), ("buy", SELL), ("sell", BUY)):
        assert taker_of(maker) == taker
        assert advanced(trades(trade(side=maker))).rows[0][1][0][1] == taker


@pytest.mark.parametrize("zero", ["0", "0.0", "0.00000000", "0.000000000000"])
def test_zero_is_compared_as_a_number(zero: str) -> None:
    assert advanced(book(("bid", "5.00", zero))).rows[0][1] == [(Kind.CHANGE, BID, 500, 0, 0)]


def test_history_is_no_trade_and_moves_no_clock() -> None:
    history = advanced(trades(trade(), kind="snapshot"))
    assert (history.sequence, history.ns, history.rows) == (9, None, ())
    last_match = {"type": "last_match", "product_id": BTC, "time": TIME, "trade_id": 5} | {
        "side": "sell",
        "price": "400.23",
        "size": "5",
    }
    assert (exchange(last_match).ns, exchange(last_match).rows) == (None, ())


@pytest.mark.parametrize("channel", ["heartbeats", "subscriptions", "status", "brand_new"])
def test_a_frame_that_is_no_data_is_numbered_and_moves_the_clock(channel: str) -> None:
    for events in ([], [{"some": {"thing": [1, None]}}], {}, None, "text"):
        assert advanced(envelope(channel, events)) == Frame(channel, 9, TIME_NS)


def test_fields_that_are_not_known_are_ignored() -> None:
    frame = book(("bid", "5.00", "1")) | {"client_id": "", "new": {"field": [1]}}
    frame["events"][0] |= {"also": "new"}
    frame["events"][0]["updates"][0] |= {"orders": 7}
    assert advanced(frame) == advanced(book(("bid", "5.00", "1")))


def test_an_error_frame_is_no_data_and_no_corruption() -> None:
    message = "too many L2 streams requested in a single session"
    for decoded in (
        advanced({"type": "error", "message": message}),
        exchange({"type": "error", "message": message, "reason": "x"}),
    ):
        assert message in decoded.name
        assert decoded == Frame(decoded.name)


def test_the_exchange_clock_is_that_of_four_types_only() -> None:
    for kind in ("heartbeat", "ticker"):
        assert exchange({"type": kind, "product_id": BTC, "time": TIME}).ns == TIME_NS
    for kind in ("received", "open", "done", "subscriptions", "last_match"):
        assert exchange({"type": kind, "product_id": BTC, "time": TIME}).ns is None


def test_rows_of_products_that_were_not_asked_for_are_counted_and_dropped() -> None:
    levels: Levels = [("bid", "1.2345678", "1"), ("offer", "3", "1")]
    assert advanced(book(*levels, product_id="OTHER-USD")) == Frame("l2_data", 9, TIME_NS, (), 2)
    mixed = advanced(trades(trade(product_id="OTHER-USD"), trade(), trade(product_id=ETH)))
    assert [name for name, _ in mixed.rows] == [BTC, ETH]
    assert mixed.foreign == 1
    foreign = {"type": "l2update", "product_id": "OTHER-USD", "time": TIME, "changes": []}
    assert exchange(foreign) == Frame("l2update", None, TIME_NS, (), 1)


def test_an_event_of_several_products_is_told_apart() -> None:
    frame = book(("bid", "5.00", "1"))
    frame["events"] += book(("offer", "7.00", "2"), product_id=ETH, kind="snapshot")["events"]
    assert advanced(frame).rows == (
        (BTC, [(Kind.CHANGE, BID, 500, 10**8, 0)]),
        (ETH, [(Kind.SNAPSHOT, ASK, 700, 2 * 10**8, 0)]),
    )


# Times.


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2024-10-08T09:10:36Z", 1_728_378_636 * 10**9),
        ("2024-10-08T09:10:36.1Z", 1_728_378_636_100_000_000),
        ("2024-10-08T09:10:36.04370306Z", TIME_NS),
        ("2024-10-08T09:10:36.123456789Z", 1_728_378_636_123_456_789),
        ("2024-02-29T23:59:59.999999999Z", 1_709_251_199_999_999_999),
    ],
)
def test_times_keep_all_nine_digits(text: str, ns: int) -> None:
    assert parse_ns(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Z",
        "now",
        "2024-10-08T09:10:36",
        "2024-10-08T09:10:36+00:00",
        "2024-10-08 09:10:36Z",
        "2024-13-08T09:10:36Z",
        "2023-02-29T09:10:36Z",
        "2024-10-08T24:10:36Z",
        "2024-10-08T09:10:36.Z",
        "2024-10-08T09:10:36.1234567890Z",
        "2024-10-08T09:10:36.-1Z",
        "2024-10-08T09:10:36.1e2Z",
        "1969-12-31T23:59:59Z",
        "9999-10-08T09:10:36Z",
    ],
)
def test_a_time_that_is_none_is_corrupt(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_ns(text)
    with pytest.raises(CorruptFrame):
        advanced(book(("bid", "5.00", "1")) | {"timestamp": text})
    with pytest.raises(CorruptFrame):
        exchange({"type": "l2update", "product_id": BTC, "time": text, "changes": []})


# Corrupt frames.

BAD_LEVELS = {
    "off the price grid": ("bid", "5.001", "1"),
    "off the size grid": ("bid", "5.00", "0.000000001"),
    "off the price grid far down": ("bid", "5.0000000000000000000000000000000000001", "1"),
    "a negative price": ("bid", "-5.00", "1"),
    "a negative size": ("bid", "5.00", "-1"),
    "an unknown side": ("ask", "5.00", "1"),
    "a price of zero": ("offer", "0.00", "1"),
    "no number": ("bid", "five", "1"),
    "an empty price": ("bid", "", "1"),
    "not a number": ("bid", "NaN", "1"),
    "infinite": ("bid", "5.00", "Infinity"),
    "beyond any price": ("bid", "1e30", "1"),
    "beyond any exponent": ("bid", "1E+999999", "1"),
    "beyond any length": ("bid", "1" * 5000, "1"),
}


@pytest.mark.parametrize("what", BAD_LEVELS)
def test_a_bad_level_makes_its_frame_corrupt(what: str) -> None:
    side, price, size = BAD_LEVELS[what]
    with pytest.raises(CorruptFrame) as caught:
        advanced(book(("bid", "4.00", "1"), (side, price, size), product_id=ETH))
    error = caught.value
    assert (error.sequence, error.ns, error.product_ids) == (9, TIME_NS, (ETH,))
    assert error.reason
    side = {"bid": "buy", "offer": "sell"}.get(side, side)
    update = {"type": "l2update", "product_id": ETH, "time": TIME, "changes": [[side, price, size]]}
    with pytest.raises(CorruptFrame) as caught:
        exchange(update)
    assert (caught.value.ns, caught.value.product_ids) == (TIME_NS, (ETH,))


@pytest.mark.parametrize(
    "other",
    [
        {"price": "5.001"},
        {"price": "0"},
        {"price": "-1"},
        {"size": "-1"},
        {"size": "0.000000001"},
        {"side": "HOLD"},
        {"side": ""},
        {"trade_id": "x"},
        {"trade_id": "0"},
        {"trade_id": "-3"},
        {"trade_id": "1" * 30},
        {"trade_id": None},
        {"price": 5},
    ],
    ids=str,
)
def test_a_bad_trade_makes_its_frame_corrupt(other: dict[str, Any]) -> None:
    with pytest.raises(CorruptFrame) as caught:
        advanced(trades(trade(), trade(**other)))
    assert (caught.value.sequence, caught.value.product_ids) == (9, (BTC,))
    match = {"type": "match", "product_id": BTC, "time": TIME, "trade_id": 5, "side": "buy"}
    match |= {"price": "4.00", "size": "1"} | other
    if isinstance(match["trade_id"], str) and match["trade_id"].lstrip("-").isdecimal():
        match["trade_id"] = int(match["trade_id"])
    with pytest.raises(CorruptFrame) as caught:
        exchange(match)
    assert caught.value.product_ids == (BTC,)


MISSING: list[tuple[Callable[[], dict[str, Any]], tuple[str | int, ...], tuple[str, ...]]] = [
    (lambda: book(("bid", "5", "1")), ("events", 0, "updates", 0, "side"), (BTC,)),
    (lambda: book(("bid", "5", "1")), ("events", 0, "updates", 0, "price_level"), (BTC,)),
    (lambda: book(("bid", "5", "1")), ("events", 0, "updates", 0, "new_quantity"), (BTC,)),
    (lambda: book(("bid", "5", "1")), ("events", 0, "updates"), (BTC,)),
    (lambda: book(("bid", "5", "1")), ("events", 0, "type"), (BTC,)),
    (lambda: book(("bid", "5", "1")), ("events", 0, "product_id"), ()),
    (lambda: trades(trade()), ("events", 0, "trades", 0, "price"), (BTC,)),
    (lambda: trades(trade()), ("events", 0, "trades", 0, "trade_id"), (BTC,)),
    (lambda: trades(trade()), ("events", 0, "trades", 0, "side"), (BTC,)),
    (lambda: trades(trade()), ("events", 0, "trades", 0, "product_id"), ()),
    (lambda: trades(trade()), ("events", 0, "trades"), ()),
]


@pytest.mark.parametrize(("frame", "path", "named"), MISSING)
def test_a_missing_field_makes_its_frame_corrupt(
    frame: Callable[[], dict[str, Any]], path: tuple[str | int, ...], named: tuple[str, ...]
) -> None:
    with pytest.raises(CorruptFrame) as caught:
        advanced(without(frame(), *path))
    assert (caught.value.sequence, caught.value.ns) == (9, TIME_NS)
    assert caught.value.product_ids == named


@pytest.mark.parametrize("field", ["timestamp", "sequence_num", "events"])
def test_a_frame_without_its_whole_envelope_may_be_about_any_book(field: str) -> None:
    with pytest.raises(CorruptFrame) as caught:
        advanced(without(book(("bid", "5", "1")), field))
    assert caught.value.product_ids == ()


@pytest.mark.parametrize("field", ["product_id", "time", "changes"])
def test_an_exchange_update_without_a_field_is_corrupt(field: str) -> None:
    update = {"type": "l2update", "product_id": BTC, "time": TIME, "changes": [["buy", "5", "1"]]}
    with pytest.raises(CorruptFrame) as caught:
        exchange(without(update, field))
    assert caught.value.product_ids == (() if field == "product_id" else (BTC,))


def test_a_snapshot_without_levels_is_corrupt() -> None:
    with pytest.raises(CorruptFrame) as caught:
        advanced(book(kind="snapshot"))
    assert caught.value.product_ids == (BTC,)
    with pytest.raises(CorruptFrame) as caught:
        exchange({"type": "snapshot", "product_id": BTC, "bids": [], "asks": []})
    assert caught.value.product_ids == (BTC,)


NO_FRAMES = {
    "empty": b"",
    "text": b"hello",
    "half a frame": b'{"channel":"l2_data","timestamp":"2024-10-08T09:10:36Z","seq',
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "an empty object": b"{}",
    "invalid UTF-8": b'{"type":"\xff\xfe"}',
    "a type that is none": b'{"type":5}',
    "two frames": b"{}{}",
    "deep nesting": b'{"type":"x","a":' + b"[" * 100_000,
}
TRAPS = {
    "invalid UTF-8 in a product": b'[{"type":"update","product_id":"\xff","updates":[]}]',
    "a number out of range": b'[{"type":"update","product_id":"BTC-USD","updates":1e999}]',
    "deep nesting": b"[" * 100_000,
    "an unknown escape": b'[{"type":"update","product_id":"\\q","updates":[]}]',
    "half a surrogate": b'[{"type":"update","product_id":"\\ud800","updates":[]}]',
    "a string": b'"events"',
    "lists in lists": b"[[[]]]",
    "numbers": b"[1, 2.5, null]",
    "trades that are no list": b'[{"type":"update","trades":5}]',
}


@pytest.mark.parametrize("wire", [advanced_trade.decoder, exchange_feed.decoder])
@pytest.mark.parametrize("what", NO_FRAMES)
def test_what_is_no_frame_is_corrupt_and_may_be_about_any_book(what: str, wire: WireFormat) -> None:
    with pytest.raises(CorruptFrame) as caught:
        read(NO_FRAMES[what], wire)
    assert caught.value.product_ids == ()


@pytest.mark.parametrize("channel", ["l2_data", "market_trades"])
@pytest.mark.parametrize("what", TRAPS)
def test_events_that_cannot_be_parsed_are_corrupt(what: str, channel: str) -> None:
    head = json.dumps(envelope(channel, [])).encode().removesuffix(b"[]}")
    with pytest.raises(CorruptFrame):
        read(head + TRAPS[what] + b"}", advanced_trade.decoder)


# Any text.

DIGITS = st.text("0123456789", min_size=0, max_size=34)
NUMBERS = st.builds(
    lambda sign, whole, dot, fraction: sign + whole + dot + fraction,
    st.sampled_from(["", "", "", "-"]),
    DIGITS,
    st.sampled_from(["", ".", "."]),
    DIGITS,
)
INCREMENTS = st.sampled_from(["0.01", "0.00000001", "1", "10", "0.25", "0.0005", "0.1"])


def exact_units(text: str, increment: str) -> int | None:
    """Units of a decimal text, None unless it is a number on the grid that an int64 can count."""
    if text[:1] in ("-", "+"):
        return None  # The wire carries no sign; minus zero is a negative number written down.
    try:
        units = Fraction(text) / Fraction(increment)
    except ValueError:
        return None
    return int(units) if units.denominator == 1 and 0 <= units < 1 << 63 else None


@STEADY
@given(text=NUMBERS, increment=INCREMENTS)
@example("1.00000000000000000000000000000000001", "0.01")
@example("100000000000000000000000000000000000001", "10")
@example("0.00000000000000000000000000000000001", "0.01")
def test_a_number_is_its_exact_count_of_increments_or_corrupt(text: str, increment: str) -> None:
    listing = product_of(BTC, increment, increment)
    wanted = exact_units(text, increment)
    for units in (listing.ticks, listing.lots):
        if wanted is None or wanted > 1 << 57:  # Sums of such sizes would leave int64.
            with pytest.raises(ValueError, match=r"\S"):
                units(text)
        else:
            assert units(text) == wanted


@STEADY
@given(ticks=st.integers(1, 1 << 57), lots=st.integers(0, 1 << 57), increment=INCREMENTS)
def test_what_the_venue_prints_comes_back_as_the_same_ticks_and_lots(
    ticks: int, lots: int, increment: str
) -> None:
    listing = product_of(BTC, increment, increment)
    frame = Advanced().book(0, [("bid", f"{listing.price(ticks):f}", f"{listing.size(lots):f}")])
    decoded = read(frame, advanced_trade.decoder, {BTC: listing})
    assert decoded.rows == ((BTC, [(Kind.CHANGE, BID, ticks, lots, 0)]),)


@STEADY
@given(data=st.binary(max_size=60))
@example(b'{"type":"error","message":"\xff"}')
def test_any_bytes_are_a_frame_or_corrupt(data: bytes) -> None:
    template = json.dumps(book(("bid", "5.00", "1"))).encode()
    for wire in (advanced_trade.decoder, exchange_feed.decoder):
        for text in (data, template[:-40] + data + template[-40:]):
            try:
                assert isinstance(read(text, wire), Frame)
            except CorruptFrame as error:
                assert error.reason


@STEADY
@given(
    frame=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "trades", "product_id", "updates"]), inner)
        ),
        max_leaves=12,
    ),
    channel=st.sampled_from(["l2_data", "market_trades", "heartbeats"]),
)
def test_any_events_are_a_frame_or_corrupt(frame: object, channel: str) -> None:
    try:
        assert isinstance(advanced(envelope(channel, frame)), Frame)
    except CorruptFrame as error:
        assert all(isinstance(name, str) for name in error.product_ids)
