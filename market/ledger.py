"""One ledger for labels' rules, backtest and live trading: USD, coins and what open orders lock.

USD is a Decimal and coins are whole lots, so a sequence of fills conserves both exactly. Funds
that an open order locks are free again only when its fill or its cancel is booked.
"""

from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation

import msgspec

from market.actions import Fees
from market.errors import QuaverError
from market.events import BUY
from market.products import Product

# Money is never rounded: 60 digits hold any price x size x fee, and an inexact result is an error.
EXACT = Context(prec=60, traps=[Inexact, InvalidOperation, DivisionByZero])


class ReserveError(QuaverError):
    """An order asks for more than the free reserves, or a booking does not fit its order."""


class Order(msgspec.Struct, frozen=True):
    """An order for `lots` at `price_ticks`; a post-only order rests, the other takes at once."""

    id: str
    product_id: str
    side: int  # BUY or SELL
    price_ticks: int
    lots: int
    post_only: bool


class Ledger:
    """Reserves of one account; every change is one booked order, fill or cancel."""

    def __init__(
        self, products: dict[str, Product], usd: Decimal, lots: dict[str, int], fees: Fees
    ) -> None:
        unknown = lots.keys() - products.keys()
        if usd < 0 or any(held < 0 for held in lots.values()) or unknown:
            raise ReserveError(f"reserves must not be negative and their products known: {lots}")
        self.products = products
        self.fees = fees
        self.usd = usd
        self.lots = {product_id: lots.get(product_id, 0) for product_id in products}
        self.open: dict[str, Order] = {}
        self._taker = _rate(fees.taker_bps)
        self._maker = _rate(fees.maker_bps)

    @property
    def free_usd(self) -> Decimal:
        """USD that no open buy locks."""
        free = self.usd
        for order in self.open.values():
            if order.side == BUY:
                free = EXACT.subtract(free, self.cost(order))
        return free

    def free_lots(self, product_id: str) -> int:
        """Lots of a product that no open sell locks."""
        opened = self.open.values()
        locked = sum(o.lots for o in opened if o.side != BUY and o.product_id == product_id)
        return self.lots[product_id] - locked

    def cost(self, order: Order) -> Decimal:
        """USD that filling the whole order at its price takes (buy) or brings (sell), after fee."""
        return self._value(order, order.price_ticks, order.lots)

    def affords(self, order: Order) -> bool:
        """Whether the free reserves cover the order."""
        if order.side == BUY:
            return self.cost(order) <= self.free_usd
        return order.lots <= self.free_lots(order.product_id)

    def place(self, order: Order) -> None:
        """Lock what the order needs; ReserveError if it is already open or not covered."""
        if order.lots <= 0 or order.price_ticks <= 0 or order.id in self.open:
            raise ReserveError(f"order {order.id} is empty or open already: {order}")
        if not self.affords(order):
            raise ReserveError(f"order {order.id} is not covered by the free reserves: {order}")
        self.open[order.id] = order

    def fill(self, order_id: str, price_ticks: int, lots: int) -> Decimal:
        """Book a fill at `price_ticks` of `lots`, whole or in part; return the USD it moved.

        A fill is never worse for us than the order's own price.
        """
        order = self._opened(order_id)
        better_ticks = order.price_ticks - price_ticks
        worse = (better_ticks if order.side == BUY else -better_ticks) < 0
        if not 0 < lots <= order.lots or worse:
            raise ReserveError(f"a fill of {lots} lots at {price_ticks} does not fit {order}")
        moved = self._value(order, price_ticks, lots)
        if order.side == BUY:
            self.usd = EXACT.subtract(self.usd, moved)
            self.lots[order.product_id] += lots
        else:
            self.usd = EXACT.add(self.usd, moved)
            self.lots[order.product_id] -= lots
        if lots == order.lots:
            del self.open[order_id]
        else:
            self.open[order_id] = msgspec.structs.replace(order, lots=order.lots - lots)
        return moved

    def cancel(self, order_id: str) -> None:
        """Book a confirmed cancel: what the order still locked is free again."""
        del self.open[self._opened(order_id).id]

    def equity(self, mid2: dict[str, int]) -> Decimal:
        """USD plus all coins valued at the median; `mid2` is bid + ask in ticks per product."""
        total = self.usd
        for product_id, lots in self.lots.items():
            if lots:
                total = EXACT.add(total, self.worth(product_id, lots, mid2[product_id]))
        return total

    def worth(self, product_id: str, lots: int, mid2: int) -> Decimal:
        """USD that lots of a product are worth at the median; `mid2` is bid + ask in ticks."""
        listed = self.products[product_id]
        coins = EXACT.multiply(listed.size(lots), Decimal("0.5"))
        return EXACT.multiply(listed.price(mid2), coins)

    def _opened(self, order_id: str) -> Order:
        if order_id not in self.open:
            raise ReserveError(f"order {order_id} is not open")
        return self.open[order_id]

    def _value(self, order: Order, price_ticks: int, lots: int) -> Decimal:
        listed = self.products[order.product_id]
        rate = self._maker if order.post_only else self._taker
        notional = EXACT.multiply(listed.price(price_ticks), listed.size(lots))
        return EXACT.multiply(notional, 1 + rate if order.side == BUY else 1 - rate)


def exact(number: float) -> Decimal:
    """Return the decimal number that a configured float was written as."""
    return Decimal(repr(number))


def _rate(bps: float) -> Decimal:
    return EXACT.divide(exact(bps), Decimal(10_000))
