"""Samples from Parquet into memory: what training and evaluation read."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.store import Store
from datasets.recipe import Recipe
from datasets.samples import Samples
from datasets.tables import read_samples, stored
from market.errors import QuaverError


def load_samples(
    store: Store, recipe: Recipe, chosen: list[tuple[str, str]] | None = None
) -> Samples:
    """Return all samples under a root, in order of product and beat, or those of chosen days.

    `chosen` are (product id, day), sorted, each of them stored. QuaverError if there are none, or
    if they were made by another recipe.
    """
    tables = [
        read_samples(store, product_id, day, recipe)
        for product_id, day in (stored(store, "samples") if chosen is None else chosen)
    ]
    table = pa.concat_tables(tables) if tables else None
    if table is None or not table.num_rows:
        raise QuaverError(
            f"there are no samples in {store.root}; a sample needs five minutes of unbroken "
            "recording before its beat (quaver build --help)"
        )
    return Samples(
        beat=table["beat"].to_numpy(),
        product=table["product"].to_numpy(),
        medians=_matrix(table, "medians"),
        bids=_matrix(table, "bids"),
        asks=_matrix(table, "asks"),
        label=_matrix(table, "label"),
        signals=_matrix(table, "signals") if recipe.signal_names else np.empty((table.num_rows, 0)),
    )


def _matrix(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of lists as [n, width]; rows of nulls are NaN."""
    column = table[name].combine_chunks()
    width = column.type.list_size
    filled = np.full((len(column), width), np.nan)
    present = column.is_valid().to_numpy(zero_copy_only=False)
    filled[present] = column.drop_null().flatten().to_numpy().reshape(-1, width)
    return filled
