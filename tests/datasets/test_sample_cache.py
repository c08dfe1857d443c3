"""Samples mapped from the local disk: those of the Parquet files, whole or an error."""

import dataclasses
import errno
import mmap
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from actors.store import Store, sha256
from datasets import sample_cache
from datasets.batches import Batches, Part
from datasets.loader import load_samples, parse_samples
from datasets.recipe import Recipe
from datasets.sample_cache import CachedSamples, samples_under
from datasets.samples import Samples
from datasets.table_manifest import TableManifest, finish
from datasets.tables import table_path
from market.actions import Fees
from market.errors import QuaverError
from market.signals import SignalsConfig, names
from tests.actors.wire import BTC, DAYS, ETH
from tests.datasets.test_loader import RECIPE, write

EXACT = ("beat", "product", "medians", "label")


def columns(samples: Samples) -> dict[str, np.ndarray]:
    return {field.name: getattr(samples, field.name) for field in dataclasses.fields(Samples)}


def folders(cached: CachedSamples) -> list[str]:
    return sorted(path.name for path in cached.folder.iterdir() if path.is_dir())


def not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every further decoding of Parquet fail."""
    monkeypatch.setattr(sample_cache, "parse_samples", None)


@pytest.fixture
def store(root: str) -> Store:
    """A root, a folder and S3, with two products and a day without samples."""
    store = Store(root)
    write(store, ETH, DAYS[0], range(5, 9), 2)
    write(store, BTC, DAYS[1], range(0), 1)
    write(store, BTC, DAYS[0], range(3, 10), 1)
    return store


def test_the_maps_hold_what_parquet_holds(store: Store) -> None:
    cached = samples_under(store, RECIPE)
    told = []
    found = cached.open(lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert len(found) == 11
    for name, wanted in columns(load_samples(store, RECIPE)).items():
        values = getattr(found, name)
        if name in EXACT:
            assert values.dtype == wanted.dtype, name
        else:
            assert values.dtype == np.float32, name
            wanted = wanted.astype(np.float32)
        np.testing.assert_array_equal(values, wanted, name)
        assert not values.size or not (values.flags.writeable or values.flags.owndata), name
    assert found.labelled.tolist() == load_samples(store, RECIPE).labelled.tolist()


def test_signals_are_one_more_column(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    recipe = Recipe(signals=SignalsConfig(spread=True, time_of_day=True))
    write(store, BTC, DAYS[0], range(40), 1, recipe)
    write(store, ETH, DAYS[0], range(30), 2, recipe)
    found, wanted = samples_under(store, recipe).open(), load_samples(store, recipe)
    assert found.signals.shape == wanted.signals.shape == (70, len(names(recipe.signals)))
    np.testing.assert_array_equal(found.signals, wanted.signals.astype(np.float32))
    store = Store(str(tmp_path / "without"))
    write(store, BTC, DAYS[0], range(40), 1)
    batch = Part.of(samples_under(store, RECIPE).open()).take(slice(5))
    assert batch.signals.shape == (5, 0)


def test_they_are_written_once_and_mapped_from_then_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = samples_under(store, RECIPE).open()
    not_written(monkeypatch)
    again = pickle.loads(pickle.dumps(samples_under(store, RECIPE))).open()
    for name, values in columns(first).items():
        np.testing.assert_array_equal(getattr(again, name), values)


def test_those_who_open_at_once_write_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(5), 1)
    parsed = []

    def parse(*args: Any) -> Samples:
        parsed.append(args)
        return parse_samples(*args)

    monkeypatch.setattr(sample_cache, "parse_samples", parse)
    cached = samples_under(store, RECIPE)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: len(cached.open()), range(4)))
    assert found == [5] * 4 and len(parsed) == 1


def test_batches_of_maps_are_those_of_memory(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(5000), 1)
    write(store, ETH, DAYS[0], range(3001), 2)
    mapped, in_memory = samples_under(store, RECIPE).open(), load_samples(store, RECIPE)
    assert isinstance(mapped.medians.base, mmap.mmap)  # Else nothing is fetched ahead.
    mask = (mapped.beat > 100) & (mapped.beat < 2000)
    batches = (Batches(Part.of(s, mask), 256, 3).epoch(1, 2) for s in (mapped, in_memory))
    for ours, wanted in zip(*batches, strict=True):
        for name, values in columns(ours).items():
            assert type(values) is np.ndarray and values.flags.writeable
            np.testing.assert_array_equal(values, getattr(wanted, name).astype(values.dtype))


def test_a_column_may_have_no_width(tmp_path: Path) -> None:
    with sample_cache._Column(tmp_path / "signals.npy") as column:
        for rows in (3, 4):
            column.append(np.zeros((rows, 0), np.float32))
    assert np.load(tmp_path / "signals.npy", mmap_mode="r").shape == (7, 0)


def test_a_manifest_says_the_hash_and_is_held_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(5), 1)
    path = table_path("samples", BTC, DAYS[0])
    data = store.read(path)
    manifest = TableManifest(
        table="samples",
        product=BTC,
        day=DAYS[0],
        inputs_sha256="",
        code_sha256="",
        rows=5,
        valid=3,
        bytes=len(data),
        sha256=sha256(data),
    )
    without = samples_under(store, RECIPE)
    finish(store, manifest)
    with monkeypatch.context() as patch:
        patch.setattr(sample_cache, "_read", None)
        assert samples_under(store, RECIPE) == without
    assert len(without.open()) == 5
    finish(store, msgspec.structs.replace(manifest, sha256="0" * 64))
    with pytest.raises(QuaverError, match=f"{path}.* is not what its manifest says"):
        samples_under(store, RECIPE).open()


def test_other_samples_take_their_place_and_open_maps_stay(store: Store) -> None:
    before = samples_under(store, RECIPE)
    mapped = before.open()
    write(store, BTC, DAYS[0], range(3, 11), 1)
    after = samples_under(store, RECIPE)
    assert after.key != before.key
    assert len(after.open()) == 12
    assert folders(after) == [after.key]
    assert len(mapped) == 11 and mapped.beat.tolist() == [*range(3, 10), *range(5, 9)]
    with pytest.raises(QuaverError, match="has changed since this run began"):
        before.open()
    store.delete(table_path("samples", BTC, DAYS[0]))
    with pytest.raises(QuaverError, match="has changed since this run began"):
        after_all_gone(after)


def after_all_gone(cached: CachedSamples) -> Samples:
    shutil.rmtree(cached.folder)
    return cached.open()


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(5), 1)
    cached = samples_under(store, RECIPE)
    left = cached.folder / ".0123"
    left.mkdir(parents=True)
    (left / "beat.npy").write_bytes(b"half")
    assert len(cached.open()) == 5
    assert folders(cached) == [cached.key]


@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_a_damaged_map_is_written_anew(tmp_path: Path, damage: str) -> None:
    store = Store(str(tmp_path))
    features = write(store, BTC, DAYS[0], range(500), 1)
    cached = samples_under(store, RECIPE)
    cached.open()
    path = cached.folder / cached.key / "medians.npy"
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    np.testing.assert_array_equal(cached.open().medians, features.medians)


def test_samples_of_another_recipe_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    other = Recipe(fees=Fees(taker_bps=6.0))
    write(store, BTC, DAYS[0], range(5), 1)
    samples_under(store, RECIPE).open()
    with pytest.raises(QuaverError, match="build again"):
        samples_under(store, other).open()
    write(store, BTC, DAYS[1], range(5, 9), 1, other)
    for recipe in (RECIPE, other):
        cached = samples_under(store, recipe)
        with pytest.raises(QuaverError, match="build again"):
            cached.open()
        assert folders(cached) == []


def test_no_samples_at_all_says_what_they_need(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(QuaverError, match="no samples"):
        samples_under(store, RECIPE).open()
    write(store, BTC, DAYS[0], range(0), 1)
    with pytest.raises(QuaverError, match="no samples"):
        samples_under(store, RECIPE).open()


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(5), 1)
    path = table_path("samples", ETH, DAYS[0])
    store.write(path, b"half a fi")
    with pytest.raises(QuaverError, match=path):
        samples_under(store, RECIPE).open()


def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(5), 1)
    cached = samples_under(store, RECIPE)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sample_cache._Column, "append", full)
        with pytest.raises(QuaverError, match=r"No space left.*free some space"):
            cached.open()
    assert folders(cached) == []
    assert len(cached.open()) == 5


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, BTC, DAYS[0], range(5), 1)
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(QuaverError, match=r"cannot keep the samples.*check its rights"):
        samples_under(store, RECIPE).open()
