"""What a customer asks for, checked and turned into an order for the engine."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

import msgspec

from market.events import BUY
from market.ledger import EXACT
from sim.ladder import Order
from sim.wire import MIN_NOTIONAL, Listing

_TIFS = {
    "market_market_ioc": "IOC",
    "sor_limit_ioc": "IOC",
    "limit_limit_gtc": "GTC",
    "limit_limit_gtd": "GTD",
    "limit_limit_fok": "FOK",
}


class Refusal(Exception):
    """An order that is not taken: the venue's reason, and its twin of the preview."""

    def __init__(self, error: str, message: str, preview: str | None = None) -> None:
        super().__init__(message)
        self.error, self.message = error, message
        self.preview = preview or f"PREVIEW_{error}"


def order_of(
    number: int, owner: str, listing: Listing, side: int, configuration: Any, taker: Decimal
) -> Order:
    """Return the order that a configuration describes, with a number for the engine.

    `taker` is the fee rate that a budget has to cover too; Refusal with the venue's reason.
    """
    if not isinstance(configuration, dict) or len(configuration) != 1:
        raise Refusal("UNSUPPORTED_ORDER_CONFIGURATION", "exactly one configuration is needed")
    ((name, terms),) = configuration.items()
    if name not in _TIFS or not isinstance(terms, dict):
        raise Refusal("UNSUPPORTED_ORDER_CONFIGURATION", f"{name} is not supported here")
    market, tif = name == "market_market_ioc", _TIFS[name]
    price = None if market else _ticks(listing, terms.get("limit_price"))
    if "quote_size" in terms:
        if side != BUY or not market or "base_size" in terms:
            raise Refusal("UNSUPPORTED_ORDER_CONFIGURATION", "quote_size is for market buys")
        units = _budget(listing, terms["quote_size"], taker)
        return Order(number, owner, side, None, 0, tif, quote_units=units)
    lots = _lots(listing, terms.get("base_size"))
    if price is not None and EXACT.multiply(lot_tick(listing), price * lots) < Decimal(
        MIN_NOTIONAL
    ):
        raise _too_small("QUOTE", f"an order is for {MIN_NOTIONAL} at least")
    expire_ns = _time_ns(terms.get("end_time")) if tif == "GTD" else None
    post_only = terms.get("post_only", False) is True and tif in ("GTC", "GTD")
    return Order(number, owner, side, price, lots, tif, post_only, expire_ns)


def lot_tick(listing: Listing) -> Decimal:
    """Return what one lot at a price of one tick is in quote currency."""
    return EXACT.multiply(listing.product.quote_increment, listing.product.base_increment)


def quote_size(configuration: Any) -> str | None:
    """Return the budget of a market buy, None if the order is for a size."""
    (terms,) = configuration.values()
    found = terms.get("quote_size")
    return None if found is None else str(found)


def _ticks(listing: Listing, text: Any) -> int:
    try:
        ticks = listing.product.ticks(text)
    except ValueError as e:
        raise Refusal("INVALID_PRICE_PRECISION", f"limit_price: {e}") from None
    if ticks == 0:
        raise Refusal("INVALID_LIMIT_PRICE", "limit_price must be positive")
    return ticks


def _lots(listing: Listing, text: Any) -> int:
    try:
        lots = listing.product.lots(text)
    except ValueError as e:
        raise Refusal("INVALID_SIZE_PRECISION", f"base_size: {e}") from None
    if listing.product.size(lots) < listing.product.base_min_size:
        raise _too_small("BASE", f"an order is for {listing.product.base_min_size} at least")
    return lots


def _too_small(what: str, message: str) -> Refusal:
    preview = f"PREVIEW_INVALID_{what}_SIZE_TOO_SMALL"
    return Refusal("UNKNOWN_FAILURE_REASON", message, preview)


def _time_ns(text: Any) -> int:
    try:
        time: datetime = msgspec.convert(text, Annotated[datetime, msgspec.Meta(tz=True)])
        return (time - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1) * 1_000
    except ValueError:
        raise Refusal("COMMANDER_REJECTED_NEW_ORDER", f"end_time is no time: {text!r}") from None


def _budget(listing: Listing, text: Any, taker: Decimal) -> int:
    """Return what a market buy may spend in ticks * lots, so that the fee is covered too."""
    try:
        listing.product.ticks(text)
    except ValueError as e:
        raise Refusal("INVALID_SIZE_PRECISION", str(e)) from None
    if Decimal(text) < Decimal(MIN_NOTIONAL):
        raise _too_small("QUOTE", f"an order is for {MIN_NOTIONAL} at least")
    whole = EXACT.multiply(lot_tick(listing), EXACT.add(1, taker))
    return int(Fraction(text) / Fraction(whole))
