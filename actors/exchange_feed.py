"""Decoder of Coinbase's Exchange (formerly Pro) websocket feed.

Frames are told apart by `type`; there is no sequence over the connection. The clock is `time` of
`l2update`, `match`, `heartbeat` and `ticker`; a `snapshot` has none.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from actors.frames import (
    UNREADABLE,
    CorruptFrame,
    Decoder,
    Frame,
    Row,
    attempt,
    event_rows,
    level_row,
    parse_ns,
    trade_row,
)
from market.events import ASK, BID, Kind
from market.products import Product


class _Head(msgspec.Struct):
    type: str
    product_id: str | None = None
    time: str | None = None
    message: str | None = None


# {"type":"snapshot","product_id":"BTC-USD","bids":[["10101.10","0.45054140"]],
#  "asks":[["10102.55","0.57753524"]]}
class _Snapshot(msgspec.Struct):
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


# {"type":"l2update","product_id":"BTC-USD","time":"2019-08-14T20:42:27.265Z",
#  "changes":[["buy","10101.80000000","0.162567"],["sell","10105.00","0.00000000"]]}
class _Update(msgspec.Struct):
    time: str
    changes: list[tuple[Literal["buy", "sell"], str, str]]


# {"type":"match","trade_id":10,"sequence":50,"maker_order_id":"...","taker_order_id":"...",
#  "time":"2014-11-07T08:19:27.028459Z","product_id":"BTC-USD","size":"5.23512","price":"400.23",
#  "side":"sell"}
class _Match(msgspec.Struct):
    time: str
    trade_id: int
    side: str  # The maker's.
    price: str
    size: str


_head = msgspec.json.Decoder(_Head)
_snapshot = msgspec.json.Decoder(_Snapshot)
_update = msgspec.json.Decoder(_Update)
_match = msgspec.json.Decoder(_Match)
_TIMED = ("l2update", "match", "heartbeat", "ticker")


def decoder(products: dict[str, Product]) -> Decoder:
    """Return the decoder for these products."""

    def decode_all(batch: Sequence[bytes]) -> list[Frame | CorruptFrame]:
        return [attempt(decode, data, products) for data in batch]

    return decode_all


def decode(data: bytes, products: dict[str, Product]) -> Frame:
    """Decode one Exchange frame; CorruptFrame if it breaks its format."""
    try:
        head = _head.decode(data)
    except UNREADABLE as e:
        raise CorruptFrame("envelope", e) from None
    name = head.type + (f": {head.message}" if head.type == "error" and head.message else "")
    ns = None
    named = (head.product_id,) if head.product_id else ()
    try:
        if head.type in _TIMED and head.time is not None:
            ns = parse_ns(head.time)
        if head.type not in ("snapshot", "l2update", "match"):
            return Frame(name, None, ns)
        if head.product_id is None:
            raise ValueError("no product_id")
        product = products.get(head.product_id)
        if product is None:
            return Frame(name, None, ns, foreign=1)
        rows = event_rows(_rows(head.type, data, product), ns)
        return Frame(name, None, ns, ((product.id, rows),), trades=head.type == "match")
    except UNREADABLE as e:
        raise CorruptFrame(head.type, e, ns=ns, product_ids=named) from None


def _rows(kind: str, data: bytes, product: Product) -> list[Row]:
    if kind == "snapshot":
        book = _snapshot.decode(data)
        if not book.bids and not book.asks:
            raise ValueError("a snapshot without levels")
        sides = ((BID, book.bids), (ASK, book.asks))
        return [
            level_row(Kind.SNAPSHOT, side, price, size, product)
            for side, levels in sides
            for price, size in levels
        ]
    if kind == "l2update":
        return [
            level_row(Kind.CHANGE, BID if side == "buy" else ASK, price, size, product)
            for side, price, size in _update.decode(data).changes
        ]
    match = _match.decode(data)
    return [trade_row(match.trade_id, match.side, match.price, match.size, product)]
