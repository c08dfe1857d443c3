"""How long frames took: a histogram over all of them, cheap to add to and small to send.

Microseconds are counted one by one up to 64, then in 32 buckets for each doubling. Read back is
a bucket's upper end: never too low, and at most 1/32 or a microsecond too high.
"""

from collections import Counter
from collections.abc import Iterable
from math import ceil

import msgspec

_BITS = 5  # Of a bucket's place within its doubling.


class Latency(msgspec.Struct):
    """A histogram of durations."""

    counts: dict[int, int] = {}  # By bucket.

    def add(self, ns: int) -> None:
        """Count one; a negative one, of clocks that differ, as nothing."""
        us = max(ns, 0) // 1000
        doublings = max(0, us.bit_length() - _BITS - 1)
        bucket = (doublings << _BITS) + (us >> doublings)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def copy(self) -> "Latency":
        """Return these counts as they are at this moment."""
        return Latency(self.counts.copy())

    def since(self, earlier: "Latency") -> "Latency":
        """Return what was counted after `earlier`, a copy of this one."""
        grown = {b: n - earlier.counts.get(b, 0) for b, n in self.counts.items()}
        return Latency({bucket: n for bucket, n in grown.items() if n > 0})

    @classmethod
    def sum(cls, several: Iterable["Latency"]) -> "Latency":
        """Return what several counted together."""
        total: Counter[int] = Counter()
        for one in several:
            total.update(one.counts)
        return cls(dict(total))

    @property
    def n(self) -> int:
        """How many were counted."""
        return sum(self.counts.values())

    def percentiles_ms(self, *percents: float) -> list[float] | None:
        """Return the nearest-rank percentiles (100: the longest); None if nothing was counted."""
        return self._at([ceil(p / 100 * self.n) for p in percents]) if self.counts else None

    def sample_ms(self, most: int) -> list[float]:
        """Return up to `most` of the durations, evenly over their ranks, the longest among them."""
        n = self.n
        taken = min(n, most)
        return self._at([ceil(n * (i + 1) / taken) for i in range(taken)])

    def _at(self, ranks: list[int]) -> list[float]:
        """Return the durations at these ranks, counted from 1."""
        found: dict[int, float] = {}
        wanted = sorted(set(ranks), reverse=True)
        passed = 0
        for bucket in sorted(self.counts):
            passed += self.counts[bucket]
            while wanted and wanted[-1] <= passed:
                found[wanted.pop()] = _end_ms(bucket)
        return [found[rank] for rank in ranks]


def _end_ms(bucket: int) -> float:
    doublings = max(0, (bucket >> _BITS) - 1)
    return (bucket - (doublings << _BITS) + 1 << doublings) / 1000
