"""The collector: a Ray actor with the websocket, books and windows of a group of products.

It records raw partitions and streams the windows it closes, one item per beat, so that the cost of
crossing a process border is paid once for all its products.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from actors.advanced_trade import decoder
from actors.connection import MAX_LEVEL2_PRODUCTS, Connection, ConnectionConfig
from actors.reader import Events, Reader
from actors.recorder import Parts, Recorder, keep_corrupt
from actors.store import Store
from actors.stream import ProductStream
from market.products import Product

# Windows closed together: (product id, WINDOW[n]) of every product of a connection.
Closed = list[tuple[str, NDArray[np.void]]]

_WAITING_ITEMS = 2_000  # Beats kept for a slow consumer; beyond, the oldest are dropped.


class Collector:
    """Keeps a group of products from the wire to windows; `CollectorActor` puts it into Ray."""

    def __init__(
        self,
        url: str,
        products: list[Product],
        root: str | None,
        config: ConnectionConfig,
        source: str | None = None,
    ) -> None:
        """Collect from `url`; record under `root`, if one is given, as coming from `source`."""
        self._store = Store(root) if root else None
        self._parts = Parts(self._store, source or url) if self._store else None
        self._recorder = Recorder(self._parts, self._counts_of) if self._parts else None
        self._streams = {p.id: ProductStream(self._recorder, p) for p in products}
        self._waiting: deque[Closed] = deque(maxlen=_WAITING_ITEMS)
        self._news = asyncio.Event()
        self._counts: Counter[str] = Counter()
        self._reader_of: dict[str, Reader] = {}
        self._readers: list[Reader] = []
        self._connections: list[Connection] = []
        for start in range(0, len(products), MAX_LEVEL2_PRODUCTS):
            group = {p.id: p for p in products[start : start + MAX_LEVEL2_PRODUCTS]}
            reader = Reader(decoder, group)
            self._readers.append(reader)
            self._reader_of |= dict.fromkeys(group, reader)
            self._connections.append(
                Connection(url, list(group), reader, self._apply, self._synced, config)
            )
        self._reading: list[asyncio.Task[None]] = []
        self._run: asyncio.Task[None] | None = None
        self._ended = False
        self._consumer = 0  # The newest caller of `stream`.

    async def start(self) -> None:
        """Connect and begin to record; returns at once."""
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

    async def status(self) -> dict[str, Any]:
        """Return counts of the readers and of the windows, and each connection's state."""
        counts: Counter[str] = Counter(self._counts)
        for reader in self._readers:
            counts += reader.counts
        synced = sum(stream.builder.synced for stream in self._streams.values())
        return {
            "connections": [connection.state.value for connection in self._connections],
            "last_error": next((c.last_error for c in self._connections if c.last_error), None),
            "synced": synced,
            "products": len(self._streams),
            "rows": self._recorder.rows if self._recorder else 0,
            "clock_ns": max(s.builder.clock_ns for s in self._streams.values()),
            "counts": dict(counts),
            "ended": self._ended,
        }

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
        try:
            for reader in self._readers:
                for ended in reader.ended(0):
                    with suppress(ValueError):  # A book that refused a row has said why before.
                        self._apply([ended])
        finally:
            if self._store and self._parts:
                await asyncio.to_thread(self._parts.close)
                for reader in self._readers:
                    keep_corrupt(self._store, "live", reader.corrupt)

    def _apply(self, events: Events) -> None:
        closed: Closed = []
        for product_id, rows in events:
            windows = self._streams[product_id].apply(rows)
            if len(windows):
                closed.append((product_id, windows))
                self._counts["windows"] += len(windows)
                self._counts["valid windows"] += int(windows["valid"].sum())
        if closed:
            if len(self._waiting) == _WAITING_ITEMS:
                self._counts["items dropped for a slow consumer"] += 1
            self._waiting.append(closed)
            self._news.set()

    def _synced(self, product_id: str) -> bool:
        return self._streams[product_id].builder.synced

    def _counts_of(self, product_id: str) -> dict[str, int]:
        return self._reader_of[product_id].counts_of(product_id)


CollectorActor = ray.remote(num_cpus=0, max_concurrency=16)(Collector)
