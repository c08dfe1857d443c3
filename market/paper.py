"""A broker made of the fill rules alone: what paper trading and the backtest send orders to.

Assumes what section 5 says: a taking order fills whole at its price, a resting one fills whole at
its price when the next beat's extremes say so, a cancel is confirmed at once.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.actions import resting_buy_fills, resting_sell_fills
from market.events import BUY
from market.ledger import Order


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
        """Take an order: a taking one is filled at once, a post-only one rests."""
        if order.post_only:
            self._resting[order.id] = order
            return None
        return Fill(order.id, order.price_ticks, order.lots)

    def cancel(self, order_id: str) -> bool:
        """Cancel a resting order; False if it does not rest (any more)."""
        return self._resting.pop(order_id, None) is not None

    def on_window(self, product_id: str, window: NDArray[np.void]) -> list[Fill]:
        """Return the fills of resting orders in the beat that this window (WINDOW[1]) closed.

        A beat that is not valid fills nothing: what happened in it is not known.
        """
        row = window[0]
        filled = []
        for order in list(self._resting.values()):
            if order.product_id == product_id and row["valid"] and _fills(order, row):
                del self._resting[order.id]
                filled.append(Fill(order.id, order.price_ticks, order.lots))
        return filled


def _fills(order: Order, row: np.void) -> bool:
    price, trades = order.price_ticks, int(row["trades"])
    if order.side == BUY:
        filled = resting_buy_fills(price, int(row["low_ask"]), trades, int(row["trade_low"]))
    else:
        filled = resting_sell_fills(price, int(row["high_bid"]), trades, int(row["trade_high"]))
    return bool(filled)
