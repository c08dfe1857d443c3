"""Price-time matching as a list of resting orders that is searched from end to end every time.

Rules: the best price first, of equals the oldest, at the resting order's price. An order stops at
a resting order of its own owner and its rest is cancelled. IOC cancels its rest; FOK fills whole or
not at all; post-only that would trade and GTD past its time are rejected. A buy by quote spends
until its budget buys no further lot.
"""

from dataclasses import dataclass

BUY, SELL = 0, 1


@dataclass
class Asked:
    """An order as it was asked for, and what became of it."""

    number: int
    owner: str | None
    side: int
    price: int | None
    lots: int
    tif: str
    post_only: bool = False
    expire_ns: int | None = None
    budget: int | None = None
    status: str = "OPEN"
    left: int = 0


class PlainBook:
    """Resting orders in order of arrival; fills are (maker number, price, lots)."""

    def __init__(self) -> None:
        self.resting: list[Asked] = []

    def submit(self, order: Asked, now_ns: int) -> list[tuple[int, int, int]]:
        order.left = order.lots
        for old in list(self.resting):
            if old.expire_ns is not None and old.expire_ns <= now_ns:
                self._leave(old, "EXPIRED")
        if order.expire_ns is not None and order.expire_ns <= now_ns:
            order.status = "REJECTED"
            return []
        if order.post_only and self._next_maker(order):
            order.status = "REJECTED"
            return []
        if order.budget is not None:
            return self._spend(order, order.budget)
        if order.tif == "FOK" and self._reachable(order) < order.lots:
            order.status = "CANCELLED"
            return []
        fills = []
        while order.left and (maker := self._next_maker(order)):
            if self._same_owner(order, maker):
                order.status = "CANCELLED"
                return fills
            lots = min(order.left, maker.left)
            order.left -= lots
            fills.append(self._trade(maker, lots))
        if order.left == 0:
            order.status = "FILLED"
        elif order.tif in ("IOC", "FOK") or order.price is None:
            order.status = "CANCELLED"
        else:
            self.resting.append(order)
        return fills

    def cancel(self, order: Asked) -> bool:
        if order not in self.resting:
            return False
        self._leave(order, "CANCELLED")
        return True

    def levels(self, side: int) -> dict[int, int]:
        found: dict[int, int] = {}
        for order in self.resting:
            if order.side == side and order.price is not None:
                found[order.price] = found.get(order.price, 0) + order.left
        return found

    def _leave(self, order: Asked, status: str) -> None:
        self.resting.remove(order)
        order.status = status

    def _next_maker(self, order: Asked) -> Asked | None:
        best: Asked | None = None
        for other in self.resting:
            assert other.price is not None
            if other.side == order.side:
                continue
            if order.price is not None:
                gap = order.price - other.price
                if (gap if order.side == BUY else -gap) < 0:
                    continue
            if best is None or self._better(other, best):
                best = other
        return best

    def _better(self, one: Asked, other: Asked) -> bool:
        assert one.price is not None and other.price is not None
        return one.price > other.price if one.side == BUY else one.price < other.price

    def _same_owner(self, one: Asked, other: Asked) -> bool:
        return one.owner is not None and one.owner == other.owner

    def _reachable(self, order: Asked) -> int:
        """Lots that the order would get: those before its limit and before its owner's."""
        aside, total = [], 0
        while maker := self._next_maker(order):
            if self._same_owner(order, maker):
                break
            total += maker.left
            aside.append((self.resting.index(maker), maker))
            self.resting.remove(maker)
        for place, maker in reversed(aside):
            self.resting.insert(place, maker)
        return total

    def _spend(self, order: Asked, budget: int) -> list[tuple[int, int, int]]:
        fills: list[tuple[int, int, int]] = []
        order.status = "CANCELLED"
        while maker := self._next_maker(order):
            assert maker.price is not None
            if self._same_owner(order, maker):
                return fills
            lots = min(budget // maker.price, maker.left)
            if lots == 0:
                break
            budget -= lots * maker.price
            order.lots += lots
            fills.append(self._trade(maker, lots))
        ran_dry = budget > 0 and self._next_maker(order) is None
        if fills and not ran_dry:
            order.status = "FILLED"
        return fills

    def _trade(self, maker: Asked, lots: int) -> tuple[int, int, int]:
        assert maker.price is not None
        maker.left -= lots
        if maker.left == 0:
            self._leave(maker, "FILLED")
        return (maker.number, maker.price, lots)
