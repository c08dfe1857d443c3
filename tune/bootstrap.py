"""How sure a mean over related beats is: the circular block bootstrap."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from market.labels import HORIZON_BEATS

BLOCK_BEATS = HORIZON_BEATS  # A prediction looks this far ahead: nearer results are related.
MIN_BLOCKS = 5  # Below this an interval would be a pretence.
RESAMPLES = 4000


class Interval(NamedTuple):
    """A mean with the interval that holds it, in the unit of what was averaged."""

    mean: float
    low: float
    high: float
    blocks: int


def block_bootstrap(
    gains: NDArray[np.float64], seed: int = 0, coverage: float = 0.95
) -> Interval | None:
    """Return the mean of `gains` (f8[n], one per beat) and its interval; None below MIN_BLOCKS.

    Blocks keep together what one prediction ties together; percentile interval.
    """
    n = len(gains)
    blocks = n // BLOCK_BEATS
    if blocks < MIN_BLOCKS:
        return None
    totals = np.concatenate([[0.0], np.cumsum(np.concatenate([gains, gains[:BLOCK_BEATS]]))])
    block_sums = totals[BLOCK_BEATS : BLOCK_BEATS + n] - totals[:n]
    starts = np.random.default_rng(seed).integers(0, n, (RESAMPLES, blocks))
    means = block_sums[starts].sum(axis=1) / (blocks * BLOCK_BEATS)
    tail = 50 * (1 - coverage)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(gains.mean()), float(low), float(high), blocks)
