"""A process that puts seeded rows into a spool and says so, to be killed; and what it puts.

python -m tests.actors.spooling ROOT record POINT     until it is killed
python -m tests.actors.spooling ROOT adopt -          once a line comes in
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count

import numpy as np
from numpy.typing import NDArray

from actors.spool import Spool, SpoolConfig
from actors.store import Store
from market.events import EVENT, Kind
from market.products import product

IDS = ("BTC-USD", "ETH-USD")
DAY = "2026-08-09"
SESSION_NS = 1_786_276_800 * 10**9  # Noon.
ROWS = 3  # In a put.
CONFIG = SpoolConfig(flush_s=0.05, segment_rows=300)


def rows_of(number: int) -> NDArray[np.void]:
    """What is put `number`-th: three level changes like no others; a book the first of each."""
    rows = np.zeros(ROWS, EVENT)
    rows["ns"] = SESSION_NS + number // len(IDS) * 10**6
    rows["kind"] = Kind.SNAPSHOT if number < len(IDS) else Kind.CHANGE
    rows["side"] = [0, 1, 0]
    rows["price"] = np.random.default_rng(number).integers(1, 1 << 40, ROWS)
    rows["size"] = number + 1
    rows["last"] = [0, 0, 1]
    return rows


def put(spool: Spool, number: int) -> None:
    """Put the rows of this number for the product whose turn it is."""
    listed = product(IDS[number % len(IDS)])
    spool.put(listed, DAY, SESSION_NS, rows_of(number), {"duplicates": number})


def expected(product_id: str, puts: int) -> NDArray[np.void]:
    """What a product gets of the first `puts`."""
    mine = [rows_of(n) for n in range(puts) if IDS[n % len(IDS)] == product_id]
    return np.concatenate([np.zeros(0, EVENT), *mine])


class Dying(Store):
    """A local root; its process is killed right after it has done what `point` names."""

    point = "-"
    times = 5

    def write(self, path: str, data: bytes | memoryview) -> None:
        super().write(path, data)
        self._die("after part" if path.endswith(".parquet") else "-")

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        super().update(path, change)
        self._die("after commit")

    def _die(self, here: str) -> None:
        if here == self.point != "-":
            self.times -= 1
            if self.times == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def say(line: str) -> None:
    """Write a line, whole also beside that of another thread."""
    os.write(1, f"{line}\n".encode())


def main(root: str, mode: str, point: str) -> None:
    """Record until killed, or adopt what others left."""
    store = Dying(root)
    store.point = point
    if mode == "adopt":
        say("ready")
        sys.stdin.readline()
        Spool(store, "a test", "adopter", CONFIG).close(20)
        return
    spool = Spool(store, "a test", "recorder", CONFIG)

    for number in count():
        put(spool, number)
        say(f"put {number} {time.monotonic()}")
        if number % 50 == 49:
            spool.flush(partial(say, f"kept {number} 0"))
        time.sleep(0.001)  # The pace of a feed.


if __name__ == "__main__":
    main(*sys.argv[1:])
