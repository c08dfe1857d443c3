"""Today's products and increments, from the venue's public REST: what to record, and on which grid.

A product that cannot be used is left out with the reason, and never spoils the others.
"""

from typing import Any

import msgspec
import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from market.errors import QuaverError
from market.products import UNIVERSE, Product, product_of

_PATH = "/market/products"
_TRIES = 4
_LONGEST_WAIT_S = 4.0
_MOST_PAGES = 100  # A cursor that never ends is a fault.
# Flags under which the venue sends a book that nobody can trade on, or none.
_FLAGS = ("is_disabled", "trading_disabled", "cancel_only", "auction_mode", "view_only")
_TABLE = {listed.id: listed for listed in UNIVERSE}


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What the venue said of the products that were wanted."""

    products: list[Product]  # Those to record, in the order wanted, with today's increments.
    left_out: dict[str, str]  # The others, and why.
    changed: dict[str, str]  # Where today's increments differ from the built-in table, and how.


class _Again(Exception):
    """An answer that may be another one when asked for again."""


def fetch_products(rest_url: str, wanted: list[str], timeout_s: float = 10.0) -> Listing:
    """Ask `rest_url` (.../api/v3/brokerage) for the products wanted.

    QuaverError if it cannot be reached or answers nonsense, after a few tries.
    """
    listed = _all_products(rest_url.rstrip("/") + _PATH, timeout_s)
    products: list[Product] = []
    left_out: dict[str, str] = {}
    changed: dict[str, str] = {}
    for product_id in wanted:
        try:
            found = _product(product_id, listed.get(product_id))
        except QuaverError as e:
            left_out[product_id] = str(e)
            continue
        products.append(found)
        known = _TABLE.get(product_id)
        if known is not None and known != found:
            changed[product_id] = f"{_grid(known)} in the built-in table, {_grid(found)} today"
    return Listing(products=products, left_out=left_out, changed=changed)


def _product(product_id: str, fields: dict[str, Any] | None) -> Product:
    """Return a product as it is listed; QuaverError that says why it cannot be recorded."""
    if fields is None:
        raise QuaverError("the venue does not list it")
    status = fields.get("status")
    # An unknown status is no reason: the book decides, by coming or not.
    if isinstance(status, str) and status.lower() in ("offline", "delisted"):
        raise QuaverError(f"its status is {status}")
    if flags := [flag for flag in _FLAGS if fields.get(flag) is True]:
        raise QuaverError(f"the venue has set {', '.join(flags)}")
    price = fields.get("price_increment") or fields.get("quote_increment")
    base = fields.get("base_increment")
    return product_of(product_id, price, base, fields.get("base_min_size") or base)  # type: ignore[arg-type]


def _grid(product: Product) -> str:
    numbers = (product.quote_increment, product.base_increment, product.base_min_size)
    return "/".join(f"{number:f}" for number in numbers)


def _all_products(url: str, timeout_s: float) -> dict[str, dict[str, Any]]:
    """Return every product that the venue lists, by id, page by page."""
    found: dict[str, dict[str, Any]] = {}
    cursor = ""
    with requests.Session() as session:
        for _ in range(_MOST_PAGES):
            page = _page(session, url, cursor, timeout_s)
            listed = page.get("products")
            if not isinstance(listed, list):
                raise _unusable(url, "its answer holds no list of products")
            for fields in listed:
                if isinstance(fields, dict) and isinstance(fields.get("product_id"), str):
                    found[fields["product_id"]] = fields
            pagination = page.get("pagination")
            more = pagination if isinstance(pagination, dict) else page
            following = more.get("next_cursor") or more.get("cursor") or ""
            if not more.get("has_next") or not following or following == cursor:
                break
            cursor = str(following)
    if not found:
        raise _unusable(url, "it lists no product")
    return found


def _page(session: requests.Session, url: str, cursor: str, timeout_s: float) -> dict[str, Any]:
    """Return one page; what may pass (429, 5xx, a lost or slow answer) is tried again."""
    retrying = Retrying(
        retry=retry_if_exception_type((_Again, requests.ConnectionError, requests.Timeout)),
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(multiplier=0.25, max=_LONGEST_WAIT_S),
        reraise=True,
    )
    try:
        return retrying(_get, session, url, cursor, timeout_s)
    except (_Again, requests.RequestException) as e:
        raise _unusable(url, str(e)) from None


def _get(session: requests.Session, url: str, cursor: str, timeout_s: float) -> dict[str, Any]:
    params = {"cursor": cursor} if cursor else {}
    answer = session.get(url, params=params, timeout=timeout_s)
    if answer.status_code == 429 or answer.status_code >= 500:
        raise _Again(f"HTTP {answer.status_code}: {answer.text[:200]}")
    if answer.status_code != 200:
        raise _unusable(url, f"HTTP {answer.status_code}: {answer.text[:200]}")
    try:
        page = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _Again(f"it answers no JSON: {answer.text[:200]!r}") from None
    if not isinstance(page, dict):
        raise _unusable(url, f"it answers {type(page).__name__} instead of an object")
    return page


def _unusable(url: str, why: str) -> QuaverError:
    return QuaverError(
        f"cannot get today's products from {url}: {why}; check the address and the network, or "
        "use the built-in table, which may be out of date"
    )
