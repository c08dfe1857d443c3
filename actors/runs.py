"""Runs: many plain book frames of a connection at once, in compiled passes.

A run is a stretch of frames, of the shape that the scanner reads, of which each has the number
after the one before and all are of the connection's UTC day: nothing is lost or repeated in it and
the clock makes no leap. Its rows are stamped with the clock and put in order of product, each
product's in order of arrival, with a CLOCK mark for every product where the clock passes the end of
a beat: what the reader would have said of frame after frame.
"""

import numpy as np
from numpy.typing import NDArray

from market.events import EVENT, Kind, mark
from market.jit import compiled
from market.windows import BEAT_NS

Words = NDArray[np.int64]  # EVENT rows as int64[n, WORDS], which are moved without their fields.
WORDS = EVENT.itemsize // 8
_DAY_NS = 86_400 * 1_000_000_000
_CLOCK = np.array([mark(Kind.CLOCK, 0, 0)], EVENT).view(np.int64)


def words(events: NDArray[np.void]) -> Words:
    """Return EVENT[n] as words."""
    return events.view(np.int64).reshape(-1, WORDS)


def joined(pieces: list[Words]) -> NDArray[np.void]:
    """Return pieces one after the other as EVENT[n] with memory of its own."""
    return np.concatenate(pieces).view(EVENT).reshape(-1)


def by_product(
    heads: NDArray[np.int64], rows: Words, clock_ns: int, recv_ns: int, products: int
) -> tuple[list[tuple[int, Words]], int]:
    """Return each product's rows of a run, of those that have any, and the clock after it.

    `heads` are the run's, as the scanner returns them; `rows` begins with those of its first frame.
    """
    stops = np.zeros(products + 1, np.int64)
    clock_after_ns = _count(heads, clock_ns, stops)
    bounds = stops.tolist()
    out = np.empty((bounds[-1], WORDS), np.int64)
    _spread(heads, rows, clock_ns, recv_ns, stops, out)
    found = [(p, out[bounds[p] : bounds[p + 1]]) for p in range(products)]
    return [(p, part) for p, part in found if len(part)], clock_after_ns


@compiled
def run_length(heads: NDArray[np.int64], at: int, sequence: int, clock_ns: int) -> int:
    """Return how many frames from `at` on are one run."""
    end_ns = (clock_ns // _DAY_NS + 1) * _DAY_NS
    i = at
    while i < len(heads) and heads[i, 0] > 0:
        if heads[i, 2] != sequence + 1 or heads[i, 3] >= end_ns:
            break
        sequence += 1
        i += 1
    return i - at


@compiled
def _count(heads: NDArray[np.int64], clock_ns: int, stops: NDArray[np.int64]) -> int:
    """Fill in where each product's rows begin, and after the last where all end."""
    beats = 0
    for i in range(len(heads)):
        stops[heads[i, 1] + 1] += heads[i, 0]
        ns = heads[i, 3]
        if ns > clock_ns:
            beats += ns // BEAT_NS > clock_ns // BEAT_NS
            clock_ns = ns
    for p in range(1, len(stops)):
        stops[p] += stops[p - 1] + beats
    return clock_ns


@compiled
def _spread(
    heads: NDArray[np.int64],
    rows: Words,
    clock_ns: int,
    recv_ns: int,
    ends: NDArray[np.int64],
    out: Words,
) -> None:
    """Copy the rows of each product to `out`, from where `ends` says on."""
    row = 0
    for i in range(len(heads)):
        ns = heads[i, 3]
        if ns > clock_ns:
            passed = ns // BEAT_NS > clock_ns // BEAT_NS
            clock_ns = ns
            for p in range(len(ends) - 1 if passed else 0):
                for word in range(2, WORDS):
                    out[ends[p], word] = _CLOCK[word]
                out[ends[p], 0], out[ends[p], 1] = clock_ns, recv_ns
                ends[p] += 1
        at = ends[heads[i, 1]]
        for n in range(heads[i, 0]):
            out[at + n, 0], out[at + n, 1] = clock_ns, recv_ns
            for word in range(2, WORDS):
                out[at + n, word] = rows[row + n, word]
        ends[heads[i, 1]] += heads[i, 0]
        row += heads[i, 0]
