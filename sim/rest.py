"""The exchange's REST interface, at the venue's paths; `/sim/faults` takes faults from outside.

Event time is the time of the answers; tokens are checked by the clock of this machine.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, Self

import msgspec
from aiohttp import web

from market.errors import QuaverError
from sim.auth import ApiKey, Keyring, Unauthorized
from sim.exchange import Exchange
from sim.faults import Fault, FaultKind
from sim.limits import Limiter
from sim.orders import Broker, Placed, Refusal
from sim.tape import FaultDone
from sim.user_feed import decimal_text, fill_rows, rest_row
from sim.wire import MIN_NOTIONAL, Listing, timestamp_text

PREFIX = "/api/v3/brokerage"
HOST = "api.coinbase.com"  # A token may also be for the host that the request names.
_PAGE, _MAX_BODY_BYTES, _UUIDS = 100, 1 << 20, uuid.UUID("0f6d3c53-5c0e-4b57-9d3f-6a2c8f0c7e11")
_KEY = web.RequestKey("key", ApiKey)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RestError(Exception):
    """An answer that is not 200, with the venue's body."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"error": error, "error_details": message, "message": message}


class Rest:
    """Serves one exchange; `start` and `stop` belong to the exchange's loop."""

    def __init__(
        self,
        exchange: Exchange,
        port: int = 0,
        *,
        public_per_s: int | None = None,
        private_per_s: int | None = None,
    ) -> None:
        """Limits: calls a second of one address, and of one customer; none by default."""
        self._exchange, self._port = exchange, port
        self._public, self._private = Limiter(public_per_s), Limiter(private_per_s)
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    async def start(self) -> None:
        """Listen on 127.0.0.1; QuaverError if the port is taken."""
        app = web.Application(middlewares=[self._guard], client_max_size=_MAX_BODY_BYTES)
        get, post = app.router.add_get, app.router.add_post
        get(f"{PREFIX}/time", self._time)
        for public in ("", "/market"):
            get(f"{PREFIX}{public}/products", self._products)
            get(f"{PREFIX}{public}/products/{{id}}", self._product)
            get(f"{PREFIX}{public}/product_book", self._product_book)
        get(f"{PREFIX}/best_bid_ask", self._best_bid_ask)
        get(f"{PREFIX}/accounts", self._accounts)
        get(f"{PREFIX}/orders/historical/batch", self._orders)
        get(f"{PREFIX}/orders/historical/fills", self._fills)
        get(f"{PREFIX}/orders/historical/{{id}}", self._order)
        get(f"{PREFIX}/transaction_summary", self._fees)
        get(f"{PREFIX}/key_permissions", self._permissions)
        post(f"{PREFIX}/orders", self._create)
        post(f"{PREFIX}/orders/batch_cancel", self._cancel)
        post("/sim/faults", self._inject)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        try:
            await self._site.start()
        except OSError as e:
            await self._runner.cleanup()
            raise QuaverError(
                f"the simulated exchange cannot listen on port {self._port}: {e.strerror}; choose "
                "another, or 0 for any free one"
            ) from None

    async def stop(self) -> None:
        """Stop answering."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where requests go, without the path; only after `start`."""
        if self._runner is None or not self._runner.addresses:
            raise QuaverError("the REST interface has no address before it is started")
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    # What every request passes.

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/sim/faults":
            return await handler(request)
        fault = self._exchange.rest_faults.pop(0) if self._exchange.rest_faults else None
        if fault is not None:
            self._log(fault, request)
            if fault.kind is FaultKind.REST_SLOW:
                await asyncio.sleep(fault.seconds)
            elif fault.kind is not FaultKind.REST_LOST:
                return _broken(fault.kind)
        try:
            self._check(request)
            answer = await handler(request)
        except RestError as e:
            answer = _json(e.body, e.status)
        except web.HTTPNotFound:
            answer = _json({"error": "NOT_FOUND", "error_details": "", "message": "not found"}, 404)
        if fault is not None and fault.kind is FaultKind.REST_LOST and request.transport:
            request.transport.abort()
        return answer

    def _log(self, fault: Fault, request: web.Request) -> None:
        detail = f"{request.method} {request.path}"
        self._exchange.tape.fault(FaultDone(fault.kind.value, self._exchange.now_ns, detail=detail))

    def _check(self, request: web.Request) -> None:
        """Admit a request: its rate, and, where one is needed, its token."""
        now_s, path = time.monotonic(), request.path
        public = path.startswith(f"{PREFIX}/market/") or path == f"{PREFIX}/time"
        if public:
            if not self._public.admits(request.remote or "", now_s):
                raise _limited()
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        said = f"{request.method} {{}}{path}"
        uris = (said.format(HOST), said.format(request.host))
        try:
            if scheme != "Bearer":
                raise Unauthorized("no token")
            key = self._keys.check(token, uris)
        except Unauthorized as e:
            raise RestError(401, "UNAUTHENTICATED", f"Unauthorized: {e}") from None
        if not self._private.admits(key.owner, now_s):
            raise _limited()
        needed = key.can_trade if request.method == "POST" else key.can_view
        if not needed:
            raise RestError(403, "PERMISSION_DENIED", "Missing required scopes")
        request[_KEY] = key

    @property
    def _keys(self) -> Keyring:
        return self._exchange.keys

    def _broker(self) -> Broker:
        broker = self._exchange.broker
        if broker is None:
            raise RestError(404, "NOT_FOUND", "this exchange has no accounts")
        return broker

    def _listing(self, product_id: str) -> Listing:
        listing = self._exchange.world.listings.get(product_id)
        if listing is None:
            raise RestError(404, "NOT_FOUND", f"valid product_id is required: {product_id}")
        return listing

    # The market.

    async def _time(self, request: web.Request) -> web.Response:
        ns = self._exchange.now_ns
        said = {"iso": timestamp_text(ns), "epochSeconds": f"{ns // 10**9}"}
        return _json(said | {"epochMillis": f"{ns // 10**6}"})

    async def _products(self, request: web.Request) -> web.Response:
        ids = request.query.getall("product_ids", list(self._exchange.world.listings))
        rows = [self._product_row(self._listing(id)) for id in ids]
        return _json({"products": rows, "num_products": len(rows)})

    async def _product(self, request: web.Request) -> web.Response:
        return _json(self._product_row(self._listing(request.match_info["id"])))

    def _product_row(self, listing: Listing) -> dict[str, Any]:
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

    async def _product_book(self, request: web.Request) -> web.Response:
        listing = self._listing(request.query.get("product_id", ""))
        book = self._pricebook(listing, _count(request, "limit", 1 << 30))
        said: dict[str, Any] = {"pricebook": book}
        bids, asks = book["bids"], book["asks"]
        if bids and asks:
            bid, ask = Decimal(bids[0]["price"]), Decimal(asks[0]["price"])
            mid, spread = (bid + ask) / 2, ask - bid
            said |= {
                "last": self._product_row(listing)["price"],
                "mid_market": decimal_text(mid),
                "spread_bps": decimal_text(round(spread / mid * 10_000, 4)),
                "spread_absolute": decimal_text(spread),
            }
        return _json(said)

    async def _best_bid_ask(self, request: web.Request) -> web.Response:
        ids = request.query.getall("product_ids", list(self._exchange.world.listings))
        return _json({"pricebooks": [self._pricebook(self._listing(id), 1) for id in ids]})

    def _pricebook(self, listing: Listing, limit: int) -> dict[str, Any]:
        bids, asks = self._exchange.book(listing.product.id)

        def rows(levels: dict[int, int], best_first: list[int]) -> list[dict[str, str]]:
            price, size = listing.price_text, listing.size_text
            return [{"price": price(p), "size": size(levels[p])} for p in best_first[:limit]]

        return {
            "product_id": listing.product.id,
            "bids": rows(bids, sorted(bids, reverse=True)),
            "asks": rows(asks, sorted(asks)),
            "time": timestamp_text(self._exchange.now_ns),
        }

    # The account.

    async def _accounts(self, request: web.Request) -> web.Response:
        key, accounts = _key(request), self._broker().accounts
        rows = []
        for currency in accounts.currencies(key.owner):
            available = decimal_text(accounts.available(key.owner, currency))
            held = decimal_text(accounts.held(key.owner, currency))
            rows.append(
                {
                    "uuid": str(uuid.uuid5(_UUIDS, f"{key.owner}/{currency}")),
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
        page, cursor = _page(request, rows, 49)
        said = {"accounts": page, "has_next": bool(cursor), "cursor": cursor, "size": len(page)}
        return _json(said)

    async def _fees(self, request: web.Request) -> web.Response:
        broker, key = self._broker(), _key(request)
        orders = [one for one in broker.placed.values() if one.owner == key.owner]
        maker, taker = (f"{bps / 1e4:g}" for bps in (broker.fees.maker_bps, broker.fees.taker_bps))
        tier = {"pricing_tier": "Simulated", "maker_fee_rate": maker, "taker_fee_rate": taker}
        return _json(
            {
                "total_volume": float(sum(one.value for one in orders)),
                "total_fees": float(sum(one.fees for one in orders)),
                "fee_tier": tier | {"aop_from": "0", "aop_to": ""},
            }
        )

    async def _permissions(self, request: web.Request) -> web.Response:
        key = _key(request)
        return _json(
            {
                "can_view": key.can_view,
                "can_trade": key.can_trade,
                "can_transfer": False,
                "portfolio_uuid": str(uuid.uuid5(_UUIDS, key.owner)),
                "portfolio_type": "DEFAULT",
            }
        )

    # Orders.

    async def _create(self, request: web.Request) -> web.Response:
        key, broker, body = _key(request), self._broker(), await _body(request)
        client_order_id = body.get("client_order_id")
        if not isinstance(client_order_id, str) or not client_order_id:
            raise RestError(400, "INVALID_ARGUMENT", "client_order_id is required")
        exchange = self._exchange
        async with exchange.lock:
            placed = broker.known(key.owner, client_order_id)
            if placed is None:
                try:
                    placed = broker.place(key.owner, body, exchange.now_ns)
                except Refusal as e:
                    return _json(_refused(e, body))
                await exchange.book_orders()
        return _json(_accepted(placed))

    async def _cancel(self, request: web.Request) -> web.Response:
        key, broker, body = _key(request), self._broker(), await _body(request)
        ids = body.get("order_ids")
        if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
            raise RestError(400, "INVALID_ARGUMENT", "order_ids must be a list of ids")
        results = []
        async with self._exchange.lock:
            for id in ids:
                why = broker.cancel(key.owner, id, self._exchange.now_ns)
                reason = why or "UNKNOWN_CANCEL_FAILURE_REASON"
                results.append({"success": why is None, "failure_reason": reason, "order_id": id})
            await self._exchange.book_orders()
        return _json({"results": results})

    def _owned(self, request: web.Request) -> list[Placed]:
        owner = _key(request).owner
        return [one for one in self._broker().placed.values() if one.owner == owner]

    async def _orders(self, request: web.Request) -> web.Response:
        rows = [rest_row(one) for one in reversed(self._owned(request))]
        for query, name in _FILTERS.items():
            if allowed := request.query.getall(query, []):
                rows = [row for row in rows if row[name] in allowed]
        if start := request.query.get("start_date"):
            rows = [row for row in rows if row["created_time"] >= start]
        if end := request.query.get("end_date"):
            rows = [row for row in rows if row["created_time"] < end]
        page, cursor = _page(request, rows, _PAGE)
        said = {"orders": page, "sequence": "0", "has_next": bool(cursor), "cursor": cursor}
        return _json(said)

    async def _order(self, request: web.Request) -> web.Response:
        for one in self._owned(request):
            if one.order_id == request.match_info["id"]:
                return _json({"order": rest_row(one)})
        raise RestError(404, "NOT_FOUND", "order with this orderID was not found")

    async def _fills(self, request: web.Request) -> web.Response:
        rows = [row for one in self._owned(request) for row in fill_rows(one)]
        for query, name in (("order_ids", "order_id"), ("product_ids", "product_id")):
            if allowed := request.query.getall(query, []):
                rows = [row for row in rows if row[name] in allowed]
        rows.sort(key=lambda row: row["trade_time"], reverse=True)
        page, cursor = _page(request, rows, _PAGE)
        return _json({"fills": page, "cursor": cursor})

    # Faults.

    async def _inject(self, request: web.Request) -> web.Response:
        try:
            fault = msgspec.json.decode(await request.read(), type=Fault)
        except msgspec.DecodeError as e:
            return _json({"error": str(e)}, 400)
        return _json({"injected": await self._exchange.inject(fault)})


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
_FILTERS = {
    "order_ids": "order_id",
    "product_ids": "product_id",
    "order_status": "status",
    "order_side": "side",
    "order_types": "order_type",
    "time_in_forces": "time_in_force",
}


def _json(said: dict[str, Any], status: int = 200) -> web.Response:
    body = msgspec.json.encode(said)
    return web.Response(body=body, status=status, content_type="application/json")


def _limited() -> RestError:
    error = RestError(429, "", "")
    error.body = {"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]}
    return error


def _broken(kind: FaultKind) -> web.Response:
    if kind is FaultKind.REST_TEXT:
        return web.Response(status=502, text="<html>502 Bad Gateway</html>")
    if kind is FaultKind.REST_LIMITED:
        return _json(_limited().body, 429)
    return _json({"error": "INTERNAL", "error_details": "", "message": "internal error"}, 500)


def _key(request: web.Request) -> ApiKey:
    return request[_KEY]


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        return msgspec.json.decode(await request.read(), type=dict[str, Any])
    except msgspec.DecodeError as e:
        raise RestError(400, "INVALID_ARGUMENT", f"the body is no JSON object: {e}") from None


def _count(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "") or str(default)
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise RestError(400, "INVALID_ARGUMENT", f"{name} must be a positive whole number")
    return int(text)


def _page(
    request: web.Request, rows: list[dict[str, Any]], default: int
) -> tuple[list[dict[str, Any]], str]:
    """Return the page that the cursor asks for, and the cursor of the next, "" if there is none.

    A cursor counts from the oldest row, so that what is new meanwhile moves no page.
    """
    limit = _count(request, "limit", default)
    left = _count(request, "cursor", len(rows)) if rows else 0
    start = max(0, len(rows) - left)
    end = start + limit
    return rows[start:end], str(len(rows) - end) if end < len(rows) else ""


def _accepted(placed: Placed) -> dict[str, Any]:
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


def _refused(refusal: Refusal, body: dict[str, Any]) -> dict[str, Any]:
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
