"""How sure a mean over related beats is: the circular block bootstrap, widened for what it misses.

Neighbouring blocks are related too, as a label looks a block ahead, and of few blocks not much is
known: as they are, percentiles of 95 % held the mean of overlapping labels in 77 to 88 % of
draws, so they are widened.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from market.labels import HORIZON_BEATS

BLOCK_BEATS = HORIZON_BEATS  # A prediction looks this far ahead: nearer results are related.
MIN_BLOCKS = 5  # Below this an interval would be a pretence.
RESAMPLES = 4000

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean with the interval that holds it, in the unit of what was averaged."""

    mean: float
    low: float
    high: float
    blocks: int

    @property
    def includes_zero(self) -> bool:
        """Whether chance alone may have made the mean."""
        return self.low <= 0 <= self.high


def block_bootstrap(gains: Floats, seed: int = 0, coverage: float = 0.95) -> Interval | None:
    """Return the mean of `gains` (f8[n], one per beat) and its interval; None below MIN_BLOCKS.

    Blocks keep together what one prediction ties together.
    """
    return ratio_bootstrap(gains, np.ones(len(gains)), seed, coverage)


def ratio_bootstrap(
    gains: Floats, against: Floats, seed: int = 0, coverage: float = 0.95
) -> Interval | None:
    """Return the sum of `gains` as a share of that of `against` (both f8[n], one per beat).

    The same beats are drawn for both. None below MIN_BLOCKS, or where a draw of `against` sums to
    nothing or less: a share of that means nothing.
    """
    n = len(gains)
    blocks = n // BLOCK_BEATS
    if blocks < MIN_BLOCKS:
        return None
    starts = np.random.default_rng(seed).integers(0, n, (RESAMPLES, blocks))
    above, below = (_block_sums(one)[starts].sum(axis=1) for one in (gains, against))
    if below.min() <= 0:
        return None
    tail = 50 * (1 - coverage)
    low, high = map(float, np.percentile(above / below, [tail, 100 - tail]))
    mean = float(gains.sum() / against.sum())
    wider = _widening(gains - mean * against, blocks, coverage)
    return Interval(mean, mean - wider * (mean - low), mean + wider * (high - mean), blocks)


def decision_bootstrap(
    gains: Floats, beats: NDArray[np.int64], against: Floats | None = None
) -> Interval | None:
    """Return the mean of `gains` (f8[n], one per decision), or their sum as a share of `against`'s.

    `beats` are those of the decisions, in any order. Products move together: what they gain at one
    beat is drawn as one. Beats without a decision are left out. None as in `ratio_bootstrap`.
    """
    _, at = np.unique(beats, return_inverse=True)
    return ratio_bootstrap(np.bincount(at, gains), np.bincount(at, against).astype(np.float64))


def _widening(rest: Floats, blocks: int, coverage: float) -> float:
    """Return how much wider the interval is than the bootstrap's.

    `rest` is what is left of the gains, f8[n]. Sums of neighbouring blocks whose correlation is r
    have 1 + 2r times the variance, as have the means of so many fewer blocks (Student's t).
    """
    from scipy.special import stdtrit  # A third of a second.

    sums = rest[: blocks * BLOCK_BEATS].reshape(blocks, BLOCK_BEATS).sum(axis=1)
    sums = sums - sums.mean()
    power = float(sums @ sums)
    correlation = float(sums[1:] @ sums[:-1]) / power if power > 0 else 0.0
    excess = 1 + 2 * min(max(correlation, 0.0), 0.5)
    level = 0.5 + coverage / 2
    student = float(stdtrit(max(blocks / excess - 1, 1.0), level)) / NormalDist().inv_cdf(level)
    return math.sqrt(excess * blocks / (blocks - 1)) * student


def _block_sums(values: Floats) -> Floats:
    """The sum of the block that starts at each beat, [n]; behind the last beat comes the first."""
    totals = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[:BLOCK_BEATS]]))])
    return totals[BLOCK_BEATS:-1] - totals[: -BLOCK_BEATS - 1]
