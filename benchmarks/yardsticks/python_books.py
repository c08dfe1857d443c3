"""Yardsticks driven from Python: sortedcontainers' SortedDict and nautilus_trader's OrderBook.

Both walk rows that were turned into Python's own objects before the clock starts.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from benchmarks.yardsticks.sorted_vector import BEAT_NS, BUCKETS
from market.events import ASK, Kind

Level = tuple[int, int]  # Ticks, lots.
Sample = tuple[int, int, list[int], list[int]]  # Bid, ask, depth per bucket on both sides.


def sorted_dicts(events: NDArray[np.void]) -> Callable[[], list[Sample]]:
    """Return a run over EVENT rows (changes, then a CLOCK mark) with one SortedDict a side."""
    from sortedcontainers import SortedDict

    beats = _by_beat(events)

    def run() -> list[Sample]:
        book, samples = (SortedDict(), SortedDict()), []
        for rows in beats:
            for side, price, size in rows:
                key = price if side == ASK else -price
                if size:
                    book[side][key] = size
                else:
                    book[side].pop(key, None)
            bids, asks = book
            bid, ask = -bids.peekitem(0)[0], asks.peekitem(0)[0]
            bid_levels = ((-key, size) for key, size in bids.items())
            samples.append(_sample(bid, ask, bid_levels, asks.items()))
        return samples

    return run


def nautilus(events: NDArray[np.void], deepest: int) -> Callable[[], list[Sample]]:
    """Return a run over EVENT rows with nautilus_trader's Rust book.

    `deepest` bounds the levels a side that are asked of it at each sample.
    """
    from nautilus_trader.core import nautilus_pyo3 as pyo3

    name = pyo3.InstrumentId.from_str("BTC-USD.X")
    unit = pyo3.Quantity.from_int(1).raw

    def delta(side: int, price: int, size: int) -> object:
        taken = pyo3.OrderSide.SELL if side == ASK else pyo3.OrderSide.BUY
        order = pyo3.BookOrder(taken, pyo3.Price.from_int(price), pyo3.Quantity.from_int(size), 0)
        action = pyo3.BookAction.UPDATE if size else pyo3.BookAction.DELETE
        return pyo3.OrderBookDelta(name, action, order, 0, 0, 0, 0)

    beats = [pyo3.OrderBookDeltas(name, [delta(*row) for row in rows]) for rows in _by_beat(events)]

    def levels(found: list[pyo3.BookLevel]) -> Iterable[Level]:
        return ((int(level.price), level.size_raw() // unit) for level in found)

    def run() -> list[Sample]:
        book, samples = pyo3.OrderBook(name, pyo3.BookType.L2_MBP), []
        for deltas in beats:
            book.apply_deltas(deltas)
            bid, ask = int(book.best_bid_price()), int(book.best_ask_price())
            bids, asks = levels(book.bids(deepest)), levels(book.asks(deepest))
            samples.append(_sample(bid, ask, bids, asks))
        return samples

    return run


def _by_beat(events: NDArray[np.void]) -> list[list[tuple[int, int, int]]]:
    changes = events[events["kind"] != Kind.CLOCK]
    beats = changes["ns"] // BEAT_NS
    starts = np.searchsorted(beats, np.arange(beats[0], events["ns"][-1] // BEAT_NS))
    return [part[["side", "price", "size"]].tolist() for part in np.split(changes, starts[1:])]


def _sample(bid: int, ask: int, bids: Iterable[Level], asks: Iterable[Level]) -> Sample:
    mid2, depths = bid + ask, ([0] * BUCKETS, [0] * BUCKETS)
    for levels, depth in zip((bids, asks), depths, strict=True):
        for price, size in levels:
            bucket = 1000 * abs(2 * price - mid2) // mid2
            if bucket >= BUCKETS:
                break
            depth[bucket] += size
    return bid, ask, *depths
