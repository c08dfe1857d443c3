"""The recorder: which rows go to which partition and session, cut without loss.

A partition is one UTC day of the event clock. At midnight the book, if it is known, is written as a
carried snapshot at the head of the next partition, so that each partition rebuilds its book alone
and no beat is lost at the border. Where the rows then go is up to a sink: `Parts` for imports, the
spool for what is received live.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actors.commit import Piece, commit
from actors.raw import DAY_NS, day_of
from actors.store import Store
from market.events import EVENT, Kind, mark
from market.products import Product
from market.windows import WindowBuilder

PART_ROWS = 200_000
PART_NS = 15 * 60 * 1_000_000_000  # Of event time, so that the same frames make the same parts.
# Of all products together, before all of them are written; and once more, being written.
_WAITING_ROWS = 4_000_000

Counts = dict[str, int]


class Sink(Protocol):
    """Where rows go: those of a session in order, whole frames at a time."""

    def put(
        self,
        product: Product,
        day: str,
        session_ns: int,
        rows: NDArray[np.void],
        counts: Counts | None,
    ) -> None:
        """Take rows (EVENT[n]) of the session that began at `session_ns`.

        `counts` are the session's so far; None where they were not looked up.
        """


class Recorder:
    """Cuts the events of several products into days and sessions.

    `counts_of` gives a product's counters so far, of which each session keeps what was counted
    while it was recorded. They are looked up at marks only, of which every beat brings one.
    """

    def __init__(
        self, sink: Sink, counts_of: Callable[[str], Counts] = lambda product_id: {}
    ) -> None:
        self._sink = sink
        self._counts_of = counts_of
        self._open: dict[str, _Session] = {}
        self.rows = 0

    def add(self, product: Product, events: NDArray[np.void], builder: WindowBuilder) -> None:
        """Take the next events of a product; `builder` holds its book as it was before them.

        Raises what the sink raises.
        """
        first_ns = events["ns"].item(0)
        self.reach(product, first_ns, builder)
        session = self._open.get(product.id) or self._begin(product, first_ns)
        self._put(product, session, events)
        self.rows += len(events)
        if events["kind"].item(-1) == Kind.END:
            del self._open[product.id]

    def reach(self, product: Product, ns: int, builder: WindowBuilder) -> None:
        """End the days before `ns`, if one is open, with the book as it is before that time."""
        session = self._open.get(product.id)
        while session and ns >= session.end_ns:
            midnight_ns = session.end_ns
            border = np.array([mark(Kind.CLOCK, midnight_ns, 0)], EVENT)
            self._put(product, session, border)
            carried = builder.carried(midnight_ns, 0)
            session = self._begin(product, midnight_ns)
            self._put(product, session, carried if len(carried) else border)

    def _begin(self, product: Product, ns: int) -> "_Session":
        session = _Session(ns, self._counts_of(product.id))
        self._open[product.id] = session
        return session

    def _put(self, product: Product, session: "_Session", events: NDArray[np.void]) -> None:
        counts = None
        if events["kind"].item(-1) >= Kind.UNSYNC:
            before = session.counted_before
            counts = {k: n - before.get(k, 0) for k, n in self._counts_of(product.id).items()}
        self._sink.put(product, session.day, session.ns, events, counts)


class _Session:
    """One unbroken recording of a product into a day."""

    def __init__(self, ns: int, counted_before: Counts) -> None:
        self.ns = ns
        self.day = day_of(ns)
        self.end_ns = (ns // DAY_NS + 1) * DAY_NS
        self.counted_before = counted_before


class Parts:
    """The sink of imports: keeps rows in memory and writes them as parts, the same each time.

    `part_rows` bounds how much of a product is held before it is written. One thread writes.
    """

    def __init__(self, store: Store, source: str, part_rows: int = PART_ROWS) -> None:
        self._store = store
        self._source = source
        self._part_rows = part_rows
        self._held: dict[str, _Held] = {}
        self._held_rows = 0
        self._failed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parts")
        self._writes: deque[tuple[Future[None], int]] = deque()  # With their rows.
        self._queued_rows = 0

    def put(
        self,
        product: Product,
        day: str,
        session_ns: int,
        rows: NDArray[np.void],
        counts: Counts | None,
    ) -> None:
        """Take rows; QuaverError, possibly of an earlier write, if the root does not take them."""
        self._raise_failed(_WAITING_ROWS)
        held = self._held.get(product.id)
        if held is None or (held.day, held.session_ns) != (day, session_ns):
            if held:
                self._write(held)
            held = self._held[product.id] = _Held(product, day, session_ns)
        if not held.rows:
            held.since_ns = rows["ns"].item(0)
        held.rows.append(rows.tobytes())  # A slice would keep all that was decoded with it.
        held.count += len(rows)
        self._held_rows += len(rows)
        held.counts = counts or held.counts
        if held.count >= self._part_rows or rows["ns"].item(-1) - held.since_ns >= PART_NS:
            self._write(held)
        elif self._held_rows >= _WAITING_ROWS:
            for one in self._held.values():
                self._write(one)

    def close(self) -> None:
        """Write what is left and wait for it; QuaverError if the root did not take it all."""
        for held in self._held.values():
            self._write(held)
        self._held.clear()
        self._thread.shutdown(wait=True)
        self._raise_failed(0)

    def _write(self, held: "_Held") -> None:
        if not held.count:
            return
        rows = np.frombuffer(b"".join(held.rows), EVENT)
        self._held_rows -= held.count
        piece = Piece(
            product=held.product,
            day=held.day,
            session=f"{held.session_ns:020d}",
            source=self._source,
            number=held.number,
            rows=rows,
            counts=held.counts,
        )
        held.rows, held.count, held.number = [], 0, held.number + 1
        self._writes.append((self._thread.submit(self._commit, piece), len(rows)))
        self._queued_rows += len(rows)

    def _commit(self, piece: Piece) -> None:
        # Nothing follows a part that could not be written: without it the rest is of no use.
        if not self._failed:
            self._failed = True
            commit(self._store, piece)
            self._failed = False

    def _raise_failed(self, waiting_rows: int) -> None:
        """Raise what made a write fail; wait until at most so many rows are being written."""
        while self._writes and (self._queued_rows > waiting_rows or self._writes[0][0].done()):
            write, rows = self._writes.popleft()
            self._queued_rows -= rows
            write.result()


class _Held:
    """What is not written yet of a product."""

    def __init__(self, product: Product, day: str, session_ns: int) -> None:
        self.product = product
        self.day = day
        self.session_ns = session_ns
        self.number = 0
        self.rows: list[bytes] = []
        self.count = 0
        self.since_ns = 0
        self.counts: Counts = {}
