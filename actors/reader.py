"""The reader: frames of one connection in, market events per product out (section 2).

Live connections and imported captures run this same code. It checks the sequence, keeps the event
clock, drops duplicates and corrupt frames, and says with marks when a book is no longer known.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from actors.frames import CorruptFrame, Frame, WireFormat
from actors.runs import Words, by_product, joined, run_length, words
from actors.scanner import Scanned, Scanner, unscanned
from actors.tape import Tape
from market.events import EVENT, Kind, Reason, mark
from market.products import Product
from market.windows import BEAT_NS

Events = list[tuple[str, NDArray[np.void]]]  # (product id, EVENT[n]) in order of arrival.

_DAY_NS = 86_400 * 1_000_000_000
MAX_JUMP_NS = _DAY_NS  # A clock that leaps a day ahead is a corrupt frame.
_LONGEST_DISCONNECT = 100
_LOSSES = ("duplicates", "corrupt", "gaps", "missing frames", "disconnects")
_CORRUPT = "corrupt: "
_KEPT_CORRUPT = 1_000


class Reader:
    """State of one connection, and over its reconnections, the clock and the trades seen."""

    def __init__(self, decoder: WireFormat, products: dict[str, Product]) -> None:
        self._decode = decoder(products)
        self._products = products
        self._listed = list(products)
        self._sequence: int | None = None
        self._clock_ns: int | None = None
        self._reconnected = False  # No frame of the new connection has had a time yet.
        self._pending: dict[str, tuple[NDArray[np.void], int]] = {}  # Snapshots waiting for a time.
        self._tapes = {product_id: Tape() for product_id in products}
        self.read = 0  # Lines of a capture, but for empty ones.
        self.counts: Counter[str] = Counter()
        self.corrupt: list[tuple[int, str, bytes]] = []  # (recv_ns, reason, frame), the first 1000.

    def frame(self, data: bytes, recv_ns: int) -> Events:
        """Read one frame; return the events that it brings, marks included."""
        return next(self.frames([data], recv_ns))

    def frames(self, batch: Sequence[bytes], recv_ns: int) -> Iterator[Events]:
        """Read frames received together; yield for each what `frame` would return for it.

        Decoding is done for all at once; everything else, counts included, frame by frame.
        """
        for data, decoded in zip(batch, self._decode(batch), strict=True):
            out: Events = []
            if isinstance(decoded, CorruptFrame):
                self._on_corrupt(decoded, data, recv_ns, out)
            else:
                self._on_frame(decoded, data, recv_ns, out)
            yield out

    def lines(self, data: bytes, recv_ns: int) -> Iterator[Events]:
        """Read a capture's lines, which end with a line feed each, as `frame` would one by one.

        A line {"type":"disconnect"} says that the connection was lost, an empty one nothing.
        Yields the events of many frames at once: each product's in one array, in their order, but
        the order between products is not kept. A frame that begins a day, or the recording, stands
        alone: with it partitions begin, which hold the counts of that moment.
        """
        scanned = self._scanned(data)
        pieces: dict[str, list[Words]] = {}
        line = row = 0
        while line < len(scanned.ends):
            taken = self._follow(scanned, line, row, recv_ns, pieces)
            if not taken:
                start = int(scanned.ends[line - 1]) + 1 if line else 0
                yield from self._one(data[start : scanned.ends[line]], recv_ns, pieces)
            row += int(scanned.heads[line : line + max(taken, 1), 0].sum())
            line += max(taken, 1)
        yield _emptied(pieces)

    def _scanned(self, data: bytes) -> Scanned:
        scanner = getattr(self._decode, "scanner", None)
        if isinstance(scanner, Scanner):
            return scanner.lines(data)
        return unscanned(data)

    def _follow(
        self,
        scanned: Scanned,
        line: int,
        row: int,
        recv_ns: int,
        pieces: dict[str, list[Words]],
    ) -> int:
        """Read the run of plain frames that begins at a line; return how many they are."""
        if self._sequence is None or self._clock_ns is None:
            return 0
        if self._pending or self._reconnected:
            return 0
        taken = run_length(scanned.heads, line, self._sequence, self._clock_ns)
        if not taken:
            return 0
        heads, rows = scanned.heads[line : line + taken], words(scanned.rows[row:])
        found, self._clock_ns = by_product(heads, rows, self._clock_ns, recv_ns, len(self._listed))
        for index, part in found:
            pieces.setdefault(self._listed[index], []).append(part)
        self._sequence += taken
        self.counts["l2_data"] += taken
        self.read += taken
        return taken

    def _one(self, line: bytes, recv_ns: int, pieces: dict[str, list[Words]]) -> Iterator[Events]:
        """Read one line by itself; yield what came before it, if it begins a day, and it."""
        frame = line.strip()
        if not frame:
            return
        self.read += 1
        before_ns = self._clock_ns
        lost = _is_disconnect(frame)
        events = self.disconnected(recv_ns) if lost else self.frame(frame, recv_ns)
        if self._clock_ns == before_ns or (
            before_ns is not None and before_ns // _DAY_NS == (self._clock_ns or 0) // _DAY_NS
        ):
            for product_id, rows in events:
                pieces.setdefault(product_id, []).append(words(rows))
        else:
            yield _emptied(pieces)
            yield events

    def disconnected(self, recv_ns: int) -> Events:
        """Note that the connection was lost; the next frame is the first of a new one."""
        out: Events = []
        self.counts["disconnects"] += 1
        self._sequence = None
        self._reconnected = True
        self._unsync(self._products, Reason.DISCONNECT, recv_ns, out)
        return out

    def not_sent(self, product_ids: list[str], recv_ns: int) -> Events:
        """Note that the venue does not send these books, although they were taken for known."""
        out: Events = []
        self.counts["books not sent"] += len(product_ids)
        self._unsync(product_ids, Reason.GAP, recv_ns, out)
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

    def _on_frame(self, frame: Frame, data: bytes, recv_ns: int, out: Events) -> None:
        self.counts[frame.name] += 1
        if self._leaps(frame.ns):
            named = tuple(product_id for product_id, _ in frame.rows)
            leap = CorruptFrame("time leap", sequence=frame.sequence, product_ids=named)
            self._on_corrupt(leap, data, recv_ns, out)
        elif self._in_sequence(frame.sequence, recv_ns, out):
            if frame.foreign:
                self.counts["foreign rows"] += frame.foreign
            self._move_clock(frame.ns, recv_ns, out)
            self._emit(frame, recv_ns, out)

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
        if self._pending:
            for product_id, (rows, received_ns) in self._pending.items():
                self._stamp(rows, None, received_ns)
                out.append((product_id, rows))
            self._pending.clear()
        for product_id, rows in frame.rows:
            if frame.trades:
                rows = self._tapes[product_id].new(rows)
            if len(rows):
                self._stamp(rows, frame.ns, recv_ns)
                out.append((product_id, rows))

    def _stamp(self, rows: NDArray[np.void], ns: int | None, recv_ns: int) -> None:
        """Give rows, which hold `ns`, the time of the clock and that of their reception."""
        if ns != self._clock_ns:
            rows["ns"] = self._clock_ns
        if recv_ns:
            rows["recv_ns"] = recv_ns


def _is_disconnect(line: bytes) -> bool:
    if len(line) > _LONGEST_DISCONNECT or b'"disconnect"' not in line:
        return False
    try:
        return bool(msgspec.json.decode(line) == {"type": "disconnect"})
    except msgspec.DecodeError:
        return False


def _emptied(pieces: dict[str, list[Words]]) -> Events:
    events = [(product_id, joined(parts)) for product_id, parts in pieces.items()]
    pieces.clear()
    return events
