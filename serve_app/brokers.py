"""The broker seam: what execution asks of a venue, and the paper venue behind it.

Every call may wait for a network, so all are async; a broker never touches the ledger, it reports.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from market.ledger import Order
from market.paper import Fill, PaperBroker


class Broker(Protocol):
    """Where orders go; the orders handed to it are already admitted and their funds locked."""

    async def submit(self, order: Order) -> Fill | None:
        """Send an order; return its fill if it filled at once, None if it rests."""
        ...

    async def cancel(self, order_id: str) -> bool:
        """Cancel a resting order; True once confirmed, False if it rests no more."""
        ...

    async def on_window(self, product_id: str, window: NDArray[np.void]) -> list[Fill]:
        """Return the fills of a product's resting orders up to the end of this window's beat."""
        ...


class Paper:
    """Paper trading: the fill rules alone, on live windows."""

    def __init__(self) -> None:
        self._broker = PaperBroker()

    async def submit(self, order: Order) -> Fill | None:
        """Fill a taking order at its price; let a post-only one rest."""
        return self._broker.submit(order)

    async def cancel(self, order_id: str) -> bool:
        """Cancel at once; False if the order rests no more."""
        return self._broker.cancel(order_id)

    async def on_window(self, product_id: str, window: NDArray[np.void]) -> list[Fill]:
        """Return the fills that the extremes of this window (WINDOW[1]) imply."""
        return self._broker.on_window(product_id, window)
