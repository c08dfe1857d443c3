"""Level changes of one hour as two books would see them: deep and sparse, thin and dense.

"btc" has 20,000 levels a side around 100,000.00, 6,139 of them within 2 %; "thin" has 1,500
around 0.5000, 94 of them within 2 %. Each is 2 million changes, 40 % of them deletions, 85 % on
the best 50 levels of a side and the rest thousands of levels deep (in "thin" anywhere deeper),
on existing levels or new prices. The mid walks a few tenths of a per cent; nothing ever crosses.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.yardsticks.sorted_vector import find, tuned
from market.events import EVENT, Kind, mark
from market.windows import BEAT_NS

SEED = 7
BEATS = 900
START_NS = 450_000_000 * BEAT_NS
TOP = 50  # Levels a side on which most changes fall.
DEEP_SHARE = 0.15
RESIZED_SHARE = 0.2  # Of the changes; the others delete a level or add one, in balance.
FRAME_MAX = 9  # Changes a frame, at least one.
LOTS_MAX = 200_000_000
WALK = 5e-7  # Of the mid, per change.


class Shape(NamedTuple):
    """How many levels lie how far from the mid; prices in ticks."""

    name: str
    mid: int
    levels: int  # A side.
    within: int  # Of them, within 2 %.
    reach: int  # Ticks from the mid to the last one.
    deep: tuple[int, int]  # Deep changes fall on levels from the first to before the second.


BTC = Shape("btc", 10_000_000, 20_000, 6_139, 2_000_000, (1_000, 6_000))
THIN = Shape("thin", 5_000, 1_500, 94, 2_000, (TOP, 1_400))


class Workload(NamedTuple):
    """The rows of one stream and what was measured while it was made."""

    shape: Shape
    events: NDArray[np.void]  # EVENT: a snapshot, frames of changes, a CLOCK mark at the end.
    levels: tuple[int, int]  # Bids and asks at the end.
    within: float  # Levels a side within 2 %, the mean over the hour.
    deleted: float  # Share of the changes.
    top: float  # Share of the changes that fall on the best TOP levels of their side.
    mids: tuple[float, float]  # The mid's lowest and highest, ticks.

    @property
    def changes(self) -> int:
        """Level changes, the snapshot's rows included."""
        return len(self.events) - 1

    def describe(self) -> str:
        """Return its properties in a line."""
        low, high = self.mids
        return (
            f"{self.shape.name}: {self.changes:,} rows; levels {self.levels[0]:,} and "
            f"{self.levels[1]:,}, {self.within:,.0f} a side within 2 %; deletions "
            f"{self.deleted:.0%}, on the best {TOP} {self.top:.0%}; mid {low:,.0f} to {high:,.0f}"
        )


def workload(shape: Shape, updates: int = 2_000_000, seed: int = SEED) -> Workload:
    """Return a snapshot of `shape` and `updates` changes spread over BEATS beats."""
    first = 2 * shape.levels
    events = np.zeros(first + updates + 1, EVENT)
    columns = [events[name][:-1] for name in ("side", "price", "size")]
    rng = np.random.default_rng(seed)
    levels, within, deleted, top, mids = _fill(rng, shape, *columns)
    frames = np.minimum(np.cumsum(rng.integers(1, FRAME_MAX + 1, updates)), updates)
    frames = frames[: int(np.searchsorted(frames, updates)) + 1]  # Where each one ends.
    times = np.sort(rng.integers(1, BEATS * BEAT_NS, len(frames)))
    events["ns"] = START_NS
    events["ns"][first:-1] += np.repeat(times, np.diff(frames, prepend=0))
    events["recv_ns"] = events["ns"]
    events["kind"] = Kind.CHANGE
    events["kind"][:first] = Kind.SNAPSHOT
    events["last"][first - 1] = 1
    events["last"][first + frames - 1] = 1
    end_ns = START_NS + BEATS * BEAT_NS
    events[-1] = mark(Kind.CLOCK, end_ns, end_ns)
    shares = deleted / max(updates, 1), top / max(updates, 1)
    return Workload(shape, events, levels, within, *shares, mids)


@njit(cache=True)
def _distance(level, shape):  # type: ignore[no-untyped-def]
    """Ticks from the mid to a level: its rank in two straight pieces, to 2 % and beyond."""
    inner = shape.mid // 50
    if level < shape.within:
        return 1 + int(level * inner / shape.within)
    beyond = (level - shape.within) / (shape.levels - shape.within)
    return 1 + inner + int(beyond * (shape.reach - inner))


@njit(cache=True)
def _new_key(rng, own, count, top, deep, shape):  # type: ignore[no-untyped-def]
    """Return a free key below `top`, or after many tries one that is not."""
    first, end = shape.deep
    key = top - 1
    for _ in range(64):
        if deep:
            key = top - _distance(first + rng.random() * (end - first), shape)
        else:
            key = rng.integers(own[count - TOP], top)
        at = find(own, count, key)
        if at == count or own[at] != key:
            break
    return key


@njit(cache=True)
def _next_change(rng, own, count, top, shape):  # type: ignore[no-untyped-def]
    """Return the key and size of one change of a side whose keys must stay below `top`."""
    size = rng.integers(1, LOTS_MAX)
    if own[count - 1] >= top:
        return own[count - 1], 0  # The mid has passed it.
    deep = rng.random() < DEEP_SHARE
    first, end = shape.deep if deep else (0, TOP)
    key = own[count - 1 - rng.integers(first, end)]
    if rng.random() < RESIZED_SHARE:
        return key, size
    if deep:
        surplus = (count - shape.levels) / 200
    else:
        surplus = (count - find(own, count, top - _distance(TOP, shape)) - TOP) / 20
    if rng.random() < 0.5 + surplus:
        return key, 0
    return _new_key(rng, own, count, top, deep, shape), size


@njit(cache=True)
def _fill(rng, shape, side_of, price_of, size_of):  # type: ignore[no-untyped-def]
    """Fill the columns: the snapshot from the far ends inwards, then changes one by one."""
    keys = np.empty((2, 2 * shape.levels), np.int64)
    sizes = np.empty((2, 2 * shape.levels), np.int64)
    counts = np.zeros(2, np.int64)
    center = low = high = float(shape.mid)
    within, looks, deleted, best = 0, 0, 0, 0
    for row in range(len(side_of)):
        if row < 2 * shape.levels:
            side, level = divmod(row, shape.levels)
            sign = 1 - 2 * side
            key = sign * shape.mid - _distance(shape.levels - 1 - level, shape)
            size = rng.integers(1, LOTS_MAX)
        else:
            center += rng.normal() * shape.mid * WALK
            side = rng.integers(0, 2)
            sign = 1 - 2 * side
            own, count = keys[side], counts[side]
            other = keys[1 - side, counts[1 - side] - 1]
            key, size = _next_change(rng, own, count, min(sign * round(center), -other), shape)
            best += count - find(own, count, key) <= TOP
            deleted += size == 0
            if row % 1000 == 0:
                within += count - find(own, count, sign * center - center / 50)
                looks += 1
                low, high = min(low, center), max(high, center)
        counts[side] = tuned(keys[side], sizes[side], counts[side], key, size)
        side_of[row], price_of[row], size_of[row] = side, sign * key, size
    return (counts[0], counts[1]), within / max(looks, 1), deleted, best, (low, high)
