"""The book where a store of levels has its limits: edges of what is near, sums, and memory.

Driven through the window builder, whose records must say what the definitions say.
"""

from typing import Any

import numpy as np
import pytest
from psutil import Process

from market.events import ASK, BID, EVENT, Kind
from market.windows import WindowBuilder
from tests.market.acts import BEAT_NS, HIGHEST
from tests.market.hostile import as_dicts, fed
from tests.reference.events import EventReference


def size_of(price: Any) -> Any:
    return 1 + price % 1009


def depth_of(prices: np.ndarray, mid2: int, sign: int) -> list[int]:
    """Lots per 0.1 % bucket of one side; sign is 1 for asks, -1 for bids."""
    index = 1000 * sign * (2 * prices - mid2) // mid2
    kept = (index >= 0) & (index < 20)
    return np.bincount(index[kept], size_of(prices[kept]), 20).astype(int).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("middle", "bands"),
    [
        (2_500, [(-2499, 4000)]),
        (100_000, [(-3500, 3500)]),
        (100_037, [(-3500, 3500)]),
        (150_013, [(-5000, 5000)]),
        (300_000, [(-7500, 7500)]),
        (6_470_000, [(k * 2**12 - 99, k * 2**12 + 99) for k in range(-34, 35)]),
        # 2 % of these comes by three quarters of 2^19 and of 2^20 ticks, where a store may end.
        (19_695_800, [(-396_000, -391_000), (391_000, 396_000)]),
        (39_356_600, [(-790_000, -784_000), (784_000, 790_000)]),
        (90_000_000, [(k * 2**16 - 99, k * 2**16 + 99) for k in range(-30, 31)]),
    ],
)
def test_depth_while_the_price_creeps_over_every_offset(
    middle: int, bands: list[tuple[int, int]], sign: int
) -> None:
    way = (0, 1502) if sign > 0 else (-1501, 2)
    prices = middle + np.unique(np.concatenate([np.arange(*band) for band in [way, *bands]]))
    bid, ns = middle, 5 * BEAT_NS
    rows = [(Kind.CARRIED, ASK if p > bid else BID, ns, p, size_of(p)) for p in prices.tolist()]
    mid2s = [2 * bid + 1]
    for _ in range(1500):  # The touch goes tick by tick: its level changes sides.
        moved, bid, ns = (bid + 1 if sign > 0 else bid), bid + sign, ns + BEAT_NS
        rows.append((Kind.CHANGE, ASK if sign > 0 else BID, ns, moved, 0))
        rows.append((Kind.CHANGE, BID if sign > 0 else ASK, ns, moved, size_of(moved)))
        mid2s.append(2 * bid + 1)
    rows.append((Kind.CLOCK, 0, ns + BEAT_NS, 0, 0))
    events = np.array([(ns, 0, kind, side, 0, 0, p, n, 0) for kind, side, ns, p, n in rows], EVENT)
    events["last"] = np.diff(events["ns"], append=0) != 0

    found = fed([events])
    assert found["valid"].all()
    assert (found["bid"] + found["ask"] == mid2s).all() and (found["ask"] - found["bid"] == 1).all()
    for bids, asks, mid2 in zip(found["bid_depth"], found["ask_depth"], mid2s, strict=True):
        first, last = np.searchsorted(prices, [mid2 * 48 // 100, mid2 * 52 // 100])
        assert asks.tolist() == depth_of(prices[first:last], mid2, 1)
        assert bids.tolist() == depth_of(prices[first:last], mid2, -1)


@pytest.mark.slow
def test_prices_that_came_and_went_and_leaps_leave_no_memory_behind() -> None:
    def change(sides: Any, prices: Any, sizes: Any) -> None:
        frame = np.zeros(len(prices), EVENT)
        frame["ns"], frame["kind"], frame["side"] = 5 * BEAT_NS, Kind.CHANGE, sides
        frame["price"], frame["size"] = prices, sizes
        frame["last"][-1] = 1
        builder.feed(frame)

    def churn(rounds: range) -> None:
        for i in rounds:
            prices = np.arange(20_000) * 1009 + i * 20_000 * 1009
            prices = 10**12 + prices if i % 2 == ASK else 10**11 - prices
            change(i % 2, np.concatenate([prices, prices]), np.repeat([1, 0], 20_000))

    def leap(bid: int) -> None:
        old = [(side, int(levels[0, 0])) for side, levels in enumerate(builder.levels())]
        change([*dict(old), BID, ASK], [*dict(old).values(), bid, bid + 1], [0, 0, 1, 1])

    builder = WindowBuilder()
    opening = np.zeros(2, EVENT)
    opening["side"], opening["price"], opening["size"] = [BID, ASK], [10**11 + 1, 10**12 - 1], 5
    opening["last"] = [0, 1]
    builder.feed(opening)
    churn(range(20))
    before = Process().memory_info().rss
    churn(range(20, 220))
    for power in [*range(1, 57), *range(56, 0, -1)] * 3:
        leap(2**power)
    assert builder.synced and [side.tolist() for side in builder.levels()] == [[[2, 1]], [[3, 1]]]
    assert Process().memory_info().rss - before < 64e6


@pytest.mark.parametrize("count", [1, 7, 15, 16, 17, 63, 64, 65, 200, 1000])
@pytest.mark.parametrize("kind", [Kind.CHANGE, Kind.TRADE])
def test_sums_beyond_an_int64_are_never_a_valid_record(kind: Kind, count: int) -> None:
    def rows(kind: Kind, ns: int, prices: list[int], size: int) -> np.ndarray:
        frame = np.zeros(len(prices), EVENT)
        frame["ns"], frame["kind"], frame["price"], frame["size"] = ns, kind, prices, size
        frame["side"] = [price > 10**9 for price in prices]
        frame["last"][-1] = 1
        return frame

    # From 64 levels of 2^57 lots on, all in the first 0.1 %, an int64 does not hold the sum.
    prices = [10**9 + 1 + i * (kind == Kind.CHANGE) for i in range(count)]
    frames = [
        rows(Kind.CARRIED, 5 * BEAT_NS, [10**9, 10**9 + 1], 1),
        rows(kind, 5 * BEAT_NS, prices, HIGHEST),
        rows(Kind.CLOCK, 6 * BEAT_NS, [0], 0),
    ]
    reference = EventReference()
    reference.feed(np.concatenate(frames))
    found = as_dicts(fed(frames))
    record = reference.records[0]
    most = max(*record["ask_depth"], record["buy_lots"], record["sell_lots"])
    if sum(record["ask_depth"]) < 2**61 > most:
        assert found[0]["valid"]
    if most >= 2**63:
        assert not found[0]["valid"]
    assert not found[0]["valid"] or found == [record]
