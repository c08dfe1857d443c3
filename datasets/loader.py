"""Samples from Parquet into memory, a day of a product or all there are."""

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.store import Store
from datasets.recipe import Recipe
from datasets.samples import Samples
from datasets.tables import decode_samples, stored, table_path
from market.errors import QuaverError


def load_samples(
    store: Store, recipe: Recipe, chosen: list[tuple[str, str]] | None = None
) -> Samples:
    """Return all samples under a root, in order of product and beat, or those of chosen days.

    For what fits into memory; training maps `datasets.sample_cache` instead. `chosen` are
    (product id, day), sorted, each of them stored. QuaverError if there are none, or if they were
    made by another recipe.
    """
    if chosen is None:
        chosen = stored(store, "samples")
    days = [
        parse_samples(store, path, store.read(path), recipe)
        for path in (table_path("samples", *of) for of in chosen)
    ]
    if not sum(map(len, days)):
        raise no_samples(store)
    return Samples(
        **{
            column.name: np.concatenate([getattr(day, column.name) for day in days])
            for column in fields(Samples)
        }
    )


def parse_samples(store: Store, path: str, data: bytes, recipe: Recipe) -> Samples:
    """Return the samples of one file from its bytes; QuaverError as in `load_samples`."""
    table = decode_samples(data, f"{store.root}/{path}", recipe)
    columns = {name: _column(table[name]) for name in table.column_names}
    none = np.empty((table.num_rows, 0))  # Of signals, where the recipe has none.
    return Samples(**{"signals": none} | columns)


def no_samples(store: Store) -> QuaverError:
    """Return the error that says what samples need."""
    return QuaverError(
        f"there are no samples in {store.root}; a sample needs five minutes of unbroken "
        "recording before its beat (quaver build --help)"
    )


def _column(chunked: pa.ChunkedArray) -> NDArray[Any]:
    """A column as [n], one of lists as [n, width]; rows of nulls are NaN."""
    column = chunked.combine_chunks()
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    width = column.type.list_size
    filled = np.full((len(column), width), np.nan)
    present = column.is_valid().to_numpy(zero_copy_only=False)
    filled[present] = column.drop_null().flatten().to_numpy().reshape(-1, width)
    return filled
