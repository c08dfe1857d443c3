"""The soak's own measures and verdicts, on runs made by hand."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from actors.connection import ConnectionStatus
from actors.connection_config import ConnectionState
from actors.latency import Latency
from actors.status import CollectorStatus, ProductStatus
from benchmarks.__main__ import replaced
from benchmarks.soak import PAGE
from benchmarks.soak_table import (
    Beat,
    Run,
    Sample,
    Sent,
    growth_mb_min,
    losses_of,
    rows_of,
    table_of,
)

COLLECTOR = "collector-0"


def latency(ms: float, n: int) -> Latency:
    made = Latency()
    for _ in range(n):
        made.add(round(ms * 1e6))
    return made


def status(**changes: Any) -> CollectorStatus:
    connection = ConnectionStatus(
        state=ConnectionState.CLOSED_BY_VENUE,
        in_state_s=1.0,
        products=1,
        synced=1,
        subscribed=1,
        connects=1,
        disconnects={},
        errors={},
        last_error=None,
        last_frame_age_s=0.1,
    )
    fields: dict[str, Any] = {
        "name": COLLECTOR,
        "pid": 1,
        "started_ns": 0,
        "at_ns": 1,
        "clock_ns": 1,
        "connections": [connection],
        "products": {"BTC-USD": ProductStatus(synced=True, recv_ns=1, updates=1)},
        "counts": {"l2_data": 5, "heartbeats": 5, "windows": 5, "valid windows": 5, "gaps": 0},
        "gaps": {},
        "frames": 0,
        "rows": 5,
        "latency": Latency(),
        "waiting_items": 0,
        "quarantine_left_out": 0,
        "spool": None,
        "overflowing": False,
        "problems": [],
        "ended": True,
    }
    return CollectorStatus(**fields | changes)


def run(
    *, changes: int = 132_000, ms: float = 3.0, grows: float = 0.0, valid: int = 55, **more: Any
) -> Run:
    """Sixty seconds; before them were slow frames, which do not count."""
    slow = latency(900.0, 50)
    counted = Latency.sum([slow, latency(3.0, 989), latency(ms, 11)])
    samples = [
        Sample(
            at_s=100.0 + i,
            spool_bytes=0,
            cpu_s={COLLECTOR: 0.25 * i},
            memory_mb={COLLECTOR: 150 + grows * i / 60},
            others_cpu_s=0.5 * i,
            load=1.0,
        )
        for i in range(61)
    ]
    return Run(
        first=[status(frames=1_000, latency=slow)],
        last=[status(frames=73_000, latency=counted)],
        samples=samples,
        beats=[Beat(beat, changes, 55, valid) for beat in range(15)],
        sent=more.get("sent", Sent(9_000, 90, latency(1.0, 10))),
        recorded=(9_000, 90),
        losses=more.get("losses", {}),
        root_bytes=1_000_000,
    )


def test_what_is_stated_of_a_run_that_keeps_every_limit() -> None:
    rows = rows_of(run())
    assert [row.what for row in rows if row.missed] == []
    stated = {row.what: row.measured for row in rows}
    assert stated["level changes/s received"] == "33,000"
    assert stated["frames/s received"] == "1,200"
    assert float(stated["frame-to-book, longest, ms"]) == pytest.approx(3.0, abs=0.1)
    assert stated[f"cores used by {COLLECTOR}"] == "0.25"
    assert stated["cores used by what else runs on the machine"] == "0.50"
    page = replaced(PAGE.read_text("utf-8"), table_of(rows, "Here."))
    assert "| level changes/s received | 33,000 | 33,000 |" in page


@pytest.mark.parametrize(
    ("broken", "missed"),
    [
        (run(changes=131_999), "level changes/s received"),
        (run(ms=60.0), "frame-to-book p99, ms"),
        (run(grows=30.0), "memory of all collectors, MB: start, end, growth a minute"),
        (run(valid=54), "windows valid"),
        (run(losses={"gap: gap": 1}), "gaps, duplicates, errors"),
        (
            run(sent=Sent(9_001, 90, Latency())),
            "changes and trades sent, but not recorded",
        ),
        (
            run(sent=Sent(9_000, 89, Latency())),
            "changes and trades sent, but not recorded",
        ),
    ],
)
def test_each_limit_that_is_not_met_is_said(broken: Run, missed: str) -> None:
    assert [row.what for row in rows_of(broken) if row.missed] == [missed]


def test_memory_that_goes_up_and_down_is_flat_and_one_that_rises_is_not() -> None:
    saw = [(float(s), 100.0 + s % 40) for s in range(400)]
    assert abs(growth_mb_min(saw)) < 0.1
    assert growth_mb_min([(s, m + 5 * s / 60) for s, m in saw]) == pytest.approx(5, abs=0.5)
    assert growth_mb_min([(0.0, 10.0), (60.0, 13.0)]) == pytest.approx(3)


def _connection(status: CollectorStatus, **changes: Any) -> CollectorStatus:
    (one,) = status.connections
    changed = msgspec.structs.replace(one, **changes)
    return msgspec.structs.replace(status, connections=[changed])


@pytest.mark.parametrize(
    "change",
    [
        lambda s: msgspec.structs.replace(s, gaps={"gap": 1}),
        lambda s: msgspec.structs.replace(s, counts=s.counts | {"duplicates": 1}),
        lambda s: msgspec.structs.replace(s, counts=s.counts | {"error: what else": 1}),
        lambda s: msgspec.structs.replace(s, problems=["the spool is full"]),
        lambda s: msgspec.structs.replace(s, quarantine_left_out=1),
        lambda s: _connection(s, disconnects={1006: 1}),
        lambda s: _connection(s, errors={"silence": 1}),
        lambda s: "restarting",
    ],
)
def test_whatever_a_collector_lost_is_named(
    change: Callable[[CollectorStatus], CollectorStatus | str],
) -> None:
    assert losses_of([status()], []) == {}
    assert losses_of([status()], ["corrupt"]) == {"gap in a manifest: corrupt": 1}
    assert list(losses_of([status(), change(status())], []).values()) == [1]
