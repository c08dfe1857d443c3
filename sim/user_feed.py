"""A customer's orders in words: the rows of the `user` channel and of REST, exact."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from market.events import BUY
from market.ledger import EXACT
from sim.accounts import ZERO
from sim.ladder import Status
from sim.orders import Placed
from sim.wire import timestamp_text

BATCH = 50  # Open orders in a frame of the snapshot; more follow while a frame is full.
NO_TIME = "0001-01-01T00:00:00Z"
_TIME_IN_FORCE = {
    "GTC": "GOOD_UNTIL_CANCELLED",
    "GTD": "GOOD_UNTIL_DATE_TIME",
    "IOC": "IMMEDIATE_OR_CANCEL",
    "FOK": "FILL_OR_KILL",
}


def decimal_text(number: Decimal) -> str:
    """Return a number without exponent and without trailing zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def snapshots(orders: Sequence[Placed]) -> Iterator[bytes]:
    """Yield the events of the snapshot: open orders by 50, the last frame with fewer."""
    for start in range(0, len(orders) + 1, BATCH):
        yield order_events("snapshot", orders[start : start + BATCH])


def order_events(kind: str, orders: Sequence[Placed]) -> bytes:
    """Return the events of a frame of the `user` channel."""
    rows = [_user_row(placed) for placed in orders]
    positions: dict[str, list[str]] = {
        "perpetual_futures_positions": [],
        "expiring_futures_positions": [],
    }
    return msgspec.json.encode([{"type": kind, "orders": rows, "positions": positions}])


def summary(placed: Placed) -> dict[str, str]:
    """Return what both channels say of an order, all in text."""
    order, fills = placed.order, placed.fills
    filled, asked = placed.filled_lots, placed.order.lots
    after = EXACT.add(placed.value, placed.fees if order.side == BUY else EXACT.minus(placed.fees))
    share = Decimal(100) * filled / asked if asked else ZERO
    return {
        "order_id": placed.order_id,
        "client_order_id": placed.client_order_id,
        "product_id": placed.product_id,
        "product_type": "SPOT",
        "status": order.status.value,
        "filled_value": decimal_text(placed.value),
        "number_of_fills": str(len(fills)),
        "completion_percentage": decimal_text(round(share, 2)),
        "total_fees": decimal_text(placed.fees),
        "total_value_after_fees": decimal_text(after),
        "outstanding_hold_amount": decimal_text(placed.held),
        "time_in_force": _TIME_IN_FORCE[order.tif],
    }


def average_price(placed: Placed) -> str:
    """Return the mean price of the fills, "0" if there are none."""
    if not placed.fills:
        return "0"
    ticks = Decimal(sum(fill.price_ticks * fill.lots for fill in placed.fills))
    return decimal_text(ticks / placed.filled_lots * placed.listing.product.quote_increment)


def rest_row(placed: Placed) -> dict[str, Any]:
    """Return an order as REST tells it."""
    order, last = placed.order, placed.fills[-1].ns if placed.fills else None
    return {
        **summary(placed),
        "order_configuration": placed.configuration,
        "side": "BUY" if order.side == BUY else "SELL",
        "order_type": "LIMIT" if placed.limited else "MARKET",
        "created_time": timestamp_text(placed.created_ns),
        "last_update_time": timestamp_text(placed.updated_ns),
        "last_fill_time": None if last is None else timestamp_text(last),
        "filled_size": placed.listing.size_text(placed.filled_lots),
        "average_filled_price": average_price(placed),
        "fee": "",
        "pending_cancel": False,
        "size_in_quote": order.quote_units is not None,
        "size_inclusive_of_fees": order.quote_units is not None,
        "settled": order.status is Status.FILLED,
        "trigger_status": "INVALID_ORDER_TYPE",
        "reject_reason": "REJECT_REASON_UNSPECIFIED",
        "reject_message": "",
        "cancel_message": "",
        "edit_history": [],
    }


def fill_rows(placed: Placed) -> list[dict[str, Any]]:
    """Return the fills of an order as REST tells them, oldest first."""
    rows = []
    for number, fill in enumerate(placed.fills):
        time = timestamp_text(fill.ns)
        rows.append(
            {
                "entry_id": f"{placed.order_id}-{number}",
                "trade_id": f"{placed.product_id}-{fill.trade_id}",
                "order_id": placed.order_id,
                "trade_time": time,
                "trade_type": "FILL",
                "price": placed.listing.price_text(fill.price_ticks),
                "size": placed.listing.size_text(fill.lots),
                "commission": decimal_text(fill.fee),
                "product_id": placed.product_id,
                "sequence_timestamp": time,
                "liquidity_indicator": "MAKER" if fill.maker else "TAKER",
                "size_in_quote": False,
                "side": "BUY" if placed.order.side == BUY else "SELL",
            }
        )
    return rows


def _user_row(placed: Placed) -> dict[str, str]:
    order, listing = placed.order, placed.listing
    open_ = order.status is Status.OPEN
    end_ns = order.expire_ns
    return {
        **summary(placed),
        "order_side": "BUY" if order.side == BUY else "SELL",
        "order_type": "Limit" if placed.limited else "Market",
        "avg_price": average_price(placed),
        "cumulative_quantity": listing.size_text(placed.filled_lots),
        "leaves_quantity": listing.size_text(order.left if open_ else 0),
        "limit_price": listing.price_text(order.price_ticks or 0),
        "stop_price": "",
        "post_only": "true" if order.post_only else "false",
        "cancel_reason": "",
        "reject_reason": "",
        "trigger_status": "INVALID_ORDER_TYPE",
        "creation_time": timestamp_text(placed.created_ns),
        "start_time": NO_TIME,
        "end_time": NO_TIME if end_ns is None else timestamp_text(end_ns),
        "retail_portfolio_id": "",
        "risk_managed_by": "UNKNOWN_RISK_MANAGEMENT_TYPE",
        "contract_expiry_type": "UNKNOWN_CONTRACT_EXPIRY_TYPE",
    }
