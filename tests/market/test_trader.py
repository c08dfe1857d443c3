"""The trader: keeps or replaces its resting order, and every limit turns an action into NO_OP."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from market.actions import Action, Fees
from market.events import BUY, SELL
from market.ledger import Order
from market.policy import Limits, choices, decide
from market.products import product_of
from market.trader import Decision, Trader, TraderConfig
from market.windows import BEAT_NS, WINDOW

NAME, OTHER = "AAA-USD", "BBB-USD"
PRODUCTS = {name: product_of(name, "0.01", "0.001") for name in (NAME, OTHER)}
BEAT = 446_566_500
DAY_BEATS = 21_600
NOW_NS = (BEAT + 1) * BEAT_NS
UNIT_LOTS = 10_000  # 1,000 USD at a median of 100.00.
SECOND_NS = 1_000_000_000


def window(beat: int = BEAT, bid: int = 9_999, ask: int = 10_001, valid: bool = True) -> np.ndarray:
    row = np.zeros(1, WINDOW)
    row["beat"], row["valid"], row["bid"], row["ask"] = beat, valid, bid, ask
    return row


def trader(reserve_usd: float = 1_200.0, min_edge_bps: float = 0.0, **limits: Any) -> Trader:
    """One that has seen its first window, of one product."""
    config = TraderConfig(
        reserve_usd=reserve_usd, min_edge_bps=min_edge_bps, limits=Limits(**limits)
    )
    made = Trader({NAME: PRODUCTS[NAME]}, Fees(), config)
    made.observe(NAME, window())
    return made


def wants(action: Action, edge_bps: float = 1.0) -> np.ndarray:
    values = np.zeros(5)
    values[action] = edge_bps
    return values


def placed(made: Trader, action: Action, at: np.ndarray | None = None) -> Order:
    """Decide, admit at the end of the beat, and return the order."""
    row = window() if at is None else at
    order = made.decide(NAME, row, wants(action)).place
    assert order is not None
    assert made.admit(order, (int(row["beat"][0]) + 1) * BEAT_NS, 0.0) is None
    return order


def bought(made: Trader) -> None:
    order = placed(made, Action.FORCE_BUY)
    made.filled(order.id, order.price_ticks, order.lots)


def test_the_account_starts_with_a_unit_and_its_reserve() -> None:
    made = trader()
    assert made.unit == {NAME: UNIT_LOTS}
    assert made.ledger.lots == {NAME: UNIT_LOTS}
    assert made.equity == Decimal(2_200)
    made.observe(NAME, window(BEAT + 1, 19_999, 20_001))
    assert made.unit == {NAME: UNIT_LOTS}  # Fixed at the first valid window.
    assert made.equity == Decimal(3_200)


def test_an_invalid_window_neither_starts_nor_values() -> None:
    made = Trader({NAME: PRODUCTS[NAME]}, Fees(), TraderConfig())
    made.observe(NAME, window(valid=False))
    assert made.unit == {}
    assert made.decide(NAME, window(), wants(Action.FORCE_BUY)) == Decision(Action.NO_OP)


@pytest.mark.parametrize(
    ("action", "side", "price", "post_only"),
    [
        (Action.FORCE_BUY, BUY, 10_001, False),
        (Action.CLOSE_BUY, BUY, 10_000, True),
        (Action.FORCE_SELL, SELL, 9_999, False),
        (Action.CLOSE_SELL, SELL, 10_000, True),
    ],
)
def test_the_orders_of_the_actions(action: Action, side: int, price: int, post_only: bool) -> None:
    decision = trader().decide(NAME, window(), wants(action))
    order = Order(f"{NAME}:{BEAT}", NAME, side, price, UNIT_LOTS, post_only)
    assert decision == Decision(action, place=order)


@pytest.mark.parametrize("action", [Action.CLOSE_BUY, Action.CLOSE_SELL])
def test_a_resting_order_at_the_same_side_and_price_is_kept(action: Action) -> None:
    made = trader()
    order = placed(made, action)
    assert made.decide(NAME, window(BEAT + 1), wants(action)) == Decision(action, keep=order)


def test_an_order_is_not_kept_beyond_a_limit() -> None:
    made = trader(max_data_age_s=8.0)
    order = placed(made, Action.CLOSE_BUY)
    assert made.limit(order, 8.0) is None
    assert made.limit(order, 8.1) == "max_data_age_s"
    assert made.orders_sent == 1


@pytest.mark.parametrize(
    ("action", "bid", "ask"),
    [
        (Action.CLOSE_BUY, 10_000, 10_002),  # Another price.
        (Action.CLOSE_SELL, 9_998, 10_001),  # Another side.
        (Action.FORCE_BUY, 9_998, 10_000),  # The same side and price, but it takes.
    ],
)
def test_a_resting_order_is_replaced_otherwise(action: Action, bid: int, ask: int) -> None:
    made = trader()
    resting = placed(made, Action.CLOSE_BUY)
    decision = made.decide(NAME, window(BEAT + 1, bid, ask), wants(action))
    assert decision.action == action
    assert decision.cancel == resting
    assert decision.place is not None
    assert decision.place.id != resting.id


@pytest.mark.parametrize("case", ["no_op", "no prediction", "invalid", "all nan"])
def test_a_resting_order_is_cancelled_when_nothing_is_wanted(case: str) -> None:
    made = trader()
    resting = placed(made, Action.CLOSE_BUY)
    values = {"no prediction": None, "all nan": np.full(5, np.nan)}.get(case, wants(Action.NO_OP))
    if case == "invalid":
        values = wants(Action.CLOSE_BUY)
    decision = made.decide(NAME, window(BEAT + 1, valid=case != "invalid"), values)
    assert decision == Decision(Action.NO_OP, cancel=resting)


def test_funds_of_the_resting_order_are_free_only_after_the_cancel() -> None:
    made = trader()  # 1,200 USD: enough for one unit, not for two.
    resting = placed(made, Action.CLOSE_BUY)
    decision = made.decide(NAME, window(BEAT + 1, 10_000, 10_002), wants(Action.CLOSE_BUY))
    assert decision.place is not None
    assert made.admit(decision.place, NOW_NS, 0.0) == "free_reserves"
    made.cancelled(resting.id)
    assert made.admit(decision.place, NOW_NS, 0.0) is None


def test_a_prediction_must_beat_no_op_by_the_edge() -> None:
    made = trader(min_edge_bps=2.0)
    assert made.decide(NAME, window(), wants(Action.FORCE_BUY, 2.0)).action == Action.NO_OP
    assert made.decide(NAME, window(), wants(Action.FORCE_BUY, 2.1)).action == Action.FORCE_BUY


def test_the_best_action_that_the_reserves_allow_is_taken() -> None:
    made = trader(reserve_usd=900.0)
    values = np.array([3.0, 2.0, -1.0, 1.0, 0.0])
    assert made.decide(NAME, window(), values).action == Action.CLOSE_SELL


def test_position_limit() -> None:
    made = trader(reserve_usd=5_000.0)
    bought(made)
    assert made.positions == {NAME: 1}
    again = made.decide(NAME, window(BEAT + 1), np.array([3.0, 2.0, -1.0, -1.0, 0.0]))
    assert again == Decision(Action.NO_OP)
    order = Order("x", NAME, BUY, 10_001, UNIT_LOTS, False)
    assert made.admit(order, NOW_NS, 0.0) == "max_position_units"
    for beat in (BEAT + 1, BEAT + 2):
        order = placed(made, Action.FORCE_SELL, window(beat))
        made.filled(order.id, order.price_ticks, order.lots)
    assert made.positions == {NAME: -1}
    order = Order("x", NAME, SELL, 9_999, UNIT_LOTS, False)
    assert made.admit(order, NOW_NS, 0.0) == "max_position_units"


def test_a_higher_position_limit_allows_more() -> None:
    made = trader(reserve_usd=5_000.0, max_position_units=2)
    bought(made)
    assert made.decide(NAME, window(BEAT + 1), wants(Action.FORCE_BUY)).place is not None


def test_notional_limit() -> None:
    made = trader(max_order_usd=1_000.0)
    order = made.decide(NAME, window(), wants(Action.FORCE_BUY)).place
    assert order is not None
    assert made.admit(order, NOW_NS, 0.0) == "max_order_usd"  # 1,000.10 USD.
    below = Order("x", NAME, SELL, 9_999, UNIT_LOTS, False)
    assert made.admit(below, NOW_NS, 0.0) is None  # 999.90 USD.


def test_order_rate_limit_over_any_minute() -> None:
    made = trader(reserve_usd=10_000.0, max_orders_per_minute=2)
    for second in (0, 30):
        order = Order(f"{second}", NAME, BUY, 9_000, 1, True)
        assert made.admit(order, NOW_NS + second * SECOND_NS, 0.0) is None
    third = Order("third", NAME, BUY, 9_000, 1, True)
    assert made.admit(third, NOW_NS + 60 * SECOND_NS - 1, 0.0) == "max_orders_per_minute"
    assert made.orders_sent == 2
    assert made.admit(third, NOW_NS + 60 * SECOND_NS, 0.0) is None


def test_daily_loss_limit_and_its_reset_at_midnight() -> None:
    made = trader(max_daily_loss_usd=50.0)
    beat = BEAT
    made.observe(NAME, window(beat + 1, 9_499, 9_501))  # The unit lost 50 USD: not more than 50.
    order = Order("x", NAME, SELL, 9_499, UNIT_LOTS, False)
    assert made.admit(order, NOW_NS, 0.0) is None
    made.cancelled("x")
    made.observe(NAME, window(beat + 2, 9_498, 9_500))
    assert made.admit(order, NOW_NS, 0.0) == "max_daily_loss_usd"
    midnight = (beat // DAY_BEATS + 1) * DAY_BEATS
    made.observe(NAME, window(midnight - 1, 9_498, 9_500))
    assert made.admit(order, midnight * BEAT_NS, 0.0) == "max_daily_loss_usd"
    made.observe(NAME, window(midnight, 9_498, 9_500))
    assert made.admit(order, (midnight + 1) * BEAT_NS, 0.0) is None


def test_a_reserve_granted_later_is_no_gain_of_the_day() -> None:
    config = TraderConfig(limits=Limits(max_daily_loss_usd=50.0))
    made = Trader(PRODUCTS, Fees(), config)
    made.observe(NAME, window())
    made.observe(OTHER, window(BEAT + 1))
    made.observe(OTHER, window(BEAT + 2, 9_398, 9_400))  # One unit lost 60.10 USD.
    order = Order("x", NAME, SELL, 9_999, UNIT_LOTS, False)
    assert made.admit(order, NOW_NS, 0.0) == "max_daily_loss_usd"


def test_data_age_limit() -> None:
    made = trader(max_data_age_s=8.0)
    order = made.decide(NAME, window(), wants(Action.FORCE_BUY)).place
    assert order is not None
    assert made.admit(order, NOW_NS, 8.1) == "max_data_age_s"
    assert made.admit(order, NOW_NS, 8.0) is None


def test_a_refused_order_locks_nothing_and_is_not_counted() -> None:
    made = trader(max_data_age_s=8.0)
    order = made.decide(NAME, window(), wants(Action.CLOSE_BUY)).place
    assert order is not None
    made.admit(order, NOW_NS, 9.0)
    assert made.ledger.open == {}
    assert made.ledger.free_usd == Decimal(1_200)
    assert made.orders_sent == 0


def test_many_rows_are_decided_as_each_by_itself() -> None:
    values = np.array([[0.0] * 5, [1.0, 0.0, 1.0, 0.0, 1.0], [1.0, 2.0, 2.0, 0.0, 1.0]])
    allowed = np.ones(5, bool)
    assert choices(values).tolist() == [decide(row, allowed, 0.0) for row in values] == [4, 4, 1]
    rng = np.random.default_rng(0)
    values = rng.integers(-3, 4, (500, 5)).astype(float)
    for edge in (0.0, 1.0, 2.5):
        assert choices(values, edge).tolist() == [decide(row, allowed, edge) for row in values]
