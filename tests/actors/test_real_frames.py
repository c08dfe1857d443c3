"""Real recordings, replayed over a websocket and recorded live, equal their imports."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

from actors.collector import Collector, CollectorSpec
from actors.connection import ConnectionConfig
from actors.plan import in_one
from actors.raw import Manifest, partitions, read_manifest, read_partition
from actors.store import Store
from datasets.imports import parse_increments
from market.products import Product, product
from sim.replay import Replay
from tests.actors.test_collector import streamed
from tests.actors.wire import Windows, assert_same_windows, rebuilt_windows
from tests.helpers import Quaver, import_into, recording

LIMIT_S = 100.0
BTC = ("BTC-USD",)
TEN = tuple(
    "BAND-BTC BAND-GBP CRV-EUR DASH-BTC NMR-EUR NU-GBP SKL-BTC SKL-GBP SKL-USD YFI-BTC".split()
)
FINE = ("0.00000001", "0.00000001")  # Their grid is not recorded; this one takes every price.
CAPTURES = {
    "advanced-btc-usd-180s.jsonl.gz": BTC,
    "advanced-btc-usd-60s.jsonl.gz": BTC,
    "exchange-10-products-31s.jsonl.gz": TEN,
    "exchange-btc-usd-2018-1min-trades.jsonl.gz": BTC,
    "exchange-btc-usd-2018-2min-trades.jsonl.gz": BTC,
    "exchange-btc-usd-2018-45min.jsonl.gz": BTC,
}

QUICK = ("advanced-btc-usd-60s.jsonl.gz", "exchange-btc-usd-2018-1min-trades.jsonl.gz")


def wire_format(name: str) -> str:
    return "coinbase-advanced" if name.startswith("advanced") else "coinbase-exchange"


def increments(ids: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    return {} if ids == BTC else dict.fromkeys(ids, FINE)


def listed(ids: tuple[str, ...]) -> list[Product]:
    grids = dict(parse_increments(f"{p}={','.join(g)}") for p, g in increments(ids).items())
    return [grids.get(p) or product(p) for p in ids]


def imported(name: str, root: Path) -> Store:
    store = Store(str(root))
    import_into(store, recording(name), increments(CAPTURES[name]))
    return store


def assert_same_recording(live: Store, imported: Store) -> None:
    """The same partitions, rows but for the time of reception, gaps and counts."""
    assert partitions(live) == partitions(imported) != []
    for product_id, day in partitions(imported):
        ours, wanted = (read_manifest(store, product_id, day) for store in (live, imported))
        assert ours is not None and wanted is not None
        assert ours.listed == wanted.listed
        assert told(ours) == told(wanted)
        rows, expected = read_partition(live, ours), read_partition(imported, wanted)
        assert (rows["recv_ns"][rows["kind"] < 2] > 0).all()
        for field in expected.dtype.names or ():
            if field != "recv_ns":
                np.testing.assert_array_equal(rows[field], expected[field], err_msg=field)


def told(manifest: Manifest) -> list[object]:
    """What a manifest says of its sessions but for the names of files."""
    return [
        (s.first_ns, s.last_ns, sum(p.rows for p in s.parts), s.gaps, s.counts)
        for s in manifest.sessions
    ]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CAPTURES],
)
def test_a_recording_replayed_and_recorded_equals_its_import(tmp_path: Path, name: str) -> None:
    path, ids = recording(name), CAPTURES[name]

    async def live() -> Windows:
        async with asyncio.timeout(LIMIT_S), Replay([path]) as replay:
            collector = Collector(
                CollectorSpec(
                    name="collector",
                    url=replay.url,
                    groups=in_one(listed(ids)),
                    wire_format=wire_format(name),
                    root=str(tmp_path / "live"),
                    connection=ConnectionConfig(
                        follow_end=True, pace_folder=str(tmp_path / "pace")
                    ),
                )
            )
            windows = await streamed(collector, ids)
            await replay.finished()
            return windows

    windows, store = asyncio.run(live()), Store(str(tmp_path / "live"))
    assert_same_recording(store, imported(name, tmp_path / "imported"))
    assert_same_windows(rebuilt_windows(store), windows)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["advanced-btc-usd-60s.jsonl.gz", "exchange-10-products-31s.jsonl.gz"]
)
def test_quaver_record_of_quaver_replay_equals_quaver_import(
    quaver: Quaver, tmp_path: Path, name: str
) -> None:
    path, ids = recording(name), CAPTURES[name]
    grids = [f"--increments={p}={','.join(grid)}" for p, grid in increments(ids).items()]
    form, live, by_import = wire_format(name), tmp_path / "live", tmp_path / "imported"
    serving = quaver("replay", str(path), "--speed", "max")
    assert serving.stdout
    url = serving.stdout.readline().split()[2]
    recording_ = quaver(
        *("record", "--data", str(live), "--feed", url, "--products", ",".join(ids)),
        *("--wire-format", form, "--set", "connection.follow_end=true", *grids),
        *("--set", f"connection.pace_folder={tmp_path}/pace"),
    )
    sent, _ = serving.communicate(timeout=LIMIT_S)
    assert re.fullmatch(r"[\d,]+ frames sent\n", sent)
    said, _ = recording_.communicate(timeout=LIMIT_S)
    assert recording_.returncode == 0, said
    importing = quaver("import", str(path), "--format", form, "--out", str(by_import), *grids)
    shown, _ = importing.communicate(timeout=LIMIT_S)
    assert importing.returncode == 0, shown
    assert_same_recording(Store(str(live)), Store(str(by_import)))
    assert "gaps: none" in said
