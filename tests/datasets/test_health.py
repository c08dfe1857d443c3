"""The health of a recording: what manifests tell is what the rows say, and bad days are found."""

import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from actors.raw import (
    Gap,
    Manifest,
    Part,
    Session,
    day_of,
    day_start_ns,
    encode_part,
    partition_path,
    partitions,
    read_manifest,
    read_partition,
)
from actors.store import Store, sha256
from cluster.health import print_health
from datasets.health import (
    DayHealth,
    HealthConfig,
    Latency,
    Lost,
    health_of,
    total,
)
from datasets.unknown import NOT_RECORDED, Unknown, unknown
from market.errors import QuaverError
from market.events import EVENT, Kind
from market.products import product
from market.windows import WindowBuilder
from tests.actors.wire import (
    BTC,
    DAY_NS,
    DAYS,
    DISCONNECT,
    ETH,
    MIDNIGHT_NS,
    SECOND_NS,
    START_NS,
    Advanced,
    Walk,
    record,
)

FLOOR = HealthConfig()
BOOKS_LOST = ("skip", "corrupt", "crossed", "disconnect", "silence", "snapshot")


def manifest(*sessions: Session) -> Manifest:
    """A manifest of BTC's first day."""
    return Manifest(
        product=BTC,
        day=DAYS[0],
        quote_increment="0.01",
        base_increment="0.00000001",
        base_min_size="0.00000001",
        sessions=list(sessions),
    )


def session(first: int, last: int, *gaps: Gap, **counts: int) -> Session:
    """A session of rows from `first` to `last`."""
    part = Part(name="none", rows=2, first_ns=first, last_ns=last, sha256="")
    return Session(
        session=f"{first:020d}", source="a venue", parts=[part], gaps=list(gaps), counts=counts
    )


def gap(ns: int, until_ns: int | None, reason: str = "gap") -> Gap:
    """A gap."""
    return Gap(ns=ns, until_ns=until_ns, reason=reason)


# What is not known, from the definitions.


@pytest.mark.parametrize(
    ("sessions", "wanted"),
    [
        ([session(0, 100)], []),
        ([session(10, 90)], [(0, 10, NOT_RECORDED), (90, 100, NOT_RECORDED)]),
        ([session(0, 100, gap(20, 30))], [(20, 30, "gap")]),
        ([session(0, 90, gap(20, None))], [(20, 100, "gap")]),
        ([session(0, 40, gap(40, None)), session(60, 100)], [(40, 60, "gap")]),
        ([session(0, 40), session(60, 100)], [(40, 60, NOT_RECORDED)]),
        ([session(60, 100), session(0, 40)], [(40, 60, NOT_RECORDED)]),
        # What lies within another is told once, what reaches further with its own reason.
        ([session(0, 100, gap(20, 50), gap(30, 40, "x"))], [(20, 50, "gap")]),
        ([session(0, 100, gap(20, 50), gap(30, 60, "x"))], [(20, 50, "gap"), (50, 60, "x")]),
        # A moment is a gap too: its beat is lost.
        ([session(0, 100, gap(20, 20))], [(20, 20, "gap")]),
        # Of sessions that overlap one that knows the book is enough; of two that do not, the later
        # says why.
        (
            [session(0, 80, gap(50, 70), gap(75, None, "x")), session(40, 100, gap(40, 45, "y"))],
            [],
        ),
        ([session(0, 80, gap(42, 60)), session(40, 100, gap(40, 45, "y"))], [(42, 45, "y")]),
        ([session(0, 100), session(40, 60, gap(50, None, "x"))], []),
        ([session(0, 90), session(40, 60, gap(60, None, "x"))], [(90, 100, NOT_RECORDED)]),
        ([session(0, 60), session(0, 100, gap(0, 70, "x"))], [(60, 70, "x")]),
        ([session(0, 60, gap(20, 20)), session(10, 100)], []),
        ([session(0, 60, gap(20, 20)), session(10, 100, gap(10, 30, "x"))], [(20, 20, "x")]),
        ([session(0, 50, gap(50, None)), session(50, 100)], [(50, 50, "gap")]),
        ([session(0, 80, gap(30, None)), session(40, 100)], [(30, 40, "gap")]),
        (
            [session(0, 40, gap(20, None), gap(40, None, "broke off")), session(60, 100)],
            [(20, 40, "gap"), (40, 60, "broke off")],
        ),
        ([session(-50, 120, gap(-20, 5), gap(90, 130))], [(0, 5, "gap"), (90, 100, "gap")]),
    ],
)
def test_what_is_not_known_follows_from_sessions_and_their_gaps(
    sessions: list[Session], wanted: list[tuple[int, int, str]]
) -> None:
    assert unknown(manifest(*sessions), 0, 100) == [Unknown(*one) for one in wanted]


def test_without_a_manifest_nothing_is_known() -> None:
    assert unknown(None, 5, 9) == [Unknown(5, 9, NOT_RECORDED)]


# Coverage from manifests against the rows.


def steps(events: NDArray[np.void]) -> list[tuple[int, bool]]:
    """After each frame or mark: its time, and whether a builder of its own knows the book."""
    builder, found = WindowBuilder(), []
    for rows in np.split(events, np.flatnonzero(events["last"])[:-1] + 1):
        builder.feed(rows.copy())
        found.append((int(rows["ns"][-1]), builder.synced))
    return found


def known_ns(store: Store, product_id: str, day: str) -> int:
    """For how long the rows of a partition say that the book was known."""
    held = read_manifest(store, product_id, day)
    assert held is not None
    found = steps(read_partition(store, held))
    return sum(later - ns for (ns, synced), (later, _) in itertools.pairwise(found) if synced)


def a_recording(seed: int, start_ns: int, losses: list[str]) -> list[bytes]:
    """Frames of a venue that loses the book in these ways, some seconds apart."""
    walk, frames, at = Walk(seed), [], start_ns
    frames += walk.snapshots(at)
    for place, loss in enumerate(losses):
        at += SECOND_NS
        frames += walk.frames(at, at + 7 * SECOND_NS)
        at += 7 * SECOND_NS
        if loss == "skip":
            walk.wire.sequence += 1
        elif loss == "corrupt":
            frames.append(walk.wire.book(at, [("bid", "99.001", "1")]))
        elif loss == "crossed":
            frames.append(walk.wire.book(at, [("bid", "900.00", "1")]))
        elif loss == "disconnect":
            frames.append(DISCONNECT)
            walk.wire = Advanced()
        elif loss == "silence":
            at += 30 * SECOND_NS
        if place % 3:  # Else the book stays lost until the next.
            at += 3 * SECOND_NS
            frames += walk.snapshots(at)
    return [*frames, *walk.frames(at + SECOND_NS, at + 9 * SECOND_NS)]


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.lists(st.sampled_from(BOOKS_LOST), max_size=4)),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
    st.integers(0, 100),
)
def test_coverage_from_the_manifests_is_that_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory,
    recordings: list[tuple[int, list[str]]],
    end: bool,
    seed: int,
) -> None:
    store = Store(str(tmp_path_factory.mktemp("root")))
    at = MIDNIGHT_NS - 60 * SECOND_NS
    for place, (pause_s, losses) in enumerate(recordings):
        at += (1 + pause_s) * SECOND_NS
        record(store, a_recording(seed + place, at, losses), part_rows=50, end=end)
        at += 150 * SECOND_NS
    held = {partition: read_manifest(store, *partition) for partition in partitions(store)}
    rows = {key: read_partition(store, m)["ns"] for key, m in held.items() if m}
    newest = max(day for _, day in rows)
    last_ns = max(int(ns.max()) for (_, day), ns in rows.items() if day == newest)
    found = health_of(store, FLOOR, None, None, latency=True)
    assert [(one.product, one.day) for one in found] == sorted(rows)
    for one in found:
        ns = rows[one.product, one.day]
        first_day = min(day for product_id, day in rows if product_id == one.product)
        from_ns = int(ns[0]) if one.day == first_day else day_start_ns(one.day)
        to_ns = min(last_ns, day_start_ns(one.day) + DAY_NS)
        known = known_ns(store, one.product, one.day)
        assert one.covered_s == known / SECOND_NS
        assert one.expected_s == (to_ns - from_ns) / SECOND_NS
        assert one.coverage == (known / (to_ns - from_ns) if to_ns > from_ns else 1)
        lost_s = sum(lost.seconds for lost in one.lost.values())
        assert lost_s == pytest.approx(one.expected_s - one.covered_s, abs=1e-6)
        assert one.latency_ms is None  # These rows do not say when they were received.


# Days.


def keep(store: Store, product_id: str, first: int, last: int, *gaps: Gap, **counts: int) -> None:
    """A partition with a session of two rows, received 5 and 25 ms after they were sent."""
    listed, day = product(product_id), day_of(first)
    rows = np.zeros(4, EVENT)
    rows["ns"] = first, first, last, last
    rows["recv_ns"] = first + 9 * 10**9, first + 5 * 10**6, last + 25 * 10**6, last + 10**12
    rows["kind"] = Kind.SNAPSHOT, Kind.SNAPSHOT, Kind.TRADE, Kind.END
    rows["last"] = 0, 1, 1, 1  # Only the last row of a frame stands for it, and no mark.
    data = encode_part(rows, listed)
    part = Part(name="none", rows=4, first_ns=first, last_ns=last, sha256=sha256(data))
    one = msgspec.structs.replace(session(first, last, *gaps, **counts), parts=[part])
    held = msgspec.structs.replace(manifest(one), product=product_id, day=day)
    store.write(f"{partition_path(product_id, day)}/none", data)
    store.write(f"{partition_path(product_id, day)}/manifest.json", msgspec.json.encode(held))


def test_days_count_from_the_first_row_to_the_newest_days_last(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    end = MIDNIGHT_NS + 1000 * SECOND_NS
    keep(store, BTC, START_NS, MIDNIGHT_NS)
    keep(store, BTC, MIDNIGHT_NS, end)
    keep(store, ETH, MIDNIGHT_NS + 500 * SECOND_NS, MIDNIGHT_NS + 750 * SECOND_NS)
    found = health_of(store, FLOOR, None, None, latency=True)
    assert [(d.product, d.day, d.expected_s, d.covered_s) for d in found] == [
        (BTC, DAYS[0], 43_200, 43_200),
        (BTC, DAYS[1], 1000, 1000),
        (ETH, DAYS[1], 500, 250),
    ]
    assert [d.latency_ms for d in found] == [Latency(25, 25, 25)] * 3
    assert found[2].lost == {NOT_RECORDED: Lost(1, 250)}
    assert [d.faults for d in found] == [[], [], ["coverage 50.000% < 99.000%"]]


def test_days_of_which_there_is_nothing_are_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    keep(store, ETH, START_NS, MIDNIGHT_NS)
    for day in ("2026-08-05", "2026-08-08"):
        keep(store, BTC, day_start_ns(day), day_start_ns(day) + DAY_NS)
    found = [d for d in health_of(store, FLOOR, BTC, None, latency=False) if not d.sources]
    assert [(d.day, d.until_day, d.coverage) for d in found] == [
        ("2026-08-06", "2026-08-07", 0),
        (DAYS[0], DAYS[0], 0),
    ]


@pytest.mark.parametrize(
    ("products", "days", "wanted"),
    [
        (BTC, "2026-08-06", [(BTC, "2026-08-06", "2026-08-06")]),
        (BTC, "2026-08-06, 2026-08-07", [(BTC, "2026-08-06", "2026-08-07")]),
        (
            BTC,
            "2026-08-07..2026-08-08,2026-08-05",
            [(BTC, f"2026-08-0{n}", f"2026-08-0{n}") for n in (5, 7, 8)],
        ),
        (
            None,
            "2026-08-07..2026-12-31",
            [
                (BTC, "2026-08-07", "2026-08-07"),
                (BTC, "2026-08-08", "2026-08-08"),
                (BTC, DAYS[0], DAYS[0]),
                (ETH, DAYS[0], DAYS[0]),
            ],
        ),
        (f"{ETH},{BTC}", DAYS[0], [(BTC, DAYS[0], DAYS[0]), (ETH, DAYS[0], DAYS[0])]),
        (None, "2026-08-05", [(BTC, "2026-08-05", "2026-08-05")]),  # ETH was not expected yet.
    ],
)
def test_days_and_products_pick_also_days_of_which_there_is_nothing(
    tmp_path: Path, products: str | None, days: str, wanted: list[tuple[str, str, str]]
) -> None:
    store = Store(str(tmp_path))
    keep(store, ETH, START_NS, MIDNIGHT_NS)
    for day in ("2026-08-05", "2026-08-08"):
        keep(store, BTC, day_start_ns(day), day_start_ns(day) + DAY_NS)
    whole = {
        (d.product, d.day): d.coverage for d in health_of(store, FLOOR, None, None, latency=False)
    }
    picked = health_of(store, FLOOR, products, days, latency=False)
    assert [(d.product, d.day, d.until_day) for d in picked] == wanted
    assert all(d.coverage == whole.get((d.product, d.day), 0) for d in picked)


COUNTS = {"duplicates": 3, "corrupt": 2, "trade_holes": 7, "trade_duplicates": 1}


@pytest.mark.parametrize(
    ("floor", "fault"),
    [
        (HealthConfig(min_coverage=0.5), None),
        (HealthConfig(min_coverage=0.76), "coverage 75.000% < 76.000%"),
        (HealthConfig(min_coverage=None, max_corrupt=1), "corrupt frames 2 > 1"),
        (HealthConfig(min_coverage=None, max_corrupt=2), None),
        (HealthConfig(min_coverage=None, max_trade_holes=6), "trade holes 7 > 6"),
        (HealthConfig(min_coverage=None, max_latency_p99_ms=24), "p99 ms 25 > 24"),
        (HealthConfig(min_coverage=None, max_latency_p99_ms=25), None),
    ],
)
def test_what_is_worse_than_the_floor_is_named(
    tmp_path: Path, floor: HealthConfig, fault: str | None
) -> None:
    store = Store(str(tmp_path))
    at = START_NS + SECOND_NS
    keep(store, BTC, START_NS, START_NS + 4 * SECOND_NS, gap(at, at + SECOND_NS), **COUNTS)
    (found,) = health_of(store, floor, None, None, latency=True)
    assert found.faults == ([fault] if fault else [])
    assert {name: getattr(found, name) for name in COUNTS} == COUNTS
    assert (found.gaps, found.lost) == (1, {"gap": Lost(1, 1.0)})


def test_without_latency_no_part_is_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    keep(store, BTC, START_NS, MIDNIGHT_NS)
    store.delete(f"{partition_path(BTC, DAYS[0])}/none")
    (found,) = health_of(store, FLOOR, None, None, latency=False)
    assert found.latency_ms is None
    with pytest.raises(QuaverError, match="--no-latency"):
        health_of(store, FLOOR, None, None, latency=True)


@pytest.mark.parametrize(
    ("products", "days", "said"),
    [
        ("SOL-USD", None, "--products SOL-USD: there is no raw partition.*BTC-USD, ETH-USD"),
        (None, "2026-08-11", "--days 2026-08-11: there is no raw partition"),
        (None, "yesterday", "not a day"),
        (None, "2026-08-10..2026-08-09", "ends before it begins"),
        (ETH, DAYS[0], f"--days {DAYS[0]}: there is no raw partition"),
    ],
)
def test_what_is_not_there_cannot_be_picked(
    tmp_path: Path, products: str | None, days: str | None, said: str
) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(QuaverError, match="no raw partitions"):
        health_of(store, FLOOR, products, days, latency=True)
    keep(store, BTC, START_NS, MIDNIGHT_NS)
    keep(store, ETH, MIDNIGHT_NS, MIDNIGHT_NS + SECOND_NS)
    with pytest.raises(QuaverError, match=said):
        health_of(store, FLOOR, products, days, latency=True)


# What a person sees.


@pytest.mark.parametrize("width", [80, 106, 120])
def test_a_line_of_the_table_fits_the_terminal(width: int) -> None:
    worst = DayHealth(
        product="PENGU-USD",
        day=DAYS[0],
        until_day=DAYS[0],
        first_ns=START_NS,
        last_ns=MIDNIGHT_NS - 1,
        expected_s=86_400,
        covered_s=86_400 - 45_678.9,
        coverage=0.99999,
        gaps=1_234,
        lost={"gap": Lost(1_234, 45_678.9)},
        duplicates=999,
        corrupt=999,
        trade_duplicates=54_321,
        trade_holes=123_456,
        latency_ms=Latency(123.456, 1_234.5, 98_765.4),
        sources=["a venue"],
    )
    out = io.StringIO()
    print_health([worst], total([worst]), Console(file=out, width=width))
    line = next(line for line in out.getvalue().splitlines() if "PENGU" in line)
    assert "99.99%" in line and "100.00%" not in line
    for figure in (DAYS[0], "1,234", "46k", "999", "54k", "123k", "123", "99k"):
        assert figure in line
    assert "…" not in out.getvalue() and len(line.rstrip()) <= width
    assert ("12:00:00 23:59:59" in line) == (width >= 106)


def quaver(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from cluster.cli import main; main()", "health", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"COLUMNS": "80"},
        check=False,
    )


@pytest.mark.slow
def test_the_command_says_by_its_exit_code_whether_all_is_fine(tmp_path: Path) -> None:
    root, store = str(tmp_path / "root"), Store(str(tmp_path / "root"))
    empty = quaver("--data", root)
    assert empty.returncode == 1 and "no raw partitions" in empty.stderr
    keep(store, BTC, START_NS, MIDNIGHT_NS, gap(START_NS, START_NS + SECOND_NS, "start"))
    fine = quaver("--data", root)
    assert (fine.returncode, "start 1 s" in fine.stdout) == (0, True), fine.stderr
    absent = quaver("--data", root, "--products", BTC, "--days", "2020-01-01")
    assert absent.returncode == 1 and "--days 2020-01-01" in absent.stderr
    bad = quaver(
        *("--data", root, "--products", BTC, "--days", f"2026-01-01..{DAYS[0]}"),
        *("--set", "health.max_latency_p99_ms=1", "--json"),
    )
    assert bad.returncode == 2
    said = json.loads(bad.stdout)
    assert said["fine"] is False and said["days"][0]["faults"] == ["p99 ms 25 > 1"]
    assert said["total"]["covered_s"] == 43_199
    assert "Traceback" not in empty.stderr + fine.stderr + bad.stderr
