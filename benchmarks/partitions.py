"""Raw partitions as a live recorder leaves them: a UTC day of one product, in many parts.

The mean partition of 55 products has 5.2 million level changes: 3,300 a second were counted at the
venue. A collector of a third of the products finishes a segment after 500,000 rows, so a day has
about 200 parts a product. A day begins with the carried book, so that none of its beats is lost.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.commit import Piece, commit
from actors.raw import DAY_NS, book_sha256, day_of
from actors.store import Store
from benchmarks.workload import BEATS, START_NS, Shape, workload
from market.events import EVENT, Kind
from market.products import product
from market.windows import BEAT_NS, WindowBuilder

CHANGES, PARTS = 5_200_000, 200
DAY_BEATS = DAY_NS // BEAT_NS
FIRST_NS = START_NS // DAY_NS * DAY_NS  # The midnight of the first day.
SEED = 11
_TRADED = 0.1  # Of the frames, after which a trade comes.
_LATE_NS = (15_000_000, 60_000_000)  # From a frame's time to its reception.


class Day(NamedTuple):
    """The rows of a product's first day, and what the recorder knows when it ends."""

    events: NDArray[np.void]  # EVENT: a carried book, changes, trades, a CLOCK mark a beat.
    changes: int
    book: str


def a_day(shape: Shape, changes: int) -> Day:
    """Return a day of `changes` level changes spread evenly over it."""
    made = workload(shape, changes, SEED).events
    made["ns"] = FIRST_NS + (made["ns"] - START_NS) * (DAY_BEATS // BEATS)
    made["kind"][made["kind"] == Kind.SNAPSHOT] = Kind.CARRIED
    rng = np.random.default_rng(SEED)
    frames = np.flatnonzero(made["last"])[:-1]
    traded = np.sort(rng.choice(frames, int(_TRADED * len(frames)), replace=False))
    trades, clocks = np.zeros(len(traded), EVENT), np.zeros(DAY_BEATS - 1, EVENT)
    trades["kind"], clocks["kind"] = Kind.TRADE, Kind.CLOCK
    trades["last"] = clocks["last"] = 1
    for name in ("ns", "side", "price"):
        trades[name] = made[name][traded]
    trades["size"] = rng.integers(1, 10_000_000, len(trades))
    trades["trade_id"] = 900_000_000 + np.arange(len(trades))
    clocks["ns"] = FIRST_NS + np.arange(1, DAY_BEATS) * BEAT_NS
    # All rows of a frame have its time, so these places are never within one.
    places = np.concatenate([traded + 1, np.searchsorted(made["ns"], clocks["ns"])])
    events = np.insert(made, places, np.concatenate([trades, clocks]))
    _, frame = np.unique(events["ns"], return_inverse=True)
    late_ns = rng.integers(*_LATE_NS, int(frame[-1]) + 1)
    events["recv_ns"] = np.maximum.accumulate(events["ns"] + late_ns[frame])
    builder = WindowBuilder()
    builder.feed(events)
    assert builder.synced
    return Day(events, changes, book_sha256(builder))


def record_day(store: Store, product_id: str, day: Day, number: int = 0, parts: int = PARTS) -> str:
    """Commit a day's parts one by one, `number` days after the first; return its date."""
    date = day_of(FIRST_NS + number * DAY_NS)
    ends = np.flatnonzero(day.events["last"])[:-1] + 1  # The midnight mark stays with the last.
    cuts = ends[np.linspace(0, len(ends) - 1, parts + 1).astype(int)[1:-1]]
    for n, rows in enumerate(np.split(day.events, cuts)):
        rows = rows.copy()
        rows["ns"] += number * DAY_NS
        rows["recv_ns"] += number * DAY_NS
        piece = Piece(
            product=product(product_id),
            day=date,
            session=f"{FIRST_NS + number * DAY_NS:020d}-5eed5eed",
            source="made for a benchmark",
            number=n,
            rows=rows,
            counts={},
            book=day.book if n == parts - 1 else None,
            follows=n - 1 if n else None,
            live=True,
        )
        commit(store, piece)
    return date
