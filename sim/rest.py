"""The exchange's REST interface, at the venue's paths; `/sim/faults` takes faults from outside.

Event time is the time of the answers; tokens are checked by the clock of this machine.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, Self

import msgspec
from aiohttp import web

from market.errors import QuaverError
from sim.auth import Keyring, Unauthorized
from sim.exchange import Exchange
from sim.faults import Fault, FaultKind
from sim.limits import Limiter
from sim.rest_calls import KEY, PREFIX, RestError, count_of, json_answer
from sim.rest_customer import CustomerCalls
from sim.rest_views import pricebook, product_row
from sim.tape import FaultDone
from sim.user_feed import decimal_text
from sim.wire import Listing, timestamp_text

HOST = "api.coinbase.com"  # A token may also be for the host that the request names.
_MAX_BODY_BYTES = 1 << 20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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
        post("/sim/faults", self._inject)
        CustomerCalls(self._exchange).add_routes(app.router)
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
            answer = json_answer(e.body, e.status)
        except web.HTTPNotFound:
            answer = json_answer(
                {"error": "NOT_FOUND", "error_details": "", "message": "not found"}, 404
            )
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
        request[KEY] = key

    @property
    def _keys(self) -> Keyring:
        return self._exchange.keys

    def _listing(self, product_id: str) -> Listing:
        listing = self._exchange.world.listings.get(product_id)
        if listing is None:
            raise RestError(404, "NOT_FOUND", f"valid product_id is required: {product_id}")
        return listing

    # The market.

    async def _time(self, request: web.Request) -> web.Response:
        ns = self._exchange.now_ns
        said = {"iso": timestamp_text(ns), "epochSeconds": f"{ns // 10**9}"}
        return json_answer(said | {"epochMillis": f"{ns // 10**6}"})

    async def _products(self, request: web.Request) -> web.Response:
        ids = request.query.getall("product_ids", list(self._exchange.world.listings))
        rows = [product_row(self._listing(id)) for id in ids]
        return json_answer({"products": rows, "num_products": len(rows)})

    async def _product(self, request: web.Request) -> web.Response:
        return json_answer(product_row(self._listing(request.match_info["id"])))

    async def _product_book(self, request: web.Request) -> web.Response:
        listing = self._listing(request.query.get("product_id", ""))
        book = self._book(listing, count_of(request, "limit", 1 << 30))
        said: dict[str, Any] = {"pricebook": book}
        bids, asks = book["bids"], book["asks"]
        if bids and asks:
            bid, ask = Decimal(bids[0]["price"]), Decimal(asks[0]["price"])
            mid, spread = (bid + ask) / 2, ask - bid
            said |= {
                "last": product_row(listing)["price"],
                "mid_market": decimal_text(mid),
                "spread_bps": decimal_text(round(spread / mid * 10_000, 4)),
                "spread_absolute": decimal_text(spread),
            }
        return json_answer(said)

    async def _best_bid_ask(self, request: web.Request) -> web.Response:
        ids = request.query.getall("product_ids", list(self._exchange.world.listings))
        return json_answer({"pricebooks": [self._book(self._listing(id), 1) for id in ids]})

    def _book(self, listing: Listing, limit: int) -> dict[str, Any]:
        bids, asks = self._exchange.book(listing.product.id)
        return pricebook(listing, bids, asks, limit, self._exchange.now_ns)

    # Faults.

    async def _inject(self, request: web.Request) -> web.Response:
        try:
            fault = msgspec.json.decode(await request.read(), type=Fault)
        except msgspec.DecodeError as e:
            return json_answer({"error": str(e)}, 400)
        return json_answer({"injected": await self._exchange.inject(fault)})


def _limited() -> RestError:
    error = RestError(429, "", "")
    error.body = {"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]}
    return error


def _broken(kind: FaultKind) -> web.Response:
    if kind is FaultKind.REST_TEXT:
        return web.Response(status=502, text="<html>502 Bad Gateway</html>")
    if kind is FaultKind.REST_LIMITED:
        return json_answer(_limited().body, 429)
    return json_answer({"error": "INTERNAL", "error_details": "", "message": "internal error"}, 500)
