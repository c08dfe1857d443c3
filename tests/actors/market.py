"""A simulated market that runs beside a test, and a reader of a fleet's windows."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from actors import fleet
from actors.collector import CollectorSpec
from actors.connection import ConnectionConfig
from actors.plan import FleetConfig, plan
from actors.spool import SpoolConfig
from actors.store import Store
from market.products import product
from sim.exchange import Exchange, ExchangeConfig
from tests.actors.wire import Windows, rebuilt_windows

LIMIT_S = 60.0


@contextmanager
def market(ids: tuple[str, ...], speed: float) -> Iterator[str]:
    """Run the simulated exchange in a thread of its own; yield its address."""
    started: list[str] = []
    ready, over = threading.Event(), threading.Event()

    async def run() -> None:
        async with Exchange(ExchangeConfig(products=ids, speed=speed)) as exchange:
            started.append(exchange.url)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert ready.wait(LIMIT_S)
        yield started[0]
    finally:
        over.set()
        thread.join(LIMIT_S)


def specs(
    url: str, root: str | None, ids: tuple[str, ...], config: FleetConfig
) -> list[CollectorSpec]:
    """What the collectors of a fleet are told, in a test."""
    return [
        CollectorSpec(
            name=fleet.name_of(place),
            url=url,
            groups=groups,
            root=root,
            connection=ConnectionConfig(max_backoff_s=0.1),
            spool=SpoolConfig(segment_s=2.0),
        )
        for place, groups in enumerate(plan(tuple(product(i) for i in ids), config))
    ]


def wait_for(what: Callable[[], Any]) -> Any:
    """Wait until there is an answer that holds, and return it; never for ever."""
    until = time.monotonic() + LIMIT_S
    while not (answer := what()):
        assert time.monotonic() < until, what
        time.sleep(0.05)
    return answer


class Consumer:
    """Reads the windows of a fleet until all of its collectors have been stopped."""

    def __init__(self, actors: dict[str, Any]) -> None:
        self.windows: dict[str, list[np.ndarray]] = {}
        self._actors = actors
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def valid(self, product_id: str) -> int:
        """How many valid windows of a product have come."""
        return sum(int(w["valid"].sum()) for w in list(self.windows.get(product_id, [])))

    def all(self) -> Windows:
        """Wait until the streams have ended; return all that came."""
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        return {product_id: np.concatenate(found) for product_id, found in self.windows.items()}

    async def _run(self) -> None:
        async for closed in fleet.windows(self._actors):
            for product_id, windows in closed:
                self.windows.setdefault(product_id, []).append(windows)


def assert_recorded(store: Store, streamed: Windows) -> None:
    """Every window that was streamed is in the recording, bit for bit."""
    rebuilt = rebuilt_windows(store)
    for product_id, windows in streamed.items():
        recorded = rebuilt[product_id]
        at = np.searchsorted(recorded["beat"], windows["beat"])
        assert (recorded["beat"][at] == windows["beat"]).all()
        for name in windows.dtype.names or ():
            np.testing.assert_array_equal(recorded[name][at], windows[name], err_msg=name)
