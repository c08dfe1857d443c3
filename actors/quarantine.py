"""The quarantine: corrupt frames verbatim, as JSON lines beside the raw data.

A thread brings frames to a local file, and a finished file to `quarantine/` under the root. A file
whose writer was killed is moved by the next quarantine that opens the same folder. It keeps its
name, so moving twice is moving once.
"""

import fcntl
import logging
import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from actors.raw import DAY_NS, day_of
from actors.store import Store, sha256
from market.errors import QuaverError

_SUFFIX = ".jsonl"
_log = logging.getLogger(__name__)


class QuarantineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much of what is corrupt is kept, and how soon it is safe."""

    max_bytes_per_day: Annotated[
        int,
        msgspec.Meta(ge=0, description="of one collector and UTC day; what is beyond is counted"),
    ] = 64 << 20
    flush_s: Annotated[
        float, msgspec.Meta(gt=0, le=60, description="what is older than this survives a kill")
    ] = 0.5
    rotate_s: Annotated[
        float, msgspec.Meta(gt=0, description="a file is moved to the data root after this long")
    ] = 60.0


def corrupt_line(recv_ns: int, reason: str, frame: bytes) -> bytes:
    """Return a corrupt frame as one line of JSON, verbatim: as text, or in base64 if it is none."""
    row: dict[str, object] = {"recv_ns": recv_ns, "reason": reason}
    try:
        row["frame"] = frame.decode()
    except UnicodeDecodeError:
        row["frame_base64"] = frame  # msgspec writes bytes as base64.
    return msgspec.json.encode(row) + b"\n"


def keep_corrupt(store: Store, name: str, corrupt: list[tuple[int, str, bytes]]) -> None:
    """Keep an import's corrupt frames: the same frames, the same file."""
    if corrupt:
        data = b"".join(corrupt_line(*frame) for frame in corrupt)
        store.write(f"quarantine/{name}-{sha256(data)[:8]}{_SUFFIX}", data)


class Quarantine:
    """Keeps corrupt frames of one collector; `keep` never waits for a disk."""

    def __init__(self, store: Store, folder: Path, name: str, config: QuarantineConfig) -> None:
        """Collect in `folder`, which may hold files of collectors that were killed.

        QuaverError if the folder cannot be written.
        """
        self._store = store
        self._folder = folder
        self._name = name
        self._config = config
        self.left_out = 0  # Frames not kept: too many in a day, or a disk that took none.
        self._pending: list[bytes] = []
        self._file: int | None = None
        self._opened_at = 0.0
        self._said: set[str] = set()
        self._closing = threading.Event()
        self._once = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise QuaverError(f"cannot use {folder} for corrupt frames: {e}") from None
        self._day, self._day_bytes = self._spent()
        self._thread = threading.Thread(target=self._run, name="quarantine", daemon=True)
        self._thread.start()

    def keep(self, recv_ns: int, reason: str, frame: bytes) -> None:
        """Keep a frame, if the day's limit allows."""
        day = recv_ns // DAY_NS
        if day != self._day:
            self._day, self._day_bytes = day, 0
        room = self._config.max_bytes_per_day - self._day_bytes
        # One that cannot fit is not even encoded: that would be the reading loop's time.
        line = corrupt_line(recv_ns, reason, frame) if len(frame) < room else None
        if line is None or len(line) > room:
            self.left_out += 1
            self._say(
                f"{self._name}: more than {self._config.max_bytes_per_day} bytes of corrupt frames "
                f"on {day_of(recv_ns)}; what does not fit is counted, not kept"
            )
            return
        self._day_bytes += len(line)
        self._pending.append(line)

    def close(self, patience_s: float) -> None:
        """Write and move what is left, for so long; what does not fit is moved by the next start.

        Raises nothing: the frames are on the local disk.
        """
        self._closing.set()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while not self._once:
            self._once = self._closing.wait(self._config.flush_s)
            try:
                self._write()
                if self._file is not None and (
                    self._once or time.monotonic() - self._opened_at > self._config.rotate_s
                ):
                    os.close(self._file)
                    self._file = None
                if self._file is None:
                    self._move_finished()
            except (OSError, QuaverError) as e:
                self._say(f"{self._name}: corrupt frames wait in {self._folder}: {e}")

    def _write(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        try:
            if self._file is None:
                self._open()
            assert self._file is not None
            _append(self._file, b"".join(pending))
            self._note_spent()
        except OSError:
            self.left_out += len(pending)
            raise

    def _spent(self) -> tuple[int, int]:
        """A day and its bytes, as the collector of this name before this one left them."""
        try:
            day, day_bytes = self._spent_path.read_text().split()
            return int(day), int(day_bytes)
        except (OSError, ValueError):
            return -1, 0

    def _note_spent(self) -> None:
        """So that being killed over and over brings no new limit each time."""
        with suppress(OSError):
            self._spent_path.write_text(f"{self._day} {self._day_bytes}")

    @property
    def _spent_path(self) -> Path:
        return self._folder / f".{self._name}.spent"

    def _open(self) -> None:
        """Begin a file whose name no other has, held by a lock while this process lives."""
        name = f"{self._name}-{time.time_ns():020d}-{secrets.token_hex(4)}{_SUFFIX}"
        hidden = self._folder / f".{name}"  # Nobody takes it for finished before it is locked.
        self._file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(self._folder / name)
        self._opened_at = time.monotonic()

    def _move_finished(self) -> None:
        """Move every file that no living process holds to the root, the oldest first."""
        for path in sorted(self._folder.glob(f"[!.]*{_SUFFIX}")):
            with suppress(BlockingIOError, FileNotFoundError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                whole, _, _torn = file.read().rpartition(b"\n")
                if whole:
                    self._store.write(f"quarantine/{path.name}", whole + b"\n")
                path.unlink()

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.error(what)


def _append(file: int, data: bytes) -> None:
    """Append all of it and bring it to disk; a part that a full disk took is cut off again."""
    before = os.fstat(file).st_size
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    except OSError:
        os.ftruncate(file, before)
        raise
