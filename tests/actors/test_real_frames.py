"""Real recordings, replayed over a websocket and recorded live, equal their imports."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest

from actors.collector import Collector, CollectorSpec
from actors.connection import ConnectionConfig
from actors.plan import in_one
from actors.raw import Manifest, partitions, read_manifest, read_partition
from actors.store import Store
from datasets.imports import parse_increments
from datasets.tables import read_windows
from market.products import Product, product
from sim.replay import Replay
from tests.actors.test_collector import streamed
from tests.actors.wire import Windows, assert_same_windows, rebuilt_windows
from tests.helpers import Quaver, import_into, recording
from tests.s3 import S3Server

pytestmark = pytest.mark.slow


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


def imported(name: str, root: Path | str) -> Store:
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


def recorded(
    quaver: Quaver, name: str, root: str, began: Callable[["Popen[str]"], None] = lambda _: None
) -> str:
    """Serve a recording with one command, record it with another; return what that said.

    The market's end stops both. `began` is called once the second has been started.
    """
    serving = quaver("replay", str(recording(name)), "--speed", "max")
    assert serving.stdout
    url = serving.stdout.readline().split()[2]
    recorder = quaver(
        *("record", "--data", root, "--feed", url, "--products", ",".join(CAPTURES[name])),
        *("--wire-format", wire_format(name), "--set", "connection.follow_end=true"),
        *grids(name),
    )
    began(recorder)
    sent, _ = serving.communicate(timeout=LIMIT_S)
    assert re.fullmatch(r"[\d,]+ frames sent\n", sent)
    said, _ = recorder.communicate(timeout=LIMIT_S)
    assert recorder.returncode == 0, said
    assert "gaps: none" in said
    return said


def grids(name: str) -> list[str]:
    return [f"--increments={p}={','.join(g)}" for p, g in increments(CAPTURES[name]).items()]


def done(process: "Popen[str]") -> str:
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    return said


@pytest.mark.ray
@pytest.mark.slow
def test_quaver_record_of_quaver_replay_equals_quaver_import(
    quaver: Quaver, tmp_path: Path
) -> None:
    """Of ten products whose grid no table has."""
    live, by_import = str(tmp_path / "live"), str(tmp_path / "imported")
    name = "exchange-10-products-31s.jsonl.gz"
    recorded(quaver, name, live)
    path, form = str(recording(name)), wire_format(name)
    done(quaver("import", path, "--format", form, "--out", by_import, *grids(name)))
    assert_same_recording(Store(live), Store(by_import))


@pytest.mark.ray
@pytest.mark.slow
def test_a_recording_is_recorded_imported_built_and_judged_on_s3(
    quaver: Quaver, s3_root: str, s3_server: S3Server
) -> None:
    """The server is away while the recording starts, which says so and goes on."""
    live = f"{s3_root}/live"
    name = "advanced-btc-usd-60s.jsonl.gz"

    def comes_back(recorder: "Popen[str]") -> None:
        assert recorder.stdout
        assert f"{live} is away" in recorder.stdout.readline()
        s3_server.restart()

    s3_server.kill9()
    try:
        recorded(quaver, name, live, comes_back)
    finally:
        if not s3_server.running:
            s3_server.restart()
    by_import = imported(name, f"{s3_root}/imported")
    store = Store(live)
    assert_same_recording(store, by_import)
    done(quaver("build", "--data", live))
    ((product_id, day),) = partitions(store)
    windows = {product_id: read_windows(store, product_id, day)}
    assert_same_windows(windows, rebuilt_windows(store))
    assert product_id in done(quaver("health", "--data", live))
