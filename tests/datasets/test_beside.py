"""Samples with other coins' returns and external series: exact, never ahead, never stale."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from actors.raw import partitions
from actors.store import Store
from datasets import beside as beside_module
from datasets import neighbours, todo
from datasets.build import Outcome, build, find_todo
from datasets.leakage import Finding, check_features
from datasets.loader import load_samples
from datasets.neighbours import NEIGHBOURS_PATH, read_neighbours, with_nearest
from datasets.recipe import Recipe
from datasets.tables import read_windows
from market.cross import CrossConfig
from market.errors import QuaverError
from market.external import ExternalConfig
from market.products import UNIVERSE, product_of
from market.signals import SignalsConfig
from tests.actors.wire import (
    BEAT_NS,
    BTC,
    DAYS,
    DISCONNECT,
    ETH,
    MIDNIGHT_NS,
    SECOND_NS,
    Walk,
    record,
)
from tests.datasets.building import in_process, raw_manifest, raw_path, steps
from tests.datasets.test_external import PATH, parquet, plain

__all__ = ["in_process"]
pytestmark = pytest.mark.usefixtures("in_process")

SPLIT = (1.0, 0.0, 0.0)  # All is train.
SOL, LTC = "SOL-USD", "LTC-USD"
COINS = (BTC, ETH, LTC, SOL)
FIRST = MIDNIGHT_NS // BEAT_NS - 150
NEWS = [
    ((FIRST + beat) * BEAT_NS + off, name, float(beat * 10 + off % 7))
    for beat in range(0, 300, 7)
    for off, name in ((-1, "news"), (0, "mood"), (1, "news"), (BEAT_NS - 1, "mood"))
]
RECIPE = Recipe(
    signals=SignalsConfig(spread=True),
    cross=CrossConfig(btc_eth=True, neighbours=1),
    external=ExternalConfig(path=PATH, series=("mood", "news"), max_age_s=20.0),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes on each side of midnight, ETH's connection lost for a while."""
    root, half = tmp_path_factory.mktemp("recorded"), 600 * SECOND_NS
    start_ns, end_ns = MIDNIGHT_NS - half, MIDNIGHT_NS + half
    lost_ns, back_ns = start_ns + 370 * SECOND_NS, start_ns + 390 * SECOND_NS
    walk = Walk(1, (BTC, SOL, LTC))
    frames = [*walk.snapshots(start_ns), *walk.frames(start_ns + SECOND_NS, end_ns)]
    record(Store(str(root)), frames, (BTC, SOL, LTC))
    walk = Walk(2, (ETH,))
    frames = [*walk.snapshots(start_ns), *walk.frames(start_ns + SECOND_NS, lost_ns), DISCONNECT]
    walk.wire.sequence = 0
    frames += [*walk.snapshots(back_ns), *walk.frames(back_ns + SECOND_NS, end_ns)]
    record(Store(str(root)), frames, (ETH,))
    Store(str(root)).write(PATH, parquet(NEWS))
    return root


def copied(recorded: Path, root: str) -> Store:
    store = Store(root)
    for path in Store(str(recorded)).files(""):
        store.write(path, (recorded / path).read_bytes())
    return store


@pytest.fixture(autouse=True)
def few_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of returns is enough to say which coins are near."""
    few = partial(neighbours.find_neighbours, least_returns=10)
    monkeypatch.setattr(todo, "find_neighbours", few)


@pytest.fixture
def store(recorded: Path, tmp_path: Path) -> Store:
    """Return a folder of its own."""
    return copied(recorded, str(tmp_path))


@pytest.fixture
def any_store(recorded: Path, root: str) -> Store:
    """Return a root of its own, of each sort."""
    return copied(recorded, root)


def run(store: Store, recipe: Recipe = RECIPE, **wanted: object) -> Outcome:
    return build(store, find_todo(store, recipe, **wanted), SPLIT)  # type: ignore[arg-type]


def medians(store: Store, product_id: str) -> dict[int, int]:
    windows = np.concatenate([read_windows(store, product_id, day) for day in DAYS])
    return {int(w["beat"]): int(w["bid"]) + int(w["ask"]) for w in windows if w["valid"]}


def returns(mid2: dict[int, int], beat: int) -> list[float]:
    if not all(beat - lag in mid2 for lag in (0, 1, 8, 68)):
        return [0.0, 0.0, 0.0, 0.0]
    return [1e4 * math.log(mid2[beat] / mid2[beat - lag]) for lag in (1, 8, 68)] + [1.0]


def test_samples_hold_what_a_plain_loop_gives_over_midnight(any_store: Store) -> None:
    assert run(any_store).failures == []
    recipe = with_nearest(any_store, RECIPE)
    assert len(recipe.signal_names) == 1 + 3 * 4 + 2 * 2
    samples = load_samples(any_store, recipe)
    mids = {product_id: medians(any_store, product_id) for product_id in COINS}
    reference_known = []
    for i in range(len(samples)):
        beat, product_id = int(samples.beat[i]), UNIVERSE[samples.product[i]].id
        near = next(p for p in recipe.nearest[product_id] if p not in (product_id, BTC, ETH))
        wanted: list[float] = []
        for other in (BTC, ETH, near):
            wanted += returns({} if other == product_id else mids[other], beat)
        reference_known.append(wanted[3::4])
        wanted += plain(beat, NEWS, RECIPE.external)
        np.testing.assert_allclose(samples.signals[i, 1:], wanted, rtol=1e-12, atol=1e-9)
    # Both borders, a lost ETH and a product that is its own reference occur.
    assert set(map(tuple, np.array(reference_known))) > {(1, 1, 1), (1, 0, 1), (0, 1, 1)}
    since_midnight = samples.beat - MIDNIGHT_NS // BEAT_NS
    reaching_over = (since_midnight >= 0) & (since_midnight < 60)
    assert samples.signals[reaching_over, recipe.signal_names.index("btc_known")].any()


def found_in(store: Store) -> list[Finding]:
    run(store, force=True)
    todo = [of for of in partitions(store) if of[0] in (SOL, ETH)]
    checked = check_features(store, with_nearest(store, RECIPE), todo, 120, 1)
    assert all(day.samples > 20 for day in checked)
    return [finding for day in checked for finding in day.findings]


def test_they_leak_nothing(store: Store) -> None:
    assert found_in(store) == []


def a_beat_ahead(cross: Callable[..., NDArray[np.float64]]) -> Callable[..., object]:
    return lambda beats, references: cross(beats + 1, references)


def a_beat_late(external: Callable[..., NDArray[np.float64]]) -> Callable[..., object]:
    return lambda beats, series, config: external(beats + 1, series, config)


@pytest.mark.parametrize(("name", "planted"), [("cross", a_beat_ahead), ("external", a_beat_late)])
def test_one_that_knows_the_next_beat_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str, planted: Callable[..., object]
) -> None:
    monkeypatch.setattr(beside_module, name, planted(getattr(beside_module, name)))
    found = {(one.table, one.column, one.built_so) for one in found_in(store)}
    assert found == {("samples", "signals", True)}


def test_one_that_looks_further_back_than_allowed_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cross = beside_module.cross
    monkeypatch.setattr(beside_module, "cross", lambda beats, others: cross(beats - 20, others))
    assert {(one.column, one.how) for one in found_in(store)} == {("signals", "past scrambled")}


def test_what_a_sample_looks_at_is_built_with_it_and_nothing_else(store: Store) -> None:
    recipe = msgspec.structs.replace(RECIPE, cross=CrossConfig(btc_eth=True))
    assert steps(run(store, recipe, products=SOL, days=DAYS[1])) == [
        ("samples", SOL, DAYS[1]),
        *(("windows", product_id, day) for product_id in (BTC, ETH, SOL) for day in DAYS),
    ]


def test_which_coins_are_near_does_not_depend_on_what_is_wanted_and_stays(store: Store) -> None:
    built = steps(run(store, products=SOL, days=DAYS[1]))
    assert built == [
        ("samples", SOL, DAYS[1]),
        *(("windows", product_id, day) for product_id in COINS for day in DAYS),
    ]
    kept = store.read(NEIGHBOURS_PATH)
    assert read_neighbours(store).products == COINS
    again = run(store)
    assert {b.stage for b in again.built} == {"samples"} and len(again.built) == 7
    walk, later_ns = Walk(5, (SOL, LTC)), MIDNIGHT_NS + 7_200 * SECOND_NS
    frames = [*walk.snapshots(later_ns), *walk.frames(later_ns, later_ns + 600 * SECOND_NS)]
    record(store, frames, (SOL, LTC))
    assert {(b.product, b.day) for b in run(store).built} >= {(SOL, DAYS[1]), (LTC, DAYS[1])}
    assert store.read(NEIGHBOURS_PATH) == kept
    before = read_neighbours(store).until_beat
    assert find_todo(store, RECIPE).is_empty()
    store.delete(NEIGHBOURS_PATH)
    assert not find_todo(store, RECIPE).is_empty()
    run(store)
    assert read_neighbours(store).until_beat > before and find_todo(store, RECIPE).is_empty()


def test_another_recording_of_a_reference_makes_stale_who_looks_at_it(store: Store) -> None:
    recipe = msgspec.structs.replace(RECIPE, cross=CrossConfig(btc_eth=True))
    run(store, recipe)
    walk, later_ns = Walk(6, (ETH,)), MIDNIGHT_NS - 7_200 * SECOND_NS
    record(store, [*walk.snapshots(later_ns), *walk.frames(later_ns, later_ns + 9 * 10**9)], (ETH,))
    assert steps(run(store, recipe)) == [
        *(("samples", product_id, day) for product_id in COINS for day in DAYS),
        ("windows", ETH, DAYS[0]),
    ]
    walk, later_ns = Walk(6, (LTC,)), MIDNIGHT_NS + 7_200 * SECOND_NS
    record(store, [*walk.snapshots(later_ns), *walk.frames(later_ns, later_ns + 9 * 10**9)], (LTC,))
    assert {b.product for b in run(store, recipe).built} == {LTC}


def test_rows_of_a_series_make_stale_the_days_that_may_read_them(any_store: Store) -> None:
    run(any_store)
    beyond = (MIDNIGHT_NS + 86_400 * SECOND_NS, "news", 5.0)
    any_store.write(PATH, parquet([*NEWS, beyond, (1_900_000_000 * 10**9, "others", 1.0)]))
    assert find_todo(any_store, RECIPE).is_empty()
    any_store.write(PATH, parquet([*NEWS, beyond, (NEWS[-1][0] + 1, "mood", 5.0)]))
    assert steps(run(any_store)) == [("samples", product_id, DAYS[1]) for product_id in COINS]
    before = (NEWS[0][0] - 1, "mood", 5.0)
    any_store.write(PATH, parquet([*NEWS, beyond, before]))
    assert {b.day for b in run(any_store).built} == set(DAYS)


def test_a_series_that_is_not_there_is_told_before_anything_is_built(any_store: Store) -> None:
    any_store.write(PATH, parquet([row for row in NEWS if row[1] != "mood"]))
    with pytest.raises(QuaverError, match="no row has the name mood; it has news"):
        find_todo(any_store, RECIPE)
    any_store.delete(PATH)
    with pytest.raises(QuaverError, match=f"{PATH} is not there; write it, or take it out"):
        find_todo(any_store, RECIPE)
    any_store.write(PATH, parquet(NEWS, value=pa.float32()))
    with pytest.raises(QuaverError, match="column value has the type float"):
        find_todo(any_store, RECIPE)
    assert list(any_store.files("windows")) == []


def test_too_little_to_tell_which_coins_are_near_is_told_and_windows_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(todo, "find_neighbours", neighbours.find_neighbours)
    with pytest.raises(QuaverError, match=r"no two have 300 returns .*or set neighbours = 0"):
        run(store)
    assert len(list(store.files("windows"))) == 2 * 8 and not list(store.files("samples"))


def spoil(store: Store, product_id: str, day: str) -> bytes:
    """Make a raw partition one that cannot be built; return its manifest as it was."""
    raw, sound = raw_manifest(store, product_id, day), store.read(raw_path(product_id, day))
    part = msgspec.structs.replace(raw.sessions[0].parts[0], sha256="0" * 64)
    raw.sessions[0].parts[0] = part
    store.write(raw_path(product_id, day), msgspec.json.encode(raw))
    return sound


def test_samples_wait_for_the_windows_of_what_they_look_at(store: Store) -> None:
    recipe = msgspec.structs.replace(RECIPE, cross=CrossConfig(btc_eth=True))
    sound = spoil(store, BTC, DAYS[1])
    outcome = run(store, recipe)
    assert [(f.product, f.day, f.stage) for f in outcome.failures] == [
        (BTC, DAYS[1], "windows"),
        *((product_id, DAYS[1], "samples") for product_id in (ETH, LTC, SOL)),
    ]
    assert outcome.failures[1].why == (
        f"the windows of {BTC} on {DAYS[1]}, which they look at, could not be built"
    )
    assert [b.day for b in outcome.built if b.stage == "samples"] == [DAYS[0]] * 4
    store.write(raw_path(BTC, DAYS[1]), sound)
    assert run(store, recipe).failures == [] and find_todo(store, recipe).is_empty()


def test_a_product_without_samples_asks_for_no_nearest_coins(store: Store) -> None:
    walk, grid = Walk(7, ("OTHER-EUR",)), product_of("OTHER-EUR", "0.01", "0.00000001")
    frames = [*walk.snapshots(MIDNIGHT_NS), *walk.frames(MIDNIGHT_NS, MIDNIGHT_NS + 9 * 10**9)]
    record(store, frames, products={"OTHER-EUR": grid})
    assert steps(run(store, products="OTHER-EUR")) == [("windows", "OTHER-EUR", DAYS[1])]
    assert not store.exists(NEIGHBOURS_PATH) and find_todo(store, RECIPE, "OTHER-EUR").is_empty()
    spoil(store, "OTHER-EUR", DAYS[1])  # Nor do the others wait for it.
    assert [f.product for f in run(store).failures] == ["OTHER-EUR"]
    assert store.exists(NEIGHBOURS_PATH)


def test_which_coins_are_near_waits_for_all_windows(store: Store) -> None:
    sound = spoil(store, LTC, DAYS[0])
    outcome = run(store)
    assert [(f.product, f.day, f.stage) for f in outcome.failures] == [(LTC, DAYS[0], "windows")]
    assert not list(store.files("samples")) and not store.exists(NEIGHBOURS_PATH)
    store.write(raw_path(LTC, DAYS[0]), sound)
    mended = run(store)
    assert mended.failures == [] and len(mended.built) == 1 + 8
