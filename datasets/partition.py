"""One partition built: raw to windows, or windows to samples, and its manifest after it.

The same input gives the same bytes, wherever and however often it is built.
"""

from collections.abc import Mapping
from functools import lru_cache

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.raw import DAY_NS, Manifest, day_of, day_start_ns, partition_path, read_manifest
from actors.store import Store, sha256
from datasets.beside import Beside, beside, reference_days
from datasets.code_hash import code_sha256
from datasets.external import ExternalReader, inputs_sha256, parse_external
from datasets.rebuild import windows_of
from datasets.recipe import Recipe
from datasets.table_manifest import (
    Partition,
    TableManifest,
    begin,
    finish,
    read_table_manifest,
    samples_inputs,
    windows_inputs,
)
from datasets.tables import (
    decode_windows,
    samples_table,
    table_path,
    write_samples,
    write_windows,
)
from datasets.units import in_units_of, units_of
from market.errors import QuaverError
from market.external import ExternalConfig, Series
from market.features import LOOKBACK_BEATS, features
from market.labels import labels
from market.products import Product, product_index
from market.signals import signals
from market.windows import BEAT_NS, WINDOW


class Built(msgspec.Struct):
    """What one partition gave."""

    product: str
    day: str
    stage: str  # "windows" or "samples".
    rows: int  # Events read, or samples written.
    beats: int
    valid: int  # Valid beats, or samples with a label.
    sha256: str  # Of the file.


def windows_code() -> str:
    """Return the hash of the code that makes windows."""
    return code_sha256(windows_of, write_windows)


def samples_code() -> str:
    """Return the hash of the code that makes samples of windows."""
    return code_sha256(
        decode_windows, in_units_of, beside, parse_external, samples_of, write_samples
    )


def days_read(day: str) -> list[str]:
    """Return the days whose windows the samples of a day are made from: one more on each side."""
    start_ns = day_start_ns(day)
    return [day_of(start_ns - 1), day, day_of(start_ns + DAY_NS)]


def windows_read(product_id: str, day: str, recipe: Recipe) -> list[Partition]:
    """Return the partitions whose windows the samples of a product and day are made from."""
    own = [(product_id, one) for one in days_read(day)]
    others = dict.fromkeys(name for name in recipe.references_of(product_id) if name)
    return own + [(name, one) for name in others for one in reference_days(day)]


def external_inputs(series: Mapping[str, Series], day: str, recipe: Recipe) -> str:
    """Return the hash of what the samples of a day may read of external series."""
    first, until = _beats(day)
    return inputs_sha256(series, recipe.external, first, until)


def read_series(store: Store, recipe: Recipe) -> dict[str, Series]:
    """Return the external series that samples take; QuaverError as from `ExternalReader`."""
    if not recipe.external.series:
        return {}
    reader = _reader(store.root, recipe.external)
    reader.refresh()
    return reader.series


@lru_cache(1)
def _reader(root: str, config: ExternalConfig) -> ExternalReader:
    """A process builds many partitions, and reads the file again only when it is another."""
    return ExternalReader(Store(root), config)


def read_raw(store: Store, product_id: str, day: str) -> Manifest:
    """Return the manifest of a raw partition; QuaverError if there is none, or another's."""
    manifest = read_manifest(store, product_id, day)
    if manifest is None:
        raise QuaverError(f"there is no raw partition of {product_id} on {day} in {store.root}")
    if (manifest.product, manifest.day) != (product_id, day):
        raise QuaverError(
            f"{store.root}/{partition_path(product_id, day)} holds {manifest.product} on "
            f"{manifest.day}: it was put there from elsewhere; remove it"
        )
    return manifest


def build_windows(store: Store, product_id: str, day: str) -> Built:
    """Build and write the windows of one raw partition."""
    raw = read_raw(store, product_id, day)
    try:
        windows = windows_of(store, raw)
    except (KeyError, TypeError, ValueError) as e:
        raise QuaverError(
            f"the parts in {store.root}/{partition_path(product_id, day)} do not have the columns "
            f"of this version: {e}; import the captures again"
        ) from e
    valid = int(windows["valid"].sum())
    begin(store, "windows", product_id, day)
    data = write_windows(store, product_id, day, windows)
    manifest = TableManifest(
        table="windows",
        product=product_id,
        day=day,
        inputs_sha256=windows_inputs(raw),
        code_sha256=windows_code(),
        rows=len(windows),
        valid=valid,
        units=units_of(raw),
        bytes=len(data),
        sha256=sha256(data),
    )
    finish(store, manifest)
    events = sum(part.rows for session in raw.sessions for part in session.parts)
    return Built(product_id, day, "windows", events, len(windows), valid, manifest.sha256)


def build_samples(store: Store, product_id: str, day: str, recipe: Recipe) -> Built:
    """Build and write the samples of one day from its windows and those beside it."""
    raw = read_raw(store, product_id, day)
    read = {of: _read_windows(store, *of) for of in windows_read(product_id, day, recipe)}
    if read[product_id, day][1] is None:
        raise QuaverError(
            f"there are no windows of {product_id} on {day} in {store.root}, which its samples are "
            "made from; run quaver build"
        )
    series = read_series(store, recipe)
    made = {of: manifest for of, (_, manifest) in read.items()}
    windows_of_day = in_units_of(
        day, lambda *of: read[of][0], lambda *of: made[of] and made[of].units
    )
    known = beside(product_id, day, recipe, windows_of_day, series)
    before, within, after = (windows_of_day(product_id, one) for one in days_read(day))
    windows = np.concatenate(
        [before[-LOOKBACK_BEATS:], within, after[: recipe.horizon_beats]]
        if len(within)
        else [within]
    )
    table = samples_of(windows, known, raw.listed, day, recipe)
    labelled = table.num_rows - table["label"].null_count
    begin(store, "samples", product_id, day)
    data = write_samples(store, product_id, day, table, recipe)
    sources = [manifest and manifest.source for manifest in made.values()]
    manifest = TableManifest(
        table="samples",
        product=product_id,
        day=day,
        inputs_sha256=samples_inputs(raw, sources, external_inputs(series, day, recipe), recipe),
        code_sha256=samples_code(),
        rows=table.num_rows,
        valid=labelled,
        bytes=len(data),
        sha256=sha256(data),
    )
    finish(store, manifest)
    return Built(
        product_id, day, "samples", table.num_rows, len(windows), labelled, manifest.sha256
    )


def samples_of(
    windows: NDArray[np.void], known: Beside, listed: Product, day: str, recipe: Recipe
) -> pa.Table:
    """Return the samples of a day; `windows` (WINDOW[n]) reach over both of its midnights."""
    index = product_index(listed.id)
    if index is None:
        raise QuaverError(f"{listed.id} is not in the universe: models know no such product")
    found = features(windows, listed.tick)
    first, until = _beats(day)
    mine = (found.beats >= first) & (found.beats < until)
    kept = type(found)(*(column[mine] for column in found))
    label = labels(windows, recipe.fees, recipe.horizon_beats)
    label = label[np.searchsorted(windows["beat"], kept.beats)]
    own = signals(windows, listed, recipe.signals)[mine]
    return samples_table(kept, index, label, np.hstack([own, known.columns(kept.beats, recipe)]))


def _beats(day: str) -> tuple[int, int]:
    """Return the first beat of a day, and that of the next."""
    start_ns = day_start_ns(day)
    return start_ns // BEAT_NS, (start_ns + DAY_NS) // BEAT_NS


def _read_windows(
    store: Store, product_id: str, day: str
) -> tuple[NDArray[np.void], TableManifest | None]:
    """Return the windows of a day and their manifest, none and None if they were not built."""
    manifest = read_table_manifest(store, "windows", product_id, day)
    path = table_path("windows", product_id, day)
    try:
        data = store.read(path) if manifest else None
    except FileNotFoundError:
        data = None
    if manifest is None or data is None:
        return np.zeros(0, WINDOW), None
    if sha256(data) != manifest.sha256:
        raise QuaverError(
            f"{store.root}/{path} is not what its manifest says (SHA-256 differs); remove it and "
            "run quaver build"
        )
    return decode_windows(data, f"{store.root}/{path}"), manifest
