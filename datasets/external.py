"""External series from a Parquet file of (ns, name, value), which may be replaced meanwhile.

The rows may be in any order; of two with the same ns and name the later one in the file counts.
Whoever adds rows to a file that is in use writes it anew beside it and renames it into place, or
puts the object: it is read whole, and again when the file system or S3 says that it is another.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors.store import Store, sha256
from market.errors import QuaverError
from market.external import ExternalConfig, Series, external
from market.windows import BEAT_NS, MAX_NS

EXTERNAL_SCHEMA = pa.schema(
    [
        pa.field("ns", pa.int64(), nullable=False),  # Since when it was known, UTC.
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
_FIRST_NS = 10**18  # September 2001; what is before is in s, ms or us, and would always be known.
_MOST = 1e15  # A model's float32 can take these.
_STRINGS = (pa.string(), pa.large_string(), pa.string_view())
_HINT = "external series are a Parquet file of ns (int64), name (string) and value (float64)"
_NONE = Series(np.zeros(0, np.int64), np.zeros(0))


class ExternalReader:
    """A file's series, and the columns of one beat after another, as it is replaced."""

    def __init__(self, store: Store, config: ExternalConfig) -> None:
        """Take what is to be read; nothing is read before `refresh`."""
        self._store, self._config = store, config
        self.series: dict[str, Series] = {}
        self._tag: str | None = None
        self._problem: str | None = None

    def refresh(self) -> bool:
        """Read the file if it is another than last time; return whether it was.

        QuaverError, every time, as long as it is not there, cannot be reached, is not sound or has
        no row of a series that is wanted; what was read before stays in use. Blocks.
        """
        where = _where(self._store, self._config)
        try:
            found = self._store.read_if_changed(self._config.path, self._tag)
        except FileNotFoundError:
            raise _absent(where) from None
        if found is not None:
            data, self._tag = found
            self._problem = None
            try:
                self.series = _wanted(parse_external(data, where), self._config, where)
            except QuaverError as problem:
                self._problem = str(problem)
        if self._problem:
            raise QuaverError(self._problem)
        return found is not None

    def row(self, beat: int) -> NDArray[np.float64]:
        """Return the columns of a beat, f8[2 * series], as `external` gives them for this file."""
        row: NDArray[np.float64] = external(np.array([beat]), self.series, self._config)[0]
        return row


def inputs_sha256(
    series: Mapping[str, Series], config: ExternalConfig, first_beat: int, until_beat: int
) -> str:
    """Return the hash of the rows that beats from `first_beat` to before `until_beat` may read.

    So rows that are added later make nothing stale that was built before.
    """
    parts = [b""]
    for name in config.series:
        ns, values = series.get(name, _NONE)
        first = max(int(np.searchsorted(ns, (first_beat + 1) * BEAT_NS)) - 1, 0)
        until = int(np.searchsorted(ns, until_beat * BEAT_NS))
        parts += [name.encode(), ns[first:until].tobytes(), values[first:until].tobytes()]
    return sha256("\n".join(map(sha256, parts)).encode())


def parse_external(data: bytes, where: str) -> dict[str, Series]:
    """Return the series of a Parquet file's bytes; QuaverError names `where`, column and row."""
    table = _table(data, where)
    ns, value = table["ns"].to_numpy(), table["value"].to_numpy()
    timely = (ns >= _FIRST_NS) & (ns <= MAX_NS)
    _check_rows(where, "ns", timely, "is no time from 2001 on in nanoseconds since 1970")
    _check_rows(where, "value", np.abs(value) <= _MOST, f"is not finite, or beyond {_MOST:g}")
    encoded = table["name"].combine_chunks().dictionary_encode()
    codes, found = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    order = np.lexsort((ns, codes))  # Stable: rows with the same time stay in the file's order.
    borders = np.searchsorted(codes[order], np.arange(1, len(found)))
    return {
        name: Series(ns[rows], value[rows])
        for name, rows in zip(found, np.split(order, borders), strict=False)
    }


def _wanted(series: dict[str, Series], config: ExternalConfig, where: str) -> dict[str, Series]:
    """Return the series; QuaverError if one that is wanted has no row."""
    if missing := [name for name in config.series if name not in series]:
        raise QuaverError(
            f"{where}: no row has the name {', '.join(missing)}; it has "
            f"{', '.join(sorted(series)) or 'no rows'}; write them, or leave them out of `series`"
        )
    return series


def _table(data: bytes, where: str) -> pa.Table:
    """Return the three columns, of the right types and without nulls."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        schema = file.schema_arrow
        for field in EXTERNAL_SCHEMA:
            _check_column(where, schema, field)
        table = file.read(columns=EXTERNAL_SCHEMA.names, use_threads=False)
    except (pa.ArrowException, OSError) as e:
        raise QuaverError(f"{where} cannot be read: {e}; {_HINT}") from None
    for name in EXTERNAL_SCHEMA.names:
        _check_rows(where, name, table[name].is_valid().to_numpy(), "is null")
    return table.cast(EXTERNAL_SCHEMA)


def _check_column(where: str, schema: pa.Schema, field: pa.Field) -> None:
    if schema.names.count(field.name) != 1:
        raise QuaverError(
            f"{where}: column {field.name} is not there, or more than once, among "
            f"{', '.join(schema.names) or 'none'}; {_HINT}"
        )
    found = schema.field(field.name).type
    if found not in (_STRINGS if field.type == pa.string() else (field.type,)):
        raise QuaverError(f"{where}: column {field.name} has the type {found}; {_HINT}")


def _check_rows(where: str, column: str, sound: NDArray[np.bool_], what: str) -> None:
    if not sound.all():
        row = int(sound.argmin())
        raise QuaverError(f"{where}: column {column} {what} in row {row} (the first is 0); {_HINT}")


def _where(store: Store, config: ExternalConfig) -> str:
    return f"{store.root}/{config.path}"


def _absent(where: str) -> QuaverError:
    return QuaverError(f"{where} is not there; write it, or take it out of the configuration")
