"""`quaver record`: what it shows, what it refuses, and that stopping it loses nothing."""

import contextlib
import io
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest
import ray
from rich.console import Console

from actors import fleet
from actors.connection import ConnectionState, ConnectionStatus
from actors.latency import Latency
from actors.listing import Listing
from actors.raw import partitions, read_manifest, read_partition
from actors.segments import read_segment
from actors.spool import SpoolStatus
from actors.status import CollectorStatus, ProductStatus
from actors.store import Store
from cluster import cli
from cluster import record as recording_command
from cluster.config import load_config
from cluster.record import listed_products
from cluster.record_view import Lately, Newest, Statuses, line, summary, table
from market.errors import QuaverError
from market.events import Kind
from market.products import product
from tests.actors.market import LIMIT_S, market, wait_for
from tests.helpers import Quaver

IDS = ("BTC-USD", "ETH-USD", "SOL-USD")
SECOND_NS = 1_000_000_000


def latency(*ms: int) -> Latency:
    made = Latency()
    for one in ms:
        made.add(one * 1_000_000)
    return made


def status(name: str, **changes: object) -> CollectorStatus:
    connection = ConnectionStatus(
        state=ConnectionState.BACKING_OFF,
        in_state_s=1.0,
        products=19,
        synced=18,
        subscribed=19,
        connects=2,
        disconnects={1006: 1},
        errors={},
        last_error="gone",
        last_frame_age_s=0.1,
    )
    at_ns = 1_000 * SECOND_NS
    products = {
        f"LONGNAME{i}-USD": ProductStatus(
            synced=i > 0, recv_ns=at_ns - i * SECOND_NS if i else 0, updates=1_000_000
        )
        for i in range(19)
    }
    fields = {
        "name": name,
        "pid": 1,
        "started_ns": 0,
        "at_ns": at_ns,
        "clock_ns": at_ns,
        "connections": [connection],
        "products": products,
        "counts": {},
        "gaps": {"disconnect": 1_234, "corrupt": 1},
        "frames": 123_456_789,
        "rows": 123_456_789,
        "latency": latency(12, 12, 1_234),
        "waiting_items": 0,
        "quarantine_left_out": 0,
        "spool": SpoolStatus(
            buffered_rows=999_999,
            spool_bytes=7_900_000_000,
            segments=1,
            moved_parts=1,
            moved_bytes=456_789_012,
            refused=0,
            last_error=None,
            oldest_unmoved_s=0.0,
        ),
        "overflowing": False,
        "problems": [],
        "ended": False,
    }
    return CollectorStatus(**fields | changes)  # type: ignore[arg-type]


STATUSES: Statuses = {
    "collector-0": status("collector-0"),
    "collector-10": status("collector-10", overflowing=True),
    "collector-2": "restarting",
}


def shown(statuses: Statuses, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    lately = {"collector-0": Lately(33_000.0, latency(12, 12, 1_234))}
    console.print(table(statuses, lately, 3_600.0, "s3://bucket/[prefix]"))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_table_is_readable_in_80_columns() -> None:
    said = shown(STATUSES)
    assert "…" not in said
    assert all(len(row) <= 80 for row in said.splitlines())
    for word in (
        "s3://bucket/[prefix]",
        "backing off",
        "18/19",
        "33,000",
        "12/1245",  # A bucket's end: at most 1/32 more.
        "1235",
        "456.8 MB",
        "7.9 GB",
        "no room",
    ):
        assert word in said, word
    assert "gaps: disconnect 2,468, corrupt 2" in said and "restarting" in said
    assert "LONGNAME0-USD never" in said and "LONGNAME18-USD 18 s" in said


def test_refusals_and_what_keeps_the_root_away_are_shown() -> None:
    """Every state of a connection is visible, and why it is in it."""
    fine = status("collector-0")
    refused = msgspec.structs.replace(
        fine.connections[0],
        state=ConnectionState.SYNCING,
        errors={"capacity": 2, "authentication": 1, "connect": 1},
        last_error="the venue answered with an error: too many L2 streams",
    )
    assert fine.spool
    away = msgspec.structs.replace(fine.spool, last_error="cannot write to [s3://bucket]")
    both = {"collector-0": status("collector-0", connections=[refused], spool=away)}
    lines = " ".join(shown(both).split()), line(both, {}, 61.0), *summary(both, 61.0, "there")
    for said in lines[:2]:
        assert "errors: capacity 2, authentication 1, connect 1" in said
        assert "collector-0: the venue answered with an error: too many L2 streams" in said
        assert "collector-0: cannot write to [s3://bucket]" in said
    assert "cannot write to" in lines[-1]
    # What many have in common is said once.
    many = {name: status(name, connections=[refused]) for name in ("a", "b", "c")}
    assert shown(many).count("too many L2 streams") == 1 and "a and 2 more: the venue" in shown(
        many
    )
    # What is over is counted, and no longer told.
    streaming = msgspec.structs.replace(refused, state=ConnectionState.STREAMING)
    well = shown({"collector-0": status("collector-0", connections=[streaming])})
    assert "capacity 2" in well and "answered with" not in well


def test_a_collector_that_restarted_has_no_rate_until_it_is_seen_twice() -> None:
    newest = Newest()
    assert newest.of({"a": status("a", pid=1)}) == {}
    assert set(newest.of({"a": status("a", pid=1), "b": "restarting"})) == {"a"}
    assert newest.of({"a": status("a", pid=2)}) == {}


def test_the_latency_shown_is_that_of_the_last_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newest, clock = Newest(), [0.0]
    monkeypatch.setattr("cluster.record.time.monotonic", lambda: clock[0])
    shown = []
    for second, ms in enumerate(([500], [500, 7], [500, 7, 9, 9])):
        clock[0] = 8.0 * second
        shown.append(newest.of({"a": status("a", latency=latency(*ms))}))
    assert shown[0] == {}
    assert shown[1]["a"].latency.n == 1 and shown[2]["a"].latency.n == 2  # Not since 16 s ago.
    (p50,) = shown[2]["a"].latency.percentiles_ms(50) or ()
    assert p50 == pytest.approx(9, rel=1 / 32)


def test_without_a_terminal_there_is_a_line() -> None:
    lately = {
        "collector-0": Lately(33_000.0, latency(*[12] * 99)),
        "collector-10": Lately(1.0, latency(1_234, 1_234)),
    }
    said = line(STATUSES, lately, 61.0)
    assert said.startswith("0:01:01 36/38 books, 33,001 updates/s, p99 1245 ms, gaps: disconnect")
    assert said.endswith("collector-2 restarting") and "\n" not in said


def listed(
    monkeypatch: pytest.MonkeyPatch, answer: Listing | QuaverError, *overrides: str
) -> tuple[list[str], str, list[str]]:
    """What is recorded, what was said of it, and which address was asked."""
    asked = []

    def fetch(rest_url: str, wanted: list[str], timeout_s: float) -> Listing:
        asked.append(rest_url)
        assert "NEW-USD" not in wanted  # Its increments are given.
        if isinstance(answer, QuaverError):
            raise answer
        return answer

    monkeypatch.setattr(recording_command, "fetch_products", fetch)
    console = Console(file=io.StringIO(), width=200)
    products = listed_products(load_config(None, list(overrides)), console)
    return [p.id for p in products], console.file.getvalue(), asked  # type: ignore[attr-defined]


TWO = Listing(
    products=[product("BTC-USD"), product("ETH-USD")],
    left_out={"SOL-USD": "its status is offline"},
    changed={"ETH-USD": "0.01 in the built-in table, 0.1 today"},
)


def test_the_live_feeds_products_are_those_that_the_venue_lists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids, said, asked = listed(monkeypatch, TWO)
    assert ids == ["BTC-USD", "ETH-USD"]
    assert asked == ["https://api.coinbase.com/api/v3/brokerage"]
    assert "SOL-USD is left out: its status is offline" in said
    assert "increments of ETH-USD are not the table's" in said


def test_a_listing_that_cannot_be_had_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, said, _ = listed(monkeypatch, QuaverError("cannot get [today's] products"))
    assert len(ids) == 55
    assert "warning: cannot get [today's] products" in said


def test_another_feed_is_recorded_with_the_built_in_table_unless_it_has_a_listing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = "feed_url=ws://127.0.0.1:1"
    ids, said, asked = listed(monkeypatch, TWO, own)
    assert (len(ids), asked, said.count("built-in table")) == (55, [], 1)
    ids, _, asked = listed(monkeypatch, TWO, own, "rest_url=http://127.0.0.1:2")
    assert (ids, asked) == (["BTC-USD", "ETH-USD"], ["http://127.0.0.1:2"])


def test_products_whose_increments_are_given_are_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids, _, asked = listed(
        monkeypatch, TWO, 'products=["NEW-USD"]', 'increments={"NEW-USD" = "0.1,0.001"}'
    )
    assert (ids, asked) == (["NEW-USD"], [])
    ids, _, asked = listed(
        monkeypatch,
        TWO,
        'products=["BTC-USD", "NEW-USD", "ETH-USD"]',
        'increments={"NEW-USD" = "0.1,0.001"}',
    )
    assert (sorted(ids), len(asked)) == (["BTC-USD", "ETH-USD", "NEW-USD"], 1)


def test_nothing_to_record_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Listing(products=[], left_out={"BTC-USD": "offline"}, changed={})
    with pytest.raises(QuaverError, match="none of the configured products"):
        listed(monkeypatch, nothing)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--data"),
        (["--data", "nowhere://x"], "folder or s3://bucket/prefix"),
        (["--data", "OUT", "--feed", "http://x"], "ws://host:port"),
        (["--data", "OUT", "--feed", "simulated"], "--feed"),
        (["--data", "OUT", "--products", "BTC-USD,NO-USD"], "NO-USD"),
        (["--data", "OUT", "--products", ","], "$.products"),
        (["--data", "OUT", "--increments", "NO-USD"], "NO-USD"),
        (["--data", "OUT", "--increments", "NO-USD=0.1"], "QUOTE_INCREMENT,BASE_INCREMENT"),
        (["--data", "OUT", "--wire-format", "csv"], "coinbase-exchange"),
        (["--data", "OUT", "--set", "fleet.products_per_connection=26"], "products_per_connection"),
        (["--data", "OUT", "--set", "rest_url=nowhere"], "rest_url"),
        (["--stop"], "ray_address"),
        (["--stop", "--set", "ray_address=127.0.0.1:1"], "no Ray answers at '127.0.0.1:1'"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_1(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    given = [str(tmp_path) if a == "OUT" else a for a in arguments]
    monkeypatch.setattr(sys, "argv", ["quaver", "record", *given])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as caught:
        cli.main()
    shown = capsys.readouterr()
    assert caught.value.code == 1
    assert said in shown.err and "Traceback" not in shown.err + shown.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "said"), [("bucket", "bucket does not exist"), ("key", "SignatureDoesNotMatch")]
)
def test_a_wrong_s3_root_is_said_before_anything_starts(
    mistake: str, said: str, s3_root: str, monkeypatch: pytest.MonkeyPatch, quaver: Quaver
) -> None:
    root = "s3://no-such-bucket/prefix" if mistake == "bucket" else s3_root
    if mistake == "key":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    process = quaver("record", "--data", root, "--feed", "ws://127.0.0.1:1")
    shown, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert said in shown and root in shown and shown.count("\n") == 1


def recording(root: Path, url: str, *more: str) -> list[str]:
    return [
        *("record", "--data", str(root), "--feed", url, "--products", ",".join(IDS)),
        *("--set", "fleet.products_per_connection=2", *more),
    ]


def rows_recorded(root: Path) -> dict[str, int]:
    store = Store(str(root))
    found: dict[str, int] = {}
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert manifest is not None
        assert all(session.parts for session in manifest.sessions)
        rows = read_partition(store, manifest)
        assert rows["kind"][-1] == Kind.END  # It was stopped, it did not break off.
        found[product_id] = len(rows)
    return found


def on_disk(root: Path) -> int:
    """How many bytes the spool has, wherever they are."""
    return sum(path.stat().st_size for path in root.rglob("*.seg"))


def in_spool(root: Path) -> set[str]:
    """Of which products the spool has rows."""
    found = set()
    for path in root.rglob("*.seg"):
        with contextlib.suppress(QuaverError, FileNotFoundError):  # Just begun, or just moved.
            blocks = read_segment(path).blocks
            found |= {e.product.id for block in blocks for e in block.entries if e.rows}
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_a_spool_that_cannot_be_written_is_said_at_once(
    ray_local: None, quaver: Quaver, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    where = f"ray_address={ray.get_runtime_context().gcs_address}"
    spool = f"spool.folder={tmp_path}/file/below"
    process = quaver(*recording(tmp_path, "ws://127.0.0.1:1", "--set", where, "--set", spool))
    shown, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "cannot keep a spool" in shown and "Traceback" not in shown
    assert fleet.running() == {}


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_stops_with_everything_written_however_often_it_comes(
    quaver: Quaver, tmp_path: Path
) -> None:
    with market(IDS, speed=5.0) as url:
        process = quaver(*recording(tmp_path, url))
        wait_for(lambda: in_spool(tmp_path) == set(IDS))
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout
        said = [process.stdout.readline() for _ in range(2)]
        while "stopping" not in said[-1]:
            said.append(process.stdout.readline())
        os.killpg(process.pid, signal.SIGINT)
        while "recorded" not in said[-1]:
            said.append(process.stdout.readline())
        os.killpg(process.pid, signal.SIGINT)  # Ray is being stopped.
        rest, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, rest
    rest = said[-1] + rest
    assert "built-in table" in said[0]
    assert "of 3 products" in rest and "gaps: none" in rest
    assert set(rows_recorded(tmp_path)) == set(IDS)
    assert on_disk(tmp_path) == 0


@pytest.mark.ray
@pytest.mark.slow
def test_a_fleet_outlives_its_driver_is_found_again_and_stopped(
    ray_local: None, quaver: Quaver, tmp_path: Path
) -> None:
    where = ("--set", f"ray_address={ray.get_runtime_context().gcs_address}")
    try:
        with market(IDS, speed=5.0) as url:
            first = quaver(*recording(tmp_path, url, *where))
            wait_for(lambda: len(fleet.running()) == 2 and in_spool(tmp_path) == set(IDS))
            first.kill()
            second = quaver(*recording(tmp_path, url, *where))
            assert second.stdout
            while "runs already" not in (said := second.stdout.readline()):
                assert said
            while "books" not in second.stdout.readline():
                pass
            os.killpg(second.pid, signal.SIGINT)
            rest, _ = second.communicate(timeout=LIMIT_S)
            assert second.returncode == 0 and "goes on" in rest
            assert len(fleet.running()) == 2
            third = quaver("record", "--stop", *where)
            rest, _ = third.communicate(timeout=LIMIT_S)
            assert third.returncode == 0 and "of 3 products" in rest
            assert fleet.running() == {}
    finally:
        fleet.stop(fleet.running())
    assert set(rows_recorded(tmp_path)) == set(IDS)
    assert on_disk(tmp_path) == 0
