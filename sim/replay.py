"""Replay: recorded captures served over a websocket, as the venue sent them.

Frames go out verbatim, so they carry the sequence numbers and acknowledgements of the recording;
whatever a client subscribes to, nothing is added. A capture is one connection: it begins with the
first subscription to `level2`, one client at a time has it, and the next one goes on where that
one stopped. A line {"type":"disconnect"}, and the end of all files but the last, break the
connection with 1012; the end closes it with 1000. Files are streamed, whatever their size.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain
from pathlib import Path
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Self

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from actors.frames import parse_ns
from datasets.captures import blocks
from market.errors import QuaverError

NORMAL, BROKEN, LOST, BUSY = 1000, 1011, 1012, 1013  # Codes that connections are closed with.
_DISCONNECT = b'{"type":"disconnect"}'
_SEND_BUFFER_BYTES = 1 << 16  # Small, so that little is under way to a client that is lost.
_SECOND_NS = 1_000_000_000


class _Head(msgspec.Struct):
    """What is read of a frame: Advanced Trade's `timestamp`, the Exchange feed's `time`."""

    type: str | None = None
    timestamp: str | None = None
    time: str | None = None


class _Channel(msgspec.Struct):
    name: str


class _Request(msgspec.Struct):
    """A subscription, in the words of either feed."""

    type: str
    channel: str = ""
    channels: list[str | _Channel] = []


class Replay:
    """The server; use it as an async context manager, or `start` and `stop` it."""

    def __init__(
        self,
        paths: list[Path],
        speed: float | None = None,
        port: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Serve captures (JSON frames, one a line, plain or gzip) on a port, 0: any free one.

        `speed` is event seconds per second, None: as fast as the client reads. QuaverError if a
        file cannot be read or does not begin with a frame.
        """
        for path in paths:
            _check_frames(path)
        self._lines = _lines(paths)
        self._speed = speed
        self._port = port
        self._clock, self._sleep = clock, sleep
        self._server: Server | None = None
        self._taken = False
        self._over = asyncio.Event()
        self._failure: QuaverError | None = None
        self.sent = 0

    async def start(self) -> None:
        """Listen on 127.0.0.1; QuaverError if the port is not free."""
        try:
            self._server = await serve(
                self._serve, "127.0.0.1", self._port, compression=None, ping_interval=None
            )
        except OSError as e:
            raise QuaverError(
                f"cannot listen on port {self._port}: {e.strerror}; choose another, or 0 for any"
            ) from None

    async def stop(self) -> None:
        """Close the connection, if there is one, with 1001."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def finished(self) -> None:
        """Wait until all is sent and the client has been told; QuaverError if a file broke off."""
        await self._over.wait()
        if self._failure is not None:
            raise self._failure

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where the client connects; only after `start`."""
        if self._server is None:
            raise QuaverError("a replay has no address before it is started")
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def _serve(self, socket: ServerConnection) -> None:
        if self._taken:
            await socket.close(BUSY, "a recording is one connection, and it has its client")
            return
        wire = socket.transport.get_extra_info("socket")
        wire.setsockopt(SOL_SOCKET, SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._taken = True
        wanted = asyncio.Event()
        listening = asyncio.create_task(_listen(socket, wanted))
        try:
            waiting = asyncio.create_task(wanted.wait())
            await asyncio.wait([listening, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if wanted.is_set():
                await self._send(socket)
        except ConnectionClosed:
            pass  # The next client goes on from here.
        finally:
            self._taken = False
            listening.cancel()
            await asyncio.wait([listening])

    async def _send(self, socket: ServerConnection) -> None:
        """Send what is left, up to a disconnect; then close."""
        began: tuple[float, int] | None = None  # Our time and the event time of the first frame.
        try:
            for line in self._lines:
                head = _head(line)
                if head.type == "disconnect":
                    await socket.close(LOST, "the recording lost its connection here")
                    return
                ns = _event_ns(head)
                if self._speed is not None and ns is not None:
                    began = began or (self._clock(), ns)
                    due = began[0] + (ns - began[1]) / _SECOND_NS / self._speed
                    await self._wait(socket, due)
                await self._send_line(socket, line)
        except QuaverError as e:
            self._failure = e
            await socket.close(BROKEN, "the recording cannot be read any further")
        else:
            await socket.close(NORMAL)
        self._over.set()

    async def _wait(self, socket: ServerConnection, due: float) -> None:
        """Wait until a frame is due, or its client has left."""
        wait_s = due - self._clock()
        if wait_s > 0:
            sleeping = asyncio.ensure_future(self._sleep(wait_s))
            leaving = asyncio.ensure_future(socket.wait_closed())
            await asyncio.wait([sleeping, leaving], return_when=asyncio.FIRST_COMPLETED)
            sleeping.cancel()
            leaving.cancel()

    async def _send_line(self, socket: ServerConnection, line: bytes) -> None:
        try:
            await socket.send(line, text=True)
        except ConnectionClosed:
            self._lines = chain([line], self._lines)
            raise
        self.sent += 1


async def _listen(socket: ServerConnection, wanted: asyncio.Event) -> None:
    """Read a client's messages until it leaves; note a subscription to books."""
    try:
        async for message in socket:
            try:
                request = msgspec.json.decode(message, type=_Request)
            except msgspec.DecodeError:
                continue
            names = [c if isinstance(c, str) else c.name for c in request.channels]
            asked = [request.channel, *names] if request.type == "subscribe" else []
            if any(name.startswith("level2") for name in asked):
                wanted.set()
    except ConnectionClosed:
        pass


def _lines(paths: list[Path]) -> Iterator[bytes]:
    for place, path in enumerate(paths):
        if place:
            yield _DISCONNECT
        for block in blocks(path):
            yield from filter(None, map(bytes.strip, block.split(b"\n")))


def _check_frames(path: Path) -> None:
    first = next(_lines([path]), None)
    if first is None:
        raise QuaverError(f"{path}: holds no frame; give captures, one JSON frame a line")
    try:
        msgspec.json.decode(first, type=dict)
    except msgspec.DecodeError as e:
        raise QuaverError(
            f"{path}: line 1 is no frame: {e}; give captures, one JSON frame a line, plain or gzip"
        ) from None


def _head(line: bytes) -> _Head:
    try:
        return msgspec.json.decode(line, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Head()  # Corrupt frames are part of a recording.


def _event_ns(head: _Head) -> int | None:
    text = head.timestamp or head.time
    try:
        return parse_ns(text) if text else None
    except ValueError:
        return None
