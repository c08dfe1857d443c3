"""Faults do what their name says to one connection; the tape and its log say exactly what."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from market.errors import QuaverError
from market.products import product
from sim.exchange import Exchange
from sim.faults import (
    CLOSE_CODES,
    REST_KINDS,
    Fault,
    FaultConfig,
    FaultKind,
    Schedule,
    parse_schedule,
)
from sim.tape import IN_MEMORY, FaultDone, Tape, read_tape
from tests.sim.venue import (
    IDS,
    Api,
    Frame,
    TakenMarket,
    all_frames,
    ask,
    kinds,
    play,
    receive,
    trade,
    until_ack,
)

pytestmark = pytest.mark.slow


MINUTE_NS = 60 * 10**9
SPOILERS = (
    FaultKind.TRUNCATED,
    FaultKind.BAD_BYTES,
    FaultKind.MISSING_FIELD,
    FaultKind.WRONG_TYPE,
    FaultKind.OFF_GRID,
    FaultKind.CROSSED,
    FaultKind.CLOCK_JUMP,
)


async def subscribe(socket: ClientConnection, *ids: str) -> None:
    for channel in ("heartbeats", "market_trades", "level2"):
        await ask(socket, "subscribe", channel, *([] if channel == "heartbeats" else ids or IDS))


async def raw_until_closed(socket: ClientConnection) -> list[bytes]:
    frames = []
    try:
        while True:
            frames.append(await socket.recv(decode=False))
    except ConnectionClosed:
        return frames


def as_received(tape: Tape, number: int = 1) -> list[bytes]:
    """What a client got, told from the tape and its log alone."""
    log = {f.sequence_num: f for f in tape.faults if f.connection == number and f.true is not None}
    got: list[bytes] = []
    swapped: bytes | None = None
    for sequence_num, true in enumerate(tape.frames[number]):
        fault = log.get(sequence_num)
        if fault is not None and fault.kind == "reorder" and not fault.sent:
            assert fault.true == true
            swapped = true
            continue
        if fault is not None and not fault.kind.endswith("_trades"):
            assert fault.true == true
            sent = list(fault.sent)
        else:
            sent = [true]
        got += sent
        if swapped is not None and sent:
            got.append(swapped)
            swapped = None
    return got


def struck(fault: Fault, **changes: Any) -> tuple[list[bytes], Tape]:
    """The frames of a client whose connection meets a fault once its books are there."""
    frames: list[bytes] = []

    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await subscribe(socket)
        while json.loads(frame := await socket.recv(decode=False))["channel"] != "l2_data":
            frames.append(frame)
        frames.append(frame)
        assert await exchange.inject(fault)
        frames.extend(await raw_until_closed(socket))

    exchange = play(script, tape=IN_MEMORY, **{"duration_s": 30.0, **changes})
    return frames, exchange.tape


def events_of(frames: list[bytes]) -> list[Frame]:
    return [json.loads(frame) for frame in frames]


def test_without_faults_the_tape_is_what_was_received(tmp_path: Path) -> None:
    frames: list[bytes] = []

    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        async with connect(exchange.url, max_size=None) as other:
            await ask(other, "subscribe", "heartbeats")
            await until_ack(other)
            await subscribe(socket)
            theirs, mine = await asyncio.gather(raw_until_closed(other), raw_until_closed(socket))
            frames.extend(mine)
            assert len(theirs) == 21

    exchange = play(script, tape=str(tmp_path / "tape"), duration_s=20.0)
    tape = read_tape(tmp_path / "tape")
    assert tape.frames[1] == frames
    assert [json.loads(frame)["sequence_num"] for frame in tape.frames[2]] == list(range(22))
    assert (tape.faults, exchange.tape.frames) == ([], {})
    assert [opened.connection for opened in tape.connections] == [1, 2]
    with pytest.raises(QuaverError, match="another exchange"):
        Tape(str(tmp_path / "tape"))


@pytest.mark.parametrize(
    "kind", [FaultKind.DROP, FaultKind.DUPLICATE, FaultKind.REORDER, *SPOILERS]
)
@pytest.mark.parametrize("count", [1, 3])
def test_the_log_says_which_frames_were_harmed_and_how(kind: FaultKind, count: int) -> None:
    frames, tape = struck(Fault(kind=kind, count=count))
    assert frames == as_received(tape)
    assert frames != tape.frames[1]
    assert [fault.kind for fault in tape.faults] == [kind] * count
    assert numbers(tape.frames[1]) == list(range(len(tape.frames[1])))


def numbers(frames: list[bytes]) -> list[int]:
    return [json.loads(frame)["sequence_num"] for frame in frames]


def test_a_dropped_frame_leaves_a_hole_a_double_comes_twice_and_a_swap_swaps() -> None:
    frames, tape = struck(Fault(kind=FaultKind.DROP, count=2))
    (first, second) = (fault.sequence_num for fault in tape.faults)
    whole = list(range(len(tape.frames[1])))
    assert numbers(frames) == [n for n in whole if n not in (first, second)]
    frames, tape = struck(Fault(kind=FaultKind.DUPLICATE))
    at = tape.faults[0].sequence_num
    assert at is not None
    assert numbers(frames) == [*range(at + 1), *range(at, len(tape.frames[1]))]
    frames, tape = struck(Fault(kind=FaultKind.REORDER))
    at = tape.faults[0].sequence_num
    assert at is not None
    assert numbers(frames) == [*range(at), at + 1, at, *range(at + 2, len(tape.frames[1]))]


def test_spoiled_frames_are_spoiled_as_their_kind_says() -> None:
    def harmed(kind: FaultKind) -> tuple[bytes, bytes]:
        frames, tape = struck(Fault(kind=kind, product_id=IDS[0]))
        fault = tape.faults[0]
        assert fault.true is not None and fault.sent[0] in frames and fault.true not in frames
        return fault.true, fault.sent[0]

    true, sent = harmed(FaultKind.TRUNCATED)
    assert true.startswith(sent) and len(sent) < len(true)
    true, sent = harmed(FaultKind.BAD_BYTES)
    with pytest.raises(UnicodeDecodeError):
        sent.decode()
    for kind in (FaultKind.MISSING_FIELD, FaultKind.WRONG_TYPE):
        true, sent = harmed(kind)
        assert json.loads(sent) != json.loads(true)
    true, sent = harmed(FaultKind.OFF_GRID)
    prices = [update["price_level"] for update in json.loads(sent)["events"][0]["updates"]]
    off = [price for price in prices if Decimal(price) % product(IDS[0]).quote_increment]
    assert len(off) == 1
    true, sent = harmed(FaultKind.CLOCK_JUMP)
    said, real = json.loads(sent), json.loads(true)
    assert said.pop("timestamp")[17:19] == f"{int(real.pop('timestamp')[17:19]) + 5:02d}"
    assert said == real


def test_a_crossed_frame_leaves_the_book_crossed() -> None:
    frames, tape = struck(Fault(kind=FaultKind.CROSSED, product_id=IDS[0]))
    book: dict[str, dict[Decimal, Decimal]] = {}
    crossings = []
    for number, frame in enumerate(events_of(frames)):
        for event in frame["events"] if frame["channel"] == "l2_data" else []:
            if event["product_id"] != IDS[0]:
                continue
            if event["type"] == "snapshot":
                book = {"bid": {}, "offer": {}}
            for update in event["updates"]:
                side, price = book[update["side"]], Decimal(update["price_level"])
                side[price] = Decimal(update["new_quantity"])
                if not side[price]:
                    del side[price]
            if max(book["bid"]) >= min(book["offer"]):
                crossings.append(number)
    assert crossings[0] == tape.faults[0].sequence_num


def test_a_stalled_socket_is_silent_and_then_sends_everything() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        async with connect(exchange.url, max_size=None) as other:
            await subscribe(socket)
            await until_ack(socket)
            assert await exchange.inject(Fault(kind=FaultKind.STALL, connection=1, seconds=15.0))
            stalled_ns = exchange.now_ns
            await subscribe(other)
            theirs, mine = await asyncio.gather(raw_until_closed(other), raw_until_closed(socket))
        assert theirs and numbers(mine)[-1] == len(exchange.tape.frames[1]) - 1
        assert [*numbers(mine)] == list(range(numbers(mine)[0], numbers(mine)[-1] + 1))
        assert exchange.tape.faults[0].ns == stalled_ns

    play(script, tape=IN_MEMORY, duration_s=40.0)


def test_nothing_comes_during_a_stall() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await subscribe(socket)
        for _ in range(3):
            await until_ack(socket)
        # The stall outlasts the market, so what was not sent before the end never comes.
        assert await exchange.inject(Fault(kind=FaultKind.STALL, seconds=10_000.0))
        first = exchange.tape.faults[0].sequence_num
        frames = await raw_until_closed(socket)
        assert all(number < (first or 0) for number in numbers(frames))
        assert len(exchange.tape.frames[1]) > (first or 0) + 100

    play(script, tape=IN_MEMORY, duration_s=60.0)


def test_a_half_open_socket_says_nothing_more_and_is_not_closed() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        async with connect(exchange.url, max_size=None) as other:
            await subscribe(socket)
            for _ in range(3):
                await until_ack(socket)
            await subscribe(other)
            assert await exchange.inject(Fault(kind=FaultKind.HALF_OPEN, connection=1))
            last = exchange.tape.faults[0].sequence_num
            rest = asyncio.ensure_future(raw_until_closed(socket))
            assert await raw_until_closed(other)
            await exchange.finished()
            assert not rest.done() and socket.close_code is None
            await socket.send("anyone?")
            socket.transport.abort()
            assert all(number < (last or 0) for number in numbers(await rest))
        assert not await exchange.inject(Fault(kind=FaultKind.DROP, connection=1))

    play(script, duration_s=20.0)


@pytest.mark.parametrize("code", CLOSE_CODES)
def test_a_connection_is_closed_with_the_code_asked_for(code: int) -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await subscribe(socket)
        await until_ack(socket)
        assert await exchange.inject(Fault(kind=FaultKind.CLOSE, code=code))
        await raw_until_closed(socket)
        assert socket.close_code == code
        async with connect(exchange.url, max_size=None) as again:
            await ask(again, "subscribe", "heartbeats")
            assert (await receive(again))["sequence_num"] == 0

    play(script)


def test_a_refused_subscription_gets_an_error_and_no_book_and_heartbeats_go_on() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await ask(socket, "subscribe", "heartbeats")
        await until_ack(socket)
        async with connect(exchange.url, max_size=None) as other:
            assert await exchange.inject(Fault(kind=FaultKind.REFUSE, connection=1))
            await ask(socket, "subscribe", "level2", *IDS)
            assert await receive(socket) == {
                "type": "error",
                "message": "too many L2 streams requested in a single session",
            }
            await subscribe(other)
            read = asyncio.ensure_future(raw_until_closed(other))
            assert (await receive(socket))["channel"] == "heartbeats"
            await ask(socket, "subscribe", "level2", *IDS)
            assert ("snapshot", IDS[0]) in kinds(await until_ack(socket), "l2_data")
            read.cancel()
        assert [fault.kind for fault in exchange.tape.faults] == ["refuse"]

    play(script)


def test_a_snapshot_that_nobody_asked_for_comes_in_mid_stream_and_is_true() -> None:
    frames, tape = struck(Fault(kind=FaultKind.SNAPSHOT, product_id=IDS[0]))
    assert frames == tape.frames[1]
    read = events_of(frames)
    assert kinds(read, "l2_data").count(("snapshot", IDS[0])) == 2
    assert kinds(read, "market_trades").count(("snapshot", IDS[0])) == 2
    at = tape.faults[0].sequence_num
    assert at is not None and read[at]["events"][0]["type"] == "snapshot"


def trade_ids(frames: list[bytes]) -> list[int]:
    """Those of the updates of the first product in order of arrival."""
    ids = []
    for frame in events_of(frames):
        event = frame["events"][0]
        if frame["channel"] == "market_trades" and event["type"] == "update":
            ids += [int(t["trade_id"]) for t in event["trades"][::-1] if t["product_id"] == IDS[0]]
    return ids


def test_missing_trades_leave_a_hole_in_their_ids_and_none_in_the_sequence() -> None:
    fault = Fault(kind=FaultKind.MISSING_TRADES, product_id=IDS[0])
    frames, tape = struck(fault)
    assert frames == tape.frames[1]
    assert numbers(frames) == list(range(len(frames)))
    ids = trade_ids(frames)
    holes = set(range(ids[0], ids[-1] + 1)) - set(ids)
    omitted = b'{"channel":"market_trades"' + (tape.faults[0].true or b"")
    trades = json.loads(omitted)["events"][0]["trades"]
    assert {int(trade["trade_id"]) for trade in trades} >= holes
    assert holes or min(int(trade["trade_id"]) for trade in trades) < ids[0]


def test_late_trades_come_all_but_out_of_order() -> None:
    frames, tape = struck(Fault(kind=FaultKind.LATE_TRADES, product_id=IDS[0], seconds=6.0))
    assert numbers(frames) == list(range(len(frames)))
    times = [frame["timestamp"] for frame in events_of(frames)]
    assert times == sorted(times)
    ids = trade_ids(frames)
    assert sorted(ids) == list(range(min(ids), max(ids) + 1))
    assert ids != sorted(ids)
    assert [fault.kind for fault in tape.faults] == ["late_trades"]


def test_a_fault_that_finds_no_connection_is_not_counted_as_done() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await ask(socket, "subscribe", "heartbeats")
        await until_ack(socket)
        assert not await exchange.inject(Fault(kind=FaultKind.DROP))  # It has no books.
        assert not await exchange.inject(Fault(kind=FaultKind.DROP, connection=9))
        assert exchange.tape.faults == []

    play(script)


def test_a_schedule_draws_every_kind_equally_often_at_its_rate_and_the_same_for_a_seed() -> None:
    def drawn(seed: int) -> list[tuple[int, Fault]]:
        schedule, found = Schedule(FaultConfig(seed=seed, rate_per_minute=30.0), 0), []
        for ns in range(0, 44 * MINUTE_NS, 10**9 // 20):
            if fault := schedule.due(ns):
                found.append((ns, fault))
                schedule.taken()
        return found

    faults = drawn(3)
    assert faults == drawn(3) != drawn(4)
    assert 1100 < len(faults) < 1540  # 1320 expected; six standard deviations are 218.
    rounds = len(faults) // len(FaultKind)
    counts = [sum(fault.kind is kind for _, fault in faults) for kind in FaultKind]
    assert set(counts) <= {rounds, rounds + 1}
    closes = {fault.code for _, fault in faults if fault.kind is FaultKind.CLOSE}
    assert closes == set(CLOSE_CODES)
    jumps = [fault.seconds for _, fault in faults if fault.kind is FaultKind.CLOCK_JUMP]
    assert min(jumps) < 0 < max(jumps)


def test_a_schedule_strikes_by_itself_and_everything_it_did_is_in_the_log() -> None:
    kinds = (*SPOILERS, FaultKind.DROP, FaultKind.DUPLICATE, FaultKind.SNAPSHOT)
    frames: list[bytes] = []

    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await subscribe(socket)
        frames.extend(await raw_until_closed(socket))

    config = FaultConfig(seed=5, rate_per_minute=20.0, kinds=kinds)
    exchange = play(script, tape=IN_MEMORY, duration_s=300.0, faults=config)
    assert frames == as_received(exchange.tape)
    assert {fault.kind for fault in exchange.tape.faults} == set(kinds)


@pytest.mark.parametrize("text", ["", "7", "7:", "x:1", "1:0", "-1:5", "1:-2", "1:2:3"])
def test_a_schedule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(QuaverError, match="SEED:RATE"):
        parse_schedule(text)


def test_a_fault_from_outside_is_checked() -> None:
    assert msgspec.json.decode(b'{"kind":"drop"}', type=Fault) == Fault(kind=FaultKind.DROP)
    for wrong in (
        b'{"kind":"nonsense"}',
        b'{"kind":"close","code":1005}',
        b'{"kind":"stall","seconds":-1}',
        b'{"kind":"drop","count":0}',
        b'{"kind":"rest_500","count":1000000000}',
        b'{"kind":"drop","frames":2}',
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=Fault)


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind not in REST_KINDS])
def test_every_fault_of_a_connection_can_be_had_over_http(kind: FaultKind) -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        struck, note = asyncio.Event(), exchange.tape.fault

        def noted(done: FaultDone) -> None:
            note(done)
            struck.set()

        exchange.tape.fault = noted  # type: ignore[method-assign]

        async def inject(**fault: Any) -> tuple[int, Any]:
            url = f"{api.url}/sim/faults"
            async with api.session.post(url, json=fault) as answer:
                return answer.status, await answer.json()

        wanted = {"kind": kind, "product_id": "BTC-USD", "connection": 1, "seconds": 1.0}
        assert await inject(**wanted) == (200, {"injected": False})  # Nobody is there.
        async with connect(exchange.url, max_size=None, close_timeout=0.2) as socket:
            await subscribe(socket, "BTC-USD")
            for _ in range(3):
                await until_ack(socket)
            assert (await inject(**wanted | {"product_id": "NOPE-USD"}))[0] == 400
            assert await inject(**wanted, code=1011) == (200, {"injected": True})
            if kind is FaultKind.REFUSE:
                await ask(socket, "subscribe", "status")
            read = asyncio.ensure_future(raw_until_closed(socket))
            await struck.wait()
            socket.transport.abort()
            await read
        assert [fault.kind for fault in exchange.tape.faults] == [kind]

    trade(script, TakenMarket())


def test_a_snapshot_of_a_book_that_is_not_held_is_not_sent() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        await subscribe(socket, IDS[0])
        for _ in range(3):
            await until_ack(socket)
        assert not await exchange.inject(Fault(kind=FaultKind.SNAPSHOT, product_id=IDS[1]))
        assert exchange.tape.faults == []

    play(script)


def test_a_client_that_does_not_read_is_dropped_and_the_others_are_not() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        async with connect(exchange.url, max_size=None, max_queue=1, close_timeout=0) as slow:
            slow.transport.pause_reading()
            await subscribe(slow)
            await subscribe(socket)
            while exchange.tape.frames.get(2) is None or len(exchange.clients) > 1:
                await socket.recv()
            for _ in range(100):
                await socket.recv()

    play(script, tape=IN_MEMORY, speed=2_000.0, max_unread_bytes=100_000)


def test_an_address_is_held_to_its_rate_of_connections_and_messages() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        for _ in range(3):
            await ask(socket, "subscribe", "heartbeats")
            assert (await receive(socket))["channel"] == "subscriptions"
        await ask(socket, "subscribe", "market_trades", *IDS)
        assert (await receive(socket))["type"] == "error"
        async with connect(exchange.url), connect(exchange.url):
            with pytest.raises(InvalidStatus) as refused:
                await connect(exchange.url)
        assert refused.value.response.status_code == 429

    play(script, per_address_per_s=3)


def test_a_tape_of_all_frames_is_numbered_from_zero() -> None:
    async def script(exchange: Exchange, socket: ClientConnection) -> None:
        frames = await all_frames(exchange, socket)
        taped = [json.loads(frame) for frame in exchange.tape.frames[1]]
        assert taped == frames

    play(script, tape=IN_MEMORY, duration_s=5.0)
