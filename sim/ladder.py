"""One side of a book: its levels, the orders of each oldest first, and what has changed.

A side is a dict of levels and a sorted list of their prices, the best last, so that what happens
near the touch moves little memory. The orders of a level are linked to each other, so a cancel
looks for nothing.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from enum import Enum

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
    level: "Level | None" = field(default=None, init=False, repr=False)  # Where it rests.
    ahead: "Order | None" = field(default=None, init=False, repr=False)
    behind: "Order | None" = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.left = self.lots


class Level:
    """The orders at one price, oldest first."""

    __slots__ = ("first", "last", "lots")

    def __init__(self) -> None:
        self.first: Order | None = None
        self.last: Order | None = None
        self.lots = 0


class Side:
    """One side of the book. A key is sign * price: on both sides the best is the largest."""

    __slots__ = ("before", "keys", "levels", "side", "sign")

    def __init__(self, side: int, sign: int) -> None:
        self.side, self.sign = side, sign
        self.keys: list[int] = []
        self.levels: dict[int, Level] = {}
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
            level = self.levels[price] = Level()
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
