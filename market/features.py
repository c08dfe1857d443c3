"""Features of a beat (section 4): ten medians over five minutes and both books' shape.

`features` is the one definition. Live trading pushes windows one by one through `FeatureBuilder`,
which calls it on the last 69 of them, so the vector served is the vector trained on, bit for bit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from market.book import BUCKETS
from market.windows import WINDOW

# Beats back from k, oldest first: ceil(7.5 j) for j = 9..0, one every 30 s over five minutes.
MEDIAN_LAGS = tuple((15 * j + 1) // 2 for j in range(9, -1, -1))
LOOKBACK_BEATS = MEDIAN_LAGS[0]  # A sample of beat k needs valid beats k-68 .. k.
DEPTH_BEATS = 3  # The books are averaged over beats k-2, k-1, k.


class Features(NamedTuple):
    """Features of n beats, stored raw: scaling belongs to the model."""

    beats: NDArray[np.int64]  # [n]
    medians: NDArray[np.float64]  # [n, 10], quote currency, oldest first
    bids: NDArray[np.float64]  # [n, 20], shares of the kept depth, nearest bucket first
    asks: NDArray[np.float64]  # [n, 20]


def valid_run(windows: NDArray[np.void]) -> NDArray[np.int64]:
    """Return, per window, how many consecutive valid beats end with it (0 if it is invalid)."""
    beats = windows["beat"]
    if len(beats) and (np.diff(beats) <= 0).any():
        raise ValueError("windows must be in ascending order of beat, without duplicates")
    index = np.arange(len(beats))
    follows = np.zeros(len(beats), bool)
    follows[1:] = windows["valid"][:-1] & (np.diff(beats) == 1)
    starts = np.maximum.accumulate(np.where(follows, 0, index))
    return np.where(windows["valid"], index - starts + 1, 0)


def features(windows: NDArray[np.void], quote_increment: float) -> Features:
    """Return the features of every beat that has valid beats k-68 .. k.

    `windows` is WINDOW[m] of one product in ascending order; beats may be missing.
    """
    if windows.dtype != WINDOW:
        raise ValueError(f"windows must have the WINDOW dtype, got {windows.dtype}")
    at = np.flatnonzero(valid_run(windows) > LOOKBACK_BEATS)
    mid2 = windows["bid"] + windows["ask"]
    medians = mid2[at[:, None] - np.array(MEDIAN_LAGS)] * (quote_increment / 2)
    return Features(
        windows["beat"][at],
        medians,
        _shares(windows["bid_depth"], at),
        _shares(windows["ask_depth"], at),
    )


def _shares(depth: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Depth summed over the last beats, as shares of its own sum; all zero if that is 0."""
    summed = np.zeros((len(at), BUCKETS), np.int64)
    for lag in range(DEPTH_BEATS):
        summed += depth[at - lag]
    total = summed.sum(axis=1, keepdims=True)
    return summed / np.where(total == 0, 1, total)


class FeatureBuilder:
    """The features of a live product, one window at a time."""

    def __init__(self, quote_increment: float) -> None:
        self._quote_increment = quote_increment
        self._recent = np.zeros(0, WINDOW)

    def push(self, window: NDArray[np.void]) -> Features:
        """Add the next window (WINDOW[1]); return its features (n = 1), or none yet (n = 0)."""
        self._recent = np.concatenate([self._recent[-LOOKBACK_BEATS:], window])
        return features(self._recent, self._quote_increment)
