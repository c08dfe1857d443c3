"""Windows follow sections 1 to 3, whatever the events do, and however they are cut into feeds."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from market.events import ASK, BID, EVENT, Kind, Reason
from market.windows import WINDOW, WindowBuilder
from tests.reference.events import EventReference

BEAT_NS = 4_000_000_000
FIRST_BEAT = 446_563_257
START_NS = FIRST_BEAT * BEAT_NS
MIDDLE = 1_000
SEEDS = range(60)

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


def field_bytes(windows: np.ndarray) -> dict[str, bytes]:
    """The bytes of every field; the padding between fields means nothing."""
    return {name: windows[name].tobytes() for name in WINDOW.names or ()}


def built(*frames: np.ndarray) -> list[dict[str, Any]]:
    """The windows of these frames, each fed on its own."""
    builder = WindowBuilder()
    return as_dicts(np.concatenate([builder.feed(frame) for frame in frames]))


class Hostile:
    """Random frames around the state that the reference is in."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.reference = EventReference()
        self.ns = START_NS + self.random.choice([0, 0, 1, 1_700_000_000, BEAT_NS - 1])
        self.trade_id = 10_000
        self.calm = self.random.random() < 0.5

    def frames(self, count: int) -> Iterator[np.ndarray]:
        """Yield frames, the reference already fed with each; the last one is an END mark."""
        for i in range(count):
            frame = self.first() if i == 0 else self.next()
            self.reference.feed(frame)
            yield frame
        frame = mark(Kind.END, self.ns)
        self.reference.feed(frame)
        yield frame

    def first(self) -> np.ndarray:
        choice = self.random.randrange(4)
        if choice == 0:
            return mark(Kind.CLOCK, self.ns)
        kind = Kind.CARRIED if choice == 1 else Kind.SNAPSHOT
        return rows(kind, self.ns, self.whole_book())

    def advance(self) -> None:
        step = self.random.random()
        if step < 0.05:
            self.ns += self.random.randrange(1, 6) * BEAT_NS + self.random.randrange(BEAT_NS)
        elif step < 0.10:
            self.ns = (self.ns // BEAT_NS + 1) * BEAT_NS
        elif step < 0.13:
            self.ns = (self.ns // BEAT_NS + 1) * BEAT_NS - 1
        elif step < 0.9:
            self.ns += self.random.randrange(900_000_000)

    def next(self) -> np.ndarray:
        self.advance()
        draw = self.random.random()
        if not self.reference.synced and draw < 0.25:
            return rows(Kind.SNAPSHOT, self.ns, self.whole_book())
        if draw < 0.01:
            return rows(Kind.SNAPSHOT, self.ns, self.whole_book())
        if draw < 0.03:
            return self.carried()
        if draw < 0.10:
            return mark(Kind.CLOCK, self.ns)
        if draw < 0.12 and not self.calm:
            return mark(Kind.UNSYNC, self.ns, self.random.choice(list(Reason)[1:]))
        if draw < 0.27:
            return self.trades()
        return rows(Kind.CHANGE, self.ns, self.changes())

    def carried(self) -> np.ndarray:
        """Our own book at a beat's start, as a partition begins; of an unsynced book, any book."""
        self.ns = (self.ns // BEAT_NS + 1) * BEAT_NS
        if not self.reference.synced:
            return rows(Kind.CARRIED, self.ns, self.whole_book())
        held = [(side, p, s) for side in (BID, ASK) for p, s in self.reference.book[side].items()]
        return rows(Kind.CARRIED, self.ns, held)

    def trades(self) -> np.ndarray:
        trades = [
            (self.random.randrange(2), MIDDLE + self.random.randrange(-9, 10), self.size() + 1)
            for _ in range(self.random.randrange(1, 4))
        ]
        self.trade_id += len(trades)
        return rows(Kind.TRADE, self.ns, trades, self.trade_id - len(trades))

    def size(self) -> int:
        return self.random.choice([1, 7, 10**6, 10**12, self.random.randrange(10**9)])

    def whole_book(self) -> Levels:
        """A snapshot: mostly sound, at times crossed, touching or with one side only."""
        middle = MIDDLE + self.random.randrange(-8, 9)
        gap = -1 if self.random.random() < 0.08 else self.random.choice([0, 0, 1, 12])
        sides = self.random.choice([(BID,), (ASK,)]) if self.random.random() < 0.06 else (BID, ASK)
        levels = []
        for side in sides:
            away = -1 if side == BID else 1
            for _ in range(self.random.randrange(1, 15)):
                price = middle + away * (gap + self.random.randrange(1, 30))
                levels.append((side, price, self.size() + 1))
        if BID in sides and self.random.random() < 0.3:
            levels.append((BID, 1, 5))
        if ASK in sides and self.random.random() < 0.3:
            levels.append((ASK, 10**9, 5))
        self.random.shuffle(levels)
        return list({(side, price): (side, price, size) for side, price, size in levels}.values())

    def changes(self) -> Levels:
        book = self.reference.book
        draw = self.random.random()
        if draw < 0.01 and not self.calm and book[BID]:
            return [(BID, price, 0) for price in book[BID]]
        if draw < 0.03 and not self.calm and book[ASK]:
            return [(BID, min(book[ASK]) + self.random.randrange(0, 3), 3)]
        if draw < 0.06 and len(book[ASK]) > 1 and book[BID]:
            # Crossed inside the frame, sound at its end.
            best = min(book[ASK])
            return [(BID, best, 3), (ASK, best, 0)]
        if draw < 0.15 and len(book[BID]) > 1 and len(book[ASK]) > 1:
            return [(BID, max(book[BID]), 0), (ASK, min(book[ASK]), 0)]
        return [self.change() for _ in range(self.random.randrange(1, 7))]

    def change(self) -> tuple[int, int, int]:
        side = self.random.randrange(2)
        size = 0 if self.random.random() < 0.3 else self.size()
        if self.reference.synced:
            bid, ask = self.reference.best()
            reach = max(ask - bid - 1, 0) if self.random.random() < 0.1 else 0
            away = self.random.randrange(-25, reach + 1)
        else:
            bid, ask, away = MIDDLE, MIDDLE + 1, -self.random.randrange(25)
        if side == BID:
            return BID, max(bid + min(away, ask - bid - 1), 1), size
        return ASK, ask - min(away, ask - bid - 1), size


@pytest.mark.parametrize("seed", SEEDS)
def test_hostile_events_against_the_dict_reference(seed: int) -> None:
    source = Hostile(seed)
    builder = WindowBuilder()
    found = []
    for frame in source.frames(400):
        found += as_dicts(builder.feed(frame))
        # END closes the recording; what the builder says afterwards is not defined.
        if frame["kind"][0] != Kind.END:
            assert builder.synced == source.reference.synced
    assert len(found) > 50
    assert found == source.reference.records


def test_the_hostile_events_reach_what_they_are_meant_to_reach() -> None:
    records, kinds, unsyncs = [], set(), 0
    for seed in SEEDS:
        source = Hostile(seed)
        before = False
        for frame in source.frames(400):
            kinds.add(int(frame["kind"][0]))
            unsyncs += before and not source.reference.synced and frame["kind"][0] == Kind.CHANGE
            before = source.reference.synced
        records += source.reference.records
    valid = [record for record in records if record["valid"]]
    assert kinds == {int(kind) for kind in Kind}
    assert unsyncs > 30
    assert len(valid) > 1000 and len(records) - len(valid) > 1000
    assert any(record["low_ask"] < record["ask"] for record in valid)
    assert any(record["bid"] == 0 and record["low_ask"] > 0 for record in records)
    assert any(record["trades"] and not record["valid"] for record in records)


@pytest.mark.parametrize("seed", SEEDS)
def test_live_offline_parity_frame_by_frame_equals_one_feed_bit_for_bit(seed: int) -> None:
    frames = list(Hostile(seed).frames(300))
    whole = WindowBuilder().feed(np.concatenate(frames))
    live = WindowBuilder()
    one_by_one = np.concatenate([live.feed(frame) for frame in frames])
    chunked = WindowBuilder()
    cut = random.Random(seed)
    parts, left = [], frames
    while left:
        size = cut.randrange(1, 40)
        parts.append(chunked.feed(np.concatenate(left[:size])))
        left = left[size:]
    assert whole.dtype == WINDOW
    assert field_bytes(whole) == field_bytes(one_by_one) == field_bytes(np.concatenate(parts))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_partition_that_starts_with_the_carried_book_gives_the_windows_of_one_stream(
    seed: int,
) -> None:
    frames = [frame for frame in Hostile(seed).frames(300) if frame["kind"][0] != Kind.END]
    unbroken = WindowBuilder().feed(np.concatenate(frames))
    border = (int(unbroken["beat"][len(unbroken) // 2]) + 1) * BEAT_NS
    before = [frame for frame in frames if frame["ns"][0] < border]
    after = [frame for frame in frames if frame["ns"][0] >= border]
    first, second = WindowBuilder(), WindowBuilder()
    earlier = first.feed(np.concatenate([*before, mark(Kind.CLOCK, border)]))
    carried = first.carried(border, border)
    opening = carried if len(carried) else mark(Kind.CLOCK, border)
    later = second.feed(np.concatenate([opening, *after]))
    assert bool(len(carried)) == first.synced
    assert as_dicts(np.concatenate([earlier, later])) == as_dicts(unbroken)


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
