"""How large the orders of the flow are, and how far from the touch they lie: all by chance."""

import math
from bisect import bisect_left
from random import Random
from typing import NamedTuple

from market.events import ASK, BID
from sim.profiles import DISTANCE_BPS, LEVEL_SHARE, Profile

NEAR_BPS = 15.0  # Distance over which the planted shape fades.
MAKER_REACH_BPS = (0.2, 40.0)
FLEETING_REACH_BPS = (0.2, 25.0)
DEEPEST = 20_000  # Levels a side of the deepest book.
_LAST_BID_BPS = 9_990.0


class Size(NamedTuple):
    """How large orders are: log-normal, in units of the product's `order_lots`."""

    median: float
    sigma: float
    tilts: bool = False  # With the hidden drift.


TOUCH_SIZE, MAKER_SIZE, WALL_SIZE = Size(3.0, 0.4, True), Size(3.0, 0.4, True), Size(25.0, 0.4)
WALL_BPS = 10.0  # From here on makers' quotes are walls: recorded books hold much of their size so.
FLEETING_SIZE, PATIENT_SIZE, TAKER_SIZE = Size(0.5, 1.0), Size(0.3, 1.2), Size(0.4, 1.2)


class Draws:
    """The draws of one product, from the generator that all its participants share."""

    def __init__(self, random: Random, profile: Profile, book_tilt: float) -> None:
        self._random = random
        self._order_lots = profile.order_lots
        self._tilt = book_tilt
        self._reach = 1.0 + profile.spread_bps / 2  # Thin coins are quoted more widely.
        fewer = (DEEPEST / profile.levels) ** 0.7  # Where there are fewer orders, they are larger.
        self.patient_size = PATIENT_SIZE._replace(median=PATIENT_SIZE.median * fewer)

    def lots(self, size: Size, distance_bps: float, side: int, drift_state: float) -> int:
        """Draw a size in lots; the drift shapes the book near the touch."""
        exponent = size.sigma * self._random.gauss(0.0, 1.0)
        if size.tilts:
            tilt = self._tilt * drift_state
            tilt *= math.exp(-distance_bps / NEAR_BPS)
            exponent += tilt if side == BID else -tilt
        return max(1, int(size.median * self._order_lots * math.exp(exponent)))

    def reach(self, range_bps: tuple[float, float]) -> float:
        """Draw a distance from the touch in bp, as many of one order of magnitude as of another."""
        low, high = range_bps
        return float(low * (high / low * self._reach) ** self._random.random())

    def book_distance(self, side: int) -> float:
        """Draw how far from the touch a patient trader's order lies, as in recorded books."""
        while True:
            share = self._random.random()
            row = bisect_left(LEVEL_SHARE, share)
            low = 0.0 if row == 0 else LEVEL_SHARE[row - 1]
            part = (share - low) / (LEVEL_SHARE[row] - low)
            start = DISTANCE_BPS[row - 1] if row else 0.0
            distance_bps = start + part * (DISTANCE_BPS[row] - start)
            if side == ASK or distance_bps < _LAST_BID_BPS:
                return distance_bps
