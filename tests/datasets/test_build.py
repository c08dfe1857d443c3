"""Raw partitions to windows to samples: the same as in one piece, and the same bytes again."""

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from actors.raw import partitions
from actors.store import Store
from datasets.build import Watcher, build, find_todo
from datasets.loader import load_samples
from datasets.partition import build_samples, build_windows
from datasets.recipe import Recipe
from datasets.samples import Samples
from datasets.tables import read_windows, stored, table_path
from market.errors import QuaverError
from market.features import Features, features
from market.labels import labels
from market.products import product, product_index, product_of
from market.signals import NAMES, SignalsConfig, signals
from tests.actors.wire import (
    BEAT_NS,
    BTC,
    DAYS,
    ETH,
    MIDNIGHT_NS,
    SECOND_NS,
    START_NS,
    Walk,
    assert_same_rows,
    assert_same_windows,
    live_windows,
    rebuilt_windows,
    record,
)
from tests.datasets.building import SPLIT
from tests.helpers import import_into, recording, replay_windows

RECIPE = Recipe()
GRIDS = {BTC: ("0.01", "0.00000001")}
OTHER = "OTHER-EUR"


class Told(Watcher):
    """What a build tells."""

    def __init__(self) -> None:
        self.told: list[tuple[object, int]] = []
        self.waited: list[str] = []

    def done(self, one: object, total: int) -> None:
        self.told.append((one, total))

    def waiting(self, why: str) -> None:
        self.waited.append(why)


def two_days(seconds: int = 480) -> list[bytes]:
    """An unbroken stream with midnight in its middle."""
    walk, half = Walk(1), seconds // 2 * SECOND_NS
    snapshots = walk.snapshots(MIDNIGHT_NS - half)
    return [*snapshots, *walk.frames(MIDNIGHT_NS - half + SECOND_NS, MIDNIGHT_NS + half)]


def files(root: Path, *tables: str) -> dict[str, bytes]:
    found = [p for table in tables for p in (root / table).rglob("*") if p.is_file()]
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def beats_with_a_sample(windows: NDArray[np.void]) -> list[int]:
    """Beats k such that k-68 .. k are all there and valid, counted plainly."""
    valid = set(windows["beat"][windows["valid"]].tolist())
    return [k for k in sorted(valid) if all(k - back in valid for back in range(69))]


def beats_with_a_label(windows: NDArray[np.void]) -> set[int]:
    """Beats k such that k .. k+75 are all there and valid, counted plainly."""
    valid = set(windows["beat"][windows["valid"]].tolist())
    return {k for k in valid if all(k + ahead in valid for ahead in range(76))}


def assert_samples_of(found: Samples, windows: NDArray[np.void], tick: float) -> None:
    """The samples of one product equal those of its windows in one piece, bit for bit."""
    wanted: Features = features(windows, tick)
    assert found.beat.tolist() == wanted.beats.tolist() == beats_with_a_sample(windows)
    for name in ("medians", "bids", "asks"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    at = np.searchsorted(windows["beat"], wanted.beats)
    np.testing.assert_array_equal(found.label, labels(windows, RECIPE.fees)[at])
    labelled = beats_with_a_label(windows)
    assert found.labelled.tolist() == [int(k) in labelled for k in found.beat]


def test_days_built_one_by_one_equal_one_unbroken_partition(tmp_path: Path) -> None:
    frames, store = two_days(1_200), Store(str(tmp_path))
    record(store, frames)
    whole = live_windows(frames)
    todo = partitions(store)
    assert todo == [(p, day) for p in (BTC, ETH) for day in DAYS]
    built = [build_windows(store, p, day) for p, day in todo]
    assert [(b.product, b.day, b.stage, b.beats) for b in built] == [
        (p, day, "windows", 150 - (day == DAYS[1])) for p, day in todo
    ]
    for product_id in (BTC, ETH):
        days = [read_windows(store, product_id, day) for day in DAYS]
        assert_same_rows(np.concatenate(days), whole[product_id])
    built = [build_samples(store, p, day, RECIPE) for p, day in todo]
    # Known are beats 1 .. 298 (0 has the snapshot): samples from 69 on, labels up to 223.
    assert [(b.stage, b.rows, b.valid) for b in built] == [
        ("samples", 81, 81),
        ("samples", 149, 74),
    ] * 2
    samples = load_samples(store, RECIPE)
    for product_id in (BTC, ETH):
        mine = samples.select(samples.product == product_index(product_id))
        assert_samples_of(mine, whole[product_id], 0.01)


def test_signals_of_days_built_one_by_one_equal_those_of_one_unbroken_partition(
    tmp_path: Path,
) -> None:
    switches = dict.fromkeys(SignalsConfig.__struct_fields__, True)
    recipe = Recipe(signals=SignalsConfig(**switches))
    frames, store = two_days(1_200), Store(str(tmp_path))
    record(store, frames)
    for stage in (build_windows, lambda s, p, d: build_samples(s, p, d, recipe)):
        for product_id, day in partitions(store):
            stage(store, product_id, day)
    samples = load_samples(store, recipe)
    for product_id, windows in live_windows(frames).items():
        mine = samples.select(samples.product == product_index(product_id))
        wanted = signals(windows, product(product_id), recipe.signals)
        assert mine.signals.tobytes() == wanted.tobytes()
        assert wanted.std(axis=0)[: -len(NAMES["time_of_day"])].all()  # They tell of something.


def test_every_sample_is_stored_with_its_own_day(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record(store, two_days(1_200), (BTC,))
    for stage in (build_windows, lambda s, p, d: build_samples(s, p, d, RECIPE)):
        for product_id, day in partitions(store):
            stage(store, product_id, day)
    border = MIDNIGHT_NS // BEAT_NS
    for day, low, high in ((DAYS[0], border - 150, border - 1), (DAYS[1], border, border + 148)):
        path = tmp_path / table_path("samples", BTC, day)
        beats = pq.read_table(path)["beat"].to_pylist()
        assert low <= beats[0] and beats[-1] == high


def test_a_day_whose_neighbours_are_missing_stands_alone(tmp_path: Path) -> None:
    store, frames = Store(str(tmp_path)), two_days(1_200)
    record(store, frames, (BTC,))
    windows = live_windows(frames, (BTC,))[BTC]
    second = windows[windows["beat"] >= MIDNIGHT_NS // BEAT_NS]
    build_windows(store, BTC, DAYS[1])
    built = build_samples(store, BTC, DAYS[1], RECIPE)
    assert (built.rows, built.valid) == (149 - 68, 149 - 68 - 75)
    assert_samples_of(load_samples(store, RECIPE), second, 0.01)


def test_a_recording_too_short_for_a_sample_gives_an_empty_table(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record(store, two_days(480), (BTC,))  # 60 beats a day, 119 in all, known from 1 on.
    for product_id, day in partitions(store):
        build_windows(store, product_id, day)
    assert build_samples(store, BTC, DAYS[0], RECIPE).rows == 0
    assert build_samples(store, BTC, DAYS[1], RECIPE).rows == 119 - 69
    assert stored(store, "samples") == [(BTC, DAYS[0]), (BTC, DAYS[1])]


def test_samples_need_an_unbroken_run_of_valid_beats(tmp_path: Path) -> None:
    """Two recordings of a day with a hole between them: nothing reaches over the hole."""
    store = Store(str(tmp_path))
    whole = []
    for seed, start_ns in ((1, START_NS), (2, START_NS + 700 * SECOND_NS)):
        walk = Walk(seed, (BTC,))
        frames = walk.snapshots(start_ns)
        frames += walk.frames(start_ns + SECOND_NS, start_ns + 640 * SECOND_NS)
        record(store, frames, (BTC,))
        whole.append(live_windows(frames, (BTC,))[BTC])
    build_windows(store, BTC, DAYS[0])
    built = build_samples(store, BTC, DAYS[0], RECIPE)
    # Of each: beats 1 .. 158 known, 90 samples from 69 on, 15 with a label, up to 83.
    assert (built.rows, built.valid) == (180, 30)
    assert_samples_of(load_samples(store, RECIPE), np.concatenate(whole), 0.01)


def test_a_partition_that_is_not_there_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(QuaverError, match=f"{BTC}.*{DAYS[0]}"):
        build_windows(store, BTC, DAYS[0])
    with pytest.raises(QuaverError, match=f"{BTC}.*{DAYS[0]}"):
        build_samples(store, BTC, DAYS[0], RECIPE)


def test_an_empty_root_says_where_data_comes_from(tmp_path: Path) -> None:
    with pytest.raises(QuaverError, match="import"):
        find_todo(Store(str(tmp_path)), RECIPE)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # Those of Ray Data itself.
def test_a_real_recording_is_built_and_built_again(tmp_path: Path, ray_local: None) -> None:
    path = recording("exchange-btc-usd-2018-45min.jsonl.gz")
    root = tmp_path / "root"
    store = Store(str(root))
    import_into(store, path, GRIDS)
    # Beside it, a product that no model knows, and a synthetic stream over midnight.
    grid = {OTHER: product_of(OTHER, "0.01", "0.00000001")}
    walk = Walk(3, (OTHER,))
    snapshots = walk.snapshots(START_NS)
    record(
        store,
        [*snapshots, *walk.frames(START_NS + SECOND_NS, START_NS + 400 * SECOND_NS)],
        products=grid,
    )
    record(store, two_days(1_200), (ETH, BTC))
    watcher = Told()
    outcome = build(store, find_todo(store, RECIPE), SPLIT, watcher)
    found, told = outcome.built, watcher.told
    assert outcome.failures == []

    todo = partitions(store)
    sampled = [(product_id, day) for product_id, day in todo if product_id != OTHER]
    assert [b for b, _ in told] == found
    assert {total for _, total in told} == {len(todo) + len(sampled)}
    assert sorted((b.product, b.day) for b in found if b.stage == "windows") == todo
    assert sorted((b.product, b.day) for b in found if b.stage == "samples") == sampled
    assert stored(store, "windows") == todo
    assert stored(store, "samples") == sampled

    replayed = rebuilt_windows(store)
    for product_id, windows in replayed.items():
        days = [read_windows(store, product_id, day) for p, day in todo if p == product_id]
        assert_same_rows(np.concatenate(days), windows)
    real = replay_windows(path, GRIDS, tmp_path / "replay")
    day = "2018-04-24"
    assert_same_windows({BTC: read_windows(store, BTC, day)}, real)

    samples = load_samples(store, RECIPE)
    btc = samples.select(samples.product == product_index(BTC))
    real_beats = beats_with_a_sample(real[BTC])
    mine = btc.select(np.isin(btc.beat, real_beats))
    assert_samples_of(mine, real[BTC], 0.01)
    assert len(real_beats) > 400
    assert np.isnan(mine.label[-75:]).all() and not np.isnan(mine.label[-76]).any()
    assert math.isclose(mine.medians[0, -1], _median(real[BTC], int(mine.beat[0])))

    once = files(root, "raw", "windows", "samples")
    again = find_todo(store, RECIPE, force=True)
    assert len(build(store, again, SPLIT).built) == len(found)
    assert files(root, "raw", "windows", "samples") == once

    first = next(iter((root / "raw" / f"product={BTC}").rglob("*.parquet")))
    first.write_bytes(b"not what it was")
    outcome = build(store, find_todo(store, RECIPE, force=True), SPLIT)
    (failure,) = outcome.failures
    assert first.name in failure.why
    assert len(outcome.built) == len(found) - 2  # Nor the samples of that day.
    assert files(root, "windows", "samples") == {p: d for p, d in once.items() if p[:3] != "raw"}


def _median(windows: NDArray[np.void], beat: int) -> float:
    (window,) = windows[windows["beat"] == beat]
    return float(window["bid"] + window["ask"]) / 200
