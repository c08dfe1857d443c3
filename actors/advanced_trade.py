"""Decoder of Coinbase's Advanced Trade market data websocket.

Envelope: `channel`, `timestamp` (the event clock), `sequence_num` (one counter per connection over
every frame but errors) and `events`. Fields and channels that are not known are ignored.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from actors.frames import (
    UNREADABLE,
    CorruptFrame,
    Frame,
    Row,
    attempt,
    event_rows,
    level_row,
    parse_ns,
    trade_row,
)
from actors.scanner import Scanner
from market.events import ASK, BID, Kind
from market.products import Product


class _Envelope(msgspec.Struct):
    channel: str
    timestamp: str
    sequence_num: int
    events: msgspec.Raw


# {"channel":"l2_data","timestamp":"2024-10-08T09:10:36.04370306Z","sequence_num":9,"events":[
#   {"type":"update","product_id":"BTC-USD","updates":[
#     {"side":"bid","event_time":"2024-10-08T09:10:34.970831Z","price_level":"62318.81",
#      "new_quantity":"0"},
#     {"side":"offer","event_time":"...","price_level":"62336.65","new_quantity":"0.03021537"}]}]}
class _Level(msgspec.Struct):
    side: Literal["bid", "offer"]
    price_level: str
    new_quantity: str


class _Book(msgspec.Struct):
    type: Literal["snapshot", "update"]
    product_id: str
    updates: list[_Level]


# {"channel":"market_trades","timestamp":"2024-10-04T07:13:31.158696693Z","sequence_num":2,
#  "events":[{"type":"update","trades":[{"product_id":"ETH-USDT","trade_id":"22381691",
#     "price":"2375.56","size":"0.5","time":"2024-10-04T07:13:31.088388Z","side":"BUY"}]}]}
class _Trade(msgspec.Struct):
    product_id: str
    trade_id: str
    price: str
    size: str
    side: str  # The maker's.


class _Trades(msgspec.Struct):
    type: Literal["snapshot", "update"]
    trades: list[_Trade]


_envelope = msgspec.json.Decoder(_Envelope)
_books = msgspec.json.Decoder(list[_Book])
_trades = msgspec.json.Decoder(list[_Trades])


def decoder(products: dict[str, Product]) -> "_Decoder":
    """Return the decoder for these products: the scanner where it can, `decode` for all else."""
    return _Decoder(products)


class _Decoder:
    """As `actors.frames.Decoder`, with its scanner for who reads many frames at once."""

    def __init__(self, products: dict[str, Product]) -> None:
        self.scanner = Scanner(products)
        self._products = products

    def __call__(self, batch: Sequence[bytes]) -> list[Frame | CorruptFrame]:
        """Decode frames; in the place of one that breaks its format, why."""
        scanned = zip(batch, self.scanner(batch), strict=True)
        return [frame or attempt(decode, data, self._products) for data, frame in scanned]


def decode(data: bytes, products: dict[str, Product]) -> Frame:
    """Decode any Advanced Trade frame; CorruptFrame if it breaks its format."""
    try:
        envelope = _envelope.decode(data)
        sequence, ns = envelope.sequence_num, parse_ns(envelope.timestamp)
    except UNREADABLE as e:
        return _without_envelope(data, e)
    try:
        if envelope.channel == "l2_data":
            return _book_frame(_books.decode(envelope.events), sequence, ns, products)
        if envelope.channel == "market_trades":
            return _trade_frame(_trades.decode(envelope.events), sequence, ns, products)
    except UNREADABLE as e:
        raise CorruptFrame(
            envelope.channel, e, sequence=sequence, ns=ns, product_ids=_named(envelope.events)
        ) from None
    return Frame(envelope.channel, sequence, ns)


def _book_frame(events: list[_Book], sequence: int, ns: int, products: dict[str, Product]) -> Frame:
    rows: dict[str, list[Row]] = {}
    foreign = 0
    for event in events:
        product = products.get(event.product_id)
        if product is None:
            foreign += len(event.updates)
            continue
        kind = Kind.SNAPSHOT if event.type == "snapshot" else Kind.CHANGE
        if kind == Kind.SNAPSHOT:
            if not event.updates:
                raise ValueError("a snapshot without levels")
            rows[product.id] = []  # It replaces whatever the frame said before.
        rows.setdefault(product.id, []).extend(
            level_row(kind, BID if u.side == "bid" else ASK, u.price_level, u.new_quantity, product)
            for u in event.updates
        )
    return Frame("l2_data", sequence, ns, _by_product(rows, ns), foreign)


def _trade_frame(
    events: list[_Trades], sequence: int, ns: int, products: dict[str, Product]
) -> Frame:
    rows: dict[str, list[Row]] = {}
    foreign = 0
    live = [event for event in events if event.type == "update"]
    for trade in (trade for event in live for trade in event.trades):
        product = products.get(trade.product_id)
        if product is None:
            foreign += 1
            continue
        row = trade_row(int(trade.trade_id), trade.side, trade.price, trade.size, product)
        rows.setdefault(product.id, []).append(row)
    if events and not live:
        return Frame("market_trades history", sequence, None)  # History moves no clock.
    return Frame("market_trades", sequence, ns, _by_product(rows, ns), foreign, trades=True)


def _by_product(rows: dict[str, list[Row]], ns: int) -> tuple[tuple[str, NDArray[np.void]], ...]:
    return tuple((product_id, event_rows(found, ns)) for product_id, found in rows.items())


# {"type":"error","message":"too many L2 streams requested in a single session"}
def _without_envelope(data: bytes, error: Exception) -> Frame:
    """Error frames and unknown types have no channel; anything else without envelope is corrupt."""
    try:
        frame = msgspec.json.decode(data)
    except UNREADABLE:
        raise CorruptFrame("not JSON") from None
    if isinstance(frame, dict) and "channel" not in frame and isinstance(frame.get("type"), str):
        detail = f": {frame['message']}" if isinstance(frame.get("message"), str) else ""
        return Frame(frame["type"] + detail)
    raise CorruptFrame("envelope", error)


def _named(events: msgspec.Raw) -> tuple[str, ...]:
    """Return the products that a corrupt frame names, as far as that can be read."""
    found: list[object] = []
    try:
        parsed = msgspec.json.decode(events)
    except UNREADABLE:
        return ()
    for event in parsed if isinstance(parsed, list) else []:
        if isinstance(event, dict):
            trades = event.get("trades")
            parts = [event, *(trades if isinstance(trades, list) else [])]
            found += [part.get("product_id") for part in parts if isinstance(part, dict)]
    return tuple(dict.fromkeys(name for name in found if isinstance(name, str)))
