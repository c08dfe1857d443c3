"""Only what is missing or stale is built, and whatever happened before, the files are the same."""

import shutil
from pathlib import Path

import msgspec
import pytest

from actors.store import Store
from datasets import todo as todo_module
from datasets.build import build, find_todo
from datasets.partition import build_samples, build_windows, days_read
from datasets.recipe import Recipe
from datasets.table_manifest import FORMAT, TableManifest, manifest_path
from datasets.tables import stored, table_path
from datasets.todo import choose
from market.actions import Fees
from market.errors import QuaverError
from market.signals import SignalsConfig
from tests.actors.wire import BTC, ETH
from tests.datasets.building import (
    DAYS,
    RECIPE,
    SPLIT,
    Told,
    all_steps,
    everything,
    in_process,
    raw_manifest,
    raw_path,
    record_day,
    record_days,
    run,
    steps,
    tables,
)
from tests.mortal import Dead, Life

__all__ = ["in_process"]
pytestmark = pytest.mark.usefixtures("in_process")


def test_a_second_build_does_nothing(root: str) -> None:
    store = Store(root)
    record_days(store, 3)
    assert steps(run(store)) == all_steps("samples", DAYS[:3]) + all_steps("windows", DAYS[:3])
    before = tables(store)
    todo = find_todo(store, RECIPE)
    assert todo.is_empty() and todo.partitions == 12
    assert build(store, todo, SPLIT).built == []
    assert tables(store) == before


def test_a_manifest_says_what_the_table_beside_it_is(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record_days(store, 1, (BTC,))
    (windows, samples) = run(store).built
    for table, built in (("windows", windows), ("samples", samples)):
        data = store.read(manifest_path(table, BTC, DAYS[0]))
        manifest = msgspec.json.decode(data, type=TableManifest)
        assert (manifest.table, manifest.product, manifest.day) == (table, BTC, DAYS[0])
        assert manifest.sha256 == built.sha256
        assert manifest.bytes == len(store.read(table_path(table, BTC, DAYS[0])))
        assert (manifest.rows, manifest.valid) == ((10 - 1, 8) if table == "windows" else (0, 0))


def test_a_new_part_of_a_day_makes_its_windows_and_the_samples_around_it_stale(root: str) -> None:
    store = Store(root)
    record_days(store)
    run(store)
    record_day(store, 2, seed=2, products=(BTC,))
    told = Told()
    outcome = build(store, find_todo(store, RECIPE), SPLIT, told)
    assert steps(outcome) == [
        *(("samples", BTC, day) for day in DAYS[1:4]),
        ("windows", BTC, DAYS[2]),
    ]
    assert [total for _, total in told.told] == [4] * 4
    assert find_todo(store, RECIPE).is_empty()


def test_windows_that_come_out_the_same_make_no_samples_stale(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record_days(store)
    run(store)
    before = tables(store)
    raw = raw_manifest(store, ETH, DAYS[1])
    raw.sessions = [msgspec.structs.replace(raw.sessions[0], book_sha256=None)]
    store.write(raw_path(ETH, DAYS[1]), msgspec.json.encode(raw))
    told = Told()
    outcome = build(store, find_todo(store, RECIPE), SPLIT, told)
    assert steps(outcome) == [("windows", ETH, DAYS[1])]
    assert told.told[-1][1] == 4  # Samples of three days might have changed, as far as was known.
    changed = {path for path, data in tables(store).items() if before[path] != data}
    assert changed == {manifest_path("windows", ETH, DAYS[1])}


def test_what_a_collector_counts_besides_makes_nothing_stale(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record_days(store, 1)
    run(store)
    raw = raw_manifest(store, ETH, DAYS[0])
    raw.sessions = [msgspec.structs.replace(raw.sessions[0], counts={"duplicates": 7})]
    store.write(raw_path(ETH, DAYS[0]), msgspec.json.encode(raw))
    assert find_todo(store, RECIPE).is_empty()


@pytest.mark.parametrize("increment", ["quote_increment", "base_increment"])
def test_another_grid_makes_windows_and_their_samples_stale(tmp_path: Path, increment: str) -> None:
    store = Store(str(tmp_path))
    record_days(store)
    run(store)
    raw = raw_manifest(store, ETH, DAYS[3])
    setattr(raw, increment, "0.1")
    store.write(raw_path(ETH, DAYS[3]), msgspec.json.encode(raw))
    assert steps(run(store)) == [
        ("samples", ETH, DAYS[2]),  # Its windows and those of the next day do not go together.
        ("samples", ETH, DAYS[3]),
        ("windows", ETH, DAYS[3]),
    ]


def test_another_recipe_makes_all_samples_stale_and_no_windows(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record_days(store, 2)
    run(store)
    for other in (Recipe(fees=Fees(taker_bps=1.0)), Recipe(signals=SignalsConfig(taker=True))):
        outcome = build(store, find_todo(store, other), SPLIT)
        assert steps(outcome) == all_steps("samples", DAYS[:2])
        assert find_todo(store, other).is_empty() and not find_todo(store, RECIPE).is_empty()


@pytest.mark.parametrize("stage", ["windows", "samples"])
def test_other_code_makes_what_it_made_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    store = Store(str(tmp_path))
    record_days(store, 2)
    with monkeypatch.context() as patched:
        patched.setattr(f"datasets.partition.{stage}_code", lambda: "of another version")
        patched.setattr(todo_module, f"{stage}_code", lambda: "of another version")
        run(store)
        assert find_todo(store, RECIPE).is_empty()
    before = tables(store)
    assert steps(run(store)) == all_steps(stage, DAYS[:2])
    changed = {path for path, data in tables(store).items() if before[path] != data}
    assert changed == {manifest_path(stage, p, day) for p in (BTC, ETH) for day in DAYS[:2]}


@pytest.mark.parametrize("table", ["windows", "samples"])
@pytest.mark.parametrize(
    "how", ["no file", "half a file", "no manifest", "garbage", "old", "copied"]
)
def test_a_partition_that_is_not_whole_is_built_again(root: str, table: str, how: str) -> None:
    store = Store(root)
    record_days(store, 3, (BTC,))
    run(store)
    before = tables(store)
    file, manifest = table_path(table, BTC, DAYS[1]), manifest_path(table, BTC, DAYS[1])
    if how == "no file":
        store.delete(file)
    elif how == "half a file":
        store.write(file, before[file][: len(before[file]) // 2])
    elif how == "no manifest":
        store.delete(manifest)
    elif how == "garbage":
        store.write(manifest, before[manifest][:-9])
    elif how == "old":
        store.write(manifest, before[manifest].replace(FORMAT.encode(), b"quaver.table.0"))
    else:
        store.write(manifest, before[manifest_path(table, BTC, DAYS[0])])
    assert steps(run(store)) == [(table, BTC, DAYS[1])]
    assert tables(store) == before


def test_tables_whose_raw_partition_is_gone_are_removed_and_the_days_beside_follow(
    root: str,
) -> None:
    store = Store(root)
    record_days(store, 4, (BTC,))
    run(store)
    for path in store.files(f"raw/product={BTC}/day={DAYS[2]}"):
        store.delete(path)
    assert steps(run(store)) == [("samples", BTC, DAYS[1]), ("samples", BTC, DAYS[3])]
    assert not any(DAYS[2] in path for path in tables(store))
    assert stored(store, "windows") == [(BTC, day) for day in DAYS if day != DAYS[2]]


def test_force_builds_again_what_is_wanted_and_gives_the_same_files(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record_days(store)
    run(store)
    before = tables(store)
    outcome = run(store, products=ETH, days=DAYS[1], force=True)
    assert steps(outcome) == [("samples", ETH, DAYS[1]), ("windows", ETH, DAYS[1])]
    assert tables(store) == before


def test_part_of_a_build_gives_the_files_of_a_whole_one(tmp_path: Path) -> None:
    part, whole = Store(str(tmp_path / "part")), Store(str(tmp_path / "whole"))
    for store in (part, whole):
        record_days(store)
    assert steps(run(part, products=f"{BTC}, {ETH}", days=f"{DAYS[1]}")) == [
        *(("samples", p, DAYS[1]) for p in (BTC, ETH)),
        *all_steps("windows", DAYS[:3]),  # Of the days beside too.
    ]
    run(whole)
    wanted = tables(whole)
    found = tables(part)
    assert found == {path: wanted[path] for path in found}
    run(part)
    assert tables(part) == wanted


FOUND = [(p, day) for p in (BTC, ETH) for day in DAYS if (p, day) != (ETH, DAYS[3])]


@pytest.mark.parametrize(
    ("products", "days", "wanted"),
    [
        (None, None, FOUND),
        (ETH, None, [(ETH, day) for day in DAYS[:3]]),
        (None, DAYS[3], [(BTC, DAYS[3])]),
        (None, f"{DAYS[0]},{DAYS[2]}..{DAYS[3]}",
         [(BTC, DAYS[0]), *((BTC, d) for d in DAYS[2:]), (ETH, DAYS[0]), (ETH, DAYS[2])]),
        (BTC, f"2020-01-01..{DAYS[0]}", [(BTC, DAYS[0])]),
    ],
)  # fmt: skip
def test_products_and_days_choose(products: str, days: str, wanted: list[tuple[str, str]]) -> None:
    assert choose(FOUND, products, days) == wanted


@pytest.mark.parametrize(
    ("products", "days", "said"),
    [
        ("BTC-USDT", None, "--products BTC-USDT: .*do you mean BTC-USD.*ETH-USD"),
        ("btc-usd", None, "do you mean BTC-USD"),
        ("XXX", None, "--products XXX: .*There are BTC-USD, ETH-USD"),
        (",", None, "--products names none"),
        (None, "", "--days names none"),
        (None, "2026-08-1x", "'2026-08-1x' is not a day; write it like 2026-08-09"),
        (None, "2026-08-09..", "'' is not a day"),
        (None, "2020-01-01", f"--days 2020-01-01: .*{DAYS[0]}"),
        (None, "2020-01-01..2020-02-01", "--days 2020-01-01..2020-02-01: there is no"),
        (None, "2026-08-10..2026-08-09", "ends before it begins"),
        (ETH, DAYS[3], f"--days {DAYS[3]}: there is no"),
    ],
)
def test_products_and_days_that_are_not_there_are_named(
    products: str, days: str, said: str
) -> None:
    with pytest.raises(QuaverError, match=said):
        choose(FOUND, products, days)


def test_samples_are_not_made_without_windows(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record_days(store, 1, (BTC,))
    with pytest.raises(QuaverError, match=r"no windows of BTC-USD on .*run quaver build"):
        build_samples(store, BTC, DAYS[0], RECIPE)


def test_the_days_beside_a_day_are_those_of_the_calendar() -> None:
    assert days_read("2024-03-01") == ["2024-02-29", "2024-03-01", "2024-03-02"]
    assert days_read("2026-01-01")[0] == "2025-12-31"


# Death at any point.


def assert_finished_after_any_kill(start: Path, wanted: dict[str, bytes], lives: int) -> None:
    """Build what lies in a folder, killed before each call to the disk; then build the rest."""
    for ends_at in range(10_000):
        root = start.with_name(f"life-{ends_at}")
        shutil.copytree(start, root)
        store = Store(str(root))
        with pytest.MonkeyPatch.context() as patched:
            life = Life(patched, ends_at, [(Store, "write"), (Store, "delete")])
            try:
                run(store)
            except Dead:
                pass
        for path, data in tables(store).items():  # Whole, at any time.
            if path.endswith("manifest.json"):
                manifest = msgspec.json.decode(data, type=TableManifest)
                there = store.read(table_path(manifest.table, manifest.product, manifest.day))
                assert len(there) == manifest.bytes
        run(store)
        assert everything(root) == wanted, ends_at  # Nothing is left over either.
        shutil.rmtree(root)
        if not life.ended:
            assert ends_at > lives
            return
    raise AssertionError("it never ended")


@pytest.mark.slow
def test_a_build_killed_at_any_call_and_run_again_gives_the_same_files(tmp_path: Path) -> None:
    start, whole = tmp_path / "start", tmp_path / "whole"
    record_days(Store(str(start)), 2, (BTC,))
    shutil.copytree(start, whole)
    run(Store(str(whole)))
    assert_finished_after_any_kill(start, everything(whole), 40)


@pytest.mark.slow
def test_a_build_of_changed_data_killed_at_any_call_gives_the_same_files(tmp_path: Path) -> None:
    start, whole = tmp_path / "start", tmp_path / "whole"
    store = Store(str(start))
    record_days(store, 2, (BTC,))
    run(store)
    record_day(store, 1, seed=2, products=(BTC,))
    shutil.copytree(start / "raw", whole / "raw")
    run(Store(str(whole)))
    assert_finished_after_any_kill(start, everything(whole), 30)


def test_what_is_changed_back_after_a_kill_is_not_taken_for_current(tmp_path: Path) -> None:
    """The file is of the changed data, the manifest would be of what was there before."""
    store = Store(str(tmp_path))
    record_days(store, 1, (BTC,))
    run(store)
    before, raw = tables(store), store.read(raw_path(BTC, DAYS[0]))
    record_day(store, 0, seed=2, products=(BTC,))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("datasets.partition.finish", lambda *_: (_ for _ in ()).throw(Dead))
        with pytest.raises(Dead):
            build_windows(store, BTC, DAYS[0])
    assert not store.exists(manifest_path("windows", BTC, DAYS[0]))
    store.write(raw_path(BTC, DAYS[0]), raw)
    run(store)
    assert tables(store) == before
