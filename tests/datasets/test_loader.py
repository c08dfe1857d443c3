"""The loader: samples of every product and day in memory, and only those that fit the fees."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.store import Store
from datasets.loader import load_samples
from datasets.recipe import Recipe
from datasets.tables import samples_table, table_path, write_samples
from market.actions import Fees
from market.errors import QuaverError
from market.features import Features
from market.signals import SignalsConfig, names
from tests.actors.wire import BTC, DAYS, ETH

RECIPE = Recipe()


def write(
    store: Store, product_id: str, day: str, beats: range, index: int, recipe: Recipe = RECIPE
) -> Features:
    """Samples of arbitrary content; every second one has no label."""
    n, rng = len(beats), np.random.default_rng(index)
    features = Features(
        np.array(beats, np.int64), rng.random((n, 10)), rng.random((n, 20)), rng.random((n, 20))
    )
    label = np.outer(np.array(beats), [1.0, -1.0, 0.0, 0.5, 0.25])
    label[1::2] = np.nan
    signals = rng.normal(size=(n, len(names(recipe.signals))))
    write_samples(store, product_id, day, samples_table(features, index, label, signals), recipe)
    return features


def test_samples_come_in_order_of_product_and_beat(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    third = write(store, ETH, DAYS[0], range(5, 9), 2)
    second = write(store, BTC, DAYS[1], range(10, 13), 1)
    first = write(store, BTC, DAYS[0], range(3, 10), 1)
    found = load_samples(store, RECIPE)
    assert len(found) == 14
    assert found.beat.tolist() == [*range(3, 10), *range(10, 13), *range(5, 9)]
    assert found.product.tolist() == [1] * 10 + [2] * 4
    for name in ("medians", "bids", "asks"):
        wanted = np.concatenate([getattr(part, name) for part in (first, second, third)])
        np.testing.assert_array_equal(getattr(found, name), wanted)
    assert (found.beat.dtype, found.product.dtype) == (np.int64, np.int32)


def test_signals_come_with_their_samples(tmp_path: Path) -> None:
    store, recipe = Store(str(tmp_path)), Recipe(signals=SignalsConfig(taker=True, spread=True))
    for product_id, index, beats in ((BTC, 1, range(4)), (ETH, 2, range(7, 9))):
        write(store, product_id, DAYS[0], beats, index, recipe)
    found = load_samples(store, recipe)
    assert (found.signals.shape, found.signals.dtype) == ((6, 4), np.float64)
    rows = pq.read_table(tmp_path / table_path("samples", ETH, DAYS[0]))["signals"].to_pylist()
    assert found.select(found.product == 2).signals.tolist() == rows
    with pytest.raises(QuaverError, match="build again"):
        load_samples(store, RECIPE)


def test_without_signals_they_are_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(5), 1)
    assert load_samples(store, RECIPE).signals.shape == (5, 0)


def test_a_sample_without_label_has_a_row_of_nan(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(3, 8), 1)
    found = load_samples(store, RECIPE)
    assert found.labelled.tolist() == [True, False, True, False, True]
    assert np.isnan(found.label[1::2]).all()
    np.testing.assert_array_equal(found.label[2], np.array([5.0, -5.0, 0.0, 2.5, 1.25]))


def test_a_selection_keeps_the_columns_together(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(100), 1)
    found = load_samples(store, RECIPE)
    few = found.select(found.labelled & (found.beat >= 50))
    assert few.beat.tolist() == list(range(50, 100, 2))
    np.testing.assert_array_equal(few.label[:, 0], few.beat)
    np.testing.assert_array_equal(few.medians, found.medians[50::2])


@pytest.mark.parametrize("fees", [Fees(taker_bps=6.0), Fees(maker_bps=1.0)])
def test_samples_labelled_with_other_fees_are_refused(tmp_path: Path, fees: Fees) -> None:
    other = Recipe(fees=fees)
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(5), 1)
    write(store, BTC, DAYS[1], range(5, 9), 1, other)
    for recipe in (RECIPE, other):
        with pytest.raises(QuaverError, match="build again"):
            load_samples(store, recipe)


def test_samples_labelled_over_another_horizon_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(5), 1)
    assert len(load_samples(store, RECIPE)) == 5
    with pytest.raises(QuaverError, match="horizon"):
        load_samples(store, Recipe(horizon_beats=50))


def test_equal_fees_are_equal_however_they_are_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(5), 1, Recipe(fees=Fees(taker_bps=5, maker_bps=0)))
    assert Recipe(fees=Fees(taker_bps=5, maker_bps=0)) == RECIPE
    assert len(load_samples(store, RECIPE)) == 5


def test_no_samples_at_all_says_what_they_need(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(QuaverError, match="no samples"):
        load_samples(store, RECIPE)
    write(store, BTC, DAYS[0], range(0), 1)
    with pytest.raises(QuaverError, match="no samples"):
        load_samples(store, RECIPE)


def test_an_empty_day_beside_others_adds_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(0), 1)
    write(store, BTC, DAYS[1], range(5), 1)
    assert len(load_samples(store, RECIPE)) == 5


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    path = table_path("samples", BTC, DAYS[0])
    store.write(path, b"half a fi")
    with pytest.raises(QuaverError, match=path):
        load_samples(store, RECIPE)
