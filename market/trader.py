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
from market.events import BUY
from market.ledger import Ledger, Order
from market.policy import Limits, Situation, breached, decide, order_for, unit_lots
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
        float, msgspec.Meta(description="by how much a prediction must beat NO_OP, bps")
    ] = 0.0
    limits: Limits = msgspec.field(default_factory=Limits)


class Decision(msgspec.Struct, frozen=True):
    """What the trader wants after a beat: `cancel` first, then, once confirmed, `place`."""

    action: Action
    place: Order | None = None
    cancel: Order | None = None


class Trader:
    """Decisions, reserves and limits of one account over several products.

    The account starts with one unit of each product and `reserve_usd` per product; a unit is fixed
    in lots at a product's first valid window.
    """

    def __init__(self, products: dict[str, Product], fees: Fees, config: TraderConfig) -> None:
        self.config = config
        self.ledger = Ledger(products, Decimal(config.reserve_usd) * len(products), {}, fees)
        self.unit: dict[str, int] = {}
        self.mid2: dict[str, int] = {}
        self.orders_sent = 0
        self._net_units = dict.fromkeys(products, 0)
        self._sent_ns: deque[int] = deque()
        self._day = -1
        self._day_equity = Decimal(0)

    def observe(self, product_id: str, window: NDArray[np.void]) -> None:
        """Value a product at a window (WINDOW[1]); its first valid one fixes unit and reserve."""
        row = window[0]
        if not row["valid"]:
            return
        self.mid2[product_id] = int(row["bid"] + row["ask"])
        if product_id not in self.unit:
            listed = self.ledger.products[product_id]
            notional = Decimal(self.config.unit_usd)
            self.unit[product_id] = unit_lots(listed, notional, self.mid2[product_id])
            self.ledger.lots[product_id] += self.unit[product_id]
            self._day = -1  # The reserve just granted is no gain of the day.
        day = int(row["beat"]) // _DAY_BEATS
        if day != self._day:
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
        row = window[0]
        if values is None or not row["valid"] or not self.unit.get(product_id):
            return Decision(Action.NO_OP, cancel=resting)
        beat, bid, ask = int(row["beat"]), int(row["bid"]), int(row["ask"])
        orders = {
            action: order_for(
                action, product_id, bid, ask, self.unit[product_id], f"{product_id}:{beat}"
            )
            for action in Action
        }
        allowed = np.array([self._available(orders[a], resting) for a in Action])
        action = decide(values, allowed, self.config.min_edge_bps)
        wanted = orders[action]
        if wanted and resting and wanted.post_only and _same_place(wanted, resting):
            return Decision(action)
        return Decision(action, place=wanted, cancel=resting)

    def admit(self, order: Order, now_ns: int, data_age_s: float) -> str | None:
        """Lock the order's funds and return None, or return the limit or reserve that forbids it."""
        while self._sent_ns and self._sent_ns[0] <= now_ns - _MINUTE_NS:
            self._sent_ns.popleft()
        situation = Situation(
            position_units=self._net_units[order.product_id],
            orders_last_minute=len(self._sent_ns),
            loss_today_usd=self._day_equity - self.equity,
            data_age_s=data_age_s,
        )
        reason = breached(order, self.ledger, self.config.limits, situation)
        if reason is None and not self.ledger.affords(order):
            reason = "free_reserves"
        if reason is None:
            self.ledger.place(order)
            self._sent_ns.append(now_ns)
            self.orders_sent += 1
        return reason

    def filled(self, order_id: str, price_ticks: int, lots: int) -> None:
        """Book a fill."""
        order = self.ledger.open[order_id]
        self.ledger.fill(order_id, price_ticks, lots)
        if order_id not in self.ledger.open:
            self._net_units[order.product_id] += 1 if order.side == BUY else -1

    def cancelled(self, order_id: str) -> None:
        """Book a confirmed cancel."""
        self.ledger.cancel(order_id)

    def resting(self, product_id: str) -> Order | None:
        """Return the product's open order, if any; there is at most one."""
        return next((o for o in self.ledger.open.values() if o.product_id == product_id), None)

    @property
    def equity(self) -> Decimal:
        """USD plus all coins at the last medians seen."""
        return self.ledger.equity(self.mid2)

    @property
    def positions(self) -> dict[str, int]:
        """Net units bought since the start, per product."""
        return dict(self._net_units)

    def _available(self, order: Order | None, resting: Order | None) -> bool:
        """Whether the position and the reserves, the own resting order's included, allow it."""
        if order is None:
            return True
        after = self._net_units[order.product_id] + (1 if order.side == BUY else -1)
        if abs(after) > self.config.limits.max_position_units:
            return False
        if resting and resting.side == order.side:
            if order.side == BUY:
                freed = self.ledger.free_usd + self.ledger.cost(resting)
                return self.ledger.cost(order) <= freed
            return order.lots <= self.ledger.free_lots(order.product_id) + resting.lots
        return self.ledger.affords(order)


def _same_place(a: Order, b: Order) -> bool:
    return a.side == b.side and a.price_ticks == b.price_ticks
