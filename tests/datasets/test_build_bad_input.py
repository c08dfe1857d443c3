"""Bad input to a build: one clear error each, and all else is built or left as it was."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.raw import partition_path
from actors.store import Store, sha256
from datasets import build as build_module
from datasets.build import build, find_todo
from datasets.tables import read_windows, table_path
from market.errors import QuaverError
from market.products import product_of
from tests.actors.wire import BTC, ETH, SECOND_NS, START_NS, Advanced, Walk, record
from tests.datasets.building import (
    DAYS,
    RECIPE,
    SPLIT,
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

__all__ = ["in_process"]
pytestmark = pytest.mark.usefixtures("in_process")
DAY = DAYS[1]  # Of which BTC's partition is the bad one.
Harm = Callable[[Store, str], str]  # Does it to a part; returns what the error has to say.


def first_part(store: Store) -> str:
    name = raw_manifest(store, BTC, DAY).sessions[0].parts[0].name
    return f"{partition_path(BTC, DAY)}/{name}"


def absent(store: Store, part: str) -> str:
    store.delete(part)
    return f"{part} is listed in its manifest but missing"


def truncated(store: Store, part: str) -> str:
    store.write(part, store.read(part)[:-100])
    return f"{part} is not what its manifest says"


def of_another_hash(store: Store, part: str) -> str:
    other = raw_manifest(store, ETH, DAY).sessions[0].parts[0].name
    store.write(part, store.read(f"{partition_path(ETH, DAY)}/{other}"))
    return f"{part} is not what its manifest says"


def of_another_schema(store: Store, part: str) -> str:
    """As a collector of another version would have written it, and listed it."""
    table = pq.read_table(pa.BufferReader(store.read(part))).drop_columns(["reason"])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data = sink.getvalue().to_pybytes()
    store.write(part, data)
    listed_as(store, data)
    return "do not have the columns of this version"


def no_table(store: Store, part: str) -> str:
    store.write(part, b"no Parquet")
    listed_as(store, b"no Parquet")
    return "this is not a parquet file"


def listed_as(store: Store, data: bytes) -> None:
    raw = raw_manifest(store, BTC, DAY)
    (session,) = raw.sessions
    part = msgspec.structs.replace(session.parts[0], sha256=sha256(data))
    raw.sessions = [msgspec.structs.replace(session, parts=[part, *session.parts[1:]])]
    store.write(raw_path(BTC, DAY), msgspec.json.encode(raw))


def rows_missing(store: Store, part: str) -> str:
    """A part is gone and nobody lists it any more: the book at the end gives it away."""
    raw = raw_manifest(store, BTC, DAY)
    (session,) = raw.sessions
    raw.sessions = [msgspec.structs.replace(session, book_sha256="0" * 64)]
    store.write(raw_path(BTC, DAY), msgspec.json.encode(raw))
    return "so some are missing or wrong"


def manifest_of_another_version(store: Store, part: str) -> str:
    path = raw_path(BTC, DAY)
    store.write(path, store.read(path).replace(b"quaver.raw.3", b"quaver.raw.9"))
    return "has format quaver.raw.9, this version reads quaver.raw.3"


def manifest_half_written(store: Store, part: str) -> str:
    path = raw_path(BTC, DAY)
    store.write(path, store.read(path)[:50])
    return f"{path} is not a manifest"


def manifest_of_another_partition(store: Store, part: str) -> str:
    store.write(raw_path(BTC, DAY), store.read(raw_path(ETH, DAY)))
    return f"holds {ETH} on {DAY}: it was put there from elsewhere"


HARMS = [
    absent, truncated, of_another_hash, of_another_schema, no_table, rows_missing,
    manifest_of_another_version, manifest_half_written, manifest_of_another_partition,
]  # fmt: skip


@pytest.mark.parametrize(
    ("harm", "built_before"), [*((harm, True) for harm in HARMS), (absent, False)]
)
def test_a_bad_partition_is_named_and_all_others_are_built(
    root: str, harm: Harm, built_before: bool
) -> None:
    store = Store(root)
    record_days(store, 3)
    if built_before:
        run(store)
        record_day(store, 2, seed=2, products=(ETH,))  # Something to do besides.
    before = tables(store)
    said = harm(store, first_part(store))
    outcome = run(store, force=harm in (absent, truncated, of_another_hash))  # Hidden otherwise.
    (failure,) = outcome.failures
    assert (failure.product, failure.day, failure.stage) == (BTC, DAY, "windows")
    assert said in failure.why and root in failure.why
    done = steps(outcome)
    assert ("windows", BTC, DAY) not in done and ("samples", BTC, DAY) not in done
    if not built_before:
        rest = all_steps("samples", DAYS[:3]) + all_steps("windows", DAYS[:3])
        assert done == [step for step in rest if step[1:] != (BTC, DAY)]
    else:
        assert ("windows", ETH, DAYS[2]) in done
        mine = {path: data for path, data in before.items() if BTC in path}
        assert {path: data for path, data in tables(store).items() if BTC in path} == mine
    # Mended, it is built with the samples on both sides of it.
    for path in store.files(partition_path(BTC, DAY)):
        store.delete(path)
    record_day(store, 1, products=(BTC,))
    mended = run(store)
    assert mended.failures == [] and find_todo(store, RECIPE).is_empty()
    if not built_before:
        assert steps(mended) == [
            *(("samples", BTC, day) for day in DAYS[:3]),
            ("windows", BTC, DAY),
        ]


def test_folders_that_are_no_partitions_are_named_and_left_alone(root: str) -> None:
    store = Store(root)
    record_days(store, 1)
    manifest = store.read(raw_path(BTC, DAYS[0]))
    foreign = ("raw/notes", "raw/product=BTC-USD/day=2026-02-31", "raw/product=BTC-USD/2026-08-09",
               "raw/BTC-USD/day=2026-08-09", "raw/product=BTC-USD")  # fmt: skip
    for folder in foreign:
        store.write(f"{folder}/manifest.json", manifest)
    store.write("raw/readme.txt", b"mine")
    todo = find_todo(store, RECIPE)
    assert todo.foreign == sorted(foreign)
    assert steps(build(store, todo, SPLIT)) == [
        *all_steps("samples", DAYS[:1]),
        *all_steps("windows", DAYS[:1]),
    ]
    assert all(store.exists(f"{folder}/manifest.json") for folder in foreign)


def test_a_product_outside_the_universe_gets_windows_and_no_samples(root: str) -> None:
    store = Store(root)
    grid = {"OTHER-EUR": product_of("OTHER-EUR", "0.01", "0.00000001")}
    walk = Walk(1, ("OTHER-EUR",))
    frames = [*walk.snapshots(START_NS), *walk.frames(START_NS, START_NS + 40 * SECOND_NS)]
    record(store, frames, products=grid)
    todo = find_todo(store, RECIPE)
    assert todo.unlisted == ["OTHER-EUR"]
    assert steps(build(store, todo, SPLIT)) == [("windows", "OTHER-EUR", DAYS[0])]
    assert find_todo(store, RECIPE).is_empty()


def test_a_day_without_a_valid_beat_gives_no_sample_and_no_error(root: str) -> None:
    store, wire = Store(root), Advanced()
    frames = [wire.heartbeat(START_NS + i * SECOND_NS) for i in range(40)]
    record(store, [wire.snapshot(START_NS - 1), *frames[:1], b'{"type":"disconnect"}'], (BTC,))
    outcome = run(store)
    assert outcome.failures == []
    assert [b.valid for b in outcome.built] == [0, 0]
    windows = read_windows(store, BTC, DAYS[0])
    assert not np.asarray(windows["valid"]).any()


def test_a_table_of_another_version_is_built_again(root: str) -> None:
    store = Store(root)
    record_days(store, 1, (BTC,))
    run(store)
    before = tables(store)
    path = table_path("windows", BTC, DAYS[0])
    sink = pa.BufferOutputStream()
    table = pq.read_table(pa.BufferReader(before[path]))
    pq.write_table(table.replace_schema_metadata({"format": "quaver.windows.0"}), sink)
    store.write(path, sink.getvalue())
    assert steps(run(store)) == [("windows", BTC, DAYS[0])]
    assert tables(store) == before


def test_windows_that_are_not_those_of_their_manifest_are_not_made_into_samples(
    root: str,
) -> None:
    store = Store(root)
    record_days(store, 1, (BTC,))
    run(store)
    path = table_path("windows", BTC, DAYS[0])
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 1  # As long as before: only who reads it finds out.
    store.write(path, bytes(data))
    store.delete(table_path("samples", BTC, DAYS[0]))
    (failure,) = run(store).failures
    assert path in failure.why and "not what its manifest says" in failure.why
    store.delete(path)
    assert run(store).failures == []


@pytest.mark.slow
def test_wrong_keys_and_a_bucket_that_is_not_there_are_one_error(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_days(Store(s3_root), 1, (BTC,))
    with pytest.raises(QuaverError, match="NoSuchBucket"):
        find_todo(Store("s3://no-such-bucket-here/prefix"), RECIPE)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(QuaverError, match=r"check that this root .*the rights"):
        find_todo(Store(s3_root), RECIPE)


def test_a_full_disk_is_said_and_leaves_what_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    record_days(store, 2, (BTC,))
    run(store)
    before = everything(tmp_path)
    record_day(store, 1, seed=2, products=(BTC,))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        (failure,) = run(store).failures
    assert failure.stage == "windows" and "No space left on device" in failure.why
    assert table_path("windows", BTC, DAYS[1]) in failure.why and "make room" in failure.why
    after = everything(tmp_path)
    assert {p: d for p, d in before.items() if after.get(p) != d}.keys() <= {
        f"windows/product={BTC}/day={DAYS[1]}/manifest.json"
    }
    run(store)
    assert find_todo(store, RECIPE).is_empty()


def test_what_nobody_foresaw_stops_no_other_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    record_days(store, 1)

    def broken(store: Store, product_id: str, day: str) -> object:
        if product_id == BTC:
            raise ZeroDivisionError("by a bug")
        return real(store, product_id, day)

    real = build_module.build_windows
    monkeypatch.setattr(build_module, "build_windows", broken)
    outcome = run(store)
    assert steps(outcome) == [("samples", ETH, DAYS[0]), ("windows", ETH, DAYS[0])]
    (failure,) = outcome.failures
    assert "ZeroDivisionError: by a bug; this is a bug" in failure.why
