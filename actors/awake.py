"""A clock that stands still while this process does: a stall of our own is no silence of others."""

import asyncio
import time


class AwakeClock:
    """Seconds in which this process ran: of a stall, at most two ticks count.

    It goes on while someone awaits `tick` again and again.
    """

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._ran_s, self._looked_s = 0.0, time.monotonic()

    def now(self) -> float:
        """Return the time; only differences mean something."""
        return self._ran_s + min(time.monotonic() - self._looked_s, 2 * self._tick_s)

    async def tick(self) -> float:
        """Wait for a tick; return the time."""
        await asyncio.sleep(self._tick_s)
        self._ran_s, self._looked_s = self.now(), time.monotonic()
        return self._ran_s
