"""The reader: frames of one connection in, market events per product out (section 2).

Live connections and imported captures run this same code. It checks the sequence, keeps the event
clock, drops duplicates and corrupt frames, and says with marks when a book is no longer known.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from actors.frames import CorruptFrame, Decoder, Frame, Row
from market.events import EVENT, Kind, Reason, mark
from market.products import Product
from market.windows import BEAT_NS

Events = list[tuple[str, NDArray[np.void]]]  # (product id, EVENT[n]) in order of arrival.

MAX_JUMP_NS = 86_400 * 1_000_000_000  # A clock that leaps a day ahead is a corrupt frame.
_LOSSES = ("duplicates", "corrupt", "gaps", "missing frames", "disconnects")
_CORRUPT = "corrupt: "
_KEPT_CORRUPT = 1_000
_REMEMBERED_TRADES = 10_000


class Reader:
    """State of one connection, and over its reconnections, the clock and the trades seen."""

    def __init__(self, decode: Decoder, products: dict[str, Product]) -> None:
        self._decode = decode
        self._products = products
        self._sequence: int | None = None
        self._clock_ns: int | None = None
        self._reconnected = False  # No frame of the new connection has had a time yet.
        self._pending: dict[str, tuple[list[Row], int]] = {}  # Snapshots waiting for a time.
        self._tapes = {product_id: _Tape() for product_id in products}
        self.counts: Counter[str] = Counter()
        self.corrupt: list[tuple[int, str, bytes]] = []  # (recv_ns, reason, frame), the first 1000.

    def frame(self, data: bytes, recv_ns: int) -> Events:
        """Read one frame; return the events that it brings, marks included."""
        out: Events = []
        try:
            frame = self._decode(data, self._products)
            self.counts[frame.name] += 1
            if self._leaps(frame.ns):
                named = tuple(product_id for product_id, _ in frame.rows)
                raise CorruptFrame("time leap", sequence=frame.sequence, product_ids=named)
        except CorruptFrame as e:
            self._on_corrupt(e, data, recv_ns, out)
            return out
        if self._in_sequence(frame.sequence, recv_ns, out):
            self.counts["foreign rows"] += frame.foreign
            self._move_clock(frame.ns, recv_ns, out)
            self._emit(frame, recv_ns, out)
        return out

    def disconnected(self, recv_ns: int) -> Events:
        """Note that the connection was lost; the next frame is the first of a new one."""
        out: Events = []
        self.counts["disconnects"] += 1
        self._sequence = None
        self._reconnected = True
        self._unsync(self._products, Reason.DISCONNECT, recv_ns, out)
        return out

    def ended(self, recv_ns: int) -> Events:
        """Note that the recording ends here; the unfinished beat will not be emitted."""
        out: Events = []
        if self._clock_ns is not None:
            self._mark_all(Kind.END, self._clock_ns, recv_ns, out)
        return out

    def counts_of(self, product_id: str) -> dict[str, int]:
        """Return what a product's manifest keeps: its connection's losses and its trade tape's."""
        tape = self._tapes[product_id]
        losses = {name: n for name, n in self.counts.items() if name.startswith(_CORRUPT)}
        losses |= {name: self.counts[name] for name in _LOSSES}
        return losses | {"trade_duplicates": tape.duplicates, "trade_holes": tape.holes}

    def _in_sequence(self, sequence: int | None, recv_ns: int, out: Events) -> bool:
        """Check a frame's number: False for a repeated one; a gap unsyncs every book first."""
        if sequence is None:
            return True
        last, self._sequence = self._sequence, sequence
        if last is not None and sequence <= last:
            self._sequence = last
            self.counts["duplicates"] += 1
            return False
        if last is not None and sequence > last + 1:
            self.counts["gaps"] += 1
            self.counts["missing frames"] += sequence - last - 1
            self._unsync(self._products, Reason.GAP, recv_ns, out)
        return True

    def _on_corrupt(self, e: CorruptFrame, data: bytes, recv_ns: int, out: Events) -> None:
        self.counts["corrupt"] += 1
        self.counts[f"{_CORRUPT}{e.kind}"] += 1
        if len(self.corrupt) < _KEPT_CORRUPT:
            self.corrupt.append((recv_ns, e.reason, data))
        if self._in_sequence(e.sequence, recv_ns, out):
            self._move_clock(None if self._leaps(e.ns) else e.ns, recv_ns, out)
            ours = [name for name in e.product_ids if name in self._products]
            self._unsync(ours if e.product_ids else self._products, Reason.CORRUPT, recv_ns, out)

    def _leaps(self, ns: int | None) -> bool:
        """Whether a time is more than a day ahead, which only a new connection's may be."""
        if ns is None or self._clock_ns is None or self._reconnected:
            return False
        return ns - self._clock_ns > MAX_JUMP_NS

    def _move_clock(self, ns: int | None, recv_ns: int, out: Events) -> None:
        """Advance the clock; passing the end of a beat is told to every product."""
        before = self._clock_ns
        if ns is None:
            return
        if before is not None and self._reconnected and ns - before > MAX_JUMP_NS:
            # Days later: another recording, not days of beats about which nothing is known.
            self._mark_all(Kind.END, before, recv_ns, out)
        self._reconnected = False
        if before is not None and ns <= before:
            return
        self._clock_ns = ns
        if before is None or ns // BEAT_NS > before // BEAT_NS:
            self._mark_all(Kind.CLOCK, ns, recv_ns, out)

    def _mark_all(self, kind: Kind, ns: int, recv_ns: int, out: Events) -> None:
        row = np.array([mark(kind, ns, recv_ns)], EVENT)
        out += [(product_id, row) for product_id in self._products]

    def _unsync(self, product_ids: Iterable[str], why: Reason, recv_ns: int, out: Events) -> None:
        for product_id in product_ids:
            self._pending.pop(product_id, None)
            if self._clock_ns is not None:
                row = np.array([mark(Kind.UNSYNC, self._clock_ns, recv_ns, why)], EVENT)
                out.append((product_id, row))

    def _emit(self, frame: Frame, recv_ns: int, out: Events) -> None:
        if frame.ns is None:
            for product_id, rows in frame.rows:
                self._pending[product_id] = (rows, recv_ns)
            return
        for product_id, (rows, received_ns) in self._pending.items():
            out.append((product_id, self._events(rows, received_ns)))
        self._pending.clear()
        for product_id, rows in frame.rows:
            if not rows:
                continue
            kept = self._tapes[product_id].new(rows)
            if kept:
                out.append((product_id, self._events(kept, recv_ns)))

    def _events(self, rows: list[Row], recv_ns: int) -> NDArray[np.void]:
        ns = self._clock_ns
        events = np.array([(ns, recv_ns, k, s, 0, 0, p, q, t) for k, s, p, q, t in rows], EVENT)
        events["last"][-1] = 1
        return events


class _Tape:
    """Trades of one product: duplicates dropped, holes in trade_id counted."""

    def __init__(self) -> None:
        self._seen: dict[int, None] = {}  # In order of arrival, so that the oldest can go.
        self._oldest = 0
        self._forgotten = 0  # Ids up to here are too old to tell apart: taken for duplicates.
        self._newest = 0
        self.duplicates = 0
        self.holes = 0

    def new(self, rows: list[Row]) -> list[Row]:
        """Return the rows without trades seen before, trades of a batch in order of their id."""
        if rows[0][0] != Kind.TRADE:
            return rows
        kept = []
        for row in sorted(rows, key=lambda row: row[4]):
            trade_id = row[4]
            if trade_id in self._seen or trade_id <= self._forgotten:
                self.duplicates += 1
                continue
            if self._newest and trade_id > self._newest:
                self.holes += trade_id - self._newest - 1
            elif trade_id > self._oldest and self.holes:
                self.holes -= 1  # A late trade fills its hole.
            self._oldest = min(self._oldest or trade_id, trade_id)
            self._newest = max(self._newest, trade_id)
            self._seen[trade_id] = None
            kept.append(row)
        while len(self._seen) > _REMEMBERED_TRADES:
            oldest = next(iter(self._seen))
            del self._seen[oldest]
            self._forgotten = max(self._forgotten, oldest)
        return kept
