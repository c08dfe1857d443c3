"""The `user` channel: open orders in batches, then cumulative states, to whom they belong."""

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from market.events import BUY
from sim.accounts import AccountConfig
from sim.auth import sign
from sim.exchange import Exchange
from tests.sim.venue import (
    ALICE,
    KEY_NAME,
    PRIVATE_PEM,
    Api,
    Frame,
    StillMarket,
    limit,
    owner_key,
    receive,
    trade,
    until_ack,
)

REFUSAL = {"type": "error", "message": "authentication failure"}


async def subscribe(socket: ClientConnection, token: str, kind: str = "subscribe") -> None:
    await socket.send(json.dumps({"type": kind, "channel": "user", "jwt": token}))


def token() -> str:
    return sign(KEY_NAME, PRIVATE_PEM)


def orders(frames: list[Frame], kind: str) -> list[list[dict[str, Any]]]:
    events = [frame["events"][0] for frame in frames if frame["channel"] == "user"]
    return [event["orders"] for event in events if event["type"] == kind]


@pytest.mark.parametrize(("placed", "batches"), [(0, [0]), (3, [3]), (50, [50, 0]), (51, [50, 1])])
def test_the_snapshot_has_open_orders_by_fifty_until_a_batch_is_short(
    placed: int, batches: list[int]
) -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        for number in range(placed):
            await api.order("BUY", limit("50.00", "0.1"), f"order {number}")
        await api.order("BUY", limit("100.01", "0.1", "sor_limit_ioc"), "over")
        async with connect(exchange.url) as socket:
            await subscribe(socket, token())
            frames = await until_ack(socket)
        found = orders(frames, "snapshot")
        assert [len(batch) for batch in found] == batches
        ids = [order["client_order_id"] for batch in found for order in batch]
        assert ids == [f"order {number}" for number in range(placed)]
        assert [frame["sequence_num"] for frame in frames] == list(range(len(frames)))
        assert frames[-1]["events"] == [{"subscriptions": {"user": ["alice"]}}]

    trade(script)


def test_an_order_is_told_when_it_opens_fills_and_ends_in_text_and_cumulatively() -> None:
    market = StillMarket()

    async def script(exchange: Exchange, api: Api) -> None:
        async with connect(exchange.url) as socket:
            await subscribe(socket, token())
            await until_ack(socket)
            said = await api.order("SELL", limit("100.00", "0.5", post_only=True))
            async with exchange.lock:
                market.take(BUY, 10_000, 2 * 10**7)
                await exchange.book_orders()
                market.take(BUY, 10_000, 10**7)
                await exchange.book_orders()
            await api.call("POST", "/orders/batch_cancel", {"order_ids": [said["order_id"]]})
            frames = [await receive(socket) for _ in range(4)]
        states = [batch[0] for batch in orders(frames, "update")]
        assert all(isinstance(value, str) for state in states for value in state.values())
        assert {state["order_id"] for state in states} == {said["order_id"]}
        assert [
            (s["status"], s["cumulative_quantity"], s["leaves_quantity"], s["number_of_fills"])
            for s in states
        ] == [
            ("OPEN", "0", "0.50000000", "0"),
            ("OPEN", "0.20000000", "0.30000000", "1"),
            ("OPEN", "0.30000000", "0.20000000", "2"),
            ("CANCELLED", "0.30000000", "0", "2"),
        ]
        last = states[-1]
        assert (last["avg_price"], last["filled_value"], last["order_side"]) == (
            "100",
            "30",
            "SELL",
        )
        assert (last["post_only"], last["limit_price"], last["outstanding_hold_amount"]) == (
            "true",
            "100.00",
            "0",
        )

    trade(script, market)


def test_an_order_that_is_filled_at_once_is_told_once_with_its_fills() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        async with connect(exchange.url) as socket:
            await subscribe(socket, token())
            await until_ack(socket)
            await api.order("BUY", limit("100.02", "1.5", "sor_limit_ioc"))
            await api.order("BUY", limit("50.00", "1"), "next")
            states = [(await receive(socket))["events"][0]["orders"] for _ in range(2)]
        told = [(s["client_order_id"], s["status"], s["number_of_fills"]) for (s,) in states]
        assert told == [("one", "FILLED", "2"), ("next", "OPEN", "0")]

    trade(script)


def test_a_customer_sees_no_order_of_another() -> None:
    key, pem = owner_key("bob")
    bob = AccountConfig(owner="bob", keys=(key,))

    async def script(exchange: Exchange, api: Api) -> None:
        async with connect(exchange.url) as mine, connect(exchange.url) as theirs:
            await subscribe(mine, token())
            await subscribe(theirs, sign(key.name, pem))
            await asyncio.gather(until_ack(mine), until_ack(theirs))
            await api.order("BUY", limit("100.00", "0.5"))
            assert (await receive(mine))["events"][0]["orders"][0]["status"] == "OPEN"
            # Bob sells to it: both are told, each of their own order.
            api.name, api.pem = key.name, pem
            assert not (await api.order("SELL", limit("100.00", "0.2")))["success"]  # No BTC.
            await api.order("BUY", limit("99.00", "1"), "two")
            seen = (await receive(theirs))["events"][0]["orders"]
            assert [order["client_order_id"] for order in seen] == ["two"]

    trade(script, accounts=(ALICE, bob))


@pytest.mark.parametrize("wrong", ["", "nonsense"])
def test_without_a_good_token_there_is_no_user_channel(wrong: str) -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        async with connect(exchange.url) as socket:
            await subscribe(socket, wrong)
            assert await receive(socket) == REFUSAL
            await subscribe(socket, token())
            await until_ack(socket)
            await subscribe(socket, "", "unsubscribe")
            assert (await receive(socket))["events"] == [{"subscriptions": {}}]
            await api.order("BUY", limit("50.00", "0.1"))
            await subscribe(socket, token())
            frames = await until_ack(socket)
            assert len(orders(frames, "snapshot")[0]) == 1 and not orders(frames, "update")

    trade(script)
