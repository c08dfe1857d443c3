"""One connection against real websockets on loopback: refused, lost and let down in every way."""

import asyncio
import multiprocessing
import random
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import trustme
from numpy.typing import NDArray
from websockets.asyncio.server import serve
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.protocol import State

from actors import awake
from actors.advanced_trade import decoder
from actors.connection import Connection
from actors.connection_config import ConnectionConfig, ConnectionState, ConnectionStatus
from actors.notices import Ack, ErrorFrame, Refusal, read_notice
from actors.reader import Events, Reader
from actors.stream import ProductStream
from actors.subscriptions import Subscriptions
from market.errors import QuaverError
from market.products import UNIVERSE, product
from market.windows import WINDOW
from tests.actors.venue import LIMIT_S, Client, Venue, ends, normal, play
from tests.actors.wire import BEAT_NS, BTC, ETH, SECOND_NS, START_NS, Advanced, Windows

pytestmark = pytest.mark.slow


IDS = (BTC, ETH)
TOO_MANY = "too many L2 streams requested in a single session"
CONFIG = ConnectionConfig(
    silence_s=5.0, snapshot_s=5.0, max_backoff_s=0.01, connects_per_s=8, follow_end=True
)


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pace of its own for each test."""
    monkeypatch.setitem(globals(), "CONFIG", after(pace_folder=str(tmp_path / "pace")))


def after(**changes: Any) -> ConnectionConfig:
    return msgspec.structs.replace(CONFIG, **changes)


class Books:
    """A connection with the books and windows of its products, as a collector has them."""

    def __init__(
        self,
        url: str,
        ids: tuple[str, ...] = IDS,
        config: ConnectionConfig | None = None,
        **options: Any,
    ) -> None:
        self.streams = {i: ProductStream(None, product(i)) for i in ids}
        self.found: dict[str, list[NDArray[np.void]]] = {i: [np.zeros(0, WINDOW)] for i in ids}
        self.reader = Reader(decoder, {i: product(i) for i in ids})
        self.states: list[ConnectionState] = []
        books = self

        class Traced(Connection):
            def _enter(self, state: ConnectionState) -> None:
                super()._enter(state)
                if books.states[-1:] != [state]:
                    books.states.append(state)

        self.connection = Traced(
            url, list(ids), self.reader, self.apply, self.synced, config or CONFIG, **options
        )

    def apply(self, events: Events) -> None:
        for product_id, rows in events:
            self.found[product_id].append(self.streams[product_id].apply(rows))

    def synced(self, product_id: str) -> bool:
        return self.streams[product_id].builder.synced

    @property
    def status(self) -> ConnectionStatus:
        return self.connection.status()

    async def windows(self) -> Windows:
        """Run until the market ends; return every window."""
        await self.connection.run()
        return {i: np.concatenate(windows) for i, windows in self.found.items()}

    async def until(self, reached: Callable[[ConnectionStatus], bool]) -> ConnectionStatus:
        """Run until the status is as wanted, then stop; return that status."""
        running = asyncio.create_task(self.connection.run())
        while True:
            status = self.status
            if reached(status) or running.done():
                break
            await asyncio.sleep(0.01)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        return status


async def stays(client: Client) -> None:
    """A connection like any other that goes on."""
    await client.subscribed()
    await client.send(*normal(Advanced(), 40))
    await client.socket.wait_closed()


async def beats(client: Client, wire: Advanced, first: int = 100) -> None:
    """Heartbeats until the client is gone, and nothing else."""
    for i in range(first, 10_000):
        await client.send(wire.heartbeat(START_NS + i * SECOND_NS // 10))
        await asyncio.sleep(0.01)


# What it asks.


def test_requests_name_one_channel_each_and_books_come_last() -> None:
    async def test() -> None:
        async with Venue(lambda client: ends(client, 0, *IDS)) as venue:
            await Books(venue.url).windows()
        (asked,) = venue.connections
        assert [(a["type"], a["channel"]) for a in asked] == [
            ("subscribe", "heartbeats"),
            ("subscribe", "market_trades"),
            ("subscribe", "level2"),
        ]
        assert asked[1]["product_ids"] == asked[2]["product_ids"] == list(IDS)
        assert not asked[0].get("product_ids")

    play(test)


def test_a_normal_close_is_no_end_unless_that_is_asked_for() -> None:
    async def test() -> None:
        async with Venue(ends, stays) as venue:
            ours = Books(venue.url, (BTC,), after(follow_end=False))
            status = await ours.until(lambda s: s.connects == 2 and s.synced == 1)
        assert status.disconnects == {1000: 1}

    play(test)


def test_a_connection_that_breaks_at_once_is_tried_again() -> None:
    async def test() -> None:
        async def hangs_up(client: Client) -> None:
            await client.vanish()

        async with Venue(hangs_up, hangs_up, hangs_up, ends) as venue:
            live = await Books(venue.url, (BTC,)).windows()
        assert len(venue.connections) == 4
        assert live[BTC]["valid"].tolist() == [False, True]

    play(test)


def test_a_book_that_is_lost_is_unsubscribed_then_subscribed_alone() -> None:
    async def test() -> None:
        async def crosses(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*normal(wire, 0, *IDS))
            ns = START_NS + 9 * SECOND_NS
            await client.send(wire.book(ns, [("bid", "103.00", "1")]))
            asked = [await client.request(), await client.request()]
            assert [(a["type"], a["channel"], a["product_ids"]) for a in asked] == [
                ("unsubscribe", "level2", [BTC]),
                ("subscribe", "level2", [BTC]),
            ]
            await client.send(wire.snapshot(ns), wire.heartbeat(ns + BEAT_NS))
            await client.send(wire.heartbeat(ns + 2 * BEAT_NS))

        async with Venue(crosses) as venue:
            live = await Books(venue.url).windows()
        assert len(venue.connections[0]) == 5
        assert live[BTC]["valid"].astype(int).tolist() == [0, 1, 0, 1]
        assert live[ETH]["valid"].astype(int).tolist() == [0, 1, 1, 1]

    play(test)


def test_a_book_that_does_not_come_is_asked_for_again() -> None:
    async def test() -> None:
        async def forgets(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            request = asyncio.create_task(client.request())
            for i in range(10_000):
                await client.send(wire.heartbeat(START_NS + i))
                done, _ = await asyncio.wait([request], timeout=0.005)
                if done:
                    break
            assert (request.result()["type"], request.result()["channel"]) == (
                "unsubscribe",
                "level2",
            )
            await client.request()
            await client.send(*normal(wire, 1))

        async with Venue(forgets) as venue:
            live = await Books(venue.url, (BTC,), after(snapshot_s=0.1)).windows()
        assert len(venue.connections) == 1
        assert live[BTC]["valid"].tolist() == [False, True]

    play(test)


def test_asking_for_all_books_again_stays_within_the_venues_message_rate() -> None:
    """The venue takes 8 messages per second; one message may name many products."""
    ids = tuple(listed.id for listed in UNIVERSE[:20])

    async def test() -> None:
        async def loses_a_frame(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*normal(wire, 0, *ids))
            wire.sequence += 1
            await client.send(wire.heartbeat(START_NS + 9 * SECOND_NS))
            asked: set[str] = set()
            while asked != set(ids):
                request = await client.request()
                if request["type"] == "subscribe":
                    asked |= set(request["product_ids"])

        async with Venue(loses_a_frame) as venue:
            await Books(venue.url, ids).windows()
        assert len(venue.connections[0]) - 3 <= 8

    play(test)


def test_a_refusal_is_counted_and_harms_no_book() -> None:
    async def test() -> None:
        async def refuses(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*normal(wire, 0))
            await client.send(b'{"type":"error","message":"subscribe or unsubscribe required"}')
            await client.send(wire.heartbeat(START_NS + 12 * SECOND_NS))

        async with Venue(refuses) as venue:
            ours = Books(venue.url, (BTC,))
            live = await ours.windows()
            counts = ours.reader.counts
        assert live[BTC]["valid"].tolist() == [False, True, True]
        assert counts["error: subscribe or unsubscribe required"] == 1
        assert counts["corrupt"] == 0
        assert ours.status.errors == {"malformed": 1}

    play(test)


def test_a_frame_as_large_as_a_real_snapshot_is_read() -> None:
    async def test() -> None:
        async def large(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            levels = [("bid", f"{i}.00", "0.12345678") for i in range(1, 40_000)]
            levels += [("offer", f"{i}.00", "0.12345678") for i in range(50_000, 90_000)]
            frame = wire.book(START_NS, levels, kind="snapshot")
            assert len(frame) > 5_000_000
            await client.send(frame, *[wire.heartbeat(START_NS + i * BEAT_NS) for i in (1, 2)])

        async with Venue(large) as venue:
            live = await Books(venue.url, (BTC,)).windows()
        assert live[BTC]["valid"].tolist() == [False, True]
        assert (live[BTC]["bid"][1], live[BTC]["ask"][1]) == (3_999_900, 5_000_000)

    play(test)


def test_a_book_that_never_comes_leaves_the_others_alone() -> None:
    async def one_book(client: Client) -> None:
        wire = Advanced()
        await client.subscribed()
        await client.send(wire.snapshot(START_NS, BTC))
        for asked_again in range(1, 3):
            await client.send(wire.heartbeat(START_NS + asked_again * BEAT_NS))
            while (request := await client.request())["type"] != "subscribe":
                assert request["product_ids"] == [ETH]
            await client.send(wire.heartbeat(START_NS + asked_again * BEAT_NS + SECOND_NS))

    async def test() -> None:
        async with Venue(one_book) as venue:
            live = await Books(venue.url, IDS, after(snapshot_s=1e-6)).windows()
        assert len(venue.connections) == 1
        assert sum(int(windows["valid"].sum()) for windows in live.values()) == 1

    play(test)


def test_patience_with_a_book_grows_and_stays_finite() -> None:
    asked = Subscriptions([BTC], bool, 15.0)
    waits = [asked.patience_s(times) for times in (1, 2, 3, 50, 5_000)]
    assert waits == [15.0, 30.0, 60.0, 600.0, 600.0]  # A week of asking for a dead product.


def test_after_a_gap_exactly_the_unsynced_books_are_asked_for_in_one_request_each() -> None:
    """Also if a book was crossed alone before: each is asked for once."""
    ids = (BTC, ETH, UNIVERSE[4].id)

    async def test() -> None:
        async def loses_a_frame(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*normal(wire, 0, *ids))
            wire.sequence += 1
            await client.send(wire.heartbeat(START_NS + 9 * SECOND_NS))
            asked = [await client.request(), await client.request()]
            await client.send(*[wire.snapshot(START_NS + 9 * SECOND_NS, i) for i in ids[:2]])
            await client.send(*[wire.heartbeat(START_NS + i * SECOND_NS) for i in range(10, 13)])
            asked += [await client.request(), await client.request()]
            await client.send(wire.snapshot(START_NS + 13 * SECOND_NS, ids[2]))
            assert [(a["type"], a["channel"], tuple(a["product_ids"])) for a in asked] == [
                ("unsubscribe", "level2", ids),
                ("subscribe", "level2", ids),
                ("unsubscribe", "level2", ids[2:]),
                ("subscribe", "level2", ids[2:]),
            ]

        async with Venue(loses_a_frame) as venue:
            ours = Books(venue.url, ids, after(snapshot_s=0.2))
            await ours.windows()
        assert [len(requests) for requests in venue.connections] == [7]
        assert ours.reader.counts["gaps"] == 1

    play(test)


def test_after_a_gap_a_book_that_was_still_awaited_is_asked_for_again_at_once() -> None:
    """Its snapshot may have been what was lost; the wait for it would be a minute."""

    async def test() -> None:
        async def loses_a_snapshot(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(wire.snapshot(START_NS, BTC))
            wire.snapshot(START_NS, ETH)
            await client.send(wire.heartbeat(START_NS + SECOND_NS))
            asked = [await client.request(), await client.request()]
            assert [(a["type"], a["channel"], a["product_ids"]) for a in asked] == [
                ("unsubscribe", "level2", list(IDS)),
                ("subscribe", "level2", list(IDS)),
            ]
            await client.send(*normal(wire, 2, *IDS))

        async with Venue(loses_a_snapshot) as venue:
            ours = Books(venue.url, IDS, after(snapshot_s=60.0))
            await ours.windows()
        assert [len(requests) for requests in venue.connections] == [5]
        assert all(map(ours.synced, IDS))

    play(test)


def test_a_connection_that_loses_the_snapshots_time_and_again_is_made_anew() -> None:
    async def test() -> None:
        async def loses_every_snapshot(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(wire.heartbeat(START_NS))
            for i in range(1, 4):
                wire.snapshot(START_NS, BTC)
                await client.send(wire.heartbeat(START_NS + i * SECOND_NS))
                await client.request()
                await client.request()

        async with Venue(loses_every_snapshot, lambda client: ends(client, 40)) as venue:
            ours = Books(venue.url, (BTC,), after(snapshot_s=60.0))
            await ours.windows()
        assert [len(requests) for requests in venue.connections] == [5, 3]
        assert ours.status.errors == {"no book": 1}

    play(test)


def test_a_gap_does_not_hurry_the_asking_for_a_product_that_is_gone() -> None:
    asked = Subscriptions([BTC], lambda product_id: False, 15.0)
    books = asked.first(with_books=True)[-1]
    for at_s in (1.0, 2.0, 3.0):
        asked.sent(books, at_s)
    asked.doubt_snapshots()
    assert asked.due(4.0) == []


def test_books_that_do_not_come_back_after_a_second_try_bring_a_new_connection() -> None:
    async def test() -> None:
        async def forgets(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*normal(wire, 0, *IDS))
            wire.sequence += 1
            beating = asyncio.create_task(beats(client, wire))
            try:
                while True:
                    await client.request()
            finally:
                beating.cancel()

        async with Venue(forgets, lambda client: ends(client, 2_000, *IDS)) as venue:
            ours = Books(venue.url, IDS, after(snapshot_s=0.1))
            live = await ours.windows()
        assert [len(requests) for requests in venue.connections] == [7, 3]
        assert ours.status.errors == {"no book": 1}
        assert ours.status.disconnects == {1006: 1}
        assert ours.status.last_error == f"no book came of {BTC}, {ETH}"
        assert all(windows["valid"][-1] for windows in live.values())

    play(test)


@pytest.mark.slow
def test_one_book_that_was_there_and_does_not_come_back_brings_one_new_connection_only() -> None:
    """The others must not suffer for ever for a product that was delisted."""

    async def test() -> None:
        async def delists(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            both = client is first
            await client.send(*normal(wire, 0, *(IDS if both else (BTC,))))
            await client.send(wire.book(START_NS + 9 * SECOND_NS, [("bid", "103.00", "1")], ETH))
            beating = asyncio.create_task(beats(client, wire))
            try:
                while True:
                    await client.request()
            finally:
                beating.cancel()

        first: Client | None = None

        async def one(client: Client) -> None:
            nonlocal first
            first = first or client
            await delists(client)

        async with Venue(one) as venue:
            ours = Books(venue.url, IDS, after(snapshot_s=0.05))

            def asked_in_vain() -> int:
                return len(level2(venue.connections[1])) if len(venue.connections) > 1 else 0

            status = await ours.until(lambda s: s.connects > 2 or asked_in_vain() > 3)
        assert len(venue.connections) == 2
        assert (status.synced, status.errors) == (1, {"no book": 1})

    play(test)


def test_while_paused_no_book_is_asked_for() -> None:
    async def test() -> None:
        paused = True

        async def answers(client: Client) -> None:
            nonlocal paused
            wire = Advanced()
            asked = [await client.request(), await client.request()]
            request = asyncio.create_task(client.request())
            for i in range(60):
                await client.send(wire.heartbeat(START_NS + i))
                await asyncio.wait([request], timeout=0.01)
            assert not request.done()
            paused = False
            asked.append(await request)
            # It was never subscribed, so there is nothing to unsubscribe.
            assert [(a["type"], a["channel"]) for a in asked] == [
                ("subscribe", "heartbeats"),
                ("subscribe", "market_trades"),
                ("subscribe", "level2"),
            ]
            await client.send(*normal(wire, 0, *IDS))
            await (await client.socket.ping())
            paused = True
            wire.sequence += 1
            request = asyncio.create_task(client.request())
            for i in range(60):
                await client.send(wire.heartbeat(START_NS + 9 * SECOND_NS + i))
                await asyncio.wait([request], timeout=0.01)
            assert not request.done()
            paused = False
            assert (await request)["product_ids"] == list(IDS)
            done.set()
            await client.socket.wait_closed()

        done = asyncio.Event()
        async with Venue(answers) as venue:
            ours = Books(venue.url, paused=lambda: paused)
            await ours.until(lambda status: done.is_set())
            assert done.is_set()
            assert len(venue.connections) == 1

    play(test)


# How it is refused.


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (TOO_MANY, Refusal.CAPACITY),
        ("subscribe or unsubscribe required", Refusal.MALFORMED),
        ("authentication failure", Refusal.AUTHENTICATION),
        ("something never seen", Refusal.OTHER),
        ("", Refusal.OTHER),
    ],
)
def test_an_error_frame_is_told_from_its_text(message: str, why: Refusal) -> None:
    frame = msgspec.json.encode({"type": "error", "message": message})
    assert read_notice(frame) == ErrorFrame(why, message)


@pytest.mark.parametrize(
    "frame",
    [
        Advanced().snapshot(START_NS),
        Advanced().heartbeat(START_NS),
        Advanced().trades(START_NS, [(1, "100.00", "1", "BUY")]),
        Advanced().frame("status", START_NS, [{"type": "snapshot", "products": []}]),
        Advanced().frame("subscriptions", START_NS, "nonsense"),
        b'{"type":"greeting"}',
        b'["subscriptions"]',
        b'{"type":"error"',
        b"\xff\xfe",
        b"",
    ],
)
def test_other_frames_are_no_notice(frame: bytes) -> None:
    assert read_notice(frame) is None


def test_notices_are_read_in_any_layout() -> None:
    has = {"level2": [BTC], "heartbeats": ["heartbeats"]}
    ack = {"sequence_num": 7, "new": 1, "events": [{"subscriptions": has, "more": 2}]}
    frame = msgspec.json.format(msgspec.json.encode(ack | {"channel": "subscriptions"}))
    assert read_notice(frame) == Ack(7, has)
    assert read_notice(b'{"message":null,"type":"error"}') == ErrorFrame(Refusal.OTHER, "")


def level2(requests: list[dict[str, Any]], action: str = "subscribe") -> list[list[str]]:
    return [r["product_ids"] for r in requests if (r["type"], r["channel"]) == (action, "level2")]


def asked_again_only_in_smaller_sets(
    asked: list[list[str]], refuses: Callable[[int], bool]
) -> bool:
    smallest: dict[str, int] = {}
    for ids in asked:
        if len(ids) > 1 and any(len(ids) >= smallest.get(i, 1 << 30) for i in ids):
            return False
        if refuses(len(ids)):
            smallest |= {i: min(len(ids), smallest.get(i, 1 << 30)) for i in ids}
    return True


def test_a_venue_that_takes_fewer_books_gives_those_that_it_takes() -> None:
    """Never as large a set again as was refused, and the books that came are left alone."""
    ids = tuple(listed.id for listed in UNIVERSE[:5])

    async def test() -> None:
        async def takes_three(client: Client) -> None:
            await client.serve_books(Advanced(), lambda has: TOO_MANY if len(has) > 3 else None)

        async with Venue(takes_three) as venue:
            ours = Books(venue.url, ids)
            status = await ours.until(lambda s: s.synced == s.subscribed == 3)
        assert len(venue.connections) == 1
        assert status.state is ConnectionState.SYNCING
        assert status.errors["capacity"] >= 1
        assert status.last_error and TOO_MANY in status.last_error
        (asked,) = map(level2, venue.connections)
        assert asked_again_only_in_smaller_sets(asked, lambda n: n > 3)
        # Unsubscribed was only what was asked for again at once: never a book that had come.
        assert sorted(asked[0]) == sorted(ids)
        assert max(map(len, asked[1:])) == 2

    play(test)


def test_one_product_that_the_venue_does_not_know_does_not_keep_the_others_away() -> None:
    ids = tuple(listed.id for listed in UNIVERSE[:4])

    async def test() -> None:
        async def knows_three(client: Client) -> None:
            wrong = ids[1]
            await client.serve_books(
                Advanced(), lambda has: "unknown product" if wrong in has else None
            )

        async with Venue(knows_three) as venue:
            ours = Books(venue.url, ids)
            status = await ours.until(lambda s: s.synced == s.subscribed == 3)
        assert status.synced == 3
        assert len(venue.connections) == 1
        assert not ours.synced(ids[1])

    play(test)


def test_a_book_left_out_of_the_acknowledgement_is_asked_for_again_at_once() -> None:
    async def test() -> None:
        async def forgets_one(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            every = {"heartbeats": ["heartbeats"], "market_trades": list(IDS)}
            ns = START_NS
            await client.send(wire.ack(ns, {"heartbeats": ["heartbeats"]}), wire.ack(ns, every))
            await client.send(wire.snapshot(ns, BTC), wire.ack(ns, every | {"level2": [BTC]}))
            asked = [await client.request(), await client.request()]
            assert [(a["type"], a["channel"], a["product_ids"]) for a in asked] == [
                ("unsubscribe", "level2", [ETH]),
                ("subscribe", "level2", [ETH]),
            ]
            await client.send(wire.ack(ns, every | {"level2": [BTC]}), wire.snapshot(ns, ETH))
            await client.send(wire.ack(ns, every | {"level2": [BTC, ETH]}))

        async with Venue(forgets_one) as venue:
            ours = Books(venue.url, IDS, after(snapshot_s=60.0))
            await ours.windows()
        assert [len(requests) for requests in venue.connections] == [5]
        assert all(map(ours.synced, IDS))
        assert ours.status.subscribed == 2

    play(test)


def test_a_book_that_the_venue_no_longer_lists_is_not_taken_for_known() -> None:
    async def test() -> None:
        async def drops_one(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*normal(wire, 0, *IDS))
            every = {"heartbeats": ["heartbeats"], "market_trades": list(IDS)}
            await client.send(*[wire.ack(START_NS, every | {"level2": [ETH]}) for _ in range(3)])
            while level2(client.requests)[1:] != [[BTC]]:
                await client.request()
            seen.append(ours.synced(BTC))
            # It comes and is still not listed: the data are believed, and nothing goes in circles.
            await client.send(wire.ack(START_NS, every | {"level2": [ETH]}))
            await client.send(wire.snapshot(START_NS, BTC))
            await client.send(wire.ack(START_NS, every | {"level2": [ETH]}))
            for i in range(50):
                await client.send(wire.heartbeat(START_NS + i))
                await asyncio.sleep(0.01)

        seen: list[bool] = []
        async with Venue(drops_one) as venue:
            ours = Books(venue.url)
            await ours.windows()
        assert seen == [False]
        assert ours.reader.counts["books not sent"] == 1
        assert all(map(ours.synced, IDS))
        assert level2(venue.connections[0]) == [list(IDS), [BTC]]

    play(test)


def test_a_repeated_acknowledgement_changes_nothing() -> None:
    """Neither what the venue is said to have nor which request is still unanswered."""
    asked = Subscriptions(list(IDS), bool, 15.0)
    for request in asked.first(with_books=True):
        asked.sent(request, 1.0)
    has = {"heartbeats": ["heartbeats"]}
    asked.acknowledge(has, 7)
    for sequence in (7, 7, 6):
        asked.acknowledge(has | {"level2": list(IDS)}, sequence)
    assert asked.acknowledged == 0
    assert not asked.settled(2.0)
    asked.acknowledge(has | {"market_trades": list(IDS)}, 8)
    assert not asked.settled(2.0)
    asked.acknowledge(has | {"market_trades": list(IDS), "level2": list(IDS)}, 9)
    assert asked.settled(2.0) and asked.acknowledged == 2


@pytest.mark.parametrize("channel", ["heartbeats", "market_trades"])
def test_another_channel_left_out_of_the_acknowledgement_is_asked_for_again(channel: str) -> None:
    async def test() -> None:
        async def forgets(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            has = {"heartbeats": ["heartbeats"], "market_trades": list(IDS), "level2": list(IDS)}
            lacking = {name: ids for name, ids in has.items() if name != channel}
            await client.send(*normal(wire, 0, *IDS))
            await client.send(*[wire.ack(START_NS, lacking) for _ in range(3)])
            asked = await client.request()
            assert (asked["type"], asked["channel"]) == ("subscribe", channel)
            await client.send(wire.ack(START_NS, has), wire.heartbeat(START_NS + 9 * SECOND_NS))

        async with Venue(forgets) as venue:
            await Books(venue.url).windows()
        assert [len(requests) for requests in venue.connections] == [4]

    play(test)


def test_a_product_refused_for_ever_is_asked_for_ever_more_rarely() -> None:
    known = {BTC}
    asked = Subscriptions(list(IDS), known.__contains__, 15.0)
    has = {"heartbeats": ["heartbeats"], "market_trades": list(IDS), "level2": [BTC]}
    for request in asked.first(with_books=True):
        asked.sent(request, 0.5)
    for sequence in range(3):
        asked.acknowledge(has, sequence)
    asked.note_books()
    times, sequence = [], 3
    for now in range(1, 7_200):
        if requests := asked.due(float(now)):
            assert [r.product_ids for r in requests] == [(ETH,), (ETH,)]
            assert not asked.hopeless(requests)
            times.append(now)
            for request in requests:
                asked.sent(request, float(now))
                asked.acknowledge(has, sequence := sequence + 1)
    assert times[:3] == [1, 32, 93]
    assert max(after - before for before, after in pairwise(times)) == 601
    assert len(times) < 20


# How it is lost.


CODES = [1000, 1001, 1002, 1006, 1008, 1009, 1011, 1012, 1013, 4000]


@pytest.mark.parametrize("code", CODES)
def test_every_close_code_leads_to_a_new_connection(code: int) -> None:
    async def test() -> None:
        async def closes(client: Client) -> None:
            await client.subscribed()
            await client.send(*normal(Advanced(), 0))
            await (await client.socket.ping())  # An abort may throw away what is on its way.
            if code == 1006:
                await client.vanish()
            await client.socket.close(code)

        async with Venue(closes, stays) as venue:
            ours = Books(venue.url, (BTC,), after(follow_end=False))
            status = await ours.until(lambda s: s.connects == 2 and s.synced == 1)
        assert status.disconnects == {code: 1}
        assert ours.reader.counts["disconnects"] == 1
        # Heartbeats after every reconnect, too.
        asked = [[r["channel"] for r in requests] for requests in venue.connections]
        assert asked == [["heartbeats", "market_trades", "level2"]] * 2

    play(test)


def test_a_handshake_that_is_never_answered_is_given_up() -> None:
    async def test() -> None:
        serving: list[asyncio.Task[None] | None] = []

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving.append(asyncio.current_task())
            with suppress(ConnectionError):
                await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ours = Books(url, (BTC,), after(open_s=0.1))
            status = await ours.until(lambda s: s.errors.get("connect", 0) >= 3)
            await asyncio.gather(*filter(None, serving))
        assert (status.connects, status.disconnects) == (0, {})
        assert status.last_error and "Timeout" in status.last_error
        assert ours.reader.counts["disconnects"] == 0

    play(test)


@pytest.mark.parametrize("status_code", [429, 503])
def test_a_handshake_that_is_refused_is_tried_again(status_code: int) -> None:
    async def test() -> None:
        def refuse(socket: Any, request: HttpRequest) -> Response:
            response: Response = socket.respond(HTTPStatus(status_code), "not so fast")
            return response

        async with serve(lambda socket: None, "127.0.0.1", 0, process_request=refuse) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            status = await Books(url, (BTC,)).until(lambda s: s.errors.get("connect", 0) >= 2)
        assert status.last_error and str(status_code) in status.last_error

    play(test)


def test_an_address_where_nobody_listens_is_tried_again() -> None:
    async def test() -> None:
        async with Venue(stays) as venue:
            url = venue.url
        status = await Books(url, (BTC,)).until(lambda s: s.errors.get("connect", 0) >= 2)
        assert status.last_error and "ConnectionRefusedError" in status.last_error

    play(test)


def test_a_peer_that_stops_reading_is_given_up() -> None:
    """It still sends, so only the pings tell."""

    async def test() -> None:
        async def reads_no_more(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*normal(wire, 0))
            client.socket.transport.pause_reading()  # type: ignore[attr-defined]
            await beats(client, wire)

        async with Venue(reads_no_more, stays) as venue:
            ours = Books(venue.url, (BTC,), after(ping_s=0.2))
            status = await ours.until(lambda s: s.connects == 2 and s.synced == 1)
        assert status.disconnects == {1006: 1}
        assert status.last_error and "ping timeout" in status.last_error

    play(test)


def test_a_stall_of_our_own_is_no_silence() -> None:
    async def test() -> None:
        async def goes_on(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*normal(wire, 0))
            for i in range(20):
                await client.send(wire.heartbeat(START_NS + 9 * SECOND_NS + i))
                await asyncio.sleep(0.02)

        async with Venue(goes_on) as venue:
            ours = Books(venue.url, (BTC,), after(silence_s=0.3))
            stalls = iter([0.5] * 2)
            apply = ours.connection._on_events

            def slow(events: Events) -> None:
                time.sleep(next(stalls, 0))
                apply(events)

            ours.connection._on_events = slow
            await ours.windows()
        assert ours.status.errors == {}
        assert len(venue.connections) == 1

    play(test)


def test_a_stall_while_something_was_waited_for_is_nobodys_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither that of the socket nor that of an acknowledgement still to come after its book."""
    looks, stalled_s = [0.0], 0.0

    def clock() -> float:
        looks.append(time.monotonic() + stalled_s)
        return looks[-1]

    monkeypatch.setattr(awake, "time", SimpleNamespace(monotonic=clock))

    async def looked(client: Client) -> None:
        """Until the connection has looked at its clock a few times."""
        wanted = len(looks) + 6
        for _ in range(1_000):
            if len(looks) >= wanted or client.socket.state is not State.OPEN:
                break
            await asyncio.sleep(0.01)

    async def test() -> None:
        async def waits(client: Client) -> None:
            nonlocal stalled_s
            wire = Advanced()
            await client.subscribed()
            has = {"heartbeats": ["heartbeats"], "market_trades": [BTC]}
            await client.send(wire.ack(START_NS, {}), wire.ack(START_NS, has))
            await client.send(*normal(wire, 0))
            await looked(client)
            stalled_s = 60.0
            await looked(client)
            await client.send(wire.ack(START_NS, has | {"level2": [BTC]}))
            await client.send(wire.heartbeat(START_NS + 9 * SECOND_NS))

        async with Venue(waits) as venue:
            ours = Books(venue.url, (BTC,), after(silence_s=3.0))
            await ours.windows()
        assert ours.status.errors == {}
        assert ours.reader.counts["books not sent"] == 0
        assert [len(requests) for requests in venue.connections] == [3]

    play(test)


def test_silence_is_seen_although_the_pace_lets_nothing_be_asked() -> None:
    async def test() -> None:
        async def falls_silent(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(*normal(wire, 0))
            wire.sequence += 1
            for _ in range(8 - 3):
                ours.connection._messages.take()
            await client.send(wire.heartbeat(START_NS + 9 * SECOND_NS))
            await client.socket.wait_closed()

        async with Venue(falls_silent) as venue:
            ours = Books(venue.url, (BTC,), after(silence_s=0.2))
            status = await ours.until(lambda s: bool(s.disconnects))
        assert status.errors == {"silence": 1}
        assert status.last_error == "no frame came for 0.2 s"

    play(test)


def test_backing_off_grows_to_its_cap_and_starts_anew_only_once_a_book_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounds: list[float] = []

    def uniform(low: float, high: float) -> float:
        if low:  # The pace's jitter.
            return high
        bounds.append(high)
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)

    async def test() -> None:
        async def hangs_up(client: Client) -> None:
            await client.vanish()

        async def no_book(client: Client) -> None:
            """It answers, but never with a book."""
            await client.subscribed()
            await client.send(Advanced().heartbeat(START_NS))
            await client.socket.close(1011)

        async def gives_a_book(client: Client) -> None:
            await client.subscribed()
            await client.send(*normal(Advanced(), 0))
            await client.socket.close(1011)

        async with Venue(hangs_up, hangs_up, no_book, hangs_up, gives_a_book, ends) as venue:
            await Books(venue.url, (BTC,), after(max_backoff_s=6.0)).windows()

    play(test)
    assert bounds == [1.0, 2.0, 4.0, 6.0, 0.5]


@pytest.mark.parametrize("fault", [ValueError("a bug"), OSError("a disk"), TimeoutError("a wait")])
def test_what_the_events_taker_raises_ends_the_connection_with_it(fault: Exception) -> None:
    async def test() -> None:
        async with Venue(stays) as venue:
            ours = Books(venue.url, (BTC,))

            def fails(events: Events) -> None:
                raise fault

            ours.connection._on_events = fails
            with pytest.raises(type(fault), match=str(fault)):
                await ours.windows()
        assert ours.status.state is ConnectionState.STOPPED
        assert len(venue.connections) == 1

    play(test)


# TLS.


def test_a_certificate_that_nobody_vouches_for_is_refused_each_time() -> None:
    async def test() -> None:
        server, trusted = certified()
        async with Venue(ends, tls=server) as venue:
            refused = Books(venue.url, (BTC,))
            status = await refused.until(lambda s: s.errors.get("connect", 0) >= 3)
            assert status.last_error and "CERTIFICATE_VERIFY_FAILED" in status.last_error
            assert (status.connects, venue.connections) == (0, [])
            live = await Books(venue.url, (BTC,), tls=trusted).windows()
        assert live[BTC]["valid"].tolist() == [False, True]

    play(test)


def certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's certificate from an authority of its own, and a client that trusts that."""
    authority = trustme.CA()
    server, trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(trusted)
    return server, trusted


def test_a_certificate_of_another_host_is_refused_although_its_authority_is_trusted() -> None:
    async def test() -> None:
        authority = trustme.CA()
        server, trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("elsewhere.example").configure_cert(server)
        authority.configure_trust(trusted)
        async with Venue(ends, tls=server) as venue:
            ours = Books(venue.url, (BTC,), tls=trusted)
            status = await ours.until(lambda s: s.errors.get("connect", 0) >= 1)
        assert status.last_error and "mismatch" in status.last_error
        assert (status.connects, venue.connections) == (0, [])

    play(test)


# What it shows.


def test_a_connection_goes_through_its_states_in_order() -> None:
    async def test() -> None:
        async def one_then_the_other(client: Client) -> None:
            wire = Advanced()
            await client.subscribed()
            await client.send(wire.snapshot(START_NS, BTC), wire.snapshot(START_NS, ETH))
            await client.send(wire.book(START_NS, [("bid", "103.00", "1")]))
            for _ in range(2):
                await client.request()
            await client.send(wire.snapshot(START_NS, BTC))
            await client.socket.close(1012)

        async with Venue(one_then_the_other, lambda client: ends(client, 40, *IDS)) as venue:
            ours = Books(venue.url)
            await ours.windows()
        opened = [
            ConnectionState.WAITING,
            ConnectionState.CONNECTING,
            ConnectionState.SUBSCRIBING,
            ConnectionState.SYNCING,
            ConnectionState.STREAMING,
        ]
        assert ours.states == [
            *opened,
            ConnectionState.SYNCING,
            ConnectionState.STREAMING,
            ConnectionState.BACKING_OFF,
            *opened,
            ConnectionState.CLOSED_BY_VENUE,
        ]

    play(test)


def test_a_stopped_connection_says_so_and_every_state_explains_itself() -> None:
    async def test() -> None:
        async with Venue(stays) as venue:
            ours = Books(venue.url, (BTC,))
            status = await ours.until(lambda s: s.state is ConnectionState.STREAMING)
        assert status.state is ConnectionState.STREAMING
        assert ours.status.state is ConnectionState.STOPPED

    play(test)
    assert len({state.value for state in ConnectionState}) == len(ConnectionState) == 8


def test_the_status_counts_what_happened() -> None:
    async def test() -> None:
        async def serves(client: Client) -> None:
            await client.serve_books(Advanced(), lambda has: None)

        async with Venue(serves) as venue:
            ours = Books(venue.url)
            before = ours.status
            status = await ours.until(lambda s: s.subscribed == 2)
        assert (before.state, before.connects) == (ConnectionState.WAITING, 0)
        assert before.last_frame_age_s is None
        assert (status.products, status.synced, status.subscribed, status.connects) == (2, 2, 2, 1)
        assert (status.disconnects, status.errors, status.last_error) == ({}, {}, None)
        assert status.last_frame_age_s is not None and 0 <= status.last_frame_age_s < 5
        assert 0 <= status.in_state_s < 5

    play(test)


@pytest.mark.slow
def test_many_connections_stay_within_the_hosts_pace() -> None:
    async def test() -> None:
        connects: list[float] = []
        messages: list[float] = []

        async def counts(client: Client) -> None:
            connects.append(time.monotonic())
            for _ in range(3):
                await client.request()
                messages.append(time.monotonic())
            await client.send(*normal(Advanced(), 0))

        async with Venue(counts) as venue:
            many = [Books(venue.url, (BTC,), after(connects_per_s=3)) for _ in range(5)]
            await asyncio.gather(*(one.windows() for one in many))
        assert (len(connects), len(messages)) == (5, 15)
        for times, per_s in ((connects, 3), (messages, 8)):
            times.sort()
            assert all(b - a > 0.9 for a, b in zip(times, times[per_s:], strict=False))

    play(test)


def connect_at_once(url: str, folder: str, count: int, ready: Any, go: Any) -> None:
    """So many connections, and others of the same host that ask for books without end."""
    config = after(connects_per_s=2, pace_folder=folder, follow_end=True)

    async def asks_on(ours: Connection) -> None:
        while True:
            await ours._messages.turn(ours._leave)

    async def test() -> None:
        many = [Books(url, (BTC,), config) for _ in range(count)]
        asking = [asyncio.create_task(asks_on(many[0].connection)) for _ in range(10)]
        await asyncio.gather(*(one.connection.run() for one in many))
        for task in asking:
            task.cancel()

    ready.release()
    assert go.wait(LIMIT_S)
    play(test)


@pytest.mark.slow
def test_every_new_socket_asks_in_time_however_much_the_host_asks_for(tmp_path: Path) -> None:
    """The venue closes a socket that has not subscribed within 5 s."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    waited_s: list[float] = []

    async def test() -> None:
        async def counts(client: Client) -> None:
            opened = time.monotonic()
            await client.request()
            waited_s.append(time.monotonic() - opened)

        async with Venue(counts) as venue:
            rest = (venue.url, str(tmp_path), 2, ready, go)
            others = [context.Process(target=connect_at_once, args=rest) for _ in range(3)]
            for other in others:
                other.start()
            try:
                for _ in others:
                    assert await asyncio.to_thread(ready.acquire, True, LIMIT_S)
                go.set()
                for other in others:
                    await asyncio.to_thread(other.join, LIMIT_S)
                assert [other.exitcode for other in others] == [0] * 3
            finally:
                for other in others:
                    other.kill()

    play(test)
    assert len(waited_s) == 6
    assert max(waited_s) < 3.0


# What is refused before anything is opened.


@pytest.mark.parametrize("count", [0, 26])
def test_a_connection_takes_1_to_25_products(count: int) -> None:
    reader = Reader(lambda products: lambda batch: pytest.fail("no frame"), {})
    with pytest.raises(QuaverError, match="25"):
        Connection(
            "ws://127.0.0.1:1",
            [listed.id for listed in UNIVERSE[:count]],
            reader,
            lambda events: None,
            lambda product_id: False,
            CONFIG,
        )
