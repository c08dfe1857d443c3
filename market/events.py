"""Normalised market events: what every wire format is decoded to, and what raw partitions keep.

One row per level, trade or mark; the rows that one frame carried for one product end with
`last = 1`, so frame boundaries survive storage. A stream of these rows, in arrival order, is all
that `market.windows` needs: windows rebuilt from a partition equal those computed live.
"""

from enum import IntEnum

import numpy as np

from market.checks import whole

BID, ASK = 0, 1
BUY, SELL = 0, 1


class Kind(IntEnum):
    """What a row says."""

    SNAPSHOT = 0  # A level of a venue snapshot: replaces the book, breaks the beat.
    CARRIED = 1  # A level of our own exact book at a partition's start: breaks nothing.
    CHANGE = 2  # The absolute size at a price; zero deletes.
    TRADE = 3
    UNSYNC = 4  # Mark: from here on the book is not known, see `reason`.
    CLOCK = 5  # Mark: the connection's clock reached `ns`.
    END = 6  # Mark: the recording ended; the beat in progress is not emitted.


class Reason(IntEnum):
    """Why a book stopped being synced."""

    NONE = 0
    GAP = 1
    CORRUPT = 2
    CROSSED = 3
    EMPTY_SIDE = 4
    DISCONNECT = 5
    OVERFLOW = 6  # The recorder could not keep up, so the frames were not used either.


EVENT = np.dtype(
    [
        ("ns", "i8"),  # Event clock of the frame that carried the row, UTC.
        ("recv_ns", "i8"),  # Our own clock at reception; for latency only.
        ("kind", "i1"),
        ("side", "i1"),  # BID or ASK; of a trade, the taker's side BUY or SELL.
        ("last", "i1"),  # 1 on the last row of a frame for this product.
        ("reason", "i1"),  # Of an UNSYNC mark.
        ("price", "i8"),  # Ticks.
        ("size", "i8"),  # Lots.
        ("trade_id", "i8"),  # 0 where the row is no trade.
    ],
    align=True,
)


def mark(kind: Kind, ns: int, recv_ns: int, reason: Reason = Reason.NONE) -> tuple[int, ...]:
    """Return the row of a mark, ready for `np.array([...], dtype=EVENT)`.

    ValueError unless `kind` is UNSYNC, with a reason, or CLOCK or END, with none.
    """
    if kind not in (Kind.UNSYNC, Kind.CLOCK, Kind.END):
        raise ValueError(f"kind must be UNSYNC, CLOCK or END, got {kind!r}")
    if reason not in tuple(Reason) or (kind == Kind.UNSYNC) == (reason == Reason.NONE):
        raise ValueError(f"reason {reason!r} does not go with kind {kind!r}")
    whole("ns", ns)
    whole("recv_ns", recv_ns)
    return (ns, recv_ns, kind, 0, 1, reason, 0, 0, 0)
