"""A synthetic market: seeded, deterministic, several products, with a signal planted in the book.

Each product has a hidden drift `y`, an Ornstein-Uhlenbeck state of unit variance. It moves the
price, and it shows in the shape of the book: when `y` is up, bids are larger near the touch and
asks are smaller there. With `edge_bps = 0` the book looks the same but the price ignores `y`,
which makes a control: whatever a model then finds is an artefact.

Every product draws from its own generator, so it behaves the same whichever others run beside it.
Plain Python on dicts of ints: a step touches about a dozen levels, too few for numpy to pay.
"""

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Annotated, NamedTuple

import msgspec

from market.events import ASK, BID, BUY, SELL
from market.products import Product
from sim.engine import FIRST_TRADE_ID, Trade
from sim.ladder import Change, Levels
from sim.profiles import start_ticks

EDGE_HORIZON_S = 60.0  # `edge_bps` is what the drift is expected to add over this time.
GRID_BPS = 2.5  # Distance between the levels behind the touch.
DEPTH_BPS = 250.0  # How far the book reaches on each side.
NEAR = 0.0015  # Relative distance over which the planted shape fades.
NEAR_SLOTS = 12  # Levels behind the touch that are refreshed every few seconds.
NEAR_REFRESHED = 2  # How many of them one step refreshes, per side.
LEVEL_USD = 20_000.0  # Typical size of one level.
LEVEL_SIGMA = 0.5  # Its log-normal spread.
MAX_TRADES = 3  # Per product and step.


class MarketConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the synthetic market behaves."""

    seed: Annotated[int, msgspec.Meta(ge=0, description="same seed, same market")] = 1
    step_s: Annotated[float, msgspec.Meta(gt=0, description="event time of one step")] = 1.0
    volatility_bps: Annotated[
        float, msgspec.Meta(ge=0, description="noise of the price in bp per square root of second")
    ] = 1.5
    market_share: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="share of its variance common to all products")
    ] = 0.5
    edge_bps: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            description="planted signal: standard deviation, in bp, of the 60 s return that the "
            "hidden drift lets one expect; 0 leaves the book without information",
        ),
    ] = 6.0
    drift_time_s: Annotated[
        float, msgspec.Meta(gt=0, description="time over which the hidden drift forgets itself")
    ] = 120.0
    book_tilt: Annotated[
        float, msgspec.Meta(ge=0, description="how strongly the drift shapes the book, log units")
    ] = 0.5
    quiet_share: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="share of steps in which a product is silent")
    ] = 0.1


class ProductStep(NamedTuple):
    """What one product did in one step: trades at the touch it started with, then the changes."""

    changes: list[Change]
    trades: list[Trade]


class SyntheticMarket:
    """Several products that advance together, one `step_s` of event time at a time."""

    def __init__(
        self, products: Sequence[Product], config: MarketConfig, start_ns: int = 0
    ) -> None:
        self.products = tuple(products)
        self.config = config
        self.tick_ns = round(config.step_s * 1e9)
        self._now_ns = start_ns
        self._undrained: list[ProductStep] = [ProductStep([], []) for _ in self.products]
        self._common = Random(f"{config.seed}:market")
        self._pairs = [_Pair(product, config) for product in self.products]

    def step(self) -> list[ProductStep]:
        """Advance by one step; one entry per product, in their order, empty where it was quiet."""
        common = self._common.gauss(0.0, 1.0)
        return [pair.step(common) for pair in self._pairs]

    def advance(self, to_ns: int) -> None:
        """Take every step up to and at a time in ns UTC; `drain` returns what they did."""
        while self._now_ns + self.tick_ns <= to_ns:
            self._now_ns += self.tick_ns
            for kept, new in zip(self._undrained, self.step(), strict=True):
                kept.changes.extend(new.changes)
                kept.trades.extend(new.trades)

    def drain(self, index: int) -> ProductStep:
        """Return the changes and trades of the product at `index` since it was last asked."""
        drained, self._undrained[index] = self._undrained[index], ProductStep([], [])
        return drained

    def book(self, index: int) -> tuple[Levels, Levels]:
        """Return copies of the full book, bids and asks, of the product at `index`."""
        pair = self._pairs[index]
        return dict(pair.bids.levels), dict(pair.asks.levels)


class _Side:
    """One side of a book: the touch, and levels on a fixed grid of prices behind it.

    The grid does not move with the mid, so a move deletes and adds only the levels it passes.
    """

    def __init__(self, side: int, touch: int, grid: int, count: int) -> None:
        self.side = side
        self.grid = grid
        self.count = count
        self.touch = touch
        self.slots = self._slots_behind(touch)
        self.levels: Levels = {}

    def prices(self) -> list[int]:
        """Return every price of the side in ticks, the touch first."""
        return [self.touch, *(slot * self.grid for slot in self.slots)]

    def move(self, touch: int) -> tuple[list[int], list[int]]:
        """Move the touch; return the prices that vanish and those that need a size, touch first."""
        slots = self._slots_behind(touch)
        gone_slots, come_slots = _difference(self.slots, slots)
        gone = [price for slot in gone_slots if (price := slot * self.grid) != touch]
        come = [touch, *(slot * self.grid for slot in come_slots)]
        old = self.touch
        if old != touch and (old % self.grid != 0 or old // self.grid not in slots):
            gone.append(old)
        self.touch, self.slots = touch, slots
        return gone, come

    def slot_price(self, rank: int) -> int:
        """Return the price in ticks of the `rank`-th level behind the touch."""
        return self.slots[-1 - rank if self.side == BID else rank] * self.grid

    def _slots_behind(self, touch: int) -> range:
        if self.side == BID:
            stop = (touch - 1) // self.grid + 1
            return range(max(1, stop - self.count), stop)
        start = touch // self.grid + 1
        return range(start, start + self.count)


class _Pair:
    """One product: its hidden drift, its price and its book."""

    def __init__(self, product: Product, config: MarketConfig) -> None:
        self._random = Random(f"{config.seed}:{product.id}")
        start = start_ticks(product)
        lot_usd = start * product.quote_increment * product.base_increment
        self._level_lots = LEVEL_USD / float(lot_usd)
        self._quiet_share = config.quiet_share
        self._tilt = config.book_tilt
        decay = math.exp(-config.step_s / config.drift_time_s)
        self._decay, self._kick = decay, math.sqrt(1.0 - decay * decay)
        expected_s = config.drift_time_s * -math.expm1(-EDGE_HORIZON_S / config.drift_time_s)
        self._drift = config.edge_bps * 1e-4 / expected_s * config.step_s
        noise = config.volatility_bps * 1e-4 * math.sqrt(config.step_s)
        self._common_noise = noise * math.sqrt(config.market_share)
        self._own_noise = noise * math.sqrt(1.0 - config.market_share)

        self._y = self._random.gauss(0.0, 1.0)
        self._log_mid = math.log(start)
        self._next_trade_id = FIRST_TRADE_ID
        grid = max(1, round(start * GRID_BPS * 1e-4))
        count = math.ceil(start * DEPTH_BPS * 1e-4 / grid)
        bid, ask = self._touches()
        self.bids = _Side(BID, bid, grid, count)
        self.asks = _Side(ASK, ask, grid, count)
        for side in (self.bids, self.asks):
            size = self._sizer(side)
            side.levels.update((price, size(price)) for price in side.prices())

    def step(self, common: float) -> ProductStep:
        draw = self._random.gauss
        self._log_mid += (
            self._y * self._drift + self._common_noise * common + self._own_noise * draw(0.0, 1.0)
        )
        self._y = self._decay * self._y + self._kick * draw(0.0, 1.0)
        if self._random.random() < self._quiet_share:
            return ProductStep([], [])
        trades = self._trades()
        bid, ask = self._touches()
        return ProductStep([*self._requote(self.bids, bid), *self._requote(self.asks, ask)], trades)

    def _touches(self) -> tuple[int, int]:
        mid = math.exp(self._log_mid)
        spread = max(1, round(mid * 1e-4 * (0.5 + self._random.random())))
        bid = max(1, round(mid - spread / 2))
        return bid, bid + spread

    def _sizer(self, side: _Side) -> Callable[[int], int]:
        """Return what draws the size in lots of a level of this side from its price in ticks."""
        gauss, base = self._random.gauss, self._level_lots
        mid = math.exp(self._log_mid)
        tilt = self._tilt * self._y * (1.0 if side.side == BID else -1.0)

        def size(price: int) -> int:
            shape = tilt * math.exp(-abs(price / mid - 1.0) / NEAR)
            return max(1, int(base * math.exp(shape + gauss(0.0, LEVEL_SIGMA))))

        return size

    def _requote(self, side: _Side, touch: int) -> list[Change]:
        random, size = self._random.random, self._sizer(side)
        gone, stale = side.move(touch)
        slots = len(side.slots)
        near = min(NEAR_SLOTS, slots)
        stale.extend(side.slot_price(int(near * random())) for _ in range(NEAR_REFRESHED))
        stale.append(side.slot_price(int(slots * random())))
        sizes = {price: size(price) for price in stale}
        for price in gone:
            del side.levels[price]
        side.levels.update(sizes)
        changes = [(side.side, price, 0) for price in gone]
        changes.extend((side.side, price, lots) for price, lots in sizes.items())
        return changes

    def _trades(self) -> list[Trade]:
        """Trade at the touch; takers lean mildly the way the drift does."""
        random = self._random.random
        trades: list[Trade] = []
        while len(trades) < MAX_TRADES and random() < 0.45:
            buys = random() < 0.5 + 0.15 * math.tanh(self._y)
            side = self.asks if buys else self.bids
            most = side.levels[side.touch]
            lots = max(1, int(most * random() / MAX_TRADES))
            trades.append(Trade(self._next_trade_id, side.touch, lots, BUY if buys else SELL))
            self._next_trade_id += 1
        return trades


def _difference(old: range, new: range) -> tuple[range, range]:
    """Return what is only in `old` and what is only in `new`, for ranges of the same length."""
    if new.start >= old.start:
        return (
            range(old.start, min(new.start, old.stop)),
            range(max(old.stop, new.start), new.stop),
        )
    return (
        range(max(new.stop, old.start), old.stop),
        range(new.start, min(old.start, new.stop)),
    )
