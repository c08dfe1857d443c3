"""The windows and samples tables: their Arrow schemas, paths, and the way to and from numpy.

windows/product=BTC-USD/day=2026-08-09/windows.parquet
samples/product=BTC-USD/day=2026-08-09/samples.parquet
"""

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors.store import Store
from datasets.recipe import Recipe
from market.actions import Action
from market.book import BUCKETS
from market.errors import QuaverError
from market.features import MEDIAN_LAGS, Features
from market.windows import WINDOW

WINDOWS_FORMAT = "quaver.windows.1"
SAMPLES_FORMAT = "quaver.samples.2"
_NULL_WITHOUT_TRADES = ("trade_low", "trade_high")


def _window_field(name: str) -> pa.Field:
    dtype = WINDOW[name]
    if dtype.subdtype:
        return pa.field(name, pa.list_(pa.int64(), dtype.shape[0]), nullable=False)
    kind = pa.bool_() if dtype.kind == "b" else pa.int64()
    return pa.field(name, kind, nullable=name in _NULL_WITHOUT_TRADES)


WINDOWS_SCHEMA = pa.schema([_window_field(name) for name in WINDOW.names or ()])

SAMPLES_SCHEMA = pa.schema(
    [
        pa.field("beat", pa.int64(), nullable=False),
        pa.field("product", pa.int32(), nullable=False),  # Index in the universe.
        pa.field("medians", pa.list_(pa.float64(), len(MEDIAN_LAGS)), nullable=False),
        pa.field("bids", pa.list_(pa.float64(), BUCKETS), nullable=False),
        pa.field("asks", pa.list_(pa.float64(), BUCKETS), nullable=False),
        pa.field("label", pa.list_(pa.float64(), len(Action)), nullable=True),
    ]
)


def table_path(table: str, product_id: str, day: str) -> str:
    """Return where a table ("windows" or "samples") keeps one product and day."""
    return f"{table}/product={product_id}/day={day}/{table}.parquet"


def stored(store: Store, table: str) -> list[tuple[str, str]]:
    """Return (product id, day) of every file of a table, sorted."""
    found = []
    for path in store.files(table):
        folders = path.split("/")
        if len(folders) == 4 and folders[3] == f"{table}.parquet":
            found.append((folders[1].removeprefix("product="), folders[2].removeprefix("day=")))
    return sorted(found)


def windows_table(windows: NDArray[np.void]) -> pa.Table:
    """Return WINDOW[n] as a table; prices of trades are null in beats without any."""
    columns = []
    for field in WINDOWS_SCHEMA:
        values = np.ascontiguousarray(windows[field.name])
        if pa.types.is_fixed_size_list(field.type):
            columns.append(_lists(values, field.type))
        elif field.name in _NULL_WITHOUT_TRADES:
            columns.append(pa.array(values, mask=windows["trades"] == 0))
        else:
            columns.append(pa.array(values))
    return pa.Table.from_arrays(columns, schema=WINDOWS_SCHEMA)


def samples_table(features: Features, product_index: int, label: NDArray[np.float64]) -> pa.Table:
    """Return features and their labels ([n, 5], NaN rows where there is none) as a table."""
    schema = SAMPLES_SCHEMA
    columns = [
        pa.array(features.beats),
        pa.array(np.full(len(features.beats), product_index, np.int32)),
        _lists(features.medians, schema.field("medians").type),
        _lists(features.bids, schema.field("bids").type),
        _lists(features.asks, schema.field("asks").type),
        _lists(label, schema.field("label").type, missing=np.isnan(label[:, 0])),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def write_windows(store: Store, product_id: str, day: str, windows: NDArray[np.void]) -> None:
    """Write one product and day of windows."""
    _write(store, "windows", product_id, day, windows_table(windows), {"format": WINDOWS_FORMAT})


def write_samples(store: Store, product_id: str, day: str, table: pa.Table, recipe: Recipe) -> None:
    """Write one product and day of samples, with the recipe they were made by."""
    meta = {"format": SAMPLES_FORMAT, "recipe": msgspec.json.encode(recipe).decode()}
    _write(store, "samples", product_id, day, table, meta)


def read_windows(store: Store, product_id: str, day: str) -> NDArray[np.void]:
    """Return WINDOW[n] of one product and day, empty if there is no such file."""
    path = table_path("windows", product_id, day)
    if not store.exists(path):
        return np.zeros(0, WINDOW)
    table = read_table(store, path, WINDOWS_SCHEMA, WINDOWS_FORMAT)
    windows = np.zeros(table.num_rows, WINDOW)
    for field in WINDOWS_SCHEMA:
        column = table[field.name].combine_chunks()
        if pa.types.is_fixed_size_list(field.type):
            windows[field.name] = column.flatten().to_numpy().reshape(-1, BUCKETS)
        else:
            known = column.fill_null(0) if field.nullable else column
            windows[field.name] = known.to_numpy(zero_copy_only=False)
    return windows


def read_table(store: Store, path: str, schema: pa.Schema, version: str) -> pa.Table:
    """Return a table; QuaverError if the file is broken or of another version."""
    try:
        table = pq.read_table(pa.BufferReader(store.read(path)))
    except pa.ArrowInvalid as e:
        raise QuaverError(f"{store.root}/{path} cannot be read: {e}; build it again") from e
    found = (table.schema.metadata or {}).get(b"format", b"none").decode()
    if found != version or not table.schema.equals(schema):
        raise QuaverError(
            f"{store.root}/{path} has format {found}, this version reads {version}; build it again"
        )
    return table


def _write(
    store: Store, name: str, product_id: str, day: str, table: pa.Table, meta: dict[str, str]
) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(meta),
        sink,
        compression="zstd",
        use_dictionary=False,
        column_encoding=_encodings(table.schema),
    )
    store.write(table_path(name, product_id, day), sink.getvalue())


def _encodings(schema: pa.Schema) -> dict[str, str]:
    """Numbers byte by byte: smaller than with dictionaries, for a third of the work."""
    found = {}
    for field in schema:
        is_list = pa.types.is_fixed_size_list(field.type)
        kind = field.type.value_type if is_list else field.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            path = f"{field.name}.list.element" if is_list else field.name
            found[path] = "BYTE_STREAM_SPLIT"
    return found


def _lists(
    values: NDArray[np.generic],
    kind: pa.FixedSizeListType,
    missing: NDArray[np.bool_] | None = None,
) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = None if missing is None else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=mask)
