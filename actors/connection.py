"""One websocket to Advanced Trade: subscribe, read, watch, resubscribe, reconnect.

The connection hands every frame to its reader and the events on; it decides nothing about books
but asks again for one that is no longer known (section 2, rule 5).
"""

import asyncio
import time
from collections.abc import Callable
from enum import Enum
from typing import Annotated

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidHandshake

from actors.reader import Events, Reader
from market.errors import QuaverError

MAX_LEVEL2_PRODUCTS = 25  # The venue refuses a 31st product on a connection, then stays silent.
_MAX_FRAME_BYTES = 64 << 20  # A BTC-USD snapshot alone is about 5 MB.
_LOST = (ConnectionClosed, InvalidHandshake, OSError, TimeoutError)


class ConnectionState(Enum):
    """Every state that a connection can be in."""

    CONNECTING = "connecting"
    STREAMING = "streaming"
    RECONNECTING = "reconnecting"
    CLOSED_BY_VENUE = "closed by venue"
    STOPPED = "stopped"


class ConnectionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a connection lives."""

    silence_s: Annotated[
        float, msgspec.Meta(gt=0, description="reconnect after this long without any frame")
    ] = 5.0
    snapshot_s: Annotated[
        float, msgspec.Meta(gt=0, description="ask again for a book that has not come by then")
    ] = 15.0
    max_backoff_s: Annotated[
        float, msgspec.Meta(gt=0, description="longest wait between two tries to connect")
    ] = 30.0
    follow_end: Annotated[
        bool, msgspec.Meta(description="a normal close ends the recording (a replayed market)")
    ] = False


class Connection:
    """Reads the products of one reader until stopped, whatever happens to the socket."""

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
        self.state = ConnectionState.CONNECTING
        self._url = url
        self._product_ids = product_ids
        self._reader = reader
        self._on_events = on_events
        self._synced = synced
        self._config = config
        self._asked_at: dict[str, float] = {}  # Monotonic time of the last request for a book.

    async def run(self) -> None:
        """Stay connected; return once the venue has closed for good (`follow_end`)."""
        backoff = wait_random_exponential(multiplier=0.5, max=self._config.max_backoff_s)
        async for attempt in AsyncRetrying(
            wait=backoff, retry=retry_if_exception_type(_LOST), reraise=True
        ):
            with attempt:
                try:
                    await self._session()
                except ConnectionClosedOK:
                    if self._config.follow_end:
                        self.state = ConnectionState.CLOSED_BY_VENUE
                        return
                    self._lost()
                    raise
                except _LOST:
                    self._lost()
                    raise

    async def _session(self) -> None:
        async with connect(
            self._url, max_size=_MAX_FRAME_BYTES, compression=None, close_timeout=1
        ) as socket:
            # Heartbeats first: they keep the connection alive and close beats in quiet markets.
            # Books last, so that no trade after a snapshot is missed.
            for channel in ("heartbeats", "market_trades", "level2"):
                await self._ask(socket, "subscribe", channel, self._product_ids)
            self._asked_at = dict.fromkeys(self._product_ids, time.monotonic())
            self.state = ConnectionState.STREAMING
            while True:
                async with asyncio.timeout(self._config.silence_s):
                    data = await socket.recv(decode=False)
                self._on_events(self._reader.frame(data, time.time_ns()))
                await self._resync(socket)

    async def _resync(self, socket: ClientConnection) -> None:
        """Ask anew for every book that stopped being synced, or did not come in time."""
        now = time.monotonic()
        for product_id in self._product_ids:
            asked_at = self._asked_at.get(product_id)
            if self._synced(product_id):
                self._asked_at.pop(product_id, None)
            elif asked_at is None or now - asked_at > self._config.snapshot_s:
                # Repeating a subscribe brings no snapshot; unsubscribing first does.
                await self._ask(socket, "unsubscribe", "level2", [product_id])
                await self._ask(socket, "subscribe", "level2", [product_id])
                self._asked_at[product_id] = now

    async def _ask(
        self, socket: ClientConnection, action: str, channel: str, product_ids: list[str]
    ) -> None:
        request: dict[str, object] = {"type": action, "channel": channel}
        if channel != "heartbeats":
            request["product_ids"] = product_ids
        await socket.send(msgspec.json.encode(request).decode())

    def _lost(self) -> None:
        self.state = ConnectionState.RECONNECTING
        self._on_events(self._reader.disconnected(time.time_ns()))
