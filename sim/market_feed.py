"""One client of the websocket: what it is subscribed to, its sequence, and its faults.

Every numbered frame goes on the tape as it should be, then through the armed faults to the socket.
"""

import asyncio
from collections.abc import Callable
from random import Random

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from sim import damage
from sim.faults import Fault, FaultKind
from sim.tape import FaultDone, Tape
from sim.wire import SECOND_NS, ErrorFrame, Frame, shared_frame

POLICY_VIOLATION, ABNORMAL = 1008, 1006
_TRADE_KINDS = (FaultKind.LATE_TRADES, FaultKind.MISSING_TRADES)
_BOOK_KINDS = (FaultKind.OFF_GRID, FaultKind.CROSSED)

AboveBest = Callable[[str], tuple[str, str]]  # product -> a price above the best offer, and a size


class Client:
    """One connection, seen from the venue."""

    def __init__(
        self,
        number: int,
        socket: ServerConnection,
        tape: Tape,
        random: Random,
        above_best: AboveBest,
        max_buffer_bytes: int | None,
    ) -> None:
        """With `max_buffer_bytes` a client that has more unread is dropped, else it is awaited."""
        self.number = number
        self.socket = socket
        self.subscriptions: dict[str, list[str]] = {}
        self.owner: str | None = None  # Whose orders the `user` channel shows.
        self.open = True
        self.half_open = False
        self.sequence_num = 0  # Of the next numbered frame.
        self._tape, self._random, self._above_best = tape, random, above_best
        self._max_buffer_bytes = max_buffer_bytes
        self._armed: list[tuple[Fault, int]] = []  # With how often they still strike.
        self._late: list[tuple[int, Frame]] = []  # With the event time at which they are sent.
        self._swapped: bytes | None = None  # Goes out after the next frame.
        self._stalled_until_ns: int | None = None
        self._held: list[bytes] = []
        self._closing: asyncio.Task[None] | None = None

    def wants(self, one: Frame) -> bool:
        """Whether the client is subscribed to a frame of the market."""
        ids = self.subscriptions.get(one.channel)
        return ids is not None and (one.product_id is None or one.product_id in ids)

    async def publish(self, one: Frame) -> None:
        """Number a frame and send it, with what faults are armed."""
        fault = self._strike(one) if self._armed else None
        if fault is not None and fault.kind in _TRADE_KINDS:
            self._withhold(one, fault)
            return
        data = one.numbered(self.sequence_num)
        self._tape.frame(self.number, data)
        for sent in (data,) if fault is None else self._spoil(fault, one, data):
            await self._send(sent)
            if self._swapped is not None:
                swapped, self._swapped = self._swapped, None
                await self._send(swapped)
        self.sequence_num += 1

    async def acknowledge(self, ns: int) -> None:
        """Send the whole current set of subscriptions."""
        events = msgspec.json.encode([{"subscriptions": self.subscriptions}])
        await self.publish(shared_frame("subscriptions", ns, events, kind="ack"))

    async def refuse(self, message: str) -> None:
        """Send an error frame, which has no number."""
        await self._send(msgspec.json.encode(ErrorFrame(message)))

    def refuses(self, ns: int) -> bool:
        """Whether a fault refuses the subscription that the client asks for."""
        for place, (fault, _) in enumerate(self._armed):
            if fault.kind is FaultKind.REFUSE:
                self._use(place)
                self.log(fault.kind, ns)
                return True
        return False

    def arm(self, fault: Fault) -> None:
        """Let a fault strike the next frames that fit it."""
        self._armed.append((fault, fault.count))

    def stall(self, fault: Fault, ns: int) -> None:
        """Send nothing until some event time has passed, then all that was held."""
        until_ns = ns + round(fault.seconds * SECOND_NS)
        self._stalled_until_ns = max(until_ns, self._stalled_until_ns or 0)
        self.log(fault.kind, ns, f"{fault.seconds:.1f} s")

    def cut(self, fault: Fault, ns: int) -> None:
        """Neither send nor hear anything any more, and leave the socket open."""
        self.half_open = True
        self.socket.transport.pause_reading()
        self.log(fault.kind, ns)

    async def pass_time(self, ns: int) -> None:
        """Send what was held back until now."""
        if self._stalled_until_ns is not None and ns >= self._stalled_until_ns:
            held, self._held, self._stalled_until_ns = self._held, [], None
            for data in held:
                await self._send(data)
        while self._late and self._late[0][0] <= ns:
            _, late = self._late.pop(0)
            await self.publish(frame_at(late, ns))

    def close(self, code: int, reason: str = "") -> None:
        """Close without waiting for the client; 1006 drops the connection as it is."""
        if not self.open:
            return
        self.open = False
        if code == ABNORMAL or self.half_open:
            self.socket.transport.abort()
        else:
            self._closing = asyncio.ensure_future(self.socket.close(code, reason))

    async def closed(self) -> None:
        """Wait until a close that was begun is over."""
        if self._closing is not None:
            await self._closing

    def log(
        self,
        kind: FaultKind,
        ns: int,
        detail: str = "",
        true: bytes | None = None,
        sent: tuple[bytes, ...] = (),
    ) -> None:
        """Note on the tape what a fault does to the next frame, or to the socket."""
        done = FaultDone(kind.value, ns, self.number, self.sequence_num, detail, true, sent)
        self._tape.fault(done)

    def _strike(self, one: Frame) -> Fault | None:
        for place, (fault, _) in enumerate(self._armed):
            if _fits(fault, one):
                self._use(place)
                return fault
        return None

    def _use(self, place: int) -> None:
        fault, left = self._armed[place]
        if left > 1:
            self._armed[place] = fault, left - 1
        else:
            del self._armed[place]

    def _withhold(self, one: Frame, fault: Fault) -> None:
        if fault.kind is FaultKind.LATE_TRADES:
            self._late.append((one.ns + round(fault.seconds * SECOND_NS), one))
            self._late.sort(key=lambda entry: entry[0])
        self.log(fault.kind, one.ns, one.product_id or "", one.tail)

    def _spoil(self, fault: Fault, one: Frame, data: bytes) -> list[bytes]:
        """Return what is sent instead of a frame, and note it."""
        kind, detail = fault.kind, one.product_id or one.channel
        sent: list[bytes] = []
        if kind is FaultKind.DUPLICATE:
            sent = [data, data]
        elif kind is FaultKind.REORDER:
            # A second one in a row goes out in its place, behind the first.
            sent = [] if self._swapped is None else [data]
            self._swapped = data if self._swapped is None else self._swapped
        elif kind is FaultKind.CROSSED:
            sent = [damage.crossed(data, *self._above_best(str(one.product_id)))]
        elif kind is FaultKind.CLOCK_JUMP:
            sent, detail = [damage.clock_jump(data, one, fault.seconds)], f"{fault.seconds:+.1f} s"
        elif kind is not FaultKind.DROP:
            sent = [damage.SPOILERS[kind](data, self._random)]
        self.log(kind, one.ns, detail, data, tuple(sent))
        return sent

    async def _send(self, data: bytes) -> None:
        if not self.open or self.half_open:
            return
        if self._stalled_until_ns is not None:
            self._held.append(data)
            return
        socket = self.socket
        if socket.state is not State.OPEN:
            self.open = False
            return
        limit = self._max_buffer_bytes
        if limit is not None and socket.transport.get_write_buffer_size() > limit:
            self.close(POLICY_VIOLATION, "slow consumer")
            return
        try:
            await socket.send(data, text=True)
        except ConnectionClosed:
            self.open = False


def frame_at(one: Frame, ns: int) -> Frame:
    """Return a frame of the past as it looks when it is sent later."""
    head = shared_frame(one.channel, ns, b"").head
    return one._replace(ns=ns, head=head)


def _fits(fault: Fault, one: Frame) -> bool:
    if fault.kind is FaultKind.REFUSE or one.kind == "ack":
        return False
    if fault.product_id is not None and one.product_id != fault.product_id:
        return False
    if fault.kind in _TRADE_KINDS:
        return one.channel == "market_trades" and one.kind == "update"
    if fault.kind in _BOOK_KINDS:
        return one.channel == "level2" and one.kind == "update"
    return True
