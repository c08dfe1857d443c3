"""A venue that changes a product's tick or lot: days in different numbers are kept apart."""

from pathlib import Path

import numpy as np
import pytest

from actors.store import Store
from datasets.build import build, find_todo
from datasets.leakage import check_features
from datasets.loader import load_samples
from datasets.neighbours import find_neighbours
from datasets.recipe import Recipe
from datasets.units import in_units_of
from market.cross import CrossConfig
from market.features import LOOKBACK_BEATS
from market.products import product_index, product_of
from tests.actors.wire import BEAT_NS, BTC, DAYS, ETH, MIDNIGHT_NS, SECOND_NS, Walk, record
from tests.datasets.building import SPLIT, in_process, raw_manifest

__all__ = ["in_process"]
pytestmark = pytest.mark.usefixtures("in_process")

RECIPE = Recipe(cross=CrossConfig(btc_eth=True))
HALF_NS, BORDER = 600 * SECOND_NS, MIDNIGHT_NS // BEAT_NS
COARSE, FINE = ("0.01", "0.00000001"), ("0.001", "0.00000001")


def recorded(root: Path, after: tuple[str, str], changed: tuple[str, ...] = (BTC,)) -> Store:
    """Return ten minutes on each side of midnight; some products are in other units from then on.

    Their collector starts again at midnight, that of the others does not.
    """
    store, others = Store(str(root)), tuple(p for p in (BTC, ETH) if p not in changed)
    start_ns, end_ns = MIDNIGHT_NS - HALF_NS, MIDNIGHT_NS + HALF_NS
    if others:
        walk = Walk(2, others)
        record(store, [*walk.snapshots(start_ns), *walk.frames(start_ns, end_ns)], others)
    walk = Walk(1, changed)
    for from_ns, units in ((start_ns, COARSE), (MIDNIGHT_NS, after)):
        walk.wire.sequence = 0
        frames = [*walk.snapshots(from_ns), *walk.frames(from_ns + SECOND_NS, from_ns + HALF_NS)]
        record(store, frames, products={p: product_of(p, *units) for p in changed})
    assert build(store, find_todo(store, RECIPE), SPLIT).failures == []
    return store


def of_eth(store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Return the beats of ETH's samples and whether BTC is known in them."""
    samples = load_samples(store, RECIPE)
    mine = samples.product == product_index(ETH)
    known = samples.signals[mine, RECIPE.signal_names.index("btc_known")]
    return samples.beat[mine], known


@pytest.mark.parametrize("after", [COARSE, ("0.010", "0.000000010")])
def test_the_same_units_however_written_reach_over_midnight(
    tmp_path: Path, after: tuple[str, str]
) -> None:
    beats, known = of_eth(recorded(tmp_path, after))
    assert known[(beats >= BORDER + 9) & (beats < BORDER + 60)].all()


@pytest.mark.parametrize("after", [FINE, ("0.01", "0.000000001")])
def test_samples_of_a_day_take_nothing_from_days_in_other_units(
    tmp_path: Path, after: tuple[str, str]
) -> None:
    store = recorded(tmp_path, after)
    beats, known = of_eth(store)
    assert not known[(beats >= BORDER) & (beats < BORDER + LOOKBACK_BEATS)].any()
    assert known[beats > BORDER + LOOKBACK_BEATS].all() and known[beats < BORDER - 1].all()
    assert np.abs(load_samples(store, RECIPE).signals).max() < 1_000  # Bp; a tick: 23,026.
    todo = [(product_id, day) for product_id in (BTC, ETH) for day in DAYS]
    checked = check_features(store, RECIPE, todo, 60, 1)
    assert [finding for day in checked for finding in day.findings] == []


def test_a_products_own_days_in_other_units_are_kept_apart() -> None:
    """They are broken by the restart anyway, unless two collectors overlap."""
    days = {(p, day): np.arange(3) for p in (BTC, ETH) for day in DAYS}
    units = {(BTC, DAYS[0]): COARSE, (BTC, DAYS[1]): FINE, (ETH, DAYS[0]): None}
    read = in_units_of(DAYS[1], lambda *of: days[of], lambda *of: units.get(of))
    found = {of: len(read(*of)) for of in days}
    assert found == {(BTC, DAYS[0]): 0, (BTC, DAYS[1]): 3, (ETH, DAYS[0]): 3, (ETH, DAYS[1]): 3}


def test_nearest_coins_know_no_return_from_ticks_to_other_ticks(tmp_path: Path) -> None:
    found = {}
    for name, after in (("same", COARSE), ("finer", FINE)):
        store = recorded(tmp_path / name, after, (BTC, ETH))
        assert raw_manifest(store, BTC, DAYS[1]).quote_increment == after[0]
        (near,) = find_neighbours(store, (1.0, 0.0, 0.0), least_returns=10).nearest[BTC]
        found[name] = near
    assert found["finer"].returns < found["same"].returns
    assert abs(found["finer"].correlation) < 0.6  # Both rise tenfold at once: that would be 1.
