"""Raw partitions -> windows -> samples, one Ray Data task per product and day.

Each partition rebuilds its book alone; features and labels of a day also read the windows of the
days beside it, so that nothing is lost at midnight. The same input gives the same bytes.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import ray.data

from actors.raw import DAY_NS, day_of, day_start_ns, partitions, read_manifest
from actors.store import Store
from datasets.rebuild import windows_of
from datasets.recipe import Recipe
from datasets.tables import (
    read_windows,
    samples_table,
    stored,
    table_path,
    write_samples,
    write_windows,
)
from market.errors import QuaverError
from market.features import LOOKBACK_BEATS, features
from market.labels import labels
from market.products import product_index
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


def build_windows(store: Store, product_id: str, day: str) -> Built:
    """Build and write the windows of one raw partition."""
    manifest = read_manifest(store, product_id, day)
    if manifest is None:
        raise QuaverError(f"there is no raw partition of {product_id} on {day} in {store.root}")
    windows = windows_of(store, manifest)
    write_windows(store, product_id, day, windows)
    rows = sum(part.rows for session in manifest.sessions for part in session.parts)
    return Built(product_id, day, "windows", rows, len(windows), int(windows["valid"].sum()))


def build_samples(store: Store, product_id: str, day: str, recipe: Recipe) -> Built:
    """Build and write the samples of one day from its windows and those of the days beside it."""
    manifest = read_manifest(store, product_id, day)
    index = product_index(product_id)
    if manifest is None or index is None:
        raise QuaverError(f"{product_id} on {day} has no raw partition or is not in the universe")
    start_ns = day_start_ns(day)
    before = read_windows(store, product_id, day_of(start_ns - 1))[-LOOKBACK_BEATS:]
    within = read_windows(store, product_id, day)
    after = read_windows(store, product_id, day_of(start_ns + DAY_NS))[: recipe.horizon_beats]
    windows = np.concatenate([before, within, after]) if len(within) else np.zeros(0, WINDOW)
    found = features(windows, manifest.listed.tick)
    first, last = start_ns // BEAT_NS, (start_ns + DAY_NS) // BEAT_NS
    mine = (found.beats >= first) & (found.beats < last)
    kept = type(found)(*(column[mine] for column in found))
    label = labels(windows, recipe.fees, recipe.horizon_beats)
    label = label[np.searchsorted(windows["beat"], kept.beats)]
    own = signals(windows, manifest.listed, recipe.signals)[mine]
    table = samples_table(kept, index, label, own)
    write_samples(store, product_id, day, table, recipe)
    labelled = int((~np.isnan(label[:, 0])).sum())
    return Built(product_id, day, "samples", len(label), len(windows), labelled)


def build(
    store: Store, recipe: Recipe, on_built: Callable[[Built, int], None] = lambda built, total: None
) -> list[Built]:
    """Build every raw partition under a root with the running Ray; return what each gave.

    `on_built` is told of each partition as it is done, and how many tasks there are. Products that
    are not in the universe get windows but no samples: models know products by their index.
    """
    found = partitions(store)
    if not found:
        raise QuaverError(
            f"there are no raw partitions in {store.root}; "
            "record or import some first (quaver import --help)"
        )
    _drop_orphans(store, found)
    sampled = [(p, day) for p, day in found if product_index(p) is not None]
    total = len(found) + len(sampled)
    results = []
    # All windows first: samples read those of the neighbouring days.
    for stage, todo in (("windows", found), ("samples", sampled)):
        for built in _map(store, recipe, stage, todo):
            results.append(built)
            on_built(built, total)
    return results


def _drop_orphans(store: Store, found: list[tuple[str, str]]) -> None:
    """Remove windows and samples whose raw partition is gone: nobody would know what they are."""
    for table in ("windows", "samples"):
        for product_id, day in set(stored(store, table)) - set(found):
            store.delete(table_path(table, product_id, day))


def _map(store: Store, recipe: Recipe, stage: str, todo: list[tuple[str, str]]) -> Iterator[Built]:
    def one(row: dict[str, Any]) -> dict[str, Any]:
        try:
            if stage == "windows":
                built = build_windows(store, row["product"], row["day"])
            else:
                built = build_samples(store, row["product"], row["day"], recipe)
        except QuaverError as e:
            return {"error": str(e)}  # Ray Data would wrap it in three others.
        return {"built": msgspec.json.encode(built)}

    if not todo:
        return
    _keep_off_the_terminal()
    rows = [{"product": product_id, "day": day} for product_id, day in todo]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(one, num_cpus=1)
    for row in dataset.iter_rows():
        if row.get("error"):
            raise QuaverError(row["error"])
        yield msgspec.json.decode(row["built"], type=Built)


def _keep_off_the_terminal() -> None:
    """Ray Data's progress and notes go to its log file only."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.CRITICAL + 1)
