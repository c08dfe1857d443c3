"""The pace of a host: so many connects, so many messages a second, whoever on this machine asks.

The venue counts per address, so all processes of a machine share one window per host: a file that
holds the times of the last grants. A lock that the kernel drops with its holder guards it. The
times are of the machine's monotonic clock, which no change of the wall clock moves.
"""

import array
import asyncio
import contextlib
import os
import random
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from market.errors import QuaverError

_WINDOW_S = 1.1  # A grant is used a little later than it is given, so a bare second is too short.
_HELD_S = 0.003  # The lock is held for microseconds; a loop never waits for it, it comes back.
_STUCK_S = 1.0  # Whoever holds the lock longer has been stopped with it.


def default_folder() -> Path:
    """Return the folder that all of this user's processes on this machine share."""
    return Path(tempfile.gettempdir()) / f"quaver-pace-{os.getuid()}"


class Pace:
    """At most `per_s` grants in any second, over all processes that name the same file."""

    def __init__(self, path: Path, per_s: int) -> None:
        self._path = path
        self._per_s = per_s
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise QuaverError(
                f"cannot use {path.parent} to keep the venue's rate limits: {e}; set "
                "connection.pace_folder to a folder that can be written"
            ) from None
        self._lock_path = path.with_name(path.name + ".lock")
        self._lock = FileLock(self._lock_path)
        self._refused_since_s: float | None = None

    async def turn(self, leave: int = 0) -> None:
        """Wait for a grant that leaves so many others of this second to whom it is more urgent."""
        while True:
            wait_s = self.take(leave)
            if wait_s == 0:
                return
            await asyncio.sleep(wait_s * random.uniform(1.0, 1.2))

    def take(self, leave: int = 0) -> float:
        """Take a grant that leaves so many and return 0, or none and return when to come back.

        Never waits. OSError if the file cannot be used, ValueError if nothing is left to take.
        """
        if not 0 <= leave < self._per_s:
            raise ValueError(f"leave must be 0 to {self._per_s - 1}, got {leave}")
        try:
            with self._lock.acquire(blocking=False):
                self._refused_since_s = None
                return self._take(leave)
        except Timeout:
            return self._refused()

    def _refused(self) -> float:
        """Come back soon; put another lock in the place of one that has been held for too long."""
        now = time.monotonic()
        if self._refused_since_s is None:
            self._refused_since_s = now
        elif now - self._refused_since_s > _STUCK_S:
            # The worst that two holders do is to forget a grant or two.
            self._lock_path.unlink(missing_ok=True)
            self._refused_since_s = None
        return _HELD_S

    def _take(self, leave: int) -> float:
        now = time.monotonic()
        given = array.array("d")
        with contextlib.suppress(FileNotFoundError):
            data = self._path.read_bytes()
            given.frombytes(data[: len(data) // given.itemsize * given.itemsize])
        # A time ahead of now is of the clock before a restart: it binds nobody.
        recent = sorted(at for at in given if now - _WINDOW_S < at <= now)
        if (over := len(recent) + 1 + leave - self._per_s) > 0:
            return recent[over - 1] + _WINDOW_S - now
        recent.append(now)
        # Always as long, written in place: whoever is killed meanwhile leaves no shorter file.
        recent += [0.0] * (self._per_s - len(recent))
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, array.array("d", recent).tobytes(), 0)
        finally:
            os.close(file)
        return 0.0
