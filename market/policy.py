"""From five predicted values to an order (section 7): decision, orders, limits. Pure.

Backtest and live execution share every function here, so what was simulated is what is traded.
"""

from decimal import Decimal
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.actions import BUYS, Action
from market.events import BUY, SELL
from market.ledger import Ledger, Order, exact
from market.products import Product


def decide(values: NDArray[np.float64], allowed: NDArray[np.bool_], min_edge_bps: float) -> Action:
    """Return the allowed action of highest value if it beats NO_OP by `min_edge_bps`, else NO_OP.

    `values` and `allowed` are [5]; of equal values the first action counts; NaN never wins.
    """
    best, best_value = Action.NO_OP, float(values[Action.NO_OP]) + min_edge_bps
    for action in Action:
        if action != Action.NO_OP and allowed[action] and values[action] > best_value:
            best, best_value = action, float(values[action])
    return best


def order_for(
    action: Action, product_id: str, bid_ticks: int, ask_ticks: int, lots: int, order_id: str
) -> Order | None:
    """Return the order that an action places at the bid and ask of its beat; None for NO_OP."""
    if action == Action.NO_OP:
        return None
    price_ticks = {
        Action.FORCE_BUY: ask_ticks,
        Action.CLOSE_BUY: ask_ticks - 1,
        Action.FORCE_SELL: bid_ticks,
        Action.CLOSE_SELL: bid_ticks + 1,
    }[action]
    post_only = action in (Action.CLOSE_BUY, Action.CLOSE_SELL)
    side = BUY if action in BUYS else SELL
    return Order(order_id, product_id, side, price_ticks, lots, post_only)


def unit_lots(product: Product, notional_usd: Decimal, mid2: int) -> int:
    """Return one unit in lots: the largest size worth at most `notional_usd` at the median.

    It is 0, which trades nothing, where that is below the least that the venue takes.
    """
    lots = int(notional_usd * 2 / product.price(mid2) / product.base_increment)
    return lots if product.size(lots) >= product.base_min_size else 0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What no decision may exceed; each limit can only turn an action into NO_OP."""

    max_position_units: Annotated[
        int, msgspec.Meta(ge=1, description="units a product may be away from its start")
    ] = 1
    max_order_usd: Annotated[
        float, msgspec.Meta(gt=0, description="largest notional of one order, USD")
    ] = 10_000.0
    max_orders_per_minute: Annotated[
        int, msgspec.Meta(ge=1, description="orders sent over any 60 s, all products together")
    ] = 600
    max_daily_loss_usd: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            description="equity lost since UTC midnight that stops trading, what the market did to "
            "the coin reserve included",
        ),
    ] = 1_000.0
    max_data_age_s: Annotated[
        float, msgspec.Meta(gt=0, description="age of the window a decision rests on")
    ] = 8.0


class Situation(msgspec.Struct, frozen=True):
    """What the limits are checked against, besides the order."""

    position_lots: int  # Net lots bought since the start, open orders not counted.
    unit_lots: int
    orders_last_minute: int
    loss_today_usd: Decimal
    data_age_s: float


def breached(order: Order, ledger: Ledger, limits: Limits, now: Situation) -> str | None:
    """Return the name of the first limit that the order would breach, None if none."""
    after_lots = now.position_lots + (order.lots if order.side == BUY else -order.lots)
    listed = ledger.products[order.product_id]
    notional = listed.price(order.price_ticks) * listed.size(order.lots)
    checks = {
        "max_position_units": abs(after_lots) > limits.max_position_units * now.unit_lots,
        "max_order_usd": notional > exact(limits.max_order_usd),
        "max_orders_per_minute": now.orders_last_minute >= limits.max_orders_per_minute,
        "max_daily_loss_usd": now.loss_today_usd > exact(limits.max_daily_loss_usd),
        "max_data_age_s": now.data_age_s > limits.max_data_age_s,
    }
    return next((name for name, hit in checks.items() if hit), None)
