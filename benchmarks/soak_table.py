"""What the soak states: the figures of a run beside their limits."""

from collections import Counter
from math import nan
from statistics import linear_regression, mean
from typing import NamedTuple

from actors import fleet
from actors.latency import Latency
from actors.status import CollectorStatus
from market.windows import BEAT_NS

LOAD, MAX_P99_MS, MAX_GROWTH_MB_MIN = 33_000, 50.0, 2.0
_COLLECTOR = fleet.name_of(0).rstrip("0")
# Of what collectors count, what is as it should be.
_HARMLESS = (
    "l2_data",
    "market_trades",
    "market_trades history",
    "heartbeats",
    "subscriptions",
    "windows",
    "valid windows",
)


class Sent(NamedTuple):
    """What the exchange says it did."""

    changes: int
    trades: int
    late: Latency  # Of its steps, behind their schedule.


class Beat(NamedTuple):
    """The windows of all products that end one beat."""

    beat: int
    changes: int
    windows: int
    valid: int


class Sample(NamedTuple):
    """One look at everything."""

    at_s: float
    spool_bytes: int
    cpu_s: dict[str, float]  # By process, since it started.
    memory_mb: dict[str, float]
    others_cpu_s: float  # Of processes that are not ours.
    load: float


class Run(NamedTuple):
    """What was measured, from the end of the warm-up on but for `sent`, `recorded` and `losses`."""

    first: list[CollectorStatus]  # As they were then, and at the end.
    last: list[CollectorStatus]
    samples: list[Sample]
    beats: list[Beat]
    sent: Sent
    recorded: tuple[int, int]  # Changes and trades.
    losses: dict[str, int]  # Of any kind; empty if there are none.
    root_bytes: int


class Row(NamedTuple):
    """One row of the table."""

    what: str
    measured: str
    limit: str = ""
    missed: bool = False


def rows_of(run: Run) -> list[Row]:
    """Return what is stated of a run."""
    first, last = run.samples[0], run.samples[-1]
    seconds = last.at_s - first.at_s
    frames = sum(s.frames for s in run.last) - sum(s.frames for s in run.first)
    changes_s = mean(beat.changes for beat in run.beats) / (BEAT_NS / 1e9)
    windows, valid = (sum(getattr(b, name) for b in run.beats) for name in ("windows", "valid"))
    before = Latency.sum(status.latency for status in run.first)
    latency = Latency.sum(status.latency for status in run.last).since(before)
    p50, p99, longest = latency.percentiles_ms(50, 99, 100) or (nan, nan, nan)
    missing = (run.sent.changes - run.recorded[0], run.sent.trades - run.recorded[1])
    losses = ", ".join(f"{name}: {n}" for name, n in run.losses.items()) or "none"
    rows = [
        Row("level changes/s received", f"{changes_s:,.0f}", f"{LOAD:,}", changes_s < LOAD),
        Row("frames/s received", f"{frames / seconds:,.0f}"),
        Row("gaps, duplicates, errors", losses, "none", losses != "none"),
        Row(
            "changes and trades sent, but not recorded",
            f"{missing[0]:,} of {run.sent.changes:,} and {missing[1]:,} of {run.sent.trades:,}",
            "0",
            any(missing),
        ),
        Row("windows valid", f"{valid:,} of {windows:,}", "all", valid < windows),
        Row("frame-to-book p50, ms", f"{p50:.2f}"),
        Row("frame-to-book p99, ms", f"{p99:.2f}", f"{MAX_P99_MS:g}", not p99 < MAX_P99_MS),
        Row("frame-to-book, longest, ms", f"{longest:.1f}"),
    ]
    late = run.sent.late.percentiles_ms(50, 99, 100)
    rows.append(Row("the exchange behind its schedule, p50/p99/max, ms", _list(late or [])))
    fleet = sorted(name for name in last.memory_mb if name.startswith(_COLLECTOR))
    # Together: what one allocator keeps for a while and another gives back is no growth.
    used = _memory(run.samples, fleet)
    grows = growth_mb_min(used)
    rows.append(
        Row(
            "memory of all collectors, MB: start, end, growth a minute",
            _list([used[0][1], used[-1][1], grows]),
            f"{MAX_GROWTH_MB_MIN:g} a minute",
            grows > MAX_GROWTH_MB_MIN,
        )
    )
    for name in sorted(last.memory_mb):
        used = _memory(run.samples, [name])
        measured = _list([used[0][1], used[-1][1], growth_mb_min(used)])
        rows.append(Row(f"memory of {name}, MB: start, end, growth a minute", measured))
    for name in sorted(last.cpu_s):
        used = (last.cpu_s[name] - first.cpu_s.get(name, 0.0)) / seconds
        rows.append(Row(f"cores used by {name}", f"{used:.2f}"))
    others = (last.others_cpu_s - first.others_cpu_s) / seconds
    rows.append(Row("cores used by what else runs on the machine", f"{others:.2f}"))
    rows.append(Row("load average, mean", f"{mean(s.load for s in run.samples):.1f}"))
    largest = max(sample.spool_bytes for sample in run.samples)
    rows.append(Row("spool, largest, MB", f"{largest / 1e6:.0f}"))
    rows.append(Row("under the root at the end, MB", f"{run.root_bytes / 1e6:.0f}"))
    return rows


def losses_of(last: list[CollectorStatus | str], gaps: list[str]) -> dict[str, int]:
    """Return how often anything was lost, or came twice, by what it was; empty if nothing was."""
    found: Counter[str] = Counter(f"gap in a manifest: {reason}" for reason in gaps)
    for status in last:
        if isinstance(status, str):
            found[f"no status: {status}"] += 1
            continue
        found.update({f"gap: {reason}": n for reason, n in status.gaps.items()})
        found.update({name: n for name, n in status.counts.items() if name not in _HARMLESS})
        found["left out of quarantine"] += status.quarantine_left_out
        for problem in status.problems:
            found[problem] += 1
        for connection in status.connections:
            found.update({f"lost with {code}": n for code, n in connection.disconnects.items()})
            found.update({f"error: {name}": n for name, n in connection.errors.items()})
        if status.spool and status.spool.last_error:
            found[status.spool.last_error] += 1
    return {name: n for name, n in found.items() if n}


def _memory(samples: list[Sample], names: list[str]) -> list[tuple[float, float]]:
    """Return (seconds, MB) of some processes together."""
    return [(s.at_s, sum(s.memory_mb.get(name, 0.0) for name in names)) for s in samples]


def growth_mb_min(samples: list[tuple[float, float]]) -> float:
    """Return how fast the least of each minute grows, from (seconds, MB): least squares, a minute.

    A segment of the spool comes and goes within a minute; what stays is what counts.
    """
    least: dict[int, tuple[float, float]] = {}
    for sample in samples:
        minute = int((sample[0] - samples[0][0]) // 60)
        least[minute] = min(least.get(minute, sample), sample, key=lambda one: one[1])
    lowest = list(least.values()) if len(least) > 2 else samples
    return linear_regression(*zip(*lowest, strict=True)).slope * 60


def table_of(rows: list[Row], where_it_was: str) -> str:
    """Return the rows as a Markdown table."""
    lines = [where_it_was, "", "| what | measured | limit |", "| --- | ---: | ---: |"]
    return "\n".join(lines + [f"| {row.what} | {row.measured} | {row.limit} |" for row in rows])


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:,.1f}" for value in values)
