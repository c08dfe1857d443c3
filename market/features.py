"""Features of a beat (section 4): ten medians over five minutes and both books' shape.

`features` is the one definition. Live trading pushes windows one by one through `FeatureBuilder`,
which calls it on the last 69 of them, so the vector served is the vector trained on, bit for bit.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from market.book import BUCKETS, MAX_SUM_LOTS
from market.jit import compiled
from market.windows import WINDOW

# Beats back from k, oldest first: ceil(7.5 j) for j = 9..0, one every 30 s over five minutes.
MEDIAN_LAGS = tuple((15 * j + 1) // 2 for j in range(9, -1, -1))
LOOKBACK_BEATS = MEDIAN_LAGS[0]  # A sample of beat k needs valid beats k-68 .. k.
DEPTH_BEATS = 3  # The books are averaged over beats k-2, k-1, k.

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_PRICE_BITS = 62  # Of bid and ask, so that their sum is an int64.
_MAX_SUM_LOTS = 1.1 * DEPTH_BEATS * MAX_SUM_LOTS  # Still an int64, and room for rounding.
_DEPTH_BITS = 57  # Of lots: as many of DEPTH_BEATS * BUCKETS buckets always sum to an int64.


class Features(NamedTuple):
    """Features of n beats, stored raw: scaling belongs to the model."""

    beats: Ints  # [n]
    medians: Floats  # [n, 10], quote currency, oldest first
    bids: Floats  # [n, 20], shares of the kept depth, nearest bucket first
    asks: Floats  # [n, 20]


def features(windows: NDArray[np.void], quote_increment: float) -> Features:
    """Return the features of every beat that has valid beats k-68 .. k.

    `windows` is WINDOW[m] of one product in ascending order; beats may be missing. ValueError as
    from `valid_run`, for depths that are negative or sum to more than a book can hold, and for a
    quote increment that is not positive and finite.
    """
    windows = checked_windows(windows)
    tick = _checked_increment(quote_increment)
    at = np.flatnonzero(valid_run(windows) > LOOKBACK_BEATS)
    found = Features(
        np.empty(len(at), np.int64),
        np.empty((len(at), len(MEDIAN_LAGS))),
        np.empty((len(at), BUCKETS)),
        np.empty((len(at), BUCKETS)),
    )
    bad = _fill(windows, at, tick / 2, *found)
    if bad >= 0:
        last = int(windows["beat"][bad])
        raise ValueError(
            "windows: bid_depth and ask_depth must not be negative or beyond what a book holds, "
            f"but are in beats {last - DEPTH_BEATS + 1} .. {last}"
        )
    return found


class FeatureBuilder:
    """The features of a live product, one window at a time."""

    def __init__(self, quote_increment: float) -> None:
        self._quote_increment = _checked_increment(quote_increment)
        # The newest rows, in order; once full, what the next sample needs moves to the front.
        self._recent = np.zeros(2 * (LOOKBACK_BEATS + 1), WINDOW)
        self._count = 0

    def push(self, window: NDArray[np.void]) -> Features:
        """Add the next window (WINDOW[1]); return its features (n = 1), or none yet (n = 0).

        A window that raises ValueError is not added.
        """
        rows = checked_windows(window)
        if len(rows) != 1:
            raise ValueError(f"window must be one row, got {len(rows)}")
        if self._count == len(self._recent):
            self._recent[:LOOKBACK_BEATS] = self._recent[-LOOKBACK_BEATS:]
            self._count = LOOKBACK_BEATS
        at = self._count
        self._recent[at] = rows[0]
        found = features(self._recent[max(at - LOOKBACK_BEATS, 0) : at + 1], self._quote_increment)
        self._count += 1
        return found

    @property
    def recent(self) -> NDArray[np.void]:
        """The newest windows pushed, at most the 69 that a sample is made of; a view."""
        return self._recent[max(self._count - LOOKBACK_BEATS - 1, 0) : self._count]


def valid_run(windows: NDArray[np.void]) -> Ints:
    """Return, per window, how many consecutive valid beats end with it (0 if it is invalid).

    ValueError unless `windows` is WINDOW[n] in ascending order of beat, without duplicates, and
    0 < bid < ask < 2^62 ticks in every valid beat.
    """
    windows = checked_windows(windows)
    run = np.empty(len(windows), np.int64)
    bad = _valid_run(windows, run)
    if bad < 0:
        return run
    beat, bid, ask = (int(windows[name][bad]) for name in ("beat", "bid", "ask"))
    if bad and beat <= windows["beat"][bad - 1]:
        raise ValueError(
            "windows must be in ascending order of beat, without duplicates, "
            f"but beat {windows['beat'][bad - 1]} is followed by {beat}"
        )
    raise ValueError(
        f"windows: a valid beat must have 0 < bid < ask < 2^{_PRICE_BITS} ticks, "
        f"but beat {beat} has bid {bid} and ask {ask}"
    )


def checked_windows(windows: NDArray[np.void]) -> NDArray[np.void]:
    """Return WINDOW[n] as compiled code wants it, contiguous; ValueError for anything else."""
    if not isinstance(windows, np.ndarray) or windows.dtype != WINDOW:
        got = getattr(windows, "dtype", type(windows).__name__)
        raise ValueError(f"windows must have the WINDOW dtype, got {got}")
    if windows.ndim != 1:
        raise ValueError(f"windows must have one dimension, got {windows.ndim}")
    return np.require(windows, requirements=["C", "A"])


def _checked_increment(quote_increment: float) -> float:
    number = isinstance(quote_increment, (int, float)) and not isinstance(quote_increment, bool)
    if not number or not 0 < quote_increment < np.inf:
        raise ValueError(f"quote_increment must be positive and finite, got {quote_increment!r}")
    return float(quote_increment)


@compiled
def _valid_run(windows: NDArray[np.void], out: Ints) -> int:
    """Fill `out`; return the first row that is out of order or has unsound prices, or -1."""
    run = 0
    for k in range(len(windows)):
        here = windows[k]
        if k > 0 and here.beat <= windows[k - 1].beat:
            return k
        if here.valid:
            if not 0 < here.bid < here.ask < 1 << _PRICE_BITS:
                return k
            run = run + 1 if k > 0 and here.beat - 1 == windows[k - 1].beat else 1
        else:
            run = 0
        out[k] = run
    return -1


@compiled
def _fill(
    windows: NDArray[np.void],
    at: Ints,
    half_tick: float,
    beats: Ints,
    medians: Floats,
    bids: Floats,
    asks: Floats,
) -> int:
    """Fill the features of the rows `at`; return the first of them with unsound depths, or -1."""
    for i in range(len(at)):
        k = at[i]
        beats[i] = windows[k].beat
        for j, lag in enumerate(MEDIAN_LAGS):
            medians[i, j] = (windows[k - lag].bid + windows[k - lag].ask) * half_tick
        a, b, c = windows[k - 2], windows[k - 1], windows[k]
        bits = _shares(a.bid_depth, b.bid_depth, c.bid_depth, bids[i])
        bits |= _shares(a.ask_depth, b.ask_depth, c.ask_depth, asks[i])
        if bits >> _DEPTH_BITS != 0:
            most = max(
                _sum(a.bid_depth, b.bid_depth, c.bid_depth),
                _sum(a.ask_depth, b.ask_depth, c.ask_depth),
            )
            if bits < 0 or most > _MAX_SUM_LOTS:
                return int(k)
    return -1


@partial(compiled, error_model="numpy")  # The other model's check for zero forbids SIMD.
def _shares(a: Ints, b: Ints, c: Ints, out: Floats) -> int:
    """Fill `out` with the depth of three beats as shares of its own sum, all zero if that is 0.

    Return all the depths' bits in one number: it is negative if one of them is.
    """
    total, bits = 0, 0
    # Up to len(out), which the compiler does not know: what it knows it unrolls, without SIMD.
    for i in range(len(out)):
        total += a[i] + b[i] + c[i]
        bits |= a[i] | b[i] | c[i]
    divisor = float(max(total, 1))
    for i in range(len(out)):
        out[i] = (a[i] + b[i] + c[i]) / divisor
    return int(bits)


@compiled
def _sum(a: Ints, b: Ints, c: Ints) -> float:
    """Depth summed over three beats, in float64, where it may be beyond an int64."""
    total = 0.0
    for i in range(len(a)):
        total += float(a[i]) + float(b[i]) + float(c[i])
    return total
