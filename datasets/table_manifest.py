"""What a partition of windows or samples was made from: its manifest, written after the table.

    windows/product=BTC-USD/day=2026-08-09/manifest.json

A partition is up to date if its manifest says of inputs and code what would be said if it were
built again. While one is being built it has none, so a manifest is always true of its file.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from actors.raw import Manifest, by_start
from actors.s3 import MAX_THREADS
from actors.store import Store, sha256
from datasets.recipe import Recipe
from datasets.tables import table_path
from datasets.units import Units

FORMAT = "quaver.table.2"
Partition = tuple[str, str]  # (product id, day)
Source = tuple[str, Units]  # Of windows: the hash of the file, what its numbers count.
T = TypeVar("T")


class TableManifest(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a table: what it holds, from what and by what it was made."""

    format: str = FORMAT
    table: str  # "windows" or "samples".
    product: str
    day: str
    inputs_sha256: str  # Of all that was read to make it.
    code_sha256: str  # Of the code that made it, and the versions of the libraries that decide.
    rows: int
    valid: int  # Valid beats, or samples with a label.
    units: Units = None  # Of windows.
    bytes: int
    sha256: str  # Of the file.

    @property
    def source(self) -> Source:
        """What samples that are made from it keep of it."""
        return self.sha256, self.units

    def is_current(self, inputs: str, code: str) -> bool:
        """Whether building the partition again would give the same file."""
        return (self.inputs_sha256, self.code_sha256) == (inputs, code)


def manifest_path(table: str, product_id: str, day: str) -> str:
    """Return where the manifest of a table's partition lies."""
    return table_path(table, product_id, day).rpartition("/")[0] + "/manifest.json"


def windows_inputs(raw: Manifest) -> str:
    """Return the hash of what the windows of a raw partition are made from."""
    sessions = [
        [[part.sha256 for part in session.parts], session.gaps, session.book_sha256]
        for session in by_start(raw)
    ]
    return _hash([raw.product, raw.day, raw.quote_increment, raw.base_increment, sessions])


def samples_inputs(
    raw: Manifest, windows: list[Source | None], external: str, recipe: Recipe
) -> str:
    """Return the hash of what samples are made from.

    `windows` are of the files read, None where a day has none; `external` is the hash of the rows
    of external series.
    """
    listed = [raw.product, raw.day, raw.quote_increment, raw.base_increment]
    return _hash([*listed, windows, external, recipe])


def read_table_manifest(
    store: Store, table: str, product_id: str, day: str
) -> TableManifest | None:
    """Return the manifest of a partition; None if there is none that this version can use."""
    try:
        data = store.read(manifest_path(table, product_id, day))
        found = msgspec.json.decode(data, type=TableManifest)
    except (FileNotFoundError, msgspec.DecodeError, ValueError):
        return None
    return found if found.format == FORMAT else None


def read_table_manifests(
    store: Store, table: str, partitions: Iterable[Partition]
) -> dict[Partition, TableManifest]:
    """Return the manifests of those whose file is there, whole by its length."""
    sizes = store.sizes(table)
    files = {p: sizes.get(table_path(table, *p)) for p in partitions}
    present = [p for p, size in files.items() if size and manifest_path(table, *p) in sizes]
    read = in_threads(lambda p: read_table_manifest(store, table, *p), present)
    return {
        p: manifest
        for p, manifest in zip(present, read, strict=True)
        if manifest and manifest.bytes == files[p]
    }


def in_threads(call: Callable[[Partition], T], partitions: list[Partition]) -> list[T]:
    """Return what `call` gives for each, in order: one request at a time would take minutes."""
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        return list(pool.map(call, partitions))


def begin(store: Store, table: str, product_id: str, day: str) -> None:
    """Before a file is written: take away the manifest of the one before it, and its leavings."""
    path = manifest_path(table, product_id, day)
    store.delete(path)
    store.delete_unfinished(path.rpartition("/")[0])


def finish(store: Store, manifest: TableManifest) -> None:
    """After a file is written: say what it is."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    store.write(manifest_path(manifest.table, manifest.product, manifest.day), data + b"\n")


def _hash(inputs: object) -> str:
    return sha256(msgspec.json.encode(inputs))
