"""A plain client of the simulated exchange, for the tests of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from market.products import product
from sim.exchange import Exchange, ExchangeConfig

IDS = ("BTC-USD", "XRP-USD")
Frame = dict[str, Any]
Book = dict[str, dict[Decimal, Decimal]]


def play(
    script: Callable[[Exchange, ClientConnection], Awaitable[None]], **changes: Any
) -> Exchange:
    """Run a script as the client of an exchange that goes as fast as it is read."""
    config = ExchangeConfig(**{"products": IDS, "speed": None, **changes})

    async def main() -> Exchange:
        async with asyncio.timeout(30), Exchange(config) as exchange:
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
