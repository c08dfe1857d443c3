"""The market as the venue tells it: steps of event time in, frames for all connections out.

Book changes are conflated per product over a step, trades are batched over 250 ms, heartbeats come
on the second. Frames are encoded once, and only those that somebody wants.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from market.errors import QuaverError
from market.products import Product
from sim.engine import Trade
from sim.ladder import Change, Levels
from sim.wire import SECOND_NS, Frame, Listing, heartbeat_events, shared_frame, status_events

CONFLATED_NS = 50_000_000
TRADES_NS = 250_000_000
STATUS_EVERY_S = 5
WARM_UP_STEPS = 60  # Steps before the start, so that there is a history of trades.

Wanted = Callable[[str, str | None], bool]  # channel, product_id


class Market(Protocol):
    """What the exchange drives; one that also has `engines` takes orders."""

    @property
    def products(self) -> Sequence[Product]: ...

    @property
    def tick_ns(self) -> int: ...

    def advance(self, to_ns: int) -> None: ...

    def drain(self, index: int) -> tuple[Sequence[Change], Sequence[Trade]]: ...

    def book(self, index: int) -> tuple[Levels, Levels]: ...


def step_of(tick_ns: int) -> int:
    """Return the event time of one step: whole ticks, about what the venue conflates over."""
    if tick_ns <= 0:
        raise QuaverError("market.step_s must be at least one nanosecond")
    return tick_ns * max(1, CONFLATED_NS // tick_ns)


class World:
    """One market, its listings and what of it has been told."""

    def __init__(self, market: Market, start_ns: int) -> None:
        self.market = market
        self.start_ns = start_ns
        self.step_ns = step_of(market.tick_ns)
        self.listings = {one.id: Listing(one) for one in market.products}
        self._status = status_events(market.products)
        self._index = {one.id: i for i, one in enumerate(market.products)}
        self._untold: list[list[tuple[Trade, int]]] = [[] for _ in market.products]
        for back in range(WARM_UP_STEPS, 0, -1):
            self.step(start_ns - back * self.step_ns, lambda channel, product_id: False)
        for listing, trades in zip(self.listings.values(), self._untold, strict=True):
            listing.history.extend(trades)
            trades.clear()

    def book(self, product_id: str) -> tuple[Levels, Levels]:
        """Return copies of the full book now, bids and asks, in ticks and lots."""
        return self.market.book(self._index[product_id])

    def step(self, at_ns: int, wanted: Wanted) -> list[Frame]:
        """Advance the market to `at_ns`; return the frames of this step in order of event time.

        They lie in [at_ns, at_ns + step). Trades come later than the book changes that they caused,
        as at the venue.
        """
        frames = self.heartbeats(at_ns, at_ns + self.step_ns)
        self.market.advance(at_ns)
        count = len(self.listings)
        gap_ns = self.step_ns // (2 * count + 2)
        batch_ends = at_ns // TRADES_NS != (at_ns - self.step_ns) // TRADES_NS
        for place, (product_id, listing) in enumerate(self.listings.items()):
            changes, trades = self.market.drain(place)
            untold = self._untold[place]
            untold.extend((trade, at_ns) for trade in trades)
            if changes and wanted("level2", product_id):
                ns = at_ns + (place + 1) * gap_ns
                events = listing.updates(changes, at_ns)
                frames.append(shared_frame("level2", ns, events, product_id))
            if untold and batch_ends:
                if wanted("market_trades", product_id):
                    ns = at_ns + (count + place + 1) * gap_ns
                    events = listing.trades("update", untold)
                    frames.append(shared_frame("market_trades", ns, events, product_id))
                listing.history.extend(untold)
                untold.clear()
        return sorted(frames, key=lambda one: one.ns)

    def heartbeats(self, from_ns: int, to_ns: int) -> list[Frame]:
        """Return a heartbeat for each whole second since the start in [from, to), and `status`."""
        first = -((self.start_ns - from_ns) // SECOND_NS)
        last = -((self.start_ns - to_ns) // SECOND_NS)
        frames = []
        for counter in range(first, last):
            ns = self.start_ns + counter * SECOND_NS
            frames.append(shared_frame("heartbeats", ns, heartbeat_events(ns, counter)))
            if counter % STATUS_EVERY_S == 0:
                frames.append(shared_frame("status", ns, self._status))
        return frames

    def opening(self, channel: str, product_id: str, ns: int) -> Frame | None:
        """Return what a fresh subscription starts with, at `ns`; None if with nothing."""
        if channel == "status":
            return shared_frame(channel, ns, self._status, kind="snapshot")
        if channel == "level2":
            events = self.listings[product_id].snapshot(*self.book(product_id))
        elif channel == "market_trades":
            listing = self.listings[product_id]
            events = listing.trades("snapshot", listing.history)
        else:
            return None
        return shared_frame(channel, ns, events, product_id, "snapshot")
