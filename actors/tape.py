"""Trades of one product: duplicates dropped, holes in trade_id counted.

What is kept is not what was seen but what is missing, of which there is little.
"""

import numpy as np
from numpy.typing import NDArray

MOST_MISSING = 10_000  # Ids waited for. One that comes later than that many counts as a duplicate.


class Tape:
    """The ids seen so far: all from the first to the newest, but for those that are missing."""

    def __init__(self) -> None:
        self._first = self._newest = 0
        self._missing: dict[int, None] = {}  # In order of being missed, so that the oldest can go.
        self.duplicates = 0
        self.holes = 0

    def rising(self, ids: NDArray[np.int64]) -> bool:
        """Take ids that are new and in order, as `new` would; False, and none, if they are not."""
        steps = np.diff(ids)
        if not len(ids) or ids[0] <= self._newest or not (steps > 0).all():
            return False
        self._take(int(ids[0]))
        for at in np.flatnonzero(steps > 1):
            self._miss(int(ids[at]) + 1, int(ids[at + 1]))
        self._newest = int(ids[-1])
        return True

    def new(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Return the trades of a batch (EVENT[n]) not seen before, in order of their id."""
        ids = rows["trade_id"].tolist()
        kept = [row for row in sorted(range(len(ids)), key=ids.__getitem__) if self._take(ids[row])]
        new = rows[kept]
        new["last"] = 0
        new["last"][-1:] = 1
        return new

    def _take(self, trade_id: int) -> bool:
        """Note an id; False if it is a duplicate."""
        if not self._newest:
            self._first = self._newest = trade_id
        elif trade_id > self._newest:
            self._miss(self._newest + 1, trade_id)
            self._newest = trade_id
        elif trade_id in self._missing:
            del self._missing[trade_id]
            self.holes -= 1  # A late trade fills its hole.
        elif 0 < self._first - trade_id <= MOST_MISSING:
            self._miss(trade_id + 1, self._first)
            self._first = trade_id
        else:
            self.duplicates += 1
            return False
        return True

    def _miss(self, start: int, stop: int) -> None:
        self.holes += stop - start
        self._missing.update(dict.fromkeys(range(max(start, stop - MOST_MISSING), stop)))
        while len(self._missing) > MOST_MISSING:
            del self._missing[next(iter(self._missing))]
