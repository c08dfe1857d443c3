"""A broker made of the fill rules alone: what paper trading and the backtest send orders to.

Assumes what section 5 says: a taking order fills whole at its price, a resting one fills whole at
its price when the next beat's extremes say so, a cancel is confirmed at once.
"""

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.actions import resting_buy_fills, resting_sell_fills
from market.events import BUY
from market.ledger import Order
from market.policy import one_window


class Fill(msgspec.Struct, frozen=True):
    """A fill of an order, whole or in part, as a broker reports it."""

    order_id: str
    price_ticks: int
    lots: int


class PaperBroker:
    """Open orders by id; fills follow from the windows it is shown."""

    def __init__(self) -> None:
        self._resting: dict[str, Order] = {}

    def submit(self, order: Order) -> Fill | None:
        """Take an order: a taking one is filled at once, a post-only one rests.

        ValueError if it is empty, has no price, or rests already.
        """
        if not isinstance(order, Order) or order.lots <= 0 or order.price_ticks <= 0:
            raise ValueError(f"order must be an Order of some lots at a price, got {order!r}")
        if order.id in self._resting:
            raise ValueError(f"order {order.id} rests already")
        if order.post_only:
            self._resting[order.id] = order
            return None
        return Fill(order.id, order.price_ticks, order.lots)

    def cancel(self, order_id: str) -> bool:
        """Cancel a resting order; False if it does not rest (any more)."""
        return self._resting.pop(order_id, None) is not None

    def on_window(self, product_id: str, window: NDArray[np.void]) -> list[Fill]:
        """Return the fills of resting orders in the beat that this window (WINDOW[1]) closed.

        A beat that is not valid fills nothing: what happened in it is not known. ValueError for a
        valid one whose extremes are no prices.
        """
        extremes = _extremes(one_window(window))
        filled = []
        for order in list(self._resting.values()):
            if order.product_id == product_id and extremes and _fills(order, extremes):
                del self._resting[order.id]
                filled.append(Fill(order.id, order.price_ticks, order.lots))
        return filled


class _Extremes(NamedTuple):
    low_ask: int
    high_bid: int
    trades: int
    trade_low: int
    trade_high: int


def _extremes(window: NDArray[np.void]) -> _Extremes | None:
    """Return what decides about fills in a beat (WINDOW[1]), None if it is not valid."""
    if not window["valid"].item():
        return None
    found = _Extremes(*(window[name].item() for name in _Extremes._fields))
    quoted = found.low_ask > 0 and found.high_bid > 0 and found.trades >= 0
    if not quoted or (found.trades and not 0 < found.trade_low <= found.trade_high):
        raise ValueError(f"window: a valid beat cannot have {found}")
    return found


def _fills(order: Order, beat: _Extremes) -> bool:
    price = order.price_ticks
    if order.side == BUY:
        filled = resting_buy_fills(price, beat.low_ask, beat.trades, beat.trade_low)
    else:
        filled = resting_sell_fills(price, beat.high_bid, beat.trades, beat.trade_high)
    return bool(filled)
