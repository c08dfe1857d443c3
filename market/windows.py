"""Four-second windows: from a product's events to one record per beat (sections 1 to 3).

One compiled loop serves the live actors (a frame at a time) and the offline build (a partition at
a time), so both give the same bits. What it decides: when the book is synced, which beats are
valid, and the record of each beat. It asks for nothing; the shell resubscribes when told.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from market.book import (
    BUCKETS,
    MAX_SUM_LOTS,
    Book,
    best_ask,
    best_bid,
    clear,
    cramped,
    fill_buckets,
    has_both_sides,
    levels,
    new_book,
    overfull,
    prefetch_level,
    roomier,
    set_level,
    settle,
)
from market.checks import whole
from market.events import ASK, BID, BUY, EVENT, Kind, Reason
from market.jit import compiled, inlined
from market.products import MAX_UNITS

BEAT_NS = 4_000_000_000
MAX_NS = 1 << 62  # In 2116; beyond, the end of a beat would not be an int64.
_MAX_LEAP_NS = 7 * 86_400 * 1_000_000_000  # Longer silence is another recording, after END.

Records = NDArray[np.void]
Record = Any  # One of them, as compiled functions see it.

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
        ("seen", "i8"),  # The beat's extremes hold something.
        ("wrong", "i8"),  # The next event is one that no reader makes.
        ("lost", "i8"),  # The last row applied was the end of a book that was known.
    ]
)

_SNAPSHOT, _CARRIED, _CHANGE, _TRADE = Kind.SNAPSHOT, Kind.CARRIED, Kind.CHANGE, Kind.TRADE
_UNSYNC, _END = Kind.UNSYNC, Kind.END
_AHEAD = 12  # Records from asking memory for a level to needing it.
_GAP, _CORRUPT, _CROSSED = Reason.GAP, Reason.CORRUPT, Reason.CROSSED
_EMPTY, _LAST_REASON = Reason.EMPTY_SIDE, max(Reason)


def after_break(beat: int) -> Records:
    """Return the window (WINDOW[1]) of a beat about which nothing is known."""
    window = np.zeros(1, WINDOW)
    window["beat"] = whole("beat", beat)
    return window


class Lost(NamedTuple):
    """A book that was found crossed, without a side or overfull, with no mark that says so."""

    rows: int  # How many rows of the array fed had been applied by then.
    ns: int
    reason: Reason


class WindowBuilder:
    """The book and the beat in progress of one product."""

    def __init__(self) -> None:
        self.lost: list[Lost] = []  # Where the book of the last `feed` lost itself.
        self._state = np.zeros(1, _STATE)
        self._beat = np.zeros(1, WINDOW)
        self._book = new_book()

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

    def feed(self, events: Records) -> Records:
        """Apply events (EVENT[n], arrival order); return the beats that they closed (WINDOW[m]).

        ValueError where a row is none that a reader can have made; the builder is then of no use.
        """
        if not isinstance(events, np.ndarray) or events.dtype != EVENT or events.ndim != 1:
            raise ValueError("events must be a one-dimensional array of the EVENT dtype")
        if self._state["wrong"][0]:
            raise ValueError("events: a row fed earlier could not be; this builder is of no use")
        if not (events.flags.c_contiguous and events.flags.writeable):
            events = events.copy()  # Compiled for such alone.
        beats = (int(events["ns"][-1]) - self.clock_ns) // BEAT_NS if len(events) else 0
        at, closed, out = 0, 0, np.zeros(1 + min(max(beats, 0), 1024), WINDOW)
        self.lost = []
        while True:
            at, closed, lost = _advance(
                events, at, self._state, self._beat, self._book, out, closed
            )
            if lost:
                self.lost.append(Lost(at, self.clock_ns, self.reason))
            if at == len(events):
                return out[:closed]
            if self._state["wrong"][0]:
                row = dict(zip(EVENT.names or (), events[at].item(), strict=True))
                raise ValueError(f"events: row {at} cannot be: {row}")
            if lost:
                continue
            if closed == len(out):
                out = np.concatenate([out, np.zeros(1024 + len(out), WINDOW)])
            else:
                self._book = roomier(self._book)

    def levels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return bids and asks as arrays [n, 2] of (ticks, lots), best first."""
        return levels(self._book, BID), levels(self._book, ASK)

    def carried(self, ns: int, recv_ns: int) -> Records:
        """Return the book as the CARRIED rows that start a partition; empty if not synced."""
        whole("ns", ns)
        whole("recv_ns", recv_ns)
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


@inlined
def _possible(event: Record, state: Record) -> bool:
    """Whether a reader can have made this row."""
    leap = event.ns - state.clock if state.started else 0
    if not 0 <= event.ns <= MAX_NS or leap > _MAX_LEAP_NS or not _SNAPSHOT <= event.kind <= _END:
        return False
    if event.kind <= _TRADE:
        return _possible_level(event)
    return bool(event.kind != _UNSYNC or _GAP <= event.reason <= _LAST_REASON)


@inlined
def _possible_level(event: Record) -> bool:
    sound = 0 < event.price <= MAX_UNITS and 0 <= event.size <= MAX_UNITS
    return bool(sound and BID <= event.side <= ASK and event.ns >= 0)


@inlined
def _open_beat(state: Record, beat: Record, k: int, book: Book) -> None:
    beat.beat = k
    beat.valid = state.synced == 1
    beat.trade_low = beat.trade_high = beat.buy_lots = beat.sell_lots = 0
    beat.trades = beat.updates = 0
    beat.low_ask = beat.high_bid = 0
    state.seen = 0
    if state.synced:
        _note_extremes(state, beat, best_bid(book), best_ask(book))


@inlined
def _note_extremes(state: Record, beat: Record, bid: int, ask: int) -> None:
    if not state.seen or ask < beat.low_ask:
        beat.low_ask = ask
    if not state.seen or bid > beat.high_bid:
        beat.high_bid = bid
    state.seen = 1


@compiled
def _close_beat(state: Record, beat: Record, book: Book) -> None:
    if state.synced:
        beat.bid, beat.ask = best_bid(book), best_ask(book)
        fill_buckets(book, BID, beat.bid_depth)
        fill_buckets(book, ASK, beat.ask_depth)
    else:
        beat.bid = beat.ask = 0
        beat.bid_depth[:] = 0
        beat.ask_depth[:] = 0


@inlined
def _unsync(state: Record, beat: Record, reason: int) -> None:
    state.synced = 0
    state.reason = reason
    beat.valid = False


@inlined
def _lose(state: Record, beat: Record, reason: int) -> None:
    """Unsync a book that broke a rule, which nobody has said before."""
    state.lost |= state.synced
    _unsync(state, beat, reason)


@inlined
def _end_snapshot(state: Record) -> None:
    state.in_snapshot = 0
    state.synced = 1
    state.reason = 0


@inlined
def _end_frame(state: Record, beat: Record, book: Book) -> None:
    """Check the book after a whole frame that touched it, and note its extremes."""
    state.touched = 0
    if not state.synced:
        return
    if overfull(book):
        _lose(state, beat, _CORRUPT)
    elif not has_both_sides(book):
        _lose(state, beat, _EMPTY)
    else:
        settle(book)
        bid, ask = best_bid(book), best_ask(book)
        if bid >= ask:
            _lose(state, beat, _CROSSED)
        else:
            _note_extremes(state, beat, bid, ask)


@inlined
def _trade(state: Record, beat: Record, event: Record) -> None:
    if beat.trades == 0 or event.price < beat.trade_low:
        beat.trade_low = event.price
    if beat.trades == 0 or event.price > beat.trade_high:
        beat.trade_high = event.price
    beat.trades += 1
    if event.side == BUY:
        beat.buy_lots = min(beat.buy_lots + event.size, MAX_SUM_LOTS)
    else:
        beat.sell_lots = min(beat.sell_lots + event.size, MAX_SUM_LOTS)
    if max(beat.buy_lots, beat.sell_lots) == MAX_SUM_LOTS:
        _lose(state, beat, _CORRUPT)


@inlined
def _apply(state: Record, beat: Record, event: Record, book: Book) -> None:
    """Apply one row that is no change of a known book."""
    if event.kind == _SNAPSHOT or event.kind == _CARRIED:
        if event.kind == _SNAPSHOT:
            beat.valid = False
        if not state.in_snapshot:
            clear(book)
            state.in_snapshot = state.touched = 1
        set_level(book, event.side, event.price, event.size)
    elif event.kind == _TRADE:
        _trade(state, beat, event)
    elif event.kind == _UNSYNC:
        _unsync(state, beat, event.reason)
    if event.last:
        if state.in_snapshot:
            _end_snapshot(state)
        if state.touched:
            _end_frame(state, beat, book)


@inlined
def _apply_changes(events: Records, at: int, state: Record, beat: Record, book: Book) -> int:
    """Apply the run of changes from `at` on that falls in the open beat; return where it ends.

    Nearly every row of a partition passes here, so the loop asks nothing that a run settles.
    """
    i, clock, end_ns = at, state.clock, (beat.beat + 1) * BEAT_NS
    while i < len(events):
        event = events[i]
        if event.kind != _CHANGE or event.ns >= end_ns or not _possible_level(event):
            break
        if i + _AHEAD < len(events):
            ahead = events[i + _AHEAD]  # Not checked yet, hence the `& 1`.
            prefetch_level(book, ahead.side & 1, ahead.price)
        full = set_level(book, event.side, event.price, event.size)
        clock = max(clock, event.ns)
        i += 1
        if event.last:
            _end_frame(state, beat, book)
            if cramped(book) or not state.synced:
                break
        elif full:
            break
    state.clock = clock
    beat.updates += i - at
    state.touched = i > at and not events[i - 1].last
    return i


@compiled
def _advance(
    events: Records,
    at: int,
    states: Records,
    beats: Records,
    book: Book,
    out: Records,
    closed: int,
) -> tuple[int, int, int]:
    """Apply events from `at` on; stop where one is wrong, `out` is full or the book is cramped.

    Stop also after a row at which the book lost itself. `out` holds the `closed` beats of earlier
    calls. Return the next event, how many `out` holds, and whether the book lost itself.
    """
    state, beat = states[0], beats[0]
    state.lost = 0
    i = at
    while i < len(events) and not cramped(book) and not state.lost:
        event = events[i]
        if not _possible(event, state):
            state.wrong = 1
            break
        if event.kind == _END:
            state.started = state.synced = state.in_snapshot = state.touched = 0
            i += 1
            continue
        if not state.started:
            state.started = 1
            state.clock = event.ns
            _open_beat(state, beat, event.ns // BEAT_NS, book)
            # Our own book, carried to a beat's very start, was known during the whole beat.
            beat.valid = event.kind == _CARRIED and event.ns % BEAT_NS == 0
        state.clock = max(state.clock, event.ns)
        while state.clock >= (beat.beat + 1) * BEAT_NS:
            if state.touched:  # All rows of a frame have its time: no beat ends within one.
                state.wrong = 1
            if state.wrong or closed == len(out):
                return i, closed, 0
            _close_beat(state, beat, book)
            out[closed] = beat
            closed += 1
            _open_beat(state, beat, beat.beat + 1, book)
        if state.in_snapshot and event.kind > _CARRIED:
            _end_snapshot(state)
        if state.synced and event.kind == _CHANGE:
            i = _apply_changes(events, i, state, beat, book)
        else:
            _apply(state, beat, event, book)
            i += 1
    return i, closed, state.lost
