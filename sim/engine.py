"""A matching engine for one product: price-time priority on whole ticks and lots.

It is pure: no clock, files, network or randomness; the time is what the caller says it is.
Self-trade rule: an order that meets a resting order of its own owner stops there, and what is left
of it is cancelled; the resting order keeps its place. Orders without an owner are the simulated
flow, many participants, and trade with each other.

A side is a dict of levels and a sorted list of their prices, the best last, so that what happens
near the touch moves little memory. The orders of a level are linked to each other, so a cancel
looks for nothing.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from enum import Enum
from heapq import heappop, heappush
from typing import NamedTuple

from market.events import ASK, BID, BUY, SELL

FIRST_TRADE_ID = 1_000_000
TIME_IN_FORCE = ("GTC", "GTD", "IOC", "FOK")
_ANY_PRICE = -(1 << 62)

Change = tuple[int, int, int]  # side, price in ticks, new absolute size in lots (0 deletes)
Levels = dict[int, int]  # price in ticks -> size in lots


class Status(Enum):
    """Where an order stands; all but OPEN are final."""

    OPEN = "OPEN"
    FILLED = "FILLED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"


@dataclass(slots=True, eq=False)
class Order:
    """An order; the engine keeps `left` and `status`.

    A market order has no price. A market buy by quote gives `quote_units`, what it may spend in
    ticks * lots, and 0 lots: `lots` then becomes what was bought, and `left` stays 0.
    """

    order_id: int
    owner: str | None  # None: simulated flow.
    side: int  # market.events.BUY or SELL
    price_ticks: int | None
    lots: int
    tif: str = "GTC"
    post_only: bool = False
    expire_ns: int | None = None
    quote_units: int | None = None
    status: Status = Status.OPEN
    left: int = field(init=False)
    level: "_Level | None" = field(default=None, init=False, repr=False)  # Where it rests.
    ahead: "Order | None" = field(default=None, init=False, repr=False)
    behind: "Order | None" = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.left = self.lots


class Trade(NamedTuple):
    """One trade; `taker` is market.events.BUY or SELL, ids are consecutive per product."""

    trade_id: int
    price_ticks: int
    size_lots: int
    taker: int


class Fill(NamedTuple):
    """One match, at the maker's price."""

    trade_id: int
    price_ticks: int
    lots: int
    taker_side: int
    maker: Order
    taker: Order


class Engine:
    """The book of one product and the orders in it."""

    def __init__(self, first_trade_id: int = FIRST_TRADE_ID) -> None:
        self._bids, self._asks = _Side(BID, 1), _Side(ASK, -1)
        self._next_trade_id = first_trade_id
        self._trades: list[Trade] = []
        self._expiries: list[tuple[int, int, Order]] = []  # A heap; cancelled ones stay in it.
        self._rested = 0
        self._expired: list[Order] = []
        self.owned: list[Fill] = []  # With an owner's order in them; whoever books them clears it.

    @property
    def best_bid(self) -> int:
        """The best bid in ticks, 0 if there is none."""
        return self._bids.keys[-1] if self._bids.keys else 0

    @property
    def best_ask(self) -> int:
        """The best ask in ticks, 0 if there is none."""
        return -self._asks.keys[-1] if self._asks.keys else 0

    def best_order(self, side: int) -> Order | None:
        """Return the order of a side that the next taker meets first."""
        own = self._asks if side == ASK else self._bids
        return own.levels[own.sign * own.keys[-1]].first if own.keys else None

    def submit(self, order: Order, now_ns: int) -> list[Fill]:
        """Match an order, rest what may rest; its `status` and `left` say the outcome.

        What an IOC order leaves is CANCELLED, as is a FOK order that cannot be filled whole.
        REJECTED: post-only that would cross, GTD that is past its time. ValueError for an order
        that is none.
        """
        _check(order)
        if self._expiries and self._expiries[0][0] <= now_ns:
            self._drop_expired(now_ns)
        other = self._asks if order.side == BUY else self._bids
        price = order.price_ticks
        limit = _ANY_PRICE if price is None else other.sign * price
        crosses = bool(other.keys) and other.keys[-1] >= limit
        late = order.expire_ns is not None and order.expire_ns <= now_ns
        if late or (order.post_only and crosses):
            order.status = Status.REJECTED
            return []
        fills: list[Fill] = []
        if order.quote_units is not None:
            self._spend(order, order.quote_units, other, fills)
            return fills
        if crosses and (order.tif != "FOK" or other.holds(order, limit)):
            self._match(order, other, limit, fills)
            crosses = bool(other.keys) and other.keys[-1] >= limit  # Then it met its owner's.
        if order.left == 0:
            order.status = Status.FILLED
        elif crosses or order.tif in ("IOC", "FOK"):
            order.status = Status.CANCELLED
        else:
            self._rest(order)
        return fills

    def cancel(self, order: Order) -> bool:
        """Take an order out of the book; False if it does not rest there."""
        if order.level is None:
            return False
        (self._bids if order.side == BUY else self._asks).remove(order)
        order.status = Status.CANCELLED
        return True

    def expire(self, now_ns: int) -> list[Order]:
        """Return the GTD orders that expired since the last call, up to and at `now_ns`."""
        self._drop_expired(now_ns)
        expired, self._expired = self._expired, []
        return expired

    def drain(self) -> tuple[list[Change], list[Trade]]:
        """Return what is new since the last drain: levels whose size differs, and all trades."""
        trades, self._trades = self._trades, []
        return [*self._bids.drain(), *self._asks.drain()], trades

    def book(self) -> tuple[Levels, Levels]:
        """Return copies of bids and asks."""
        bids, asks = self._bids.levels, self._asks.levels
        return (
            {price: level.lots for price, level in bids.items()},
            {price: level.lots for price, level in asks.items()},
        )

    def _match(self, taker: Order, other: "_Side", limit: int, fills: list[Fill]) -> None:
        while taker.left and other.keys and other.keys[-1] >= limit:
            maker = other.first()
            if taker.owner is not None and maker.owner == taker.owner:
                return
            lots = min(taker.left, maker.left)
            taker.left -= lots
            self._fill(maker, taker, lots, other, fills)

    def _spend(self, taker: Order, budget: int, other: "_Side", fills: list[Fill]) -> None:
        """Buy for a budget: FILLED when what is left of it does not buy another lot."""
        taker.status = Status.CANCELLED
        while other.keys:
            maker, price = other.first(), -other.keys[-1]
            if taker.owner is not None and maker.owner == taker.owner:
                return
            lots = min(budget // price, maker.left)
            if not lots:
                taker.status = Status.FILLED if fills else Status.CANCELLED
                return
            budget -= lots * price
            taker.lots += lots
            self._fill(maker, taker, lots, other, fills)
        if fills and not budget:
            taker.status = Status.FILLED

    def _fill(
        self, maker: Order, taker: Order, lots: int, other: "_Side", fills: list[Fill]
    ) -> None:
        price, trade_id = other.sign * other.keys[-1], self._next_trade_id
        other.reduce_first(maker, lots)
        self._next_trade_id += 1
        self._trades.append(Trade(trade_id, price, lots, taker.side))
        fill = Fill(trade_id, price, lots, taker.side, maker, taker)
        fills.append(fill)
        if maker.owner is not None or taker.owner is not None:
            self.owned.append(fill)

    def _rest(self, order: Order) -> None:
        (self._bids if order.side == BUY else self._asks).add(order)
        if order.expire_ns is not None:
            heappush(self._expiries, (order.expire_ns, self._rested, order))
            self._rested += 1

    def _drop_expired(self, now_ns: int) -> None:
        while self._expiries and self._expiries[0][0] <= now_ns:
            order = heappop(self._expiries)[2]
            if self.cancel(order):
                order.status = Status.EXPIRED
                self._expired.append(order)


class _Level:
    """The orders at one price, oldest first."""

    __slots__ = ("first", "last", "lots")

    def __init__(self) -> None:
        self.first: Order | None = None
        self.last: Order | None = None
        self.lots = 0


class _Side:
    """One side of the book. A key is sign * price: on both sides the best is the largest."""

    __slots__ = ("before", "keys", "levels", "side", "sign")

    def __init__(self, side: int, sign: int) -> None:
        self.side, self.sign = side, sign
        self.keys: list[int] = []
        self.levels: dict[int, _Level] = {}
        self.before: Levels = {}  # Sizes at the last drain, of the levels touched since.

    def first(self) -> Order:
        order = self.levels[self.sign * self.keys[-1]].first
        assert order is not None
        return order

    def add(self, order: Order) -> None:
        price = order.price_ticks
        assert price is not None
        level = self.levels.get(price)
        if level is None:
            level = self.levels[price] = _Level()
            insort(self.keys, self.sign * price)
        self.before.setdefault(price, level.lots)
        last = level.last
        order.level, order.ahead = level, last
        if last is None:
            level.first = order
        else:
            last.behind = order
        level.last = order
        level.lots += order.left

    def remove(self, order: Order) -> None:
        price, level = order.price_ticks, order.level
        assert level is not None and price is not None
        self.before.setdefault(price, level.lots)
        level.lots -= order.left
        ahead, behind = order.ahead, order.behind
        if ahead is None:
            level.first = behind
        else:
            ahead.behind = behind
        if behind is None:
            level.last = ahead
        else:
            behind.ahead = ahead
        order.level = order.ahead = order.behind = None
        if level.first is None:
            del self.levels[price]
            keys = self.keys
            del keys[bisect_left(keys, self.sign * price)]

    def reduce_first(self, maker: Order, lots: int) -> None:
        """Fill the first order of the best level; one that is filled whole leaves the book."""
        if lots == maker.left:
            self.remove(maker)
            maker.left, maker.status = 0, Status.FILLED
            return
        price, level = maker.price_ticks, maker.level
        assert level is not None and price is not None
        self.before.setdefault(price, level.lots)
        maker.left -= lots
        level.lots -= lots

    def holds(self, taker: Order, limit: int) -> bool:
        """Whether a taker would be filled whole before its limit, and before its owner's orders."""
        wanted = taker.left
        for key in reversed(self.keys):
            if key < limit:
                return False
            order = self.levels[self.sign * key].first
            while order is not None:
                if taker.owner is not None and order.owner == taker.owner:
                    return False
                wanted -= order.left
                if wanted <= 0:
                    return True
                order = order.behind
        return False

    def drain(self) -> list[Change]:
        before, self.before = self.before, {}
        levels, side = self.levels, self.side
        changes = []
        for price, lots in before.items():
            level = levels.get(price)
            size = 0 if level is None else level.lots
            if size != lots:
                changes.append((side, price, size))
        return changes


def _check(order: Order) -> None:
    """Raise a ValueError for what no venue would call an order, and for one given twice."""
    market, by_quote = order.price_ticks is None, order.quote_units is not None
    if order.status is not Status.OPEN or order.level is not None or order.left != order.lots:
        raise ValueError(f"order {order.order_id} was submitted before")
    if by_quote:
        sound = market and order.side == BUY and order.tif == "IOC" and order.lots == 0
        sound = sound and order.quote_units is not None and order.quote_units > 0
    else:
        sound = order.lots > 0 and (not market or order.tif in ("IOC", "FOK"))
    if order.price_ticks is not None and order.price_ticks <= 0:
        sound = False
    if order.post_only and order.tif not in ("GTC", "GTD"):
        sound = False
    if order.side not in (BUY, SELL) or order.tif not in TIME_IN_FORCE:
        sound = False
    if not sound or (order.expire_ns is not None) != (order.tif == "GTD"):
        raise ValueError(f"not an order: {order}")
