"""S3 that is killed, away, silent or wrongly named: recording goes on, nothing is lost or twice."""

import asyncio
import selectors
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from botocore.config import Config

from actors import s3
from actors.collector import Collector, CollectorSpec
from actors.connection import ConnectionConfig
from actors.plan import in_one
from actors.raw import partitions, read_manifest
from actors.spool import SpoolConfig, spool_folder
from actors.status import CollectorStatus
from actors.store import Store
from market.errors import QuaverError
from market.products import product
from sim.exchange import Exchange, ExchangeConfig
from tests.actors.test_store import FILE, METHODS
from tests.actors.wire import BTC, ETH, assert_same_windows, rebuilt_windows
from tests.s3 import S3Server

pytestmark = pytest.mark.slow


IDS = (BTC, ETH)
LIMIT_S = 60.0
SPOOL = SpoolConfig(flush_s=0.05, segment_s=0.3)
T = TypeVar("T")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.mover._FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr("actors.mover._MAX_BACKOFF_S", 0.2)


class Gate:
    """A port that leads to a server; while it is shut, it accepts and nothing comes through."""

    def __init__(self, server: str) -> None:
        host, port = server.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.open = threading.Event()
        self.waiting = threading.Event()  # Set by whoever had to wait.
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    @contextmanager
    def serve(self) -> Iterator["Gate"]:
        """Serve until the end of the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self.open.set()
            self._thread.join(LIMIT_S)
            self._listening.close()

    def _serve(self) -> None:
        """Pass on what comes, in one thread; each pair of sockets leads to its other half."""
        with selectors.DefaultSelector() as ready:
            ready.register(self._listening, selectors.EVENT_READ)
            while not self._over.is_set():
                for key, _ in ready.select(0.05):
                    if key.fileobj is self._listening:
                        pair = (self._listening.accept()[0], socket.create_connection(self._server))
                        for one, other in (pair, pair[::-1]):
                            ready.register(one, selectors.EVENT_READ, other)
                    else:
                        self._pass(ready, key)
            for key in list(ready.get_map().values()):
                if key.data:
                    key.fileobj.close()  # type: ignore[union-attr]

    def _pass(self, ready: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        if not self.open.is_set():
            self.waiting.set()
            self.open.wait()
        data = b""
        with suppress(OSError):
            data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
            key.data.sendall(data)
        if not data:
            for one in (key.fileobj, key.data):
                ready.unregister(one)
                one.close()  # type: ignore[union-attr]


async def wait_for(what: Callable[[], Awaitable[T]]) -> T:
    """Wait until there is an answer that holds, and return it; never for ever."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            if answer := await what():
                return answer
            await asyncio.sleep(0.02)


class Recording:
    """A collector of a simulated market that goes on until the block ends, and its consumer."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.windows: dict[str, list[np.ndarray]] = {product_id: [] for product_id in IDS}

    async def consume(self) -> None:
        async for closed in self.collector.stream():
            for product_id, windows in closed:
                self.windows[product_id].append(windows)

    async def until(self, true: Callable[[CollectorStatus], bool]) -> CollectorStatus:
        """Wait for a status; never for a root, whatever that does, nor is much in memory."""

        async def told() -> CollectorStatus | None:
            status = await self.collector.status()
            assert status.spool and status.spool.buffered_rows < 100_000  # Two whole books.
            assert not status.overflowing
            return status if true(status) else None

        return await wait_for(told)  # type: ignore[return-value]

    async def beats(self, n: int) -> None:
        """Wait until every product has had so many more windows."""
        wanted = {i: len(found) + n for i, found in self.windows.items()}

        async def come() -> bool:
            return all(len(self.windows[i]) >= wanted[i] for i in IDS)

        await wait_for(come)


@asynccontextmanager
async def recording(root: str) -> AsyncIterator[Recording]:
    """Record into a root; at the end, all of it has to be there, once."""
    async with Exchange(ExchangeConfig(products=IDS, speed=20.0)) as exchange:
        spec = CollectorSpec(
            name="collector",
            url=exchange.url,
            groups=in_one([product(i) for i in IDS]),
            root=root,
            connection=ConnectionConfig(max_backoff_s=0.1),
            spool=SPOOL,
        )
        began = time.monotonic()
        running = Recording(Collector(spec))
        assert time.monotonic() - began < 5
        running.collector.start()
        consuming = asyncio.create_task(running.consume())
        try:
            yield running
        finally:
            await running.collector.stop()
            await consuming
        status = await running.collector.status()
        assert_all_there(Store(root), running, status)


def assert_all_there(store: Store, running: Recording, status: CollectorStatus) -> None:
    live = {product_id: np.concatenate(found) for product_id, found in running.windows.items()}
    assert_same_windows(rebuilt_windows(store), live)
    rows = 0
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert manifest is not None
        (session,) = manifest.sessions
        assert session.gaps == []
        rows += sum(part.rows for part in session.parts)
        listed = [part.name for part in session.parts]
        lies = [p for p in store.files(f"raw/product={product_id}") if p.endswith(".parquet")]
        assert sorted(Path(p).name for p in lies) == listed
    assert rows == status.rows
    assert status.gaps == {} and status.spool and status.spool.last_error is None
    assert not [p for p in spool_folder(store, SPOOL).rglob("*") if p.suffix == ".seg"]


def moved(status: CollectorStatus) -> bool:
    """Whether all but what is being written is under the root."""
    return bool(status.spool and status.spool.segments == 1 and status.spool.moved_parts)


def waits(status: CollectorStatus) -> bool:
    """Whether segments wait for a root of which it is said that it is away."""
    said = status.spool and status.spool.last_error
    return bool(said and "cannot move" in said and "s3://" in said and status.spool.segments > 3)


@pytest.mark.slow
def test_a_server_that_is_killed_costs_a_recording_nothing(
    s3_root: str, s3_server: S3Server
) -> None:
    async def test() -> None:
        async with recording(s3_root) as running:
            await running.until(moved)
            for _ in range(2):
                await asyncio.to_thread(s3_server.kill9)
                try:
                    status = await running.until(waits)
                    assert status.spool and status.spool.spool_bytes > 0
                    await running.beats(5)
                    after = await running.until(waits)
                    assert after.spool and after.spool.moved_parts == status.spool.moved_parts
                finally:
                    await asyncio.to_thread(s3_server.restart)
                status = await running.until(lambda s: moved(s) and not s.spool.last_error)
            await running.beats(2)

    asyncio.run(test())


@pytest.mark.slow
def test_a_collector_starts_while_its_server_is_away(s3_root: str, s3_server: S3Server) -> None:
    async def test() -> None:
        await asyncio.to_thread(s3_server.kill9)
        try:
            async with recording(s3_root) as running:
                status = await running.until(waits)
                assert status.spool and status.spool.moved_parts == 0
                await running.beats(3)
                await asyncio.to_thread(s3_server.restart)
                await running.until(moved)
        finally:
            if not s3_server.running:
                await asyncio.to_thread(s3_server.restart)

    asyncio.run(test())


@pytest.mark.slow
def test_neither_reading_nor_status_waits_for_a_server_that_is_silent(
    s3_root: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        with Gate(s3_server.url).serve() as gate:
            monkeypatch.setenv("AWS_ENDPOINT_URL", gate.url)
            async with recording(s3_root) as running:  # It is silent from the start.
                for _ in range(2):
                    await asyncio.to_thread(gate.waiting.wait, LIMIT_S)
                    before = await running.collector.status()
                    await running.beats(5)
                    after = await running.until(lambda s: s.spool.segments > 3)
                    assert after.rows > before.rows
                    assert after.spool.moved_parts == before.spool.moved_parts
                    gate.open.set()
                    await running.until(moved)
                    gate.open.clear()
                    gate.waiting.clear()
                gate.open.set()

    asyncio.run(test())


# A store by itself.


@contextmanager
def silent_server() -> Iterator[str]:
    """A port that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def no_server() -> Iterator[str]:
    """A port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "REGION": "r"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_silent_server_makes_a_call_fail_in_time(
    keys: None, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    given = s3.CONFIG
    assert (given.connect_timeout, given.read_timeout) == (5, 30)
    assert given.retries["total_max_attempts"] * (5 + 30) <= 110
    quick = Config(read_timeout=1.0, retries={"total_max_attempts": 1})
    monkeypatch.setattr(s3, "CONFIG", quick)
    with silent_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        began = time.monotonic()
        store = Store("s3://bucket/prefix")
        with pytest.raises(QuaverError, match="can be reached"):
            METHODS[method](store)
        assert time.monotonic() - began < 15


@pytest.mark.parametrize("server", [silent_server, no_server])
def test_a_root_that_is_away_is_no_mistake(
    keys: None,
    monkeypatch: pytest.MonkeyPatch,
    server: Callable[[], AbstractContextManager[str]],
) -> None:
    given = s3.CHECK_CONFIG
    assert given.connect_timeout + given.read_timeout < 10
    assert given.retries["total_max_attempts"] == 1
    quick = Config(read_timeout=0.2, retries={"total_max_attempts": 1})
    monkeypatch.setattr(s3, "CHECK_CONFIG", quick)
    with server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert url in (Store("s3://bucket/prefix").check() or "")


def test_a_root_that_is_there_is_found_so(root: str) -> None:
    store = Store(root)
    assert store.check() is None
    store.write(FILE, b"data")
    assert store.check() is None


@pytest.mark.slow
def test_a_wrong_bucket_and_wrong_keys_are_mistakes(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QuaverError, match=r"s3://nothing-of-this-name/x: .*[Bb]ucket"):
        Store("s3://nothing-of-this-name/x").check()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    with pytest.raises(QuaverError, match="the rights") as caught:
        Store(s3_root).check()
    assert "a-wrong-secret" not in str(caught.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(QuaverError, match="credentials"):
        Store(s3_root).check()
