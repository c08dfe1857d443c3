"""The collector: a Ray actor with the websockets, books and windows of a group of products.

Reading never waits for storage: rows go to the spool's buffer, and the windows of a beat are given
to their consumer once the rows that closed them are on disk. They stream one item per beat and
websocket, so that the cost of crossing a process border is paid once for all its products.
"""

import asyncio
import logging
import os
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
import numpy as np
from numpy.typing import NDArray

from actors.connection import Connection, ConnectionConfig
from actors.connection_config import SIMULATED_SERVER
from actors.formats import FORMATS
from actors.latency import Latency
from actors.plan import Group
from actors.quarantine import Quarantine, QuarantineConfig
from actors.raw import SIMULATED
from actors.reader import Events, Reader
from actors.recorder import Recorder
from actors.spool import Spool, SpoolConfig, spool_folder
from actors.status import CollectorStatus, ProductStatus
from actors.store import Store
from actors.stream import ProductStream
from market.events import EVENT, Kind, Reason, mark
from market.products import Product
from market.windows import WINDOW

# Windows closed together: (product id, WINDOW[n]) of every product of a connection.
Closed = list[tuple[str, NDArray[np.void]]]

STOP_PATIENCE_S = 20.0  # For the root to take what is left; the spool keeps what it did not take.
_WAITING_ITEMS = 2_000  # Beats kept for a slow consumer; beyond, the oldest are dropped.
_TRADE = int(Kind.TRADE)
_PROBLEMS = 20  # The newest of them are in the status.
_log = logging.getLogger(__name__)


class CollectorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that a collector does; two that are equal do the same."""

    name: str
    url: str
    groups: tuple[Group, ...]  # The products of each websocket.
    wire_format: str = "coinbase-advanced"
    root: str | None = None  # None: nothing is recorded.
    source: str | None = None  # Where the frames come from; None: `url`, or as its server says.
    connection: ConnectionConfig = ConnectionConfig()
    spool: SpoolConfig = SpoolConfig()
    quarantine: QuarantineConfig = QuarantineConfig()


class Collector:
    """Keeps a group of products from the wire to windows; `actors.fleet` puts it into Ray."""

    def __init__(self, spec: CollectorSpec) -> None:
        """Take what `spec` says; nothing is opened but the spool before `start`."""
        self.spec = spec
        self._latency = Latency()
        self._started_ns = time.time_ns()
        self._reader_of: dict[str, Reader] = {}
        self._products: dict[str, Product] = {p.id: p for group in spec.groups for p in group}
        self._spool: Spool | None = None
        self._recorder: Recorder | None = None
        self._quarantine: Quarantine | None = None
        if spec.root:
            store = Store(spec.root)
            self._spool = Spool(store, spec.source or spec.url, spec.name, spec.spool)
            self._recorder = Recorder(self._spool, self._counts_of)
            folder = spool_folder(store, spec.spool) / "quarantine"
            self._quarantine = Quarantine(store, folder, spec.name, spec.quarantine)
        self._streams = {
            p: ProductStream(self._recorder, self._products[p]) for p in self._products
        }
        self._broken: dict[str, str] = {}
        self._overflowing = False
        self._waiting: deque[Closed] = deque(maxlen=_WAITING_ITEMS)
        self._news = asyncio.Event()
        self._counts: Counter[str] = Counter()
        self._gaps: Counter[str] = Counter()
        self._frames = 0  # Frames and lost connections.
        self._updates = dict.fromkeys(self._products, 0)
        self._recv_ns = dict.fromkeys(self._products, 0)
        self._problems: deque[str] = deque(maxlen=_PROBLEMS)
        self._readers: list[Reader] = []
        self._connections = [self._connection(group) for group in spec.groups]
        self._reading: list[asyncio.Task[None]] = []
        self._run: asyncio.Task[None] | None = None
        self._ended = False
        self._consumer = 0  # The newest caller of `stream`.

    def start(self) -> None:
        """Connect and begin to record, in the event loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._reading = [asyncio.create_task(c.run()) for c in self._connections]
        self._run = asyncio.create_task(self._collect())

    async def stream(self) -> AsyncIterator[Closed]:
        """Yield the windows of each beat as they close, until the market ends or `stop`.

        There is one consumer: a new one takes over, and the generator of the one before ends.
        Raises what made collecting fail.
        """
        self._consumer += 1
        me = self._consumer
        self._news.set()
        while me == self._consumer:
            while self._waiting and me == self._consumer:
                yield self._waiting.popleft()
            if self._ended:
                await self.finished()
                return
            self._news.clear()
            await self._news.wait()

    async def finished(self) -> None:
        """Wait until collecting is over and everything is written; raise what went wrong."""
        if self._run:
            await asyncio.wait([self._run])
            if not self._run.cancelled():
                self._run.result()

    async def stop(self) -> None:
        """Stop reading and write what is left; raise what went wrong.

        Only the reading is cancelled: writing what is left goes on to its end.
        """
        for reading in self._reading:
            reading.cancel()
        await self.finished()

    async def status(self) -> CollectorStatus:
        """Return what can be known of this collector."""
        counts: Counter[str] = Counter(self._counts)
        for reader in self._readers:
            counts += reader.counts
        return CollectorStatus(
            name=self.spec.name,
            pid=os.getpid(),
            started_ns=self._started_ns,
            at_ns=time.time_ns(),
            clock_ns=max((s.builder.clock_ns for s in self._streams.values()), default=0),
            connections=[connection.status() for connection in self._connections],
            products={p: self._product_status(p) for p in self._products},
            counts=dict(counts),
            gaps=dict(self._gaps),
            frames=self._frames - counts["disconnects"],
            rows=self._recorder.rows if self._recorder else 0,
            latency=self._latency.copy(),
            waiting_items=len(self._waiting),
            quarantine_left_out=self._quarantine.left_out if self._quarantine else 0,
            spool=self._spool.status() if self._spool else None,
            overflowing=self._overflowing,
            problems=list(self._problems),
            ended=self._ended,
        )

    def _product_status(self, product_id: str) -> ProductStatus:
        broken = self._broken.get(product_id)
        return ProductStatus(
            synced=broken is None and self._streams[product_id].builder.synced,
            recv_ns=self._recv_ns[product_id],
            updates=self._updates[product_id],
            broken=broken,
        )

    def _connection(self, group: Group) -> Connection:
        products = {p.id: p for p in group}
        reader = Reader(FORMATS[self.spec.wire_format], products)
        self._readers.append(reader)
        self._reader_of |= dict.fromkeys(products, reader)

        def on_events(events: Events) -> None:
            self._apply(events)
            if reader.corrupt:
                self._set_aside(reader)

        return Connection(
            self.spec.url,
            list(products),
            reader,
            on_events,
            self._synced,
            self.spec.connection,
            on_server=self._on_server,
            paused=lambda: self._overflowing,
        )

    def _on_server(self, name: str) -> None:
        """Have the recording say so if a server is simulated; it does not unlearn it."""
        if name == SIMULATED_SERVER and self._spool and self.spec.source is None:
            self._spool.source = f"{SIMULATED} at {self.spec.url}"

    async def _collect(self) -> None:
        try:
            await asyncio.gather(*self._reading)
        finally:
            for reading in self._reading:
                reading.cancel()
            try:
                await self._write_the_rest()
            finally:
                self._ended = True
                self._news.set()

    async def _write_the_rest(self) -> None:
        for reader in self._readers:
            self._feed(reader.ended(0))
        if self._spool and self._quarantine:
            await asyncio.to_thread(self._spool.close, STOP_PATIENCE_S)
            await asyncio.to_thread(self._quarantine.close, STOP_PATIENCE_S)

    def _apply(self, events: Events) -> None:
        """Take what one frame brought."""
        self._frames += 1
        if self._overflows():
            return
        self._feed(events)
        if events:
            newest = events[-1][1]  # Marks come before what a frame brings.
            if newest["kind"].item(-1) <= _TRADE:
                self._latency.add(time.time_ns() - newest["ns"].item(-1))

    def _feed(self, events: Events) -> None:
        closed: Closed = []
        for product_id, rows in events:
            if product_id not in self._broken:
                windows = self._fed(product_id, rows)
                if len(windows):
                    closed.append((product_id, windows))
        if not closed:
            return
        if self._spool is None:
            self._release(closed)
            return

        def on_disk() -> None:
            with suppress(RuntimeError):  # The loop is closed: nobody waits for windows any more.
                self._loop.call_soon_threadsafe(self._release, closed)

        self._spool.flush(on_disk)

    def _fed(self, product_id: str, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Feed one product's rows of a frame; return the windows they closed."""
        stream = self._streams[product_id]
        was_synced = stream.builder.synced
        try:
            windows = stream.apply(rows)
        except ValueError as e:
            self._break(product_id, str(e))
            return np.zeros(0, WINDOW)
        if was_synced and not stream.builder.synced:
            reason = stream.builder.reason
            if reason:  # At the end it is lost for no reason.
                self._gaps[reason.name.lower()] += 1
        if rows["kind"].item(0) <= _TRADE:
            self._updates[product_id] += len(rows)
            self._recv_ns[product_id] = rows["recv_ns"].item(-1)
        return windows

    def _release(self, closed: Closed) -> None:
        """Give windows to the consumer."""
        for _, windows in closed:
            self._counts["windows"] += len(windows)
            self._counts["valid windows"] += int(windows["valid"].sum())
        if len(self._waiting) == _WAITING_ITEMS:
            self._counts["items dropped for a slow consumer"] += 1
        self._waiting.append(closed)
        self._news.set()

    def _overflows(self) -> bool:
        """Whether there is no room for rows; then neither recording nor books get them."""
        full = self._spool is not None and self._spool.full
        if full and not self._overflowing:
            self._complain("the spool is full: frames are dropped until there is room again")
            for product_id in self._products.keys() - self._broken.keys():
                self._unsync(product_id)
        elif self._overflowing and not full:
            self._complain("the spool has room again: every book is asked for")
        self._overflowing = full
        return full

    def _unsync(self, product_id: str) -> None:
        """Record that a book is lost for want of room."""
        clock_ns = self._streams[product_id].builder.clock_ns
        if clock_ns:
            row = mark(Kind.UNSYNC, clock_ns, time.time_ns(), Reason.OVERFLOW)
            self._feed([(product_id, np.array([row], EVENT))])

    def _break(self, product_id: str, why: str) -> None:
        """Give up one product whose row was refused, which is a fault of this program."""
        self._broken[product_id] = why
        self._gaps["broken"] += 1
        self._streams[product_id].give_up(time.time_ns())
        self._complain(f"{product_id} is not collected any more, please report this: {why}")

    def _complain(self, what: str) -> None:
        self._problems.append(what)
        _log.error("%s: %s", self.spec.name, what)

    def _set_aside(self, reader: Reader) -> None:
        """Take the corrupt frames out of a reader."""
        for recv_ns, reason, frame in reader.corrupt:
            if self._quarantine:
                self._quarantine.keep(recv_ns, reason, frame)
        reader.corrupt.clear()

    def _synced(self, product_id: str) -> bool:
        """Whether nothing is to be asked for: the book is known, or given up."""
        return product_id in self._broken or self._streams[product_id].builder.synced

    def _counts_of(self, product_id: str) -> dict[str, int]:
        return self._reader_of[product_id].counts_of(product_id)
