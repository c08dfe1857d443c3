"""The backtest, by hand to the cent, and what must hold whatever the market does."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from market.actions import LOWEST_TIER_FEES, ZERO_FEES, Action, Fees
from market.errors import QuaverError
from market.events import BUY
from market.ledger import Order
from market.paper import PaperBroker
from market.policy import Limits
from market.products import product_of
from market.trader import Trader, TraderConfig
from market.windows import WINDOW
from sim.backtest import BacktestResult, Values, Windows, backtest, step
from sim.baselines import buy_and_hold_values, compare, fee_table, oracle_values, significance

NAME, OTHER = "AAA-USD", "BBB-USD"
PRODUCTS = {name: product_of(name, "0.01", "0.001") for name in (NAME, OTHER)}
ONE = {NAME: PRODUCTS[NAME]}
FEES = Fees(taker_bps=5.0, maker_bps=0.0)
CONFIG = TraderConfig(unit_usd=1_000.0, reserve_usd=1_200.0)
# Nothing but the position limit ever binds.
RICH = TraderConfig(
    reserve_usd=1e6, limits=Limits(max_daily_loss_usd=1e9, max_orders_per_minute=10**6)
)
BEAT = 1_000
CENT = 1e-9


def rows(quotes: Sequence[tuple[int, int]], beats: Sequence[int] | None = None) -> np.ndarray:
    """Valid windows with these bids and asks, nothing happening within a beat."""
    windows = np.zeros(len(quotes), WINDOW)
    windows["beat"] = BEAT + np.arange(len(quotes)) if beats is None else beats
    windows["valid"] = True
    windows["bid"], windows["ask"] = np.array(quotes).T
    windows["high_bid"], windows["low_ask"] = windows["bid"], windows["ask"]
    return windows


def chosen(*actions: Action | None, first: int = BEAT) -> tuple[np.ndarray, np.ndarray]:
    """Values that choose these actions at successive beats; None is no prediction."""
    values = np.full((len(actions), 5), np.nan)
    for row, action in zip(values, actions, strict=True):
        if action is not None:
            row[:] = 0.0
            row[action] += 1.0
    return first + np.arange(len(actions)), values


def random_market(seed: int, count: int = 400) -> tuple[Windows, Values]:
    """Two products on a random walk with wicks and a few invalid beats, and random values."""
    rng = np.random.default_rng(seed)
    windows, values = {}, {}
    for name in PRODUCTS:
        middle = 10_000 + np.cumsum(rng.integers(-8, 9, count))
        made = rows(list(zip(middle, middle + rng.integers(1, 5, count), strict=True)))
        made["high_bid"] += rng.integers(0, 5, count)
        made["low_ask"] -= rng.integers(0, 5, count)
        made["valid"] = np.arange(count) % 190 != 100
        windows[name] = made
        values[name] = made["beat"], rng.normal(0, 3, (count, 5))
    return windows, values


BY_HAND = rows([(9_999, 10_001), (10_049, 10_051), (10_099, 10_101), (10_098, 10_100)])
BY_HAND["high_bid"][3] = 10_100
TRADES = chosen(Action.FORCE_BUY, Action.NO_OP, Action.CLOSE_SELL)


def test_by_hand_to_the_cent() -> None:
    """Buy 10 coins at 100.01 and 5 bp, sell them at 101.00 and no fee, marked at 100.99."""
    run = backtest({NAME: BY_HAND}, {NAME: TRADES}, ONE, FEES, CONFIG)
    assert run.beats.tolist() == [BEAT, BEAT + 1, BEAT + 2, BEAT + 3]
    assert run.excess_usd == pytest.approx(1_010.00 - 1_000.10 - 0.50005, abs=CENT)
    assert run.final_equity_usd == pytest.approx(1_200 + 9.39995 + 1_009.90, abs=CENT)
    assert run.profit_usd == pytest.approx(9.39995 + 9.90, abs=CENT)
    assert run.deposited_usd.tolist() == [2_200.0] * 4
    profits = [-0.60005, 9.39995, 19.39995, 19.29995]
    assert run.equity_usd - run.deposited_usd == pytest.approx(profits, abs=CENT)
    assert run.hold_usd - run.deposited_usd == pytest.approx([0, 5, 10, 9.9], abs=CENT)
    assert run.fees_usd == run.taker_fees_usd == pytest.approx(0.50005, abs=CENT)
    assert run.traded_usd == pytest.approx(2_010.10, abs=CENT)
    assert run.taker_usd == pytest.approx(1_000.10, abs=CENT)
    assert run.excess_bps == pytest.approx(9.39995 / 2_010.10 * 1e4)
    assert run.max_drawdown_usd == pytest.approx(0.60005, abs=CENT)
    assert (run.orders, run.taker_fills, run.maker_fills, run.cancels) == (2, 1, 1, 0)
    assert run.decisions == 3
    assert run.actions == {
        "FORCE_BUY": 1,
        "CLOSE_BUY": 0,
        "FORCE_SELL": 0,
        "CLOSE_SELL": 1,
        "NO_OP": 1,
    }
    assert run.blocked == {}
    part = run.products[NAME]
    assert part.excess_usd == pytest.approx(9.39995, abs=CENT)
    assert (part.orders, part.fills, part.position_units) == (2, 2, 0)


def test_fee_table_by_hand() -> None:
    windows, values = {NAME: BY_HAND}, {NAME: TRADES}
    model = backtest(windows, values, ONE, FEES, CONFIG)
    table = fee_table(model, windows, values, ONE, CONFIG)
    configured, none, lowest = table.rows
    assert configured.excess_usd == model.excess_usd
    assert none.fees == ZERO_FEES
    assert none.excess_usd == pytest.approx(9.90, abs=CENT)
    assert lowest.fees == LOWEST_TIER_FEES
    assert lowest.excess_usd == pytest.approx(1_010 * 0.994 - 1_000.10 * 1.012, abs=CENT)
    assert table.break_even_taker_bps == pytest.approx(9.90 / 1_000.10 * 1e4)


def test_buy_and_hold_by_hand() -> None:
    values = buy_and_hold_values({NAME: TRADES})
    run = backtest({NAME: BY_HAND}, values, ONE, FEES, CONFIG)
    assert run.excess_usd == pytest.approx(1_009.90 - 1_000.10 * 1.0005, abs=CENT)
    assert (run.orders, run.taker_fills, run.products[NAME].position_units) == (1, 1, 1)
    assert len(run.beats) == 4


def test_buy_and_hold_buys_each_product_at_its_own_first_decision() -> None:
    flat = rows([(9_999, 10_001)] * 6)
    values = {NAME: chosen(None, Action.NO_OP), OTHER: chosen(Action.NO_OP, first=BEAT + 3)}
    windows = {NAME: flat, OTHER: flat}
    run = backtest(windows, buy_and_hold_values(values), PRODUCTS, FEES, CONFIG)
    cost = 1_000.10 * 1.0005 - 1_000
    excess = [-cost] * 3 + [-2 * cost] * 2
    assert run.equity_usd - run.hold_usd == pytest.approx(excess, abs=CENT)


@pytest.mark.parametrize("action", [Action.NO_OP, None])
def test_doing_nothing_earns_exactly_nothing(action: Action | None) -> None:
    windows, values = random_market(3)
    idle = {name: chosen(*[action] * len(at)) for name, (at, _) in values.items()}
    study = compare(windows, idle, PRODUCTS, FEES, CONFIG)
    assert np.array_equal(study.model.equity_usd, study.model.hold_usd)
    assert study.model.excess_usd == 0.0
    assert study.model.profit_usd != 0.0  # The market moved all the same.
    assert study.model.excess_bps is None
    assert study.fee_table.break_even_taker_bps is None
    assert [row.excess_usd for row in study.fee_table.rows] == [0.0, 0.0, 0.0]
    assert study.significance is not None
    assert study.significance.includes_zero
    assert study.model.decisions == (0 if action is None else 2 * 398)


@pytest.mark.parametrize("seed", range(6))
def test_the_oracle_beats_random_values(seed: int) -> None:
    windows, values = random_market(seed)
    study = compare(windows, values, PRODUCTS, FEES, CONFIG)
    assert study.oracle.excess_usd > max(0.0, study.model.excess_usd)
    assert study.oracle.beats.tolist() == study.model.beats.tolist()
    assert study.buy_and_hold.beats.tolist() == study.model.beats.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_higher_fees_never_help(seed: int) -> None:
    windows, values = random_market(seed)
    model = backtest(windows, values, PRODUCTS, FEES, RICH)
    configured, none, lowest = fee_table(model, windows, values, PRODUCTS, RICH).rows
    assert none.excess_usd > configured.excess_usd > lowest.excess_usd
    assert none.fees_usd == 0.0
    assert lowest.excess_usd == pytest.approx(none.excess_usd - lowest.fees_usd)


def test_trading_at_the_break_even_fee_earns_nothing() -> None:
    windows, values = random_market(1)
    mixed = {
        name: (at, np.where(np.isnan(known), five, known))
        for (name, (at, five)), (_, known) in zip(
            values.items(), oracle_values(windows, values, FEES).values(), strict=True
        )
    }
    fees = Fees(taker_bps=5.0, maker_bps=0.5)
    model = backtest(windows, mixed, PRODUCTS, fees, RICH)
    even = fee_table(model, windows, mixed, PRODUCTS, RICH).break_even_taker_bps
    assert even is not None
    again = backtest(windows, mixed, PRODUCTS, Fees(taker_bps=even, maker_bps=0.5), RICH)
    assert again.excess_usd == pytest.approx(0.0, abs=1e-6)
    assert again.taker_fills == model.taker_fills


def test_no_break_even_fee_for_trades_that_lose_without_fees() -> None:
    falling = rows([(10_000 - 50 * k, 10_002 - 50 * k) for k in range(4)])
    values = {NAME: chosen(Action.FORCE_BUY, Action.NO_OP, Action.NO_OP)}
    model = backtest({NAME: falling}, values, ONE, FEES, CONFIG)
    assert fee_table(model, {NAME: falling}, values, ONE, CONFIG).break_even_taker_bps is None


@pytest.mark.parametrize("seed", range(3))
def test_the_parts_of_the_products_add_up(seed: int) -> None:
    run = backtest(*random_market(seed), PRODUCTS, FEES, CONFIG)
    parts = run.products.values()
    assert sum(part.excess_usd for part in parts) == pytest.approx(run.excess_usd, abs=1e-6)
    assert sum(part.traded_usd for part in parts) == pytest.approx(run.traded_usd)
    assert sum(part.fills for part in parts) == run.taker_fills + run.maker_fills
    assert sum(part.orders for part in parts) == run.orders
    assert sum(run.actions.values()) == run.decisions == sum(part.decisions for part in parts)


@pytest.mark.parametrize("gap", ["missing", "invalid"])
def test_no_order_outlives_its_beat(gap: str) -> None:
    """The price falls through the bid only after a beat of which nothing is known."""
    quotes = [(9_999, 10_001), (9_999, 10_001), (9_000, 9_002), (9_000, 9_002)]
    windows = rows(quotes, [BEAT, BEAT + 1, BEAT + 2, BEAT + 3])
    if gap == "missing":
        windows = windows[[0, 2, 3]]
    else:
        windows["valid"][1] = False
    run = backtest({NAME: windows}, {NAME: chosen(Action.CLOSE_BUY, None, None)}, ONE, FEES, CONFIG)
    assert (run.orders, run.cancels, run.maker_fills) == (1, 1, 0)
    assert run.excess_usd == 0.0


def test_a_unit_below_what_the_venue_takes_trades_nothing() -> None:
    config = TraderConfig(unit_usd=0.05)  # A lot costs 0.10 USD.
    run = backtest({NAME: BY_HAND}, {NAME: TRADES}, ONE, FEES, config)
    assert (run.orders, run.excess_usd, run.profit_usd) == (0, 0.0, 0.0)
    assert run.products[NAME].position_units == 0.0


def test_a_limit_that_blocks_is_counted() -> None:
    config = TraderConfig(limits=Limits(max_order_usd=500.0))
    run = backtest({NAME: BY_HAND}, {NAME: TRADES}, ONE, FEES, config)
    assert run.blocked == {"max_order_usd": 2}
    assert (run.orders, run.excess_usd) == (0, 0.0)
    assert run.actions["FORCE_BUY"] == 1


@pytest.mark.parametrize("max_daily_loss_usd", [10.0, 100.0])
def test_an_order_is_not_kept_against_a_limit(max_daily_loss_usd: float) -> None:
    """The bid falls by 9.99 USD and the ask stays: 10 coins lose 49.95 USD, the order's place not.

    The last beat would fill what rests.
    """
    windows = rows([(9_999, 10_001), (9_000, 10_001), (9_000, 10_001)])
    windows["low_ask"][2] = 9_999
    config = TraderConfig(limits=Limits(max_daily_loss_usd=max_daily_loss_usd))
    values = {NAME: chosen(Action.CLOSE_BUY, Action.CLOSE_BUY)}
    run = backtest({NAME: windows}, values, ONE, FEES, config)
    kept = max_daily_loss_usd == 100.0
    assert run.blocked == ({} if kept else {"max_daily_loss_usd": 1})
    assert (run.orders, run.cancels, run.maker_fills) == ((1, 0, 1) if kept else (1, 1, 0))
    assert run.actions["CLOSE_BUY"] == 2


def test_the_run_covers_the_decisions_and_the_beat_after() -> None:
    windows = rows([(9_999, 10_001)] * 20)
    values = {NAME: chosen(Action.NO_OP, Action.CLOSE_BUY, first=BEAT + 5)}
    run = backtest({NAME: windows}, values, ONE, FEES, CONFIG)
    assert run.beats.tolist() == [BEAT + 5, BEAT + 6, BEAT + 7]


def test_oracle_values_are_the_labels_of_the_predicted_beats() -> None:
    windows = {NAME: rows([(9_999, 10_001)] * 80)}
    at, five = oracle_values(windows, {NAME: chosen(*[Action.NO_OP] * 80)}, FEES)[NAME]
    assert at.tolist() == windows[NAME]["beat"].tolist()
    assert np.isfinite(five).all(axis=1).tolist() == [True] * 5 + [False] * 75


def test_a_new_order_waits_for_the_cancel() -> None:
    class Slow(PaperBroker):
        def cancel(self, order_id: str) -> bool:
            return False

    trader, broker = Trader(ONE, FEES, CONFIG), Slow()
    for k, (bid, ask) in enumerate([(9_999, 10_001), (10_009, 10_011)]):
        window = rows([(bid, ask)], [BEAT + k])
        done = step(trader, broker, NAME, window, chosen(Action.CLOSE_BUY)[1][0])
    assert done.sent is None
    assert done.blocked == "cancel_not_confirmed"
    assert list(trader.ledger.open.values()) == [
        Order(f"{NAME}:{BEAT}", NAME, BUY, 10_000, 10_000, True)
    ]


def test_impossible_requests_say_so() -> None:
    windows, values = {NAME: BY_HAND}, {NAME: TRADES}
    with pytest.raises(QuaverError, match="no product or no windows for BBB-USD"):
        backtest(windows, {OTHER: TRADES}, ONE, FEES, CONFIG)
    with pytest.raises(QuaverError, match="no predictions"):
        backtest(windows, {NAME: chosen()}, ONE, FEES, CONFIG)
    with pytest.raises(ValueError, match="ascending"):
        backtest(windows, {NAME: (TRADES[0][::-1], TRADES[1])}, ONE, FEES, CONFIG)
    with pytest.raises(ValueError, match=r"\[n, 5\]"):
        backtest(windows, {NAME: (TRADES[0], TRADES[1][:, :4])}, ONE, FEES, CONFIG)
    assert backtest(windows, values, ONE, FEES, CONFIG).orders == 2


def with_gains(gains: np.ndarray) -> BacktestResult:
    run = backtest({NAME: BY_HAND}, {NAME: TRADES}, ONE, FEES, CONFIG)
    hold = np.full(len(gains), 2_200.0)
    return msgspec.structs.replace(run, hold_usd=hold, equity_usd=hold + np.cumsum(gains))


def test_significance_of_a_steady_gain_and_of_noise() -> None:
    rng = np.random.default_rng(5)
    steady = significance(with_gains(0.5 + rng.normal(0, 1, 3_000)))
    assert steady is not None
    assert not steady.includes_zero
    assert steady.low_usd < steady.mean_usd < steady.high_usd
    assert steady.blocks == 40
    # Independent gains: the interval is close to 1.96 standard errors each way.
    assert steady.high_usd - steady.low_usd == pytest.approx(2 * 1.96 / 3_000**0.5, rel=0.25)
    gains = rng.normal(0, 1, 3_000)
    noise = significance(with_gains(gains - gains.mean()))
    assert noise is not None
    assert noise.includes_zero


def test_blocks_widen_the_interval_of_related_gains() -> None:
    related = np.repeat(np.random.default_rng(6).normal(0, 1, 60), 50)
    interval = significance(with_gains(related))
    assert interval is not None
    assert interval.high_usd - interval.low_usd > 4 * 2 * 1.96 / 3_000**0.5


def test_significance_is_seeded_and_needs_blocks() -> None:
    run = with_gains(np.random.default_rng(7).normal(0.1, 1, 500))
    assert significance(run, seed=1) == significance(run, seed=1)
    assert significance(run, seed=1) != significance(run, seed=2)
    assert significance(with_gains(np.ones(374))) is None
    assert significance(with_gains(np.ones(375))) is not None
