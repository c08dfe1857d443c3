"""Products from REST, over real HTTP on loopback: today's grids, and why some are left out."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from actors import listing
from actors.listing import fetch_products
from market.errors import QuaverError
from market.products import product

Answer = tuple[int, bytes]
BTC, ETH = "BTC-USD", "ETH-USD"


@contextmanager
def rest(*answers: Answer | Callable[[str], Answer]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers in turn, the last one for ever; and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            status, body = answer(self.path) if callable(answer) else answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                pass  # The client did not wait.

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api/v3/brokerage", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_LONGEST_WAIT_S", 0.01)


def listed(product_id: str, **changes: Any) -> dict[str, Any]:
    """A product as the venue lists it."""
    return {
        "product_id": product_id,
        "price": "",
        "base_increment": "0.00000001",
        "quote_increment": "0.01",
        "price_increment": "0.01",
        "base_min_size": "0.00000001",
        "status": "online",
        "is_disabled": False,
        "trading_disabled": False,
        "cancel_only": False,
        "limit_only": False,
        "post_only": False,
        "auction_mode": False,
        "view_only": False,
        "alias": "",
        "alias_to": ["BTC-USDC"],
    } | changes


def page(*products: object, **more: object) -> Answer:
    return 200, json.dumps({"products": products, "num_products": len(products)} | more).encode()


def test_products_come_in_the_order_wanted_with_todays_increments() -> None:
    answer = page(listed(ETH), listed(BTC, price_increment="0.1"), listed("NEW-USD"))
    with rest(answer) as (url, asked):
        found = fetch_products(url, [BTC, "NEW-USD", ETH], 5.0)
    assert [p.id for p in found.products] == [BTC, "NEW-USD", ETH]
    assert found.products[0].quote_increment == Decimal("0.1")
    assert found.products[2] == product(ETH)
    assert found.left_out == {}
    assert list(found.changed) == [BTC]
    assert found.changed[BTC].startswith("0.01/")
    assert "0.1/0.00000001/0.00000001 today" in found.changed[BTC]
    assert asked == ["/api/v3/brokerage/market/products"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "offline"}, "offline"),
        ({"status": "delisted"}, "delisted"),
        ({"is_disabled": True}, "is_disabled"),
        ({"trading_disabled": True}, "trading_disabled"),
        ({"cancel_only": True}, "cancel_only"),
        ({"auction_mode": True}, "auction_mode"),
        ({"view_only": True}, "view_only"),
        ({"price_increment": "0"}, "positive"),
        ({"price_increment": "-0.01"}, "positive"),
        ({"base_increment": "0.0000000000000000000001"}, "positive"),
        ({"base_increment": ""}, "increments"),
        ({"base_increment": None}, "text"),
        ({"price_increment": 0.01}, "text"),
        ({"price_increment": ["0.01"]}, "text"),
        ({"base_increment": "a lot"}, "numbers"),
        ({"base_min_size": "NaN"}, "positive"),
        ({"price_increment": "", "quote_increment": ""}, "increments"),
    ],
)
def test_a_product_that_cannot_be_used_is_left_out_with_the_reason(
    changes: dict[str, Any], reason: str
) -> None:
    with rest(page(listed(BTC, **changes), listed(ETH))) as (url, _):
        found = fetch_products(url, [BTC, ETH], 5.0)
    assert [p.id for p in found.products] == [ETH]
    assert list(found.left_out) == [BTC]
    assert reason in found.left_out[BTC]


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "something new"},
        {"status": ""},
        {"status": None},
        {"limit_only": True},
        {"post_only": True},
        {"base_min_size": ""},
        {"price_increment": ""},
        {"price_increment": None},
        {"a_new_field": {"of": ["any", "kind"]}},
    ],
)
def test_what_is_unknown_or_empty_is_tolerated(changes: dict[str, Any]) -> None:
    with rest(page(listed(BTC, **changes))) as (url, _):
        assert fetch_products(url, [BTC], 5.0).products == [product(BTC)]


def test_an_unknown_product_is_left_out_and_rubbish_in_the_list_is_passed_over() -> None:
    with rest(page(None, 7, {"product_id": 7}, {}, listed(BTC))) as (url, _):
        found = fetch_products(url, [BTC, "NONE-USD"], 5.0)
    assert found.products == [product(BTC)]
    assert found.left_out == {"NONE-USD": "the venue does not list it"}


def test_every_page_is_read() -> None:
    def paged(path: str) -> Answer:
        cursor = parse_qs(urlsplit(path).query).get("cursor", [""])[0]
        if not cursor:
            return page(listed(BTC), pagination={"next_cursor": "p2", "has_next": True})
        return page(listed(ETH), pagination={"next_cursor": "", "has_next": False})

    with rest(paged) as (url, asked):
        assert len(fetch_products(url, [BTC, ETH], 5.0).products) == 2
    assert len(asked) == 2


def test_a_cursor_that_never_ends_is_followed_for_so_long_only() -> None:
    counter = iter(range(10_000))

    def endless(path: str) -> Answer:
        return page(listed(BTC), pagination={"next_cursor": str(next(counter)), "has_next": True})

    with rest(endless) as (url, asked):
        assert len(fetch_products(url, [BTC], 5.0).products) == 1
    assert len(asked) == 100


@pytest.mark.parametrize(
    "passing",
    [
        (429, b'{"errors":[{"id":"rate_limit_exceeded","message":"Too many requests"}]}'),
        (500, b"oops"),
        (503, b""),
        (200, page(listed(BTC))[1][:-20]),
        (200, b"<html>upstream connect error</html>"),
    ],
    ids=["429", "500", "503", "truncated", "plain text"],
)
def test_what_may_pass_is_tried_again(passing: Answer) -> None:
    with rest(passing, passing, page(listed(BTC))) as (url, asked):
        assert fetch_products(url, [BTC], 5.0).products == [product(BTC)]
    assert len(asked) == 3


def test_a_slow_answer_is_not_waited_for() -> None:
    def slow(path: str) -> Answer:
        time.sleep(0.3)
        return page(listed(BTC))

    with rest(slow, page(listed(BTC))) as (url, asked):
        assert fetch_products(url, [BTC], 0.1).products == [product(BTC)]
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "tries", "reason"),
    [
        ((429, b"slow down"), 4, "HTTP 429"),
        ((502, b"bad gateway"), 4, "HTTP 502"),
        ((200, b"plain text"), 4, "no JSON"),
        ((200, b"\xff\xfe"), 4, "no JSON"),
        ((404, b"not here"), 1, "HTTP 404"),
        ((200, b"[]"), 1, "list"),
        ((200, b"{}"), 1, "no list of products"),
        ((200, b'{"products":{}}'), 1, "no list of products"),
        ((200, b'{"products":[]}'), 1, "lists no product"),
    ],
)
def test_an_address_that_answers_nonsense_is_named_with_what_to_do(
    answer: Answer, tries: int, reason: str
) -> None:
    with rest(answer) as (url, asked):
        with pytest.raises(QuaverError, match=f"{reason}.*built-in table") as raised:
            fetch_products(url, [BTC], 5.0)
    assert url in str(raised.value)
    assert len(asked) == tries


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "no address", "ftp://127.0.0.1/x"])
def test_an_address_that_cannot_be_reached_is_named(url: str) -> None:
    with pytest.raises(QuaverError, match=r"cannot get today's products from"):
        fetch_products(url, [BTC], 1.0)
