"""The ledger under bookings that do not fit: each is refused, and changes nothing (section 7).

That sound bookings conserve USD and coins exactly is in `test_ledger.py`; here they are mixed
with orders named twice, fills of unknown orders, too much or worse than asked, and any fees.
"""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from market.actions import Fees
from market.events import BUY, SELL
from market.ledger import Ledger, Order, ReserveError
from market.products import product_of

# A coin of a cent in steps of 1e-8, and one of 1e13 lots at a tiny price.
PRODUCTS = {
    "AAA-USD": product_of("AAA-USD", "0.01", "0.00000001"),
    "SHIB-USD": product_of("SHIB-USD", "0.00000001", "1"),
}
START_USD = Decimal("123456.789")
START_LOTS = {"AAA-USD": 7 * 10**8, "SHIB-USD": 10**13}
FEES = [(0, 0), (5, 0), (120, 60), (9999, 9999), (0.5, 0.25), (3, 7)]

IDS = st.sampled_from(["a", "b", "c", "d"])
ORDERS = st.builds(
    Order,
    IDS,
    st.sampled_from(sorted(PRODUCTS)),
    st.sampled_from([BUY, SELL]),
    st.sampled_from([0, -1, 1, 99, 99, 6_470_000, 10**9]),  # Ticks.
    st.sampled_from([0, -1, 1, 12_345, 10**7, 10**7, 7 * 10**8, 10**13, 10**13 + 1]),  # Lots.
    st.booleans(),
)
# How many ticks better than asked, negative if worse, and which share of the order.
FILLS = st.tuples(
    IDS,
    st.sampled_from([0, 0, 1, 2, -1]),
    st.sampled_from([0, Fraction(1, 3), Fraction(1, 2), 1, 1, Fraction(3, 2), -1]),
)
OPERATIONS = st.lists(st.one_of(ORDERS, ORDERS, FILLS, IDS), max_size=40)


class Account:
    """A ledger, and the same account kept in fractions."""

    def __init__(self, fees: tuple[float, float]) -> None:
        self.ledger = Ledger(
            PRODUCTS, START_USD, START_LOTS, Fees(taker_bps=fees[0], maker_bps=fees[1])
        )
        self.rates = [Fraction(str(bps)) / 10_000 for bps in fees]
        self.usd, self.lots = Fraction(START_USD), dict(START_LOTS)
        self.open: dict[str, Order] = {}
        self.reached: Counter[str] = Counter()

    def worth(self, order: Order, ticks: int, lots: int) -> Fraction:
        """USD that a fill moves, its fee included."""
        listed = PRODUCTS[order.product_id]
        price, size = Fraction(listed.quote_increment), Fraction(listed.base_increment)
        fee = self.rates[order.post_only]
        return ticks * price * lots * size * (1 + fee if order.side == BUY else 1 - fee)

    def place(self, order: Order) -> None:
        """Place an order, whether or not it can be."""
        sound = order.lots > 0 and order.price_ticks > 0 and order.id not in self.open
        if sound and order.side == BUY:
            locked = [o for o in self.open.values() if o.side == BUY]
            needed = sum(self.worth(o, o.price_ticks, o.lots) for o in [*locked, order])
            sound = needed <= self.usd
        elif sound:
            asked = [o for o in [*self.open.values(), order] if o.side == SELL]
            needed = sum(o.lots for o in asked if o.product_id == order.product_id)
            sound = needed <= self.lots[order.product_id]
        self.book("place", sound, lambda: self.ledger.place(order))
        if sound:
            self.open[order.id] = order

    def fill(self, order_id: str, better: int, share: Fraction) -> None:
        """Fill an order, whether or not it is open and the fill fits it."""
        order = self.open.get(order_id)
        if order is None:
            self.book("fill", False, lambda: self.ledger.fill(order_id, 99, 1))
            return
        ticks = order.price_ticks + (better if order.side == SELL else -better)
        lots = int(share * order.lots)
        sound = better >= 0 and ticks > 0 and 0 < lots <= order.lots
        self.book("fill", sound, lambda: self.ledger.fill(order_id, ticks, lots))
        if sound:
            sign = 1 if order.side == BUY else -1
            self.usd -= sign * self.worth(order, ticks, lots)
            self.lots[order.product_id] += sign * lots
            del self.open[order_id]
            if lots < order.lots:
                self.open[order_id] = replace(order, lots=order.lots - lots)

    def cancel(self, order_id: str) -> None:
        """Cancel an order, open or not."""
        self.book("cancel", order_id in self.open, lambda: self.ledger.cancel(order_id))
        self.open.pop(order_id, None)

    def book(self, what: str, sound: bool, booking: Callable[[], object]) -> None:
        """Do it, or see it refused."""
        self.reached[f"{what} {'booked' if sound else 'refused'}"] += 1
        if sound:
            booking()
        else:
            with pytest.raises(ReserveError):
                booking()

    def check(self) -> None:
        """Everything is where it should be, exactly, and nothing is negative."""
        ledger = self.ledger
        assert (Fraction(ledger.usd), ledger.lots, ledger.open) == (self.usd, self.lots, self.open)
        locked = [o for o in self.open.values() if o.side == BUY]
        free = self.usd - sum(self.worth(o, o.price_ticks, o.lots) for o in locked)
        assert Fraction(ledger.free_usd) == free >= 0
        for name, held in self.lots.items():
            sold = [o for o in self.open.values() if o.side == SELL and o.product_id == name]
            assert ledger.free_lots(name) == held - sum(o.lots for o in sold) >= 0


def test_a_booking_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    reached: Counter[str] = Counter()

    @settings(max_examples=150, derandomize=True, deadline=None)
    @given(OPERATIONS, st.sampled_from(FEES))
    def run(operations: list[Any], fees: tuple[float, float]) -> None:
        account = Account(fees)
        for operation in operations:
            if isinstance(operation, Order):
                account.place(operation)
            elif isinstance(operation, str):
                account.cancel(operation)
            else:
                account.fill(*operation)
            account.check()
        reached.update(account.reached)

    run()
    ways = [
        f"{what} {how}" for what in ("place", "fill", "cancel") for how in ("booked", "refused")
    ]
    assert all(reached[way] > 10 for way in ways), reached


def test_an_account_may_be_empty_and_then_affords_nothing() -> None:
    ledger = Ledger(PRODUCTS, Decimal(0), {"AAA-USD": 0}, Fees())
    assert (ledger.free_usd, ledger.lots) == (0, {"AAA-USD": 0, "SHIB-USD": 0})
    for side in (BUY, SELL):
        with pytest.raises(ReserveError):
            ledger.place(Order("a", "AAA-USD", side, 1, 1, True))
