"""The plan: every product on one websocket, evenly, and as few as possible move."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.plan import FleetConfig, plan
from market.products import UNIVERSE, Product

OTHERS = tuple(Product(f"X{i}-USD", *[Decimal("0.01")] * 3) for i in range(30))
products = st.lists(st.sampled_from(UNIVERSE + OTHERS), unique=True).map(tuple)
configs = st.builds(
    FleetConfig,
    products_per_connection=st.integers(1, 25),
    connections_per_actor=st.integers(1, 4),
)


def websocket_of(chosen: tuple[Product, ...], config: FleetConfig) -> dict[str, tuple[int, int]]:
    return {
        listed.id: (actor, place)
        for actor, websockets in enumerate(plan(chosen, config))
        for place, group in enumerate(websockets)
        for listed in group
    }


@given(products, configs)
def test_every_product_is_read_once_within_the_limits(
    chosen: tuple[Product, ...], config: FleetConfig
) -> None:
    actors = plan(chosen, config)
    groups = [group for websockets in actors for group in websockets]
    assert sorted(p.id for group in groups for p in group) == sorted(p.id for p in chosen)
    sizes = [len(group) for group in groups]
    # As few websockets as the limit allows, none empty, evenly filled; the same for actors.
    assert len(groups) == -(-len(chosen) // config.products_per_connection)
    if chosen:
        assert 1 <= min(sizes) and max(sizes) <= config.products_per_connection
        assert max(sizes) - min(sizes) <= 1
        per_actor = [len(websockets) for websockets in actors]
        assert len(actors) == -(-len(groups) // config.connections_per_actor)
        assert max(per_actor) <= config.connections_per_actor
        assert max(per_actor) - min(per_actor) <= 1


@given(products, configs, st.randoms())
def test_the_order_of_the_products_decides_nothing(
    chosen: tuple[Product, ...], config: FleetConfig, random: st.DataObject
) -> None:
    shuffled = list(chosen)
    random.shuffle(shuffled)
    assert plan(tuple(shuffled), config) == plan(chosen, config)


@pytest.mark.parametrize("gone", UNIVERSE, ids=lambda listed: listed.id)
def test_leaving_out_a_product_moves_at_most_one_other(gone: Product) -> None:
    before = websocket_of(UNIVERSE, FleetConfig())
    after = websocket_of(tuple(p for p in UNIVERSE if p is not gone), FleetConfig())
    assert sum(before[name] != after[name] for name in after) <= 1


def test_the_default_is_three_collectors_with_the_liquid_products_apart() -> None:
    actors = plan(UNIVERSE, FleetConfig())
    assert [[len(group) for group in websockets] for websockets in actors] == [[19], [18], [18]]
    heads = [{p.id for p in websockets[0]} for websockets in actors]
    assert all(len(head & {"BTC-USD", "ETH-USD", "XRP-USD"}) == 1 for head in heads)


def test_one_product_per_actor_is_a_setting() -> None:
    actors = plan(UNIVERSE, FleetConfig(products_per_connection=1))
    assert [[len(group) for group in websockets] for websockets in actors] == [[1]] * 55


@pytest.mark.parametrize("wrong", [{"products_per_connection": 26}, {"connections_per_actor": 0}])
def test_a_plan_that_the_venue_would_refuse_cannot_be_asked_for(wrong: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, FleetConfig)
