"""One websocket to Advanced Trade: subscribe, read, watch, resubscribe, reconnect.

The connection hands every frame to its reader and the events on; it decides nothing about books
but asks again for one that is no longer known (section 2, rule 5). Reading never waits: requests
are sent at the host's pace, and silence is watched for, beside it.
"""

import asyncio
import contextlib
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, WebSocketException

from actors.awake import AwakeClock
from actors.connection_config import (
    ConnectionConfig,
    ConnectionState,
    ConnectionStatus,
    check_url,
    paces,
)
from actors.notices import Ack, ErrorFrame, read_notice
from actors.reader import Events, Reader
from actors.subscriptions import Request, Subscriptions
from market.errors import QuaverError

MAX_LEVEL2_PRODUCTS = 25  # The venue refuses a 31st product on a connection, then stays silent.
_MAX_FRAME_BYTES = 64 << 20  # A BTC-USD snapshot alone is about 5 MB.
_FIRST_BACKOFF_S = 0.5
_LOOK_S = 0.25  # Missing books are looked for at least this often.
_NOT_TOLD = 1006  # The close code of a socket that was lost without one.
_LOST = (WebSocketException, OSError, TimeoutError)  # An OSError is also what TLS refuses.


class Connection:
    """Reads the products of one reader until cancelled, whatever happens to the socket.

    `on_server` is told what each server that it reaches calls itself, before any frame of it. While
    `paused` no book is asked for. `tls` replaces the machine's trusted certificates.
    """

    def __init__(
        self,
        url: str,
        product_ids: list[str],
        reader: Reader,
        on_events: Callable[[Events], None],
        synced: Callable[[str], bool],
        config: ConnectionConfig,
        *,
        on_server: Callable[[str], None] = lambda name: None,
        paused: Callable[[], bool] = lambda: False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not 0 < len(product_ids) <= MAX_LEVEL2_PRODUCTS:
            raise QuaverError(
                f"a connection takes 1 to {MAX_LEVEL2_PRODUCTS} products, got {len(product_ids)}"
            )
        check_url(url)
        self.last_error: str | None = None
        self._url = url
        self._product_ids = product_ids
        self._reader = reader
        self._on_events = on_events
        self._synced = synced
        self._on_server = on_server
        self._config = config
        self._paused = paused
        self._tls: dict[str, Any] = {"ssl": tls} if tls else {}
        self._connects, self._messages = paces(url, config)
        # Left to sockets that have not asked for anything, which the venue closes after 5 s.
        self._leave = config.messages_per_s // 4
        self._subscriptions = Subscriptions(product_ids, synced, config.snapshot_s)
        self._awake = AwakeClock(min(_LOOK_S, config.silence_s / 4))
        self._enter(ConnectionState.WAITING)
        self._opened = 0
        self._disconnects: Counter[int] = Counter()
        self._errors: Counter[str] = Counter()
        self._books: set[str] = set()  # Those known when last looked at.
        self._frames = 0  # Of this socket.
        self._last_frame_s: float | None = None
        self._book_came = False  # On this socket.
        self._gave_up: str | None = None  # Why we broke this socket ourselves.
        self._news = asyncio.Event()  # Something for the minder to look at.

    def status(self) -> ConnectionStatus:
        """Return what the connection is doing."""
        now, last = time.monotonic(), self._last_frame_s
        return ConnectionStatus(
            state=self.state,
            in_state_s=now - self._since_s,
            products=len(self._product_ids),
            synced=sum(map(self._synced, self._product_ids)),
            subscribed=self._subscriptions.acknowledged,
            connects=self._opened,
            disconnects=dict(self._disconnects),
            errors=dict(self._errors),
            last_error=self.last_error,
            last_frame_age_s=None if last is None else now - last,
        )

    async def run(self) -> None:
        """Stay connected; return once the venue has closed for good (`follow_end`).

        What `on_events` raises goes to the caller, whatever it is.
        """
        failures = 0
        try:
            while True:
                lost = await self._session()
                if self._config.follow_end and isinstance(lost, ConnectionClosedOK):
                    self._enter(ConnectionState.CLOSED_BY_VENUE)
                    return
                self._lost(lost)
                # A venue that accepts and then refuses counts as failing, however often it answers.
                failures = 0 if self._book_came else failures + 1
                self._enter(ConnectionState.BACKING_OFF)
                # Full jitter, so that many connections that were lost together come back apart.
                bound_s = min(self._config.max_backoff_s, _FIRST_BACKOFF_S * 2 ** min(failures, 16))
                await asyncio.sleep(random.uniform(0, bound_s))
        finally:
            if self.state is not ConnectionState.CLOSED_BY_VENUE:
                self._enter(ConnectionState.STOPPED)

    async def _session(self) -> Exception:
        """Live through one socket; return how it was lost, or why there is none."""
        self._subscriptions.begin()
        self._frames, self._book_came, self._gave_up = 0, False, None
        # Ready before connecting: the venue waits five seconds for the first.
        requests = self._subscriptions.first(with_books=not self._paused())
        self._enter(ConnectionState.WAITING)
        try:
            await self._connects.turn()
            self._enter(ConnectionState.CONNECTING)
            socket = await connect(
                self._url,
                max_size=_MAX_FRAME_BYTES,
                compression=None,
                open_timeout=self._config.open_s,
                ping_interval=self._config.ping_s,
                ping_timeout=self._config.ping_s,
                close_timeout=1,
                **self._tls,
            )
        except _LOST as e:
            return e
        self._opened += 1
        self._on_server(socket.response.headers.get("Server", "") if socket.response else "")
        self._enter(ConnectionState.SUBSCRIBING)
        helpers = [
            asyncio.create_task(self._mind(socket, requests)),
            asyncio.create_task(self._watch(socket)),
        ]
        try:
            return await self._read(socket)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(socket.close(), *helpers, return_exceptions=True)
            for helper in helpers:
                if not helper.cancelled():
                    helper.result()

    def _lost(self, e: Exception) -> None:
        """Note how the socket was lost, or that none could be opened."""
        if self.state in (ConnectionState.WAITING, ConnectionState.CONNECTING):
            self._errors["connect"] += 1
        else:
            told = e.rcvd if isinstance(e, ConnectionClosed) else None
            self._disconnects[told.code if told else _NOT_TOLD] += 1
        self.last_error = self._gave_up or f"{type(e).__name__}: {e}"
        if self._frames:
            self._on_events(self._reader.disconnected(time.time_ns()))
        self._books.clear()

    async def _read(self, socket: ClientConnection) -> Exception:
        """Read until the socket is lost; return how."""
        while True:
            try:
                data = await socket.recv(decode=False)
            except ConnectionClosed as e:
                return e
            self._last_frame_s = time.monotonic()
            self._frames += 1
            if notice := read_notice(data):
                self._on_notice(notice)
            gaps = self._reader.counts["gaps"]
            events = self._reader.frame(data, time.time_ns())
            self._on_events(events)
            if self._reader.counts["gaps"] != gaps:
                self._subscriptions.doubt_snapshots()
                self._news.set()
            if self._frames == 1 or any(
                self._synced(product_id) != (product_id in self._books) for product_id, _ in events
            ):
                self._look()

    def _look(self) -> None:
        """Note which books are known; tell the minder."""
        self._books = {p for p in self._product_ids if self._synced(p)}
        self._book_came = self._book_came or bool(self._books)
        self._subscriptions.note_books()
        whole = len(self._books) == len(self._product_ids)
        self._enter(ConnectionState.STREAMING if whole else ConnectionState.SYNCING)
        self._news.set()

    def _on_notice(self, notice: Ack | ErrorFrame) -> None:
        if isinstance(notice, Ack):
            self._subscriptions.acknowledge(notice.has, notice.sequence)
        else:
            self._errors[notice.why.value] += 1
            self.last_error = f"the venue answered with an error: {notice.message}"
            self._subscriptions.refused(notice.why)
        self._news.set()

    async def _watch(self, socket: ClientConnection) -> None:
        """Break a socket that is silent."""
        frames, since_s = 0, self._awake.now()
        while (now := await self._awake.tick()) - since_s < self._config.silence_s:
            if self._frames != frames or not self._subscriptions.begun:
                frames, since_s = self._frames, now
        self._errors["silence"] += 1
        self._break(socket, f"no frame came for {self._config.silence_s:g} s")

    async def _mind(self, socket: ClientConnection, requests: list[Request]) -> None:
        """Send the first requests, then ask for what is missing and due."""
        try:
            await self._send(socket, requests)
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._news.wait()
                self._news.clear()
                if self._frames:
                    await self._send(socket, self._due(socket, self._awake.now()))
        except Exception as e:
            self._break(socket, f"{type(e).__name__}: {e}")
            raise

    def _due(self, socket: ClientConnection, now: float) -> list[Request]:
        """Return what to ask for; break the socket if only a new connection may help."""
        if self._paused():
            self._subscriptions.forget_books()
            return []
        if unsent := self._subscriptions.unsent(now):
            self._on_events(self._reader.not_sent(unsent, time.time_ns()))
        if {p for p in self._product_ids if self._synced(p)} != self._books:
            self._look()
        requests = self._subscriptions.due(now)
        if hopeless := self._subscriptions.hopeless(requests):
            self._errors["no book"] += 1
            self._break(socket, f"no book came of {', '.join(hopeless)}")
            return []
        return requests

    async def _send(self, socket: ClientConnection, requests: list[Request]) -> None:
        for request in requests:
            try:
                await self._messages.turn(self._leave if self._subscriptions.begun else 0)
                # Noted first: the answer may come before `send` returns.
                self._subscriptions.sent(request, self._awake.now())
                await socket.send(request.encode())
            except ConnectionClosed:
                return  # `recv` says so too, once what had arrived before has been read.
            except OSError as e:
                return self._break(socket, f"{type(e).__name__}: {e}")

    def _break(self, socket: ClientConnection, why: str) -> None:
        """Give this socket up at once: a dead one answers no closing handshake."""
        self._gave_up = why
        socket.transport.abort()

    def _enter(self, state: ConnectionState) -> None:
        if state is not getattr(self, "state", None):
            self.state, self._since_s = state, time.monotonic()
