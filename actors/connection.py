"""One websocket to Advanced Trade: subscribe, read, watch, resubscribe, reconnect.

The connection hands every frame to its reader and the events on; it decides nothing about books
but asks again for one that is no longer known (section 2, rule 5).
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from enum import Enum
from typing import Annotated

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidURI,
)
from websockets.uri import parse_uri

from actors.reader import Events, Reader
from market.errors import QuaverError

MAX_LEVEL2_PRODUCTS = 25  # The venue refuses a 31st product on a connection, then stays silent.
_MAX_FRAME_BYTES = 64 << 20  # A BTC-USD snapshot alone is about 5 MB.
_FIRST_BACKOFF_S = 0.5
_ASKS_BEFORE_RECONNECT = 2
_RAREST_ASK_S = 600.0
_LOST = (ConnectionClosed, InvalidHandshake, OSError, TimeoutError)


class ConnectionState(Enum):
    """Every state that a connection can be in."""

    CONNECTING = "connecting"
    STREAMING = "streaming"
    RECONNECTING = "reconnecting"
    CLOSED_BY_VENUE = "closed by venue"


class ConnectionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a connection lives."""

    silence_s: Annotated[
        float, msgspec.Meta(gt=0, description="reconnect after this long without any frame")
    ] = 5.0
    snapshot_s: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            description="ask again for a book that has not come by then; if none has come after a "
            "second wait, reconnect",
        ),
    ] = 15.0
    max_backoff_s: Annotated[
        float, msgspec.Meta(gt=0, description="longest wait between two tries to connect")
    ] = 30.0
    follow_end: Annotated[
        bool, msgspec.Meta(description="a normal close ends the recording (a replayed market)")
    ] = False


def check_url(url: str) -> None:
    """Raise a QuaverError if this is no websocket address."""
    try:
        parse_uri(url)
    except (InvalidURI, ValueError):  # ValueError: a port that is none.
        raise QuaverError(
            f"{url!r} is no websocket address; write it like wss://host or ws://host:port"
        ) from None


class Connection:
    """Reads the products of one reader until cancelled, whatever happens to the socket."""

    def __init__(
        self,
        url: str,
        product_ids: list[str],
        reader: Reader,
        on_events: Callable[[Events], None],
        synced: Callable[[str], bool],
        config: ConnectionConfig,
    ) -> None:
        if not 0 < len(product_ids) <= MAX_LEVEL2_PRODUCTS:
            raise QuaverError(
                f"a connection takes 1 to {MAX_LEVEL2_PRODUCTS} products, got {len(product_ids)}"
            )
        check_url(url)
        self.state = ConnectionState.CONNECTING
        self.last_error: str | None = None
        self._url = url
        self._product_ids = product_ids
        self._reader = reader
        self._on_events = on_events
        self._synced = synced
        self._config = config
        self._asked: dict[str, tuple[float, int]] = {}  # Book: time of the last request, how many.

    async def run(self) -> None:
        """Stay connected; return once the venue has closed for good (`follow_end`)."""
        failures = 0
        while True:
            try:
                await self._session()
            except _LOST as e:
                if self._config.follow_end and isinstance(e, ConnectionClosedOK):
                    self.state = ConnectionState.CLOSED_BY_VENUE
                    return
                self.last_error = f"{type(e).__name__}: {e}"
                # A venue that accepts and then refuses counts as failing, however often it answers.
                failures = 0 if self._any_synced() else failures + 1
                if self.state is ConnectionState.STREAMING:
                    self._on_events(self._reader.disconnected(time.time_ns()))
                self.state = ConnectionState.RECONNECTING
            # Full jitter, so that many connections that were lost together come back apart.
            bound_s = min(self._config.max_backoff_s, _FIRST_BACKOFF_S * 2 ** min(failures, 16))
            await asyncio.sleep(random.uniform(0, bound_s))

    async def _session(self) -> None:
        async with connect(
            self._url, max_size=_MAX_FRAME_BYTES, compression=None, close_timeout=1
        ) as socket:
            # Heartbeats first: they keep the connection alive and close beats in quiet markets.
            # Books last, so that no trade after a snapshot is missed.
            for channel in ("heartbeats", "market_trades", "level2"):
                await self._ask(socket, "subscribe", channel, self._product_ids)
            self._asked = dict.fromkeys(self._product_ids, (time.monotonic(), 1))
            while True:
                async with asyncio.timeout(self._config.silence_s):
                    data = await socket.recv(decode=False)
                self.state = ConnectionState.STREAMING
                self._on_events(self._reader.frame(data, time.time_ns()))
                with contextlib.suppress(ConnectionClosed):
                    # `recv` says so too, but only once what had arrived before has been read.
                    await self._resync(socket)

    async def _resync(self, socket: ClientConnection) -> None:
        """Ask anew, in one request, for the books that are not synced or did not come in time.

        A book that does not come is asked for ever more rarely; if none comes, reconnect.
        """
        now, wanted = time.monotonic(), []
        for product_id in self._product_ids:
            asked_at, times = self._asked.get(product_id, (now, 0))
            if self._synced(product_id):
                self._asked.pop(product_id, None)
            elif times == 0 or now - asked_at > self._patience_s(times):
                wanted.append(product_id)
                self._asked[product_id] = now, times + 1
        if any(self._asked[p][1] > _ASKS_BEFORE_RECONNECT for p in wanted) and (
            not self._any_synced()
        ):
            raise TimeoutError(f"no book came of {', '.join(wanted)}")
        if wanted:
            # Repeating a subscribe brings no snapshot; unsubscribing first does.
            await self._ask(socket, "unsubscribe", "level2", wanted)
            await self._ask(socket, "subscribe", "level2", wanted)

    def _patience_s(self, times: int) -> float:
        """How long to wait for a book that has been asked for so many times."""
        return min(_RAREST_ASK_S, self._config.snapshot_s * 2 ** min(times - 1, 16))

    def _any_synced(self) -> bool:
        return any(self._synced(product_id) for product_id in self._product_ids)

    async def _ask(
        self, socket: ClientConnection, action: str, channel: str, product_ids: list[str]
    ) -> None:
        request: dict[str, object] = {"type": action, "channel": channel}
        if channel != "heartbeats":
            request["product_ids"] = product_ids
        await socket.send(msgspec.json.encode(request).decode())
