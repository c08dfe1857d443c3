"""Customers' orders: what they ask for is checked, paid for, matched and booked.

A refusal has the venue's reason. What an order may cost at most is held from the account until it
is over, fees at the taker's rate included; a fill takes the fee of the side it was on.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from market.actions import Fees
from market.errors import QuaverError
from market.events import BUY, SELL
from market.ledger import EXACT, exact
from sim.accounts import FLOW, ZERO, Accounts
from sim.engine import Engine, Fill
from sim.ladder import Order, Status
from sim.terms import Refusal, lot_tick, order_of, quote_size
from sim.wire import Listing

_FIRST_ID = 1 << 60  # The flow counts from 1.
_NAMESPACE = uuid.UUID("8d5a1e0c-51a3-4c1f-9a57-6f1f4f6f5b11")


class Booked(NamedTuple):
    """One fill of a customer's order."""

    trade_id: int
    ns: int
    price_ticks: int
    lots: int
    fee: Decimal
    maker: bool


@dataclass(eq=False)
class Placed:
    """A customer's order and what became of it."""

    order_id: str
    client_order_id: str
    owner: str
    listing: Listing
    configuration: dict[str, Any]
    order: Order
    created_ns: int
    lot_tick: Decimal  # Quote currency of one lot at a price of one tick.
    serial: int
    held: Decimal = ZERO
    updated_ns: int = 0
    value: Decimal = ZERO  # Of what is filled, without fees.
    fees: Decimal = ZERO
    fills: list[Booked] = field(default_factory=list)

    @property
    def product_id(self) -> str:
        return self.listing.product.id

    @property
    def filled_lots(self) -> int:
        return sum(fill.lots for fill in self.fills)

    @property
    def hold_currency(self) -> str:
        base, _, quote = self.product_id.partition("-")
        return quote if self.order.side == BUY else base

    @property
    def limited(self) -> bool:
        """Whether it has a limit price."""
        return self.order.price_ticks is not None


class Broker:
    """Takes orders for the engines of one market."""

    def __init__(
        self,
        listings: dict[str, Listing],
        engines: Sequence[Engine],
        accounts: Accounts,
        fees: Fees,
    ) -> None:
        self.accounts, self.fees = accounts, fees
        self.placed: dict[str, Placed] = {}  # By order_id, in order of creation.
        self._listings = listings
        self._engines = dict(zip(listings, engines, strict=True))
        self._by_client_id: dict[tuple[str, str], Placed] = {}
        self._open: dict[int, Placed] = {}  # By the engine's number.
        self._fresh: list[Placed] = []  # Placed since fills were booked.
        self._maker, self._taker = (
            exact(bps).scaleb(-4) for bps in (fees.maker_bps, fees.taker_bps)
        )

    def known(self, owner: str, client_order_id: str) -> Placed | None:
        """Return the order that was placed with an id of its owner's choice."""
        return self._by_client_id.get((owner, client_order_id))

    def place(self, owner: str, request: dict[str, Any], now_ns: int) -> Placed:
        """Place an order from the body of its request; Refusal with the venue's reason if not.

        `book_fills` must follow, as after everything that the engines do.
        """
        product_id, side = request.get("product_id"), request.get("side")
        listing = self._listings.get(str(product_id))
        if listing is None:
            raise Refusal("INVALID_PRODUCT_ID", f"{product_id} is not traded here")
        if side not in ("BUY", "SELL"):
            raise Refusal("INVALID_SIDE", "side must be BUY or SELL")
        configuration = request.get("order_configuration")
        serial = len(self.placed)
        order = order_of(
            _FIRST_ID + serial,
            owner,
            listing,
            BUY if side == "BUY" else SELL,
            configuration,
            self._taker,
        )
        client_order_id = str(request["client_order_id"])
        placed = Placed(
            order_id=str(uuid.uuid5(_NAMESPACE, f"{owner}/{client_order_id}/{serial}")),
            client_order_id=client_order_id,
            owner=owner,
            listing=listing,
            configuration=dict(configuration or {}),
            order=order,
            created_ns=now_ns,
            lot_tick=lot_tick(listing),
            serial=serial,
            updated_ns=now_ns,
        )
        self._hold(placed, quote_size(configuration))
        self._open[order.order_id] = placed
        self._engines[placed.product_id].submit(order, now_ns)
        if order.status is Status.REJECTED:
            del self._open[order.order_id]
            self._release(placed)
            if order.post_only and (order.expire_ns is None or order.expire_ns > now_ns):
                raise Refusal("INVALID_LIMIT_PRICE_POST_ONLY", "the order would take liquidity")
            raise Refusal("COMMANDER_REJECTED_NEW_ORDER", "end_time has passed")
        self.placed[placed.order_id] = placed
        self._by_client_id[owner, client_order_id] = placed
        self._fresh.append(placed)
        return placed

    def cancel(self, owner: str, order_id: str, now_ns: int) -> str | None:
        """Cancel an order; return the venue's reason if it cannot be."""
        placed = self.placed.get(order_id)
        if placed is None or placed.owner != owner:
            return "UNKNOWN_CANCEL_ORDER"
        if placed.order.status is Status.FILLED:
            return "ORDER_IS_FULLY_FILLED"
        if not self._engines[placed.product_id].cancel(placed.order):
            return "DUPLICATE_CANCEL_REQUEST"
        placed.updated_ns = now_ns
        return None

    def book_fills(self, now_ns: int) -> list[Placed]:
        """Book what has happened in the engines; return the orders that are fresh or changed."""
        changed = {placed.order.order_id: placed for placed in self._fresh}
        self._fresh.clear()
        for engine in self._engines.values():
            if engine.owned:
                fills = engine.owned[:]
                engine.owned.clear()
                for fill in fills:
                    for order in (fill.maker, fill.taker):
                        if placed := self._open.get(order.order_id):
                            self._book(placed, fill, now_ns)
                            changed[order.order_id] = placed
        for number, placed in list(self._open.items()):
            if placed.order.expire_ns is not None:
                self._engines[placed.product_id].expire(now_ns)
            if placed.order.status is not Status.OPEN:
                del self._open[number]
                self._release(placed)
                placed.updated_ns = now_ns
                changed[number] = placed
        return list(changed.values())

    def is_open(self, placed: Placed) -> bool:
        """Whether an order rests in the book."""
        return placed.order.status is Status.OPEN

    def best(self, product_id: str) -> tuple[int, int]:
        """Return the best bid and ask in ticks, 0 for none."""
        engine = self._engines[product_id]
        return engine.best_bid, engine.best_ask

    def _hold(self, placed: Placed, quote_size: str | None) -> None:
        order, listing = placed.order, placed.listing
        if order.side == SELL:
            amount = EXACT.multiply(listing.product.base_increment, order.lots)
        elif quote_size is not None:
            amount = Decimal(quote_size)
        else:
            amount = self._most(placed, order.lots)
        available = self.accounts.available(placed.owner, placed.hold_currency)
        if amount > available:
            raise Refusal("INSUFFICIENT_FUND", "Insufficient balance in source account")
        if not self._meets_any(placed):
            raise Refusal("INVALID_NO_LIQUIDITY", "there is nobody to trade with")
        self.accounts.hold(placed.owner, placed.hold_currency, amount)
        placed.held = amount

    def _meets_any(self, placed: Placed) -> bool:
        bid, ask = self.best(placed.product_id)
        return placed.limited or bool(ask if placed.order.side == BUY else bid)

    def _most(self, placed: Placed, lots: int) -> Decimal:
        """Return what buying `lots` costs at most, with the taker's fee."""
        price = placed.order.price_ticks
        if price is not None:
            units = price * lots
        else:
            units, left = 0, lots
            _, asks = self._engines[placed.product_id].book()
            for ask in sorted(asks):
                taken = min(left, asks[ask])
                units, left = units + ask * taken, left - taken
        value = EXACT.multiply(placed.lot_tick, units)
        return EXACT.multiply(value, EXACT.add(1, self._taker))

    def _book(self, placed: Placed, fill: Fill, now_ns: int) -> None:
        accounts, owner, order = self.accounts, placed.owner, placed.order
        base, _, quote = placed.product_id.partition("-")
        maker = fill.maker is order
        value = EXACT.multiply(placed.lot_tick, fill.price_ticks * fill.lots)
        size = EXACT.multiply(placed.listing.product.base_increment, fill.lots)
        fee = EXACT.multiply(value, self._maker if maker else self._taker)
        got, gave = (size, value) if order.side == BUY else (value, size)
        get, give = (base, quote) if order.side == BUY else (quote, base)
        self._rehold(placed, fill, size)
        other = (fill.taker if maker else fill.maker).owner
        accounts.move(owner, give, EXACT.minus(gave))
        accounts.move(owner, get, got)
        if other is FLOW:
            accounts.move(FLOW, give, gave)
            accounts.move(FLOW, get, EXACT.minus(got))
        accounts.take_fee(owner, quote, fee)
        placed.value, placed.fees = EXACT.add(placed.value, value), EXACT.add(placed.fees, fee)
        placed.updated_ns = now_ns
        placed.fills.append(Booked(fill.trade_id, now_ns, fill.price_ticks, fill.lots, fee, maker))

    def _rehold(self, placed: Placed, fill: Fill, size: Decimal) -> None:
        """Release what a fill needs of the hold; a market buy's is released as a whole."""
        order = placed.order
        if order.side == SELL:
            freed = size
        elif order.price_ticks is not None:
            freed = self._most(placed, fill.lots)
        else:
            freed = placed.held
        self.accounts.hold(placed.owner, placed.hold_currency, EXACT.minus(freed))
        placed.held = EXACT.subtract(placed.held, freed)

    def _release(self, placed: Placed) -> None:
        self.accounts.hold(placed.owner, placed.hold_currency, EXACT.minus(placed.held))
        placed.held = ZERO


def broker_of(
    market: object, listings: dict[str, Listing], accounts: Accounts, fees: Fees
) -> Broker:
    """Return the broker of a market that has engines; QuaverError for one without."""
    engines = getattr(market, "engines", None)
    if engines is None:
        raise QuaverError("this market takes no orders; accounts need one of orders (FlowConfig)")
    return Broker(listings, engines, accounts, fees)
