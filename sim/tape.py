"""What a perfect collector would have: every numbered frame as it should have been sent.

Faults change what a client gets, never the tape. Their log says what was done to which connection,
at which sequence number, and what was sent or omitted instead. In memory, or in a folder:
`frames-000001.jsonl` per connection (a frame a line), `faults.jsonl` and `connections.jsonl`.
"""

from pathlib import Path
from typing import BinaryIO

import msgspec

from market.errors import QuaverError

IN_MEMORY = "memory"
_FAULTS, _CONNECTIONS = "faults.jsonl", "connections.jsonl"


class FaultDone(msgspec.Struct, frozen=True):
    """A fault that took effect."""

    kind: str
    ns: int  # Event time.
    connection: int | None = None  # None: REST.
    sequence_num: int | None = None  # Of the frame concerned, else of the next one to be sent.
    detail: str = ""
    true: bytes | None = None  # The frame, or the trades, as they should have been sent.
    sent: tuple[bytes, ...] = ()  # What was sent in its place.


class Opened(msgspec.Struct, frozen=True):
    """A connection of the tape, and the port that its client came from."""

    connection: int
    peer_port: int
    ns: int


class Tape:
    """The record of one exchange; without a place it keeps faults and connections only."""

    def __init__(self, place: str | None) -> None:
        self.frames: dict[int, list[bytes]] = {}  # Per connection; only when in memory.
        self.faults: list[FaultDone] = []
        self.connections: list[Opened] = []
        self._keep = place == IN_MEMORY
        self._folder = None if place in (None, IN_MEMORY) else Path(str(place))
        self._files: dict[str, BinaryIO] = {}
        if self._folder is not None:
            _prepare(self._folder)

    def opened(self, opened: Opened) -> None:
        """Note a connection."""
        self.connections.append(opened)
        self._append(_CONNECTIONS, msgspec.json.encode(opened))

    def frame(self, connection: int, data: bytes) -> None:
        """Keep a numbered frame as it should be sent."""
        if self._keep:
            self.frames.setdefault(connection, []).append(data)
        elif self._folder is not None:
            self._append(_frames_name(connection), data)

    def fault(self, done: FaultDone) -> None:
        """Note a fault that took effect."""
        self.faults.append(done)
        self._append(_FAULTS, msgspec.json.encode(done))

    def closed(self, connection: int) -> None:
        """Close the file of a connection that is over."""
        if file := self._files.pop(_frames_name(connection), None):
            file.close()

    def flush(self) -> None:
        """Make what is noted so far readable for others."""
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _append(self, name: str, line: bytes) -> None:
        if self._folder is None:
            return
        try:
            if name not in self._files:
                self._files[name] = (self._folder / name).open("ab")
            self._files[name].write(line + b"\n")
        except OSError as e:
            raise QuaverError(f"cannot write the tape in {self._folder}: {e.strerror}") from None


def read_tape(folder: Path) -> Tape:
    """Return the tape that an exchange kept in a folder, its frames in memory."""
    tape = Tape(None)
    tape.faults = [msgspec.json.decode(line, type=FaultDone) for line in _lines(folder / _FAULTS)]
    tape.connections = [
        msgspec.json.decode(line, type=Opened) for line in _lines(folder / _CONNECTIONS)
    ]
    for opened in tape.connections:
        lines = _lines(folder / _frames_name(opened.connection))
        tape.frames[opened.connection] = lines
    return tape


def _prepare(folder: Path) -> None:
    """Make the folder of a new tape; QuaverError if that cannot be, or if it holds another."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = any((folder / name).exists() for name in (_FAULTS, _CONNECTIONS))
    except OSError as e:
        raise QuaverError(f"cannot keep a tape in {folder}: {e.strerror}") from None
    if held:
        raise QuaverError(f"{folder} holds the tape of another exchange; name another folder")


def _frames_name(connection: int) -> str:
    return f"frames-{connection:06d}.jsonl"


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []
