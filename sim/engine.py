"""A matching engine for one product: price-time priority on whole ticks and lots.

It is pure: no clock, files, network or randomness; the time is what the caller says it is.
Self-trade rule: an order that meets a resting order of its own owner stops there, and what is left
of it is cancelled; the resting order keeps its place. Orders without an owner are the simulated
flow, many participants, and trade with each other.
"""

from heapq import heappop, heappush
from typing import NamedTuple

from market.events import ASK, BID, BUY, SELL
from sim.ladder import Change, Levels, Order, Side, Status

FIRST_TRADE_ID = 1_000_000
TIME_IN_FORCE = ("GTC", "GTD", "IOC", "FOK")
_ANY_PRICE = -(1 << 62)


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
        self._bids, self._asks = Side(BID, 1), Side(ASK, -1)
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

    def depth(self, side: int) -> int:
        """Return how many levels a side has."""
        return len((self._asks if side == ASK else self._bids).keys)

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

    def _match(self, taker: Order, other: "Side", limit: int, fills: list[Fill]) -> None:
        while taker.left and other.keys and other.keys[-1] >= limit:
            maker = other.first()
            if taker.owner is not None and maker.owner == taker.owner:
                return
            lots = min(taker.left, maker.left)
            taker.left -= lots
            self._fill(maker, taker, lots, other, fills)

    def _spend(self, taker: Order, budget: int, other: "Side", fills: list[Fill]) -> None:
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
        self, maker: Order, taker: Order, lots: int, other: "Side", fills: list[Fill]
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
