"""Which collector reads which product over which websocket.

The plan is a function of the products and the configuration alone, so that every driver makes the
same one, and adding or removing a product moves as few of the others as balance allows.
"""

import zlib
from collections.abc import Sequence
from typing import Annotated

import msgspec

from actors.connection import MAX_LEVEL2_PRODUCTS
from market.products import Product, product_index

Group = tuple[Product, ...]  # The products of one websocket.


class FleetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How products are spread over websockets, and websockets over actors."""

    products_per_connection: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=MAX_LEVEL2_PRODUCTS,
            description="at most; the products are spread evenly over as few as that takes",
        ),
    ] = MAX_LEVEL2_PRODUCTS
    connections_per_actor: Annotated[
        int, msgspec.Meta(ge=1, description="websockets that one Ray actor reads")
    ] = 1


def plan(products: tuple[Product, ...], config: FleetConfig) -> list[tuple[Group, ...]]:
    """Return the websockets of each actor; empty without products.

    Websockets differ by one product at most. The order of `products` decides nothing.
    """
    wanted = sorted(products, key=_rank)
    connections = -(-len(wanted) // config.products_per_connection)
    groups: list[list[Product]] = [[] for _ in range(connections)]
    for listed in wanted:  # The universe is sorted by liquidity: its head is spread as well.
        groups[_rank(listed)[0] % connections].append(listed)
    while connections and len(max(groups, key=len)) - len(min(groups, key=len)) > 1:
        min(groups, key=len).append(max(groups, key=len).pop())
    websockets = [tuple(sorted(group, key=_rank)) for group in groups]
    actors = -(-connections // config.connections_per_actor)
    return [tuple(websockets[actor::actors]) for actor in range(actors)]


def in_one(products: Sequence[Product]) -> tuple[Group, ...]:
    """Return the websockets of one collector that reads all of these."""
    config = FleetConfig(connections_per_actor=max(1, len(products)))
    return plan(tuple(products), config)[0] if products else ()


def _rank(listed: Product) -> tuple[int, str]:
    """A product's place: in the universe, or one that its name alone decides."""
    index = product_index(listed.id)
    return (zlib.crc32(listed.id.encode()) if index is None else index), listed.id
