"""The windows and samples tables: exactly the columns of the definitions, there and back."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from actors.store import Store
from datasets.recipe import Recipe
from datasets.tables import (
    SAMPLES_SCHEMA,
    WINDOWS_SCHEMA,
    read_samples,
    read_windows,
    samples_table,
    stored,
    table_path,
    windows_table,
    write_samples,
    write_windows,
)
from market.errors import QuaverError
from market.features import Features
from market.signals import SignalsConfig
from market.windows import WINDOW
from tests.actors.wire import BTC, DAYS, ETH, assert_same_rows

DAY = DAYS[0]
INT, FLOAT = pa.int64(), pa.float64()
# (name, type, nullable), sections 3 and 4 of the definitions.
WINDOW_COLUMNS = [
    ("beat", INT, False),
    ("valid", pa.bool_(), False),
    ("bid", INT, False),
    ("ask", INT, False),
    ("low_ask", INT, False),
    ("high_bid", INT, False),
    ("trade_low", INT, True),
    ("trade_high", INT, True),
    ("buy_lots", INT, False),
    ("sell_lots", INT, False),
    ("trades", INT, False),
    ("bid_depth", pa.list_(INT, 20), False),
    ("ask_depth", pa.list_(INT, 20), False),
    ("updates", INT, False),
]
SAMPLE_COLUMNS = [
    ("beat", INT, False),
    ("product", pa.int32(), False),
    ("medians", pa.list_(FLOAT, 10), False),
    ("bids", pa.list_(FLOAT, 20), False),
    ("asks", pa.list_(FLOAT, 20), False),
    ("label", pa.list_(FLOAT, 5), True),
]


def random_windows(n: int) -> NDArray[np.void]:
    """Windows of arbitrary content, about half of them without a trade."""
    rng = np.random.default_rng(1)
    windows = np.zeros(n, WINDOW)
    for name in WINDOW.names or ():
        shape = windows[name].shape
        windows[name] = rng.integers(0, 1 << 62, shape)
    windows["beat"] = 446_563_257 + np.arange(n)
    windows["valid"] = rng.random(n) < 0.5
    windows["trades"] = rng.integers(0, 2, n)
    windows["trade_low"][windows["trades"] == 0] = 0
    windows["trade_high"][windows["trades"] == 0] = 0
    return windows


def columns(schema: pa.Schema) -> list[tuple[str, pa.DataType, bool]]:
    return [(field.name, field.type, field.nullable) for field in schema]


def test_the_columns_are_those_of_the_definitions(tmp_path: Path) -> None:
    assert columns(WINDOWS_SCHEMA) == WINDOW_COLUMNS
    assert columns(SAMPLES_SCHEMA) == SAMPLE_COLUMNS
    store = Store(str(tmp_path))
    write_windows(store, BTC, DAY, random_windows(3))
    write_samples(store, BTC, DAY, some_samples(3), Recipe())
    for table, wanted in (("windows", WINDOW_COLUMNS), ("samples", SAMPLE_COLUMNS)):
        folder = tmp_path / table / f"product={BTC}" / f"day={DAY}"
        (file,) = folder.iterdir()
        assert columns(pq.read_schema(file)) == wanted


@pytest.mark.parametrize("n", [0, 1, 500])
def test_windows_come_back_as_they_went_in(tmp_path: Path, n: int) -> None:
    store, windows = Store(str(tmp_path)), random_windows(n)
    write_windows(store, BTC, DAY, windows)
    assert_same_rows(read_windows(store, BTC, DAY), windows)


def test_prices_of_trades_are_null_where_there_is_none() -> None:
    windows = random_windows(100)
    windows["trade_low"][0], windows["trades"][0] = 0, 1  # A trade at 0 ticks is still a trade.
    table = windows_table(windows)
    none = (windows["trades"] == 0).tolist()
    assert 0 < sum(none) < 100
    for name in ("trade_low", "trade_high"):
        assert [value is None for value in table[name].to_pylist()] == none
    assert all(table[name].null_count == 0 for name, _, nullable in WINDOW_COLUMNS if not nullable)


def some_samples(n: int, width: int = 0) -> pa.Table:
    rng = np.random.default_rng(2)
    features = Features(np.arange(n), rng.random((n, 10)), rng.random((n, 20)), rng.random((n, 20)))
    label = rng.random((n, 5))
    label[n // 2 :] = np.nan
    return samples_table(features, 7, label, rng.random((n, width)))


def test_a_label_is_null_where_there_is_none() -> None:
    table = some_samples(6)
    labels = table["label"].to_pylist()
    assert labels[3:] == [None] * 3
    assert all(len(label) == 5 and all(0 <= x < 1 for x in label) for label in labels[:3])
    assert set(table["product"].to_pylist()) == {7}
    assert some_samples(0).num_rows == 0


def test_signals_are_one_more_column_and_named_in_the_file(tmp_path: Path) -> None:
    store, recipe = Store(str(tmp_path)), Recipe(signals=SignalsConfig(depth=True, spread=True))
    write_samples(store, BTC, DAY, some_samples(6, 3), recipe)
    schema = pq.read_schema(tmp_path / table_path("samples", BTC, DAY))
    assert columns(schema) == [*SAMPLE_COLUMNS, ("signals", pa.list_(FLOAT, 3), False)]
    named = json.loads(schema.metadata[b"signals"])
    assert named == ["spread_bps", "depth_log", "depth_imbalance"]
    assert read_samples(store, BTC, DAY, recipe).equals(some_samples(6, 3))
    write_samples(store, BTC, DAY, some_samples(6), Recipe())
    assert b"signals" not in pq.read_schema(tmp_path / table_path("samples", BTC, DAY)).metadata


def test_samples_of_other_signals_are_named_and_not_used(tmp_path: Path) -> None:
    store, recipe = Store(str(tmp_path)), Recipe(signals=SignalsConfig(taker=True))
    write_samples(store, BTC, DAY, some_samples(4, 3), recipe)
    for other in (Recipe(), Recipe(signals=SignalsConfig(order_flow=True))):
        what = r"signals.taker is True instead of False.*run quaver build again"
        with pytest.raises(QuaverError, match=what):
            read_samples(store, BTC, DAY, other)
    path = table_path("samples", BTC, DAY)
    table = pq.read_table(tmp_path / path)
    for changed, what in (
        (table.replace_schema_metadata({**table.schema.metadata, b"signals": b'["x"]'}), "signals"),
        (table.drop_columns(["signals"]), "columns"),
    ):
        pq.write_table(changed, tmp_path / path)
        with pytest.raises(QuaverError, match=f"{path} has .*{what}.*build it again"):
            read_samples(store, BTC, DAY, recipe)


def test_the_same_windows_are_the_same_bytes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    found = []
    for _ in range(2):
        write_windows(store, BTC, DAY, random_windows(50))
        found.append(store.read(table_path("windows", BTC, DAY)))
    assert found[0] == found[1]


def test_no_number_is_stored_through_a_dictionary(tmp_path: Path) -> None:
    store, none = Store(str(tmp_path)), np.zeros((3, 20))
    found = Features(np.arange(3), np.zeros((3, 10)), none, none)
    write_windows(store, BTC, DAY, random_windows(3))
    write_samples(
        store, BTC, DAY, samples_table(found, 0, np.zeros((3, 5)), np.zeros((3, 0))), Recipe()
    )
    for table, flags in (("windows", 1), ("samples", 0)):
        row_group = pq.read_metadata(tmp_path / table_path(table, BTC, DAY)).row_group(0)
        stored = [row_group.column(i) for i in range(row_group.num_columns)]
        split = [c for c in stored if "BYTE_STREAM_SPLIT" in c.encodings]
        assert len(split) == len(stored) - flags
        assert not any(c.has_dictionary_page for c in stored)


def test_what_is_stored_is_listed_by_product_and_day(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert stored(store, "windows") == []
    for product_id, day in ((ETH, DAY), (BTC, DAYS[1]), (BTC, DAY)):
        write_windows(store, product_id, day, random_windows(2))
    store.write("windows/note.txt", b"")
    assert stored(store, "windows") == [(BTC, DAY), (BTC, DAYS[1]), (ETH, DAY)]
    assert stored(store, "samples") == []


def test_a_day_without_windows_is_empty(tmp_path: Path) -> None:
    windows = read_windows(Store(str(tmp_path)), BTC, DAY)
    assert (len(windows), windows.dtype) == (0, WINDOW)


def rewritten(store: Store, how: str) -> None:
    """Put something else in the place of the windows of BTC."""
    path = table_path("windows", BTC, DAY)
    data = store.read(path)
    table = pq.read_table(pa.BufferReader(data))
    sink = pa.BufferOutputStream()
    if how == "another version":
        pq.write_table(table.replace_schema_metadata({"format": "quaver.windows.0"}), sink)
    elif how == "no version":
        pq.write_table(table.replace_schema_metadata(None), sink)
    elif how == "other columns":
        pq.write_table(table.drop_columns(["updates"]), sink)
    else:
        sink.write(data[: len(data) // 2])
    store.write(path, sink.getvalue())


@pytest.mark.parametrize("how", ["another version", "no version", "other columns", "half a file"])
def test_a_table_of_another_kind_is_named_and_not_used(tmp_path: Path, how: str) -> None:
    store = Store(str(tmp_path))
    write_windows(store, BTC, DAY, random_windows(5))
    rewritten(store, how)
    with pytest.raises(QuaverError) as caught:
        read_windows(store, BTC, DAY)
    assert table_path("windows", BTC, DAY) in str(caught.value)
    assert "build it again" in str(caught.value)
