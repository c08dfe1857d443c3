"""A customer who trades over REST while it fails: every call is made again until it is answered.

An order is placed again under its own id, so that an answer that was lost places no second one.
"""

import asyncio
from random import Random
from typing import Any, NamedTuple

import aiohttp

from tests.sim.venue import Api, Frame, limit

_PAUSE_S = 0.1
_TRIED_AGAIN = {429, 500, 502}


class Account(NamedTuple):
    """What the customer was told."""

    answers: dict[str, str]  # Of each order it asked for by its own id: the venue's, "" if refused.
    failures: int  # Calls made again.
    orders: list[Frame]
    fills: list[Frame]
    wallets: list[Frame]


class Customer:
    """Trades until it is told to stop; `account` then says what came of it."""

    def __init__(self, url: str, product_ids: tuple[str, ...]) -> None:
        self._url, self._product_ids = url, product_ids
        self._answers: dict[str, str] = {}
        self._failures = 0
        self.stop = asyncio.Event()

    async def trade(self) -> None:
        """Place and cancel orders of every kind."""
        draw = Random(13)
        async with aiohttp.ClientSession() as session:
            api = Api(self._url, session)
            while not self.stop.is_set():
                product_id = draw.choice(self._product_ids)
                said = await self._call(api, "GET", "/product_book", product_id=product_id)
                side, order = _order(draw, said["pricebook"])
                client_order_id = f"order-{len(self._answers)}"
                body = {"client_order_id": client_order_id, "product_id": product_id, "side": side}
                self._answers[client_order_id] = ""
                said = await self._call(
                    api, "POST", "/orders", body | {"order_configuration": order}
                )
                if said["success"]:
                    self._answers[client_order_id] = said["success_response"]["order_id"]
                if draw.random() < 0.3:
                    ids = [id for id in self._answers.values() if id][-3:]
                    await self._call(api, "POST", "/orders/batch_cancel", {"order_ids": ids})
                await asyncio.sleep(_PAUSE_S)

    async def account(self) -> Account:
        """Ask for everything there is."""
        async with aiohttp.ClientSession() as session:
            api = Api(self._url, session)
            orders = await self._pages(api, "/orders/historical/batch", "orders")
            fills = await self._pages(api, "/orders/historical/fills", "fills")
            wallets = await self._pages(api, "/accounts", "accounts")
        return Account(self._answers, self._failures, orders, fills, wallets)

    async def _pages(self, api: Api, path: str, name: str) -> list[Frame]:
        found, cursor = [], ""
        while True:
            said = await self._call(api, "GET", path, **({"cursor": cursor} if cursor else {}))
            found += said[name]
            cursor = said["cursor"]
            if not cursor:
                return found

    async def _call(self, api: Api, method: str, path: str, body: Any = None, **query: Any) -> Any:
        while True:
            try:
                status, said = await api.call(method, path, body, **query)
            except aiohttp.ClientError:
                status, said = 500, ""
            if status == 200:
                return said
            assert status in _TRIED_AGAIN, (method, path, status, said)
            self._failures += 1


def _order(draw: Random, book: Frame) -> tuple[str, Frame]:
    """Return side and terms of an order near the touch, of some ten dollars."""
    side = draw.choice(("BUY", "SELL"))
    levels = book["bids" if side == "BUY" else "asks"]
    price = levels[draw.randrange(min(5, len(levels)))]["price"]
    size = f"{10 / float(price):.0f}"
    kind = draw.choice(("market_market_ioc", "limit_limit_gtc", "sor_limit_ioc", "post_only"))
    if kind == "market_market_ioc":
        return side, {kind: {"base_size": size}}
    if kind == "post_only":
        return side, limit(price, size, post_only=True)
    return side, limit(price, size, kind)
