"""The ledger conserves USD and coins exactly, and never spends what is locked (section 7)."""

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.actions import Fees
from market.events import BUY, SELL
from market.ledger import Ledger, Order, ReserveError
from market.products import MAX_UNITS, Product, product_of

PRODUCTS = {
    "AAA-USD": product_of("AAA-USD", "0.01", "0.001"),
    "BBB-USD": product_of("BBB-USD", "0.00025", "5"),
}
START_USD = Decimal("1000.07")
START_LOTS = {"AAA-USD": 40, "BBB-USD": 3000}
FEES = Fees(taker_bps=5.5, maker_bps=0.25)
TAKER, MAKER = Fraction(55, 100_000), Fraction(25, 1_000_000)

ORDERS = st.tuples(
    st.sampled_from(sorted(PRODUCTS)),
    st.sampled_from([BUY, SELL]),
    st.integers(1, 200_000),
    st.integers(1, 2_000),
    st.booleans(),
)
# What to do, to which of the open orders, how much of it, how many ticks better than asked.
OPERATIONS = st.lists(
    st.one_of(
        ORDERS,
        st.tuples(
            st.sampled_from(["fill", "part", "cancel"]),
            st.integers(0, 20),
            st.fractions(0, 1),
            st.integers(0, 50),
        ),
    ),
    max_size=40,
)


def order(side: int = BUY, price: int = 10_000, lots: int = 1000, post_only: bool = True) -> Order:
    return Order("o1", "AAA-USD", side, price, lots, post_only)


def one_coin(usd: str = "150") -> Ledger:
    return Ledger(PRODUCTS, Decimal(usd), {"AAA-USD": 1000}, FEES)


def worth(asked: Order, price_ticks: int, lots: int) -> Fraction:
    """USD of a fill after its fee, worked out in fractions."""
    listed = PRODUCTS[asked.product_id]
    plain = price_ticks * Fraction(listed.quote_increment) * lots * Fraction(listed.base_increment)
    fee = MAKER if asked.post_only else TAKER
    return plain * (1 + fee if asked.side == BUY else 1 - fee)


class Books:
    """The same account kept in fractions, by hand."""

    def __init__(self) -> None:
        self.ledger = Ledger(PRODUCTS, START_USD, START_LOTS, FEES)
        self.usd = Fraction(START_USD)
        self.lots = dict(START_LOTS)
        self.open: dict[str, Order] = {}
        self.placed = 0

    def free(self) -> tuple[Fraction, dict[str, int]]:
        usd, lots = self.usd, dict(self.lots)
        for o in self.open.values():
            if o.side == BUY:
                usd -= worth(o, o.price_ticks, o.lots)
            else:
                lots[o.product_id] -= o.lots
        return usd, lots

    def place(self, product_id: str, side: int, price: int, lots: int, post_only: bool) -> None:
        self.placed += 1
        asked = Order(str(self.placed), product_id, side, price, lots, post_only)
        free_usd, free_lots = self.free()
        needed = worth(asked, price, lots)
        covered = needed <= free_usd if side == BUY else lots <= free_lots[product_id]
        assert self.ledger.affords(asked) == covered
        if covered:
            self.ledger.place(asked)
            self.open[asked.id] = asked
        else:
            with pytest.raises(ReserveError):
                self.ledger.place(asked)

    def act(self, what: str, which: int, part: Fraction, better: int) -> None:
        if not self.open:
            return
        asked = self.open.pop(sorted(self.open)[which % len(self.open)])
        if what == "cancel":
            self.ledger.cancel(asked.id)
            return
        lots = asked.lots if what == "fill" else max(1, int(part * asked.lots))
        price = max(
            1, asked.price_ticks - better if asked.side == BUY else asked.price_ticks + better
        )
        moved = worth(asked, price, lots)
        assert Fraction(self.ledger.fill(asked.id, price, lots)) == moved
        sign = 1 if asked.side == BUY else -1
        self.usd -= sign * moved
        self.lots[asked.product_id] += sign * lots
        if lots < asked.lots:
            self.open[asked.id] = msgspec.structs.replace(asked, lots=asked.lots - lots)

    def check(self) -> None:
        usd, lots = self.free()
        assert Fraction(self.ledger.usd) == self.usd
        assert self.ledger.lots == self.lots
        assert self.ledger.open == self.open
        assert Fraction(self.ledger.free_usd) == usd >= 0
        assert {name: self.ledger.free_lots(name) for name in lots} == lots
        assert min(lots.values()) >= 0


@settings(max_examples=300, deadline=None, derandomize=True)
@given(OPERATIONS)
def test_reserves_are_conserved_exactly_and_never_negative(operations: list[tuple]) -> None:
    books = Books()
    for operation in operations:
        if len(operation) == 5:
            books.place(*operation)
        else:
            books.act(*operation)
        books.check()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(OPERATIONS)
def test_cancelling_everything_frees_everything(operations: list[tuple]) -> None:
    books = Books()
    for operation in operations:
        if len(operation) == 5:
            books.place(*operation)
    for order_id in list(books.open):
        books.ledger.cancel(order_id)
    assert books.ledger.free_usd == books.ledger.usd == START_USD
    assert books.ledger.lots == START_LOTS


def test_locked_funds_cannot_be_spent_until_the_cancel_is_booked() -> None:
    ledger = one_coin()
    ledger.place(order())  # 100 of 150 USD.
    second = Order("o2", "AAA-USD", BUY, 10_000, 600, True)
    with pytest.raises(ReserveError, match="not covered"):
        ledger.place(second)
    ledger.cancel("o1")
    ledger.place(second)


def test_locked_coins_cannot_be_sold_twice() -> None:
    ledger = one_coin()
    ledger.place(order(SELL, lots=700))
    with pytest.raises(ReserveError, match="not covered"):
        ledger.place(Order("o2", "AAA-USD", SELL, 10_000, 301, False))
    ledger.place(Order("o3", "AAA-USD", SELL, 10_000, 300, False))


@pytest.mark.parametrize(("side", "price"), [(BUY, 10_001), (SELL, 9_999)])
def test_a_fill_worse_than_the_orders_price_is_refused(side: int, price: int) -> None:
    ledger = one_coin()
    ledger.place(order(side))
    with pytest.raises(ReserveError, match="does not fit"):
        ledger.fill("o1", price, 1000)
    assert ledger.open == {"o1": order(side)}
    assert (ledger.usd, ledger.lots["AAA-USD"]) == (Decimal(150), 1000)


@pytest.mark.parametrize("lots", [-1, 0, 1001])
def test_a_fill_of_nothing_or_too_much_is_refused(lots: int) -> None:
    ledger = one_coin()
    ledger.place(order())
    with pytest.raises(ReserveError, match="does not fit"):
        ledger.fill("o1", 10_000, lots)


def test_bookings_need_an_open_order() -> None:
    ledger = one_coin()
    with pytest.raises(ReserveError, match="not open"):
        ledger.cancel("o1")
    with pytest.raises(ReserveError, match="not open"):
        ledger.fill("o1", 10_000, 1)
    ledger.place(order(lots=10))
    with pytest.raises(ReserveError, match="open already"):
        ledger.place(order(lots=10))


@pytest.mark.parametrize("bad", [order(lots=0), order(lots=-5), order(price=0)])
def test_an_empty_order_is_refused(bad: Order) -> None:
    with pytest.raises(ReserveError, match="empty"):
        one_coin().place(bad)


def test_reserves_must_be_possible() -> None:
    for usd, lots in ((Decimal(-1), {}), (Decimal(1), {"AAA-USD": -1}), (Decimal(1), {"X": 1})):
        with pytest.raises(ReserveError):
            Ledger(PRODUCTS, usd, lots, FEES)


def test_fees_by_hand() -> None:
    ledger = Ledger(PRODUCTS, Decimal(500), {"AAA-USD": 1000}, Fees(taker_bps=5.0, maker_bps=1.0))
    ledger.place(order(BUY, 10_000, 1000, post_only=False))  # One coin at 100: 100.05.
    assert ledger.fill("o1", 10_000, 1000) == Decimal("100.05")
    ledger.place(order(SELL, 10_100, 2000, post_only=True))  # Two at 101 less 1 bp: 201.9798.
    assert ledger.fill("o1", 10_100, 2000) == Decimal("201.9798")
    assert ledger.usd == Decimal("601.9298")
    assert ledger.lots["AAA-USD"] == 0


def test_equity_values_coins_at_the_median() -> None:
    ledger = one_coin("150.5")
    assert ledger.equity({"AAA-USD": 9_999 + 10_002}) == Decimal("150.5") + Decimal("100.005")
    ledger.place(order(SELL))
    assert ledger.equity({"AAA-USD": 20_000}) == Decimal("250.5")  # Locked is still ours.


def test_the_largest_order_at_the_most_digits_is_still_exact() -> None:
    listed = Product("A-USD", Decimal("1.23456789"), Decimal("9.87654321e-10"), Decimal("1e-8"))
    fees = Fees(taker_bps=0.12345678901234567, maker_bps=1e-16)
    for post_only in (False, True):
        usd = Decimal("1e40")
        ledger = Ledger({"A-USD": listed}, usd, {}, fees)
        ledger.place(Order("1", "A-USD", BUY, MAX_UNITS - 1, MAX_UNITS - 3, post_only))
        moved = ledger.fill("1", MAX_UNITS - 1, MAX_UNITS - 3)
        rate = Fraction(str(fees.maker_bps if post_only else fees.taker_bps)) / 10_000
        price = (MAX_UNITS - 1) * Fraction("1.23456789")
        size = (MAX_UNITS - 3) * Fraction("9.87654321e-10")
        assert Fraction(moved) == price * size * (1 + rate)
        assert Fraction(ledger.usd) == Fraction(usd) - Fraction(moved)


def test_a_fee_that_no_account_can_keep_exactly_is_refused() -> None:
    with pytest.raises(ReserveError, match="fees: 1e-300 bps"):
        Ledger({}, Decimal(1), {}, Fees(taker_bps=1e-300))
