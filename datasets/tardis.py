"""Import of Tardis CSV: `incremental_book_L2` and `trades` files, merged in order of arrival.

Rows of one file, symbol and local_timestamp are one frame. The event clock is `timestamp`, never
going back; what is received is `local_timestamp`. The format says nothing of lost connections but
that the next book row is of a snapshot. So a book is known from a snapshot to the last book row
before the next snapshot, an UNSYNC mark stands right after that row, and no beat between counts.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.quarantine import keep_corrupt
from actors.reader import MAX_JUMP_NS
from actors.recorder import Parts, Recorder
from actors.runs import joined, words
from actors.store import Store
from actors.stream import ProductStream
from actors.tape import Tape
from datasets.imports import Imported
from datasets.tardis_rows import CORRUPT, Lines, Rows, Symbols
from market.errors import QuaverError
from market.events import EVENT, Kind, Reason, mark
from market.products import Product

_MOST_AT_ONCE = 4_000_000  # Rows of one local_timestamp: many times the largest snapshot.
_MOST_HELD = 200_000  # Trades after the last row of a book.

Events = NDArray[np.void]


def import_tardis(
    store: Store,
    paths: list[Path],
    increments: dict[str, Product],
    on_progress: Callable[[int], None] = lambda rows: None,
) -> Imported:
    """Read Tardis CSV files together into raw partitions and return what they held.

    Books and trades of a symbol belong together, so give both. Symbols of coinbase that are in the
    universe need no `increments`. QuaverError names file, line and reason where one is bad; what
    arrived before that stays.
    """
    symbols = Symbols(increments)
    files = [Lines(path, symbols) for path in paths]
    parts = Parts(store, "tardis capture")
    markets: list[_Market] = []
    recorder = Recorder(parts, lambda product_id: _counts_of(markets, symbols, product_id))
    rows = 0
    try:
        for merged, sources in _merged(files, paths):
            for listed in symbols.products[len(markets) :]:
                markets.append(_Market(ProductStream(recorder, listed)))
            for index in np.unique(merged.products).tolist():
                own = merged.products == index
                markets[index].take(merged.events[own], sources[own])
            rows += len(sources)
            on_progress(rows)
    finally:
        for market in markets:
            market.end()
        parts.close()
        keep_corrupt(store, paths[0].name, symbols.corrupt)
    names = ", ".join(str(path) for path in paths)
    if symbols.skipped and not symbols.products:
        first = next(iter(symbols.skipped))
        raise QuaverError(
            f"{names}: the price and size grid of {', '.join(symbols.skipped)} is not known; "
            f"give it for each, for example --increments {first}=0.01,0.00000001"
        )
    if not recorder.rows:
        raise QuaverError(f"{names}: no rows after the header")
    counts = symbols.counts + sum((market.counts for market in markets), Counter())
    ids = tuple(listed.id for listed in symbols.products)
    return Imported(names, rows, recorder.rows, ids, tuple(symbols.skipped), dict(counts))


def _counts_of(markets: list["_Market"], symbols: Symbols, product_id: str) -> dict[str, int]:
    for listed, market in zip(symbols.products, markets, strict=False):
        if listed.id == product_id:
            return market.losses()
    return {}


def _merged(files: list[Lines], paths: list[Path]) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
    """Yield rows of all files in order of arrival, and the file of each, all of a time at once.

    Of rows that arrived together, those of the file that was named first come first. Where a file
    is broken, what arrived before is yielded first.
    """
    waiting = [_Waiting(file) for file in files]
    while True:
        horizon_ns = min((w.last_ns for w in waiting if not w.ended), default=None)
        found, sources = [], []
        for source, one in enumerate(waiting):
            taken = one.take(horizon_ns)
            found.append(taken)
            sources.append(np.full(len(taken.products), source))
        events = joined([words(rows.events) for rows in found])
        if len(events):
            order = np.argsort(events["recv_ns"], kind="stable")
            products = np.concatenate([rows.products for rows in found])
            yield (
                Rows(words(events)[order].view(EVENT).reshape(-1), products[order]),
                np.concatenate(sources)[order],
            )
        if horizon_ns is None:
            return
        for path, one in zip(paths, waiting, strict=True):
            if not one.ended and one.last_ns == horizon_ns:
                one.read()
                if len(one.rows.products) > _MOST_AT_ONCE:
                    raise QuaverError(
                        f"{path}: more than {_MOST_AT_ONCE:,} rows of one local_timestamp"
                    )


class _Waiting:
    """A file's rows that were read and not taken yet."""

    def __init__(self, file: Lines) -> None:
        self._file = iter(file)
        self.rows = Rows(np.zeros(0, EVENT), np.zeros(0, np.int64))
        self.ended = False
        self.last_ns = 0  # No later row arrived before.
        self.read()

    def read(self) -> None:
        """Read on; a broken file raises here."""
        more = next(self._file, None)
        if more is None:
            self.ended = True
            return
        events = joined([words(self.rows.events), words(more.events)])
        self.rows = Rows(events, np.concatenate([self.rows.products, more.products]))
        self.last_ns = int(events["recv_ns"][-1])

    def take(self, before_ns: int | None) -> Rows:
        """Take the rows that arrived before a time, all if it is None."""
        events, products = self.rows
        count = len(events)
        if before_ns is not None:
            count = int(np.searchsorted(events["recv_ns"], before_ns))
        self.rows = Rows(events[count:], products[count:])
        return Rows(events[:count], products[:count])


class _Market:
    """One symbol: its clock, its trades' ids, and what of its book is known."""

    def __init__(self, stream: ProductStream) -> None:
        self.counts: Counter[str] = Counter()
        self._stream = stream
        self._tape = Tape()
        self._clock_ns: int | None = None
        self._known = False  # A snapshot has been seen.
        self._held: list[Events] = []  # Trades since the last book row: a mark may go before.
        self._book_ns = 0  # The clock at that row.
        self._told: dict[str, int] = {}  # Counts of what has been recorded whole.

    def losses(self) -> dict[str, int]:
        """Return what the manifest keeps."""
        return self._told

    def _tell(self) -> None:
        counts = {"trade_duplicates": self._tape.duplicates, "trade_holes": self._tape.holes}
        self._told = dict(self.counts) | counts

    def take(self, events: Events, sources: NDArray[np.int64]) -> None:
        """Take rows in order of arrival (EVENT[n], `reason` CORRUPT where off the grid)."""
        changes = (np.diff(events["recv_ns"]) != 0) | (np.diff(sources) != 0)
        firsts = np.concatenate([[0], np.flatnonzero(changes) + 1])
        corrupt = np.maximum.reduceat(events["reason"], firsts) == CORRUPT
        times = np.maximum.reduceat(events["ns"], firsts)
        ahead = int(times.max()) - (int(times[0]) if self._clock_ns is None else self._clock_ns)
        if ahead > MAX_JUMP_NS or corrupt.any():
            for first, last in zip(firsts, [*firsts[1:], len(events)], strict=True):
                self._frame(events[first:last])
        else:
            self._frames(events, firsts, times)
        self._tell()

    def end(self) -> None:
        """Note that the files end here."""
        self._release(lost=bool(self._held))
        self._tell()
        if self._clock_ns is not None:
            self._stream.apply(np.array([mark(Kind.END, self._clock_ns, 0)], EVENT))

    def _frame(self, events: Events) -> None:
        """Take one frame that may be corrupt, or of a time that is far ahead."""
        ns = int(events["ns"].max())
        corrupt = bool((events["reason"] == CORRUPT).any())
        if self._clock_ns is not None and ns - self._clock_ns > MAX_JUMP_NS:
            received_ns = int(events["recv_ns"][0])
            if received_ns - self._clock_ns > MAX_JUMP_NS:  # Files that are days apart.
                self._release(lost=True)
                self._stream.apply(np.array([mark(Kind.END, self._clock_ns, 0)], EVENT))
                self._known = False
            else:
                corrupt = True
                ns = self._clock_ns
        if not corrupt:
            self._frames(events, np.zeros(1, np.int64), np.array([ns]))
            return
        self.counts["corrupt"] += 1
        self._release(lost=False)
        self._known = False
        self._clock_ns = max(self._clock_ns or 0, ns)
        why = mark(Kind.UNSYNC, self._clock_ns, int(events["recv_ns"][0]), Reason.CORRUPT)
        self._stream.apply(np.array([why], EVENT))

    def _frames(self, events: Events, firsts: NDArray[np.int64], times: NDArray[np.int64]) -> None:
        """Take sound frames that begin at `firsts` and are of these times."""
        lengths = np.diff(firsts, append=len(events))
        clocks = np.maximum.accumulate(np.maximum(times, self._clock_ns or 0))
        events["ns"] = np.repeat(clocks, lengths)
        self._clock_ns = int(clocks[-1])
        events["last"][firsts[1:] - 1] = 1
        events["last"][-1] = 1
        events = self._new_trades(events)
        if not len(events):
            return
        kinds = events["kind"]
        begins = np.flatnonzero(
            (kinds == Kind.SNAPSHOT) & np.concatenate([[True], events["last"][:-1] == 1])
        )
        at = 0
        for begin in begins.tolist():
            self._part(events[at:begin])
            self.counts["disconnects"] += self._known
            self._release(lost=True)
            self._known = True
            at = begin
        self._part(events[at:])

    def _part(self, events: Events) -> None:
        """Take rows of which at most the first frame is a snapshot."""
        if not len(events):
            return
        books = np.flatnonzero(events["kind"] != Kind.TRADE)
        if not self._known:
            self._stream.apply_many(events)
            return
        end = int(books[-1]) + 1 if len(books) else 0
        if end:
            self._release(lost=False)
            self._book_ns = int(events["ns"][end - 1])
            self._stream.apply_many(events[:end])
        if end < len(events):
            self._held.append(events[end:])
            if sum(map(len, self._held)) > _MOST_HELD:
                self._release(lost=True)

    def _release(self, lost: bool) -> None:
        """Let go of the trades held; if the book was lost, it was so before them."""
        if lost and self._known:
            why = mark(Kind.UNSYNC, self._book_ns, 0, Reason.DISCONNECT)
            self._stream.apply(np.array([why], EVENT))
            self._known = False
        for events in self._held:
            self._stream.apply_many(events)
        self._held = []

    def _new_trades(self, events: Events) -> Events:
        """Return the rows without trades seen before; those without a number are all kept."""
        numbered = np.flatnonzero(events["trade_id"])
        if not len(numbered) or self._tape.rising(events["trade_id"][numbered]):
            return events
        kept, start = [], 0
        for end in (np.flatnonzero(events["last"]) + 1).tolist():
            frame = events[start:end]
            start = end
            kept.append(frame if not frame["trade_id"].any() else self._tape.new(frame))
        return joined([words(np.ascontiguousarray(frame)) for frame in kept])
