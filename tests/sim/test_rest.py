"""REST as the venue's fact sheet has it: orders, accounts, tokens, and funds that are conserved."""

import asyncio
import json
import time
from decimal import Decimal
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from market.actions import Fees
from market.events import BUY, SELL
from market.products import product
from sim.accounts import AccountConfig, Accounts
from sim.auth import ApiKey, Keyring, Unauthorized, new_key, sign
from sim.exchange import Exchange
from sim.faults import Fault, FaultKind
from sim.orders import Broker, Placed
from sim.rest_calls import PREFIX
from sim.terms import Refusal
from sim.wire import Listing, time_ns
from tests.sim.venue import (
    ALICE,
    KEY,
    KEY_NAME,
    PRIVATE_PEM,
    Api,
    StillMarket,
    ask,
    kinds,
    limit,
    owner_key,
    receive,
    trade,
    until_ack,
)

pytestmark = pytest.mark.slow


FEES = Fees(taker_bps=40.0, maker_bps=25.0)


async def balances(api: Api) -> dict[str, tuple[str, str]]:
    """Available and held, per currency."""
    _, said = await api.call("GET", "/accounts")
    return {
        one["currency"]: (one["available_balance"]["value"], one["hold"]["value"])
        for one in said["accounts"]
    }


def test_a_resting_order_holds_its_funds_shows_in_the_feed_and_gives_them_back() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        async with connect(exchange.url, max_size=None) as socket:
            await ask(socket, "subscribe", "level2", "BTC-USD")
            await until_ack(socket)
            said = await api.order("BUY", limit("99.97", "2"))
            assert said["success"] and said["success_response"] == {
                "order_id": said["order_id"],
                "product_id": "BTC-USD",
                "side": "BUY",
                "client_order_id": "one",
            }
            frame = await receive(socket)
            assert frame["events"][0]["updates"] == [
                {
                    "side": "bid",
                    "event_time": frame["events"][0]["updates"][0]["event_time"],
                    "price_level": "99.97",
                    "new_quantity": "3.00000000",
                }
            ]
            # 2 x 99.97 and 0.4 % of it.
            assert await balances(api) == {"BTC": ("1", "0"), "USD": ("9799.26024", "200.73976")}
            _, order = await api.call("GET", f"/orders/historical/{said['order_id']}")
            assert order["order"]["status"] == "OPEN"
            _, done = await api.call(
                "POST", "/orders/batch_cancel", {"order_ids": [said["order_id"], "nothing"]}
            )
            assert [(r["success"], r["failure_reason"]) for r in done["results"]] == [
                (True, "UNKNOWN_CANCEL_FAILURE_REASON"),
                (False, "UNKNOWN_CANCEL_ORDER"),
            ]
            assert (await receive(socket))["events"][0]["updates"][0][
                "new_quantity"
            ] == "1.00000000"
            assert await balances(api) == {"BTC": ("1", "0"), "USD": ("10000", "0")}
            _, order = await api.call("GET", f"/orders/historical/{said['order_id']}")
            assert order["order"]["status"] == "CANCELLED"

    trade(script, fees=FEES)


def test_a_taker_pays_the_book_its_price_and_the_takers_fee_and_the_trade_prints() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        async with connect(exchange.url, max_size=None) as socket:
            await ask(socket, "subscribe", "market_trades", "BTC-USD")
            await ask(socket, "subscribe", "level2", "BTC-USD")
            await until_ack(socket)
            await until_ack(socket)
            said = await api.order("BUY", limit("100.02", "1.5", "sor_limit_ioc"))
            frames = [await receive(socket)]
            while ("update", "BTC-USD") not in kinds(frames, "market_trades"):
                frames.append(await receive(socket))
        trades = frames[-1]["events"][0]["trades"]
        assert [(t["price"], t["size"], t["side"]) for t in trades] == [
            ("100.02", "0.50000000", "SELL"),  # Newest first; the maker sold.
            ("100.01", "1.00000000", "SELL"),
        ]
        # 100.01 + 0.5 x 100.02 = 150.02, fee 0.4 %: 0.60008.
        assert await balances(api) == {"BTC": ("2.5", "0"), "USD": ("9849.37992", "0")}
        _, fills = await api.call("GET", "/orders/historical/fills", order_ids=said["order_id"])
        assert sorted((f["price"], f["commission"]) for f in fills["fills"]) == [
            ("100.01", "0.40004"),
            ("100.02", "0.20004"),
        ]
        assert {f["liquidity_indicator"] for f in fills["fills"]} == {"TAKER"}
        _, order = await api.call("GET", f"/orders/historical/{said['order_id']}")
        row = order["order"]
        assert (row["status"], row["filled_size"], row["filled_value"], row["total_fees"]) == (
            "FILLED",
            "1.50000000",
            "150.02",
            "0.60008",
        )
        assert row["total_value_after_fees"] == "150.62008"

    trade(script, fees=FEES)


def test_a_maker_is_filled_by_the_flow_at_its_price_and_pays_the_makers_fee() -> None:
    market = StillMarket()

    async def script(exchange: Exchange, api: Api) -> None:
        said = await api.order("SELL", limit("100.00", "0.5", post_only=True))
        assert await balances(api) == {"BTC": ("0.5", "0.5"), "USD": ("10000", "0")}
        async with exchange.lock:
            market.take(BUY, 10_000, 2 * 10**7)
            await exchange.book_orders()
        # 0.2 x 100 less 0.25 %.
        assert await balances(api) == {"BTC": ("0.5", "0.3"), "USD": ("10019.95", "0")}
        _, fills = await api.call("GET", "/orders/historical/fills")
        assert [(f["size"], f["liquidity_indicator"]) for f in fills["fills"]] == [
            ("0.20000000", "MAKER")
        ]
        _, order = await api.call("GET", f"/orders/historical/{said['order_id']}")
        assert (order["order"]["status"], order["order"]["completion_percentage"]) == ("OPEN", "40")

    trade(script, market, fees=FEES)


def test_a_market_buy_by_quote_spends_no_more_than_that_with_the_fee() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        said = await api.order("BUY", {"market_market_ioc": {"quote_size": "50.00"}})
        _, order = await api.call("GET", f"/orders/historical/{said['order_id']}")
        spent = Decimal(order["order"]["total_value_after_fees"])
        lot = Decimal("100.01") * Decimal("1e-8") * Decimal("1.004")
        assert Decimal("50.00") - lot < spent <= Decimal("50.00")
        assert order["order"]["status"] == "FILLED"
        assert (await balances(api))["USD"] == (str(10_000 - spent), "0")
        sold = await api.order("SELL", {"market_market_ioc": {"base_size": "1"}}, "two")
        assert sold["success"]

    trade(script, fees=FEES)


def test_a_limited_buy_by_quote_stops_at_its_price() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        budget = {"sor_limit_ioc": {"quote_size": "500.00", "limit_price": "100.02"}}
        said = await api.order("BUY", budget)
        _, order = await api.call("GET", f"/orders/historical/{said['order_id']}")
        row = order["order"]
        # 1 BTC at 100.01 and 1 at 100.02; the next costs more than it may.
        assert (row["status"], row["filled_size"], row["filled_value"], row["order_type"]) == (
            "CANCELLED",
            "2.00000000",
            "200.03",
            "LIMIT",
        )
        assert (await balances(api))["USD"] == (str(Decimal("9799.97") - Decimal("0.80012")), "0")
        within = {"sor_limit_ioc": {"quote_size": "50.00", "limit_price": "100.03"}}
        said = await api.order("BUY", within, "two")
        _, order = await api.call("GET", f"/orders/historical/{said['order_id']}")
        assert order["order"]["status"] == "FILLED"
        assert 49.99 < float(order["order"]["total_value_after_fees"]) <= 50.00
        below = {"sor_limit_ioc": {"quote_size": "50.00", "limit_price": "100.00"}}
        said = await api.order("BUY", below, "three")
        _, order = await api.call("GET", f"/orders/historical/{said['order_id']}")
        assert (order["order"]["status"], order["order"]["number_of_fills"]) == ("CANCELLED", "0")

    trade(script, fees=FEES)


def test_the_same_client_order_id_returns_the_first_order_and_places_no_other() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        first = await api.order("BUY", limit("99.00", "1"))
        assert await api.order("BUY", limit("99.00", "1")) == first
        assert await api.order("BUY", limit("98.00", "2")) == first
        _, said = await api.call("GET", "/orders/historical/batch")
        assert len(said["orders"]) == 1
        assert (await api.order("BUY", limit("99.00", "1"), "two"))["order_id"] != first["order_id"]
        # A refused one may be tried again.
        assert not (await api.order("BUY", limit("99.00", "1000"), "three"))["success"]
        assert (await api.order("BUY", limit("99.00", "1"), "three"))["success"]

    trade(script)


@pytest.mark.parametrize(
    ("side", "configuration", "error", "preview"),
    [
        ("BUY", limit("99.00", "1000"), "INSUFFICIENT_FUND", "PREVIEW_INSUFFICIENT_FUND"),
        ("SELL", limit("101.00", "1.00000001"), "INSUFFICIENT_FUND", None),
        ("BUY", limit("100.01", "1", post_only=True), "INVALID_LIMIT_PRICE_POST_ONLY", None),
        ("BUY", limit("99.001", "1"), "INVALID_PRICE_PRECISION", None),
        ("BUY", limit("-1", "1"), "INVALID_PRICE_PRECISION", None),
        ("BUY", limit("0", "1"), "INVALID_LIMIT_PRICE", None),
        ("BUY", limit("99.00", "0.000000001"), "INVALID_SIZE_PRECISION", None),
        ("BUY", {"limit_limit_gtc": {"limit_price": "1"}}, "INVALID_SIZE_PRECISION", None),
        ("HOLD", limit("99.00", "1"), "INVALID_SIDE", None),
        ("BUY", {"market_market_ioc": {"quote_size": "10.001"}}, "INVALID_SIZE_PRECISION", None),
        (
            "BUY",
            limit("99.00", "0"),
            "UNKNOWN_FAILURE_REASON",
            "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL",
        ),
        (
            "BUY",
            limit("99.00", "0.01"),
            "UNKNOWN_FAILURE_REASON",
            "PREVIEW_INVALID_QUOTE_SIZE_TOO_SMALL",
        ),
        (
            "BUY",
            {"market_market_ioc": {"quote_size": "0.99"}},
            "UNKNOWN_FAILURE_REASON",
            "PREVIEW_INVALID_QUOTE_SIZE_TOO_SMALL",
        ),
        (
            "SELL",
            {"market_market_ioc": {"quote_size": "10"}},
            "UNSUPPORTED_ORDER_CONFIGURATION",
            None,
        ),
        (
            "BUY",
            limit("99.00", "1", "limit_limit_fok", quote_size="10"),
            "UNSUPPORTED_ORDER_CONFIGURATION",
            None,
        ),
        (
            "BUY",
            limit("99.00", "1", post_only="true"),
            "UNSUPPORTED_ORDER_CONFIGURATION",
            None,
        ),
        ("BUY", limit(99, 1), "INVALID_PRICE_PRECISION", None),  # type: ignore[arg-type]
        ("BUY", {"market_market_fok": {}}, "UNSUPPORTED_ORDER_CONFIGURATION", None),
        ("BUY", {}, "UNSUPPORTED_ORDER_CONFIGURATION", None),
        (
            "BUY",
            limit("99.00", "1", "limit_limit_gtd", end_time="2020-01-01T00:00:00Z"),
            "COMMANDER_REJECTED_NEW_ORDER",
            None,
        ),
        (
            "BUY",
            limit("99.00", "1", "limit_limit_gtd"),
            "COMMANDER_REJECTED_NEW_ORDER",
            None,
        ),
        *(
            (
                "BUY",
                limit("99.00", "1", "limit_limit_gtd", end_time=end_time),
                "COMMANDER_REJECTED_NEW_ORDER",
                None,
            )
            for end_time in ("soon", "2030-01-01", "2030-01-01T00:00:00", "", 1_900_000_000)
        ),
    ],
)
def test_a_refused_order_is_200_with_the_venues_reason_and_costs_nothing(
    side: str, configuration: Any, error: str, preview: str | None
) -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        said = await api.order(side, configuration)
        assert (said["success"], said["order_id"]) == (False, "")
        assert said["error_response"]["error"] == error
        if preview:
            assert said["error_response"]["preview_failure_reason"] == preview
        assert said["order_configuration"] == configuration
        assert await balances(api) == {"BTC": ("1", "0"), "USD": ("10000", "0")}

    trade(script)


def test_an_order_for_an_unknown_product_is_refused() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        said = await api.order("BUY", limit("1", "1"), product_id="NOPE-USD")
        assert said["error_response"]["error"] == "INVALID_PRODUCT_ID"

    trade(script)


def test_a_good_till_date_order_expires_in_event_time() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        end = limit("99.00", "1", "limit_limit_gtd", end_time="2026-01-05T00:00:02Z")
        said = await api.order("BUY", end)
        async with connect(exchange.url, max_size=None) as socket:
            await ask(socket, "subscribe", "level2", "BTC-USD")
            async for _ in socket:
                pass
        _, order = await api.call("GET", f"/orders/historical/{said['order_id']}")
        assert order["order"]["status"] == "EXPIRED"
        assert order["order"]["last_update_time"].startswith("2026-01-05T00:00:02")
        assert await balances(api) == {"BTC": ("1", "0"), "USD": ("10000", "0")}

    trade(script, duration_s=4.0)


@pytest.mark.parametrize(
    "text",
    ["2026-01-05T00:00:02Z", "2026-01-05T01:30:02+01:30", "2026-01-05T00:00:02.000000000Z"],
)
def test_an_end_time_may_be_of_any_zone(text: str) -> None:
    assert time_ns(text) == 1_767_571_202 * 10**9
    assert time_ns(text.replace(":02", ":02.000000007", 1).replace("007.000000000", "007")) in (
        1_767_571_202 * 10**9 + 7,
    )


def test_a_fill_or_kill_that_cannot_be_filled_whole_is_cancelled_untouched() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        said = await api.order("BUY", limit("100.02", "2.5", "limit_limit_fok"))
        assert said["success"]
        _, order = await api.call("GET", f"/orders/historical/{said['order_id']}")
        assert (order["order"]["status"], order["order"]["number_of_fills"]) == ("CANCELLED", "0")
        assert await balances(api) == {"BTC": ("1", "0"), "USD": ("10000", "0")}

    trade(script)


def test_orders_are_listed_newest_first_by_pages_and_filters() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        for number in range(5):
            await api.order("BUY", limit(f"9{number}.00", "1"), f"id {number}")
        await api.order("BUY", limit("100.01", "1", "sor_limit_ioc"), "taken")
        seen: list[str] = []
        cursor = ""
        for more in (True, True, False):
            _, page = await api.call(
                "GET",
                "/orders/historical/batch",
                limit="2",
                **({"cursor": cursor} if cursor else {}),
            )
            seen += [one["client_order_id"] for one in page["orders"]]
            cursor = page["cursor"]
            assert page["has_next"] is more
            if more:  # What is placed meanwhile moves no page.
                await api.order("BUY", limit("80.00", "1"), f"new {len(seen)}")
        assert seen == ["taken", "id 4", "id 3", "id 2", "id 1", "id 0"]
        _, said = await api.call("GET", "/orders/historical/batch", order_status="FILLED")
        assert [one["client_order_id"] for one in said["orders"]] == ["taken"]
        status, _ = await api.call("GET", "/orders/historical/batch", limit="no")
        assert status == 400

    trade(script)


def test_orders_and_fills_are_listed_from_a_time_to_before_another() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        start_ns = exchange.now_ns
        for seconds in range(3):
            exchange.now_ns = start_ns + seconds * 10**9 + 700
            await api.order("BUY", limit("100.05", "0.1", "sor_limit_ioc"), f"{seconds}")

        async def listed(path: str, **query: Any) -> list[str]:
            status, said = await api.call("GET", f"/orders/historical/{path}", **query)
            assert status == 200
            return [one[ids[path]] for one in said["orders" if path == "batch" else "fills"]]

        ids = {"batch": "client_order_id", "fills": "order_id"}
        orders = await listed("fills")
        for path, start, end, whole in (
            ("batch", "start_date", "end_date", ["2", "1", "0"]),
            ("fills", "start_sequence_timestamp", "end_sequence_timestamp", orders),
        ):
            assert await listed(path) == whole
            exact = "2026-01-05T00:00:01.000000700Z"
            assert await listed(path, **{start: exact}) == whole[:2]
            assert await listed(path, **{end: exact}) == whole[2:]
            assert await listed(path, **{start: "2026-01-05T00:00:01.000000701Z"}) == whole[:1]
            # A text comparison would have it wrong: "." is before "Z", and zones differ.
            assert await listed(path, **{start: "2026-01-05T00:00:01Z"}) == whole[:2]
            assert await listed(path, **{start: "2026-01-05T01:00:02+01:00"}) == whole[:1]
            status, said = await api.call(
                "GET", f"/orders/historical/{path}", **{start: "yesterday"}
            )
            assert (status, said["error"]) == (400, "INVALID_ARGUMENT")

    trade(script)


def test_filters_may_list_several_values_and_all_must_fit() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        made = [
            await api.order("BUY", limit("100.01", "0.1", "sor_limit_ioc"), "taken"),
            await api.order("BUY", limit("90.00", "0.1"), "bid"),
            await api.order("SELL", limit("110.00", "0.1"), "offer"),
        ]
        ids = [said["order_id"] for said in made]

        async def listed(**query: Any) -> list[str]:
            _, said = await api.call("GET", "/orders/historical/batch", **query)
            return [one["client_order_id"] for one in said["orders"]]

        assert await listed(order_side="BUY") == ["bid", "taken"]
        assert await listed(order_side="BUY", order_status="OPEN") == ["bid"]
        assert await listed(time_in_forces="IMMEDIATE_OR_CANCEL") == ["taken"]
        assert await listed(product_ids="ETH-USD") == []
        assert await listed(product_type="SPOT", order_types="LIMIT") == ["offer", "bid", "taken"]
        path = f"/orders/historical/batch?order_ids={ids[0]}&order_ids={ids[2]}"
        token = sign(KEY_NAME, PRIVATE_PEM, f"GET api.coinbase.com{PREFIX}/orders/historical/batch")
        headers = {"Authorization": f"Bearer {token}"}
        async with api.session.get(f"{api.url}{PREFIX}{path}", headers=headers) as answer:
            rows = (await answer.json())["orders"]
        assert [one["client_order_id"] for one in rows] == ["offer", "taken"]
        _, said = await api.call("GET", "/orders/historical/fills")
        (trade_id,) = [fill["trade_id"] for fill in said["fills"]]
        for wanted, count in ((trade_id, 1), ("nothing", 0)):
            _, said = await api.call("GET", "/orders/historical/fills", trade_ids=wanted)
            assert len(said["fills"]) == count

    trade(script)


def test_wallets_come_by_pages_and_one_by_one() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        _, first = await api.call("GET", "/accounts", limit="1")
        assert (first["has_next"], [w["currency"] for w in first["accounts"]]) == (True, ["BTC"])
        _, second = await api.call("GET", "/accounts", limit="1", cursor=first["cursor"])
        assert (second["has_next"], second["cursor"]) == (False, "")
        (wallet,) = second["accounts"]
        assert wallet["currency"] == "USD"
        assert await api.call("GET", f"/accounts/{wallet['uuid']}") == (200, {"account": wallet})
        assert (await api.call("GET", "/accounts/nothing"))[0] == 404
        for wrong in ({"limit": "0"}, {"limit": "-1"}, {"cursor": "x"}):
            assert (await api.call("GET", "/accounts", **wrong))[0] == 400

    trade(script)


def test_what_is_public_needs_no_token_and_what_is_not_does() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        async def get(path: str) -> tuple[int, Any]:
            async with api.session.get(f"{api.url}{PREFIX}{path}") as answer:
                return answer.status, await answer.json()

        status, said = await get("/market/products")
        assert (status, said["num_products"]) == (200, 1)
        row = said["products"][0]
        assert (row["quote_increment"], row["base_increment"], row["status"]) == (
            "0.01",
            "0.00000001",
            "online",
        )
        assert await get("/market/products/BTC-USD") == (200, row)
        assert (await get("/market/products/NOPE-USD"))[0] == 404
        status, said = await get("/time")
        assert said == {
            "iso": "2026-01-05T00:00:00.000000000Z",
            "epochSeconds": "1767571200",
            "epochMillis": "1767571200000",
        }
        status, said = await get("/market/product_book?product_id=BTC-USD&limit=1")
        assert said["pricebook"]["bids"] == [{"price": "99.99", "size": "1.00000000"}]
        assert (said["mid_market"], said["spread_absolute"]) == ("100", "0.02")
        for path in ("/products", "/best_bid_ask", "/accounts", "/orders/historical/batch"):
            status, said = await get(path)
            assert status == 401 and set(said) == {"error", "error_details", "message"}
        assert (await get("/market/best_bid_ask"))[0] == 404

        _, said = await api.call("GET", "/best_bid_ask", product_ids="BTC-USD")
        assert said["pricebooks"][0]["asks"] == [{"price": "100.01", "size": "1.00000000"}]
        assert (await api.call("GET", "/products"))[1]["products"] == [row]
        assert (await api.call("GET", "/key_permissions"))[1]["can_trade"] is True
        _, said = await api.call("GET", "/transaction_summary")
        assert said["fee_tier"]["taker_fee_rate"] == "0.004"
        assert (await api.call("GET", "/orders/historical/nothing"))[0] == 404
        assert (await api.call("GET", "/nonsense"))[0] == 404

    trade(script, fees=FEES)


def test_a_key_may_be_for_looking_only() -> None:
    key, pem = owner_key("bob", can_trade=False)
    bob = AccountConfig(owner="bob", keys=(key,))

    async def script(exchange: Exchange, api: Api) -> None:
        first = await api.order("BUY", limit("99.00", "1"))
        api.name, api.pem = key.name, pem
        assert await balances(api) == {"USD": ("100000", "0")}
        status, said = await api.call("POST", "/orders/batch_cancel", {"order_ids": []})
        assert (status, said["error_details"]) == (403, "Missing required scopes")
        # Another's orders are not there.
        assert (await api.call("GET", f"/orders/historical/{first['order_id']}"))[0] == 404
        assert (await api.call("GET", "/orders/historical/batch"))[1]["orders"] == []

    trade(script, accounts=(ALICE, bob))


def test_nobody_cancels_the_order_of_another() -> None:
    key, pem = owner_key("bob")

    async def script(exchange: Exchange, api: Api) -> None:
        first = await api.order("BUY", limit("99.00", "1"))
        api.name, api.pem = key.name, pem
        _, done = await api.call("POST", "/orders/batch_cancel", {"order_ids": [first["order_id"]]})
        assert done["results"][0]["failure_reason"] == "UNKNOWN_CANCEL_ORDER"
        assert exchange.book("BTC-USD")[0][9_900] == 10**8

    trade(script, accounts=(ALICE, AccountConfig(owner="bob", keys=(key,))))


@pytest.mark.parametrize("body", [[], {"product_id": "BTC-USD"}, {"client_order_id": ""}])
def test_a_body_that_is_no_order_is_400(body: Any) -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        status, said = await api.call("POST", "/orders", body)
        assert (status, said["error"]) == (400, "INVALID_ARGUMENT")

    trade(script)


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)
TERMS = st.fixed_dictionaries(
    {},
    optional={
        name: st.one_of(JUNK, st.sampled_from(["1", "100.00", "1e3", "-1", "NaN", "9" * 400]))
        for name in ("base_size", "quote_size", "limit_price", "post_only", "end_time")
    },
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        JUNK,
        st.dictionaries(
            st.sampled_from(
                ["limit_limit_gtc", "limit_limit_gtd", "sor_limit_ioc", "market_market_ioc"]
            ),
            st.one_of(JUNK, TERMS),
        ),
    ),
    st.one_of(JUNK, st.sampled_from(["BUY", "SELL"])),
)
def test_no_order_whatever_it_says_breaks_the_venue(configuration: Any, side: Any) -> None:
    trading = Trading()
    request = {"client_order_id": "1", "product_id": BTC.id, "side": side}
    try:
        trading.broker.place("alice", request | {"order_configuration": configuration}, 0)
    except Refusal as refusal:
        assert refusal.error and refusal.message
    trading.broker.book_fills(0)
    assert trading.accounts.sum("USD") == 3 * Decimal("500.37")


URI = "GET api.coinbase.com/api/v3/brokerage/accounts"


def token(**changes: Any) -> str:
    """A token for URI with claims changed, or left out where None; `nonce` and `kid` as well."""
    now = int(time.time())
    claims = {
        "sub": KEY_NAME,
        "iss": "cdp",
        "nbf": now,
        "exp": now + 120,
        "uri": URI,
    } | {name: value for name, value in changes.items() if name not in ("nonce", "kid")}
    headers = {"nonce": "1f", "kid": KEY_NAME} | {
        name: changes[name] for name in ("nonce", "kid") if name in changes
    }
    headers = {name: value for name, value in headers.items() if value is not None}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, PRIVATE_PEM, "ES256", headers)


@pytest.mark.parametrize(
    "changes",
    [
        {"uri": URI + "?limit=1"},
        {"uri": URI.replace("GET", "POST")},
        {"uri": None},
        {"iss": "coinbase"},
        {"iss": None},
        {"sub": "someone"},
        {"nbf": -400, "exp": -280},  # Times count from now.
        {"nbf": 300, "exp": 400},
        {"exp": 600},
        {"exp": "600"},
        {"nbf": "then"},
        {"exp": None},
        {"nbf": None},
        {"nonce": None},
        {"kid": "unknown"},
        {"kid": None},
    ],
)
def test_a_token_with_anything_wrong_is_refused(changes: dict[str, Any]) -> None:
    keys = Keyring((KEY,))
    assert keys.check(token(), (URI,)) == KEY
    now = int(time.time())
    for name in changes.keys() & {"nbf", "exp"}:
        if isinstance(changes[name], int):
            changes = changes | {name: now + changes[name]}
        elif changes[name] == "600":
            changes = changes | {name: str(now + 600)}
    with pytest.raises(Unauthorized):
        keys.check(token(**changes), (URI,))


def test_tokens_of_others_and_of_other_algorithms_are_refused_and_ed25519_is_taken() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ed = ApiKey(name="ed", public_pem=public.decode(), owner="eve")
    keys = Keyring((KEY, ed))
    now = int(time.time())  # Not when the tests were collected: a token lives two minutes.
    claims = {"sub": "ed", "iss": "cdp", "nbf": now, "exp": now + 120}
    headers = {"kid": "ed", "nonce": "1"}
    assert keys.check(jwt.encode(claims, private, "EdDSA", headers)) == ed
    _, forged = new_key(KEY_NAME, "alice")
    for wrong in (
        sign(KEY_NAME, forged, URI),
        jwt.encode(claims | {"uri": URI}, "x" * 40, "HS256", headers),
        jwt.encode(claims | {"uri": URI}, None, "none", headers),
        "",
        "nonsense",
    ):
        with pytest.raises(Unauthorized):
            keys.check(wrong, (URI,))


# Faults.


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        (FaultKind.REST_FAILED, 500, None),
        (FaultKind.REST_TEXT, 502, "<html>502 Bad Gateway</html>"),
        (
            FaultKind.REST_LIMITED,
            429,
            {"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]},
        ),
    ],
)
def test_rest_fails_as_often_as_told_and_places_nothing(
    kind: FaultKind, status: int, body: Any
) -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        await exchange.inject(Fault(kind=kind, count=2))
        order = {"client_order_id": "a", "product_id": "BTC-USD", "side": "BUY"}
        order |= {"order_configuration": limit("99.00", "1")}
        for _ in range(2):
            got, said = await api.call("POST", "/orders", order)
            assert got == status and (body is None or said == body)
        assert (await api.call("GET", "/orders/historical/batch"))[1]["orders"] == []
        assert [fault.kind for fault in exchange.tape.faults] == [kind] * 2

    trade(script)


def test_a_lost_answer_leaves_an_order_that_the_same_id_finds_again() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        fault = json.dumps({"kind": "rest_lost"})
        async with api.session.post(f"{api.url}/sim/faults", data=fault) as answer:
            assert await answer.json() == {"injected": True}
        with pytest.raises(aiohttp.ClientError):
            await api.order("BUY", limit("99.00", "1"))
        _, said = await api.call("GET", "/orders/historical/batch")
        assert [one["client_order_id"] for one in said["orders"]] == ["one"]
        again = await api.order("BUY", limit("99.00", "1"))
        assert again["order_id"] == said["orders"][0]["order_id"]
        async with api.session.post(f"{api.url}/sim/faults", data="{}") as answer:
            assert answer.status == 400

    trade(script)


def test_a_slow_answer_comes_late() -> None:
    async def script(exchange: Exchange, api: Api) -> None:
        await exchange.inject(Fault(kind=FaultKind.REST_SLOW, seconds=0.2))
        began = asyncio.get_running_loop().time()
        assert (await api.call("GET", "/accounts"))[0] == 200
        assert asyncio.get_running_loop().time() - began >= 0.2

    trade(script)


# Funds.

BTC = product("BTC-USD")
OWNERS = ("alice", "bob", "carol")
ACTION = st.one_of(
    st.tuples(
        st.just("limit"),
        st.sampled_from(OWNERS),
        st.sampled_from(("BUY", "SELL")),
        st.sampled_from(("limit_limit_gtc", "limit_limit_fok", "sor_limit_ioc", "limit_limit_gtd")),
        st.integers(9_990, 10_010),
        st.integers(10**6, 3 * 10**8),
        st.booleans(),
    ),
    st.tuples(st.just("quote"), st.sampled_from(OWNERS), st.integers(1, 60_000)),
    st.tuples(
        st.just("market"),
        st.sampled_from(OWNERS),
        st.sampled_from(("BUY", "SELL")),
        st.integers(1, 3 * 10**8),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(
        st.just("flow"),
        st.sampled_from((BUY, SELL)),
        st.integers(9_985, 10_015),
        st.integers(1, 4 * 10**8),
    ),
    st.tuples(st.just("time"), st.integers(1, 3)),
)


class Trading:
    """Random traffic of three owners against the flow, one action at a time."""

    def __init__(self) -> None:
        self.market = StillMarket()
        self.accounts = Accounts(
            tuple(
                AccountConfig(owner=o, balances={"USD": Decimal("500.37"), "BTC": Decimal("2.5")})
                for o in OWNERS
            )
        )
        listings = {BTC.id: Listing(BTC)}
        self.broker = Broker(listings, self.market.engines, self.accounts, FEES)
        self.now_ns, self.ids = 0, 0

    def act(self, action: tuple[Any, ...]) -> None:
        kind, *rest = action
        if kind == "limit":
            owner, side, name, price, lots, post_only = rest
            terms = limit(f"{BTC.price(price):f}", f"{BTC.size(lots):f}", name, post_only=post_only)
            terms[name]["end_time"] = f"1970-01-01T00:00:{self.now_ns // 10**9 + 2:02d}Z"
            self.place(owner, side, terms)
        elif kind == "quote":
            owner, cents = rest
            size = f"{BTC.price(cents):f}"
            self.place(owner, "BUY", {"market_market_ioc": {"quote_size": size}})
        elif kind == "market":
            owner, side, lots = rest
            size = f"{BTC.size(lots):f}"
            self.place(owner, side, {"market_market_ioc": {"base_size": size}})
        elif kind == "cancel":
            placed = list(self.broker.placed.values())[rest[0] : rest[0] + 1]
            for one in placed:
                self.broker.cancel(one.owner, one.order_id, self.now_ns)
        elif kind == "flow":
            self.market.take(*rest)
        else:
            self.now_ns = min(50 * 10**9, self.now_ns + rest[0] * 10**9)
        self.broker.book_fills(self.now_ns)

    def place(self, owner: str, side: str, terms: Any) -> None:
        self.ids += 1
        request = {"client_order_id": str(self.ids), "product_id": BTC.id, "side": side}
        try:
            self.broker.place(owner, request | {"order_configuration": terms}, self.now_ns)
        except Refusal:
            pass

    def open(self) -> list[Placed]:
        return [one for one in self.broker.placed.values() if self.broker.is_open(one)]


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTION, max_size=40))
def test_funds_are_conserved_exactly_and_never_negative(actions: list[tuple[Any, ...]]) -> None:
    trading = Trading()
    accounts = trading.accounts
    whole = {"USD": 3 * Decimal("500.37"), "BTC": 3 * Decimal("2.5")}
    for action in actions:
        trading.act(action)
        assert {currency: accounts.sum(currency) for currency in whole} == whole
        for owner in OWNERS:
            for currency in whole:
                held = accounts.held(owner, currency)
                assert 0 <= held <= accounts.total(owner, currency)
                mine = [
                    o for o in trading.open() if (o.owner, o.hold_currency) == (owner, currency)
                ]
                assert held == sum((one.held for one in mine), Decimal(0))
                if currency == "BTC":
                    assert held == sum((BTC.size(one.order.left) for one in mine), Decimal(0))
    # What each owner has follows from the fills alone.
    for owner in OWNERS:
        usd, btc = Decimal("500.37"), Decimal("2.5")
        for one in trading.broker.placed.values():
            for fill in one.fills if one.owner == owner else []:
                sign = 1 if one.order.side == BUY else -1
                value = BTC.price(fill.price_ticks) * BTC.size(fill.lots)
                rate = Decimal("0.0025") if fill.maker else Decimal("0.004")
                usd -= sign * value + value * rate
                btc += sign * BTC.size(fill.lots)
        assert (accounts.total(owner, "USD"), accounts.total(owner, "BTC")) == (usd, btc)
