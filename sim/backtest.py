"""Backtest: the trader of live execution driven over recorded windows.

Every result is measured against doing nothing with the same reserves, so that what the market did
to the coins we hold anyway is never taken for skill. `sim.baselines` has what stands beside it.

`step` is what happens to one product in one beat; live execution follows the same sequence with a
broker that may be behind a network.
"""

from collections import Counter
from decimal import Decimal
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.actions import Action, Fees
from market.errors import QuaverError
from market.events import BUY
from market.ledger import Order
from market.paper import Fill, PaperBroker
from market.products import Product
from market.trader import Trader, TraderConfig
from market.windows import BEAT_NS, after_break

Floats = NDArray[np.float64]
Windows = dict[str, NDArray[np.void]]  # Per product WINDOW[n], ascending beats.
Values = dict[str, tuple[NDArray[np.int64], Floats]]  # Per product beats [n], values [n, 5].


class Booked(NamedTuple):
    """A fill as the ledger booked it."""

    order: Order
    notional_usd: Decimal
    fee_usd: Decimal


class Step(NamedTuple):
    """What one product did in one beat; `action` is the policy's, before the limits."""

    action: Action
    sent: Order | None
    blocked: str | None
    cancelled: Order | None
    fills: list[Booked]


def step(
    trader: Trader,
    broker: PaperBroker,
    product_id: str,
    window: NDArray[np.void],
    values: Floats | None,
) -> Step:
    """Take one product through the end of a beat: book fills, value, decide, cancel, admit, submit.

    `window` is WINDOW[1]; `values` are the five predicted values, or None. A new order goes
    out the moment the beat ends, but only once the cancel of the resting one is confirmed.
    """
    fills = [_book(trader, fill) for fill in broker.on_window(product_id, window)]
    trader.observe(product_id, window)
    decision = trader.decide(product_id, window, values)
    action, place, cancel = decision.action, decision.place, decision.cancel
    blocked = trader.limit(decision.keep, data_age_s=0.0) if decision.keep else None
    if blocked is not None:
        cancel = decision.keep
    if cancel is not None:
        if not broker.cancel(cancel.id):
            return Step(action, None, blocked or "cancel_not_confirmed", None, fills)
        trader.cancelled(cancel.id)
    if place is None:
        return Step(action, None, blocked, cancel, fills)
    blocked = trader.admit(place, (int(window["beat"][0]) + 1) * BEAT_NS, data_age_s=0.0)
    if blocked is not None:
        return Step(action, None, blocked, cancel, fills)
    fill = broker.submit(place)
    if fill is not None:
        fills.append(_book(trader, fill))
    return Step(action, place, None, cancel, fills)


def _book(trader: Trader, fill: Fill) -> Booked:
    order, before = trader.ledger.open[fill.order_id], trader.ledger.usd
    trader.filled(fill.order_id, fill.price_ticks, fill.lots)
    listed = trader.ledger.products[order.product_id]
    notional = listed.price(fill.price_ticks) * listed.size(fill.lots)
    gained = trader.ledger.usd - before
    return Booked(order, notional, (-notional if order.side == BUY else notional) - gained)


class ProductResult(msgspec.Struct, frozen=True, kw_only=True):
    """One product's part of a backtest."""

    decisions: int
    orders: int
    fills: int
    traded_usd: float
    excess_usd: float
    position_units: float


class BacktestResult(msgspec.Struct, frozen=True, kw_only=True):
    """A run over beats [n]: curves in USD when each beat ends, counts and sums.

    `excess` is over holding the reserves. `profit` is the change of equity without the reserves
    granted at a product's first beat; it contains what the market did to those reserves.
    """

    fees: Fees
    beats: NDArray[np.int64]
    equity_usd: Floats
    hold_usd: Floats  # The same account, had it done nothing.
    deposited_usd: Floats  # Reserves granted so far, valued when they were granted.
    final_equity_usd: float
    profit_usd: float
    excess_usd: float
    excess_bps: float | None  # Of the traded notional; None if nothing was traded.
    fees_usd: float
    taker_fees_usd: float
    traded_usd: float
    taker_usd: float
    max_drawdown_usd: float  # Largest fall of `profit` from an earlier high.
    excess_drawdown_usd: float
    decisions: int  # Product-beats with a prediction and a valid window.
    actions: dict[str, int]  # What the policy chose in these, before the limits.
    orders: int
    cancels: int
    taker_fills: int
    maker_fills: int
    blocked: dict[str, int]  # Orders new or kept that a limit turned into NO_OP, by limit.
    products: dict[str, ProductResult]


def backtest(
    windows: Windows,
    values: Values,
    products: dict[str, Product],
    fees: Fees,
    config: TraderConfig,
) -> BacktestResult:
    """Trade predicted values over windows, all products of one account together, in time order.

    Runs from the first beat in `values` to the one after the last; a row of NaN is no prediction.
    A beat without a window is an invalid one. QuaverError if there is nothing to run on.
    """
    span = _span(windows, values, products)
    run = _Run(products, fees, config)
    rows = {name: _rows(windows[name], span) for name in windows}
    predicted = {
        name: dict(zip(at.tolist(), five, strict=True)) for name, (at, five) in values.items()
    }
    for beat in sorted(set().union(*rows.values())):
        for name, by_beat in rows.items():
            if beat in by_beat:
                run.step(name, by_beat[beat], predicted.get(name, {}).get(beat))
        run.close(beat)
    return run.result()


def _span(windows: Windows, values: Values, products: dict[str, Product]) -> tuple[int, int]:
    unknown = (windows.keys() - products.keys()) | (values.keys() - windows.keys())
    if unknown:
        raise QuaverError(f"backtest: no product or no windows for {', '.join(sorted(unknown))}")
    for name, (at, five) in values.items():
        if five.shape != (len(at), len(Action)) or (np.diff(at) <= 0).any():
            raise ValueError(f"values of {name} are not [n, 5] at n ascending beats: {five.shape}")
    filled = [at for at, _ in values.values() if len(at)]
    if not filled:
        raise QuaverError("backtest: no predictions; it needs 69 valid beats in a row to make one")
    return min(int(at.min()) for at in filled), max(int(at.max()) for at in filled) + 1


def _rows(windows: NDArray[np.void], span: tuple[int, int]) -> dict[int, NDArray[np.void]]:
    """Windows of the span by beat; after each break an invalid one, so no order outlives a beat."""
    inside = windows[(windows["beat"] >= span[0]) & (windows["beat"] <= span[1])]
    by_beat = {int(inside["beat"][i]): inside[i : i + 1] for i in range(len(inside))}
    for beat in [b + 1 for b in by_beat if b + 1 not in by_beat and b < span[1]]:
        by_beat[beat] = after_break(beat)
    return by_beat


class _Run:
    """A backtest in progress: the account, and tallies of what it did."""

    def __init__(self, products: dict[str, Product], fees: Fees, config: TraderConfig) -> None:
        self.trader = Trader(products, fees, config)
        self.broker = PaperBroker()
        self.curve: list[tuple[int, Decimal, Decimal, Decimal]] = []
        self.actions: Counter[str] = Counter({action.name: 0 for action in Action})
        self.blocked: Counter[str] = Counter()
        self.cancels = 0
        self.orders: Counter[str] = Counter()
        self.decisions: Counter[str] = Counter()
        self.fills: list[Booked] = []

    def step(self, name: str, window: NDArray[np.void], values: Floats | None) -> None:
        if values is not None and np.isnan(values).all():
            values = None
        done = step(self.trader, self.broker, name, window, values)
        if values is not None and window["valid"][0]:
            self.decisions[name] += 1
            self.actions[done.action.name] += 1
        self.cancels += done.cancelled is not None
        self.orders[name] += done.sent is not None
        if done.blocked:
            self.blocked[done.blocked] += 1
        self.fills += done.fills

    def close(self, beat: int) -> None:
        trader = self.trader
        self.curve.append((beat, trader.equity, trader.held_usd, trader.deposited_usd))

    def result(self) -> BacktestResult:
        columns = list(zip(*self.curve, strict=True))
        equity, hold, deposited = (np.array(column, np.float64) for column in columns[1:])
        taker = [fill for fill in self.fills if not fill.order.post_only]
        traded = float(sum(fill.notional_usd for fill in self.fills))
        profit, excess = equity - deposited, equity - hold
        return BacktestResult(
            fees=self.trader.ledger.fees,
            beats=np.array(columns[0], np.int64),
            equity_usd=equity,
            hold_usd=hold,
            deposited_usd=deposited,
            final_equity_usd=float(equity[-1]),
            profit_usd=float(profit[-1]),
            excess_usd=float(excess[-1]),
            excess_bps=float(excess[-1]) / traded * 1e4 if traded else None,
            fees_usd=float(sum(fill.fee_usd for fill in self.fills)),
            taker_fees_usd=float(sum(fill.fee_usd for fill in taker)),
            traded_usd=traded,
            taker_usd=float(sum(fill.notional_usd for fill in taker)),
            max_drawdown_usd=_drawdown(profit),
            excess_drawdown_usd=_drawdown(excess),
            decisions=self.decisions.total(),
            actions=dict(self.actions),
            orders=self.orders.total(),
            cancels=self.cancels,
            taker_fills=len(taker),
            maker_fills=len(self.fills) - len(taker),
            blocked=dict(self.blocked),
            products={name: self._product(name) for name in self.trader.unit},
        )

    def _product(self, name: str) -> ProductResult:
        fills = [fill for fill in self.fills if fill.order.product_id == name]
        bought = self.trader.ledger.lots[name] - self.trader.unit[name]
        excess = self._coins_usd(name, bought)
        for order, notional, fee in fills:
            excess += (-notional if order.side == BUY else notional) - fee
        return ProductResult(
            decisions=self.decisions[name],
            orders=self.orders[name],
            fills=len(fills),
            traded_usd=float(sum(fill.notional_usd for fill in fills)),
            excess_usd=float(excess),
            position_units=self.trader.positions.get(name, 0.0),  # A unit of no lots has none.
        )

    def _coins_usd(self, name: str, lots: int) -> Decimal:
        listed = self.trader.ledger.products[name]
        return listed.price(self.trader.mid2[name]) * listed.size(lots) / 2


def _drawdown(curve: Floats) -> float:
    return float((np.maximum.accumulate(np.maximum(curve, 0.0)) - curve).max())
