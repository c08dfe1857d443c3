"""The generated market: the same for a seed however it is stepped, deep, busy and never crossed."""

import hashlib
import math
from collections.abc import Iterator
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from market.events import ASK, BID, BUY, SELL
from market.products import UNIVERSE, product, product_of
from sim.engine import Engine, Fill, Levels, Order, Status
from sim.flow import FlowConfig, FlowMarket
from sim.profiles import CHANGES_PER_FRAME, profile_of
from sim.regimes import STEP_NS, CommonPath, Hidden, HiddenConfig

pytestmark = pytest.mark.slow


SECOND_NS = 1_000_000_000
START_NS = 1_767_571_200 * SECOND_NS
BTC, LTC, STRK = (product(f"{coin}-USD") for coin in ("BTC", "LTC", "STRK"))
THIN = [LTC, STRK]


def flow(products: list, **changes: float) -> FlowMarket:
    return FlowMarket(products, FlowConfig(**changes), START_NS)


def after(market: FlowMarket, seconds: float) -> FlowMarket:
    market.advance(START_NS + round(seconds * SECOND_NS))
    return market


def orders_of(engine: Engine) -> list[tuple]:
    """A list that everything given to the engine from here on is added to."""
    log: list[tuple] = []
    submit, cancel = engine.submit, engine.cancel

    def logged_submit(order: Order, now_ns: int) -> list[Fill]:
        log.append((now_ns, order.order_id, order.side, order.price_ticks, order.lots, order.tif))
        return submit(order, now_ns)

    def logged_cancel(order: Order) -> bool:
        log.append((order.order_id,))
        return cancel(order)

    engine.submit, engine.cancel = logged_submit, logged_cancel  # type: ignore[method-assign]
    return log


def stream_hash(products: list, step_ns: int, index: int = 0, **changes: float) -> str:
    market = flow(products, **changes)
    log = orders_of(market.engines[index])
    for ns in range(step_ns, 20 * SECOND_NS + 1, step_ns):
        market.advance(START_NS + ns)
    assert len(log) > 200
    return hashlib.sha256(repr((log, market.book(index))).encode()).hexdigest()


def test_the_order_stream_depends_on_the_seed_and_not_on_the_steps() -> None:
    streams = {stream_hash(THIN, ns, seed=7) for ns in (50_000_000, SECOND_NS, 20 * SECOND_NS)}
    assert len(streams) == 1
    assert stream_hash(THIN, 333_333_333, seed=7) != stream_hash(THIN, SECOND_NS, seed=8)


def test_a_product_does_not_depend_on_the_others() -> None:
    alone = stream_hash([STRK], SECOND_NS, seed=7)
    assert alone == stream_hash(THIN, SECOND_NS, 1, seed=7)


@pytest.mark.parametrize(
    "changes", [{}, {"volatility_bps": 60.0}, {"activity": 20.0}, {"stick_bps": 0.0}]
)
def test_changes_rebuild_a_book_that_is_never_crossed_or_empty(changes: dict[str, float]) -> None:
    market = flow(THIN, seed=3, **changes)
    rebuilt = [market.book(index) for index in range(2)]
    for step in range(1, 200):
        after(market, step * 0.1)
        for index, book in enumerate(rebuilt):
            for side, price, lots in market.drain(index)[0]:
                if lots:
                    book[side][price] = lots
                else:
                    del book[side][price]
            assert 0 < max(book[BID]) < min(book[ASK])
    assert rebuilt == [market.book(index) for index in range(2)]


def within(levels: Levels, mid: float, share: float) -> int:
    return sum(abs(price / mid - 1) < share for price in levels)


def test_books_are_as_deep_as_recorded_ones() -> None:
    market = after(flow([BTC, STRK], seed=2), 30)
    for index, (low, high, near_low, near_high) in enumerate(
        [(18_000, 22_000, 900, 2_000), (1_000, 2_000, 60, 140)]
    ):
        bids, asks = market.book(index)
        mid = (max(bids) + min(asks)) / 2
        for levels in (bids, asks):
            assert low < len(levels) < high
            assert near_low < within(levels, mid, 0.02) < near_high
        assert min(asks) - max(bids) <= 10


def test_every_product_of_the_universe_has_a_profile_of_its_own() -> None:
    profiles = [profile_of(p) for p in UNIVERSE]
    assert len(set(profiles)) == len(UNIVERSE)
    assert min(p.start_ticks for p in profiles) >= 5_000
    assert sum(p.changes_per_s for p in profiles) == pytest.approx(3_300, rel=0.1)
    assert profile_of(product_of("NEW-USD", "0.01", "0.1")).start_ticks == 20_000


def test_a_product_changes_as_often_as_it_was_seen_to() -> None:
    market = flow(THIN, seed=4, bursts_per_hour=0.0)
    changes = [0, 0]
    for tick in range(1, 20 * 60 + 1):
        market.advance(START_NS + tick * market.tick_ns)
        for index in range(2):
            changes[index] += len(market.drain(index)[0])
    for index, frames_per_s in enumerate((13.49, 4.10)):  # Of the fact sheet.
        assert changes[index] / 60 == pytest.approx(frames_per_s * CHANGES_PER_FRAME, rel=0.2)


def events_per_s(seconds: int, **changes: float) -> list[int]:
    market = flow([STRK], **changes)
    log = orders_of(market.engines[0])
    counts = [len(after(market, second) and log) for second in range(1, seconds + 1)]
    return [later - earlier for earlier, later in pairwise(counts)]


def test_activity_multiplies_the_events_and_bursts_do_for_some_seconds() -> None:
    quiet = events_per_s(100, seed=5, bursts_per_hour=0.0)
    busy = events_per_s(100, seed=5, bursts_per_hour=0.0, activity=5.0)
    assert sum(busy) == pytest.approx(5 * sum(quiet), rel=0.2)
    bursts = np.array(events_per_s(600, seed=5, bursts_per_hour=60.0))
    assert np.percentile(bursts, 98) > 4 * np.median(bursts)


def outside(number: int, side: int, price: int, lots: int) -> Order:
    return Order(number, "ann", side, price, lots)


def test_an_order_of_an_owner_rests_in_the_feed_and_is_hit_by_the_flow() -> None:
    market = after(flow([LTC], seed=6), 5)
    engine = market.engines[0]
    engine.submit(outside(1, SELL, engine.best_ask + 500, 77), START_NS)
    bid = outside(2, BUY, engine.best_bid, 3)
    market.drain(0)
    engine.submit(bid, START_NS)
    assert market.drain(0)[0] == [(BID, bid.price_ticks, engine.book()[0][engine.best_bid])]
    trades = []
    for second in range(6, 300):
        trades += after(market, second).drain(0)[1]
        if bid.status is not Status.OPEN:
            break
    assert (bid.status, bid.left) == (Status.FILLED, 0)
    assert any(t.price_ticks == bid.price_ticks and t.taker == SELL for t in trades)


def test_an_order_in_the_way_of_the_price_is_filled_and_never_stepped_over() -> None:
    market = after(flow([LTC], seed=6, volatility_bps=20.0), 1)
    engine = market.engines[0]
    orders = [outside(n, SELL, engine.best_ask + n, 1) for n in range(20)]
    orders += [outside(-n, BUY, engine.best_bid - n, 1) for n in range(20)]
    for order in orders:
        engine.submit(order, START_NS)
    low, high = engine.best_bid, engine.best_ask
    for tenth in range(11, 400):
        after(market, tenth / 10)
        low, high = min(low, engine.best_bid), max(high, engine.best_ask)
        for order in orders:
            passed = engine.best_bid >= (order.price_ticks or 0)
            if order.side == BUY:
                passed = engine.best_ask <= (order.price_ticks or 0)
            assert not (passed and order.status is Status.OPEN)
    assert sum(order.status is Status.FILLED for order in orders) > 15


def test_the_price_follows_the_hidden_value_whatever_rests_in_its_way() -> None:
    market = flow([LTC], seed=9, volatility_bps=15.0)
    away = []
    for step in range(1, 1500):
        after(market, step * 0.2)
        mid = (market.engines[0].best_bid + market.engines[0].best_ask) / 2
        away.append(abs(math.log(mid / market._pairs[0].hidden.value)) * 1e4)
    assert np.percentile(away, 95) < 5.0
    assert max(away) < 20.0


def log_values(config: HiddenConfig, steps: int, leads: bool, name: str = "x") -> np.ndarray:
    path, hidden = CommonPath(config), Hidden(Random(name), config, 1e6, leads)
    values = []
    for step in range(steps):
        hidden.step(step, path)
        values.append(math.log(hidden.value))
    return np.array(values)


def test_the_leader_moves_first_and_the_others_follow() -> None:
    config = HiddenConfig(trend_bps=0.0, market_share=0.8)
    leader = np.diff(log_values(config, 20_000, leads=True))
    for name in ("a", "b", "c"):
        follower = np.diff(log_values(config, 20_000, leads=False, name=name))
        behind = [np.corrcoef(leader[:-lag], follower[lag:])[0, 1] for lag in range(1, 11)]
        before = [np.corrcoef(leader[lag:], follower[:-lag])[0, 1] for lag in range(1, 11)]
        assert max(behind) > 0.6  # After at most ten steps, two seconds.
        assert np.abs(before).max() < 0.1


def test_volatility_is_what_was_asked_and_comes_in_clusters() -> None:
    config = HiddenConfig(volatility_bps=2.0, trend_bps=0.0, bursts_per_hour=0.0, regime_s=1e12)
    moves = np.diff(log_values(config, 200_000, leads=True)) * 1e4
    assert moves.std() * math.sqrt(1e9 / STEP_NS) == pytest.approx(2.0, rel=0.2)
    assert np.corrcoef(np.abs(moves[:-50]), np.abs(moves[50:]))[0, 1] > 0.1


def spread_of_returns(seconds: float, **changes: float) -> float:
    values = log_values(HiddenConfig(market_share=0.0, unrest=0.0, **changes), 100_000, leads=True)
    lag = round(seconds * SECOND_NS / STEP_NS)
    return float((values[lag:] - values[:-lag]).std())


def test_one_regime_draws_back_and_the_other_trends() -> None:
    walk = {"trend_bps": 0.0, "reversion_s": 1e9}
    plain = spread_of_returns(300, **walk) / spread_of_returns(1, **walk)
    assert plain == pytest.approx(math.sqrt(300), rel=0.2)
    back = {"trend_bps": 0.0, "reversion_s": 20.0, "regime_s": 600.0}
    trend = {"trend_bps": 30.0, "reversion_s": 1e9, "regime_s": 600.0}
    assert spread_of_returns(300, **back) / spread_of_returns(1, **back) < 0.8 * plain
    assert spread_of_returns(300, **trend) / spread_of_returns(1, **trend) > 1.5 * plain


def near_share(levels: Levels, mid: float) -> float:
    """Share of the size within 2 % of the mid that lies within 0.1 % of it."""
    prices, sizes = np.array(list(levels)), np.array(list(levels.values()), dtype=float)
    away = np.abs(prices / mid - 1.0)
    return float(sizes[away < 0.001].sum() / sizes[away < 0.02].sum())


def tilt_and_return(edge_bps: float, hours: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per product: bid minus ask share of the nearest bucket per beat, next 60 s return in bp."""
    products = [product(f"{coin}-USD") for coin in ("SOL", "XRP", "LTC", "XLM")]
    market = flow(products, seed=11, edge_bps=edge_bps, activity=0.3, volatility_bps=1.5)
    rows: list[list[tuple[float, float]]] = [[] for _ in products]
    for beat in range(1, round(hours * 900)):
        after(market, 4 * beat)
        for index, row in enumerate(rows):
            market.drain(index)
            bids, asks = market.book(index)
            mid = (max(bids) + min(asks)) / 2
            row.append((near_share(bids, mid) - near_share(asks, mid), np.log(mid) * 1e4))
    for row in rows:
        tilt, log_mid_bps = np.array(row).T
        average = (tilt[2:] + tilt[1:-1] + tilt[:-2]) / 3
        yield average[:-15], log_mid_bps[17:] - log_mid_bps[2:-15]


@pytest.mark.slow
@pytest.mark.parametrize(("edge_bps", "low", "high"), [(6.0, 0.05, 0.3), (0.0, 0.0, 0.02)])
def test_the_shape_of_the_book_predicts_returns_only_where_an_edge_is_planted(
    edge_bps: float, low: float, high: float
) -> None:
    tilts, returns = map(np.concatenate, zip(*tilt_and_return(edge_bps, hours=2), strict=True))
    correlation = np.corrcoef(tilts, returns)[0, 1]
    assert low <= correlation**2 <= high
    if edge_bps:
        assert correlation > 0
