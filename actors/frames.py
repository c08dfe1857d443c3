"""What every decoder turns a wire frame into, and the helpers that decoders share."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.events import BUY, EVENT, SELL, Kind
from market.products import Product
from market.windows import MAX_NS

MAX_TRADE_ID = 1 << 62

# (kind, side, price in ticks, size in lots, trade_id)
Row = tuple[int, int, int, int, int]


class Frame(msgspec.Struct, frozen=True):
    """One decoded frame.

    A frame without `ns` moves no clock; level rows of such a frame (an Exchange snapshot) take the
    time of the next frame that has one. The rows are EVENT[n] as `event_rows` returns them.
    """

    name: str  # What the frame is, for counting: "l2_data", "heartbeats", "error: ...".
    sequence: int | None = None
    ns: int | None = None
    rows: tuple[tuple[str, NDArray[np.void]], ...] = ()  # Per product, in the frame's order.
    foreign: int = 0  # Rows of products that were not asked for.
    trades: bool = False  # Its rows are trades, else they are levels.


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
    """Turns frames received together into what each says, for the products it was made for."""

    def __call__(self, batch: Sequence[bytes]) -> Sequence[Frame | CorruptFrame]:
        """Decode frames; in the place of one that breaks its format, why."""
        ...


# A wire format: makes the decoder for the products asked for.
WireFormat = Callable[[dict[str, Product]], Decoder]


def attempt(
    decode: Callable[[bytes, dict[str, Product]], Frame], data: bytes, products: dict[str, Product]
) -> Frame | CorruptFrame:
    """Return what a frame says or, as a value, why it is corrupt."""
    try:
        return decode(data, products)
    except CorruptFrame as e:
        return e


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


def event_rows(rows: list[Row], ns: int | None) -> NDArray[np.void]:
    """Return one product's rows of a frame as EVENT[n], the last one marked.

    `ns` is the frame's own time, 0 if it has none; `recv_ns` is 0: the decoder does not know it.
    """
    events = np.array([(ns or 0, 0, k, s, 0, 0, p, q, t) for k, s, p, q, t in rows], EVENT)
    events["last"][-1:] = 1
    return events


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
