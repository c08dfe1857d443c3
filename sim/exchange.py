"""A simulated exchange: Coinbase Advanced Trade on loopback, market data and orders, with faults.

It speaks the venue's protocol (one channel per message, acks that list the whole set, one
sequence per connection over every numbered frame, refusals that leave the socket open) over a
market, so that a recorder or a trader runs against it unchanged.

All connections see one world, which advances in steps of event time. Requests are answered between
steps, under the lock that a step holds, so a snapshot is exactly the state before the next update
and numbers are given in the order of sending.
With `speed=None` the world goes as fast as its clients read and stands still while nobody holds
a `level2` subscription: a client that subscribes `heartbeats` and `market_trades` before `level2`
misses nothing. Every send waits for the client, so memory stays bounded. With a speed the world
starts with the first subscription or REST request; nobody is waited for, and a client with too
much unread is dropped.
"""

import asyncio
import http
import time
from random import Random
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as Handshake
from websockets.http11 import Response

from actors.connection_config import SIMULATED_SERVER
from market.errors import QuaverError
from sim.accounts import Accounts
from sim.auth import Keyring
from sim.desk import Desk
from sim.exchange_config import ExchangeConfig, market_of
from sim.faults import REST_KINDS, Fault, FaultKind, Schedule
from sim.ladder import Levels
from sim.limits import Limiter
from sim.market_feed import POLICY_VIOLATION, Client
from sim.orders import Broker
from sim.tape import Opened, Tape
from sim.wire import SECOND_NS, Frame, Request, parse
from sim.world import Market, World

LIMITED = "rate limit exceeded"  # The venue's own text is not known.
SEND_BUFFER_BYTES = 1 << 16
_UNLIMITED_BYTES = 1 << 30  # The most that uvloop, on which Ray actors run, can be told is 2 GiB.
_CLOSE_TIMEOUT_S = 1.0


class Exchange:
    """The server; use it as an async context manager, or `start` and `stop` it."""

    def __init__(self, config: ExchangeConfig, market: Market | None = None) -> None:
        self.config = config
        self.world = World(market or market_of(config), config.start_ns)
        self.now_ns = config.start_ns  # Event time, UTC.
        self.tape = Tape(config.tape)
        self.rest_faults: list[Fault] = []  # That the next requests meet.
        self.lock = asyncio.Lock()
        self.keys = Keyring(tuple(key for account in config.accounts for key in account.keys))
        self.broker: Broker | None = None
        if config.accounts:
            accounts = Accounts(config.accounts)
            engines = self.world.market.engines
            self.broker = Broker(self.world.listings, engines, accounts, config.fees)
        self._schedule = config.faults and Schedule(config.faults, config.start_ns)
        self._random = Random(f"{config.market.seed}:faults at the wire")
        self._connections, self._messages = (Limiter(config.per_address_per_s) for _ in range(2))
        self._desk = Desk(self.world, self.keys, self.broker)
        self._idle_ns = round(config.idle_close_s * SECOND_NS)
        self._begun = asyncio.Event()
        self._ended = False
        self._numbers = 0
        self._server: Server | None = None
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen on 127.0.0.1; the world waits for its first client, if not for the clock."""
        waits = self.config.speed is None
        try:
            self._server = await serve(
                self._serve,
                "127.0.0.1",
                self.config.port,
                compression=None,
                ping_interval=None,  # A client in a debugger is waited for.
                process_request=self._admit,
                server_header=SIMULATED_SERVER,
                write_limit=SEND_BUFFER_BYTES if waits else _UNLIMITED_BYTES,
                close_timeout=_CLOSE_TIMEOUT_S,
            )
        except OSError as e:
            raise QuaverError(
                f"the simulated exchange cannot listen on port {self.config.port}: {e.strerror}; "
                "choose another, or 0 for any free one"
            ) from None
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop the world and close every connection with 1001; raise what broke the world."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        for client in tuple(self.clients):
            if client.half_open:
                client.close(1006)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self.tape.close()
        if self._running is not None and not self._running.cancelled():
            self._running.result()

    async def finished(self) -> None:
        """Wait until `duration_s` has passed and every client was told; raise what broke the world.

        Clients must go on reading meanwhile. Returns early if the exchange is stopped.
        """
        if self._running is None:
            raise QuaverError("the simulated exchange has not been started")
        await asyncio.wait([self._running])
        if not self._running.cancelled():
            self._running.result()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    @property
    def clients(self) -> set[Client]:
        """All connections that are open."""
        return self._desk.clients

    @property
    def url(self) -> str:
        """Where clients connect; only after `start`."""
        if self._server is None:
            raise QuaverError("the simulated exchange has no address before it is started")
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    def book(self, product_id: str) -> tuple[Levels, Levels]:
        """Return copies of the full book now, bids and asks, in ticks and lots."""
        return self.world.book(product_id)

    def begin(self) -> None:
        """Let time pass, if it goes by itself; nothing if it does already."""
        self._begun.set()

    async def inject(self, fault: Fault) -> bool:
        """Let a fault happen; False if there is no connection that it could happen to."""
        async with self.lock:
            return await self._inject(fault)

    async def _inject(self, fault: Fault) -> bool:
        if fault.kind in REST_KINDS:
            self.rest_faults.extend([fault] * fault.count)
            return True
        fits = [c for c in self.clients if c.open and not c.half_open]
        if fault.connection is not None:
            fits = [client for client in fits if client.number == fault.connection]
        else:
            fits = [client for client in fits if "level2" in client.subscriptions]
        if not fits:
            return False
        client = self._random.choice(sorted(fits, key=lambda one: one.number))
        match fault.kind:
            case FaultKind.STALL:
                client.stall(fault, self.now_ns)
            case FaultKind.HALF_OPEN:
                client.cut(fault, self.now_ns)
                self._desk.note_interest()
            case FaultKind.CLOSE:
                client.log(fault.kind, self.now_ns, str(fault.code))
                client.close(fault.code)
                self._desk.forget(client)
            case FaultKind.SNAPSHOT:
                return await self._resend(client, fault)
            case _:
                client.arm(fault)
        return True

    async def _resend(self, client: Client, fault: Fault) -> bool:
        """Send snapshots that nobody asked for, of books and of trades; False if of none."""
        held = client.subscriptions.get("level2", [])
        ids = [id for id in held if fault.product_id in (None, id)]
        for id in self._random.sample(ids, min(fault.count, len(ids))):
            client.log(fault.kind, self.now_ns, id)
            for channel in ("level2", "market_trades"):
                if id in client.subscriptions.get(channel, []):
                    await self._desk.open(client, channel, [id], self.now_ns)
        return bool(ids)

    async def _run(self) -> None:
        config = self.config
        if config.by_the_clock:
            self.begin()
        await (self._desk.books_wanted if config.speed is None else self._begun).wait()
        late_ns = 0
        if config.by_the_clock:
            # A step is told at its end, as no frame may be dated later than it comes.
            late_ns = time.time_ns() - config.start_ns - self.world.step_ns
        end_ns = None
        if config.duration_s is not None:
            end_ns = config.start_ns + late_ns + round(config.duration_s * SECOND_NS)
        loop = asyncio.get_running_loop()
        began = loop.time() - late_ns / SECOND_NS
        at_ns = config.start_ns
        while end_ns is None or at_ns < end_ns:
            if config.speed is None:
                await self._desk.books_wanted.wait()
                await asyncio.sleep(0)
            else:
                due = began + (at_ns - config.start_ns) / SECOND_NS / config.speed
                await asyncio.sleep(max(0.0, due - loop.time()))
            async with self.lock:
                await self._step(at_ns)
            at_ns += self.world.step_ns
        async with self.lock:
            # The heartbeat at the very end closes the last beat for the clients.
            await self._publish(self.world.heartbeats(at_ns, at_ns + 1))
            self._ended = True
            for client in [one for one in self.clients if not one.half_open]:
                client.close(1000)
                await client.closed()

    async def _step(self, at_ns: int) -> None:
        self.now_ns = at_ns
        for client in tuple(self.clients):
            await client.pass_time(at_ns, self._idle_ns)
            if not client.open:
                self._desk.forget(client)
        if self._schedule and (fault := self._schedule.due(at_ns)):
            if await self._inject(fault):
                self._schedule.taken()
        await self._publish(self.world.step(at_ns, self._desk.is_wanted))
        await self.book_orders()

    async def book_orders(self) -> None:
        """Book what the engines did with customers' orders, and tell them; under the lock."""
        if self.broker and (changed := self.broker.book_fills(self.now_ns)):
            await self._desk.tell(changed, self.now_ns)

    async def _publish(self, frames: list[Frame]) -> None:
        for frame in frames:
            self.now_ns = frame.ns
            for client in tuple(self.clients):
                if client.wants(frame):
                    await client.publish(frame)
                    if not client.open:
                        self._desk.forget(client)

    def _admit(self, socket: ServerConnection, handshake: Handshake) -> Response | None:
        if self._connections.admits(_address(socket), time.monotonic()):
            return None
        return socket.respond(http.HTTPStatus.TOO_MANY_REQUESTS, f"{LIMITED}\n")

    async def _serve(self, socket: ServerConnection) -> None:
        waits = self.config.speed is None
        if waits:
            # A small buffer keeps the world close to what a slow client has read.
            wire = socket.transport.get_extra_info("socket")
            wire.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES)
        if self._ended:
            await socket.close(1000)
            return
        client = self._connected(socket, None if waits else self.config.max_unread_bytes)
        try:
            async with asyncio.timeout(self.config.subscribe_deadline_s) as deadline:
                async for message in socket:
                    request = self._read(socket, message)
                    if isinstance(request, Request) and request.type == "subscribe":
                        deadline.reschedule(None)
                        self.begin()
                    async with self.lock:
                        await self._desk.answer(client, request, self.now_ns)
        except TimeoutError:
            client.close(POLICY_VIOLATION, "no subscribe in time")
        except ConnectionClosed:
            pass
        finally:
            self._desk.forget(client)
            self.tape.closed(client.number)
            await client.closed()

    def _connected(self, socket: ServerConnection, max_unread_bytes: int | None) -> Client:
        self._numbers += 1
        random = Random(self._random.random())
        client = Client(
            self._numbers,
            socket,
            self.tape,
            random,
            self._above_best,
            max_unread_bytes,
            self.now_ns,
        )
        self._desk.clients.add(client)
        self.tape.opened(Opened(client.number, socket.remote_address[1], self.now_ns))
        return client

    def _read(self, socket: ServerConnection, message: str | bytes) -> Request | str:
        if not self._messages.admits(_address(socket), time.monotonic()):
            return LIMITED
        return parse(message, self.world.listings)

    def _above_best(self, product_id: str) -> tuple[str, str]:
        listing = self.world.listings[product_id]
        _, asks = self.book(product_id)
        return listing.price_text(min(asks, default=1) + 1), listing.size_text(1)


def _address(socket: ServerConnection) -> str:
    return str(socket.remote_address[0])
