"""A venue of a few lines that does what the simulated one never does: hang, lie and vanish."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.actors.wire import BTC, SECOND_NS, START_NS, Advanced

LIMIT_S = 30
Script = Callable[["Client"], Awaitable[None]]


def play(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine, but not for ever."""

    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await test()

    asyncio.run(limited())


def normal(wire: Advanced, at_s: int, *ids: str) -> list[bytes]:
    """Snapshots, then heartbeats that close two beats."""
    ns = START_NS + at_s * SECOND_NS
    frames = [wire.snapshot(ns, product_id) for product_id in ids or (BTC,)]
    return frames + [wire.heartbeat(ns + i * SECOND_NS) for i in range(1, 9)]


async def ends(client: "Client", at_s: int = 40, *ids: str) -> None:
    """A connection like any other, closed normally in the end."""
    await client.subscribed()
    await client.send(*normal(Advanced(), at_s, *ids))


class Client:
    """The venue's end of one connection."""

    def __init__(self, socket: ServerConnection, requests: list[dict[str, Any]]) -> None:
        self.socket = socket
        self.requests = requests

    async def send(self, *frames: bytes) -> None:
        """Send frames as text."""
        for frame in frames:
            await self.socket.send(frame, text=True)

    async def request(self) -> dict[str, Any]:
        """Wait for the client's next request."""
        request: dict[str, Any] = json.loads(await self.socket.recv())
        self.requests.append(request)
        return request

    async def subscribed(self) -> list[dict[str, Any]]:
        """Wait until the client has subscribed to books; return all that it asked until then."""
        asked = [await self.request()]
        while (asked[-1]["type"], asked[-1]["channel"]) != ("subscribe", "level2"):
            asked.append(await self.request())
        return asked

    async def serve_books(self, wire: Advanced, refused: Callable[[set[str]], str | None]) -> None:
        """Answer each request with what the venue answers, snapshots and the whole set included.

        `refused` says with which error, if any, a set of books would be refused.
        """
        has: dict[str, list[str]] = {}
        for i in range(10_000):
            request = await self.request()
            channel, ids = request["channel"], request.get("product_ids", ["heartbeats"])
            frames = []
            if request["type"] == "unsubscribe":
                has[channel] = [p for p in has.get(channel, []) if p not in ids]
            elif channel == "level2" and (error := refused({*has.get(channel, []), *ids})):
                await self.send(json.dumps({"type": "error", "message": error}).encode())
                continue
            else:
                has[channel] = [*has.get(channel, []), *ids]
                if channel == "level2":  # Data may come before the acknowledgement.
                    frames = [wire.snapshot(START_NS + i, p) for p in ids]
            await self.send(*frames, wire.ack(START_NS + i, has))

    async def vanish(self) -> None:
        """Break the connection without a closing handshake."""
        self.socket.transport.abort()
        await self.socket.wait_closed()


class Venue:
    """Each connection gets the next script, then is closed normally; the last one repeats."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self.connections: list[list[dict[str, Any]]] = []  # The requests of each.
        self._scripts = scripts
        self._tls = tls
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(self._serve, "127.0.0.1", 0, compression=None, ssl=self._tls)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where clients connect."""
        assert self._server is not None
        scheme = "wss" if self._tls else "ws"
        return f"{scheme}://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def _serve(self, socket: ServerConnection) -> None:
        script = self._scripts[min(len(self.connections), len(self._scripts) - 1)]
        client = Client(socket, [])
        self.connections.append(client.requests)
        try:
            await script(client)
            await socket.close(1000)
        except ConnectionClosed:
            pass
