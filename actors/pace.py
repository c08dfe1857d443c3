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
        self._lock = FileLock(path.with_name(path.name + ".lock"))

    async def turn(self, grants: int = 1) -> None:
        """Wait until so many grants are given together."""
        while True:
            wait_s = self.take(grants)
            if wait_s == 0:
                return
            await asyncio.sleep(wait_s * random.uniform(1.0, 1.2))

    def take(self, grants: int = 1) -> float:
        """Take so many grants together and return 0, or take none and return when to come back.

        Never waits. OSError if the file cannot be used, ValueError for more than a second's worth.
        """
        if not 0 < grants <= self._per_s:
            raise ValueError(f"grants must be 1 to {self._per_s}, got {grants}")
        try:
            with self._lock.acquire(blocking=False):
                return self._take(grants)
        except Timeout:
            return _HELD_S

    def _take(self, grants: int) -> float:
        now = time.monotonic()
        given = array.array("d")
        with contextlib.suppress(FileNotFoundError):
            data = self._path.read_bytes()
            given.frombytes(data[: len(data) // given.itemsize * given.itemsize])
        # A time ahead of now is of the clock before a restart: it binds nobody.
        recent = sorted(at for at in given if now - _WINDOW_S < at <= now)
        if (over := len(recent) + grants - self._per_s) > 0:
            return recent[over - 1] + _WINDOW_S - now
        recent += [now] * grants
        # Always as long, written in place: whoever is killed meanwhile leaves no shorter file.
        recent += [0.0] * (self._per_s - len(recent))
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, array.array("d", recent).tobytes(), 0)
        finally:
            os.close(file)
        return 0.0
