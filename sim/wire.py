"""What the simulated exchange says and hears: the messages of Coinbase Advanced Trade.

Numbers are written as decimal strings from integers, exactly, as the venue does.
"""

from collections import deque
from collections.abc import Collection
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Literal

import msgspec

from market.events import ASK, BID, BUY
from market.products import Product
from sim.market_model import Change, Levels, Trade

HISTORY = 100  # Trades that a market_trades snapshot can hold, per product.
SECOND_NS = 1_000_000_000
EPOCH_TEXT = "1970-01-01T00:00:00Z"
CHANNELS = ("level2", "market_trades", "heartbeats")
MALFORMED = "subscribe or unsubscribe required"
UNKNOWN_CHANNEL = "authentication failure"


class Request(msgspec.Struct):
    """A message from a client."""

    type: Literal["subscribe", "unsubscribe"]
    channel: str
    product_ids: list[str] = []


class Envelope(msgspec.Struct):
    """A numbered frame."""

    channel: str
    timestamp: str
    sequence_num: int
    events: msgspec.Raw


class ErrorFrame(msgspec.Struct, tag_field="type", tag="error"):
    """A refusal: no channel, no number."""

    message: str


class LevelUpdate(msgspec.Struct):
    """One level of `l2_data`."""

    side: str
    event_time: str
    price_level: str
    new_quantity: str


class BookEvent(msgspec.Struct):
    """The event of `l2_data`."""

    type: str
    product_id: str
    updates: list[LevelUpdate]


class TradeRow(msgspec.Struct):
    """One trade of `market_trades`; `side` is the maker's."""

    trade_id: str
    product_id: str
    price: str
    size: str
    time: str
    side: str


class TradesEvent(msgspec.Struct):
    """The event of `market_trades`."""

    type: str
    trades: list[TradeRow]


class HeartbeatEvent(msgspec.Struct):
    """The event of `heartbeats`."""

    current_time: str
    heartbeat_counter: int


def parse(message: str | bytes, listed: Collection[str]) -> Request | str:
    """Return the request that a client made, or the text to refuse it with."""
    try:
        request = msgspec.json.decode(message, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return MALFORMED
    if request.channel not in CHANNELS:
        return UNKNOWN_CHANNEL
    if request.channel == "heartbeats":
        return Request(request.type, request.channel, ["heartbeats"])
    if request.type == "subscribe" and not request.product_ids:
        return MALFORMED
    unknown = [id for id in request.product_ids if id not in listed]
    # The venue's text for an unknown product is not known.
    return f"unknown product {unknown[0]}" if unknown else request


class Listing:
    """A product on the wire: its number formats and its recent trades."""

    def __init__(self, listed: Product) -> None:
        self.product = listed
        self.history: deque[TradeRow] = deque(maxlen=HISTORY)
        self._price = DecimalText(listed.quote_increment)
        self._size = DecimalText(listed.base_increment)

    def snapshot(self, bids: Levels, asks: Levels) -> msgspec.Raw:
        """Return the events of a whole book."""
        changes = [(BID, price, size) for price, size in bids.items()]
        changes += [(ASK, price, size) for price, size in asks.items()]
        return self._book_events("snapshot", changes, EPOCH_TEXT)

    def updates(self, changes: list[Change], ns: int) -> msgspec.Raw:
        """Return the events of the changes of one step."""
        return self._book_events("update", changes, timestamp_text(ns))

    def record(self, trades: list[Trade], ns: int) -> list[TradeRow]:
        """Add trades to the history; return them as rows, oldest first."""
        if not trades:
            return []
        time = timestamp_text(ns)
        rows = [
            TradeRow(
                trade_id=str(trade.trade_id),
                product_id=self.product.id,
                price=self._price.text(trade.price_ticks),
                size=self._size.text(trade.size_lots),
                time=time,
                side="SELL" if trade.taker == BUY else "BUY",  # The maker's.
            )
            for trade in trades
        ]
        self.history.extend(rows)
        return rows

    def _book_events(self, kind: str, changes: list[Change], event_time: str) -> msgspec.Raw:
        price_text, size_text = self._price.text, self._size.text
        updates = [
            LevelUpdate(
                "bid" if side == BID else "offer", event_time, price_text(price), size_text(size)
            )
            for side, price, size in changes
        ]
        return msgspec.Raw(msgspec.json.encode([BookEvent(kind, self.product.id, updates)]))


class DecimalText:
    """Writes multiples of an increment as decimal strings, in integers; zero is "0"."""

    def __init__(self, increment: Decimal) -> None:
        exponent = increment.as_tuple().exponent
        self._digits = max(0, -int(exponent))
        self._units = int(increment.scaleb(self._digits))
        self._scale = 10**self._digits

    def text(self, count: int) -> str:
        """Return `count` increments as a decimal string."""
        if count == 0:
            return "0"
        if self._digits == 0:
            return str(count * self._units)
        whole, fraction = divmod(count * self._units, self._scale)
        return f"{whole}.{fraction:0{self._digits}d}"


def timestamp_text(ns: int) -> str:
    """Return a time in ns UTC as RFC 3339 with nine fractional digits and Z."""
    seconds, fraction = divmod(ns, SECOND_NS)
    return f"{_second_text(seconds)}.{fraction:09d}Z"


@lru_cache(maxsize=16)
def _second_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def trades_events(kind: str, rows: Collection[TradeRow]) -> msgspec.Raw:
    """Return the events of a batch of trades, given oldest first and sent newest first."""
    return msgspec.Raw(msgspec.json.encode([TradesEvent(kind, list(rows)[::-1])]))


def heartbeat_events(ns: int, counter: int) -> msgspec.Raw:
    """Return the events of a heartbeat, whose time is in the format of Go."""
    seconds, fraction = divmod(ns, SECOND_NS)
    day, _, time = _second_text(seconds).partition("T")
    text = f"{day} {time}.{fraction:09d} +0000 UTC m=+{counter}.{0:09d}"
    return msgspec.Raw(msgspec.json.encode([HeartbeatEvent(text, counter)]))
