"""Replay: a client gets exactly what the file holds, when it is due."""

import asyncio
import functools
import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from market.errors import QuaverError
from sim.replay import BROKEN, BUSY, LOST, NORMAL, Replay
from tests.actors.wire import DISCONNECT, SECOND_NS, START_NS, Advanced
from tests.helpers import RECORDINGS, recording

pytestmark = pytest.mark.slow


ADVANCED = {"type": "subscribe", "product_ids": ["BTC-USD"], "channel": "level2"}
SUBSCRIPTIONS = [
    ADVANCED,
    {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches", "level2_batch"]},
    {"type": "subscribe", "channels": [{"name": "level2", "product_ids": ["BTC-USD"]}]},
]
CAPTURES = [
    "advanced-btc-usd-180s.jsonl.gz",
    "advanced-btc-usd-60s.jsonl.gz",
    "exchange-10-products-31s.jsonl.gz",
    "exchange-btc-usd-2018-1min-trades.jsonl.gz",
    "exchange-btc-usd-2018-2min-trades.jsonl.gz",
    "exchange-btc-usd-2018-45min.jsonl.gz",
]


def test_every_recording_is_among_those_replayed() -> None:
    held = {path.name for path in RECORDINGS.glob("*.jsonl.gz")} - {
        "advanced-btc-usd-180s.books.jsonl.gz"  # Answers of REST, not frames.
    }
    assert not held or held == set(CAPTURES)


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Clock:
    """A time that passes only in its own `sleep`."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


async def rest_of(socket: ClientConnection) -> tuple[list[bytes], int]:
    """All that a connection brings, and the code it is closed with."""
    frames = []
    try:
        while True:
            frames.append(await socket.recv(decode=False))
    except ConnectionClosed as e:
        assert e.rcvd is not None
        return frames, e.rcvd.code


async def subscribed(url: str, request: object = ADVANCED) -> tuple[list[bytes], int]:
    """All that one connection brings after this request."""
    async with connect(url, max_size=None, compression=None) as socket:
        await socket.send(json.dumps(request))
        return await rest_of(socket)


async def next_client(url: str) -> tuple[list[bytes], int]:
    """As `subscribed`, once the server has seen that the client before has left."""
    while True:
        found = await subscribed(url)
        if found[1] != BUSY:
            return found


def capture(path: Path, lines: list[bytes]) -> Path:
    """A capture of these lines, packed if its name says so."""
    data = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def beats(n: int) -> list[bytes]:
    """Frames that are one second apart."""
    wire = Advanced()
    return [wire.heartbeat(START_NS + i * SECOND_NS) for i in range(n)]


@pytest.mark.parametrize("name", CAPTURES)
@in_a_loop
async def test_a_client_gets_exactly_the_lines_of_a_recording(name: str) -> None:
    path = recording(name)
    with gzip.open(path) as file:
        wanted = [line.strip() for line in file]
    async with asyncio.timeout(60), Replay([path]) as replay:
        frames, code = await subscribed(replay.url)
        await replay.finished()
    assert code == NORMAL
    assert frames == wanted
    assert replay.sent == len(wanted)


@pytest.mark.parametrize("name", ["plain.jsonl", "packed.jsonl.gz"])
@pytest.mark.parametrize("request_", SUBSCRIPTIONS)
@in_a_loop
async def test_either_feeds_subscription_starts_it(
    tmp_path: Path, name: str, request_: object
) -> None:
    frames = beats(3)
    lines = [frames[0], b"", b"  ", b'{"cut off', b"\xff", *frames[1:]]  # Blank lines are none.
    async with asyncio.timeout(10), Replay([capture(tmp_path / name, lines)]) as replay:
        found = await subscribed(replay.url, request_)
    assert found == ([lines[0], *lines[3:]], NORMAL)


@in_a_loop
async def test_nothing_is_sent_before_books_are_subscribed_to(tmp_path: Path) -> None:
    path = capture(tmp_path / "x", beats(3))
    async with asyncio.timeout(10), Replay([path]) as replay, connect(replay.url) as socket:
        for other in (
            ADVANCED | {"channel": "heartbeats"},
            ADVANCED | {"type": "unsubscribe"},
            {"type": "subscribe"},
            "no request",
        ):
            await socket.send(json.dumps(other))
        await (await socket.ping())  # Answered after all before it were read.
        assert replay.sent == 0
        await socket.send(json.dumps(ADVANCED))
        await socket.send(json.dumps(ADVANCED))  # Again: changes nothing.
        assert await rest_of(socket) == (beats(3), NORMAL)


@pytest.mark.parametrize("speed", [0.5, 1.0, 40.0])
@in_a_loop
async def test_frames_go_out_when_they_are_due(tmp_path: Path, speed: float) -> None:
    wire, clock = Advanced(), Clock()
    at = [0, 0, 700, 400, 2_000, 1_000, 9_500]  # Milliseconds; a clock that goes back waits not.
    lines = [wire.heartbeat(START_NS + ms * 10**6) for ms in at]
    lines.insert(3, b'{"type":"subscriptions","channels":[]}')  # Without a time: at once.
    exchange = [f'{{"type":"heartbeat","time":"2019-08-14T20:42:0{s}Z"}}'.encode() for s in (1, 4)]
    paths = [capture(tmp_path / "a", lines), capture(tmp_path / "b", exchange)]
    async with (
        asyncio.timeout(10),
        Replay(paths, speed, clock=clock, sleep=clock.sleep) as replay,
    ):
        assert await subscribed(replay.url) == (lines, LOST)
        assert clock.slept == pytest.approx([t / speed for t in (0.7, 1.3, 7.5)])
        clock.now += 100  # A client that comes back late waits for what is left, no longer.
        assert await next_client(replay.url) == (exchange, NORMAL)
        assert clock.slept[3:] == pytest.approx([3 / speed])


@in_a_loop
async def test_a_lost_connection_is_lost_again(tmp_path: Path) -> None:
    frames = beats(5)
    path = capture(tmp_path / "x", [*frames[:2], DISCONNECT, *frames[2:], DISCONNECT])
    async with asyncio.timeout(10), Replay([path]) as replay:
        assert await next_client(replay.url) == (frames[:2], LOST)
        assert await next_client(replay.url) == (frames[2:], LOST)
        assert await next_client(replay.url) == ([], NORMAL)
        assert await next_client(replay.url) == ([], NORMAL)  # Over for whoever comes later.
        await replay.finished()


@in_a_loop
async def test_a_recording_has_one_client_at_a_time(tmp_path: Path) -> None:
    path = capture(tmp_path / "x", beats(2))
    async with asyncio.timeout(10), Replay([path]) as replay:
        async with connect(replay.url) as first:
            await (await first.ping())
            async with connect(replay.url) as second:
                assert await rest_of(second) == ([], BUSY)
        assert await next_client(replay.url) == (beats(2), NORMAL)


@in_a_loop
async def test_the_next_client_goes_on_where_one_left(tmp_path: Path) -> None:
    """Frame by frame in virtual time, so that it is known what was under way."""
    clock, frames = Clock(), beats(20)
    turn = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        await turn.acquire()
        clock.now += seconds

    path = capture(tmp_path / "x", frames)
    async with asyncio.timeout(10), Replay([path], 1.0, clock=clock, sleep=sleep) as replay:
        async with connect(replay.url) as first:
            await first.send(json.dumps(ADVANCED))
            for i in range(5):
                assert await first.recv(decode=False) == frames[i]
                if i < 4:
                    turn.release()
        for _ in range(20):
            turn.release()
        assert await next_client(replay.url) == (frames[5:], NORMAL)


@in_a_loop
async def test_a_file_that_breaks_off_is_told_to_both_sides(tmp_path: Path) -> None:
    path = capture(tmp_path / "x.gz", frames := [os.urandom(8).hex().encode() for _ in range(9)])
    whole = gzip.compress(b"\n".join([b"{}", *frames]) + b"\n")
    path.write_bytes(whole[:-12])
    async with asyncio.timeout(10), Replay([path]) as replay:
        found, code = await subscribed(replay.url)
        assert (found[0], code) == (b"{}", BROKEN)
        with pytest.raises(QuaverError, match="cannot be read after line"):
            await replay.finished()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "No such file"),
        (b"", "no frame"),
        (b"\n\n", "no frame"),
        (b"product,price\n", "line 1 is no frame"),
        (b"[1]\n", "line 1 is no frame"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
    ],
)
@in_a_loop
async def test_what_holds_no_frames_is_named(tmp_path: Path, data: bytes | None, said: str) -> None:
    path = tmp_path / "capture"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(QuaverError, match=said) as caught:
        Replay([capture(tmp_path / "good", beats(1)), path])
    assert str(path) in str(caught.value)


@in_a_loop
async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    path = capture(tmp_path / "x", beats(1))
    async with Replay([path]) as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(QuaverError, match=f"port {port}.*another"):
            await Replay([path], port=port).start()


@pytest.mark.slow
@in_a_loop
async def test_a_file_is_streamed(tmp_path: Path) -> None:
    frame = json.dumps({"channel": "x", "events": ["y" * 60_000]}).encode()
    path = capture(tmp_path / "x.gz", [frame] * 3_000)  # 180 MB
    tracemalloc.start()
    try:
        async with asyncio.timeout(100), Replay([path]) as replay, connect(replay.url) as socket:
            await socket.send(json.dumps(ADVANCED))
            tracemalloc.reset_peak()
            for _ in range(3_000):
                assert await socket.recv(decode=False) == frame
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.slow
def test_the_command_serves_until_its_client_has_all(tmp_path: Path) -> None:
    path = capture(tmp_path / "x", beats(5))
    command = [sys.executable, "-c", "from cluster.cli import main; main()", "replay"]
    serving = subprocess.Popen(
        [*command, str(path), "--speed", "max"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert serving.stdout is not None
        url = serving.stdout.readline().split()[2]
        assert asyncio.run(subscribed(url)) == (beats(5), NORMAL)
        said, _ = serving.communicate(timeout=60)
        assert (serving.returncode, said) == (0, "5 frames sent\n")
    finally:
        serving.kill()
        serving.communicate()
    for wrong, words in ((["absent"], "absent"), ([str(path), "--speed", "0"], "--speed")):
        done = subprocess.run([*command, *wrong], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and words in done.stderr
        assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1
