"""Another future, and another past: what a look-ahead check puts in the place of the recorded one.

Both are well-formed, so that code which looks at them gets on: books that are never crossed, in a
beat's order, with prices, sizes, times and takers that are not what they were.
"""

import numpy as np
from numpy.typing import NDArray

from datasets.beside import Beside
from market.cross import Mids
from market.events import EVENT, Kind
from market.external import Series
from market.windows import BEAT_NS, WindowBuilder

_PRICES = ("bid", "ask", "low_ask", "high_bid", "trade_low", "trade_high")


def scrambled_future(
    rows: NDArray[np.void], builder: WindowBuilder, ns: int, rng: np.random.Generator
) -> NDArray[np.void]:
    """Return rows (EVENT[m]) from `ns` on for those (EVENT[n]) that `builder` would be fed next.

    The book leaps at once, as a carried one, so that the beats after it stay valid. Then frames
    come in their order at other times, of the same span, with sizes and takers of each other.
    """
    found = np.concatenate([builder.carried(ns, 0), rows]) if len(rows) else np.zeros(0, EVENT)
    levels = np.flatnonzero(found["kind"] <= Kind.TRADE)
    if not len(levels):
        return found
    # The same step for all: a book that was not crossed is none then.
    price = int(np.median(found["price"][levels]))
    found["price"][levels] += rng.integers(1, price // 50 + 2)
    sized = levels[found["size"][levels] > 0]
    found["size"][sized] = rng.permutation(found["size"][sized])
    trades = np.flatnonzero(found["kind"] == Kind.TRADE)
    found["side"][trades] = rng.permutation(found["side"][trades])
    later = found[len(found) - len(rows) :]
    frame = np.cumsum(later["last"]) - later["last"]
    times = rng.integers(ns, int(later["ns"].max()) + 1, int(frame[-1]) + 1)
    later["ns"] = np.sort(times)[frame]
    return found


def scrambled_past(
    windows: NDArray[np.void], beat: int, rng: np.random.Generator
) -> NDArray[np.void]:
    """Return windows (WINDOW[n], ascending beats) of which those before `beat` are others.

    They change places and all their prices take a step; every beat that was there still is.
    """
    found = windows.copy()
    past = found[: np.searchsorted(windows["beat"], beat)]
    if not len(past):
        return found
    past[:] = rng.permutation(past)
    past["beat"] = windows["beat"][: len(past)]
    step = rng.integers(1, int(past["bid"].max()) // 50 + 2)
    for name in _PRICES:
        past[name][past[name] > 0] += step
    return found


def beside_until(known: Beside, beat: int, rng: np.random.Generator | None) -> Beside:
    """Return what is known beside a product when a beat ends, and nothing after it, or another."""
    references = tuple(
        None if one is None else _medians_after(one, int(np.searchsorted(one.beats, beat + 1)), rng)
        for one in known.references
    )
    end_ns = (beat + 1) * BEAT_NS
    series = {
        name: _values_after(one, int(np.searchsorted(one.ns, end_ns)), rng)
        for name, one in known.series.items()
    }
    return Beside(references, series)


def scrambled_past_beside(known: Beside, beat: int, rng: np.random.Generator) -> Beside:
    """Return what is known beside a product, with other medians of other products before a beat.

    Series stay: what was said last holds for as long as nothing else is.
    """
    return known._replace(
        references=tuple(
            None if one is None else Mids(one.beats, _others(one.mid2, one.beats < beat, rng))
            for one in known.references
        )
    )


def _medians_after(one: Mids, at: int, rng: np.random.Generator | None) -> Mids:
    if rng is None:
        return Mids(one.beats[:at], one.mid2[:at])
    return Mids(one.beats, _others(one.mid2, np.arange(len(one.mid2)) >= at, rng))


def _values_after(one: Series, at: int, rng: np.random.Generator | None) -> Series:
    if rng is None:
        return Series(one.ns[:at], one.values[:at])
    values = one.values.copy()
    values[at:] = rng.permutation(values[at:]) + rng.uniform(1.0, 2.0)
    return Series(one.ns, values)


def _others(
    mid2: NDArray[np.int64], which: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return medians of which some are others: they change places and take a step each."""
    found = mid2.copy()
    moved = np.flatnonzero(which & (mid2 > 0))
    found[moved] = rng.permutation(found[moved]) + rng.integers(2, 1_000, len(moved))
    return found
