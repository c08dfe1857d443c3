"""Four-second windows: from a product's events to one record per beat (sections 1 to 3).

One compiled loop serves the live actors (a frame at a time) and the offline build (a partition at
a time), so both give the same bits. What it decides: when the book is synced, which beats are
valid, and the record of each beat. It asks for nothing; the shell resubscribes when told.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from market.book import BUCKETS, fill_buckets, set_level, sort_levels
from market.events import ASK, BID, BUY, EVENT, Kind, Reason

BEAT_NS = 4_000_000_000

WINDOW = np.dtype(
    [
        ("beat", "i8"),  # k: the beat is [4k s, 4k+4 s) of the event clock.
        ("valid", "?"),  # Synced from its start to its end.
        ("bid", "i8"),  # Best bid and ask, ticks, when the beat ends; 0 if not synced then.
        ("ask", "i8"),
        ("low_ask", "i8"),  # Extremes over the opening state and each whole frame; 0 if none.
        ("high_bid", "i8"),
        ("trade_low", "i8"),  # Ticks; 0 where `trades` is 0 (null in Parquet).
        ("trade_high", "i8"),
        ("buy_lots", "i8"),  # Taker-bought and taker-sold.
        ("sell_lots", "i8"),
        ("trades", "i8"),
        ("bid_depth", "i8", (BUCKETS,)),  # Lots per 0.1 % from the median, when the beat ends.
        ("ask_depth", "i8", (BUCKETS,)),
        ("updates", "i8"),  # Level changes applied.
    ],
    align=True,
)

_STATE = np.dtype(
    [
        ("started", "i8"),
        ("clock", "i8"),
        ("synced", "i8"),
        ("reason", "i8"),
        ("in_snapshot", "i8"),
        ("touched", "i8"),  # The book changed in the frame being read.
        ("bids", "i8"),  # Levels a side.
        ("asks", "i8"),
        ("seen", "i8"),  # The extremes below hold something.
    ]
)

_SNAPSHOT, _CARRIED, _CHANGE, _TRADE = Kind.SNAPSHOT, Kind.CARRIED, Kind.CHANGE, Kind.TRADE
_UNSYNC, _END = Kind.UNSYNC, Kind.END
_CROSSED, _EMPTY = Reason.CROSSED, Reason.EMPTY_SIDE


def after_break(beat: int) -> NDArray[np.void]:
    """Return the window (WINDOW[1]) of a beat about which nothing is known."""
    window = np.zeros(1, WINDOW)
    window["beat"] = beat
    return window


class WindowBuilder:
    """The book and the beat in progress of one product."""

    def __init__(self) -> None:
        self._state = np.zeros(1, _STATE)
        self._beat = np.zeros(1, WINDOW)
        self._sides = [np.zeros((2, 256), np.int64) for _ in (BID, ASK)]  # keys, sizes

    @property
    def synced(self) -> bool:
        """Whether the book is known."""
        return bool(self._state["synced"][0])

    @property
    def reason(self) -> Reason:
        """Why the book is not synced; NONE before the first snapshot and while it is synced."""
        return Reason(int(self._state["reason"][0]))

    @property
    def clock_ns(self) -> int:
        """The latest event time seen."""
        return int(self._state["clock"][0])

    def feed(self, events: NDArray[np.void]) -> NDArray[np.void]:
        """Apply events (EVENT[n], arrival order); return the beats that they closed (WINDOW[m])."""
        if events.dtype != EVENT:
            raise ValueError(f"events must have the EVENT dtype, got {events.dtype}")
        done: list[NDArray[np.void]] = []
        at, out = 0, np.zeros(1 if len(events) < 64 else 1024, WINDOW)
        while True:
            self._grow(len(events) - at)
            (bid_keys, bid_sizes), (ask_keys, ask_sizes) = self._sides
            at, closed = _advance(
                events, at, self._state, self._beat, bid_keys, bid_sizes, ask_keys, ask_sizes, out
            )
            done.append(out[:closed])
            if at == len(events) and closed < len(out):
                return np.concatenate(done) if len(done) > 1 else done[0]
            if closed == len(out):
                out = np.zeros(1024, WINDOW)

    def levels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return bids and asks as arrays [n, 2] of (ticks, lots), best first."""
        sides = []
        for side, count, sign in zip(self._sides, ("bids", "asks"), (1, -1), strict=True):
            n = int(self._state[count][0])
            sides.append(np.stack([sign * side[0, :n], side[1, :n]], axis=1)[::-1].copy())
        return sides[0], sides[1]

    def carried(self, ns: int, recv_ns: int) -> NDArray[np.void]:
        """Return the book as the CARRIED rows that start a partition; empty if not synced."""
        if not self.synced:
            return np.zeros(0, EVENT)
        bids, asks = self.levels()
        rows = np.zeros(len(bids) + len(asks), EVENT)
        rows["ns"], rows["recv_ns"], rows["kind"] = ns, recv_ns, Kind.CARRIED
        rows["side"][len(bids) :] = ASK
        rows["price"] = np.concatenate([bids[:, 0], asks[:, 0]])
        rows["size"] = np.concatenate([bids[:, 1], asks[:, 1]])
        rows["last"][-1] = 1
        return rows

    def _grow(self, incoming: int) -> None:
        """Make room on both sides for the next events; `_advance` stops when it runs out."""
        levels = max(int(self._state["bids"][0]), int(self._state["asks"][0]))
        need, room = levels + min(incoming, 4096) + 2, self._sides[0].shape[1]
        if need > room:
            for i, side in enumerate(self._sides):
                self._sides[i] = np.zeros((2, 2 * need), np.int64)
                self._sides[i][:, :room] = side


@njit(cache=True)
def _open_beat(state, beat, k, bid_keys, ask_keys):  # type: ignore[no-untyped-def]
    beat.beat = k
    beat.valid = state.synced == 1
    beat.trade_low = beat.trade_high = beat.buy_lots = beat.sell_lots = 0
    beat.trades = beat.updates = 0
    beat.low_ask = beat.high_bid = 0
    state.seen = 0
    if state.synced:
        _note_extremes(state, beat, bid_keys, ask_keys)


@njit(cache=True)
def _note_extremes(state, beat, bid_keys, ask_keys):  # type: ignore[no-untyped-def]
    bid, ask = bid_keys[state.bids - 1], -ask_keys[state.asks - 1]
    if not state.seen or ask < beat.low_ask:
        beat.low_ask = ask
    if not state.seen or bid > beat.high_bid:
        beat.high_bid = bid
    state.seen = 1


@njit(cache=True)
def _close_beat(state, beat, bid_keys, bid_sizes, ask_keys, ask_sizes):  # type: ignore[no-untyped-def]
    if state.synced:
        beat.bid, beat.ask = bid_keys[state.bids - 1], -ask_keys[state.asks - 1]
        mid2 = beat.bid + beat.ask
        fill_buckets(bid_keys, bid_sizes, state.bids, 1, mid2, beat.bid_depth)
        fill_buckets(ask_keys, ask_sizes, state.asks, -1, mid2, beat.ask_depth)
    else:
        beat.bid = beat.ask = 0
        beat.bid_depth[:] = 0
        beat.ask_depth[:] = 0


@njit(cache=True)
def _unsync(state, beat, reason):  # type: ignore[no-untyped-def]
    state.synced = 0
    state.reason = reason
    beat.valid = False


@njit(cache=True)
def _end_snapshot(state, bid_keys, bid_sizes, ask_keys, ask_sizes):  # type: ignore[no-untyped-def]
    state.bids = sort_levels(bid_keys, bid_sizes, state.bids)
    state.asks = sort_levels(ask_keys, ask_sizes, state.asks)
    state.in_snapshot = 0
    state.synced = 1
    state.reason = 0


@njit(cache=True)
def _end_frame(state, beat, bid_keys, ask_keys):  # type: ignore[no-untyped-def]
    """Check the book after a whole frame that touched it, and note its extremes."""
    if state.touched and state.synced:
        if state.bids == 0 or state.asks == 0:
            _unsync(state, beat, _EMPTY)
        elif bid_keys[state.bids - 1] >= -ask_keys[state.asks - 1]:
            _unsync(state, beat, _CROSSED)
        else:
            _note_extremes(state, beat, bid_keys, ask_keys)
    state.touched = 0


@njit(cache=True)
def _trade(beat, event):  # type: ignore[no-untyped-def]
    if beat.trades == 0 or event.price < beat.trade_low:
        beat.trade_low = event.price
    if beat.trades == 0 or event.price > beat.trade_high:
        beat.trade_high = event.price
    beat.trades += 1
    if event.side == BUY:
        beat.buy_lots += event.size
    else:
        beat.sell_lots += event.size


@njit(cache=True)
def _change(state, beat, event, bid_keys, bid_sizes, ask_keys, ask_sizes):  # type: ignore[no-untyped-def]
    if event.side == BID:
        state.bids = set_level(bid_keys, bid_sizes, state.bids, event.price, event.size)
    else:
        state.asks = set_level(ask_keys, ask_sizes, state.asks, -event.price, event.size)
    beat.updates += 1
    state.touched = 1


@njit(cache=True)
def _snapshot_level(state, event, bid_keys, bid_sizes, ask_keys, ask_sizes):  # type: ignore[no-untyped-def]
    if not state.in_snapshot:
        state.bids = state.asks = 0
        state.in_snapshot = 1
        state.touched = 1
    if event.side == BID:
        bid_keys[state.bids], bid_sizes[state.bids] = event.price, event.size
        state.bids += 1
    else:
        ask_keys[state.asks], ask_sizes[state.asks] = -event.price, event.size
        state.asks += 1


@njit(cache=True)
def _apply(state, beat, event, bid_keys, bid_sizes, ask_keys, ask_sizes):  # type: ignore[no-untyped-def]
    """Apply one row to the book and the beat that its time has opened."""
    if event.kind == _SNAPSHOT or event.kind == _CARRIED:
        if event.kind == _SNAPSHOT:
            beat.valid = False
        _snapshot_level(state, event, bid_keys, bid_sizes, ask_keys, ask_sizes)
    elif state.in_snapshot:
        _end_snapshot(state, bid_keys, bid_sizes, ask_keys, ask_sizes)
    if event.kind == _CHANGE and state.synced:
        _change(state, beat, event, bid_keys, bid_sizes, ask_keys, ask_sizes)
    elif event.kind == _TRADE:
        _trade(beat, event)
    elif event.kind == _UNSYNC:
        _unsync(state, beat, event.reason)
    if event.last:
        if state.in_snapshot:
            _end_snapshot(state, bid_keys, bid_sizes, ask_keys, ask_sizes)
        _end_frame(state, beat, bid_keys, ask_keys)


@njit(cache=True)
def _advance(events, at, states, beats, bid_keys, bid_sizes, ask_keys, ask_sizes, out):  # type: ignore[no-untyped-def]
    """Apply events from `at` on; stop when `out` or a side is full. Return (next, beats closed)."""
    state, beat = states[0], beats[0]
    closed = 0
    room = len(bid_keys) - 1
    for i in range(at, len(events)):
        event = events[i]
        if state.bids >= room or state.asks >= room:
            return i, closed
        if event.kind == _END:
            state.started = state.synced = state.in_snapshot = state.touched = 0
            continue
        if not state.started:
            state.started = 1
            state.clock = event.ns
            _open_beat(state, beat, event.ns // BEAT_NS, bid_keys, ask_keys)
            # Our own book, carried to a beat's very start, was known during the whole beat.
            beat.valid = event.kind == _CARRIED and event.ns % BEAT_NS == 0
        state.clock = max(state.clock, event.ns)
        while state.clock >= (beat.beat + 1) * BEAT_NS:
            if closed == len(out):
                return i, closed
            _close_beat(state, beat, bid_keys, bid_sizes, ask_keys, ask_sizes)
            out[closed] = beat
            closed += 1
            _open_beat(state, beat, beat.beat + 1, bid_keys, ask_keys)
        _apply(state, beat, event, bid_keys, bid_sizes, ask_keys, ask_sizes)
    return len(events), closed
