"""The order book of one product, in whole ticks and lots, as sorted vectors compiled by numba.

Each side is a vector of keys in ascending order with its best level last (key = price for bids,
-price for asks), so that what happens near the touch, which is nearly everything, moves little
memory. The functions here know nothing of time or windows.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

BUCKETS = 20  # Of 0.1 % each, counted from the median.

Ints = NDArray[np.int64]


@njit(cache=True)
def set_level(keys: Ints, sizes: Ints, count: int, key: int, size: int) -> int:
    """Set the absolute size at a key, 0 deletes; return the new number of levels.

    The vectors must have room for one more level. Deleting an absent level is normal.
    """
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
def sort_levels(keys: Ints, sizes: Ints, count: int) -> int:
    """Put appended levels into order; of equal keys the last one counts. Return how many remain."""
    order = np.argsort(keys[:count], kind="mergesort")
    sorted_keys = keys[:count][order]
    sorted_sizes = sizes[:count][order]
    kept = 0
    for i in range(count):
        superseded = i + 1 < count and sorted_keys[i + 1] == sorted_keys[i]
        if sorted_sizes[i] > 0 and not superseded:
            keys[kept] = sorted_keys[i]
            sizes[kept] = sorted_sizes[i]
            kept += 1
    return kept


@njit(cache=True)
def fill_buckets(keys: Ints, sizes: Ints, count: int, sign: int, mid2: int, out: Ints) -> None:
    """Sum the sizes per 0.1 % bucket from the median into `out[BUCKETS]` (lots).

    `sign` is 1 for bids and -1 for asks. A level at distance d = |2p - mid2| falls in bucket
    (1000 * d) // mid2, exact in integers; levels from 2 % on are left out.
    """
    out[:] = 0
    reach = mid2 // 50 + 1  # No level beyond can be kept; asked first, so 1000 * d cannot overflow.
    for i in range(count - 1, -1, -1):
        distance = sign * mid2 - 2 * keys[i]
        if distance > reach:
            break
        bucket = 1000 * distance // mid2
        if bucket >= BUCKETS:
            break
        out[bucket] += sizes[i]
