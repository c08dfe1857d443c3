"""A venue of a few lines that does what the simulated one never does: hang, lie and vanish."""

import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Script = Callable[["Client"], Awaitable[None]]


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

    async def vanish(self) -> None:
        """Break the connection without a closing handshake."""
        self.socket.transport.abort()
        await self.socket.wait_closed()


class Venue:
    """Each connection gets the next script, then is closed normally; the last one repeats."""

    def __init__(self, *scripts: Script) -> None:
        self.connections: list[list[dict[str, Any]]] = []  # The requests of each.
        self._scripts = scripts
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(self._serve, "127.0.0.1", 0, compression=None)
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
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def _serve(self, socket: ServerConnection) -> None:
        script = self._scripts[min(len(self.connections), len(self._scripts) - 1)]
        client = Client(socket, [])
        self.connections.append(client.requests)
        try:
            await script(client)
            await socket.close(1000)
        except ConnectionClosed:
            pass
