"""Orders over REST, beside the websocket: they wait in the book like any other and all is told."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from market.events import SELL
from sim.accounts import AccountConfig
from sim.auth import sign
from sim.exchange import Exchange
from tests.sim.venue import (
    ALICE,
    KEY,
    KEY_NAME,
    PRIVATE_PEM,
    SECONDS,
    Api,
    Frame,
    StillMarket,
    ask,
    limit,
    owner_key,
    trade,
    until_ack,
)

BTC, STRK = "BTC-USD", "STRK-USD"


async def listen(socket: ClientConnection, product_id: str) -> None:
    """Subscribe to a customer's orders and a product's trades and book, on one connection."""
    request = {"type": "subscribe", "channel": "user", "jwt": sign(KEY_NAME, PRIVATE_PEM)}
    await socket.send(json.dumps(request))
    await until_ack(socket)
    for channel in ("market_trades", "level2"):
        await ask(socket, "subscribe", channel, product_id)
        await until_ack(socket)


async def events(socket: ClientConnection) -> AsyncIterator[tuple[str, Frame]]:
    """Yield channel and event of every frame; none may be missing in the sequence."""
    last: int | None = None
    async for message in socket:
        frame = json.loads(message)
        assert last is None or frame["sequence_num"] == last + 1
        last = frame["sequence_num"]
        for event in frame["events"]:
            yield frame["channel"], event


def test_an_order_waits_behind_earlier_ones_at_its_price_and_every_channel_tells_of_it() -> None:
    market = StillMarket()
    key, pem = owner_key("bob")
    bob = AccountConfig(owner="bob", keys=(key,))

    async def script(exchange: Exchange, api: Api) -> None:
        sizes: list[str] = []  # Of the bid at 99.99, as told.
        prints: list[tuple[str, str, str]] = []
        filled: list[str] = []  # Alice's, cumulatively.

        async def told(stream: AsyncIterator[tuple[str, Frame]], size: str) -> None:
            """Listen until the bid at 99.99 has a size, and then until trades are printed."""
            async for channel, event in stream:
                if channel == "l2_data":
                    levels = {(u["side"], u["price_level"]): u for u in event["updates"]}
                    sizes.append(levels["bid", "99.99"]["new_quantity"])
                elif channel == "market_trades":
                    rows = event["trades"][::-1]
                    prints.extend((t["price"], t["size"], t["side"]) for t in rows)
                elif channel == "user":
                    filled.extend(order["cumulative_quantity"] for order in event["orders"])
                if sizes[-1:] == [size] and (not taken or sum_of(prints) == taken):
                    return

        def sum_of(rows: list[tuple[str, str, str]]) -> Decimal:
            return sum((Decimal(size) for _, size, _ in rows), Decimal(0))

        async def sell(lots: int) -> None:
            async with exchange.lock:
                market.take(SELL, 9_999, lots)

        taken = Decimal(0)
        async with connect(exchange.url, max_size=None) as socket:
            await listen(socket, BTC)
            stream = events(socket)
            first = await api.order("BUY", limit("99.99", "0.5"), "alice 1")
            await told(stream, "1.50000000")
            api.name, api.pem = key.name, pem
            second = await api.order("BUY", limit("99.99", "0.3"), "bob 1")
            await told(stream, "1.80000000")

            # The flow's 1 BTC was there first, then Alice, then Bob.
            taken += Decimal("1.2")
            await sell(12 * 10**7)
            await told(stream, "0.60000000")
            assert prints == [("99.99", "1.00000000", "BUY"), ("99.99", "0.20000000", "BUY")]
            taken += Decimal("0.4")
            await sell(4 * 10**7)
            await told(stream, "0.20000000")
            assert prints[2:] == [("99.99", "0.30000000", "BUY"), ("99.99", "0.10000000", "BUY")]
            assert filled[:1] == ["0"] and filled[-1] == "0.50000000"

            # Who leaves and comes back is last.
            api.name, api.pem = KEY_NAME, PRIVATE_PEM
            third = await api.order("BUY", limit("99.99", "0.4"), "alice 2")
            await told(stream, "0.60000000")
            api.name, api.pem = key.name, pem
            await api.call("POST", "/orders/batch_cancel", {"order_ids": [second["order_id"]]})
            await told(stream, "0.40000000")
            fourth = await api.order("BUY", limit("99.99", "0.3"), "bob 2")
            await told(stream, "0.70000000")
            taken += Decimal("0.4")
            await sell(4 * 10**7)
            await told(stream, "0.30000000")
            assert await state(api, fourth) == ("OPEN", "0")
            assert await state(api, second) == ("CANCELLED", "0.10000000")
            api.name, api.pem = KEY_NAME, PRIVATE_PEM
            assert await state(api, first) == ("FILLED", "0.50000000")
            assert await state(api, third) == ("FILLED", "0.40000000")

    trade(script, market, accounts=(ALICE, bob))


async def state(api: Api, said: Any) -> tuple[str, str]:
    _, answer = await api.call("GET", f"/orders/historical/{said['order_id']}")
    return answer["order"]["status"], answer["order"]["filled_size"]


def test_the_flow_fills_an_order_at_the_touch_and_the_feed_prints_its_trades() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        async with connect(exchange.url, max_size=None) as socket:
            await listen(socket, STRK)
            _, book = await api.call("GET", "/product_book", product_id=STRK, limit="1")
            best = book["pricebook"]["bids"][0]
            said = await api.order("BUY", limit(best["price"], "0.5", post_only=True), "1", STRK)
            assert said["success"]
            printed: dict[str, tuple[str, str]] = {}
            orders: list[Frame] = []
            async for channel, event in events(socket):
                if channel == "market_trades" and event["type"] == "update":
                    printed |= {
                        f"{STRK}-{t['trade_id']}": (t["price"], t["side"]) for t in event["trades"]
                    }
                elif channel == "user":
                    orders += event["orders"]
                # Trades are printed a moment after the book has changed.
                if orders and orders[-1]["status"] == "FILLED":
                    _, fills = await api.call("GET", "/orders/historical/fills")
                    if {fill["trade_id"] for fill in fills["fills"]} <= set(printed):
                        break
        assert orders[-1]["avg_price"] == f"{Decimal(best['price']).normalize():f}"
        for fill in fills["fills"]:
            assert (fill["liquidity_indicator"], fill["price"]) == ("MAKER", best["price"])
            assert printed[fill["trade_id"]] == (best["price"], "BUY")
        assert sum(Decimal(fill["size"]) for fill in fills["fills"]) == Decimal("0.5")

    ann = AccountConfig(owner="alice", keys=(KEY,))
    trade(script, products=(STRK,), market=SECONDS, accounts=(ann,))
