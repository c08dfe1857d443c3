"""One ledger for labels' rules, backtest and live trading: USD, coins and what open orders lock.

USD is a Decimal and coins are whole lots, so a sequence of fills conserves both exactly. Funds
that an open order locks are free again only when its fill or its cancel is booked.
"""

from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation

import msgspec

from market.actions import Fees
from market.checks import LOWEST, money, whole
from market.errors import QuaverError
from market.events import BUY, SELL
from market.products import Product

# Money is never rounded: 120 digits hold every price x size x fee (38 of ticks x lots, 18 of the
# increments, 40 of 1 + fee) and their sums, and an inexact result is an error.
EXACT = Context(prec=120, traps=[Inexact, InvalidOperation, DivisionByZero])
_HALF = Decimal("0.5")
_LEAST_RATE = Decimal("1e-20")  # With a float's 17 digits, 1 + fee then has 40 at most.


class ReserveError(QuaverError):
    """An order asks for more than the free reserves, or a booking does not fit its order."""


class Order(msgspec.Struct, frozen=True):
    """An order for `lots` at `price_ticks`; a post-only order rests, the other takes at once.

    ValueError for what is no order at all; whether it can be booked is the ledger's to say.
    """

    id: str
    product_id: str
    side: int  # BUY or SELL
    price_ticks: int
    lots: int
    post_only: bool

    def __post_init__(self) -> None:
        if not (isinstance(self.id, str) and self.id):
            raise ValueError(f"order: id must be text, not empty, got {self.id!r}")
        if not isinstance(self.product_id, str):
            raise ValueError(f"order {self.id}: product_id must be text, got {self.product_id!r}")
        if type(self.side) is not int or self.side not in (BUY, SELL):
            raise ValueError(f"order {self.id}: side must be BUY or SELL, got {self.side!r}")
        if type(self.post_only) is not bool:
            raise ValueError(f"order {self.id}: post_only must be a bool, got {self.post_only!r}")
        whole("order: price_ticks", self.price_ticks, LOWEST)
        whole("order: lots", self.lots, LOWEST)


class Ledger:
    """Reserves of one account; every change is one booked order, fill or cancel."""

    def __init__(
        self, products: dict[str, Product], usd: Decimal, lots: dict[str, int], fees: Fees
    ) -> None:
        for product_id, listed in products.items():
            if not isinstance(listed, Product) or listed.id != product_id:
                raise ReserveError(f"products: under {product_id!r} is {listed!r}")
        money("usd", usd, error=ReserveError)
        for product_id, held in lots.items():
            whole(f"lots of {product_id}", held, error=ReserveError)
            if product_id not in products:
                raise ReserveError(f"lots: {product_id!r} is not among the products")
        if not isinstance(fees, Fees):
            raise ReserveError(f"fees must be Fees, got {fees!r}")
        self.products = products
        self.fees = fees
        self.usd = usd
        self.lots = {product_id: lots.get(product_id, 0) for product_id in products}
        self.open: dict[str, Order] = {}
        # USD of one lot at a price of one tick, and what a fee makes of it: by side and post_only.
        self._lot_tick = {
            p: EXACT.multiply(q.quote_increment, q.base_increment) for p, q in products.items()
        }
        self._factor = {}
        for post_only, bps in ((False, fees.taker_bps), (True, fees.maker_bps)):
            rate = exact(bps).scaleb(-4)
            if 0 < rate < _LEAST_RATE:
                raise ReserveError(f"fees: {bps} bps is less than an exact account can keep")
            self._factor[BUY, post_only] = EXACT.add(1, rate)
            self._factor[SELL, post_only] = EXACT.subtract(1, rate)

    def listed(self, product_id: str) -> Product:
        """Return a product of the account; ReserveError if it is none."""
        if product_id not in self.products:
            raise ReserveError(f"product_id: {product_id!r} is not a product of this account")
        return self.products[product_id]

    def check(self, order: Order) -> None:
        """Raise ReserveError unless this is an order for something, at a price, of a product."""
        if not isinstance(order, Order):
            raise ReserveError(f"order must be an Order, got {order!r}")
        if order.lots <= 0 or order.price_ticks <= 0:
            raise ReserveError(f"order {order.id} is empty or has no price: {order}")
        if order.product_id not in self.products:
            raise ReserveError(f"order {order.id} is of no product of this account: {order}")

    @property
    def free_usd(self) -> Decimal:
        """USD that no open buy locks."""
        free = self.usd
        for order in self.open.values():
            if order.side == BUY:
                free = EXACT.subtract(free, self._value(order, order.price_ticks, order.lots))
        return free

    def free_lots(self, product_id: str) -> int:
        """Lots of a product that no open sell locks."""
        self.listed(product_id)
        opened = self.open.values()
        locked = sum(o.lots for o in opened if o.side != BUY and o.product_id == product_id)
        return self.lots[product_id] - locked

    def cost(self, order: Order) -> Decimal:
        """USD that filling the whole order at its price takes (buy) or brings (sell), after fee."""
        self.check(order)
        return self._value(order, order.price_ticks, order.lots)

    def affords(self, order: Order) -> bool:
        """Whether the free reserves cover the order."""
        self.check(order)
        if order.side == BUY:
            return self._value(order, order.price_ticks, order.lots) <= self.free_usd
        return order.lots <= self.free_lots(order.product_id)

    def place(self, order: Order) -> None:
        """Lock what the order needs; ReserveError if it is already open or not covered."""
        covered = self.affords(order)
        if order.id in self.open:
            raise ReserveError(f"order {order.id} is open already: {order}")
        if not covered:
            raise ReserveError(f"order {order.id} is not covered by the free reserves: {order}")
        self.open[order.id] = order

    def fill(self, order_id: str, price_ticks: int, lots: int) -> Decimal:
        """Book a fill at `price_ticks` of `lots`, whole or in part; return the USD it moved.

        A fill is never worse for us than the order's own price.
        """
        order = self._opened(order_id)
        whole("price_ticks of a fill", price_ticks, 1, ReserveError)
        whole("lots of a fill", lots, LOWEST, ReserveError)
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
        return self.value(self.usd, self.lots, mid2)

    def value(self, usd: Decimal, lots: dict[str, int], mid2: dict[str, int]) -> Decimal:
        """What an account with these reserves of the same products is worth, as `equity`."""
        total = money("usd", usd, error=ReserveError)
        for product_id, held in lots.items():
            if held:
                if product_id not in mid2:
                    raise ReserveError(f"mid2: there is none of {product_id}, which is held")
                total = EXACT.add(total, self.worth(product_id, held, mid2[product_id]))
        return total

    def worth(self, product_id: str, lots: int, mid2: int) -> Decimal:
        """USD that lots of a product are worth at the median; `mid2` is bid + ask in ticks."""
        self.listed(product_id)
        whole("lots", lots, error=ReserveError)
        whole("mid2", mid2, 1, ReserveError)
        return EXACT.multiply(EXACT.multiply(self._lot_tick[product_id], mid2 * lots), _HALF)

    def _opened(self, order_id: str) -> Order:
        if order_id not in self.open:
            raise ReserveError(f"order_id: {order_id!r} is not open")
        return self.open[order_id]

    def _value(self, order: Order, price_ticks: int, lots: int) -> Decimal:
        notional = EXACT.multiply(self._lot_tick[order.product_id], price_ticks * lots)
        return EXACT.multiply(notional, self._factor[order.side, order.post_only])


def exact(number: float) -> Decimal:
    """Return the decimal number that a configured float was written as."""
    if type(number) not in (int, float) or number != number:
        raise ValueError(f"number must be an int or a float and not NaN, got {number!r}")
    return Decimal(repr(number))
