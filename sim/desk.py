"""What clients of the websocket ask for and get: subscriptions, acks, refusals and snapshots.

Everything here runs under the exchange's lock, so that a snapshot is the state before the next
update and numbers are given in the order of sending.
"""

import asyncio

from sim.accounts import uuid_of
from sim.auth import Keyring, Unauthorized
from sim.market_feed import Client
from sim.orders import Broker, Placed
from sim.user_feed import order_events, snapshots
from sim.wire import TOO_MANY, UNKNOWN_CHANNEL, Request, shared_frame
from sim.world import World

MAX_LEVEL2_PRODUCTS = 30


class Desk:
    """All clients, and what they are subscribed to."""

    def __init__(self, world: World, keys: Keyring, broker: Broker | None) -> None:
        self.clients: set[Client] = set()
        self.books_wanted = asyncio.Event()  # Somebody who still hears us holds books.
        self._world, self._keys, self._broker = world, keys, broker
        self._interest: set[tuple[str, str | None]] = set()

    def forget(self, client: Client) -> None:
        """Let a client go."""
        self.clients.discard(client)
        self.note_interest()

    def is_wanted(self, channel: str, product_id: str | None) -> bool:
        """Whether anybody is subscribed to a product's frames, or to a channel without products."""
        return (channel, product_id) in self._interest

    def note_interest(self) -> None:
        """Take note of who is subscribed to what; after every change of it."""
        self._interest = {
            (channel, None if channel in ids else id)
            for client in self.clients
            for channel, ids in client.subscriptions.items()
            for id in ids
        }
        # One that hears nothing any more does not keep the world going.
        if any("level2" in c.subscriptions and not c.half_open for c in self.clients):
            self.books_wanted.set()
        else:
            self.books_wanted.clear()

    async def answer(self, client: Client, request: Request | str, now_ns: int) -> None:
        """Do what a client asks, or refuse it as a whole: a refusal has no ack and no number."""
        if isinstance(request, str):
            refusal: str | None = request
        elif request.channel == "user":
            refusal = await self._user(client, request, now_ns)
        elif request.type == "unsubscribe":
            held, gone = client.subscriptions.get(request.channel, []), request.product_ids
            self._hold(client, request.channel, [id for id in held if gone and id not in gone])
            refusal = None
        else:
            refusal = await self._subscribe(client, request, now_ns)
        if refusal is None:
            await client.acknowledge(now_ns)
        else:
            await client.refuse(refusal)

    async def open(self, client: Client, channel: str, ids: list[str], now_ns: int) -> None:
        """Send what a fresh subscription starts with; like the venue's, it may precede the ack."""
        for id in ids:
            if opening := self._world.opening(channel, id, now_ns):
                await client.publish(opening)

    async def tell(self, changed: list[Placed], now_ns: int) -> None:
        """Tell customers of their orders that changed."""
        for client in tuple(self.clients):
            mine = [one for one in changed if _watches(client, one)]
            if mine and "user" in client.subscriptions:
                events = order_events("update", mine)
                await client.publish(shared_frame("user", now_ns, events))

    async def _subscribe(self, client: Client, request: Request, now_ns: int) -> str | None:
        channel = request.channel
        held = client.subscriptions.get(channel, [])
        fresh = [id for id in dict.fromkeys(request.product_ids) if id not in held]
        too_many = channel == "level2" and len(held) + len(fresh) > MAX_LEVEL2_PRODUCTS
        if too_many or client.refuses(now_ns):
            return TOO_MANY
        self._hold(client, channel, held + fresh)
        await self.open(client, channel, fresh, now_ns)
        return None

    async def _user(self, client: Client, request: Request, now_ns: int) -> str | None:
        """Open or close the `user` channel for products, all if none are named."""
        asked = set(request.product_ids or self._world.listings)
        if request.type == "unsubscribe":
            client.watched -= asked
        else:
            try:
                owner = self._keys.check(request.jwt).owner
            except Unauthorized:
                return UNKNOWN_CHANNEL
            if client.refuses(now_ns):
                return TOO_MANY
            if owner != client.owner:
                client.owner, client.watched = owner, set()
            fresh = asked - client.watched
            client.watched |= asked
            await self._open_user(client, fresh, now_ns)
        self._hold(client, "user", [uuid_of(str(client.owner))] if client.watched else [])
        return None

    async def _open_user(self, client: Client, fresh: set[str], now_ns: int) -> None:
        if self._broker is None or not fresh:
            return
        broker = self._broker
        mine = [
            one
            for one in broker.placed.values()
            if one.product_id in fresh and one.owner == client.owner and broker.is_open(one)
        ]
        for events in snapshots(mine):
            await client.publish(shared_frame("user", now_ns, events, kind="snapshot"))

    def _hold(self, client: Client, channel: str, ids: list[str]) -> None:
        if ids:
            client.subscriptions[channel] = ids
        else:
            client.subscriptions.pop(channel, None)
        self.note_interest()


def _watches(client: Client, placed: Placed) -> bool:
    return placed.owner == client.owner and placed.product_id in client.watched
