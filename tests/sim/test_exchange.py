"""The simulated exchange, seen through a real websocket client."""

import asyncio
import time
from datetime import datetime
from decimal import Decimal

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from market.errors import QuaverError
from market.products import UNIVERSE
from sim.exchange import Exchange
from sim.exchange_config import ExchangeConfig
from sim.flow import FlowConfig
from sim.wire import SECOND_NS, DecimalText, time_ns, timestamp_text
from tests.sim.venue import (
    IDS,
    SECONDS,
    Book,
    Frame,
    StillMarket,
    TakenMarket,
    all_frames,
    apply,
    ask,
    kinds,
    play,
    receive,
    subscriptions,
    true_book,
    until_ack,
    until_closed,
)

pytestmark = pytest.mark.slow


def test_frames_are_numbered_without_a_hole_in_order_of_time_and_rebuild_the_book() -> None:
    frames: list[Frame] = []

    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        frames.extend(await all_frames(exchange, socket))
        assert socket.close_code == 1000

    exchange = play(script, duration_s=120.0)
    assert all(set(f) == {"channel", "timestamp", "sequence_num", "events"} for f in frames)
    assert [frame["sequence_num"] for frame in frames] == list(range(len(frames)))
    times = [frame["timestamp"] for frame in frames]
    assert times == sorted(times)
    assert all(len(text) == 30 and text[-1] == "Z" and text[-11] == "." for text in times)
    assert (times[0], times[-1]) == (
        "2026-01-05T00:00:00.000000000Z",
        "2026-01-05T00:02:00.000000000Z",
    )

    books: dict[str, Book] = {}
    for frame in frames:
        if frame["channel"] == "l2_data":
            assert len(frame["events"]) == 1
            apply(books, frame)
            book = books[frame["events"][0]["product_id"]]
            assert 0 < max(book["bid"]) < min(book["offer"])
    assert books == {name: true_book(exchange, name) for name in IDS}


def test_two_connections_see_the_same_market_each_with_its_own_sequence() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        async with connect(exchange.url, max_size=None) as other:
            await ask(other, "subscribe", "heartbeats")
            await until_ack(other)
            await ask(other, "subscribe", "market_trades", IDS[0])
            await until_ack(other)
            mine, theirs = await asyncio.gather(all_frames(exchange, socket), until_closed(other))
        assert theirs[0]["sequence_num"] == 3  # After two acks and the history of trades.
        counts = [frame["sequence_num"] for frame in theirs]
        assert counts == list(range(3, 3 + len(theirs)))

        def seen(frames: list[Frame]) -> list[Frame]:
            trades = [f["events"] for f in frames if f["channel"] == "market_trades"]
            updates = [events for events in trades if events[0]["type"] == "update"]
            return [e for e in updates if e[0]["trades"][0]["product_id"] == IDS[0]]

        assert seen(mine) == seen(theirs) != []

    play(script, duration_s=20.0)


def test_snapshots_have_no_time_and_updates_do() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        frames = await all_frames(exchange, socket)
        events = [e for f in frames if f["channel"] == "l2_data" for e in f["events"]]
        for event in events:
            times = {update["event_time"] for update in event["updates"]}
            assert len(times) == 1
            assert (times == {"1970-01-01T00:00:00Z"}) == (event["type"] == "snapshot")
            assert {update["side"] for update in event["updates"]} <= {"bid", "offer"}

    play(script, duration_s=5.0)


def test_acks_list_the_whole_set_and_only_a_fresh_subscription_gets_a_snapshot() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        async def request(kind: str, channel: str, *ids: str) -> list[Frame]:
            await ask(socket, kind, channel, *ids)
            return await until_ack(socket)

        frames = await request("subscribe", "heartbeats")
        assert subscriptions(frames[-1]) == {"heartbeats": ["heartbeats"]}
        frames = await request("subscribe", "level2", IDS[0])
        assert kinds(frames, "l2_data") == [("snapshot", IDS[0])]
        assert subscriptions(frames[-1]) == {"heartbeats": ["heartbeats"], "level2": [IDS[0]]}

        frames = await request("subscribe", "level2", *IDS)
        assert [k for k in kinds(frames, "l2_data") if k[0] == "snapshot"] == [("snapshot", IDS[1])]
        assert subscriptions(frames[-1])["level2"] == list(IDS)
        frames = await request("subscribe", "level2", *IDS)
        assert "snapshot" not in dict(kinds(frames, "l2_data"))

        frames = await request("unsubscribe", "level2", IDS[0])
        assert subscriptions(frames[-1])["level2"] == [IDS[1]]
        frames = await request("subscribe", "level2", IDS[0])
        assert ("snapshot", IDS[0]) in kinds(frames, "l2_data")
        await request("unsubscribe", "heartbeats")
        frames = await request("unsubscribe", "level2")
        assert subscriptions(frames[-1]) == {}

    play(script)


def ms_of(frame: Frame) -> int:
    return round(datetime.fromisoformat(frame["timestamp"]).timestamp() * 1_000)


def test_trades_name_the_makers_side_newest_first_every_250_ms_and_continue_the_history() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await ask(socket, "subscribe", "market_trades", "BTC-USD")
        await ask(socket, "subscribe", "level2", "BTC-USD")
        frames = [f for f in await until_closed(socket) if f["channel"] == "market_trades"]
        events = [frame["events"][0] for frame in frames]
        assert [event["type"] for event in events] == ["snapshot"] + ["update"] * 8
        batches = [[int(trade["trade_id"]) for trade in event["trades"]] for event in events]
        assert all(ids == sorted(ids, reverse=True) for ids in batches)
        ids = [id for batch in batches for id in batch[::-1]]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        # A second has 20 steps and 4 batches; a step has two trades.
        assert [len(batch) for batch in batches[2:]] == [10] * 7
        slots = [ms_of(frame) // 250 for frame in frames[1:]]
        assert len(set(slots)) == len(slots)
        for event in events:
            for trade in event["trades"]:
                # Who rests at the bid bought, who rests at the ask sold.
                assert trade["side"] == ("BUY" if trade["price"] == "99.99" else "SELL")
                assert (trade["time"] < "2026-01-05T00:00:00") == (event["type"] == "snapshot")

    play(script, TakenMarket(), duration_s=2.0)


@pytest.mark.parametrize("tick_s", [0.25, 1.0, 3.0])
def test_there_is_one_heartbeat_per_second_of_event_time(tick_s: float) -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        frames = await all_frames(exchange, socket)
        beats = [frame for frame in frames if frame["channel"] == "heartbeats"]
        counters = [frame["events"][0]["heartbeat_counter"] for frame in beats]
        assert counters == list(range(counters[0], counters[0] + 13))
        seconds = [datetime.fromisoformat(frame["timestamp"]).timestamp() for frame in beats]
        assert seconds == [seconds[0] + n for n in range(13)]
        times = [frame["timestamp"] for frame in frames]
        assert times == sorted(times)

    play(script, duration_s=12.0, market=FlowConfig(tick_s=tick_s))


def test_a_bad_message_gets_an_error_frame_and_the_socket_goes_on() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        for message, text in (
            ("not json", "subscribe or unsubscribe required"),
            (b"\xff\xfe", "subscribe or unsubscribe required"),
            ("[]", "subscribe or unsubscribe required"),
            ('{"type":"hello","channel":"level2"}', "subscribe or unsubscribe required"),
            ('{"type":"subscribe"}', "subscribe or unsubscribe required"),
            ('{"type":"subscribe","channel":"level2"}', "subscribe or unsubscribe required"),
            ('{"type":"subscribe","channel":"nonsense"}', "authentication failure"),
        ):
            await socket.send(message)
            assert await receive(socket) == {"type": "error", "message": text}
        await ask(socket, "subscribe", "level2", "NOPE-USD")
        assert (await receive(socket))["type"] == "error"
        await ask(socket, "subscribe", "heartbeats")
        assert (await receive(socket))["sequence_num"] == 0  # Refusals have no number.

    play(script)


def test_more_than_thirty_books_are_refused_and_the_socket_stays_open() -> None:
    ids = tuple(listed.id for listed in UNIVERSE[:31])

    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        refusal = {
            "type": "error",
            "message": "too many L2 streams requested in a single session",
        }
        await ask(socket, "subscribe", "level2", *ids)
        assert await receive(socket) == refusal
        await ask(socket, "subscribe", "market_trades", *ids)
        assert len(subscriptions((await until_ack(socket))[-1])["market_trades"]) == 31
        await ask(socket, "subscribe", "level2", *ids[:30])
        assert len(subscriptions((await until_ack(socket))[-1])["level2"]) == 30
        await ask(socket, "subscribe", "level2", ids[30])
        while (frame := await receive(socket)) != refusal:
            assert frame["channel"] in ("l2_data", "market_trades")
        await ask(socket, "unsubscribe", "level2", ids[0])
        await until_ack(socket)
        await ask(socket, "subscribe", "level2", ids[30])
        assert ("snapshot", ids[30]) in kinds(await until_ack(socket), "l2_data")

    play(script, StillMarket(ids))


@pytest.mark.parametrize("message", [None, "not json"])
def test_a_client_that_does_not_subscribe_in_time_is_closed(message: str | None) -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        if message is not None:
            await socket.send(message)
        with pytest.raises(ConnectionClosedError):
            await until_closed(socket)
        assert socket.close_code == 1008

    play(script, subscribe_deadline_s=0.1)


def test_the_world_waits_for_a_book_subscription_and_ends_for_everyone() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        start_ns = exchange.now_ns
        await ask(socket, "subscribe", "heartbeats")
        await until_ack(socket)
        await ask(socket, "subscribe", "market_trades", *IDS)
        await until_ack(socket)
        assert exchange.now_ns == start_ns
        await ask(socket, "subscribe", "level2", *IDS)
        await until_closed(socket)
        await exchange.finished()
        assert exchange.now_ns == start_ns + 8_000_000_000
        async with connect(exchange.url) as late:
            with pytest.raises(ConnectionClosedOK):
                await late.recv()

    play(script, duration_s=8.0)


def test_a_world_with_a_pace_keeps_to_it() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await all_frames(exchange, socket)
        assert loop.time() - began >= 19 / 100  # The last of 20 steps starts after 19 s.

    play(script, duration_s=20.0, speed=100.0)


def test_numbers_are_written_exactly() -> None:
    assert DecimalText(Decimal("0.00000001")).text(1) == "0.00000001"
    assert DecimalText(Decimal("0.01")).text(9_000_001) == "90000.01"
    assert DecimalText(Decimal("0.25")).text(5) == "1.25"
    assert DecimalText(Decimal("1")).text(10**16 + 1) == "10000000000000001"
    assert DecimalText(Decimal("0.01")).text(0) == "0"
    assert timestamp_text(1_767_571_200_000_000_007) == "2026-01-05T00:00:00.000000007Z"


def test_a_product_named_twice_is_refused() -> None:
    with pytest.raises(QuaverError, match="twice"):
        Exchange(ExchangeConfig(products=("BTC-USD", "BTC-USD")))


def test_a_client_that_vanishes_does_not_stop_the_others() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        async with connect(exchange.url, max_size=None) as other:
            await ask(other, "subscribe", "level2", *IDS)
            await until_ack(other)
            await ask(socket, "subscribe", "level2", *IDS)
            await until_ack(socket)
            other.transport.abort()
            frames = await until_closed(socket)
        assert socket.close_code == 1000
        assert frames[-1]["sequence_num"] - frames[0]["sequence_num"] == len(frames) - 1

    play(script, duration_s=500.0)


# Over the market of orders.

FLOW_IDS = ("XRP-USD", "STRK-USD")


def test_a_market_of_orders_is_conflated_batched_and_rebuilt_from_its_frames() -> None:
    frames: list[Frame] = []

    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        for channel in ("heartbeats", "market_trades", "level2"):
            await ask(socket, "subscribe", channel, *FLOW_IDS)
        frames.extend(await until_closed(socket))

    flow = FlowConfig(seed=3, activity=10.0)
    exchange = play(script, products=FLOW_IDS, market=flow, duration_s=20.0)
    assert [frame["sequence_num"] for frame in frames] == list(range(len(frames)))
    books: dict[str, Book] = {}
    slots: dict[tuple[str, str], list[int]] = {}
    for frame in frames:
        if frame["channel"] == "l2_data":
            apply(books, frame)
            book = books[frame["events"][0]["product_id"]]
            assert 0 < max(book["bid"]) < min(book["offer"])
            levels = [(u["side"], u["price_level"]) for u in frame["events"][0]["updates"]]
            assert len(levels) == len(set(levels))
        event = frame["events"][0]
        if event.get("type") == "update":
            name = event.get("product_id") or event["trades"][0]["product_id"]
            step_ms = 50 if frame["channel"] == "l2_data" else 250
            slots.setdefault((frame["channel"], name), []).append(ms_of(frame) // step_ms)
    assert books == {name: true_book(exchange, name) for name in FLOW_IDS}
    assert len(slots) == 4
    for taken in slots.values():
        assert len(taken) == len(set(taken)) > 5  # One frame of a product in a slot.


def test_the_status_channel_lists_every_product_again_and_again() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await ask(socket, "subscribe", "status")
        frames = await until_ack(socket)
        assert [row["id"] for row in frames[0]["events"][0]["products"]] == list(IDS)
        await ask(socket, "subscribe", "level2", IDS[0])
        frames = await until_closed(socket)
        rows = [f["events"][0]["products"] for f in frames if f["channel"] == "status"]
        assert len(rows) == 3  # At 0, 5 and 10 seconds.
        assert rows[0][0]["quote_increment"] == "0.001"

    play(script, duration_s=10.5)


def test_heartbeats_go_on_after_a_refusal_of_too_many_books() -> None:
    ids = tuple(listed.id for listed in UNIVERSE[:31])

    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await ask(socket, "subscribe", "heartbeats")
        await until_ack(socket)
        await ask(socket, "subscribe", "level2", *ids)
        while "type" not in await receive(socket):
            pass
        counters = [(await receive(socket))["events"][0]["heartbeat_counter"] for _ in range(3)]
        assert counters == [counters[0], counters[0] + 1, counters[0] + 2]
        assert socket.close_code is None

    async def with_another(exchange: Exchange, socket: ClientConnection) -> None:
        async with connect(exchange.url, max_size=None) as other:
            await ask(other, "subscribe", "level2", ids[0])
            read = asyncio.ensure_future(until_closed(other))
            try:
                await script(exchange, socket)
            finally:
                read.cancel()

    play(with_another, StillMarket(ids))


def test_a_connection_without_heartbeats_is_closed_when_there_is_nothing_to_say() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        async with connect(exchange.url) as beating:
            await ask(beating, "subscribe", "heartbeats")
            await until_ack(beating)
            await ask(beating, "subscribe", "level2", "BTC-USD")
            read = asyncio.ensure_future(until_closed(beating))
            await ask(socket, "subscribe", "level2", "BTC-USD")
            frames = []
            with pytest.raises(ConnectionClosedOK):
                while True:
                    frames.append(await receive(socket))
            closed_s = (exchange.now_ns - exchange.config.start_ns) / 10**9
            assert (socket.close_code, len(frames)) == (1001, 2)  # The snapshot and the ack.
            assert 60 <= closed_s <= 95
            assert beating.close_code is None
            assert len(exchange.clients) == 1
            read.cancel()

    play(script, StillMarket())


def test_a_world_with_a_speed_begins_with_the_first_subscription_of_any_channel() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await ask(socket, "subscribe", "heartbeats")
        await until_ack(socket)
        counters = [(await receive(socket))["events"][0]["heartbeat_counter"] for _ in range(3)]
        assert counters == [0, 1, 2]

    play(script, speed=100.0)


def test_a_market_by_the_clock_catches_up_with_it_and_waits_for_nobody() -> None:
    """Or latencies measured against it would hold what its preparation took."""
    start_ns = time.time_ns() - 20 * SECOND_NS

    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await ask(socket, "subscribe", "heartbeats")
        *_, last = await until_closed(socket)
        assert abs(time.time_ns() - time_ns(last["timestamp"])) < 5 * SECOND_NS
        # The duration is that after it has caught up.
        assert exchange.now_ns - start_ns >= 23 * SECOND_NS

    play(script, start_ns=start_ns, speed=1.0, by_the_clock=True, duration_s=3.0)
    with pytest.raises(ValueError, match="speed 1"):
        ExchangeConfig(products=IDS, by_the_clock=True, speed=None)


@pytest.mark.parametrize("speed", [None, 100.0])
def test_it_also_runs_on_uvloop_as_it_does_in_a_ray_actor(speed: float | None) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        config = ExchangeConfig(products=IDS, market=SECONDS, speed=speed)
        async with asyncio.timeout(30), Exchange(config) as exchange:
            async with connect(exchange.url, max_size=None) as socket:
                await ask(socket, "subscribe", "level2", IDS[0])
                assert ("snapshot", IDS[0]) in kinds(await until_ack(socket), "l2_data")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
