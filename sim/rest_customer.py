"""REST calls of a customer: accounts, orders and fills."""

from aiohttp import web

from sim.exchange import Exchange
from sim.orders import Broker, Placed
from sim.rest_calls import PREFIX, RestError, body_of, json_answer, key_of, page_of
from sim.rest_views import accepted, account_rows, refused, uuid_of
from sim.terms import Refusal
from sim.user_feed import fill_rows, rest_row

_PAGE = 100
_FILTERS = {
    "order_ids": "order_id",
    "product_ids": "product_id",
    "order_status": "status",
    "order_side": "side",
    "order_types": "order_type",
    "time_in_forces": "time_in_force",
}


class CustomerCalls:
    """Handlers for whoever the token says."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the paths of these calls."""
        get, post = router.add_get, router.add_post
        get(f"{PREFIX}/accounts", self._accounts)
        get(f"{PREFIX}/orders/historical/batch", self._orders)
        get(f"{PREFIX}/orders/historical/fills", self._fills)
        get(f"{PREFIX}/orders/historical/{{id}}", self._order)
        get(f"{PREFIX}/transaction_summary", self._fees)
        get(f"{PREFIX}/key_permissions", self._permissions)
        post(f"{PREFIX}/orders", self._create)
        post(f"{PREFIX}/orders/batch_cancel", self._cancel)

    def _broker(self) -> Broker:
        broker = self._exchange.broker
        if broker is None:
            raise RestError(404, "NOT_FOUND", "this exchange has no accounts")
        return broker

    async def _accounts(self, request: web.Request) -> web.Response:
        key, accounts = key_of(request), self._broker().accounts
        rows = account_rows(accounts, key.owner)
        page, cursor = page_of(request, rows, 49)
        said = {"accounts": page, "has_next": bool(cursor), "cursor": cursor, "size": len(page)}
        return json_answer(said)

    async def _fees(self, request: web.Request) -> web.Response:
        broker, key = self._broker(), key_of(request)
        orders = [one for one in broker.placed.values() if one.owner == key.owner]
        maker, taker = (f"{bps / 1e4:g}" for bps in (broker.fees.maker_bps, broker.fees.taker_bps))
        tier = {"pricing_tier": "Simulated", "maker_fee_rate": maker, "taker_fee_rate": taker}
        return json_answer(
            {
                "total_volume": float(sum(one.value for one in orders)),
                "total_fees": float(sum(one.fees for one in orders)),
                "fee_tier": tier | {"aop_from": "0", "aop_to": ""},
            }
        )

    async def _permissions(self, request: web.Request) -> web.Response:
        key = key_of(request)
        return json_answer(
            {
                "can_view": key.can_view,
                "can_trade": key.can_trade,
                "can_transfer": False,
                "portfolio_uuid": uuid_of(key.owner),
                "portfolio_type": "DEFAULT",
            }
        )

    async def _create(self, request: web.Request) -> web.Response:
        key, broker, body = key_of(request), self._broker(), await body_of(request)
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
                    return json_answer(refused(e, body))
                await exchange.book_orders()
        return json_answer(accepted(placed))

    async def _cancel(self, request: web.Request) -> web.Response:
        key, broker, body = key_of(request), self._broker(), await body_of(request)
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
        return json_answer({"results": results})

    def _owned(self, request: web.Request) -> list[Placed]:
        owner = key_of(request).owner
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
        page, cursor = page_of(request, rows, _PAGE)
        said = {"orders": page, "sequence": "0", "has_next": bool(cursor), "cursor": cursor}
        return json_answer(said)

    async def _order(self, request: web.Request) -> web.Response:
        for one in self._owned(request):
            if one.order_id == request.match_info["id"]:
                return json_answer({"order": rest_row(one)})
        raise RestError(404, "NOT_FOUND", "order with this orderID was not found")

    async def _fills(self, request: web.Request) -> web.Response:
        rows = [row for one in self._owned(request) for row in fill_rows(one)]
        for query, name in (("order_ids", "order_id"), ("product_ids", "product_id")):
            if allowed := request.query.getall(query, []):
                rows = [row for row in rows if row[name] in allowed]
        rows.sort(key=lambda row: row["trade_time"], reverse=True)
        page, cursor = page_of(request, rows, _PAGE)
        return json_answer({"fills": page, "cursor": cursor})
