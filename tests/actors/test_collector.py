"""Collector and connection against real websockets on loopback: nothing invented, nothing lost."""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from actors import collector as collecting
from actors.collector import Collector, CollectorSpec
from actors.connection import ConnectionConfig
from actors.plan import in_one
from actors.raw import partitions, read_manifest
from actors.reader import Events, Reader
from actors.recorder import Recorder
from actors.spool import Spool
from actors.status import CollectorStatus
from actors.store import Store
from actors.stream import ProductStream
from market.events import EVENT, Kind
from market.products import UNIVERSE, product
from market.windows import WINDOW
from sim.exchange import Exchange, ExchangeConfig
from tests.actors.market import SECONDS
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

pytestmark = pytest.mark.slow


IDS = (BTC, ETH)
CONFIG = ConnectionConfig(silence_s=5.0, snapshot_s=5.0, max_backoff_s=0.01, follow_end=True)


def collector(
    url: str,
    root: Path | None = None,
    ids: tuple[str, ...] = IDS,
    config: ConnectionConfig = CONFIG,
    wire_format: str = "coinbase-advanced",
) -> Collector:
    spec = CollectorSpec(
        name="collector",
        url=url,
        groups=in_one([product(i) for i in ids]),
        root=str(root) if root else None,
        connection=config,
        wire_format=wire_format,
    )
    return Collector(spec)


async def streamed(collector: Collector, ids: tuple[str, ...] = IDS) -> Windows:
    """Start, and return every window until the market ends."""
    found = {product_id: [np.zeros(0, WINDOW)] for product_id in ids}
    collector.start()
    async for closed in collector.stream():
        for product_id, windows in closed:
            found[product_id].append(windows)
    await collector.finished()
    return {product_id: np.concatenate(windows) for product_id, windows in found.items()}


def reasons(store: Store, product_id: str = BTC, day: str = DAYS[0]) -> list[str]:
    manifest = read_manifest(store, product_id, day)
    assert manifest is not None
    return [gap.reason for session in manifest.sessions for gap in session.gaps]


def states(status: CollectorStatus) -> list[str]:
    return [connection.state.value for connection in status.connections]


def after(config: ConnectionConfig = CONFIG, **changes: Any) -> ConnectionConfig:
    fields = {f: getattr(config, f) for f in config.__struct_fields__}
    return ConnectionConfig(**fields | changes)


# Against the simulated exchange.


THIN = ("CRV-USD", "STRK-USD")  # Those with the smallest books.


def simulated(**changes: Any) -> Exchange:
    return Exchange(ExchangeConfig(products=THIN, market=SECONDS, speed=None, **changes))


def test_windows_streamed_live_equal_those_rebuilt_from_what_was_recorded(tmp_path: Path) -> None:
    async def test() -> None:
        async with simulated(duration_s=80.0, start_ns=MIDNIGHT_NS - 40 * SECOND_NS) as exchange:
            ours = collector(exchange.url, tmp_path, THIN)
            live = await streamed(ours, THIN)
            books = {product_id: exchange.book(product_id) for product_id in THIN}
            status = await ours.status()
        store = Store(str(tmp_path))
        assert partitions(store) == [(i, day) for i in THIN for day in DAYS]
        assert_same_windows(rebuilt_windows(store), live)
        first = (MIDNIGHT_NS - 40 * SECOND_NS) // BEAT_NS
        for product_id, windows in live.items():
            assert windows["beat"].tolist() == list(range(first, first + 20))
            assert windows["valid"].tolist() == [False] + [True] * 19
            # The last window ends with the exchange's own book.
            bids, asks = books[product_id]
            assert (windows["bid"][-1], windows["ask"][-1]) == (max(bids), min(asks))
            assert windows["trades"].sum() > 0
        assert states(status) == ["closed by venue"]
        assert (status.ended, status.counts["windows"]) == (True, 40)
        assert status.counts.get("gaps", 0) == status.counts.get("corrupt", 0) == 0
        assert reasons(store, THIN[0]) == []

    play(test)


@contextmanager
def reserved() -> Iterator[int]:
    """Yield a port on which nobody listens, and which nobody is given, until it is asked for."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


async def refused(ours: Collector) -> None:
    """Wait until a connection could not be made."""
    while True:
        if (await ours.status()).connections[0].errors.get("connect"):
            return
        await asyncio.sleep(0.01)


def sources(store: Store) -> set[str]:
    manifests = [read_manifest(store, *partition) for partition in partitions(store)]
    return {session.source for m in manifests if m for session in m.sessions}


def test_a_recording_of_a_simulated_exchange_says_so_however_late_it_starts(
    tmp_path: Path,
) -> None:
    """Its report must not pass for one of a real market."""

    async def test() -> None:
        with reserved() as port:
            ours = collector(url := f"ws://127.0.0.1:{port}", tmp_path, THIN)
            running = asyncio.create_task(streamed(ours, THIN))
            await refused(ours)
            async with simulated(duration_s=20.0, port=port):
                live = await running
        assert [len(windows) for windows in live.values()] == [5, 5]
        assert partitions(store := Store(str(tmp_path)))
        assert sources(store) == {f"simulated at {url}"}

    play(test)


def test_a_recording_of_another_server_is_known_by_its_address(tmp_path: Path) -> None:
    async def test() -> None:
        async with Venue(ends) as venue:
            await streamed(collector(venue.url, tmp_path))
            assert sources(Store(str(tmp_path))) == {venue.url}

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
            ours = collector(exchange.url, tmp_path, THIN)
            live = await streamed(ours, THIN)
            status = await ours.status()
        assert status.counts["gaps"] == status.counts["missing frames"] == 1
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
            ours = collector(exchange.url, ids=THIN)
            live = await streamed(ours, THIN)
            assert (await ours.status()).rows == 0
        assert [len(windows) for windows in live.values()] == [5, 5]

    play(test)


def test_stopping_writes_what_was_read_and_ends_the_stream(tmp_path: Path) -> None:
    async def test() -> None:
        async with simulated() as exchange:  # It would go on for ever.
            ours = collector(exchange.url, tmp_path, THIN)
            ours.start()
            found: dict[str, list[np.ndarray]] = {product_id: [] for product_id in THIN}
            async for closed in ours.stream():
                for product_id, windows in closed:
                    found[product_id].append(windows)
                if len(found[THIN[0]]) == 5:
                    await ours.stop()
        live = {product_id: np.concatenate(windows) for product_id, windows in found.items()}
        assert_same_windows(rebuilt_windows(Store(str(tmp_path))), live)
        assert (await ours.status()).ended

    play(test)


def test_stopping_at_once_ends_the_stream() -> None:
    async def test() -> None:
        async with simulated() as exchange:
            ours = collector(exchange.url, ids=THIN)
            ours.start()
            await ours.stop()
            async with asyncio.timeout(2):
                assert [closed async for closed in ours.stream()] == []

    play(test)


def test_more_products_than_a_connection_takes_are_spread() -> None:
    ids = tuple(listed.id for listed in UNIVERSE[-27:])

    async def test() -> None:
        config = ExchangeConfig(products=ids, market=SECONDS, speed=None, duration_s=12.0)
        exchange = Exchange(config)
        async with exchange:
            ours = collector(exchange.url, ids=ids)
            live = await streamed(ours, ids)
            status = await ours.status()
        assert states(status) == ["closed by venue"] * 2
        assert len(status.products) == 27
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
        assert status.counts["disconnects"] == 1
        assert states(status) == ["closed by venue"]
        assert status.counts.get("gaps", 0) == 0
        # Known: beat 1; lost in beat 2; the new snapshot comes in beat 10; known: beat 11.
        assert live[BTC]["valid"].astype(int).tolist() == [0, 1] + [0] * 9 + [1]
        store = Store(str(tmp_path))
        assert_same_windows(rebuilt_windows(store), live)
        assert reasons(store) == ["disconnect"]

    play(test)


def test_a_replayed_capture_of_the_exchange_feed_is_collected_by_its_own_decoder(
    tmp_path: Path,
) -> None:
    def at(s: int) -> str:
        return f'"product_id":"{BTC}","time":"2026-08-09T12:00:{s:02d}.000000Z"'

    async def replays(client: Client) -> None:
        await client.subscribed()
        await client.send(
            b'{"type":"snapshot","product_id":"%b","bids":[["100.00","2"]],"asks":[["101.00","3"]]}'
            % BTC.encode(),
            *[f'{{"type":"heartbeat",{at(s)}}}'.encode() for s in range(0, 14)],
        )

    async def test() -> None:
        async with Venue(replays) as venue:
            ours = collector(venue.url, tmp_path, (BTC,), wire_format="coinbase-exchange")
            live = await streamed(ours, (BTC,))
        assert live[BTC]["valid"].tolist() == [False, True, True]
        assert (live[BTC]["bid"][1], live[BTC]["ask"][1]) == (10_000, 10_100)
        assert_same_windows(rebuilt_windows(Store(str(tmp_path))), live)

    play(test)


def test_corrupt_frames_are_kept_aside_verbatim(tmp_path: Path) -> None:
    corrupt = Advanced(first=9).book(START_NS + 8 * SECOND_NS, [("bid", "99.001", "1")])

    async def test() -> None:
        async def lies(client: Client) -> None:
            await client.subscribed()
            wire = Advanced()
            await client.send(*normal(wire, 0), corrupt)
            wire.sequence = 10
            await client.send(wire.heartbeat(START_NS + 9 * SECOND_NS))

        async with Venue(lies) as venue:
            ours = collector(venue.url, tmp_path, (BTC,))
            await streamed(ours, (BTC,))
            assert (await ours.status()).counts["corrupt"] == 1
        assert reasons(Store(str(tmp_path))) == ["corrupt"]

    play(test)
    kept = [line for path in tmp_path.rglob("*.jsonl") for line in path.read_bytes().splitlines()]
    assert [json.loads(line)["frame"] for line in kept] == [corrupt.decode()]


def test_a_root_that_is_away_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The market ends while nothing can be moved: the next start on this machine moves it."""
    monkeypatch.setattr(collecting, "STOP_PATIENCE_S", 0.2)
    (tmp_path / "raw").write_text("a file where a folder should be")

    async def test() -> None:
        async with Venue(lambda client: ends(client, 0, *IDS)) as venue:
            ours = collector(venue.url, tmp_path)
            live = await streamed(ours)
            status = await ours.status()
        assert status.spool and "the next start moves them" in (status.spool.last_error or "")
        (tmp_path / "raw").unlink()
        async with Venue(ends) as venue:
            await streamed(collector(venue.url, tmp_path, ("SOL-USD",)), ("SOL-USD",))
        rebuilt = rebuilt_windows(Store(str(tmp_path)))
        assert_same_windows({product_id: rebuilt[product_id] for product_id in IDS}, live)

    play(test)


def test_windows_wait_for_the_disk_and_reading_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is streamed is always in the recording, so it cannot come before it is on disk."""
    done: list[Callable[[], None]] = []
    monkeypatch.setattr(Spool, "flush", lambda self, callback: done.append(callback))

    async def test() -> None:
        async with Venue(lambda client: ends(client, 0)) as venue:
            ours = collector(venue.url, tmp_path, (BTC,))
            ours.start()
            await ours.finished()
            assert len(done) == 2  # Two beats were closed, and the market was read to its end.
            assert (await ours.status()).counts.get("windows", 0) == 0
            for callback in done:
                await asyncio.to_thread(callback)
            await asyncio.sleep(0)
            assert (await ours.status()).counts["windows"] == 2
            assert [len(rows) async for item in ours.stream() for _, rows in item] == [1, 1]

    play(test)


def test_without_room_every_book_is_lost_in_the_recording_and_live_and_then_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = False
    monkeypatch.setattr(Spool, "full", property(lambda self: full))

    async def test() -> None:
        async def overflows(client: Client) -> None:
            nonlocal full
            wire, ns = Advanced(), START_NS
            await client.subscribed()
            await client.send(*normal(wire, 0, *IDS))
            await (await client.socket.ping())
            full = True
            await client.send(*[wire.heartbeat(ns + s * SECOND_NS) for s in range(9, 18)])
            await (await client.socket.ping())
            full = False
            await client.send(wire.heartbeat(ns + 18 * SECOND_NS))
            asked = [await client.request(), await client.request()]
            assert [a["type"] for a in asked] == ["unsubscribe", "subscribe"]
            assert set(asked[1]["product_ids"]) == set(IDS)
            await client.send(*[wire.snapshot(ns + 18 * SECOND_NS, i) for i in IDS])
            await client.send(*[wire.heartbeat(ns + s * SECOND_NS) for s in range(19, 29)])

        async with Venue(overflows) as venue:
            ours = collector(venue.url, tmp_path)
            live = await streamed(ours)
            status = await ours.status()
        # Known: beat 1; lost in beat 2 at the latest; the snapshots come in beat 4; known: 5 and 6.
        for product_id in IDS:
            assert live[product_id]["valid"].astype(int).tolist() == [0, 1, 0, 0, 0, 1, 1]
        store = Store(str(tmp_path))
        assert_same_windows(rebuilt_windows(store), live)
        for product_id in IDS:
            assert reasons(store, product_id) == ["overflow"]
        assert status.gaps == {"overflow": 2}
        assert [problem.split(":")[0] for problem in status.problems] == [
            "the spool is full",
            "the spool has room again",
        ]

    play(test)


def test_a_row_that_cannot_be_takes_out_its_product_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Reader.frame

    def faulty(self: Reader, data: bytes, recv_ns: int) -> Events:
        events = read(self, data, recv_ns)
        if b"102.50" in data:  # A reader that has gone wrong.
            events[-1][1]["price"] = -1
        return events

    monkeypatch.setattr(Reader, "frame", faulty)

    async def test() -> None:
        async def goes_on(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*normal(wire, 0, *IDS))
            ns = START_NS + 9 * SECOND_NS
            await client.send(wire.book(ns, [("offer", "102.50", "1")]))
            await client.send(*[wire.heartbeat(ns + i * SECOND_NS) for i in range(1, 9)])
            # Nothing more is asked for.
            assert len(client.requests) == 3

        async with Venue(goes_on) as venue:
            ours = collector(venue.url, tmp_path)
            live = await streamed(ours)
            status = await ours.status()
        assert live[BTC]["valid"].astype(int).tolist() == [0, 1]
        assert live[ETH]["valid"].astype(int).tolist() == [0, 1, 1, 1]
        store = Store(str(tmp_path))
        assert_same_windows(rebuilt_windows(store), live)
        assert reasons(store, BTC) == ["corrupt"]
        assert reasons(store, ETH) == []
        assert "cannot be" in (status.products[BTC].broken or "")
        assert BTC in status.problems[0] and status.gaps == {"broken": 1}

    play(test)


def test_a_product_given_up_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Reader.frame

    def faulty(self: Reader, data: bytes, recv_ns: int) -> Events:
        events = read(self, data, recv_ns)
        for product_id, rows in events:
            if product_id == BTC and rows["kind"][0] == Kind.SNAPSHOT:
                rows["price"] = -1
        return events

    monkeypatch.setattr(Reader, "frame", faulty)

    async def test() -> None:
        async def loses_the_other(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*normal(wire, 0, *IDS))
            ns = START_NS + 9 * SECOND_NS
            await client.send(wire.book(ns, [("bid", "103.00", "1")], product_id=ETH))
            # Asked for, and as it does not come, asked for again: by then the other was due too.
            for _ in range(4):
                assert (await client.request())["product_ids"] == [ETH]

        async with Venue(loses_the_other) as venue:
            await streamed(collector(venue.url, config=after(snapshot_s=0.01)))
        assert len(venue.connections[0]) >= 7

    play(test)


def test_a_day_begins_with_the_book_as_it_was_before_the_frame_that_begins_it() -> None:
    """Also where the frame's first row is one that changes the book."""
    put: list[tuple[str, np.ndarray]] = []

    class Kept:
        def put(self, product: Any, day: str, session_ns: int, rows: Any, *_: Any) -> None:
            put.append((day, rows))

    def level(kind: Kind, ns: int, side: int, price: int) -> np.ndarray:
        return np.array([(ns, 0, kind, side, 1, 0, price, 5, 0)], EVENT)

    stream = ProductStream(Recorder(Kept()), product(BTC))
    snapshot = [level(Kind.SNAPSHOT, MIDNIGHT_NS - 1, side, 100 + side) for side in (0, 1)]
    snapshot[0]["last"] = 0
    stream.apply(np.concatenate(snapshot))
    stream.apply(level(Kind.CHANGE, MIDNIGHT_NS + 1, 1, 103))
    carried = next(rows for day, rows in put if day == DAYS[1])
    assert carried["kind"].tolist() == [Kind.CARRIED] * 2
    assert carried["price"].tolist() == [100, 101]


def test_a_status_tells_of_every_product_and_of_the_connections(tmp_path: Path) -> None:
    async def test() -> None:
        async with simulated(duration_s=20.0) as exchange:
            ours = collector(exchange.url, tmp_path, THIN)
            await streamed(ours, THIN)
            status = await ours.status()
        assert status.updates == sum(p.updates for p in status.products.values()) > 0
        assert all(p.recv_ns > 0 for p in status.products.values())
        assert status.frames == sum(
            status.counts[name]
            for name in (
                "l2_data",
                "market_trades",
                "market_trades history",
                "heartbeats",
                "subscriptions",
            )
        )
        assert 0 < status.latency.n <= status.counts["l2_data"] + status.counts["market_trades"]
        assert status.rows > status.updates and status.ended and status.problems == []
        assert msgspec.json.decode(msgspec.json.encode(status), type=CollectorStatus) == status

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
            ours.start()
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
        close = Spool.close

        def slow_close(spool: Spool, patience_s: float) -> None:
            writing.set()
            release.wait(LIMIT_S)
            close(spool, patience_s)

        monkeypatch.setattr(Spool, "close", slow_close)
        async with Venue(ends) as venue:
            ours = collector(venue.url, tmp_path, (BTC,))
            ours.start()
            await asyncio.to_thread(writing.wait, LIMIT_S)
            stopping = asyncio.ensure_future(ours.stop())
            await asyncio.sleep(0)
            assert not stopping.done()
            release.set()
            await stopping
        assert partitions(Store(str(tmp_path)))

    play(test)
