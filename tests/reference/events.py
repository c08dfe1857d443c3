"""Window records from event rows, rebuilt with dicts: the reference for the window builder.

Consumes rows of the event table (anything indexable by field name). Best prices are found anew
after each frame, so nothing here can go stale.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

BEAT_NS = 4 * 10**9
BUCKETS = 20
SNAPSHOT, CARRIED, CHANGE, TRADE, UNSYNC, CLOCK, END = range(7)
CROSSED, EMPTY_SIDE = 3, 4
BID, ASK = 0, 1
BUY = 0


class EventReference:
    """Feeds whole frames into one product's book; `records` grows as beats close."""

    def __init__(self) -> None:
        self.book: dict[int, dict[int, int]] = {BID: {}, ASK: {}}
        self.synced = False
        self.reason: int | None = 0  # Why it is not synced; None where that is not defined.
        self.clock: int | None = None
        self.beat: int | None = None
        self.records: list[dict[str, Any]] = []

    def feed(self, rows: Iterable[Any]) -> None:
        """Take in rows; a frame ends with its `last` row."""
        frame: list[Any] = []
        for row in rows:
            frame.append(row)
            if row["last"]:
                self.frame(frame)
                frame = []
        if frame:
            raise AssertionError("the rows end inside a frame")

    def frame(self, rows: list[Any]) -> None:
        """One frame: its time first, then its content, then the check of the book."""
        if rows[0]["kind"] == END:
            self.end()
            return
        opens = self.move_clock(int(rows[0]["ns"]))
        for kind, group in groupby(rows, key=lambda row: int(row["kind"])):
            self.apply(kind, list(group), opens)
        if any(row["kind"] in (SNAPSHOT, CARRIED, CHANGE) for row in rows) and self.synced:
            self.check()

    def apply(self, kind: int, rows: list[Any], opens: bool) -> None:
        """Rows of one kind; a frame may hold a snapshot and changes to it."""
        if kind in (SNAPSHOT, CARRIED):
            self.snapshot(rows, kind, opens)
        elif kind == CHANGE and self.synced:
            self.updates += len(rows)
            self.set_levels(rows)
        elif kind == TRADE:
            for row in rows:
                self.trades.append((int(row["side"]), int(row["price"]), int(row["size"])))
        elif kind == UNSYNC:
            self.unsync(int(rows[0]["reason"]) if self.synced else None)

    def unsync(self, reason: int | None) -> None:
        """The book is not known from here on."""
        self.synced = self.valid = False
        self.reason = reason

    def end(self) -> None:
        """The recording is over: it closes nothing, and what follows is another recording."""
        self.unsync(None)
        self.beat = None

    def move_clock(self, ns: int) -> bool:
        """Close the beats that ended; return whether this very frame opens a beat at its start."""
        self.clock = ns if self.clock is None else max(self.clock, ns)
        before = self.beat
        if self.beat is None:
            self.open_beat(self.clock // BEAT_NS)
        while self.clock >= (self.beat + 1) * BEAT_NS:
            self.records.append(self.record())
            self.open_beat(self.beat + 1)
        return self.beat != before and ns == self.beat * BEAT_NS

    def open_beat(self, beat: int) -> None:
        """Start a beat in the state the book is in."""
        self.beat = beat
        self.valid = self.synced
        self.states: list[tuple[int, int]] = [self.best()] if self.synced else []
        self.trades: list[tuple[int, int, int]] = []
        self.updates = 0

    def best(self) -> tuple[int, int]:
        """Best bid and best ask."""
        return max(self.book[BID]), min(self.book[ASK])

    def snapshot(self, rows: list[Any], kind: int, opens: bool) -> None:
        """Replace the book; a venue snapshot makes its beat invalid, a carried one breaks nothing.

        A carried book that opens a beat, at its start, is the opening state of that beat.
        """
        self.book = {BID: {}, ASK: {}}
        self.set_levels(rows)
        if kind == SNAPSHOT:
            self.valid = False
        elif opens:
            self.valid = True
        self.synced = True
        self.reason = 0

    def set_levels(self, rows: list[Any]) -> None:
        """Absolute sizes; zero deletes."""
        for row in rows:
            levels = self.book[int(row["side"])]
            if row["size"] == 0:
                levels.pop(int(row["price"]), None)
            else:
                levels[int(row["price"])] = int(row["size"])

    def check(self) -> None:
        """After a whole frame best bid < best ask must hold."""
        if not self.book[BID] or not self.book[ASK]:
            self.unsync(EMPTY_SIDE)
        elif self.best()[0] >= self.best()[1]:
            self.unsync(CROSSED)
        else:
            self.states.append(self.best())

    def record(self) -> dict[str, Any]:
        """The window record of the open beat, as if it ended now."""
        bid, ask = self.best() if self.synced else (0, 0)
        prices = [price for _, price, _ in self.trades]
        return {
            "beat": self.beat,
            "valid": self.valid,
            "bid": bid,
            "ask": ask,
            "low_ask": min((ask for _, ask in self.states), default=0),
            "high_bid": max((bid for bid, _ in self.states), default=0),
            "trade_low": min(prices, default=None),
            "trade_high": max(prices, default=None),
            "buy_lots": sum(lots for side, _, lots in self.trades if side == BUY),
            "sell_lots": sum(lots for side, _, lots in self.trades if side != BUY),
            "trades": len(self.trades),
            "bid_depth": self.depth(BID, bid + ask),
            "ask_depth": self.depth(ASK, bid + ask),
            "updates": self.updates,
        }

    def depth(self, side: int, mid2: int) -> list[int]:
        """Lots per 0.1 % bucket from the median; all zero when the book is not synced."""
        buckets = [0] * BUCKETS
        if self.synced:
            for price, lots in self.book[side].items():
                away = 2 * price - mid2 if side == ASK else mid2 - 2 * price
                index = (1000 * away) // mid2
                if index < BUCKETS:
                    buckets[index] += lots
        return buckets
