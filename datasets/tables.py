"""The windows and samples tables: their Arrow schemas, paths, and the way to and from numpy.

windows/product=BTC-USD/day=2026-08-09/windows.parquet
samples/product=BTC-USD/day=2026-08-09/samples.parquet
"""

import re

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors.store import Store
from datasets.recipe import Recipe, differences
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


def samples_schema(signals: int) -> pa.Schema:
    """Return the columns of samples with so many signals; without any there is no such column."""
    kind = pa.list_(pa.float64(), signals)
    extra = [pa.field("signals", kind, nullable=False)] if signals else []
    return pa.schema([*SAMPLES_SCHEMA, *extra])


def table_path(table: str, product_id: str, day: str) -> str:
    """Return where a table ("windows" or "samples") keeps one product and day."""
    return f"{table}/product={product_id}/day={day}/{table}.parquet"


def stored(store: Store, table: str) -> list[tuple[str, str]]:
    """Return (product id, day) of every file of a table, sorted; other files are left out."""
    file = re.compile(rf"{table}/product=([^/]+)/day=([^/]+)/{table}\.parquet")
    return sorted((m[1], m[2]) for m in map(file.fullmatch, store.files(table)) if m)


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


def samples_table(
    features: Features,
    product_index: int,
    label: NDArray[np.float64],
    signals: NDArray[np.float64],
) -> pa.Table:
    """Return features, their labels ([n, 5], NaN rows for none) and signals ([n, s]) as a table."""
    schema = samples_schema(signals.shape[1])
    columns = [
        pa.array(features.beats),
        pa.array(np.full(len(features.beats), product_index, np.int32)),
        _lists(features.medians, schema.field("medians").type),
        _lists(features.bids, schema.field("bids").type),
        _lists(features.asks, schema.field("asks").type),
        _lists(label, schema.field("label").type, missing=np.isnan(label[:, 0])),
    ]
    if signals.shape[1]:
        columns.append(_lists(signals, schema.field("signals").type))
    return pa.Table.from_arrays(columns, schema=schema)


def write_windows(store: Store, product_id: str, day: str, windows: NDArray[np.void]) -> memoryview:
    """Write one product and day of windows; return the bytes of the file."""
    meta = {"format": WINDOWS_FORMAT}
    return _write(store, "windows", product_id, day, windows_table(windows), meta)


def write_samples(
    store: Store, product_id: str, day: str, table: pa.Table, recipe: Recipe
) -> memoryview:
    """Write one product and day of samples, with the recipe they were made by; return the bytes."""
    meta = {"format": SAMPLES_FORMAT, "recipe": msgspec.json.encode(recipe).decode()}
    if columns := recipe.signal_names:
        meta["signals"] = msgspec.json.encode(columns).decode()
    return _write(store, "samples", product_id, day, table, meta)


def read_windows(store: Store, product_id: str, day: str) -> NDArray[np.void]:
    """Return WINDOW[n] of one product and day, empty if there is no such file."""
    path = table_path("windows", product_id, day)
    if not store.exists(path):
        return np.zeros(0, WINDOW)
    return decode_windows(store.read(path), f"{store.root}/{path}")


def decode_windows(data: bytes, where: str) -> NDArray[np.void]:
    """Return WINDOW[n] from the bytes of `where`; QuaverError as in `decode_table`."""
    table = decode_table(data, where, WINDOWS_SCHEMA, WINDOWS_FORMAT)
    windows = np.zeros(table.num_rows, WINDOW)
    for field in WINDOWS_SCHEMA:
        column = table[field.name].combine_chunks()
        if pa.types.is_fixed_size_list(field.type):
            windows[field.name] = column.flatten().to_numpy().reshape(-1, BUCKETS)
        else:
            known = column.fill_null(0) if field.nullable else column
            windows[field.name] = known.to_numpy(zero_copy_only=False)
    return windows


def read_samples(store: Store, product_id: str, day: str, recipe: Recipe) -> pa.Table:
    """Return one product and day of samples; QuaverError as from `decode_samples`."""
    path = table_path("samples", product_id, day)
    return decode_samples(store.read(path), f"{store.root}/{path}", recipe)


def decode_samples(data: bytes, where: str, recipe: Recipe) -> pa.Table:
    """Return samples from the bytes of `where`; QuaverError as in `decode_table`.

    Also if they were made by another recipe, or hold other signals than it names.
    """
    table = _readable(data, where, SAMPLES_FORMAT)
    made_by = msgspec.json.decode(table.schema.metadata[b"recipe"], type=Recipe)
    if made_by != recipe:
        raise QuaverError(
            f"{where} was made with other settings than the configuration's: "
            f"{differences(made_by, recipe)}; run quaver build again"
        )
    wanted = recipe.signal_names
    found = msgspec.json.decode(table.schema.metadata.get(b"signals", b"[]"), type=tuple[str, ...])
    _check_columns(table, where, samples_schema(len(wanted)))
    if found != wanted:
        raise QuaverError(
            f"{where} has the signals {', '.join(found)}, this version computes "
            f"{', '.join(wanted)}; build it again"
        )
    return table


def decode_table(data: bytes, where: str, schema: pa.Schema, version: str) -> pa.Table:
    """Return the table in the bytes of `where`; QuaverError if broken or of another version."""
    table = _readable(data, where, version)
    _check_columns(table, where, schema)
    return table


def _readable(data: bytes, where: str, version: str) -> pa.Table:
    try:
        # Without Arrow's threads, which `pq.read_table` starts: one that is still busy when the
        # process ends may abort it (apache/arrow#34314).
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except (pa.ArrowException, OSError) as e:
        raise QuaverError(f"{where} cannot be read: {e}; build it again") from e
    found = (table.schema.metadata or {}).get(b"format", b"none").decode()
    if found != version:
        raise QuaverError(
            f"{where} has format {found}, this version reads {version}; build it again"
        )
    return table


def _check_columns(table: pa.Table, where: str, schema: pa.Schema) -> None:
    if not table.schema.equals(schema):
        raise QuaverError(f"{where} has other columns than this version reads; build it again")


def _write(
    store: Store, name: str, product_id: str, day: str, table: pa.Table, meta: dict[str, str]
) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(meta),
        sink,
        compression="zstd",
        use_dictionary=False,
        column_encoding=_encodings(table.schema),
    )
    data = memoryview(sink.getvalue())
    store.write(table_path(name, product_id, day), data)
    return data


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
