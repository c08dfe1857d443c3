"""Seeded order flow for many products, each with a matching engine of its own.

Around a quoted price that follows the hidden value (sim/regimes.py) with some inertia, several
kinds of participants act:
- market makers hold quotes near the touch and renew them one by one; they know the hidden drift
  and show larger size on its side, with or without an edge planted;
- fleeting traders place and pull small orders within a few bp;
- patient traders place orders at any distance, as recorded books have them, and pull them;
- takers take the touch: at random, with the recent move, against it, or leaning to the drift;
- when the quoted price moves, orders in its way are pulled or taken, whoever owns them.

Arrivals are Poisson, self-exciting and busier in bursts. Every product draws from its own
generator, so it behaves the same whichever others run, and whatever steps time is advanced in.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from random import Random
from typing import Annotated, NamedTuple

import msgspec

from market.events import ASK, BID, BUY, SELL
from market.products import Product
from sim.engine import Change, Engine, Levels, Order, Trade
from sim.profiles import DISTANCE_BPS, LEVEL_SHARE, profile_of
from sim.regimes import MAX_LAG_STEPS, STEP_NS, STEP_S, CommonPath, Hidden, HiddenConfig

LEADER = "BTC-USD"
NEAR_BPS = 15.0  # Distance over which the planted shape fades.
MAKER_QUOTES = 40  # A side.
TOUCH_QUOTES = 3  # Of them, at the touch.
MAKER_REACH_BPS = (0.2, 40.0)
FLEETING_ORDERS = 160
FLEETING_REACH_BPS = (0.2, 25.0)
TAKER_REACH_BPS = 10.0  # Takers pay no more than this beyond the touch.
EVENTS_PER_CHANGE = 0.8
# Shares of the events; the rest are patient traders'.
MAKERS, FLEETING, TAKERS = 0.42, 0.32, 0.07
PULLED = 0.8  # Share of the orders in the way of a move that are pulled before they are taken.
EXCITED = 0.4  # Share of the events that other events cause,
EXCITED_S = 2.0  # over this time.
LEAN = 0.15
PATIENT_PER_BP = LEVEL_SHARE[7] / DISTANCE_BPS[7]  # Share of a side's levels, within 2 %.
DEEPEST = 20_000  # Levels a side of the deepest book.


class Size(NamedTuple):
    """How large orders are: log-normal, in units of the product's `order_lots`."""

    median: float
    sigma: float
    tilts: bool = False  # With the hidden drift.


TOUCH_SIZE, MAKER_SIZE, WALL_SIZE = Size(3.0, 0.4, True), Size(3.0, 0.4, True), Size(25.0, 0.4)
WALL_BPS = 10.0  # From here on makers' quotes are walls: recorded books hold much of their size so.
FLEETING_SIZE, PATIENT_SIZE, TAKER_SIZE = Size(0.5, 1.0), Size(0.3, 1.2), Size(0.4, 1.2)


class FlowConfig(HiddenConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the generated market behaves; the hidden values' settings are inherited."""

    tick_s: Annotated[
        float, msgspec.Meta(gt=0, description="event time between two frames of the feed")
    ] = 0.05
    activity: Annotated[
        float, msgspec.Meta(gt=0, description="rate of events, 1 is what the venue was seen at")
    ] = 1.0
    book_tilt: Annotated[
        float, msgspec.Meta(ge=0, description="how strongly the drift shapes the book, log units")
    ] = 0.5
    stick_bps: Annotated[
        float, msgspec.Meta(ge=0, description="how far the value moves before the quotes follow")
    ] = 1.5


class FlowMarket:
    """Several products that advance together."""

    def __init__(self, products: Sequence[Product], config: FlowConfig, start_ns: int) -> None:
        self.products = tuple(products)
        self.config = config
        self.tick_ns = round(config.tick_s * 1e9)
        self._path = CommonPath(config)
        self._pairs = [_Pair(p, config, start_ns) for p in self.products]
        self.engines = [pair.engine for pair in self._pairs]

    def advance(self, to_ns: int) -> None:
        """Play every event up to and at event time `to_ns`, in the order of each product."""
        for pair in self._pairs:
            pair.advance(to_ns, self._path)
        if self._pairs:
            self._path.forget(min(pair.steps for pair in self._pairs) - MAX_LAG_STEPS)

    def drain(self, index: int) -> tuple[list[Change], list[Trade]]:
        """Return what is new of the product at `index` since its last drain."""
        return self.engines[index].drain()

    def book(self, index: int) -> tuple[Levels, Levels]:
        """Return copies of the full book, bids and asks, of the product at `index`."""
        return self.engines[index].book()

    def drift_state(self, index: int) -> float:
        """Return the hidden drift of the product at `index`, of unit variance."""
        return self._pairs[index].hidden.drift_state


class _Pair:
    """One product: its engine, its hidden values and its participants."""

    def __init__(self, product: Product, config: FlowConfig, start_ns: int) -> None:
        self._random = Random(f"{config.seed}:{product.id}")
        self._config = config
        self._profile = profile = profile_of(product)
        self.engine = Engine()
        leads = product.id == LEADER
        self.hidden = Hidden(self._random, config, float(profile.start_ticks), leads)
        self.steps = 0
        self._ns = start_ns
        self._step_ns = start_ns + STEP_NS  # When the next step of the hidden values is due.
        self._rate = self._base_rate = profile.changes_per_s * config.activity * EVENTS_PER_CHANGE
        self._excitement, self._events = EXCITED * self._rate, 0
        self._wait = -math.log(1.0 - self._random.random())  # In arrivals.
        self._last_id = 0
        self._quoted = self.hidden.value
        self._tick_bps = 1e4 / self._quoted
        self._reach = 1.0 + profile.spread_bps / 2  # Thin coins are quoted more widely.
        self._bid, self._ask = self._touches()
        self._quotes: list[Order | None] = [None] * (2 * MAKER_QUOTES)
        self._fleeting: list[Order] = []
        self._patient: list[Order] = []
        fewer = (DEEPEST / profile.levels) ** 0.7  # Where there are fewer orders, they are larger.
        self._patient_size = PATIENT_SIZE._replace(median=PATIENT_SIZE.median * fewer)
        self._fill_book()

    def advance(self, to_ns: int, path: CommonPath) -> None:
        """Play arrivals and steps up to `to_ns`."""
        while True:
            arrival_ns = self._ns + int(self._wait / self._rate * 1e9)
            if arrival_ns < self._step_ns:
                if arrival_ns > to_ns:
                    return
                self._ns = arrival_ns
                self._wait = -math.log(1.0 - self._random.random())
                self._event()
                continue
            if self._step_ns > to_ns:
                return
            self._wait -= (self._step_ns - self._ns) / 1e9 * self._rate
            self._ns = self._step_ns
            self._step_ns += STEP_NS
            self._step(path)

    def _step(self, path: CommonPath) -> None:
        self.hidden.step(self.steps, path)
        self.steps += 1
        decay = 1.0 - STEP_S / EXCITED_S
        self._excitement = self._excitement * decay + self._events * EXCITED / EXCITED_S
        burst = self._config.burst_factor if self.hidden.burst else 1.0
        self._rate = (1.0 - EXCITED) * self._base_rate * burst + self._excitement
        self._wait, self._events = max(0.0, self._wait), 0
        stick = max(self._config.stick_bps / self._tick_bps, 0.6)
        if abs(self.hidden.value - self._quoted) > stick * (0.5 + self._random.random()):
            self._move()

    def _event(self) -> None:
        self._events += 1
        kind = self._random.random()
        if kind < MAKERS:
            self._renew()
        elif kind < MAKERS + FLEETING:
            self._come_or_go()
        elif kind < MAKERS + FLEETING + TAKERS:
            self._take()
        else:
            self._settle_or_leave()

    # Quotes.

    def _touches(self) -> tuple[int, int]:
        spread = self._profile.spread_bps / self._tick_bps * (0.5 + self._random.random())
        ticks = max(1, round(spread))
        bid = max(1, round(self._quoted - ticks / 2))
        return bid, bid + ticks

    def _move(self) -> None:
        """Move the quotes to the hidden value; who is in the way is pulled or taken."""
        rise = self.hidden.value - self._quoted
        self._quoted = self.hidden.value
        self._tick_bps = 1e4 / self._quoted
        self._bid, self._ask = self._touches()
        self._clear_way(ASK, self._bid)
        self._clear_way(BID, self._ask)
        self._settle_behind(BID if rise > 0 else ASK, abs(rise) * self._tick_bps)
        for side in (BID, ASK):
            for rank in range(TOUCH_QUOTES):
                self._quote(side, rank)

    def _clear_way(self, side: int, touch: int) -> None:
        """Empty a side up to the other side's new touch."""
        engine, random = self.engine, self._random.random
        taker = BUY if side == ASK else SELL
        while order := engine.best_order(side):
            price = order.price_ticks or 0
            if (price > touch) if side == ASK else (price < touch):
                return
            if order.owner is None and random() < PULLED:
                engine.cancel(order)
            else:
                self._submit(taker, price, order.left, "IOC")

    def _settle_behind(self, side: int, move_bps: float) -> None:
        """Let as many patient orders come where the price was as it met on its way."""
        coming = move_bps * PATIENT_PER_BP * self._profile.levels
        for _ in range(int(coming + self._random.random())):
            self._keep(self._patient, self._rest(side, move_bps * self._random.random()))

    def _renew(self) -> None:
        """Renew a maker's quote, first of all one at a touch that was taken away."""
        if self.engine.best_ask != self._ask and not 0 < self.engine.best_ask < self._ask:
            self._quote(ASK, 0)
        elif self.engine.best_bid < self._bid:
            self._quote(BID, 0)
        else:
            slot = int(self._random.random() * 2 * MAKER_QUOTES)
            self._quote(slot & 1, slot >> 1)

    def _quote(self, side: int, rank: int) -> None:
        slot = 2 * rank + side
        old = self._quotes[slot]
        if old is not None:
            self.engine.cancel(old)
        if rank < TOUCH_QUOTES:
            self._quotes[slot] = self._place(side, 0.0, TOUCH_SIZE)
            return
        distance_bps = self._reach_of(MAKER_REACH_BPS)
        size = MAKER_SIZE if distance_bps < WALL_BPS else WALL_SIZE
        self._quotes[slot] = self._place(side, distance_bps, size)

    # Other orders.

    def _come_or_go(self) -> None:
        """Place or pull a fleeting order, so that there are about as many as there should be."""
        random = self._random.random
        if random() * 2 * FLEETING_ORDERS < len(self._fleeting):
            self._pull(self._fleeting)
        else:
            self._keep(self._fleeting, self._fleet(BID if random() < 0.5 else ASK))

    def _settle_or_leave(self) -> None:
        """Place or pull a patient order; the side that has fewer levels gains."""
        random, bids, asks = self._random.random, self.engine.depth(BID), self.engine.depth(ASK)
        if random() * 4 * self._profile.levels < bids + asks:
            self._pull(self._patient)
        else:
            side = BID if random() < (0.75 if bids < asks else 0.25) else ASK
            self._keep(self._patient, self._rest(side, self._book_distance(side)))
            if len(self._patient) > 4 * self._profile.levels:
                self._patient = [order for order in self._patient if order.level is not None]

    def _pull(self, orders: list[Order]) -> None:
        while orders:
            at = int(self._random.random() * len(orders))
            order = orders[at]
            orders[at] = orders[-1]
            orders.pop()
            if self.engine.cancel(order):  # Else it was filled or pulled before.
                return

    def _keep(self, orders: list[Order], order: Order) -> None:
        if order.level is not None:
            orders.append(order)

    def _take(self) -> None:
        random = self._random.random
        kind, lean = random(), 0.0
        if kind < 0.2:
            lean = LEAN * math.tanh(self.hidden.drift_state)
        elif kind < 0.6:
            lean = 0.4 * math.tanh(self.hidden.momentum * 1e3) * (1.0 if kind < 0.4 else -1.0)
        side = BUY if random() < 0.5 + lean else SELL
        touch = self.engine.best_ask if side == BUY else self.engine.best_bid
        if touch:
            reach = int(TAKER_REACH_BPS / self._tick_bps)
            price = touch + reach if side == BUY else max(1, touch - reach)
            self._submit(side, price, self._lots(TAKER_SIZE, 0.0, side), "IOC")

    def _fleet(self, side: int) -> Order:
        return self._place(side, self._reach_of(FLEETING_REACH_BPS), FLEETING_SIZE)

    def _rest(self, side: int, distance_bps: float) -> Order:
        return self._place(side, distance_bps, self._patient_size)

    def _place(self, side: int, distance_bps: float, size: Size) -> Order:
        away = int(distance_bps / self._tick_bps)
        price = self._ask + away if side == ASK else max(1, self._bid - away)
        return self._submit(side, price, self._lots(size, distance_bps, side), "GTC")

    def _submit(self, side: int, price: int, lots: int, tif: str) -> Order:
        self._last_id += 1
        order = Order(self._last_id, None, side, price, lots, tif)
        self.engine.submit(order, self._ns)
        return order

    # Draws.

    def _lots(self, size: Size, distance_bps: float, side: int) -> int:
        exponent = size.sigma * self._random.gauss(0.0, 1.0)
        if size.tilts:
            tilt = self._config.book_tilt * self.hidden.drift_state
            tilt *= math.exp(-distance_bps / NEAR_BPS)
            exponent += tilt if side == BID else -tilt
        return max(1, int(size.median * self._profile.order_lots * math.exp(exponent)))

    def _reach_of(self, range_bps: tuple[float, float]) -> float:
        """Draw a distance from the touch in bp, as many of one order of magnitude as of another."""
        low, high = range_bps
        return float(low * (high / low * self._reach) ** self._random.random())

    def _book_distance(self, side: int) -> float:
        """Draw how far from the touch a patient trader's order lies, as in recorded books."""
        while True:
            share = self._random.random()
            row = bisect_left(LEVEL_SHARE, share)
            low = 0.0 if row == 0 else LEVEL_SHARE[row - 1]
            part = (share - low) / (LEVEL_SHARE[row] - low)
            start = DISTANCE_BPS[row - 1] if row else 0.0
            distance_bps = start + part * (DISTANCE_BPS[row] - start)
            if side == ASK or distance_bps < 9_990.0:
                return distance_bps

    def _fill_book(self) -> None:
        """Rest the orders of all kinds that the market starts with."""
        for side in (BID, ASK):
            distances = [self._book_distance(side) for _ in range(self._profile.levels)]
            self._patient += [self._rest(side, d) for d in sorted(distances, reverse=True)]
            for rank in range(MAKER_QUOTES):
                self._quote(side, rank)
            self._fleeting += [self._fleet(side) for _ in range(FLEETING_ORDERS // 2)]
        self.engine.drain()
