"""The trader: one account's decisions, beat by beat and product by product. Pure.

Backtest and live execution drive the same object: they show it windows and predicted values, send
what it admits to a broker, and tell it of fills and confirmed cancels. It owns the ledger.
"""

from collections import deque
from decimal import Decimal
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.actions import Action, Fees
from market.checks import check_settings, number, whole
from market.events import BUY
from market.ledger import EXACT, Ledger, Order, exact
from market.policy import Limits, Situation, breached, decide, order_for, quote, unit_lots
from market.products import Product
from market.windows import BEAT_NS

_MINUTE_NS = 60_000_000_000
_DAY_BEATS = 86_400 * 1_000_000_000 // BEAT_NS


class TraderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is traded, and when a prediction is worth acting on."""

    unit_usd: Annotated[float, msgspec.Meta(gt=0, description="worth of one unit, USD")] = 1_000.0
    reserve_usd: Annotated[
        float, msgspec.Meta(ge=0, description="USD that the account starts with, per product")
    ] = 1_200.0
    min_edge_bps: Annotated[
        float, msgspec.Meta(ge=0, description="by how much a prediction must beat NO_OP, bps")
    ] = 0.0
    limits: Limits = msgspec.field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_settings("trader", self)


class Decision(msgspec.Struct, frozen=True):
    """What the trader wants after a beat: `cancel` first, then, once confirmed, `place`.

    `keep` is the resting order that the action goes on with, if no limit forbids that.
    """

    action: Action
    keep: Order | None = None
    place: Order | None = None
    cancel: Order | None = None


class Trader:
    """Decisions, reserves and limits of one account over several products.

    The account starts with one unit of each product and `reserve_usd` per product; a unit is fixed
    in lots at a product's first valid window.
    """

    def __init__(self, products: dict[str, Product], fees: Fees, config: TraderConfig) -> None:
        if not isinstance(config, TraderConfig):
            raise ValueError(f"config must be a TraderConfig, got {config!r}")
        self.config = config
        self._start_usd = exact(config.reserve_usd) * len(products)
        self.ledger = Ledger(products, self._start_usd, {}, fees)
        self.deposited_usd = self._start_usd  # The reserves granted, valued when they were.
        self.unit: dict[str, int] = {}
        self.mid2: dict[str, int] = {}
        self.orders_sent = 0
        self._sent_ns: deque[int] = deque()
        self._newest: dict[str, int] = {}  # Per product the last beat observed.
        self._day = -1
        self._day_equity = Decimal(0)

    def observe(self, product_id: str, window: NDArray[np.void]) -> None:
        """Value a product at a window (WINDOW[1]); its first valid one fixes unit and reserve.

        ValueError for one before the last of its product.
        """
        listed = self.ledger.listed(product_id)
        quoted = quote(window)
        if quoted is None:
            return
        beat, bid, ask = quoted
        if beat < self._newest.get(product_id, 0):
            raise ValueError(f"window: beat {beat} is before {self._newest[product_id]}")
        mid2 = bid + ask
        if product_id not in self.unit:
            lots = unit_lots(listed, exact(self.config.unit_usd), mid2)
            self.unit[product_id] = lots
            self.ledger.lots[product_id] += lots
            # The reserve just granted is no gain of the day.
            granted_usd = self.ledger.worth(product_id, lots, mid2)
            self._day_equity = EXACT.add(self._day_equity, granted_usd)
            self.deposited_usd = EXACT.add(self.deposited_usd, granted_usd)
        self.mid2[product_id], self._newest[product_id] = mid2, beat
        day = beat // _DAY_BEATS
        if day > self._day:  # Another product's last beat of yesterday may come after.
            self._day, self._day_equity = day, self.equity

    def decide(
        self, product_id: str, window: NDArray[np.void], values: NDArray[np.float64] | None
    ) -> Decision:
        """Return what to do after a beat, given the five predicted values (None: no prediction).

        The product's own resting order is kept if the action wants its side and price; if not it
        is to be cancelled, and what it locks counts as available because the new order is admitted
        only after the cancel is confirmed.
        """
        resting = self.resting(product_id)
        quoted = quote(window)
        if values is None or quoted is None or not self.unit.get(product_id):
            return Decision(Action.NO_OP, cancel=resting)
        beat, bid, ask = quoted
        lots, order_id = self.unit[product_id], f"{product_id}:{beat}"
        orders = [order_for(action, product_id, bid, ask, lots, order_id) for action in Action]
        allowed = np.array([self._available(order, resting) for order in orders])
        action = decide(values, allowed, self.config.min_edge_bps)
        wanted = orders[action]
        if wanted and resting and wanted.post_only and _same_place(wanted, resting):
            return Decision(action, keep=resting)
        return Decision(action, place=wanted, cancel=resting)

    def admit(self, order: Order, now_ns: int, data_age_s: float) -> str | None:
        """Lock the order's funds and return None, or return the limit or reserve in the way.

        ReserveError for an order that is open or that the ledger would never take.
        """
        self._check(order, data_age_s)
        whole("now_ns", now_ns)
        while self._sent_ns and self._sent_ns[0] <= now_ns - _MINUTE_NS:
            self._sent_ns.popleft()
        reason = self._breached(order, len(self._sent_ns), data_age_s)
        if reason is None and not self.ledger.affords(order):
            reason = "free_reserves"
        if reason is None:
            self.ledger.place(order)
            self._sent_ns.append(now_ns)
            self.orders_sent += 1
        return reason

    def limit(self, order: Order, data_age_s: float) -> str | None:
        """Return the limit that a resting order may not be kept under, None if it may.

        Keeping sends nothing, so the order rate does not count.
        """
        self._check(order, data_age_s)
        return self._breached(order, 0, data_age_s)

    def _check(self, order: Order, data_age_s: float) -> None:
        self.ledger.check(order)
        number("data_age_s", data_age_s)
        if order.product_id not in self.unit:
            raise ValueError(f"order {order.id}: no window of its product was observed yet")

    def _breached(self, order: Order, orders_last_minute: int, data_age_s: float) -> str | None:
        situation = Situation(
            position_lots=self._bought_lots(order.product_id),
            unit_lots=self.unit[order.product_id],
            orders_last_minute=orders_last_minute,
            loss_today_usd=self._day_equity - self.equity,
            data_age_s=data_age_s,
        )
        return breached(order, self.ledger, self.config.limits, situation)

    def filled(self, order_id: str, price_ticks: int, lots: int) -> None:
        """Book a fill, whole or in part."""
        self.ledger.fill(order_id, price_ticks, lots)

    def cancelled(self, order_id: str) -> None:
        """Book a confirmed cancel."""
        self.ledger.cancel(order_id)

    def resting(self, product_id: str) -> Order | None:
        """Return the product's open order, if any; there is at most one."""
        self.ledger.listed(product_id)
        return next((o for o in self.ledger.open.values() if o.product_id == product_id), None)

    @property
    def equity(self) -> Decimal:
        """USD plus all coins at the last medians seen."""
        return self.ledger.equity(self.mid2)

    @property
    def held_usd(self) -> Decimal:
        """What the account would be worth had it never traded."""
        return self.ledger.value(self._start_usd, self.unit, self.mid2)

    @property
    def positions(self) -> dict[str, float]:
        """Net units bought since the start, per product; a partial fill is a part of a unit."""
        return {p: self._bought_lots(p) / unit for p, unit in self.unit.items() if unit}

    def _bought_lots(self, product_id: str) -> int:
        return self.ledger.lots[product_id] - self.unit.get(product_id, 0)

    def _available(self, order: Order | None, resting: Order | None) -> bool:
        """Whether the position and the reserves, the own resting order's included, allow it."""
        if order is None:
            return True
        bought = order.lots if order.side == BUY else -order.lots
        after_lots = self._bought_lots(order.product_id) + bought
        limit_lots = self.config.limits.max_position_units * self.unit[order.product_id]
        if abs(after_lots) > limit_lots:
            return False
        if resting and resting.side == order.side:
            if order.side == BUY:
                freed = EXACT.add(self.ledger.free_usd, self.ledger.cost(resting))
                return self.ledger.cost(order) <= freed
            return order.lots <= self.ledger.free_lots(order.product_id) + resting.lots
        return self.ledger.affords(order)


def _same_place(a: Order, b: Order) -> bool:
    return a.side == b.side and a.price_ticks == b.price_ticks
