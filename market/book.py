"""The order book of one product, in whole ticks and lots: arrays indexed by tick near the touch.

Nearly all that happens, happens near the touch. So the sizes of a window of ticks around it lie in
plain arrays (`near`), with sums per block for the depth buckets, and an update there is one store.
Levels outside the window lie in hash tables (`far`), which need no order because nothing asks
about them until the touch comes near; then the window moves. Memory is bounded by the window's
cap and by the number of levels, whatever the prices are.

Inside, prices are keys that ascend towards the touch (price for bids, -price for asks), so that
both sides are the same code and the best level is the highest key. Nothing here knows of time.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from market.events import ASK, BID
from market.jit import compiled, inlined, prefetch

BUCKETS = 20  # Of 0.1 % each, counted from the median.
MAX_SUM_LOTS = 1 << 61  # Of all sizes of a side; sums over three beats still fit an int64.

Ints = NDArray[np.int64]

_BLOCK_BITS = 7  # 128 ticks a sum; 64 and 256 measured alike.
_BLOCK = 1 << _BLOCK_BITS
_MIN_TICKS, _MAX_TICKS = 1 << 12, 1 << 19
_MIN_SLOTS = 1 << 8
_SPREAD = 0x9E3779B97F4A7C15 - (1 << 64)  # Fibonacci hashing's multiplier, as a signed number.
_NONE = -(1 << 62)

# What `at` holds, per side.
_BASE = 0  # The key of near[0].
_BEST = 1  # At least the highest key that has a size, and exactly that once settled.
_LEVELS = 2
_LOTS = 3  # The sum of all sizes.
_SLOTS = 4  # Slots of `far` taken, by levels that were deleted too.
_CRAMPED = 5  # 1: `roomier` must be called before the next update.
_OVERFULL = 6  # 1: a size was left out that would have passed MAX_SUM_LOTS.


class Book(NamedTuple):
    """Both sides, BID and ASK, along the first axis. Compiled functions change it in place."""

    near: Ints  # [2, ticks]: sizes at keys base, base + 1, ...
    sums: Ints  # [2, blocks]: of near.
    far: Ints  # [2, 2 * slots]: open addressing, key and size side by side; key 0: never taken.
    spare: Ints  # [2, levels]: keys and sizes of all levels of a side while its window moves.
    at: Ints  # [2, 7]


def new_book() -> Book:
    """Return a book without levels."""
    return _book(_MIN_TICKS, _MIN_SLOTS)


def roomier(book: Book) -> Book:
    """Return the same levels in arrays that have room for what made the book cramped."""
    ticks, slots = book.near.shape[1], _MIN_SLOTS
    while slots < 4 * (book.at[:, _LEVELS].max() + 1):
        slots *= 2
    wanted = max(_wanted_ticks(book.at[side, _BEST]) for side in (BID, ASK))
    if wanted <= ticks:
        wider = _book(ticks, slots)._replace(near=book.near, sums=book.sums, at=book.at)
        _rehash(book, wider)
        return wider
    wider = _book(wanted, slots)
    for side in (BID, ASK):
        n = _list_levels(book, side)
        wider.spare[:, :n] = book.spare[:, :n]
        wider.at[side, _OVERFULL] = book.at[side, _OVERFULL]
        _place(wider, side, n)
    return wider


def levels(book: Book, side: int) -> Ints:
    """Return the levels of a side, [n, 2] of (ticks, lots), best first."""
    if side not in (BID, ASK):
        raise ValueError(f"side must be BID or ASK, got {side!r}")
    n = _list_levels(book, side)
    keys, sizes = book.spare[:, :n]
    order = np.argsort(-keys)
    return np.stack([np.abs(keys[order]), sizes[order]], axis=1)


def _book(ticks: int, slots: int) -> Book:
    shapes = (ticks, ticks // _BLOCK, 2 * slots, slots // 2 + 2, _OVERFULL + 1)
    book = Book(*(np.zeros((2, n), np.int64) for n in shapes))
    book.at[:, _BEST] = _NONE
    return book


@compiled
def clear(book: Book) -> None:
    """Delete every level; the windows of ticks stay where they are."""
    for side in range(2):
        _forget(book, side, _list_levels(book, side))


@inlined
def cramped(book: Book) -> bool:
    """Whether `roomier` must be called before the next update."""
    return bool(book.at[0, _CRAMPED] | book.at[1, _CRAMPED])


@inlined
def overfull(book: Book) -> bool:
    """Whether, since the last `clear`, a size was left out: its side would pass MAX_SUM_LOTS."""
    return bool(book.at[0, _OVERFULL] | book.at[1, _OVERFULL])


@inlined
def has_both_sides(book: Book) -> bool:
    """Whether there is a bid and an ask."""
    return bool(book.at[0, _LEVELS] > 0 and book.at[1, _LEVELS] > 0)


@inlined
def best_bid(book: Book) -> int:
    """Return the best bid of a settled book, ticks."""
    return int(book.at[0, _BEST])


@inlined
def best_ask(book: Book) -> int:
    """Return the best ask of a settled book, ticks."""
    return int(-book.at[1, _BEST])


@inlined
def set_level(book: Book, side: int, price: int, size: int) -> bool:
    """Set the absolute size at a price, 0 deletes; deleting an absent level is normal.

    Return whether the book is cramped now.
    """
    at, slots = book.at, book.far.shape[1] >> 1
    key = price * (1 - 2 * side)
    i = key - at[side, _BASE]
    if 0 <= i < book.near.shape[1]:
        before = book.near[side, i]
        if at[side, _LOTS] + size - before > MAX_SUM_LOTS:
            at[side, _OVERFULL], size = 1, 0
        book.near[side, i] = size
        book.sums[side, i >> _BLOCK_BITS] += size - before
        full = False
    else:
        slot = _slot(book.far, side, key)
        before = book.far[side, slot + 1]
        if at[side, _LOTS] + size - before > MAX_SUM_LOTS:
            at[side, _OVERFULL], size = 1, 0
        if size != before:
            at[side, _SLOTS] += book.far[side, slot] == 0
            book.far[side, slot] = key
            book.far[side, slot + 1] = size
        full = 2 * at[side, _SLOTS] >= slots
    at[side, _LOTS] += size - before
    at[side, _LEVELS] += (size > 0) - (before > 0)
    if full or 2 * at[side, _LEVELS] >= slots:
        at[side, _CRAMPED], full = 1, True
    at[side, _BEST] = max(at[side, _BEST], key if size > 0 else _NONE)  # No branch to mispredict.
    return full


@inlined
def prefetch_level(book: Book, side: int, price: int) -> None:
    """Fetch from memory what `set_level` of this price will need soon."""
    key = price * (1 - 2 * side)
    i = key - book.at[side, _BASE]
    if 0 <= i < book.near.shape[1]:
        prefetch(book.near, side, i)  # type: ignore[call-arg]
    else:
        prefetch(book.far, side, _home(book.far, key))  # type: ignore[call-arg]


@inlined
def settle(book: Book) -> None:
    """Find the best levels after updates, and keep the windows of ticks around them.

    The book must have both sides.
    """
    for side in range(2):
        i = book.at[side, _BEST] - book.at[side, _BASE]
        if not (0 <= i < book.near.shape[1] and book.near[side, i] > 0):
            _find_best(book, side)


@compiled
def fill_buckets(book: Book, side: int, out: Ints) -> None:
    """Sum the sizes of a settled book per 0.1 % from the median into `out[BUCKETS]` (lots).

    A level at distance d = |2p - mid2| falls in bucket (1000 * d) // mid2, exact in integers;
    levels from 2 % on are left out. Bucket i or a farther one begins where
    d >= ceil(i * mid2 / 1000), so each edge is one key and each bucket a range of keys.
    """
    at, mid2 = book.at[side], best_bid(book) + best_ask(book)
    touch2 = mid2 * (1 - 2 * side)  # Twice the key of the median.
    lowest = (touch2 - (BUCKETS * mid2 + 999) // 1000) // 2 + 1  # The last key that is kept.
    if _base_for(book, at[_BEST]) <= lowest < at[_BASE]:
        _move_window(book, side)
    upto = at[_BEST]
    for bucket in range(BUCKETS):
        edge = min(upto, (touch2 - ((bucket + 1) * mid2 + 999) // 1000) // 2)
        out[bucket] = _near_sum(book, side, edge, upto)
        upto = edge
    if lowest < at[_BASE]:
        _add_far(book, side, mid2, out)


@compiled
def _list_levels(book: Book, side: int) -> int:
    """Copy all levels of a side to `spare`, in any order; return how many."""
    near, far, spare = book.near[side], book.far[side], book.spare
    n = 0
    for block in range(book.sums.shape[1]):
        if book.sums[side, block] != 0:
            for i in range(block << _BLOCK_BITS, (block + 1) << _BLOCK_BITS):
                if near[i] > 0:
                    spare[0, n], spare[1, n] = book.at[side, _BASE] + i, near[i]
                    n += 1
    for slot in range(0, len(far), 2):
        if far[slot + 1] > 0:
            spare[0, n], spare[1, n] = far[slot], far[slot + 1]
            n += 1
    return n


@compiled
def _move_window(book: Book, side: int) -> None:
    """Move the window of ticks to the best level, or say that a larger one is needed there."""
    n = _list_levels(book, side)
    was_overfull = book.at[side, _OVERFULL]
    highest = _highest(book, n)
    if _wanted_ticks(highest) > book.near.shape[1]:
        book.at[side, _BEST] = highest
        book.at[side, _CRAMPED] = 1
    else:
        _forget(book, side, n)
        book.at[side, _OVERFULL] = was_overfull
        _place(book, side, n)


@compiled
def _forget(book: Book, side: int, n: int) -> None:
    """Clear a side whose n levels are in `spare`, at the price of its levels, not of its window."""
    for j in range(n):
        i = book.spare[0, j] - book.at[side, _BASE]
        if 0 <= i < book.near.shape[1]:
            book.near[side, i] = 0
            book.sums[side, i >> _BLOCK_BITS] = 0
    if book.at[side, _SLOTS] > 0:
        book.far[side, :] = 0
    book.at[side, _BEST:] = 0
    book.at[side, _BEST] = _NONE


@compiled
def _highest(book: Book, n: int) -> int:
    highest = _NONE
    for i in range(n):
        highest = max(highest, book.spare[0, i])
    return highest


@compiled
def _place(book: Book, side: int, n: int) -> None:
    """Fill an empty side with the first n levels in `spare`, its window around the best of them."""
    if n > 0:
        book.at[side, _BASE] = _base_for(book, _highest(book, n))
    for i in range(n):
        set_level(book, side, abs(book.spare[0, i]), book.spare[1, i])


@compiled
def _rehash(book: Book, wider: Book) -> None:
    """Put what is far in a book into the larger tables of one that shares the rest with it."""
    for side in range(2):
        taken = 0
        for slot in range(0, book.far.shape[1], 2):
            if book.far[side, slot + 1] > 0:
                to = _slot(wider.far, side, book.far[side, slot])
                wider.far[side, to] = book.far[side, slot]
                wider.far[side, to + 1] = book.far[side, slot + 1]
                taken += 1
        wider.at[side, _SLOTS] = taken
        wider.at[side, _CRAMPED] = 0


@inlined
def _slot(far: Ints, side: int, key: int) -> int:
    """Return where in `far` a key is, or where it would be put."""
    mask, slot = far.shape[1] - 2, _home(far, key)
    while far[side, slot] != 0 and far[side, slot] != key:
        slot = (slot + 2) & mask
    return slot


@inlined
def _home(far: Ints, key: int) -> int:
    """Return where in `far` the search for a key begins."""
    mixed = key * _SPREAD
    return int((mixed ^ (mixed >> 32)) & (far.shape[1] - 2))


@compiled
def _find_best(book: Book, side: int) -> None:
    """Go down from what was the best to the next level; move the window if that is outside."""
    near, at = book.near[side], book.at[side]
    i = at[_BEST] - at[_BASE]
    if i < len(near):
        while i >= 0 and near[i] == 0:
            empty_block = i & (_BLOCK - 1) == _BLOCK - 1 and book.sums[side, i >> _BLOCK_BITS] == 0
            i -= _BLOCK if empty_block else 1
        at[_BEST] = at[_BASE] + i
    if not 0 <= i < len(near):
        _move_window(book, side)


@inlined
def _base_for(book: Book, key: int) -> int:
    """Return where the window starts that leaves a quarter of itself above the best key."""
    return int(key - 3 * (book.near.shape[1] >> 2))


@compiled
def _wanted_ticks(key: int) -> int:
    """Return the window's size for a best key: 4 % of the price, so that 2 % and a drift fit."""
    ticks = _MIN_TICKS
    while key != _NONE and ticks < min(_MAX_TICKS, abs(key) // 25):
        ticks *= 2
    return ticks


@compiled
def _near_sum(book: Book, side: int, below: int, upto: int) -> int:
    """Return the sum of the sizes in the window at keys below < key <= upto."""
    near = book.near[side]
    start = max(below + 1 - book.at[side, _BASE], 0)
    stop = max(start, min(upto + 1 - book.at[side, _BASE], len(near)))
    first, last = (start + _BLOCK - 1) >> _BLOCK_BITS, stop >> _BLOCK_BITS
    if first >= last:
        return int(near[start:stop].sum())
    edges = near[start : first << _BLOCK_BITS].sum() + near[last << _BLOCK_BITS : stop].sum()
    return int(edges + book.sums[side, first:last].sum())


@compiled
def _add_far(book: Book, side: int, mid2: int, out: Ints) -> None:
    """Add the levels outside the window to their buckets: 2 % is more than the window's cap."""
    far = book.far[side]
    reach = mid2 // 50 + 1  # No level beyond can be kept; asked first, so 1000 * d cannot overflow.
    for slot in range(0, len(far), 2):
        if far[slot + 1] > 0:
            distance = mid2 * (1 - 2 * side) - 2 * far[slot]
            if distance <= reach and 1000 * distance // mid2 < BUCKETS:
                out[1000 * distance // mid2] += far[slot + 1]
