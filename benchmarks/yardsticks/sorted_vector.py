"""Yardstick: a book of two sorted vectors in numba, reading the same EVENT rows as ours.

Keys ascend with the best level last (price for bids, -price for asks), so that what happens near
the touch moves little memory. Adding or removing a level moves all better ones: `plain` does it
as one would write it, and as this project's first book did; `tuned` so that LLVM sees a memmove,
which numba's signed, wrapping indices otherwise hide, and searches without a call.
"""

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from market.events import EVENT, Kind

BEAT_NS = 4_000_000_000
BUCKETS = 20

SAMPLE = np.dtype(
    [
        ("bid", "i8"),  # When the beat ends, as is the depth.
        ("ask", "i8"),
        ("low_ask", "i8"),  # Over the beat's opening state and each whole frame.
        ("high_bid", "i8"),
        ("bid_depth", "i8", (BUCKETS,)),
        ("ask_depth", "i8", (BUCKETS,)),
    ],
    align=True,
)

Ints = NDArray[np.int64]
SetLevel = Callable[[Ints, Ints, int, int, int], int]


@njit(cache=True)
def plain(keys: Ints, sizes: Ints, count: int, key: int, size: int) -> int:
    """Set the absolute size at a key, 0 deletes; return the new number of levels."""
    at = np.searchsorted(keys[:count], key)
    present = at < count and keys[at] == key
    if present and size > 0:
        sizes[at] = size
    elif present:
        for i in range(at, count - 1):
            keys[i] = keys[i + 1]
            sizes[i] = sizes[i + 1]
        return count - 1
    elif size > 0:
        for i in range(count, at, -1):
            keys[i] = keys[i - 1]
            sizes[i] = sizes[i - 1]
        keys[at] = key
        sizes[at] = size
        return count + 1
    return count


@njit(cache=True)
def find(keys: Ints, count: int, key: int) -> int:
    """Return how many of the first `count` keys are smaller than `key`."""
    low, high = np.uint64(0), np.uint64(count)
    while low < high:
        middle = (low + high) >> np.uint64(1)
        if keys[middle] < key:
            low = middle + np.uint64(1)
        else:
            high = middle
    return np.int64(low)


@njit(cache=True)
def tuned(keys: Ints, sizes: Ints, count: int, key: int, size: int) -> int:
    """Set the absolute size at a key, 0 deletes; return the new number of levels."""
    one, end = np.uint64(1), np.uint64(count)
    at = np.uint64(find(keys, count, key))
    present = at < end and keys[at] == key
    if present and size > 0:
        sizes[at] = size
    elif present:
        for i in range(at, end - one):
            keys[i] = keys[i + one]
        for i in range(at, end - one):
            sizes[i] = sizes[i + one]
        return count - 1
    elif size > 0:
        i = end
        while i > at:
            keys[i] = keys[i - one]
            i -= one
        i = end
        while i > at:
            sizes[i] = sizes[i - one]
            i -= one
        keys[at] = key
        sizes[at] = size
        return count + 1
    return count


@njit(cache=True)
def _fill_buckets(keys, sizes, count, sign, mid2, out):  # type: ignore[no-untyped-def]
    for i in range(count - 1, -1, -1):
        bucket = 1000 * (sign * mid2 - 2 * keys[i]) // mid2
        if bucket >= BUCKETS:
            break
        out[bucket] += sizes[i]


@njit
def _run(events, room, samples, set_level):  # type: ignore[no-untyped-def]
    keys, sizes = np.empty((2, room), np.int64), np.empty((2, room), np.int64)
    bid_keys, bid_sizes, bids = keys[0], sizes[0], 0
    ask_keys, ask_sizes, asks = keys[1], sizes[1], 0
    beat, beat_end = 0, events[0].ns // BEAT_NS * BEAT_NS + BEAT_NS
    low_ask, high_bid = 1 << 62, 0
    for event in events:
        while event.ns >= beat_end:
            bid, ask = bid_keys[bids - 1], -ask_keys[asks - 1]
            sample = samples[beat]
            sample.bid, sample.ask, sample.low_ask, sample.high_bid = bid, ask, low_ask, high_bid
            _fill_buckets(bid_keys, bid_sizes, bids, 1, bid + ask, sample.bid_depth)
            _fill_buckets(ask_keys, ask_sizes, asks, -1, bid + ask, sample.ask_depth)
            low_ask, high_bid = ask, bid
            beat += 1
            beat_end += BEAT_NS
        if event.kind == _CLOCK:
            continue
        if event.side:
            asks = set_level(ask_keys, ask_sizes, asks, -event.price, event.size)
        else:
            bids = set_level(bid_keys, bid_sizes, bids, event.price, event.size)
        if event.last:
            low_ask = min(low_ask, -ask_keys[asks - 1])
            high_bid = max(high_bid, bid_keys[bids - 1])


_CLOCK = Kind.CLOCK


def sample_book(
    events: NDArray[np.void], levels: int, beats: int, set_level: SetLevel
) -> NDArray[np.void]:
    """Return SAMPLE[beats] of events (EVENT[n]: level changes, then a CLOCK mark).

    `levels` bounds the levels of a side. Rows of the snapshot are applied like changes; they are
    quick where they come best level last.
    """
    if events.dtype != EVENT:
        raise ValueError(f"events must have the EVENT dtype, got {events.dtype}")
    samples = np.zeros(beats, SAMPLE)
    _run(events, levels + 1, samples, set_level)
    return samples
