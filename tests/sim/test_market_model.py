"""The synthetic market: deterministic, always a sound book, and a signal only where planted."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from market.events import ASK, BID, BUY
from market.products import UNIVERSE, product
from sim.market_model import FIRST_TRADE_ID, Levels, MarketConfig, ProductStep, SyntheticMarket

PRODUCTS = [product(name) for name in ("BTC-USD", "XRP-USD")]


def market(**changes: Any) -> SyntheticMarket:
    return SyntheticMarket(PRODUCTS, MarketConfig(**changes))


def run(synthetic: SyntheticMarket, steps: int) -> list[list[ProductStep]]:
    return [synthetic.step() for _ in range(steps)]


def books(synthetic: SyntheticMarket) -> list[tuple[Levels, Levels]]:
    return [synthetic.book(index) for index in range(len(synthetic.products))]


def test_the_same_seed_gives_the_same_market() -> None:
    first, second, other = market(seed=7), market(seed=7), market(seed=8)
    assert run(first, 500) == run(second, 500)
    assert books(first) == books(second)
    run(other, 500)
    assert books(first) != books(other)


def test_a_product_does_not_depend_on_the_others() -> None:
    alone = SyntheticMarket(PRODUCTS[1:], MarketConfig(seed=7))
    assert [step[0] for step in run(alone, 300)] == [step[1] for step in run(market(seed=7), 300)]


@pytest.mark.parametrize("changes", [{}, {"volatility_bps": 60.0}, {"step_s": 0.1}])
def test_changes_rebuild_a_book_that_is_never_crossed_or_empty(changes: dict[str, float]) -> None:
    synthetic = market(seed=3, **changes)
    rebuilt = books(synthetic)
    for number in range(3000):
        for book, step in zip(rebuilt, synthetic.step(), strict=True):
            touched = [(side, price) for side, price, _ in step.changes]
            assert len(set(touched)) == len(touched)
            for side, price, size in step.changes:
                if size:
                    book[side][price] = size
                else:
                    del book[side][price]  # Only levels that are there are deleted.
            bids, asks = book[BID], book[ASK]
            assert 0 < max(bids) < min(asks)
            assert min(bids.values()) > 0 and min(asks.values()) > 0
        if number % 100 == 0:
            assert rebuilt == books(synthetic)
    assert rebuilt == books(synthetic)


def test_every_product_of_the_universe_has_a_deep_book_and_a_narrow_spread() -> None:
    synthetic = SyntheticMarket(UNIVERSE, MarketConfig())
    run(synthetic, 20)
    for bids, asks in books(synthetic):
        mid = (max(bids) + min(asks)) / 2
        assert 0.3 < (min(asks) - max(bids)) / mid * 1e4 < 2.5
        assert 1 - min(bids) / mid == pytest.approx(0.025, rel=0.2)
        assert max(asks) / mid - 1 == pytest.approx(0.025, rel=0.2)
        assert 60 <= len(bids) <= 150 and 60 <= len(asks) <= 150


def test_trades_take_the_touch_before_the_step_with_consecutive_ids() -> None:
    synthetic = market(seed=5)
    next_id = [FIRST_TRADE_ID] * len(PRODUCTS)
    before = books(synthetic)
    for _ in range(1000):
        for index, step in enumerate(synthetic.step()):
            bids, asks = before[index]
            for trade in step.trades:
                levels, touch = (asks, min(asks)) if trade.taker == BUY else (bids, max(bids))
                assert trade.price_ticks == touch
                assert 0 < trade.size_lots <= levels[touch]
                assert trade.trade_id == next_id[index]
                next_id[index] += 1
        before = books(synthetic)
    assert min(next_id) > FIRST_TRADE_ID + 300


def test_a_quiet_product_does_nothing() -> None:
    assert run(market(quiet_share=1.0), 50) == [[ProductStep([], [])] * len(PRODUCTS)] * 50


def near_share(levels: Levels, mid: float) -> float:
    """Share of the size within 2 % of the mid that lies within 0.1 % of it."""
    prices, sizes = np.array(list(levels)), np.array(list(levels.values()), dtype=float)
    away = np.abs(prices / mid - 1.0)
    return float(sizes[away < 0.001].sum() / sizes[away < 0.02].sum())


def tilt_and_return(edge_bps: float, hours: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per product: bid minus ask share of the nearest bucket per beat, next 60 s return in bp."""
    synthetic = market(seed=11, edge_bps=edge_bps)
    rows: list[list[tuple[float, float]]] = [[] for _ in PRODUCTS]
    for _ in range(hours * 900):
        run(synthetic, 4)
        for row, (bids, asks) in zip(rows, books(synthetic), strict=True):
            mid = (max(bids) + min(asks)) / 2
            row.append((near_share(bids, mid) - near_share(asks, mid), np.log(mid) * 1e4))
    for row in rows:
        tilt, log_mid_bps = np.array(row).T
        average = (tilt[2:] + tilt[1:-1] + tilt[:-2]) / 3
        yield average[:-15], log_mid_bps[17:] - log_mid_bps[2:-15]


@pytest.mark.parametrize(("edge_bps", "low", "high"), [(6.0, 0.05, 0.3), (0.0, 0.0, 0.02)])
def test_the_shape_of_the_book_predicts_returns_only_where_an_edge_is_planted(
    edge_bps: float, low: float, high: float
) -> None:
    tilts, returns = map(np.concatenate, zip(*tilt_and_return(edge_bps, hours=3), strict=True))
    correlation = np.corrcoef(tilts, returns)[0, 1]
    assert low <= correlation**2 <= high
    if edge_bps:
        assert correlation > 0
    assert 5 < np.abs(returns).mean() < 20
