"""The reader: sequence, event clock, duplicates and marks of one connection (section 2)."""

import json

import numpy as np
import pytest

from actors import advanced_trade, exchange_feed
from actors.reader import Events, Reader
from market.events import ASK, BID, BUY, SELL, Kind, Reason
from market.windows import WindowBuilder
from tests.actors.wire import (
    BEAT_NS,
    BTC,
    DAY_NS,
    ETH,
    SECOND_NS,
    START_NS,
    Advanced,
    kinds,
    listed,
    rfc3339,
)

CLOCK, UNSYNC, TRADE = Kind.CLOCK, Kind.UNSYNC, Kind.TRADE


def reader() -> Reader:
    return Reader(advanced_trade.decoder, listed(BTC, ETH))


def marks(events: Events) -> list[tuple[str, Kind, int, Reason]]:
    """(product, kind, beat-relative ns, reason) of every mark, in order of arrival."""
    return [
        (name, Kind(int(r["kind"])), int(r["ns"]) - START_NS, Reason(int(r["reason"])))
        for name, rows in events
        for r in rows
        if r["kind"] >= UNSYNC
    ]


def trade_ids(events: Events, product_id: str = BTC) -> list[int]:
    return [int(r["trade_id"]) for name, rows in events for r in rows if name == product_id]


def level(wire: Advanced, ns: int, price: str = "99.00") -> bytes:
    return wire.book(ns, [("bid", price, "1")])


def test_every_product_is_told_when_the_clock_enters_a_beat_and_only_then() -> None:
    wire, found = Advanced(), reader()
    entered = {}
    for at in (0, 1, BEAT_NS - 1, BEAT_NS, BEAT_NS + 1, 5 * BEAT_NS + 7, 6 * BEAT_NS - 1):
        entered[at] = marks(found.frame(wire.heartbeat(START_NS + at), 0))
    told = {at for at, events in entered.items() if events}
    assert told == {0, BEAT_NS, 5 * BEAT_NS + 7}
    for at in told:
        assert entered[at] == [(BTC, CLOCK, at, Reason.NONE), (ETH, CLOCK, at, Reason.NONE)]


def test_acks_and_unknown_channels_move_the_clock_and_are_counted() -> None:
    wire, found = Advanced(), reader()
    for beat, channel in enumerate(("subscriptions", "status", "brand_new", "heartbeats")):
        events = found.frame(wire.frame(channel, START_NS + beat * BEAT_NS, []), 0)
        assert kinds(events, BTC) == kinds(events, ETH) == [CLOCK]
        assert found.counts[channel] == 1
    assert found.counts["gaps"] == 0


def test_history_moves_no_clock_but_counts_in_the_sequence() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    history = wire.trades(START_NS + 9 * BEAT_NS, [(5, "BUY", "99.00", "1")], kind="snapshot")
    assert found.frame(history, 0) == []
    assert kinds(found.frame(level(wire, START_NS + 1), 0)) == [Kind.CHANGE]
    assert found.counts["gaps"] == 0


def test_the_clock_never_goes_back() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS + 3 * BEAT_NS), 0)
    ((_, rows),) = found.frame(level(wire, START_NS + BEAT_NS), 0)
    assert rows["ns"].tolist() == [START_NS + 3 * BEAT_NS]
    found.disconnected(0)
    ((_, rows),) = found.frame(level(Advanced(), START_NS), 0)
    assert rows["ns"].tolist() == [START_NS + 3 * BEAT_NS]


def test_a_gap_unsyncs_every_book_before_the_clock_moves() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    wire.sequence += 3
    events = found.frame(level(wire, START_NS + BEAT_NS), 0)
    assert marks(events) == [
        (BTC, UNSYNC, 0, Reason.GAP),
        (ETH, UNSYNC, 0, Reason.GAP),
        (BTC, CLOCK, BEAT_NS, Reason.NONE),
        (ETH, CLOCK, BEAT_NS, Reason.NONE),
    ]
    assert (found.counts["gaps"], found.counts["missing frames"]) == (1, 3)


def test_the_beat_that_a_lost_frame_may_belong_to_is_invalid() -> None:
    wire, found, builder = Advanced(), reader(), WindowBuilder()
    frames = [wire.snapshot(START_NS), wire.heartbeat(START_NS + BEAT_NS)]
    frames += [wire.heartbeat(START_NS + 2 * BEAT_NS)]
    wire.sequence += 1
    frames += [wire.heartbeat(START_NS + 3 * BEAT_NS)]
    rows = [rows for f in frames for name, rows in found.frame(f, 0) if name == BTC]
    assert builder.feed(np.concatenate(rows))["valid"].tolist() == [False, True, False]


def test_a_repeated_frame_moves_nothing() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    change = level(wire, START_NS + 1)
    assert kinds(found.frame(change, 0)) == [Kind.CHANGE]
    assert found.frame(change, 0) == []
    late = Advanced(first=0)
    assert found.frame(late.heartbeat(START_NS + 5 * BEAT_NS), 0) == []
    assert found.counts["duplicates"] == 2
    # Neither the clock nor the last number has moved.
    assert kinds(found.frame(level(wire, START_NS + 2), 0)) == [Kind.CHANGE]
    assert found.counts["gaps"] == 0


def test_a_new_connection_starts_a_new_sequence() -> None:
    wire, found = Advanced(first=70), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    assert marks(found.disconnected(0)) == [
        (BTC, UNSYNC, 0, Reason.DISCONNECT),
        (ETH, UNSYNC, 0, Reason.DISCONNECT),
    ]
    assert kinds(found.frame(level(Advanced(), START_NS + 1), 0)) == [Kind.CHANGE]
    assert (found.counts["gaps"], found.counts["duplicates"]) == (0, 0)
    assert found.counts["disconnects"] == 1


def test_a_corrupt_frame_unsyncs_its_book_and_still_counts_in_the_sequence() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    corrupt = level(wire, START_NS + 1, "99.001")
    assert marks(found.frame(corrupt, 5)) == [(BTC, UNSYNC, 1, Reason.CORRUPT)]
    assert kinds(found.frame(level(wire, START_NS + 2), 0)) == [Kind.CHANGE]
    assert (found.counts["gaps"], found.counts["corrupt"]) == (0, 1)
    ((recv_ns, reason, frame),) = found.corrupt
    assert (recv_ns, frame) == (5, corrupt)
    assert "99.001" in reason


def test_a_gap_is_seen_through_a_corrupt_frame() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    wire.sequence += 1
    events = found.frame(level(wire, START_NS + 1, "99.001"), 0)
    assert (BTC, UNSYNC, 0, Reason.GAP) in marks(events)
    assert (ETH, UNSYNC, 0, Reason.GAP) in marks(events)


def test_a_frame_that_cannot_be_parsed_unsyncs_every_book() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    assert marks(found.frame(b'{"channel":"l2_da', 0)) == [
        (BTC, UNSYNC, 0, Reason.CORRUPT),
        (ETH, UNSYNC, 0, Reason.CORRUPT),
    ]
    assert found.counts["corrupt"] == 1


def test_an_error_frame_harms_no_book() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    assert found.frame(b'{"type":"error","message":"authentication failure"}', 0) == []
    assert found.counts["corrupt"] == 0
    assert any("authentication failure" in name for name in found.counts)
    assert kinds(found.frame(level(wire, START_NS + 1), 0)) == [Kind.CHANGE]


def test_a_time_far_ahead_is_corrupt_and_does_not_move_the_clock() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    found.frame(level(wire, START_NS + 400 * DAY_NS), 0)
    assert found.counts["corrupt"] == 1
    ((_, rows),) = found.frame(level(wire, START_NS + 1), 0)
    assert rows["ns"].tolist() == [START_NS + 1]


def test_a_corrupt_frame_with_a_time_far_ahead_does_not_move_the_clock() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    found.frame(level(wire, START_NS + 400 * DAY_NS, "99.001"), 0)
    ((_, rows),) = found.frame(level(wire, START_NS + 1), 0)
    assert rows["ns"].tolist() == [START_NS + 1]


def test_a_connection_that_comes_back_after_two_days_is_read_again() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.snapshot(START_NS), 0)
    found.disconnected(0)
    again, later_ns = Advanced(), START_NS + 2 * DAY_NS
    events = found.frame(again.snapshot(later_ns), 0)
    # Another recording: not two days of beats about which nothing is known.
    assert kinds(events) == [Kind.END, CLOCK] + [Kind.SNAPSHOT] * 6
    assert found.counts["corrupt"] == 0


def test_the_last_row_of_a_frame_is_marked_per_product() -> None:
    wire, found = Advanced(), reader()
    frame = wire.frame(
        "l2_data",
        START_NS,
        [
            {
                "type": "update",
                "product_id": product_id,
                "updates": [
                    {"side": "bid", "price_level": f"{price}.00", "new_quantity": "1"}
                    for price in prices
                ],
            }
            for product_id, prices in ((BTC, (7, 8)), (ETH, (1, 2, 3)), (BTC, (9,)))
        ],
    )
    rows = {name: rows for name, rows in found.frame(frame, 77) if rows["kind"][0] != CLOCK}
    assert rows[BTC]["price"].tolist() == [700, 800, 900]
    assert rows[BTC]["last"].tolist() == [0, 0, 1]
    assert rows[ETH]["last"].tolist() == [0, 0, 1]
    assert set(rows[BTC]["recv_ns"]) == {77}


def test_an_event_without_rows_brings_nothing() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    assert found.frame(wire.book(START_NS + 1, []), 0) == []
    assert found.frame(wire.trades(START_NS + 2, []), 0) == []
    assert found.counts["corrupt"] == 0


def test_foreign_rows_are_counted_and_bring_nothing() -> None:
    wire, found = Advanced(), reader()
    found.frame(wire.heartbeat(START_NS), 0)
    assert found.frame(wire.snapshot(START_NS, "OTHER-USD"), 0) == []
    assert found.counts["foreign rows"] == 6


def test_the_recording_ends_for_every_product_and_not_before_it_began() -> None:
    wire, found = Advanced(), reader()
    assert found.ended(0) == []
    found.frame(wire.heartbeat(START_NS + 3), 0)
    assert marks(found.ended(0)) == [
        (BTC, Kind.END, 3, Reason.NONE),
        (ETH, Kind.END, 3, Reason.NONE),
    ]


# Trades.


def tape(*batches: list[int], lost_before: int | None = None) -> tuple[Reader, list[list[int]]]:
    """The ids that come out of batches of trades, the connection lost before one of them."""
    wire, found, ids = Advanced(), reader(), []
    found.frame(wire.heartbeat(START_NS), 0)
    for i, batch in enumerate(batches):
        if i == lost_before:
            found.disconnected(0)
            wire = Advanced()
        trades = [(trade_id, "BUY", "99.00", "1") for trade_id in batch]
        events = found.frame(wire.trades(START_NS + i, trades), 0)
        ids.append([i for i in trade_ids(events) if i])
    return found, ids


def test_a_batch_comes_in_descending_order_and_leaves_in_order_of_id() -> None:
    found, ids = tape([12, 11, 10], [14, 13])
    assert ids == [[10, 11, 12], [13, 14]]
    assert found.counts_of(BTC)["trade_holes"] == 0


@pytest.mark.parametrize("lost_before", [None, 1])
def test_a_trade_counts_once_also_over_frames_and_connections(lost_before: int | None) -> None:
    found, ids = tape([11, 10], [12, 11, 10], [12], [13], lost_before=lost_before)
    assert ids == [[10, 11], [12], [], [13]]
    assert found.counts_of(BTC)["trade_duplicates"] == 3
    assert found.counts_of(BTC)["trade_holes"] == 0


def test_a_hole_in_the_ids_is_counted_until_it_is_filled() -> None:
    found, ids = tape([10], [15, 14], [12])
    assert ids == [[10], [14, 15], [12]]
    assert found.counts_of(BTC)["trade_holes"] == 2  # 11 and 13.
    assert found.counts_of(ETH)["trade_holes"] == 0


def test_a_trade_repeated_within_its_batch_counts_once() -> None:
    found, ids = tape([11, 10, 11])
    assert ids == [[10, 11]]
    assert found.counts_of(BTC)["trade_duplicates"] == 1


def test_the_same_id_of_two_products_is_two_trades() -> None:
    wire, found = Advanced(), reader()
    rows = [(7, "SELL", "99.00", "1")]
    assert trade_ids(found.frame(wire.trades(START_NS, rows), 0))[-1] == 7
    assert trade_ids(found.frame(wire.trades(START_NS, rows, ETH), 0), ETH) == [7]
    assert found.counts_of(ETH)["trade_duplicates"] == 0


def test_the_rows_of_a_trade_say_who_took() -> None:
    wire, found = Advanced(), reader()
    rows = [(8, "SELL", "99.50", "0.25"), (7, "BUY", "99.00", "1")]
    ((_, batch),) = [e for e in found.frame(wire.trades(START_NS, rows), 0) if len(e[1]) == 2]
    assert batch["side"].tolist() == [SELL, BUY]
    assert batch["price"].tolist() == [9900, 9950]
    assert batch["size"].tolist() == [10**8, 25 * 10**6]
    assert batch["last"].tolist() == [0, 1]


# The Exchange feed: no sequence, and snapshots without a time.


def exchange_reader() -> Reader:
    return Reader(exchange_feed.decoder, listed(BTC, ETH))


def exchange_snapshot(bid: str = "99.00", product_id: str = BTC) -> bytes:
    bids, asks = [[bid, "1"]], [["101.00", "2"]]
    frame = {"type": "snapshot", "product_id": product_id, "bids": bids, "asks": asks}
    return json.dumps(frame).encode()


def timed(kind: str, ns: int, product_id: str = BTC, **other: object) -> bytes:
    frame = {"type": kind, "product_id": product_id, "time": rfc3339(ns)} | other
    return json.dumps(frame).encode()


@pytest.mark.parametrize("kind", ["heartbeat", "ticker", "l2update", "match"])
@pytest.mark.parametrize("product_id", [BTC, ETH, "OTHER-USD"])
def test_a_snapshot_takes_the_time_of_the_next_timed_frame(kind: str, product_id: str) -> None:
    found = exchange_reader()
    found.frame(timed("heartbeat", START_NS), 0)
    assert found.frame(exchange_snapshot(), 3) == []
    assert found.frame(b'{"type":"subscriptions","channels":[]}', 4) == []
    fields: dict[str, object] = {"changes": [["buy", "98.00", "1"]]} if kind == "l2update" else {}
    if kind == "match":
        fields = {"trade_id": 5, "side": "buy", "price": "99.00", "size": "1"}
    events = found.frame(timed(kind, START_NS + BEAT_NS, product_id, **fields), 5)
    assert kinds(events)[:3] == [CLOCK, Kind.SNAPSHOT, Kind.SNAPSHOT]
    ((_, rows),) = [e for e in events if e[1]["kind"][0] == Kind.SNAPSHOT]
    assert rows["ns"].tolist() == [START_NS + BEAT_NS] * 2
    assert rows["recv_ns"].tolist() == [3, 3]
    assert rows["side"].tolist() == [BID, ASK]
    assert rows["last"].tolist() == [0, 1]
    assert Kind.SNAPSHOT not in kinds(found.frame(timed("heartbeat", START_NS + 2 * BEAT_NS), 6))


def test_history_gives_a_waiting_snapshot_no_time() -> None:
    found = exchange_reader()
    found.frame(exchange_snapshot(), 0)
    match = {"trade_id": 5, "side": "buy", "price": "99.00", "size": "1"}
    assert found.frame(timed("last_match", START_NS, **match), 0) == []
    events = found.frame(timed("match", START_NS + 1, **match), 0)
    assert kinds(events) == [CLOCK, Kind.SNAPSHOT, Kind.SNAPSHOT, TRADE]


def test_of_two_waiting_snapshots_the_newer_counts() -> None:
    found = exchange_reader()
    found.frame(exchange_snapshot("97.00"), 0)
    found.frame(exchange_snapshot("98.00"), 0)
    found.frame(exchange_snapshot("96.00", ETH), 0)
    events = found.frame(timed("heartbeat", START_NS), 0)
    prices = {n: rows["price"].tolist() for n, rows in events if rows["kind"][0] != CLOCK}
    assert prices == {BTC: [9800, 10100], ETH: [9600, 10100]}


def test_a_waiting_snapshot_does_not_survive_its_connection_or_corruption() -> None:
    for lose in (
        lambda found: found.disconnected(0),
        lambda found: found.frame(timed("l2update", START_NS, changes=[["hold", "1", "1"]]), 0),
        lambda found: found.frame(b"not JSON", 0),
    ):
        found = exchange_reader()
        found.frame(exchange_snapshot(), 0)
        lose(found)
        events = found.frame(timed("heartbeat", START_NS + 5 * SECOND_NS), 0)
        assert Kind.SNAPSHOT not in kinds(events)


def test_exchange_frames_have_no_sequence_to_break() -> None:
    found = exchange_reader()
    for ns in (START_NS, START_NS, START_NS + 1):
        change = timed("l2update", ns, changes=[["buy", "98.00", "0.00000000"]], sequence=9)
        assert kinds(found.frame(change, 0))[-1] == Kind.CHANGE
    assert (found.counts["duplicates"], found.counts["gaps"]) == (0, 0)
