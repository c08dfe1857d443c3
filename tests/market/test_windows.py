"""Windows follow sections 1 to 3: small cases, by hand."""

from typing import Any

import numpy as np
import pytest

from market.events import ASK, BID, EVENT, Kind, Reason
from market.windows import WINDOW, WindowBuilder

BEAT_NS = 4_000_000_000
FIRST_BEAT = 446_563_257
START_NS = FIRST_BEAT * BEAT_NS

Levels = list[tuple[int, int, int]]


def rows(kind: Kind, ns: int, content: Levels, first_trade: int = 0) -> np.ndarray:
    """One frame of levels (side, price, size); for TRADE, of trades (taker side, price, size)."""
    frame = np.zeros(len(content), dtype=EVENT)
    frame["ns"], frame["recv_ns"], frame["kind"] = ns, ns + 1_000_000, kind
    for i, (side, price, size) in enumerate(content):
        frame[i]["side"], frame[i]["price"], frame[i]["size"] = side, price, size
        frame[i]["trade_id"] = first_trade + i if kind == Kind.TRADE else 0
    frame["last"][-1] = 1
    return frame


def mark(kind: Kind, ns: int, reason: Reason = Reason.NONE) -> np.ndarray:
    """A mark, alone in its frame."""
    frame = np.zeros(1, dtype=EVENT)
    frame["ns"], frame["recv_ns"], frame["kind"], frame["last"] = ns, ns, kind, 1
    frame["reason"] = reason
    return frame


def as_dicts(windows: np.ndarray) -> list[dict[str, Any]]:
    """Window rows as plain dicts; null trade extremes where there was no trade."""
    found = []
    for window in windows:
        record = {name: window[name].tolist() for name in WINDOW.names or ()}
        if record["trades"] == 0:
            assert (record["trade_low"], record["trade_high"]) == (0, 0)
            record["trade_low"] = record["trade_high"] = None
        found.append(record)
    return found


def built(*frames: np.ndarray) -> list[dict[str, Any]]:
    """The windows of these frames, each fed on its own."""
    builder = WindowBuilder()
    return as_dicts(np.concatenate([builder.feed(frame) for frame in frames]))


BOOK: Levels = [(BID, 999, 10), (BID, 998, 20), (ASK, 1001, 30), (ASK, 1002, 40)]


def at(beat: int, seconds: float = 0.0) -> int:
    """A time in ns, counted from the first beat."""
    return START_NS + beat * BEAT_NS + round(seconds * 1e9)


def test_one_record_by_hand() -> None:
    found = built(
        rows(Kind.SNAPSHOT, at(0, 1), BOOK),
        rows(Kind.CHANGE, at(1, 0), [(ASK, 1000, 5), (BID, 998, 0), (BID, 500, 0)]),
        rows(Kind.TRADE, at(1, 1), [(0, 1000, 3), (1, 999, 4), (0, 1001, 1)], 7),
        rows(Kind.CHANGE, at(1, 2), [(ASK, 1000, 0)]),
        mark(Kind.CLOCK, at(2)),
    )
    bids, asks = [0] * 20, [0] * 20
    bids[1], asks[1], asks[2] = 10, 30, 40
    assert found[1] == {
        "beat": FIRST_BEAT + 1,
        "valid": True,
        "bid": 999,
        "ask": 1001,
        "low_ask": 1000,
        "high_bid": 999,
        "trade_low": 999,
        "trade_high": 1001,
        "buy_lots": 4,
        "sell_lots": 4,
        "trades": 3,
        "bid_depth": bids,
        "ask_depth": asks,
        "updates": 4,
    }
    assert len(found) == 2


def test_the_beat_of_a_venue_snapshot_is_invalid_and_the_next_one_is_valid() -> None:
    found = built(
        rows(Kind.SNAPSHOT, at(0), BOOK),
        rows(Kind.SNAPSHOT, at(2, 1), BOOK),
        mark(Kind.CLOCK, at(4)),
    )
    assert [record["valid"] for record in found] == [False, True, False, True]
    assert [record["updates"] for record in found] == [0, 0, 0, 0]
    assert [record["bid"] for record in found] == [999] * 4


def test_a_snapshot_replaces_the_book() -> None:
    found = built(
        rows(Kind.SNAPSHOT, at(0), BOOK),
        rows(Kind.SNAPSHOT, at(1), [(BID, 899, 1), (ASK, 901, 2)]),
        mark(Kind.CLOCK, at(2)),
    )
    assert (found[1]["bid"], found[1]["ask"]) == (899, 901)
    assert (sum(found[1]["bid_depth"]), sum(found[1]["ask_depth"])) == (1, 2)
    # The opening state counts for the extremes.
    assert (found[1]["high_bid"], found[1]["low_ask"]) == (999, 901)


def test_a_frame_belongs_to_the_beat_that_its_time_lies_in() -> None:
    found = built(
        rows(Kind.CARRIED, at(0), BOOK),
        rows(Kind.CHANGE, at(1) - 1, [(BID, 1000, 1)]),
        rows(Kind.CHANGE, at(2), [(BID, 1000, 0)]),
        mark(Kind.CLOCK, at(3)),
    )
    assert [record["updates"] for record in found] == [1, 0, 1]
    assert [record["bid"] for record in found] == [1000, 1000, 999]
    assert [record["high_bid"] for record in found] == [1000, 1000, 1000]


def test_silence_closes_several_beats_with_the_same_book_all_valid() -> None:
    found = built(
        rows(Kind.CARRIED, at(0), BOOK),
        rows(Kind.CHANGE, at(0, 1), [(BID, 1000, 1)]),
        rows(Kind.CHANGE, at(4, 1), [(BID, 1000, 0)]),
    )
    assert [record["beat"] - FIRST_BEAT for record in found] == [0, 1, 2, 3]
    assert all(record["valid"] and record["bid"] == 1000 for record in found)
    assert [record["updates"] for record in found] == [1, 0, 0, 0]


def test_a_carried_book_at_the_border_starts_valid_and_elsewhere_does_not() -> None:
    at_border = built(rows(Kind.CARRIED, at(0), BOOK), mark(Kind.CLOCK, at(2)))
    assert [record["valid"] for record in at_border] == [True, True]
    assert (at_border[0]["low_ask"], at_border[0]["updates"]) == (1001, 0)
    inside = built(rows(Kind.CARRIED, at(0, 1), BOOK), mark(Kind.CLOCK, at(2)))
    assert [record["valid"] for record in inside] == [False, True]


def test_a_carried_book_breaks_nothing() -> None:
    found = built(
        rows(Kind.CARRIED, at(0), BOOK),
        rows(Kind.CARRIED, at(1), BOOK),
        rows(Kind.CARRIED, at(2, 1), BOOK),
        mark(Kind.CLOCK, at(3)),
    )
    assert [record["valid"] for record in found] == [True, True, True]


def test_an_unsync_mark_ends_validity_until_a_whole_beat_is_synced_again() -> None:
    found = built(
        rows(Kind.CARRIED, at(0), BOOK),
        mark(Kind.UNSYNC, at(1, 1), Reason.GAP),
        rows(Kind.CHANGE, at(2, 1), [(BID, 1000, 1)]),
        rows(Kind.TRADE, at(2, 2), [(1, 990, 6)]),
        rows(Kind.SNAPSHOT, at(3, 1), BOOK),
        mark(Kind.CLOCK, at(5)),
    )
    assert [record["valid"] for record in found] == [True, False, False, False, True]
    assert [record["bid"] for record in found] == [999, 0, 0, 999, 999]
    assert [record["updates"] for record in found] == [0] * 5
    assert (found[2]["trades"], found[2]["sell_lots"], found[2]["trade_low"]) == (1, 6, 990)
    assert sum(found[1]["bid_depth"]) == sum(found[2]["ask_depth"]) == 0
    assert (found[1]["low_ask"], found[2]["low_ask"], found[2]["high_bid"]) == (1001, 0, 0)


@pytest.mark.parametrize(
    ("changes", "synced"),
    [
        ([(BID, 1001, 1)], False),
        ([(BID, 1500, 1)], False),
        ([(ASK, 999, 1)], False),
        ([(BID, 999, 0), (BID, 998, 0)], False),
        ([(ASK, 1001, 0), (ASK, 1002, 0)], False),
        ([(BID, 1001, 1), (BID, 1001, 0)], True),
        ([(BID, 1001, 1), (ASK, 1001, 0)], True),
        ([(BID, 999, 0), (BID, 998, 0), (BID, 7, 1)], True),
        ([(BID, 5, 0), (ASK, 2000, 0)], True),
        ([(BID, 999, 0), (BID, 999, 0)], True),
    ],
)
def test_only_the_state_after_the_whole_frame_decides(changes: Levels, synced: bool) -> None:
    builder = WindowBuilder()
    builder.feed(rows(Kind.CARRIED, at(0), BOOK))
    builder.feed(rows(Kind.CHANGE, at(0, 1), changes))
    assert builder.synced is synced
    found = as_dicts(builder.feed(mark(Kind.CLOCK, at(1))))
    assert (found[0]["valid"], found[0]["updates"]) == (synced, len(changes))
    # A crossed or emptied state is no state: it moves no extreme.
    if not synced:
        assert (found[0]["low_ask"], found[0]["high_bid"], found[0]["bid"]) == (1001, 999, 0)


def test_changes_after_a_crossed_frame_are_discarded() -> None:
    found = built(
        rows(Kind.CARRIED, at(0), BOOK),
        rows(Kind.CHANGE, at(0, 1), [(BID, 1001, 1)]),
        rows(Kind.CHANGE, at(0, 2), [(BID, 1001, 0)]),
        mark(Kind.CLOCK, at(2)),
    )
    assert [record["valid"] for record in found] == [False, False]
    assert [record["updates"] for record in found] == [1, 0]


@pytest.mark.parametrize(
    "levels", [[(BID, 999, 1)], [(ASK, 999, 1)], [(BID, 999, 1), (ASK, 999, 1)]]
)
def test_an_unsound_snapshot_does_not_sync(levels: Levels) -> None:
    found = built(
        rows(Kind.CARRIED, at(0), BOOK),
        rows(Kind.SNAPSHOT, at(1), levels),
        mark(Kind.CLOCK, at(3)),
    )
    assert [record["valid"] for record in found] == [True, False, False]
    assert [record["ask"] for record in found] == [1001, 0, 0]


def test_the_unfinished_beat_at_the_end_is_not_emitted() -> None:
    found = built(
        rows(Kind.CARRIED, at(0), BOOK),
        mark(Kind.CLOCK, at(2, 3.9)),
        mark(Kind.END, at(2, 3.9)),
    )
    assert [record["beat"] - FIRST_BEAT for record in found] == [0, 1]


def test_bucket_edges_are_exact() -> None:
    # bid 99 999, ask 100 001: mid2 = 200 000, so a bucket is 100 ticks and starts on its edge.
    levels = [(BID, 99_999, 1), (ASK, 100_001, 2)]
    levels += [(ASK, 100_099, 4), (ASK, 100_100, 8), (ASK, 101_999, 16), (ASK, 102_000, 32)]
    levels += [(BID, 99_901, 4), (BID, 99_900, 8), (BID, 98_001, 16), (BID, 98_000, 32)]
    found = built(rows(Kind.CARRIED, at(0), levels), mark(Kind.CLOCK, at(1)))
    for name, first in (("bid_depth", 5), ("ask_depth", 6)):
        assert found[0][name] == [first, 8, *[0] * 17, 16]


@pytest.mark.parametrize("far", [10**12, 4_611_686_018_427_388, 9_223_372_036_854_776, 2**57])
def test_offers_at_absurd_prices_fall_in_no_bucket(far: int) -> None:
    # 1000 * 2 * price leaves int64 from 4.6e15 ticks on; the definition knows no such limit.
    levels = [*BOOK, *[(ASK, far + step * 997, 5) for step in range(-500, 0)], (ASK, far, 5)]
    found = built(rows(Kind.CARRIED, at(0), levels), mark(Kind.CLOCK, at(1)))
    assert sum(found[0]["ask_depth"]) == 70
    assert sum(found[0]["bid_depth"]) == 30


def test_a_recording_after_the_end_of_another_starts_unsynced() -> None:
    found = built(
        rows(Kind.CARRIED, at(0), BOOK),
        mark(Kind.CLOCK, at(1, 1)),
        mark(Kind.END, at(1, 1)),
        rows(Kind.CHANGE, at(3, 1), [(BID, 1000, 1)]),
        rows(Kind.SNAPSHOT, at(5, 1), BOOK),
        mark(Kind.CLOCK, at(7)),
    )
    # Whether the beats between the two are emitted is not defined; that none is valid is.
    validity = {record["beat"] - FIRST_BEAT: record["valid"] for record in found}
    assert [beat for beat, valid in validity.items() if valid] == [0, 6]
    assert validity[5] is False


def test_an_earlier_time_moves_no_clock() -> None:
    found = built(
        rows(Kind.CARRIED, at(0), BOOK),
        mark(Kind.CLOCK, at(2, 1)),
        rows(Kind.CHANGE, at(1, 1), [(BID, 1000, 1)]),
        mark(Kind.CLOCK, at(3)),
    )
    assert [record["updates"] for record in found] == [0, 0, 1]
