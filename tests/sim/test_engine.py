"""The matching engine equals a plain list of orders, searched from end to end, in everything."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.events import ASK, BID, BUY, SELL
from sim.engine import FIRST_TRADE_ID, Engine, Fill, Levels, Order, Status, Trade
from tests.reference.matching import Asked, PlainBook

PRICES = st.integers(1, 12)  # Few prices and sizes, so that orders meet and queue.
LOTS = st.integers(1, 9)
OWNERS = st.sampled_from([None, None, "ann", "bob"])
SIDES = st.sampled_from([BUY, SELL])


@st.composite
def orders(draw: Callable[[Any], Any]) -> dict[str, Any]:
    """What an order asks for, of every type; times are offsets from the submission."""
    kind = draw(st.sampled_from(["GTC", "GTC", "GTC", "GTD", "IOC", "FOK", "market", "quote"]))
    asked = {"owner": draw(OWNERS), "side": draw(SIDES), "price": draw(PRICES), "lots": draw(LOTS)}
    asked |= {"tif": kind, "post_only": False, "expire_ns": None, "budget": None}
    if kind in ("GTC", "GTD"):
        asked["post_only"] = draw(st.booleans())
    if kind == "GTD":
        asked["expire_ns"] = draw(st.integers(0, 8))
    if kind == "market":
        asked |= {"price": None, "tif": draw(st.sampled_from(["IOC", "FOK"]))}
    if kind == "quote":
        budget = draw(st.integers(1, 150))
        asked |= {"tif": "IOC", "side": BUY, "lots": 0, "budget": budget}
        asked["price"] = draw(st.one_of(st.none(), PRICES))
    return asked


STEPS = st.lists(
    st.one_of(orders(), st.integers(0, 60), st.sampled_from(["drain", "expire"])), max_size=60
)


class Both:
    """The engine and the plain book, given the same; `now_ns` goes up by one a step."""

    def __init__(self) -> None:
        self.engine, self.plain = Engine(), PlainBook()
        self.pairs: list[tuple[Order, Asked]] = []
        self.fills: list[Fill] = []
        self.now_ns = 0

    def submit(self, asked: dict[str, Any]) -> tuple[Order, list[Fill]]:
        expire_ns = None if asked["expire_ns"] is None else self.now_ns + asked["expire_ns"]
        wish = Asked(len(self.pairs), **{**asked, "expire_ns": expire_ns})
        order = Order(
            wish.number, wish.owner, wish.side, wish.price, wish.lots, wish.tif, wish.post_only,
            wish.expire_ns, wish.budget,
        )  # fmt: skip
        self.pairs.append((order, wish))
        fills = self.engine.submit(order, self.now_ns)
        expected = self.plain.submit(wish, self.now_ns)
        assert [(f.maker.order_id, f.price_ticks, f.lots) for f in fills] == expected
        assert all(f.taker is order and f.taker_side == order.side for f in fills)
        self.fills += fills
        return order, fills

    def check(self) -> None:
        for order, wish in self.pairs:
            assert (order.status.value, order.left, order.lots) == (
                wish.status, wish.left, wish.lots,
            )  # fmt: skip
        bids, asks = self.engine.book()
        assert (bids, asks) == (self.plain.levels(BUY), self.plain.levels(SELL))
        assert self.engine.best_bid == max(bids, default=0)
        assert self.engine.best_ask == min(asks, default=0)
        for side, best in ((BID, self.engine.best_bid), (ASK, self.engine.best_ask)):
            order = self.engine.best_order(side)
            oldest = [o for o in self.plain.resting if o.side == side and o.price == best]
            assert (order and order.order_id) == (oldest[0].number if oldest else None)


@settings(max_examples=400, deadline=None)
@given(STEPS)
def test_fills_books_and_statuses_equal_those_of_the_plain_book(steps: list[Any]) -> None:
    both = Both()
    for step in steps:
        both.now_ns += 1
        if isinstance(step, dict):
            both.submit(step)
        elif isinstance(step, int) and both.pairs:
            order, wish = both.pairs[step % len(both.pairs)]
            assert both.engine.cancel(order) == both.plain.cancel(wish)
        elif step == "expire":
            both.engine.expire(both.now_ns)
            for wish in [o for o in both.plain.resting if o.expire_ns is not None]:
                if wish.expire_ns is not None and wish.expire_ns <= both.now_ns:
                    both.plain._leave(wish, "EXPIRED")
        both.check()


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_what_holds_for_every_stream(steps: list[Any]) -> None:
    both, seen, gone = Both(), ({}, {}), []
    for step in steps:
        both.now_ns += 1
        if isinstance(step, dict):
            gone += both.engine.expire(both.now_ns)  # Submitting drops what is past its time.
            before = both.engine.book()
            order, fills = both.submit(step)
            got = sum(fill.lots for fill in fills)
            assert order.tif != "FOK" or got in (0, order.lots)
            assert not (order.post_only and fills)
            assert order.status is not Status.REJECTED or both.engine.book() == before
            prices = [fill.price_ticks for fill in fills]
            assert prices == sorted(prices, reverse=order.side == SELL)
            if order.quote_units is not None:
                assert sum(f.price_ticks * f.lots for f in fills) <= order.quote_units
            assert not any(f.maker.owner and f.maker.owner == order.owner for f in fills)
        elif isinstance(step, int) and both.pairs:
            order, wish = both.pairs[step % len(both.pairs)]
            both.engine.cancel(order), both.plain.cancel(wish)
        elif step == "expire":
            gone += both.engine.expire(both.now_ns)
        else:
            seen = drained(both.engine, seen)
        bids, asks = both.engine.book()
        assert not (bids and asks) or max(bids) < min(asks)
        made = [0] * len(both.pairs)
        for fill in both.fills:
            made[fill.maker.order_id] += fill.lots
            made[fill.taker.order_id] += fill.lots
        for order, _ in both.pairs:  # Lots are conserved, and rest where they are open.
            assert order.lots == made[order.order_id] + order.left
            assert (order.level is not None) == (order.status is Status.OPEN)
        resting = [order for order, _ in both.pairs if order.status is Status.OPEN]
        assert sum(order.left for order in resting) == sum(bids.values()) + sum(asks.values())
    drained(both.engine, seen)
    gone += both.engine.expire(both.now_ns)
    expired = [order for order, _ in both.pairs if order.status is Status.EXPIRED]
    assert sorted(o.order_id for o in gone) == [o.order_id for o in expired]
    assert [f.trade_id for f in both.fills] == [FIRST_TRADE_ID + n for n in range(len(both.fills))]


def drained(engine: Engine, seen: tuple[Levels, Levels]) -> tuple[Levels, Levels]:
    """Drain and compare with the difference of the books; return the book."""
    changes, _ = engine.drain()
    book = engine.book()
    expected = {
        (side, price, book[side].get(price, 0))
        for side in (BID, ASK)
        for price in {*seen[side], *book[side]}
        if book[side].get(price, 0) != seen[side].get(price, 0)
    }
    assert len(changes) == len(expected)
    assert set(changes) == expected
    return book


def limit(number: int, side: int, price: int, lots: int, owner: str | None = None) -> Order:
    return Order(number, owner, side, price, lots)


def test_a_drain_brings_trades_in_order_and_only_once() -> None:
    engine = Engine(first_trade_id=7)
    for number, price in enumerate((11, 10, 10)):
        engine.submit(limit(number, SELL, price, 5), 0)
    engine.submit(limit(3, BUY, 11, 12), 0)
    changes, trades = engine.drain()
    assert trades == [Trade(7, 10, 5, BUY), Trade(8, 10, 5, BUY), Trade(9, 11, 2, BUY)]
    assert changes == [(ASK, 11, 3)]  # 10 came and went between the drains.
    assert engine.drain() == ([], [])


def test_a_partly_filled_order_keeps_its_place_and_a_new_one_goes_behind() -> None:
    engine = Engine()
    first, second = limit(1, BUY, 10, 5), limit(2, BUY, 10, 5)
    engine.submit(first, 0), engine.submit(second, 0)
    engine.submit(limit(3, SELL, 10, 3), 0)
    fills = engine.submit(limit(4, SELL, 10, 4), 0)
    assert [(fill.maker, fill.lots) for fill in fills] == [(first, 2), (second, 2)]
    assert (first.status, second.left) == (Status.FILLED, 3)


def test_an_order_stops_at_its_owners_and_does_not_trade_behind_them() -> None:
    engine = Engine()
    engine.submit(limit(1, SELL, 10, 1, "bob"), 0)
    mine = limit(2, SELL, 10, 1, "ann")
    engine.submit(mine, 0)
    engine.submit(limit(3, SELL, 10, 1, "bob"), 0)
    taker = limit(4, BUY, 10, 3, "ann")
    assert [fill.maker.order_id for fill in engine.submit(taker, 0)] == [1]
    assert (taker.status, taker.left, mine.status) == (Status.CANCELLED, 2, Status.OPEN)
    assert engine.book() == ({}, {10: 2})


def test_a_gtd_order_is_not_hit_at_its_time_and_is_reported_once() -> None:
    engine = Engine()
    order = Order(1, "ann", SELL, 10, 5, "GTD", expire_ns=100)
    engine.submit(order, 0)
    assert engine.expire(99) == []
    taker = limit(2, BUY, 10, 5)
    assert engine.submit(taker, 100) == []
    assert (order.status, taker.status) == (Status.EXPIRED, Status.OPEN)
    assert engine.expire(100) == [order]
    assert engine.expire(200) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"lots": 0},
        {"lots": -1},
        {"price_ticks": 0},
        {"price_ticks": None},
        {"side": 2},
        {"tif": "DAY"},
        {"tif": "GTD"},
        {"expire_ns": 5},
        {"tif": "IOC", "post_only": True},
        {"quote_units": 5},
        {"price_ticks": None, "tif": "IOC", "quote_units": 5},
        {"price_ticks": None, "tif": "IOC", "lots": 0, "quote_units": 0},
        {"price_ticks": None, "tif": "IOC", "lots": 0, "quote_units": 5, "side": SELL},
        {"tif": "FOK", "lots": 0, "quote_units": 5},
        {"tif": "GTC", "lots": 0, "quote_units": 5},
    ],
)
def test_what_is_no_order_is_refused(wrong: dict[str, Any]) -> None:
    asked = {"order_id": 1, "owner": None, "side": BUY, "price_ticks": 10, "lots": 5} | wrong
    with pytest.raises(ValueError, match="not an order"):
        Engine().submit(Order(**asked), 0)


def test_an_order_is_submitted_once() -> None:
    engine = Engine()
    order = limit(1, BUY, 10, 5)
    engine.submit(order, 0)
    with pytest.raises(ValueError, match="submitted before"):
        engine.submit(order, 0)
    engine.cancel(order)
    with pytest.raises(ValueError, match="submitted before"):
        engine.submit(order, 0)
