"""Collector and connection against real websockets on loopback: nothing invented, nothing lost."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.collector import Collector
from actors.connection import ConnectionConfig
from actors.raw import partitions, read_manifest
from actors.reader import Events, Reader
from actors.recorder import Parts
from actors.store import Store
from market.errors import QuaverError
from market.products import UNIVERSE, product
from market.windows import WINDOW
from sim.exchange import Exchange, ExchangeConfig
from tests.actors.venue import LIMIT_S, Client, Venue, ends, normal, play
from tests.actors.wire import (
    BEAT_NS,
    BTC,
    DAYS,
    ETH,
    MIDNIGHT_NS,
    SECOND_NS,
    START_NS,
    Advanced,
    Windows,
    assert_same_windows,
    rebuilt_windows,
)

IDS = (BTC, ETH)
CONFIG = ConnectionConfig(silence_s=5.0, snapshot_s=5.0, max_backoff_s=0.01, follow_end=True)


def collector(
    url: str,
    root: Path | None = None,
    ids: tuple[str, ...] = IDS,
    config: ConnectionConfig = CONFIG,
) -> Collector:
    return Collector(url, [product(i) for i in ids], str(root) if root else None, config)


async def streamed(collector: Collector, ids: tuple[str, ...] = IDS) -> Windows:
    """Start, and return every window until the market ends."""
    found = {product_id: [np.zeros(0, WINDOW)] for product_id in ids}
    await collector.start()
    async for closed in collector.stream():
        for product_id, windows in closed:
            found[product_id].append(windows)
    await collector.finished()
    return {product_id: np.concatenate(windows) for product_id, windows in found.items()}


def reasons(store: Store, product_id: str = BTC, day: str = DAYS[0]) -> list[str]:
    manifest = read_manifest(store, product_id, day)
    assert manifest is not None
    return [gap.reason for session in manifest.sessions for gap in session.gaps]


def after(config: ConnectionConfig = CONFIG, **changes: Any) -> ConnectionConfig:
    fields = {f: getattr(config, f) for f in config.__struct_fields__}
    return ConnectionConfig(**fields | changes)


# Against the simulated exchange.


def simulated(**changes: Any) -> Exchange:
    return Exchange(ExchangeConfig(products=IDS, speed=None, **changes))


def test_windows_streamed_live_equal_those_rebuilt_from_what_was_recorded(tmp_path: Path) -> None:
    async def test() -> None:
        async with simulated(duration_s=80.0, start_ns=MIDNIGHT_NS - 40 * SECOND_NS) as exchange:
            ours = collector(exchange.url, tmp_path)
            live = await streamed(ours)
            books = {product_id: exchange.book(product_id) for product_id in IDS}
            status = await ours.status()
        store = Store(str(tmp_path))
        assert partitions(store) == [(i, day) for i in IDS for day in DAYS]
        assert_same_windows(rebuilt_windows(store), live)
        first = (MIDNIGHT_NS - 40 * SECOND_NS) // BEAT_NS
        for product_id, windows in live.items():
            assert windows["beat"].tolist() == list(range(first, first + 20))
            assert windows["valid"].tolist() == [False] + [True] * 19
            # The last window ends with the exchange's own book.
            bids, asks = books[product_id]
            assert (windows["bid"][-1], windows["ask"][-1]) == (max(bids), min(asks))
            assert windows["trades"].sum() > 0
        assert status["connections"] == ["closed by venue"]
        assert (status["ended"], status["counts"]["windows"]) == (True, 40)
        assert status["counts"].get("gaps", 0) == status["counts"].get("corrupt", 0) == 0
        assert reasons(store) == []

    play(test)


def test_a_lost_frame_is_noticed_and_every_book_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = Reader.frame, 0

    def losing(self: Reader, data: bytes, recv_ns: int) -> Events:
        nonlocal seen
        seen += 1
        return [] if seen == 60 else read(self, data, recv_ns)

    monkeypatch.setattr(Reader, "frame", losing)

    async def test() -> None:
        async with simulated(duration_s=300.0) as exchange:
            ours = collector(exchange.url, tmp_path)
            live = await streamed(ours)
            status = await ours.status()
        assert status["counts"]["gaps"] == status["counts"]["missing frames"] == 1
        assert_same_windows(rebuilt_windows(Store(str(tmp_path))), live)
        for windows in live.values():
            invalid = np.flatnonzero(~windows["valid"])
            # The first beat, and those from the lost frame to the beat of the new snapshot.
            assert invalid[0] == 0 and 1 < invalid[1]
            assert invalid[1:].tolist() == list(range(invalid[1], invalid[-1] + 1))
            assert invalid[-1] < len(windows) - 1

    play(test)


def test_a_collector_without_a_root_records_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with simulated(duration_s=20.0) as exchange:
            ours = collector(exchange.url)
            live = await streamed(ours)
            assert (await ours.status())["rows"] == 0
        assert [len(windows) for windows in live.values()] == [5, 5]

    play(test)


def test_stopping_writes_what_was_read_and_ends_the_stream(tmp_path: Path) -> None:
    async def test() -> None:
        async with simulated() as exchange:  # It would go on for ever.
            ours = collector(exchange.url, tmp_path)
            await ours.start()
            found: dict[str, list[np.ndarray]] = {product_id: [] for product_id in IDS}
            async for closed in ours.stream():
                for product_id, windows in closed:
                    found[product_id].append(windows)
                if len(found[BTC]) == 5:
                    await ours.stop()
        live = {product_id: np.concatenate(windows) for product_id, windows in found.items()}
        assert_same_windows(rebuilt_windows(Store(str(tmp_path))), live)
        assert (await ours.status())["ended"]

    play(test)


def test_stopping_at_once_ends_the_stream() -> None:
    async def test() -> None:
        async with simulated() as exchange:
            ours = collector(exchange.url)
            await ours.start()
            await ours.stop()
            async with asyncio.timeout(2):
                assert [closed async for closed in ours.stream()] == []

    play(test)


def test_more_products_than_a_connection_takes_are_spread() -> None:
    ids = tuple(listed.id for listed in UNIVERSE[:27])

    async def test() -> None:
        exchange = Exchange(ExchangeConfig(products=ids, speed=None, duration_s=12.0))
        async with exchange:
            ours = collector(exchange.url, ids=ids)
            live = await streamed(ours, ids)
            status = await ours.status()
        assert status["connections"] == ["closed by venue"] * 2
        assert status["products"] == 27
        assert all(windows["valid"].tolist() == [False, True, True] for windows in live.values())

    play(test)


# Against a venue that misbehaves.


async def crashes(client: Client) -> None:
    await client.subscribed()
    await client.send(*normal(Advanced(), 0))
    await client.socket.close(1011, "internal error")


async def vanishes(client: Client) -> None:
    await client.subscribed()
    await client.send(*normal(Advanced(), 0))
    # Only when all was read; an abort may throw away what is still on its way.
    await (await client.socket.ping())
    await client.vanish()


async def falls_silent(client: Client) -> None:
    await client.subscribed()
    await client.send(*normal(Advanced(), 0))
    await client.socket.wait_closed()


@pytest.mark.parametrize("fate", [crashes, vanishes, falls_silent])
def test_a_lost_connection_is_opened_again_and_its_books_with_it(
    tmp_path: Path, fate: Callable[[Client], Awaitable[None]]
) -> None:
    async def test() -> None:
        async with Venue(fate, ends) as venue:
            ours = collector(venue.url, tmp_path, (BTC,), after(silence_s=1.0))
            live = await streamed(ours, (BTC,))
            status = await ours.status()
        assert len(venue.connections) == 2
        assert status["counts"]["disconnects"] == 1
        assert status["connections"] == ["closed by venue"]
        assert status["counts"].get("gaps", 0) == 0
        # Known: beat 1; lost in beat 2; the new snapshot comes in beat 10; known: beat 11.
        assert live[BTC]["valid"].astype(int).tolist() == [0, 1] + [0] * 9 + [1]
        store = Store(str(tmp_path))
        assert_same_windows(rebuilt_windows(store), live)
        assert reasons(store) == ["disconnect"]

    play(test)


def test_corrupt_frames_are_kept_aside_verbatim(tmp_path: Path) -> None:
    corrupt = Advanced(first=9).book(START_NS + 8 * SECOND_NS, [("bid", "99.001", "1")])

    async def test() -> None:
        async def lies(client: Client) -> None:
            await client.subscribed()
            await client.send(*normal(Advanced(), 0), corrupt)

        async with Venue(lies) as venue:
            ours = collector(venue.url, tmp_path, (BTC,))
            await streamed(ours, (BTC,))
            assert (await ours.status())["counts"]["corrupt"] == 1
        assert reasons(Store(str(tmp_path))) == ["corrupt"]

    play(test)
    kept = [line for path in tmp_path.rglob("*.jsonl") for line in path.read_bytes().splitlines()]
    assert [json.loads(line)["frame"] for line in kept] == [corrupt.decode()]


@pytest.mark.parametrize("at_s", [0, 12 * 3600 - 4], ids=["at the end", "at midnight"])
def test_a_root_that_cannot_be_written_ends_the_stream_with_its_error(
    tmp_path: Path, at_s: int
) -> None:
    (tmp_path / "raw").write_text("a file where a folder should be")

    async def test() -> None:
        async def goes_on(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            ns = START_NS + at_s * SECOND_NS
            await client.send(*[wire.snapshot(ns, product_id) for product_id in IDS])
            for i in range(1, 400):
                await client.send(wire.heartbeat(ns + i * SECOND_NS))

        async with Venue(goes_on) as venue:
            ours = collector(venue.url, tmp_path)
            await ours.start()

            async def read() -> None:
                async for _ in ours.stream():
                    pass

            async with asyncio.timeout(3):
                with pytest.raises(QuaverError, match="raw"):
                    await read()
                for told in (ours.finished, ours.stop):
                    with pytest.raises(QuaverError, match="raw"):
                        await told()

    play(test)


def test_a_new_consumer_of_the_stream_takes_over_without_losing_a_beat(tmp_path: Path) -> None:
    async def test() -> None:
        release = asyncio.Event()

        async def two_halves(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*[wire.snapshot(START_NS, product_id) for product_id in IDS])
            for i in range(1, 6):
                await client.send(wire.heartbeat(START_NS + i * BEAT_NS))
            await release.wait()
            for i in range(6, 11):
                await client.send(wire.heartbeat(START_NS + i * BEAT_NS))
            await client.socket.close(1000)

        async with Venue(two_halves) as venue:
            ours = collector(venue.url)
            await ours.start()
            first, seen = ours.stream(), []
            for _ in range(5):
                seen.append(int((await anext(first))[0][1]["beat"][0]))
            second = ours.stream()
            waiting = asyncio.ensure_future(anext(second))
            await asyncio.sleep(0)
            release.set()
            seen.append(int((await waiting)[0][1]["beat"][0]))
            seen += [int(item[0][1]["beat"][0]) async for item in second]
            assert [item async for item in first] == []
            assert seen == list(range(seen[0], seen[0] + 10))

    play(test)


def test_a_stop_while_the_rest_is_written_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        writing, release = threading.Event(), threading.Event()
        close = Parts.close

        def slow_close(parts: Parts) -> None:
            writing.set()
            release.wait(LIMIT_S)
            close(parts)

        monkeypatch.setattr(Parts, "close", slow_close)
        async with Venue(ends) as venue:
            ours = collector(venue.url, tmp_path, (BTC,))
            await ours.start()
            await asyncio.to_thread(writing.wait, LIMIT_S)
            stopping = asyncio.ensure_future(ours.stop())
            await asyncio.sleep(0)
            assert not stopping.done()
            release.set()
            await stopping
        assert partitions(Store(str(tmp_path)))

    play(test)
