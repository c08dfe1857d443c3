"""Wrong arguments raise one clear error that names the argument; never a wrong answer.

`CASES` has, for every public callable of `market`, a call that is right and, per argument, values
that make it wrong. That nothing is forgotten is a test: callables and arguments are enumerated.
"""

import importlib
import inspect
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import pytest

import market
from market.actions import Action, Fees
from market.book import levels, new_book
from market.checks import money, number, whole
from market.cross import CrossBuilder, CrossConfig, Mids, cross, mids
from market.errors import QuaverError
from market.events import ASK, BID, BUY, EVENT, SELL, Kind, Reason, mark
from market.external import ExternalConfig
from market.features import FeatureBuilder, checked_windows, features, valid_run
from market.labels import advantage, labels, optimal
from market.ledger import Ledger, Order, ReserveError, exact
from market.paper import PaperBroker
from market.policy import (
    Limits,
    Situation,
    breached,
    choices,
    decide,
    one_window,
    order_for,
    quote,
    unit_lots,
)
from market.products import MAX_UNITS, Product, product, product_of
from market.signals import SignalsConfig, signals
from market.trader import Trader, TraderConfig
from market.windows import BEAT_NS, WINDOW, WindowBuilder, after_break

NAME, BEAT = "AAA-USD", 446_566_500
NOW_NS = (BEAT + 1) * BEAT_NS
PRODUCT = product_of(NAME, "0.01", "0.001")
ORDER = Order("o1", NAME, BUY, 100, 7, True)
NAN, INF = float("nan"), float("inf")
WEEK_NS = 7 * 86_400 * 1_000_000_000

# Of no type that an argument could be meant to have.
JUNK: list[Any] = [None, "1", [1], b"1", np.float64(1.0)]
NOT_WHOLE = [*JUNK, 1.0, 1.5, NAN, True, Decimal(1), np.int64(1), 1 << 63, -1 - (1 << 63)]
NOT_FROM_0 = [*NOT_WHOLE, -1]
NOT_FROM_1 = [*NOT_FROM_0, 0]
NOT_FINITE = [1.0, "1", None, Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity")]
NOT_MONEY = [*NOT_FINITE, 1, Decimal("-0.01")]
NOT_TEXT = [None, 1, 0.01, b"1", ["1"]]
NOT_ID = [*NOT_TEXT, ""]
NOT_UNITS = [*NOT_TEXT, "", "-1", "1e2", "nan", "1.2.3", "\u0661", "0.0000001", "9" * 30]
NOT_INCREMENT = [
    *NOT_MONEY,
    *(Decimal(text) for text in ("0", "1E-19", "1E+19", "0.1234567891", "1." + "0" * 40 + "1")),
]
NOT_SWITCH = [1, 0.0, "true", None]
NOT_SETTING = [NAN, INF, -INF, -1.0, True, "1", None, Decimal(1), np.float64(1.0)]


def windows(count: int = 1, **fields: Any) -> np.ndarray:
    """Valid windows in which nothing happens."""
    rows = np.zeros(count, WINDOW)
    rows["beat"] = BEAT + np.arange(count)
    rows["valid"], rows["bid"], rows["ask"] = True, 99, 101
    rows["high_bid"], rows["low_ask"] = rows["bid"], rows["ask"]
    for name, value in fields.items():
        rows[name] = value
    return rows


NOT_WINDOWS = [
    None,
    [],
    np.zeros(1),
    np.zeros(1, EVENT),
    windows().reshape(1, 1),
    windows()[0],
    windows()["bid"],
]
NOT_QUOTED = [windows(bid=0), windows(bid=101), windows(bid=102), windows(bid=-5, ask=-4)]
NOT_ORDERED = [windows(3)[::-1], windows(3, beat=BEAT)]
NOT_ONE = [*NOT_WINDOWS, windows(0), windows(2)]


def events(**fields: Any) -> np.ndarray:
    """A change that a reader can have made."""
    rows = np.zeros(1, EVENT)
    rows["ns"], rows["kind"], rows["side"], rows["last"] = NOW_NS, Kind.CHANGE, BID, 1
    rows["price"], rows["size"] = 100, 1
    for name, value in fields.items():
        rows[name] = value
    return rows


NOT_POSSIBLE = [
    events(ns=-1),
    events(ns=NOW_NS + WEEK_NS + 1),
    *(events(kind=kind) for kind in (-1, 7)),
    *(events(side=side) for side in (-1, 2)),
    *(events(price=price) for price in (-1, 0, MAX_UNITS + 1)),
    *(events(size=size) for size in (-1, MAX_UNITS + 1)),
    *(events(kind=kind, price=0) for kind in (Kind.SNAPSHOT, Kind.CARRIED, Kind.TRADE)),
    *(events(kind=kind, side=2) for kind in (Kind.SNAPSHOT, Kind.CARRIED, Kind.TRADE)),
    *(events(kind=Kind.UNSYNC, reason=reason) for reason in (0, max(Reason) + 1)),
    np.concatenate([events(), events(price=-1)]),
]


def builder() -> WindowBuilder:
    """One whose book is known."""
    made = WindowBuilder()
    bids = events(kind=Kind.SNAPSHOT, last=0)
    made.feed(np.concatenate([bids, events(kind=Kind.SNAPSHOT, side=ASK, price=101)]))
    return made


def ledger() -> Ledger:
    """One with an open order."""
    made = Ledger({NAME: PRODUCT}, Decimal(1_000), {NAME: 50}, Fees())
    made.place(Order("open", NAME, BUY, 100, 7, True))
    return made


def trader() -> Trader:
    """One that has seen a window and has an order open."""
    made = Trader({NAME: PRODUCT}, Fees(), TraderConfig())
    made.observe(NAME, windows())
    assert made.admit(Order("open", NAME, BUY, 100, 7, True), NOW_NS, 0.0) is None
    return made


def broker() -> PaperBroker:
    """One with a resting order."""
    made = PaperBroker()
    made.submit(Order("open", NAME, BUY, 50, 7, True))
    return made


class Case(NamedTuple):
    """A call that is right, and what makes it wrong."""

    name: str
    make: Callable[[], Callable[..., object]]  # With a fresh object where it is a method.
    right: dict[str, Any]
    wrong: dict[str, list[Any]]
    error: type[Exception] | tuple[type[Exception], ...] = ValueError


NOT_ORDER = [
    None,
    "o1",
    Order("o1", NAME, BUY, 100, 0, True),
    Order("o1", NAME, BUY, 100, -7, True),
    Order("o1", NAME, BUY, 0, 7, True),
    Order("o1", NAME, BUY, -100, 7, True),
]
NOT_LISTED = [*NOT_ORDER, Order("o1", "BBB-USD", BUY, 100, 7, True)]
UNKNOWN = ["BBB-USD", "", None, 1]
FIVE, MAY = np.zeros(5), np.ones(5, bool)
NOT_FIVE = [None, [0.0] * 5, np.zeros(4), np.zeros((1, 5)), np.zeros(5, int), np.zeros(5, "f4")]
NOT_MAY = [None, [True] * 5, np.ones(4, bool), np.ones(5), np.ones(5, int)]
NOT_LABELS = [None, [[0.0] * 5], np.zeros(5), np.zeros((2, 4)), np.zeros((1, 5), int)]
SITUATION = {
    "position_lots": 0,
    "unit_lots": 10,
    "orders_last_minute": 0,
    "loss_today_usd": Decimal(0),
    "data_age_s": 0.0,
}
NOT_NUMBER = [None, "1", True, NAN, -0.1, Decimal(1), -INF]

REFUSED = (ReserveError, ValueError)

CASES = [
    Case(
        "checks.whole",
        lambda: whole,
        {"name": "value", "value": -5, "least": -5},
        {"value": [*NOT_WHOLE, -6]},
    ),
    Case("checks.number", lambda: number, {"name": "value", "value": 0.5}, {"value": NOT_NUMBER}),
    Case(
        "checks.money",
        lambda: money,
        {"name": "value", "value": Decimal(0)},
        {"value": NOT_MONEY},
    ),
    Case(
        "events.mark",
        lambda: mark,
        {"kind": Kind.UNSYNC, "ns": 5, "recv_ns": 0, "reason": Reason.GAP},
        {
            "kind": [Kind.CHANGE, Kind.CLOCK, 9, None],
            "ns": NOT_FROM_0,
            "recv_ns": NOT_FROM_0,
            "reason": [Reason.NONE, 9, None],
        },
    ),
    Case(
        "actions.Fees",
        lambda: Fees,
        {"taker_bps": 5, "maker_bps": 0.0},
        {name: [*NOT_SETTING, 10_000] for name in ("taker_bps", "maker_bps")},
        QuaverError,
    ),
    Case(
        "products.Product",
        lambda: Product,
        {
            "id": NAME,
            "quote_increment": Decimal("0.01"),
            "base_increment": Decimal(5),
            "base_min_size": Decimal("0.00025"),
        },
        {
            "id": NOT_ID,
            "quote_increment": NOT_INCREMENT,
            "base_increment": NOT_INCREMENT,
            "base_min_size": NOT_INCREMENT,
        },
    ),
    Case("products.Product.ticks", lambda: PRODUCT.ticks, {"text": "1.25"}, {"text": NOT_UNITS}),
    Case("products.Product.lots", lambda: PRODUCT.lots, {"text": "1.25"}, {"text": NOT_UNITS}),
    Case("products.Product.price", lambda: PRODUCT.price, {"ticks": 0}, {"ticks": NOT_FROM_0}),
    Case("products.Product.size", lambda: PRODUCT.size, {"lots": -1}, {"lots": NOT_WHOLE}),
    Case(
        "products.product_of",
        lambda: product_of,
        {"product_id": NAME, "quote": "0.01", "base": "1", "base_min": None},
        {
            "product_id": NOT_ID,
            "quote": [*NOT_ID, "x", "0", "-1", "nan", "inf"],
            "base": [*NOT_ID, "x", "0", "-1", "nan", "inf"],
            "base_min": [1, 0.01, b"1", "x", "0", "-1", "nan"],
        },
        QuaverError,
    ),
    Case(
        "products.product",
        lambda: product,
        {"product_id": "BTC-USD"},
        {"product_id": ["btc-usd", "", None, 1]},
        QuaverError,
    ),
    Case(
        "book.levels",
        lambda: lambda side: levels(new_book(), side),
        {"side": ASK},
        {"side": [2, -1, None, "BID"]},
    ),
    Case(
        "windows.after_break",
        lambda: after_break,
        {"beat": 5},
        {"beat": NOT_FROM_0},
    ),
    Case(
        "windows.WindowBuilder.feed",
        lambda: builder().feed,
        {"events": events()},
        {"events": [*NOT_WINDOWS, windows(), events().reshape(1, 1), *NOT_POSSIBLE]},
    ),
    Case(
        "windows.WindowBuilder.carried",
        lambda: builder().carried,
        {"ns": NOW_NS, "recv_ns": 0},
        {"ns": NOT_FROM_0, "recv_ns": NOT_FROM_0},
    ),
    Case(
        "features.features",
        lambda: features,
        {"windows": windows(80), "quote_increment": 0.01},
        {
            "windows": [
                *NOT_WINDOWS,
                *NOT_QUOTED,
                *NOT_ORDERED,
                windows(80, bid_depth=-1),
                windows(80, ask_depth=1 << 62),
            ],
            "quote_increment": [*NOT_SETTING[:-1], 0],
        },
    ),
    Case(
        "features.FeatureBuilder",
        lambda: FeatureBuilder,
        {"quote_increment": 0.01},
        {"quote_increment": [*NOT_SETTING[:-1], 0]},
    ),
    Case(
        "features.FeatureBuilder.push",
        lambda: FeatureBuilder(0.01).push,
        {"window": windows()},
        {"window": [*NOT_ONE, *NOT_QUOTED]},
    ),
    Case(
        "features.valid_run",
        lambda: valid_run,
        {"windows": windows(3)},
        {"windows": [*NOT_WINDOWS, *NOT_QUOTED, *NOT_ORDERED]},
    ),
    Case(
        "features.checked_windows",
        lambda: checked_windows,
        {"windows": windows(3)},
        {"windows": NOT_WINDOWS},
    ),
    Case(
        "labels.labels",
        lambda: labels,
        {"windows": windows(80), "fees": Fees(), "horizon": 75},
        {
            "windows": [*NOT_WINDOWS, *NOT_QUOTED, *NOT_ORDERED],
            "fees": [None, 5.0, {}, Limits()],
            "horizon": [0, -1, 1.5, True, "75", None, NAN],
        },
    ),
    Case(
        "signals.SignalsConfig",
        lambda: SignalsConfig,
        {},
        {name: NOT_SWITCH for name in SignalsConfig.__struct_fields__},
        QuaverError,
    ),
    Case(
        "signals.signals",
        lambda: signals,
        {"windows": windows(80), "listed": PRODUCT, "config": SignalsConfig(taker=True)},
        {"windows": [*NOT_WINDOWS, *NOT_QUOTED, *NOT_ORDERED, windows(80, buy_lots=-1)]},
    ),
    Case(
        "cross.CrossConfig",
        lambda: CrossConfig,
        {},
        {"btc_eth": NOT_SWITCH, "neighbours": [*NOT_FROM_0, 9]},
        QuaverError,
    ),
    Case(
        "cross.mids",
        lambda: mids,
        {"windows": windows(3)},
        {"windows": [*NOT_WINDOWS, *NOT_QUOTED, *NOT_ORDERED]},
    ),
    Case(
        "cross.cross",
        lambda: cross,
        {"beats": np.arange(3), "references": [Mids(np.arange(3), np.full(3, 200)), None]},
        {"beats": [np.array([2, 1]), np.array([1, 1])]},
    ),
    Case(
        "cross.CrossBuilder.push",
        lambda: CrossBuilder({NAME: ["BBB-USD"]}).push,
        {"windows": {"BBB-USD": windows(3)}},
        {"windows": [{"BBB-USD": bad} for bad in (*NOT_WINDOWS, *NOT_QUOTED, *NOT_ORDERED)]},
    ),
    Case(
        "external.ExternalConfig",
        lambda: ExternalConfig,
        {"path": "news.parquet", "series": ("mood",), "max_age_s": 60.0},
        {
            "path": [*NOT_TEXT, ""],
            "series": [None, "mood", [1], ("mood", "mood"), ()],
            "max_age_s": [NAN, 0.0, -1.0, "1", True],
        },
        QuaverError,
    ),
    Case("labels.optimal", lambda: optimal, {"values": np.zeros((1, 5))}, {"values": NOT_LABELS}),
    Case(
        "labels.advantage", lambda: advantage, {"values": np.zeros((1, 5))}, {"values": NOT_LABELS}
    ),
    Case(
        "ledger.Order",
        lambda: Order,
        {
            "id": "o1",
            "product_id": NAME,
            "side": SELL,
            "price_ticks": 100,
            "lots": 7,
            "post_only": False,
        },
        {
            "id": NOT_ID,
            "product_id": NOT_TEXT,
            "side": [-1, 2, True, 1.0, None, "BUY"],
            "price_ticks": NOT_WHOLE,
            "lots": NOT_WHOLE,
            "post_only": [0, 1, None, "no", np.bool_(True)],
        },
    ),
    Case(
        "ledger.Ledger",
        lambda: Ledger,
        {"products": {NAME: PRODUCT}, "usd": Decimal(5), "lots": {NAME: 1}, "fees": Fees()},
        {
            "products": [{NAME: "x"}, {"BBB-USD": PRODUCT}],
            "usd": NOT_MONEY,
            "lots": [{"BBB-USD": 1}, *({NAME: lots} for lots in NOT_FROM_0)],
            "fees": [None, 5.0, {}],
        },
        ReserveError,
    ),
    Case(
        "ledger.Ledger.listed",
        lambda: ledger().listed,
        {"product_id": NAME},
        {"product_id": UNKNOWN},
        ReserveError,
    ),
    Case(
        "ledger.Ledger.check",
        lambda: ledger().check,
        {"order": ORDER},
        {"order": NOT_LISTED},
        ReserveError,
    ),
    Case(
        "ledger.Ledger.free_lots",
        lambda: ledger().free_lots,
        {"product_id": NAME},
        {"product_id": UNKNOWN},
        ReserveError,
    ),
    Case(
        "ledger.Ledger.cost",
        lambda: ledger().cost,
        {"order": ORDER},
        {"order": NOT_LISTED},
        ReserveError,
    ),
    Case(
        "ledger.Ledger.affords",
        lambda: ledger().affords,
        {"order": ORDER},
        {"order": NOT_LISTED},
        ReserveError,
    ),
    Case(
        "ledger.Ledger.place",
        lambda: ledger().place,
        {"order": ORDER},
        {
            "order": [
                *NOT_LISTED,
                Order("open", NAME, BUY, 100, 7, True),
                Order("o1", NAME, SELL, 100, 51, True),
            ]
        },
        ReserveError,
    ),
    Case(
        "ledger.Ledger.fill",
        lambda: ledger().fill,
        {"order_id": "open", "price_ticks": 100, "lots": 7},
        {
            "order_id": ["o1", "", None, 1],
            "price_ticks": [*NOT_FROM_1],
            "lots": [*NOT_WHOLE, 0, -1, 8],
        },
        ReserveError,
    ),
    Case(
        "ledger.Ledger.cancel",
        lambda: ledger().cancel,
        {"order_id": "open"},
        {"order_id": ["o1", "", None, 1]},
        ReserveError,
    ),
    Case(
        "ledger.Ledger.equity",
        lambda: ledger().equity,
        {"mid2": {NAME: 200}},
        {"mid2": [{}, {"BBB-USD": 200}, *({NAME: mid2} for mid2 in NOT_FROM_1)]},
        ReserveError,
    ),
    Case(
        "ledger.Ledger.value",
        lambda: ledger().value,
        {"usd": Decimal(5), "lots": {NAME: 1}, "mid2": {NAME: 200}},
        {
            "usd": NOT_MONEY,
            "lots": [{NAME: lots} for lots in (1.5, True, -1, NAN, "1")],
            "mid2": [{}, {"BBB-USD": 200}, *({NAME: mid2} for mid2 in NOT_FROM_1)],
        },
        ReserveError,
    ),
    Case(
        "ledger.Ledger.worth",
        lambda: ledger().worth,
        {"product_id": NAME, "lots": 1, "mid2": 200},
        {"product_id": UNKNOWN, "lots": NOT_FROM_0, "mid2": NOT_FROM_1},
        ReserveError,
    ),
    Case(
        "ledger.exact",
        lambda: exact,
        {"number": 0.1},
        {"number": [NAN, None, "1", True, Decimal(1), np.float64(1.0)]},
    ),
    Case(
        "policy.decide",
        lambda: decide,
        {"values": FIVE, "allowed": MAY, "min_edge_bps": 0.0},
        {"values": NOT_FIVE, "allowed": NOT_MAY, "min_edge_bps": NOT_NUMBER},
    ),
    Case(
        "policy.choices",
        lambda: choices,
        {"values": np.zeros((3, 5)), "min_edge_bps": 0.0},
        {
            "values": [
                None,
                [[0.0] * 5],
                np.zeros(5),
                np.zeros((3, 4)),
                np.zeros((3, 5), np.float32),
                np.full((3, 5), np.nan),
                np.full((3, 5), np.inf),
            ],
            "min_edge_bps": NOT_NUMBER,
        },
    ),
    Case("policy.one_window", lambda: one_window, {"window": windows()}, {"window": NOT_ONE}),
    Case(
        "policy.quote",
        lambda: quote,
        {"window": windows()},
        {"window": [*NOT_ONE, *NOT_QUOTED, windows(beat=-1), windows(ask=1 << 62)]},
    ),
    Case(
        "policy.order_for",
        lambda: order_for,
        {
            "action": Action.FORCE_BUY,
            "product_id": NAME,
            "bid_ticks": 99,
            "ask_ticks": 101,
            "lots": 7,
            "order_id": "o1",
        },
        {
            "action": [0, -1, 5, 0.0, True, None, "FORCE_BUY"],
            "product_id": NOT_TEXT,
            "bid_ticks": [0, -1, 101, 102, NAN],
            "ask_ticks": [0, -1, 99, 98, 100.5, NAN, np.int64(101)],
            "lots": [0, -1, 1.5, True, NAN, np.int64(7)],
            "order_id": NOT_ID,
        },
    ),
    Case(
        "policy.unit_lots",
        lambda: unit_lots,
        {"product": PRODUCT, "notional_usd": Decimal(100), "mid2": 200},
        {"notional_usd": NOT_MONEY, "mid2": NOT_FROM_1},
    ),
    Case(
        "policy.Limits",
        lambda: Limits,
        {},
        {
            "max_position_units": [*NOT_SETTING, 0, 1.0],
            "max_order_usd": [*NOT_SETTING, 0],
            "max_orders_per_minute": [*NOT_SETTING, 0, 1.0],
            "max_daily_loss_usd": [*NOT_SETTING, 0],
            "max_data_age_s": [*NOT_SETTING, 0],
        },
        QuaverError,
    ),
    Case(
        "policy.Situation",
        lambda: Situation,
        SITUATION,
        {
            "position_lots": NOT_WHOLE,
            "unit_lots": NOT_FROM_0,
            "orders_last_minute": NOT_FROM_0,
            "loss_today_usd": [*NOT_FINITE, 1],
            "data_age_s": NOT_NUMBER,
        },
    ),
    Case(
        "policy.breached",
        lambda: breached,
        {"order": ORDER, "ledger": ledger(), "limits": Limits(), "now": Situation(**SITUATION)},
        {"order": NOT_LISTED},
        ReserveError,
    ),
    Case(
        "paper.PaperBroker.submit",
        lambda: broker().submit,
        {"order": ORDER},
        {"order": [*NOT_ORDER, Order("open", NAME, BUY, 100, 7, True)]},
    ),
    Case(
        "paper.PaperBroker.on_window",
        lambda: broker().on_window,
        {"product_id": NAME, "window": windows()},
        {
            "window": [
                *NOT_ONE,
                windows(low_ask=0),
                windows(high_bid=0),
                windows(trades=-1),
                windows(trades=1),
                windows(trades=1, trade_low=101, trade_high=100),
            ]
        },
    ),
    Case(
        "trader.TraderConfig",
        lambda: TraderConfig,
        {},
        {
            "unit_usd": [*NOT_SETTING, 0],
            "reserve_usd": NOT_SETTING,
            "min_edge_bps": NOT_SETTING,
            "limits": [None, {}, {"max_order_usd": 5.0}, 1],
        },
        QuaverError,
    ),
    Case(
        "trader.Trader",
        lambda: Trader,
        {"products": {NAME: PRODUCT}, "fees": Fees(), "config": TraderConfig()},
        {
            "products": [{NAME: "x"}, {"BBB-USD": PRODUCT}],
            "fees": [None, 5.0],
            "config": [None, {}, Limits()],
        },
        REFUSED,
    ),
    Case(
        "trader.Trader.observe",
        lambda: trader().observe,
        {"product_id": NAME, "window": windows()},
        {"product_id": UNKNOWN, "window": [*NOT_ONE, *NOT_QUOTED, windows(beat=BEAT - 1)]},
        REFUSED,
    ),
    Case(
        "trader.Trader.decide",
        lambda: trader().decide,
        {"product_id": NAME, "window": windows(), "values": FIVE},
        {
            "product_id": UNKNOWN,
            "window": [*NOT_ONE, *NOT_QUOTED],
            "values": [value for value in NOT_FIVE if value is not None],
        },
        REFUSED,
    ),
    Case(
        "trader.Trader.admit",
        lambda: trader().admit,
        {"order": ORDER, "now_ns": NOW_NS, "data_age_s": 0.0},
        {
            "order": [*NOT_LISTED, Order("open", NAME, BUY, 100, 7, True)],
            "now_ns": NOT_FROM_0,
            "data_age_s": NOT_NUMBER,
        },
        REFUSED,
    ),
    Case(
        "trader.Trader.limit",
        lambda: trader().limit,
        {"order": ORDER, "data_age_s": 0.0},
        {"order": NOT_LISTED, "data_age_s": NOT_NUMBER},
        REFUSED,
    ),
    Case(
        "trader.Trader.filled",
        lambda: trader().filled,
        {"order_id": "open", "price_ticks": 100, "lots": 7},
        {"order_id": ["o1", None], "price_ticks": NOT_FROM_1, "lots": [*NOT_WHOLE, 0, -1, 8]},
        ReserveError,
    ),
    Case(
        "trader.Trader.cancelled",
        lambda: trader().cancelled,
        {"order_id": "open"},
        {"order_id": ["o1", "", None]},
        ReserveError,
    ),
    Case(
        "trader.Trader.resting",
        lambda: trader().resting,
        {"product_id": NAME},
        {"product_id": UNKNOWN},
        ReserveError,
    ),
]

# How an error names an argument, where it does so in other words: what it stands for.
OTHER_WORDS = {
    "products.Product.ticks text": "text|a plain number|off the grid|larger than any price",
    "products.Product.lots text": "text|a plain number|off the grid|larger than any price",
    "products.product_of product_id": "product: id",
    "products.product product_id": "products of the universe",
    "policy.order_for ask_ticks": "(ask|price)_ticks",
    "policy.order_for order_id": "order: id",
}
# Public callables without a case, and why.
EXEMPT = {
    "actions.resting_buy_fills": "compiled into the labels, right for any integers",
    "actions.resting_sell_fills": "compiled into the labels, right for any integers",
    "cross.CrossBuilder": "what it takes is what `references_of` gives",
    "cross.CrossBuilder.row": "a product that is not asked for is a KeyError, any beat is right",
    "cross.CrossBuilder.absent": "a product that is not asked for is a KeyError",
    "cross.CrossBuilder.waits_for": "a product that is not asked for is a KeyError",
    "cross.Mids": "a record that `mids` makes",
    "cross.names": "what is no configuration fails at its first attribute",
    "cross.references_of": "ids of any products are right",
    "external.Series": "a record that its reader checks",
    "external.external": "takes what its reader has checked",
    "external.names": "what is no configuration fails at its first attribute",
    "signals.names": "what is no configuration fails at its first attribute",
    "checks.check_settings": "what makes Fees, Limits and TraderConfig refuse theirs",
    "jit.compiled": "a decorator: wrong use fails when the module is imported",
    "jit.inlined": "a decorator: wrong use fails when the module is imported",
    "jit.prefetch": "for compiled code alone",
    "features.Features": "a record that is returned, never taken",
    "paper.Fill": "a record: what it says is checked where it is booked",
    "trader.Decision": "a record that is returned, never taken",
    "products.product_index": "None for all that is not in the universe",
    "paper.PaperBroker.cancel": "False for all that does not rest",
    "windows.Lost": "a record that is returned, never taken",
}
# Arguments of callables with a case for which there are no wrong values, and why.
FREE = {
    "book.levels": {"book"},
    "checks.whole": {"name", "least", "error"},  # Written where it is called.
    "checks.number": {"name"},
    "cross.cross": {"references"},  # As from `mids`, or None.
    "signals.signals": {"listed", "config"},  # What is none fails at its first attribute.
    "checks.money": {"name", "least", "error"},
    "policy.unit_lots": {"product"},  # What is none fails at its first attribute.
    "policy.breached": {"ledger", "limits", "now"},
    "paper.PaperBroker.on_window": {"product_id"},  # No orders of it: no fills.
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_right_call_is_right(case: Case) -> None:
    case.make()(**case.right)


@pytest.mark.parametrize(
    ("case", "argument"),
    [
        pytest.param(case, argument, id=f"{case.name}-{argument}")
        for case in CASES
        for argument in case.wrong
    ],
)
def test_a_wrong_argument_is_named_and_changes_nothing(case: Case, argument: str) -> None:
    words = OTHER_WORDS.get(f"{case.name} {argument}", argument)
    for value in case.wrong[argument]:
        call = case.make()
        owner = getattr(call, "__self__", None)
        before = pickle.dumps(owner)
        try:
            call(**{**case.right, argument: value})
        except case.error as error:
            assert re.search(words, str(error)), f"{argument}={value!r}: {error}"
        else:
            pytest.fail(f"{argument}={value!r} was taken")
        if isinstance(owner, (Ledger, Trader, PaperBroker)):
            assert pickle.dumps(owner) == before, f"{argument}={value!r}"


def callables() -> Iterator[tuple[str, Any]]:
    """Every public function, constructor and method of `market` that takes an argument."""
    for found in pkgutil.iter_modules(market.__path__):
        module = importlib.import_module(f"market.{found.name}")
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", "") != module.__name__:
                continue
            if isinstance(thing, type):
                if issubclass(thing, (Enum, Exception)):
                    continue  # Python's own constructors.
                for each, method in vars(thing).items():
                    if not each.startswith("_") and inspect.isfunction(method):
                        yield f"{found.name}.{name}.{each}", method
            if callable(thing):
                yield f"{found.name}.{name}", thing


def arguments(thing: Any) -> set[str]:
    """The arguments a callable takes."""
    return set(inspect.signature(thing).parameters) - {"self"}


def test_every_public_callable_and_argument_has_a_case() -> None:
    known = {case.name: case.wrong.keys() | FREE.get(case.name, set()) for case in CASES}
    assert len(known) == len(CASES)
    taking = {name: arguments(thing) for name, thing in callables()}
    in_scope = {
        name: taken
        for name, taken in taking.items()
        if taken and name not in EXEMPT and (name in known or not name.startswith("book."))
    }
    assert in_scope == known
    assert EXEMPT.keys() <= taking.keys()


def test_a_time_whose_beat_has_no_end_is_refused() -> None:
    last = 1 << 62
    with pytest.raises(ValueError, match="events"):
        WindowBuilder().feed(events(ns=last + 1))
    assert len(WindowBuilder().feed(events(ns=last))) == 0


def test_a_builder_that_saw_a_wrong_row_is_of_no_use() -> None:
    made = builder()
    with pytest.raises(ValueError, match="row 0"):
        made.feed(events(price=0))
    with pytest.raises(ValueError, match="fed earlier"):
        made.feed(events())
