"""Samples in batches, in an order that follows from seed and epoch alone.

Batches come from samples that may be far larger than memory: rows are shuffled in blocks of
neighbours, and within groups of hundreds of blocks from anywhere. A group is read once, block by
block, and stays in memory while its rows are drawn; a set smaller than a group is shuffled row by
row.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.samples import Samples

BLOCK_ROWS = 1024  # Some 80 KB a column: reading it costs hardly more than finding it.
GROUP_BLOCKS = 512  # Half a million rows, 150 MB.


@dataclass(frozen=True, eq=False)
class Part:
    """The labelled rows of one part of a split; `samples` may lie on disk and is read when used."""

    samples: Samples
    rows: NDArray[np.int64]  # Ascending.

    @classmethod
    def of(cls, samples: Samples, mask: NDArray[np.bool_] | bool = True) -> "Part":
        """Return the rows of `samples` that have labels and where `mask` (bool[n]) is true."""
        return cls(samples, np.flatnonzero(samples.labelled & mask))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def take(self, positions: NDArray[np.int64] | slice) -> Samples:
        """Return copies of the rows at these positions of the part, in their order."""
        rows = self.rows[positions]
        return Samples(
            **{
                column.name: np.asarray(getattr(self.samples, column.name)).take(rows, axis=0)
                for column in fields(Samples)
            }
        )

    def fetch(self, first: int, last: int) -> None:
        """Have the system read positions `first` to `last` in the background, if on disk.

        Without this, each row that is missed costs a wait, and megabytes read around it.
        """
        start, stop = self.rows[first], self.rows[last] + 1
        if stop - start > 2 * (last - first + 1):
            return  # Between them lie other parts of the split.
        for column in fields(Samples):
            values = getattr(self.samples, column.name)
            if isinstance(values, np.memmap) and isinstance(values.base, mmap.mmap):
                row_bytes = values.nbytes // len(values)
                at = (values.offset + int(start) * row_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
                end = values.offset + int(stop) * row_bytes
                values.base.madvise(mmap.MADV_WILLNEED, at, end - at)

    def column(self, name: str) -> Iterator[NDArray[Any]]:
        """Yield one column of all rows, some at a time."""
        values = getattr(self.samples, name)
        for start in range(0, len(self), GROUP_BLOCKS * BLOCK_ROWS):
            yield values.take(self.rows[start : start + GROUP_BLOCKS * BLOCK_ROWS], axis=0)

    def products(self) -> list[int]:
        """Return which products the rows are of, sorted."""
        return sorted(set().union(*(np.unique(p).tolist() for p in self.column("product"))))

    def in_order(self, size: int) -> Iterator[Samples]:
        """Yield all rows, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


class Batches:
    """A part in shuffled batches of `size` rows, the last of an epoch what is left."""

    def __init__(self, part: Part, size: int, seed: int) -> None:
        self._part = part
        self._size = size
        self._seed = seed

    def epoch(self, epoch: int, from_batch: int = 0) -> Iterator[Samples]:
        """Yield every row once, each epoch in another order, from batch `from_batch` on."""
        left = np.zeros(0, np.int64)
        for group in self._groups(epoch, from_batch * self._size):
            positions = np.concatenate([left, group])
            whole = len(positions) - len(positions) % self._size
            for start in range(0, whole, self._size):
                yield self._part.take(positions[start : start + self._size])
            left = positions[whole:]
        if len(left):
            yield self._part.take(left)

    def _groups(self, epoch: int, skip: int) -> Iterator[NDArray[np.int64]]:
        """Yield the shuffled positions of each group, without the first `skip` of all."""
        n = len(self._part)
        starts = np.arange(0, n, BLOCK_ROWS)
        np.random.default_rng((self._seed, epoch)).shuffle(starts)
        fetched = 0
        for first in range(0, len(starts), GROUP_BLOCKS):
            blocks = starts[first : first + GROUP_BLOCKS]
            rows = int(np.minimum(n - blocks, BLOCK_ROWS).sum())
            if skip >= rows:
                skip -= rows
                continue
            # This group, and while its rows are used the next.
            for start in starts[max(first, fetched) : first + 2 * GROUP_BLOCKS].tolist():
                self._part.fetch(start, min(start + BLOCK_ROWS, n) - 1)
            fetched = first + 2 * GROUP_BLOCKS
            positions = (blocks[:, None] + np.arange(BLOCK_ROWS)).ravel()
            positions = positions[positions < n]
            # Counted from 1: numpy seeds (a, b, 0) like (a, b).
            np.random.default_rng((self._seed, epoch, 1 + first)).shuffle(positions)
            yield positions[skip:]
            skip = 0
