"""What of the windows and samples under a root is missing or stale, and is to be built."""

from difflib import get_close_matches

from actors.raw import Manifest, day_start_ns, known_partitions
from actors.store import Away, Store
from datasets.neighbours import NEIGHBOURS_PATH, find_neighbours, with_nearest, write_neighbours
from datasets.partition import (
    external_inputs,
    read_raw,
    read_series,
    samples_code,
    windows_code,
    windows_read,
)
from datasets.recipe import Recipe
from datasets.table_manifest import (
    Partition,
    in_threads,
    manifest_path,
    read_table_manifests,
    samples_inputs,
    windows_inputs,
)
from datasets.tables import stored, table_path
from datasets.units import units_of
from market.errors import QuaverError
from market.products import product_index

_SHOWN = 5


class Todo:
    """What is to be built of the products and days wanted; None: of all.

    All windows that a day's samples are made from are wanted with it. If the nearest coins have yet
    to be found, these are all there are: which coins are near is then the same whatever is wanted.
    """

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        products: str | None = None,
        days: str | None = None,
        force: bool = False,
    ) -> None:
        """Look at what is there; QuaverError if nothing is, or nothing of what is wanted."""
        found, self.foreign = known_partitions(store)
        if not found:
            raise QuaverError(
                f"there are no raw partitions in {store.root}; "
                "record or import some first (quaver import --help)"
            )
        wanted = choose(found, products, days)
        self.sampled = [(p, day) for p, day in wanted if product_index(p) is not None]
        self.lacks_neighbours = bool(
            recipe.cross.neighbours and self.sampled and not store.exists(NEIGHBOURS_PATH)
        )
        known = self.sampled and not self.lacks_neighbours
        self.recipe = with_nearest(store, recipe) if known else recipe
        self._series, self._force = read_series(store, recipe), force
        read = set(wanted)
        read |= {one for of in self.sampled for one in windows_read(*of, self.recipe)}
        if self.lacks_neighbours:
            read |= {(p, day) for p, day in found if product_index(p) is not None}
        with_windows = sorted(read & set(found))
        self.unlisted = sorted({p for p, _ in wanted if product_index(p) is None})
        manifests = in_threads(lambda p: _raw_or_none(store, *p), with_windows)
        self._raw = dict(zip(with_windows, manifests, strict=True))
        self._windows = read_table_manifests(store, "windows", with_windows)
        self._samples = read_table_manifests(store, "samples", self.sampled)
        self._sources = {p: manifest.source for p, manifest in self._windows.items()}
        self.windows = [
            p for p in with_windows if (force and p in wanted) or not self._is_windows_current(p)
        ]
        self.partitions = len(with_windows) + len(self.sampled)
        self._orphans = [
            (table, *p)
            for table in ("windows", "samples")
            for p in sorted(set(stored(store, table)) - set(found))
        ]

    def is_empty(self) -> bool:
        """Whether all that is wanted is up to date."""
        return not self.windows and not self.samples(set())

    def drop_orphans(self, store: Store) -> None:
        """Remove windows and samples whose raw partition is gone: nobody knows what they are."""
        for orphan in self._orphans:
            store.delete(manifest_path(*orphan))
            store.delete(table_path(*orphan))

    def has_windows(self, partition: Partition, sha256: str) -> None:
        """Take note that windows were built, and of their file's hash."""
        raw = self._raw[partition]
        self._sources[partition] = sha256, raw and units_of(raw)

    def find_neighbours(self, store: Store, split: tuple[float, float, float]) -> None:
        """Work out the nearest coins and keep them; QuaverError as from `find_neighbours`."""
        write_neighbours(store, find_neighbours(store, split))
        self.recipe, self.lacks_neighbours = with_nearest(store, self.recipe), False

    def samples(self, unsure: set[Partition]) -> list[Partition]:
        """Return the samples to be built, if the windows of the partitions `unsure` change."""
        code = samples_code()
        return [
            p
            for p in self.sampled
            if self._force
            or self.lacks_neighbours
            or not unsure.isdisjoint(windows_read(*p, self.recipe))
            or not self._is_samples_current(p, code)
        ]

    def _is_windows_current(self, partition: Partition) -> bool:
        raw, made = self._raw[partition], self._windows.get(partition)
        return bool(raw and made and made.is_current(windows_inputs(raw), windows_code()))

    def _is_samples_current(self, partition: Partition, code: str) -> bool:
        raw, made = self._raw[partition], self._samples.get(partition)
        if raw is None or made is None:
            return False
        read = [self._sources.get(of) for of in windows_read(*partition, self.recipe)]
        external = external_inputs(self._series, partition[1], self.recipe)
        inputs = samples_inputs(raw, read, external, self.recipe)
        return made.is_current(inputs, code)


def choose(found: list[Partition], products: str | None, days: str | None) -> list[Partition]:
    """Return those of the partitions found that are of these products and days; None: of any.

    `products` are ids with commas between, `days` also ranges like 2026-08-01..2026-08-31.
    QuaverError if one of them has no partition.
    """
    of_products = _chosen_products(found, products)
    mine = [(p, day) for p, day in found if p in of_products]
    of_days = _chosen_days(sorted({day for _, day in mine}), days)
    return [(p, day) for p, day in mine if day in of_days]


def _chosen_products(found: list[Partition], products: str | None) -> set[str]:
    known = sorted({p for p, _ in found})
    if products is None:
        return set(known)
    chosen = [one.strip() for one in products.split(",") if one.strip()]
    if not chosen:
        raise QuaverError("--products names none; write ids with commas between, like BTC-USD")
    for one in chosen:
        if one not in known:
            near = get_close_matches(one.upper(), known, 1)
            raise QuaverError(
                f"--products {one}: there is no raw partition of it; "
                f"{f'do you mean {near[0]}? ' if near else ''}There are {_shown(known)}"
            )
    return set(chosen)


def _chosen_days(known: list[str], days: str | None) -> set[str]:
    if days is None:
        return set(known)
    chosen: set[str] = set()
    for one in (one.strip() for one in days.split(",") if one.strip()):
        first, _, last = one.partition("..") if ".." in one else (one, "", one)
        if day_start_ns(first) > day_start_ns(last):
            raise QuaverError(f"--days {one}: the range ends before it begins")
        within = {day for day in known if first <= day <= last}
        if not within:
            raise QuaverError(
                f"--days {one}: there is no raw partition of that; there are {_span(known)}"
            )
        chosen |= within
    if not chosen:
        raise QuaverError(
            "--days names none; write days like 2026-08-09, with commas between, or a range like "
            "2026-08-01..2026-08-31"
        )
    return chosen


def _span(days: list[str]) -> str:
    return _shown(days) if len(days) <= _SHOWN else f"{len(days)} days, {days[0]} .. {days[-1]}"


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _raw_or_none(store: Store, product_id: str, day: str) -> Manifest | None:
    """Return a raw manifest, None where building its windows will say what is wrong with it."""
    try:
        return read_raw(store, product_id, day)
    except Away:
        raise
    except QuaverError:
        return None
