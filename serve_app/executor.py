"""Live execution: from the windows a collector closed to orders, and what is known of all that.

There is no Ray here: the predictor, the broker and the clocks are handed in, so it runs in a test
as it runs live. It follows `sim.backtest.step` with a broker that may be behind a network.
"""

import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.external import ExternalReader
from market.actions import Action
from market.events import BUY
from market.ledger import Order
from market.paper import Fill
from market.products import product
from market.trader import Trader
from market.windows import BEAT_NS, after_break
from serve_app.brokers import Broker
from serve_app.execution_config import ExecutionConfig, traded
from serve_app.inputs import Inputs, LiveInputs
from tune.checkpoint import ModelMeta

Item = list[tuple[str, NDArray[np.void]]]  # What a stream yields: (product, WINDOW[m >= 0]).
# (medians, bids, asks, signals, product) -> [n, 5]
Predict = Callable[..., Awaitable[NDArray[np.float64]]]
Values = NDArray[np.float64]

_CURVE_BEATS = 900  # An hour of equity.
_LATENCIES = 4096
_COUNTS = (
    "beats",
    "windows",
    "ignored_windows",
    "repeated_windows",
    "breaks",
    "predictions",
    "late_references",
    "orders",
    "fills",
    "taker_fills",
    "maker_fills",
    "cancels",
    "cancels_unconfirmed",
    "errors",
)


class _Row(NamedTuple):
    product_id: str
    window: NDArray[np.void]  # WINDOW[1]

    @property
    def valid(self) -> bool:
        return bool(self.window["valid"][0])


class _Held(NamedTuple):
    """What is to be decided at the end of a beat."""

    beat: int
    rows: list[_Row]
    received_ns: int


class Executor:
    """The trading of one account, beat by beat; every number it keeps is read by `/health`."""

    def __init__(
        self,
        meta: ModelMeta,
        config: ExecutionConfig,
        predict: Predict,
        broker: Broker,
        external: ExternalReader | None = None,
        *,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Trade with the model that `meta` describes; QuaverError as from `traded`."""
        self._index = traded(meta, config)
        listed = {name: product(name) for name in self._index}
        self.trader = Trader(listed, config.fees, config.trader)
        self._inputs = LiveInputs(meta.recipe, listed, external)
        self._predict, self._broker = predict, broker
        self._predict_timeout_s = config.predict_timeout_s
        self._patience_ns = round(config.reference_patience_s * 1e9)
        self._held: deque[_Held] = deque()
        self._monotonic_ns, self._wall_ns = monotonic_ns, wall_ns
        self.started = datetime.fromtimestamp(wall_ns() / 1e9, UTC).isoformat(timespec="seconds")
        self.counts: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self.blocked: Counter[str] = Counter()
        self.last_error: str | None = None
        self.last_beat: int | None = None
        self.equity_curve: deque[tuple[int, Decimal]] = deque(maxlen=_CURVE_BEATS)
        self._latencies_ns: deque[int] = deque(maxlen=_LATENCIES)
        self._newest: dict[str, int] = {}

    async def on_item(self, item: Item) -> None:
        """Handle the windows that a collector closed together, in order of beat.

        Every beat is decided on, a late one too, as a backtest would: that its data is too old to
        trade on is for the data-age limit to say. Where beats of a product were lost, the first of
        them is an invalid one, as in a backtest, so that no order outlives them.
        """
        received_ns = self._monotonic_ns()
        beats: dict[int, list[_Row]] = {}
        for product_id, windows in item:
            if product_id not in self._inputs.needed:
                self.counts["ignored_windows"] += len(windows)
                continue
            newest = self._newest.get(product_id, -1)
            new = windows[windows["beat"] > newest]
            self.counts["repeated_windows"] += len(windows) - len(new)  # A collector started again.
            if not len(new):
                continue
            self._newest[product_id] = int(new["beat"][-1])
            try:
                self._inputs.push({product_id: new})
            except ValueError as error:  # Who looks at it does without.
                self.failed(f"windows of {product_id}", error)
            if product_id in self._index:
                self._add(product_id, new, newest, beats)
        for beat in sorted(beats):
            rows = sorted(beats[beat], key=lambda row: self._index[row.product_id])
            self._held.append(_Held(beat, rows, received_ns))
        await self.release()

    async def release(self, patient: bool = True) -> None:
        """Decide on the beats held, up to the first one that waits for other products."""
        while self._held and not (patient and self._waits(self._held[0])):
            held = self._held.popleft()
            await self._on_beat(*held)

    @property
    def patience_left_s(self) -> float | None:
        """How long the first beat held goes on waiting, to be released then; None: none is held."""
        if not self._held:
            return None
        spent_ns = self._monotonic_ns() - self._held[0].received_ns
        return max(0, self._patience_ns - spent_ns) / 1e9

    def _add(
        self, product_id: str, new: NDArray[np.void], newest: int, beats: dict[int, list[_Row]]
    ) -> None:
        """Add new windows of a product that is traded to what is to be decided, beat by beat."""
        due = newest + 1 if newest >= 0 else int(new["beat"][0])
        for i, beat in enumerate(new["beat"].tolist()):
            if beat > due:
                self.counts["breaks"] += 1
                beats.setdefault(due, []).append(_Row(product_id, after_break(due)))
            self.counts["windows"] += 1
            beats.setdefault(beat, []).append(_Row(product_id, new[i : i + 1]))
            due = beat + 1

    def _waits(self, held: _Held) -> bool:
        awaited = any(
            self._inputs.waits(row.product_id, held.beat) for row in held.rows if row.valid
        )
        return awaited and self.patience_left_s != 0

    async def withdraw(self) -> None:
        """Decide on what is held, then cancel all orders: without windows nobody watches them."""
        try:
            await self.release(patient=False)
        finally:
            for order in list(self.trader.ledger.open.values()):
                await self._cancel(order)

    def failed(self, where: str, error: BaseException) -> None:
        """Count an error and keep its text."""
        self.counts["errors"] += 1
        self.last_error = f"{where}: {type(error).__name__}: {error}"

    async def _on_beat(self, beat: int, rows: list[_Row], received_ns: int) -> None:
        found, asked = [], []
        try:
            await self._inputs.refresh(beat, self._predict_timeout_s)
        except Exception as error:  # What was read before stays in use, as long as it may.
            self.failed("external series", error)
        for row in rows:
            try:
                inputs = self._inputs.of(row.product_id, row.window)
            except ValueError as error:  # No prediction for this product.
                self.failed(f"beat {beat}, {row.product_id}", error)
                continue
            if inputs:
                self.counts["late_references"] += self._inputs.lacks(row.product_id, beat)
                found.append(inputs)
                asked.append(row.product_id)
        values = await self._values(found, asked) if asked else {}
        age_s = max(0, self._wall_ns() - (beat + 1) * BEAT_NS) / 1e9
        for row in rows:
            try:
                await self._step(row, values.get(row.product_id), age_s, received_ns)
            except Exception as error:  # It costs this product this beat, nothing else.
                self.failed(f"beat {beat}, {row.product_id}", error)
        if self.last_beat is None or beat > self.last_beat:
            self.counts["beats"] += 1
            self.last_beat = beat
        elif self.equity_curve[-1][0] == beat:
            self.equity_curve.pop()  # Other products of this beat came before.
        if beat == self.last_beat:
            self.equity_curve.append((beat, self.trader.equity))

    async def _values(self, found: list[Inputs], asked: list[str]) -> dict[str, Values]:
        """Ask for all products at once; without an answer nothing is traded and orders go."""
        columns = [np.concatenate(column) for column in zip(*found, strict=True)]
        index = np.array([self._index[name] for name in asked], np.int64)
        try:
            values = await self._predict(*columns, index)
        except Exception as error:
            self.failed("prediction", error)
            return {}
        self.counts["predictions"] += len(asked)
        return dict(zip(asked, values, strict=True))

    async def _step(self, row: _Row, values: Values | None, age_s: float, received_ns: int) -> None:
        """Take one product through the end of a beat, in the backtest's order."""
        for fill in await self._broker.on_window(row.product_id, row.window):
            self._filled(fill)
        self.trader.observe(row.product_id, row.window)
        decision = self.trader.decide(row.product_id, row.window, values)
        if values is not None:
            self.actions[decision.action.name] += 1
            self._latencies_ns.append(self._monotonic_ns() - received_ns)
        cancel = decision.cancel
        if decision.keep and (reason := self.trader.limit(decision.keep, age_s)):
            self.blocked[reason] += 1
            cancel = decision.keep
        if cancel and not await self._cancel(cancel):
            return
        if decision.place is None:
            return
        reason = self.trader.admit(decision.place, self._monotonic_ns(), age_s)
        if reason:
            self.blocked[reason] += 1
            return
        self.counts["orders"] += 1
        fill = await self._broker.submit(decision.place)
        if fill:
            self._filled(fill)

    async def _cancel(self, order: Order) -> bool:
        """Cancel; its funds are free, and a new order may follow, only once that is confirmed."""
        if not await self._broker.cancel(order.id):
            self.counts["cancels_unconfirmed"] += 1
            return False
        self.trader.cancelled(order.id)
        self.counts["cancels"] += 1
        return True

    def _filled(self, fill: Fill) -> None:
        order = self.trader.ledger.open[fill.order_id]
        self.trader.filled(fill.order_id, fill.price_ticks, fill.lots)
        self.counts["maker_fills" if order.post_only else "taker_fills"] += 1
        self.counts["fills"] += 1

    def health(self) -> dict[str, Any]:
        """Return counts, reasons and latencies as plain JSON values."""
        age_s = None
        if self.last_beat is not None:
            age_s = round((self._wall_ns() - (self.last_beat + 1) * BEAT_NS) / 1e9, 3)
        return {
            "started": self.started,
            **{name: self.counts[name] for name in _COUNTS},
            "actions": {action.name: self.actions[action.name] for action in Action},
            "blocked": dict(self.blocked),
            "last_beat": self.last_beat,
            "data_age_s": age_s,
            "last_error": self.last_error,
            "decision_latency_ms": _percentiles_ms(self._latencies_ns),
        }

    def positions(self) -> dict[str, Any]:
        """Return the ledger; money, sizes and prices are decimal strings, exact.

        The account is as old as this object: `started` tells a restarted one from the one before.
        `deposited_usd` is what the reserves were worth when they were granted, `held_usd` what the
        account would be worth had it done nothing.
        """
        ledger, net = self.trader.ledger, self.trader.positions
        return {
            "started": self.started,
            "usd": _text(ledger.usd),
            "free_usd": _text(ledger.free_usd),
            "equity_usd": _text(self.trader.equity),
            "deposited_usd": _text(self.trader.deposited_usd),
            "held_usd": _text(self.trader.held_usd),
            "products": {
                name: {
                    "lots": lots,
                    "free_lots": ledger.free_lots(name),
                    "size": _text(ledger.products[name].size(lots)),
                    "unit_lots": self.trader.unit.get(name, 0),
                    "net_units": net.get(name, 0.0),
                }
                for name, lots in ledger.lots.items()
            },
            "open_orders": [self._order(order) for order in ledger.open.values()],
            "equity_curve": [[beat, _text(equity)] for beat, equity in self.equity_curve],
        }

    def _order(self, order: Order) -> dict[str, Any]:
        return {
            "id": order.id,
            "product": order.product_id,
            "side": "BUY" if order.side == BUY else "SELL",
            "price": _text(self.trader.ledger.products[order.product_id].price(order.price_ticks)),
            "lots": order.lots,
            "post_only": order.post_only,
        }


def _percentiles_ms(samples_ns: Sequence[int]) -> dict[str, float | int | None]:
    if not samples_ns:
        return {"n": 0, "p50": None, "p99": None, "max": None}
    named = zip(("p50", "p99", "max"), np.percentile(samples_ns, [50, 99, 100]), strict=True)
    return {"n": len(samples_ns)} | {name: round(float(ns) / 1e6, 3) for name, ns in named}


def _text(value: Decimal) -> str:
    return format(value, "f")
