"""Where two tables of beats differ: by column and beat, to the last bit."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def between(table: pa.Table, first: int, last: int) -> pa.Table:
    """Return the rows of beats first .. last of a table with ascending beats."""
    beats = table["beat"].to_numpy()
    start, end = np.searchsorted(beats, (first, last + 1))
    return table.slice(start, max(0, end - start))


def differing(found: pa.Table, wanted: pa.Table) -> dict[str, Ints]:
    """Return for each column that is not the same in both tables the beats where it differs.

    Both have the same columns and strictly ascending beats. A beat that only one has differs in
    `beat`, and the other columns are compared where both have a row.
    """
    left, right = found["beat"].to_numpy(), wanted["beat"].to_numpy()
    only = np.setxor1d(left, right, assume_unique=True)
    differ = {"beat": only} if len(only) else {}
    if len(only):
        found = found.filter(pa.array(np.isin(left, right)))
        wanted = wanted.filter(pa.array(np.isin(right, left)))
    beats = wanted["beat"].to_numpy()
    for name in wanted.column_names:
        unequal = _unequal(found[name].combine_chunks(), wanted[name].combine_chunks())
        if unequal.any():
            differ[name] = beats[unequal]
    return differ


def _unequal(found: pa.Array, wanted: pa.Array) -> NDArray[np.bool_]:
    known, also = _known(found), _known(wanted)
    unequal = known != also
    both = known & also
    if both.any():
        mask = pa.array(both)
        unequal[both] = (_bits(found.filter(mask)) != _bits(wanted.filter(mask))).any(axis=1)
    return unequal


def _known(column: pa.Array) -> NDArray[np.bool_]:
    return np.array(column.is_valid().to_numpy(zero_copy_only=False))


def _bits(column: pa.Array) -> NDArray[np.generic]:
    """A column without nulls as [n, width]; floats as their bits, so that NaN equals itself."""
    rows = len(column)
    if pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        values = values.view(f"i{values.dtype.itemsize}")
    return values.reshape(rows, -1)
