"""What the tests of the build share: short recordings of some days, and a build without Ray."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.raw import Manifest, day_of, partition_path, read_manifest
from actors.store import Store
from datasets import build as build_module
from datasets.build import Failure, Outcome, Watcher, _Result, build, build_one, find_todo
from datasets.partition import Built
from datasets.recipe import Recipe
from datasets.table_manifest import Partition
from tests.actors.wire import BTC, DAY_NS, ETH, SECOND_NS, START_NS, Walk, record

RECIPE = Recipe()
SPLIT = (0.6, 0.2, 0.2)
DAYS = tuple(day_of(START_NS + i * DAY_NS) for i in range(4))
Steps = list[tuple[str, str, str]]  # (stage, product, day)


class Told(Watcher):
    """What a build tells."""

    def __init__(self) -> None:
        self.told: list[tuple[Built | Failure, int]] = []
        self.waited: list[str] = []

    def done(self, one: Built | Failure, total: int) -> None:
        self.told.append((one, total))

    def waiting(self, why: str) -> None:
        self.waited.append(why)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds go without Ray, one partition after the other, and wait for no disk."""

    def serial(
        store: Store, recipe: Recipe, stage: str, todo: list[Partition]
    ) -> Iterator[tuple[Partition, _Result]]:
        for partition in todo:
            yield partition, build_one(store, recipe, stage, partition)

    monkeypatch.setattr(build_module, "_map", serial)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def record_day(
    store: Store, i: int, seed: int = 1, products: tuple[str, ...] = (BTC, ETH), seconds: int = 40
) -> None:
    """Record so many seconds of the i-th day; another seed is another session, hours later."""
    start_ns = START_NS + i * DAY_NS + (seed - 1) * 7_200 * SECOND_NS
    end_ns = start_ns + seconds * SECOND_NS
    walk = Walk(seed, products)
    frames = [*walk.snapshots(start_ns), *walk.frames(start_ns + SECOND_NS, end_ns)]
    record(store, frames, products)


def record_days(store: Store, n: int = 4, products: tuple[str, ...] = (BTC, ETH)) -> None:
    """Record the first so many days, each a session of its own."""
    for i in range(n):
        record_day(store, i, products=products)


def run(store: Store, **wanted: object) -> Outcome:
    """Build what is to be built."""
    return build(store, find_todo(store, RECIPE, **wanted), SPLIT)  # type: ignore[arg-type]


def steps(outcome: Outcome) -> Steps:
    """What was built, sorted."""
    return sorted((b.stage, b.product, b.day) for b in outcome.built)


def all_steps(stage: str, days: tuple[str, ...] = DAYS, ids: tuple[str, ...] = (BTC, ETH)) -> Steps:
    """A stage of all these partitions."""
    return [(stage, product_id, day) for product_id in ids for day in days]


def tables(store: Store) -> dict[str, bytes]:
    """All files of both tables, manifests included."""
    return {path: store.read(path) for t in ("windows", "samples") for path in store.files(t)}


def everything(root: Path) -> dict[str, bytes]:
    """All files of both tables in a folder, hidden ones included."""
    found = [p for t in ("windows", "samples") for p in (root / t).rglob("*") if p.is_file()]
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def raw_manifest(store: Store, product_id: str, day: str) -> Manifest:
    """The manifest of a raw partition, which is there."""
    manifest = read_manifest(store, product_id, day)
    assert manifest is not None
    return manifest


def raw_path(product_id: str, day: str) -> str:
    """Where the manifest of a raw partition lies."""
    return f"{partition_path(product_id, day)}/manifest.json"
