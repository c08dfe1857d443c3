"""A plain client of the simulated exchange, for the tests of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import aiohttp
from websockets.asyncio.client import ClientConnection, connect

from market.events import BUY, SELL
from market.products import Product, product
from sim.accounts import AccountConfig
from sim.auth import ApiKey, new_key, sign
from sim.engine import Engine, Trade
from sim.exchange import Exchange
from sim.exchange_config import ExchangeConfig
from sim.flow import FlowConfig
from sim.ladder import Change, Levels, Order
from sim.rest import Rest
from sim.rest_calls import PREFIX
from sim.world import Market

IDS = ("STRK-USD", "CRV-USD")  # Those with the smallest books.
SECONDS = FlowConfig(tick_s=1.0)  # One frame a second.
Frame = dict[str, Any]
Book = dict[str, dict[Decimal, Decimal]]


def play(
    script: Callable[[Exchange, ClientConnection], Awaitable[None]],
    books: Market | None = None,
    **changes: Any,
) -> Exchange:
    """Run a script as the client of an exchange that goes as fast as it is read."""
    config = ExchangeConfig(**{"products": IDS, "market": SECONDS, "speed": None, **changes})

    async def main() -> Exchange:
        async with asyncio.timeout(30), Exchange(config, books) as exchange:
            # A client that leaves with a full queue would wait this long for the farewell.
            async with connect(exchange.url, max_size=None, close_timeout=0.2) as socket:
                await script(exchange, socket)
        return exchange

    return asyncio.run(main())


async def ask(socket: ClientConnection, kind: str, channel: str, *ids: str) -> None:
    request: Frame = {"type": kind, "channel": channel}
    if ids:
        request["product_ids"] = list(ids)
    await socket.send(json.dumps(request))


async def receive(socket: ClientConnection) -> Frame:
    frame: Frame = json.loads(await socket.recv())
    return frame


async def until_ack(socket: ClientConnection) -> list[Frame]:
    frames = [await receive(socket)]
    while frames[-1]["channel"] != "subscriptions":
        frames.append(await receive(socket))
    return frames


async def until_closed(socket: ClientConnection) -> list[Frame]:
    return [json.loads(message) async for message in socket]


def subscriptions(frame: Frame) -> Frame:
    found: Frame = frame["events"][0]["subscriptions"]
    return found


def kinds(frames: list[Frame], channel: str) -> list[tuple[str, str]]:
    """(type, product) of the book events, or of the trade events, in order."""
    events = [event for frame in frames if frame["channel"] == channel for event in frame["events"]]
    if channel == "l2_data":
        return [(event["type"], event["product_id"]) for event in events]
    return [(event["type"], event["trades"][0]["product_id"]) for event in events]


def apply(books: dict[str, Book], frame: Frame) -> None:
    for event in frame["events"]:
        if event["type"] == "snapshot":
            books[event["product_id"]] = {"bid": {}, "offer": {}}
        for update in event["updates"]:
            side = books[event["product_id"]][update["side"]]
            price, size = Decimal(update["price_level"]), Decimal(update["new_quantity"])
            if size:
                side[price] = size
            else:
                side.pop(price, None)


def true_book(exchange: Exchange, name: str) -> Book:
    listed = product(name)
    bids, asks = exchange.book(name)
    return {
        side: {listed.price(price): listed.size(size) for price, size in levels.items()}
        for side, levels in (("bid", bids), ("offer", asks))
    }


async def all_frames(exchange: Exchange, socket: ClientConnection) -> list[Frame]:
    for channel in ("heartbeats", "market_trades", "level2"):
        await ask(socket, "subscribe", channel, *([] if channel == "heartbeats" else IDS))
    return await until_closed(socket)


# Orders.

KEY_NAME = "organizations/test/apiKeys/1"
KEY, PRIVATE_PEM = new_key(KEY_NAME, "alice")
ALICE = AccountConfig(
    owner="alice", balances={"USD": Decimal(10_000), "BTC": Decimal(1)}, keys=(KEY,)
)


class StillMarket:
    """Markets in which nobody moves: 10**8 lots at each tick around 10,000, which has none.

    That is, of BTC-USD: 1 BTC at each cent, bid 99.99, ask 100.01.
    """

    tick_ns = 50_000_000

    def __init__(self, ids: tuple[str, ...] = ("BTC-USD",)) -> None:
        self.products: tuple[Product, ...] = tuple(product(id) for id in ids)
        self.engines = [Engine() for _ in ids]
        self._last_id = 100
        for number in range(1, 6):
            for side, price in ((BUY, 10_000 - number), (SELL, 10_000 + number)):
                for engine in self.engines:
                    order = Order(2 * number + (side == SELL), None, side, price, 10**8)
                    engine.submit(order, 0)

    def take(self, side: int, price: int, lots: int) -> None:
        """Let the flow take what rests up to a price in ticks."""
        self._last_id += 1
        self.engines[0].submit(Order(self._last_id, None, side, price, lots, "IOC"), 0)

    def advance(self, to_ns: int) -> None:
        """Nothing happens by itself."""

    def drain(self, index: int) -> tuple[list[Change], list[Trade]]:
        return self.engines[index].drain()

    def book(self, index: int) -> tuple[Levels, Levels]:
        return self.engines[index].book()


class TakenMarket(StillMarket):
    """In every step somebody buys at the touch, then somebody sells there."""

    def advance(self, to_ns: int) -> None:
        self.take(BUY, 10_005, 10**6)
        self.take(SELL, 9_995, 10**6)


class Api:
    """A customer of the REST interface."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self.session = url, session
        self.name, self.pem = KEY_NAME, PRIVATE_PEM

    async def call(self, method: str, path: str, body: Any = None, **query: Any) -> tuple[int, Any]:
        """Return status and answer of a signed request; text if the answer is no JSON."""
        host = self.url.removeprefix("http://")
        token = sign(self.name, self.pem, f"{method} {host}{PREFIX}{path}")
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self.url}{PREFIX}{path}"
        async with self.session.request(
            method, url, headers=headers, json=body, params=query
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else text

    async def order(
        self, side: str, configuration: Frame, id: str = "one", product_id: str = "BTC-USD"
    ) -> Any:
        """Place an order; return the answer."""
        body = {
            "client_order_id": id,
            "product_id": product_id,
            "side": side,
            "order_configuration": configuration,
        }
        status, said = await self.call("POST", "/orders", body)
        assert status == 200
        return said


def limit(price: str, size: str, kind: str = "limit_limit_gtc", **terms: Any) -> Frame:
    return {kind: {"base_size": size, "limit_price": price, **terms}}


def trade(
    script: Callable[[Exchange, Api], Awaitable[None]],
    books: Market | None = None,
    accounts: tuple[AccountConfig, ...] = (ALICE,),
    **changes: Any,
) -> Exchange:
    """Run a script as the customer of an exchange, whose market is still if none is given."""
    if books is None and "market" not in changes:
        books = StillMarket()
    config = ExchangeConfig(
        **{"products": ("BTC-USD",), "speed": None, "accounts": accounts, **changes}
    )

    async def main() -> Exchange:
        async with (
            asyncio.timeout(30),
            Exchange(config, books) as exchange,
            Rest(exchange) as rest,
            aiohttp.ClientSession() as session,
        ):
            await script(exchange, Api(rest.url, session))
        return exchange

    return asyncio.run(main())


def owner_key(owner: str, **rights: bool) -> tuple[ApiKey, str]:
    """Return a key of another customer, and its private half."""
    key, pem = new_key(f"organizations/test/apiKeys/{owner}", owner)
    fields = {name: getattr(key, name) for name in key.__struct_fields__}
    return ApiKey(**fields | rights), pem
