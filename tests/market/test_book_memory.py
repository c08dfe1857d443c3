"""The book's memory: bounded by its levels, whatever their prices (limits of the third issue)."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from market.events import ASK, EVENT, Kind
from market.products import UNIVERSE
from market.windows import BEAT_NS, WindowBuilder

MB = 1 << 20
BTC_MID = 10_000_000  # 100,000.00 at a tick of 0.01.


def snapshot(mid: int, levels: int, spacing: int, beat: int = 0) -> NDArray[np.void]:
    """A book of `levels` a side, one every `spacing` ticks."""
    rows = np.zeros(2 * levels, EVENT)
    away = spacing * np.arange(1, levels + 1)
    rows["kind"], rows["size"], rows["ns"] = Kind.SNAPSHOT, 1_000, beat * BEAT_NS
    rows["side"][levels:] = ASK
    rows["price"] = np.concatenate([mid - away, mid + away])
    rows["last"][-1] = 1
    return rows


def changes(prices: NDArray[np.int64], size: int, beat: int) -> NDArray[np.void]:
    """Asks at these prices, a frame each."""
    rows = np.zeros(len(prices), EVENT)
    rows["kind"], rows["side"], rows["last"] = Kind.CHANGE, ASK, 1
    rows["price"], rows["size"], rows["ns"] = prices, size, beat * BEAT_NS
    return rows


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()  # numpy reports its arrays to it.
    yield
    tracemalloc.stop()


def peak() -> int:
    return tracemalloc.get_traced_memory()[1]


@pytest.mark.usefixtures("traced")
def test_a_deep_book_and_a_tenfold_price_stay_small() -> None:
    builder = WindowBuilder()
    builder.feed(snapshot(BTC_MID, 20_000, 100))
    assert peak() < 64 * MB
    builder.feed(changes(np.array([10**9, 10**11, 10**17]), 5, beat=1))
    assert builder.synced
    builder.feed(snapshot(10 * BTC_MID, 20_000, 1_000, beat=2))
    builder.feed(snapshot(BTC_MID // 10, 20_000, 10, beat=3))
    windows = builder.feed(changes(np.array([BTC_MID]), 5, beat=5))
    assert builder.synced
    assert windows["valid"][-1]
    # 2 % of the price is 20,000 ticks, one level every 10, from 10 ticks off the median on.
    assert windows["bid_depth"][-1].tolist() == windows["ask_depth"][-1].tolist()
    assert windows["bid_depth"][-1].sum() == 1_000 * 1_999
    assert peak() < 64 * MB


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_levels_that_come_and_go_at_ever_new_prices_leave_nothing_behind() -> None:
    builder = WindowBuilder()
    builder.feed(snapshot(BTC_MID, 1_000, 100))
    prices = 10**9 + 7 * np.arange(1_000_000)
    peaks = []
    for part in prices.reshape(-1, 1_000):
        builder.feed(changes(part, 5, beat=1))
        builder.feed(changes(part, 0, beat=1))
        peaks.append(peak())
    assert len(builder.levels()[1]) == 1_000
    assert peaks[-1] < peaks[len(peaks) // 10] + MB


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_all_products_fit_in_a_gigabyte_even_if_each_were_as_deep_as_bitcoin() -> None:
    builders = [WindowBuilder() for _ in UNIVERSE]
    for builder in builders:
        builder.feed(snapshot(BTC_MID, 20_000, 100))
    assert peak() < 1_024 * MB
