"""What REST says: products, books, wallets and answers to orders, in the venue's words."""

import uuid
from typing import Any

from sim.accounts import Accounts
from sim.ladder import Levels
from sim.orders import Placed
from sim.terms import Refusal
from sim.user_feed import decimal_text, rest_row
from sim.wire import MIN_NOTIONAL, Listing, timestamp_text

_UUIDS = uuid.UUID("0f6d3c53-5c0e-4b57-9d3f-6a2c8f0c7e11")
_FLAGS = (
    "is_disabled",
    "trading_disabled",
    "cancel_only",
    "limit_only",
    "post_only",
    "auction_mode",
    "view_only",
    "new",
)


def uuid_of(name: str) -> str:
    """Return an id that is always the same for a name."""
    return str(uuid.uuid5(_UUIDS, name))


def product_row(listing: Listing) -> dict[str, Any]:
    """Return a product, tradable as all here are."""
    one, flag = listing.product, dict.fromkeys(_FLAGS, False)
    base, _, quote = one.id.partition("-")
    last = listing.history[-1][0].price_ticks if listing.history else None
    return {
        "product_id": one.id,
        "price": "" if last is None else listing.price_text(last),
        "base_increment": f"{one.base_increment:f}",
        "quote_increment": f"{one.quote_increment:f}",
        "price_increment": f"{one.quote_increment:f}",
        "quote_min_size": MIN_NOTIONAL,
        "quote_max_size": "150000000",
        "base_min_size": f"{one.base_min_size:f}",
        "base_max_size": "",
        "status": "online",
        **flag,
        "product_type": "SPOT",
        "product_venue": "CBE",
        "base_currency_id": base,
        "quote_currency_id": quote,
        "alias": "",
        "alias_to": [],
        "volume_24h": "",
        "approximate_quote_24h_volume": "",
    }


def pricebook(listing: Listing, bids: Levels, asks: Levels, limit: int, ns: int) -> dict[str, Any]:
    """Return the best `limit` levels of each side, the best first."""

    def rows(levels: Levels, best_first: list[int]) -> list[dict[str, str]]:
        price, size = listing.price_text, listing.size_text
        return [{"price": price(p), "size": size(levels[p])} for p in best_first[:limit]]

    return {
        "product_id": listing.product.id,
        "bids": rows(bids, sorted(bids, reverse=True)),
        "asks": rows(asks, sorted(asks)),
        "time": timestamp_text(ns),
    }


def account_rows(accounts: Accounts, owner: str) -> list[dict[str, Any]]:
    """Return the wallets of a customer, in order of their currencies."""
    rows = []
    for currency in accounts.currencies(owner):
        available = decimal_text(accounts.available(owner, currency))
        held = decimal_text(accounts.held(owner, currency))
        rows.append(
            {
                "uuid": uuid_of(f"{owner}/{currency}"),
                "name": f"{currency} Wallet",
                "currency": currency,
                "available_balance": {"value": available, "currency": currency},
                "default": currency == "USD",
                "active": True,
                "type": "ACCOUNT_TYPE_FIAT" if currency == "USD" else "ACCOUNT_TYPE_CRYPTO",
                "ready": True,
                "hold": {"value": held, "currency": currency},
            }
        )
    return rows


def accepted(placed: Placed) -> dict[str, Any]:
    """Return the answer to an order that was taken, now or before."""
    side = rest_row(placed)["side"]
    return {
        "success": True,
        "failure_reason": "UNKNOWN_FAILURE_REASON",
        "order_id": placed.order_id,
        "success_response": {
            "order_id": placed.order_id,
            "product_id": placed.product_id,
            "side": side,
            "client_order_id": placed.client_order_id,
        },
        "order_configuration": placed.configuration,
    }


def refused(refusal: Refusal, body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to an order that was not taken; its status is 200 as well."""
    return {
        "success": False,
        "failure_reason": "UNKNOWN_FAILURE_REASON",
        "order_id": "",
        "error_response": {
            "error": refusal.error,
            "message": refusal.message,
            "error_details": "",
            "preview_failure_reason": refusal.preview,
            "new_order_failure_reason": refusal.error,
        },
        "order_configuration": body.get("order_configuration"),
    }
