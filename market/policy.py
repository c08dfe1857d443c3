"""From five predicted values to an order (section 7): decision, orders, limits. Pure.

Backtest and live execution share every function here, so what was simulated is what is traded.
"""

from decimal import Decimal
from typing import Annotated, Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.actions import BUYS, Action
from market.checks import LOWEST, check_settings, money, number, whole
from market.events import BUY, SELL
from market.ledger import EXACT, Ledger, Order, exact
from market.products import Product
from market.windows import WINDOW

_RESTING = (Action.CLOSE_BUY, Action.CLOSE_SELL)
_PLACING = tuple(action for action in Action if action != Action.NO_OP)


def decide(values: NDArray[np.float64], allowed: NDArray[np.bool_], min_edge_bps: float) -> Action:
    """Return the allowed action of highest value if it beats NO_OP by `min_edge_bps`, else NO_OP.

    `values` and `allowed` are [5]; of equal values the first action counts; NaN never wins.
    ValueError for other shapes and dtypes, and for an edge that is no number from 0.
    """
    valued = _checked_five("values", values, np.dtype(np.float64))
    may = _checked_five("allowed", allowed, np.dtype(np.bool_))
    best, best_value = Action.NO_OP, valued[Action.NO_OP] + number("min_edge_bps", min_edge_bps)
    for action in _PLACING:
        if may[action] and valued[action] > best_value:
            best, best_value = action, valued[action]
    return best


def choices(values: NDArray[np.float64], min_edge_bps: float = 0.0) -> NDArray[np.int64]:
    """Return what `decide` takes per row of `values` (f8[n, 5]) if all actions are allowed, [n].

    ValueError for other shapes and dtypes, values that are not finite, and an edge as in `decide`.
    """
    if not isinstance(values, np.ndarray) or values.dtype != np.float64:
        raise ValueError(f"values must be float64[n, {len(Action)}], got {values!r}")
    if values.ndim != 2 or values.shape[1] != len(Action):
        raise ValueError(f"values must be float64[n, {len(Action)}], got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    acts = values.max(axis=1) > values[:, Action.NO_OP] + number("min_edge_bps", min_edge_bps)
    return np.where(acts, values.argmax(axis=1), Action.NO_OP)


def _checked_five(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> list[Any]:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (len(Action),):
        raise ValueError(f"{name} must be {dtype}[{len(Action)}], got {array!r}")
    return cast(list[Any], array.tolist())


def one_window(window: NDArray[np.void]) -> NDArray[np.void]:
    """Return WINDOW[1]; ValueError for anything else."""
    if not isinstance(window, np.ndarray) or window.dtype != WINDOW or window.shape != (1,):
        got = f"{type(window).__name__} of shape {getattr(window, 'shape', None)}"
        raise ValueError(f"window must be one row of the WINDOW dtype, got {got}")
    return window


def quote(window: NDArray[np.void]) -> tuple[int, int, int] | None:
    """Return beat, bid and ask (ticks) of a window (WINDOW[1]), None if it is not valid.

    ValueError unless a valid one has 0 < bid < ask < 2^62 and a beat from 0.
    """
    if not one_window(window)["valid"].item():
        return None
    beat, bid, ask = window["beat"].item(), window["bid"].item(), window["ask"].item()
    if beat < 0 or not 0 < bid < ask < 1 << 62:
        raise ValueError(f"window: valid beat {beat} has bid {bid} and ask {ask}")
    return beat, bid, ask


def order_for(
    action: Action, product_id: str, bid_ticks: int, ask_ticks: int, lots: int, order_id: str
) -> Order | None:
    """Return the order that an action places at the bid and ask of its beat; None for NO_OP.

    ValueError unless 0 < bid < ask and there is at least one lot to trade.
    """
    if action == Action.NO_OP:
        return None
    if not isinstance(action, Action):
        raise ValueError(f"action must be an Action, got {action!r}")
    if not 0 < bid_ticks < ask_ticks:
        raise ValueError(f"bid_ticks {bid_ticks} must be above 0 and below ask_ticks {ask_ticks}")
    if not lots > 0:
        raise ValueError(f"lots must be at least 1, got {lots}")
    post_only = action in _RESTING
    if action in BUYS:
        return Order(order_id, product_id, BUY, ask_ticks - post_only, lots, post_only)
    return Order(order_id, product_id, SELL, bid_ticks + post_only, lots, post_only)


def unit_lots(product: Product, notional_usd: Decimal, mid2: int) -> int:
    """Return one unit in lots: the largest size worth at most `notional_usd` at the median.

    It is 0, which trades nothing, where that is below the least that the venue takes. ValueError
    unless `notional_usd` is a Decimal from 0 and `mid2` at least 1.
    """
    money("notional_usd", notional_usd)
    whole("mid2", mid2, 1)
    lot_usd2 = EXACT.multiply(product.price(mid2), product.base_increment)
    lots = int(EXACT.divide_int(EXACT.multiply(notional_usd, 2), lot_usd2))
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

    def __post_init__(self) -> None:
        check_settings("limits", self)


class Situation(msgspec.Struct, frozen=True):
    """What the limits are checked against, besides the order."""

    position_lots: int  # Net lots bought since the start, open orders not counted.
    unit_lots: int
    orders_last_minute: int
    loss_today_usd: Decimal
    data_age_s: float

    def __post_init__(self) -> None:
        whole("position_lots", self.position_lots, LOWEST)
        whole("unit_lots", self.unit_lots)
        whole("orders_last_minute", self.orders_last_minute)
        money("loss_today_usd", self.loss_today_usd, None)
        number("data_age_s", self.data_age_s)


def breached(order: Order, ledger: Ledger, limits: Limits, now: Situation) -> str | None:
    """Return the name of the first limit that the order would breach, None if none.

    ReserveError for an order that the ledger would never take.
    """
    ledger.check(order)
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
