"""A simulated exchange: Coinbase Advanced Trade market data, on a real websocket on loopback.

It speaks the venue's protocol (one channel per message, acks that list the whole set, one
sequence per connection over every numbered frame, refusals that leave the socket open) over a
`SyntheticMarket`, so that a recorder or a trader runs against it unchanged.

All connections see one world. It advances in steps of event time, and starts with the first
`level2` subscription: a client that subscribes `heartbeats` and `market_trades` before `level2`
misses nothing. Requests are answered between steps, under the lock that a step holds, so a
snapshot is exactly the state before the next update and numbers are given in the order of sending.
With `speed=None` the world goes as fast as its clients read and stands still while nobody holds
a `level2` subscription; every send waits for the client, so memory stays bounded.
"""

import asyncio
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Annotated, NamedTuple, Self

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from market.errors import QuaverError
from market.products import product
from sim.market_model import Change, Levels, MarketConfig, SyntheticMarket
from sim.wire import (
    SECOND_NS,
    Envelope,
    ErrorFrame,
    Listing,
    Request,
    TradeRow,
    heartbeat_events,
    parse,
    timestamp_text,
    trades_events,
)

MAX_LEVEL2_PRODUCTS = 30
WARM_UP_STEPS = 60  # Steps before the start, so that there is a history of trades.
DEFAULT_START_NS = 1_767_571_200 * SECOND_NS  # 2026-01-05T00:00:00Z
TOO_MANY = "too many L2 streams requested in a single session"
POLICY_VIOLATION = 1008
SEND_BUFFER_BYTES = 1 << 16


class ExchangeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the simulated exchange trades and how fast its time passes."""

    products: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    market: MarketConfig = MarketConfig()
    start_ns: Annotated[int, msgspec.Meta(ge=0, description="event time of the start, UTC")] = (
        DEFAULT_START_NS
    )
    duration_s: Annotated[
        float | None, msgspec.Meta(gt=0, description="event time to run, none: until stopped")
    ] = None
    speed: Annotated[
        float | None,
        msgspec.Meta(gt=0, description="event seconds per second, none: as fast as clients read"),
    ] = 1.0
    subscribe_deadline_s: Annotated[
        float, msgspec.Meta(gt=0, description="time from connecting to the first subscribe")
    ] = 5.0


class _Frame(NamedTuple):
    """A frame of the world, before it gets a connection's number."""

    ns: int
    channel: str  # As subscribed to.
    product_id: str | None
    events: msgspec.Raw


class _Connection:
    """One client: what it is subscribed to, and its sequence."""

    def __init__(self, socket: ServerConnection) -> None:
        self.subscriptions: dict[str, list[str]] = {}
        self._socket = socket
        self._sequence_num = 0

    def wants(self, frame: _Frame) -> bool:
        ids = self.subscriptions.get(frame.channel)
        return ids is not None and (frame.product_id is None or frame.product_id in ids)

    async def send(self, channel: str, ns: int, events: msgspec.Raw) -> None:
        frame = Envelope(channel, timestamp_text(ns), self._sequence_num, events)
        self._sequence_num += 1
        await self._socket.send(msgspec.json.encode(frame), text=True)

    async def refuse(self, message: str) -> None:
        await self._socket.send(msgspec.json.encode(ErrorFrame(message)), text=True)

    async def close(self, code: int, reason: str = "") -> None:
        await self._socket.close(code, reason)


class Exchange:
    """The server; use it as an async context manager, or `start` and `stop` it."""

    def __init__(self, config: ExchangeConfig) -> None:
        self.config = config
        self._listings = {id: Listing(product(id)) for id in config.products}
        if len(self._listings) < len(config.products):
            raise QuaverError("the simulated exchange was given a product twice; name each once")
        self._market = SyntheticMarket(
            [listing.product for listing in self._listings.values()], config.market
        )
        self._step_ns = round(config.market.step_s * SECOND_NS)
        if self._step_ns == 0:
            raise QuaverError("market.step_s must be at least one nanosecond")
        for back in range(WARM_UP_STEPS, 0, -1):
            self._advance_market(config.start_ns - back * self._step_ns)
        self.now_ns = config.start_ns  # Event time of the newest frame, UTC.
        self._connections: set[_Connection] = set()
        self._lock = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._ended = False
        self._server: Server | None = None
        self._world: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen on 127.0.0.1; the world waits for the first `level2` subscription."""
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,  # Any free port.
            compression=None,
            ping_interval=None,  # A client that is slow, or stopped in a debugger, is waited for.
        )
        self._world = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop the world and close every connection with 1001; raise what broke the world."""
        if self._world is not None:
            self._world.cancel()
            await asyncio.wait([self._world])
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        if self._world is not None and not self._world.cancelled():
            self._world.result()

    async def finished(self) -> None:
        """Wait until `duration_s` has passed and every client was told; raise what broke the world.

        Clients must go on reading meanwhile. Returns early if the exchange is stopped.
        """
        if self._world is None:
            raise QuaverError("the simulated exchange has not been started")
        await asyncio.wait([self._world])
        if not self._world.cancelled():
            self._world.result()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where clients connect; only after `start`."""
        if self._server is None:
            raise QuaverError("the simulated exchange has no address before it is started")
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    def book(self, product_id: str) -> tuple[Levels, Levels]:
        """Return copies of the full book now, bids and asks, in ticks and lots."""
        return self._market.book(self.config.products.index(product_id))

    async def _run(self) -> None:
        config = self.config
        end_ns = None
        if config.duration_s is not None:
            end_ns = config.start_ns + round(config.duration_s * SECOND_NS)
        await self._wanted.wait()
        loop = asyncio.get_running_loop()
        began = loop.time()
        at_ns = config.start_ns
        while end_ns is None or at_ns < end_ns:
            if config.speed is None:
                await self._wanted.wait()
                await asyncio.sleep(0)
            else:
                due = began + (at_ns - config.start_ns) / SECOND_NS / config.speed
                await asyncio.sleep(max(0.0, due - loop.time()))
            async with self._lock:
                await self._publish(self._step_frames(at_ns))
            at_ns += self._step_ns
        async with self._lock:
            # The heartbeat at the very end closes the last beat for the clients.
            await self._publish(self._heartbeats(at_ns, at_ns + 1))
            self._ended = True
            for connection in tuple(self._connections):
                await connection.close(1000)

    def _step_frames(self, at_ns: int) -> list[_Frame]:
        """Advance the market by one step; return its frames in order of event time."""
        frames = self._heartbeats(at_ns, at_ns + self._step_ns)
        gap_ns = self._step_ns // (2 * len(self._listings) + 2)
        moved = self._advance_market(at_ns)
        # Trades come later than the book changes that they caused, as at the venue.
        for place, (listing, changes, _) in enumerate(moved):
            if changes:
                events = listing.updates(changes, at_ns)
                ns = at_ns + (place + 1) * gap_ns
                frames.append(_Frame(ns, "level2", listing.product.id, events))
        for place, (listing, _, rows) in enumerate(moved):
            if rows:
                ns = at_ns + (len(moved) + place + 1) * gap_ns
                events = trades_events("update", rows)
                frames.append(_Frame(ns, "market_trades", listing.product.id, events))
        return sorted(frames, key=lambda frame: frame.ns)

    def _advance_market(self, at_ns: int) -> list[tuple[Listing, list[Change], list[TradeRow]]]:
        return [
            (listing, step.changes, listing.record(step.trades, at_ns))
            for listing, step in zip(self._listings.values(), self._market.step(), strict=True)
        ]

    def _heartbeats(self, from_ns: int, to_ns: int) -> list[_Frame]:
        """Return a heartbeat for each whole second since the start that lies in [from, to)."""
        start_ns = self.config.start_ns
        first = -((start_ns - from_ns) // SECOND_NS)
        last = -((start_ns - to_ns) // SECOND_NS)
        frames = []
        for counter in range(first, last):
            ns = start_ns + counter * SECOND_NS
            frames.append(_Frame(ns, "heartbeats", None, heartbeat_events(ns, counter)))
        return frames

    async def _publish(self, frames: list[_Frame]) -> None:
        for frame in frames:
            self.now_ns = frame.ns
            channel = "l2_data" if frame.channel == "level2" else frame.channel
            for connection in tuple(self._connections):
                if connection.wants(frame):
                    try:
                        await connection.send(channel, frame.ns, frame.events)
                    except ConnectionClosed:
                        self._forget(connection)

    async def _serve(self, socket: ServerConnection) -> None:
        # A small buffer keeps the world close to what a slow client has read.
        wire = socket.transport.get_extra_info("socket")
        wire.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES)
        connection = _Connection(socket)
        if self._ended:
            await connection.close(1000)
            return
        self._connections.add(connection)
        try:
            async with asyncio.timeout(self.config.subscribe_deadline_s) as deadline:
                async for message in socket:
                    request = parse(message, self._listings)
                    if isinstance(request, Request) and request.type == "subscribe":
                        deadline.reschedule(None)
                    async with self._lock:
                        await self._answer(connection, request)
        except TimeoutError:
            await connection.close(POLICY_VIOLATION, "no subscribe in time")
        except ConnectionClosed:
            pass
        finally:
            self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._note_interest()

    def _note_interest(self) -> None:
        if any("level2" in connection.subscriptions for connection in self._connections):
            self._wanted.set()
        else:
            self._wanted.clear()

    async def _answer(self, connection: _Connection, request: Request | str) -> None:
        if isinstance(request, str):
            await connection.refuse(request)
            return
        channel = request.channel
        held = connection.subscriptions.get(channel, [])
        if request.type == "unsubscribe":
            left = [id for id in held if request.product_ids and id not in request.product_ids]
            self._subscribe(connection, channel, left)
        else:
            fresh = [id for id in dict.fromkeys(request.product_ids) if id not in held]
            if channel == "level2" and len(held) + len(fresh) > MAX_LEVEL2_PRODUCTS:
                await connection.refuse(TOO_MANY)
                return
            self._subscribe(connection, channel, held + fresh)
            await self._send_snapshots(connection, channel, fresh)
        ack = [{"subscriptions": connection.subscriptions}]
        await connection.send("subscriptions", self.now_ns, msgspec.Raw(msgspec.json.encode(ack)))

    def _subscribe(self, connection: _Connection, channel: str, ids: list[str]) -> None:
        if ids:
            connection.subscriptions[channel] = ids
        else:
            connection.subscriptions.pop(channel, None)
        self._note_interest()

    async def _send_snapshots(self, connection: _Connection, channel: str, ids: list[str]) -> None:
        """Send what a fresh subscription starts with; like the venue, it may precede the ack."""
        for id in ids:
            if channel == "level2":
                events = self._listings[id].snapshot(*self.book(id))
                await connection.send("l2_data", self.now_ns, events)
            elif channel == "market_trades":
                events = trades_events("snapshot", self._listings[id].history)
                await connection.send("market_trades", self.now_ns, events)
