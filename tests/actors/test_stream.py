"""A product's events many frames at once: recorded and fed as if one frame came after the other."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from actors.recorder import Counts, Recorder
from actors.stream import ProductStream
from market.events import ASK, BID, EVENT, Kind, Reason, mark
from market.products import Product, product
from market.windows import WindowBuilder
from tests.actors.wire import BEAT_NS, BTC, DAY_NS, MIDNIGHT_NS, assert_same_rows
from tests.market.acts import Scenario
from tests.market.hostile import Stream, scenarios

STEADY = settings(deadline=None, derandomize=True, database=None)
Kept = dict[tuple[str, int], list[tuple[int, ...]]]


class Sink:
    """A sink that keeps every row, by day and session."""

    def __init__(self) -> None:
        self.rows: Kept = {}

    def put(
        self,
        product: Product,
        day: str,
        session_ns: int,
        rows: NDArray[np.void],
        counts: Counts | None,
        book: str | None,
    ) -> None:
        """Take rows."""
        self.rows.setdefault((day, session_ns), []).extend(rows.tolist())


def recorded(parts: list[NDArray[np.void]], many: bool) -> Kept:
    sink = Sink()
    stream = ProductStream(Recorder(sink), product(BTC))
    for part in parts:
        if many:
            stream.apply_many(part)
        else:
            stream.apply(part)
    return sink.rows


def frame(ns: int, *rows: tuple[int, int, int, int]) -> NDArray[np.void]:
    """One frame of (kind, side, price, size)."""
    events = np.array([(ns, 0, k, s, 0, 0, p, q, 0) for k, s, p, q in rows], EVENT)
    events["last"][-1] = 1
    return events


def snapshot(ns: int, bid: int = 100, ask: int = 102) -> NDArray[np.void]:
    return frame(ns, (Kind.SNAPSHOT, BID, bid, 5), (Kind.SNAPSHOT, ASK, ask, 5))


def marks(kept: Kept) -> list[tuple[int, int]]:
    """(row, reason) of every UNSYNC mark."""
    rows = [row for part in kept.values() for row in part]
    return [(i, row[5]) for i, row in enumerate(rows) if row[2] == Kind.UNSYNC]


def chunks(frames: list[NDArray[np.void]], seed: int) -> list[NDArray[np.void]]:
    """Frames put together at random; an END ends a chunk, as the reader's do."""
    chance, found, open_ = random.Random(seed), [], []
    for one in frames:
        open_.append(one)
        if chance.random() < 0.1 or one["kind"][-1] == Kind.END:
            found.append(np.concatenate(open_))
            open_ = []
    return found + ([np.concatenate(open_)] if open_ else [])


@pytest.mark.slow
@settings(STEADY, max_examples=50)
@given(scenario=scenarios(120, (0.1, 1, 4, 3_000)), seed=st.integers(0, 99))
def test_frames_together_are_recorded_as_one_by_one(scenario: Scenario, seed: int) -> None:
    frames = list(Stream(scenario).frames())
    clock = 0
    for one in frames:  # As the reader stamps them.
        clock = max(clock, int(one["ns"][0]))
        one["ns"] = clock
    wanted = recorded(frames, many=False)
    assert recorded(chunks(frames, seed), many=True) == wanted
    whole = np.array([row for part in wanted.values() for row in part], EVENT)
    rebuilt, fed = WindowBuilder().feed(whole), WindowBuilder()
    if len(wanted) == 1:
        live = np.concatenate([fed.feed(one) for one in frames])
        assert_same_rows(rebuilt, live)


@pytest.mark.parametrize("many", [False, True])
def test_where_a_book_loses_itself_a_mark_follows_its_frame(many: bool) -> None:
    frames = [
        snapshot(MIDNIGHT_NS),
        frame(MIDNIGHT_NS + 1, (Kind.CHANGE, BID, 99, 1), (Kind.CHANGE, BID, 103, 1)),
        frame(MIDNIGHT_NS + 2, (Kind.CHANGE, BID, 98, 1)),
        snapshot(MIDNIGHT_NS + 3),
        frame(MIDNIGHT_NS + 4, (Kind.CHANGE, ASK, 102, 0)),
        frame(MIDNIGHT_NS + 5, (Kind.CHANGE, BID, 98, 1)),
    ]
    kept = recorded([np.concatenate(frames)] if many else frames, many)
    assert marks(kept) == [(4, Reason.CROSSED), (9, Reason.EMPTY_SIDE)]
    ((_, rows),) = kept.items()
    assert [rows[4][0], rows[9][0]] == [MIDNIGHT_NS + 1, MIDNIGHT_NS + 4]


@pytest.mark.parametrize("many", [False, True])
def test_a_snapshot_that_gives_no_book_is_followed_by_a_mark(many: bool) -> None:
    frames = [snapshot(MIDNIGHT_NS, 102, 101), snapshot(MIDNIGHT_NS + 1, 103, 101)]
    frames += [frame(MIDNIGHT_NS + 2, (Kind.SNAPSHOT, BID, 100, 5))]
    kept = recorded([np.concatenate(frames)] if many else frames, many)
    assert marks(kept) == [(2, Reason.CROSSED), (5, Reason.CROSSED), (7, Reason.EMPTY_SIDE)]


def test_a_book_that_is_lost_by_its_trades_is_marked_once_after_their_frame() -> None:
    huge = (Kind.TRADE, BID, 101, 1 << 57)
    frames = [
        snapshot(MIDNIGHT_NS),
        frame(MIDNIGHT_NS + 1, *[huge] * 40, (Kind.TRADE, ASK, 101, 1)),
    ]
    kept = recorded([np.concatenate(frames)], many=True)
    assert kept == recorded(frames, many=False)
    assert marks(kept) == [(43, Reason.CORRUPT)]


def test_an_array_over_midnights_is_cut_there_with_the_book_of_that_moment() -> None:
    frames = [snapshot(MIDNIGHT_NS - BEAT_NS)]
    for i in range(3):
        ns = MIDNIGHT_NS + i * DAY_NS
        frames += [
            frame(ns - 1, (Kind.CHANGE, BID, 50 + i, 7)),
            frame(ns, (Kind.CHANGE, BID, 60 + i, 7)),
        ]
    kept = recorded([np.concatenate(frames)], many=True)
    assert kept == recorded(frames, many=False)
    assert [session for _, session in kept] == [
        MIDNIGHT_NS - BEAT_NS,
        *(MIDNIGHT_NS + i * DAY_NS for i in range(3)),
    ]
    carried = [row[6] for row in kept["2026-08-11", MIDNIGHT_NS + DAY_NS] if row[2] == Kind.CARRIED]
    assert carried == [100, 60, 51, 50, 102]


def test_without_a_recorder_the_book_is_fed() -> None:
    stream = ProductStream(None, product(BTC))
    stream.apply_many(np.concatenate([snapshot(MIDNIGHT_NS), snapshot(MIDNIGHT_NS + 1, 110, 111)]))
    assert stream.builder.synced and stream.builder.levels()[0].tolist() == [[110, 5]]
    stream.apply_many(np.array([mark(Kind.UNSYNC, MIDNIGHT_NS, 0, Reason.GAP)], EVENT))
    assert stream.builder.reason == Reason.GAP
