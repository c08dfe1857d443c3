"""What every decoder turns a wire frame into, and the helpers that decoders share."""

from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, Protocol

import msgspec

from market.events import BUY, SELL, Kind
from market.products import Product

MAX_NS = 1 << 62  # The year 2116.
MAX_TRADE_ID = 1 << 62

# (kind, side, price in ticks, size in lots, trade_id)
Row = tuple[int, int, int, int, int]


class Frame(NamedTuple):
    """One decoded frame.

    A frame without `ns` moves no clock; level rows of such a frame (an Exchange snapshot) take the
    time of the next frame that has one.
    """

    name: str  # What the frame is, for counting: "l2_data", "heartbeats", "error: ...".
    sequence: int | None = None
    ns: int | None = None
    rows: tuple[tuple[str, list[Row]], ...] = ()  # Per product, in the frame's order.
    foreign: int = 0  # Rows of products that were not asked for.


# What a decoder may meet in bytes that are not what they should be.
UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)


class CorruptFrame(ValueError):
    """A frame that must be dropped whole, with what could still be read of it.

    `kind` is one of few words, for counting; `product_ids` are those that the frame names, asked
    for or not, and empty where that cannot be told, so that it may be any.
    """

    def __init__(
        self,
        kind: str,
        detail: object = "",
        *,
        sequence: int | None = None,
        ns: int | None = None,
        product_ids: tuple[str, ...] = (),
    ) -> None:
        self.kind = kind
        self.reason = f"{kind}: {detail}" if detail else kind
        super().__init__(self.reason)
        self.sequence = sequence
        self.ns = ns
        self.product_ids = product_ids


class Decoder(Protocol):
    """Turns the bytes of one frame into a Frame, for the products asked for."""

    def __call__(self, data: bytes, products: dict[str, Product]) -> Frame:
        """Decode a frame; CorruptFrame if it breaks its format."""
        ...


@lru_cache(maxsize=64)
def _second_ns(text: str) -> int:
    parsed = datetime.fromisoformat(text + "+00:00")
    return int(parsed.timestamp()) * 1_000_000_000


def parse_ns(text: str) -> int:
    """Return an RFC 3339 UTC time ("...Z", up to nine digits of fraction) in ns; ValueError."""
    whole, dot, fraction = text[:-1].partition(".")
    digits = fraction.isdecimal() and fraction.isascii() and len(fraction) <= 9
    if text[-1:] != "Z" or len(whole) != 19 or whole[10] != "T" or (dot and not digits):
        raise ValueError(f"{text!r} is not a UTC time")
    ns = _second_ns(whole) + int(fraction.ljust(9, "0"))
    if not 0 <= ns <= MAX_NS:
        raise ValueError(f"{text!r} is no time that a market was open")
    return ns


def taker_of(maker_side: str) -> int:
    """Return the taker's side of a trade whose wire side is the maker's ("buy", "SELL", ...).

    Coinbase's market_trades and match both name the maker; the taker is the other one.
    """
    side = maker_side.lower()
    if side not in ("buy", "sell"):
        raise ValueError(f"unknown side {maker_side!r}")
    return SELL if side == "buy" else BUY


def level_row(kind: Kind, side: int, price: str, size: str, product: Product) -> Row:
    """Return the row of one price level; ValueError if it is off the product's grid."""
    return (kind, side, _positive_ticks(price, product), product.lots(size), 0)


def trade_row(trade_id: int, maker_side: str, price: str, size: str, product: Product) -> Row:
    """Return the row of one trade; ValueError if it is off the product's grid."""
    if not 0 < trade_id <= MAX_TRADE_ID:
        raise ValueError(f"trade_id {trade_id} is out of range")
    ticks = _positive_ticks(price, product)
    return (Kind.TRADE, taker_of(maker_side), ticks, product.lots(size), trade_id)


def _positive_ticks(price: str, product: Product) -> int:
    ticks = product.ticks(price)
    if ticks == 0:
        raise ValueError("a price of zero")
    return ticks
