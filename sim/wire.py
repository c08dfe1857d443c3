"""What the simulated exchange says and hears: the messages of Coinbase Advanced Trade.

Numbers are written as decimal strings from integers, exactly, as the venue does.
"""

from collections import deque
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec

from market.events import ASK, BID, BUY
from market.products import Product
from sim.engine import Trade
from sim.ladder import Change, Levels

HISTORY = 100  # Trades that a market_trades snapshot can hold, per product.
SECOND_NS = 1_000_000_000
MIN_NOTIONAL = "1"  # Quote currency, on every spot product seen.
EPOCH_TEXT = "1970-01-01T00:00:00Z"
CHANNELS = ("level2", "market_trades", "heartbeats", "status", "user")
WITHOUT_PRODUCTS = ("heartbeats", "status")
MALFORMED = "subscribe or unsubscribe required"
UNKNOWN_CHANNEL = "authentication failure"  # Also what a bad token gets.
TOO_MANY = "too many L2 streams requested in a single session"


class Request(msgspec.Struct):
    """A message from a client."""

    type: Literal["subscribe", "unsubscribe"]
    channel: str
    product_ids: list[str] = []
    jwt: str = ""


class Frame(NamedTuple):
    """A frame as all connections share it: only the sequence number is missing."""

    ns: int
    channel: str  # As subscribed to.
    product_id: str | None
    head: bytes
    tail: bytes
    kind: str = "update"

    def numbered(self, sequence_num: int) -> bytes:
        """Return the frame of one connection."""
        return b"%b%d%b" % (self.head, sequence_num, self.tail)


def shared_frame(
    channel: str, ns: int, events: bytes, product_id: str | None = None, kind: str = "update"
) -> Frame:
    """Return the frame of a channel, named as it is subscribed to, with its events as JSON."""
    name = "l2_data" if channel == "level2" else channel
    head = f'{{"channel":"{name}","timestamp":"{timestamp_text(ns)}","sequence_num":'.encode()
    return Frame(ns, channel, product_id, head, b',"events":' + events + b"}", kind)


class ErrorFrame(msgspec.Struct, tag_field="type", tag="error"):
    """A refusal: no channel, no number."""

    message: str


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
    if request.channel in WITHOUT_PRODUCTS:
        return Request(request.type, request.channel, [request.channel])
    if request.type == "subscribe" and not request.product_ids and request.channel != "user":
        return MALFORMED
    unknown = [id for id in request.product_ids if id not in listed]
    # The venue's text for an unknown product is not known.
    return f"unknown product {unknown[0]}" if unknown else request


class Listing:
    """A product on the wire: its number formats and its recent trades."""

    def __init__(self, listed: Product) -> None:
        self.product = listed
        self.history: deque[tuple[Trade, int]] = deque(maxlen=HISTORY)  # With their time in ns.
        self.price_text = DecimalText(listed.quote_increment).text
        self.size_text = DecimalText(listed.base_increment).text

    def snapshot(self, bids: Levels, asks: Levels) -> bytes:
        """Return the events of a whole book."""
        changes = [(BID, price, size) for price, size in bids.items()]
        changes += [(ASK, price, size) for price, size in asks.items()]
        return self._book_events("snapshot", changes, EPOCH_TEXT)

    def updates(self, changes: Iterable[Change], ns: int) -> bytes:
        """Return the events of the changes of one step."""
        return self._book_events("update", changes, timestamp_text(ns))

    def trades(self, kind: str, trades: Iterable[tuple[Trade, int]]) -> bytes:
        """Return the events of trades with their times, given oldest first, sent newest first."""
        rows = [
            TradeRow(
                trade_id=str(trade.trade_id),
                product_id=self.product.id,
                price=self.price_text(trade.price_ticks),
                size=self.size_text(trade.size_lots),
                time=timestamp_text(ns),
                side="SELL" if trade.taker == BUY else "BUY",  # The maker's.
            )
            for trade, ns in trades
        ]
        return msgspec.json.encode([TradesEvent(kind, rows[::-1])])

    def _book_events(self, kind: str, changes: Iterable[Change], event_time: str) -> bytes:
        # Written by hand: at ten times the venue's rate most of the exchange's time goes here.
        price_text, size_text = self.price_text, self.size_text
        bid, offer = (
            f'{{"side":"{side}","event_time":"{event_time}","price_level":"'
            for side in ("bid", "offer")
        )
        levels = ",".join(
            [
                f'{bid if side == BID else offer}{price_text(price)}","new_quantity":"'
                f'{size_text(size)}"}}'
                for side, price, size in changes
            ]
        )
        event = f'[{{"type":"{kind}","product_id":"{self.product.id}","updates":[{levels}]}}]'
        return event.encode()


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


def heartbeat_events(ns: int, counter: int) -> bytes:
    """Return the events of a heartbeat, whose time is in the format of Go."""
    seconds, fraction = divmod(ns, SECOND_NS)
    day, _, time = _second_text(seconds).partition("T")
    text = f"{day} {time}.{fraction:09d} +0000 UTC m=+{counter}.{0:09d}"
    return msgspec.json.encode([HeartbeatEvent(text, counter)])


def status_events(listed: Iterable[Product]) -> bytes:
    """Return the events of the `status` channel."""
    rows = []
    for one in listed:
        base, _, quote = one.id.partition("-")
        rows.append(
            {
                "product_type": "SPOT",
                "id": one.id,
                "base_currency": base,
                "quote_currency": quote,
                "base_increment": f"{one.base_increment:f}",
                "quote_increment": f"{one.quote_increment:f}",
                "display_name": f"{base}/{quote}",
                "status": "online",
                "status_message": "",
                "min_market_funds": MIN_NOTIONAL,
            }
        )
    return msgspec.json.encode([{"type": "snapshot", "products": rows}])
