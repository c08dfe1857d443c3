"""What `quaver record` shows of a fleet: a table, a line where there is no terminal, a summary."""

import time
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from actors.connection import ConnectionState
from actors.status import CollectorStatus

_FAR_MS = 100_000.0
_STALE = 3  # Products shown, those with the oldest rows.
_TROUBLES = 3
_WELL = (ConnectionState.STREAMING, ConnectionState.CLOSED_BY_VENUE, ConnectionState.STOPPED)

Statuses = dict[str, CollectorStatus | str]  # By collector: its status, or why there is none.


class _Seen(NamedTuple):
    at_s: float
    updates: dict[str, tuple[int, int]]  # By collector: its process and what it had counted.


class Rates:
    """Updates a second, from one status to the next."""

    def __init__(self) -> None:
        self._last = _Seen(time.monotonic(), {})

    def of(self, statuses: Statuses) -> dict[str, float]:
        """Return the rate of each collector that answered now and before, in one process."""
        now = time.monotonic()
        alive = {n: s for n, s in statuses.items() if isinstance(s, CollectorStatus)}
        seen = {name: (status.pid, status.updates) for name, status in alive.items()}
        before = self._last.updates
        elapsed_s = max(1e-3, now - self._last.at_s)
        self._last = _Seen(now, before | seen)
        return {
            name: (updates - before[name][1]) / elapsed_s
            for name, (pid, updates) in seen.items()
            if name in before and before[name][0] == pid
        }


def table(statuses: Statuses, per_s: dict[str, float], elapsed_s: float, root: str) -> Table:
    """Return the live table, within 80 columns."""
    shown = Table(title=f"{_clock(elapsed_s)}  {escape(root)}", box=None, padding=(0, 1, 0, 0))
    shown.add_column("collector", no_wrap=True)
    shown.add_column("state", width=13)
    for name in ("books", "upd/s", "p50/p99 ms", "gaps", "written", "spool"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, status in statuses.items():
        if isinstance(status, str):
            shown.add_row(name, escape(status))
            continue
        spool = status.spool
        shown.add_row(
            name,
            _state(status),
            f"{status.synced}/{len(status.products)}",
            f"{per_s.get(name, 0.0):,.0f}",
            _latency(status),
            str(sum(status.gaps.values())),
            _size(spool.moved_bytes) if spool else "-",
            _size(spool.spool_bytes) if spool else "-",
        )
    alive = _alive(statuses)
    shown.caption = "\n".join(
        [
            f"gaps: {_counts(s.gaps for s in alive)}   errors: {_counts(s.errors for s in alive)}",
            f"oldest: {_stalest(alive)}",
            *(f"[yellow]{escape(trouble)}[/]" for trouble in _troubles(alive)),
        ]
    )
    shown.caption_justify = "left"
    return shown


def line(statuses: Statuses, per_s: dict[str, float], elapsed_s: float) -> str:
    """Return the state of the fleet in one line."""
    alive = _alive(statuses)
    away = [f"{name} {status}" for name, status in statuses.items() if isinstance(status, str)]
    synced, products = sum(s.synced for s in alive), sum(len(s.products) for s in alive)
    p99 = max((s.latency.p99_ms for s in alive if s.latency.p99_ms is not None), default=None)
    spools = [s.spool for s in alive if s.spool]
    return ", ".join(
        [
            f"{_clock(elapsed_s)} {synced}/{products} books",
            f"{sum(per_s.values()):,.0f} updates/s",
            f"p99 {'-' if p99 is None else _ms(p99)} ms",
            f"gaps: {_counts(s.gaps for s in alive)}",
            f"errors: {_counts(s.errors for s in alive)}",
            f"written {_size(sum(spool.moved_bytes for spool in spools))}",
            f"spool {_size(sum(spool.spool_bytes for spool in spools))}",
            *_troubles(alive),
            *away,
        ]
    )


def summary(last: Statuses, elapsed_s: float, root: str) -> list[str]:
    """Say in lines what was recorded, and what is not under the root yet."""
    alive = _alive(last)
    rows, products = sum(s.rows for s in alive), sum(len(s.products) for s in alive)
    said = [
        f"recorded {rows:,} rows of {products} products in {_clock(elapsed_s)}; "
        f"gaps: {_counts(s.gaps for s in alive)}; {escape(root)}"
    ]
    for status in alive:
        if status.spool and status.spool.last_error:
            said.append(f"[bold yellow]{status.name}:[/] {escape(status.spool.last_error)}")
    for name, status in last.items():
        if isinstance(status, str):
            why = escape(status)
            said.append(f"[bold red]{name}:[/] {why}; the next start finishes its spool")
    return said


def _alive(statuses: Statuses) -> list[CollectorStatus]:
    return [status for status in statuses.values() if isinstance(status, CollectorStatus)]


def _state(status: CollectorStatus) -> str:
    if status.ended:
        return "ended"
    if status.overflowing:
        return "no room"
    states = Counter(connection.state.value for connection in status.connections)
    (state, times), *others = states.most_common()
    return f"{times}/{states.total()} {state}" if others else state


def _troubles(alive: list[CollectorStatus]) -> list[str]:
    """Say what the collectors struggle with at this moment, each thing once."""
    whose: dict[str, list[str]] = {}
    for status in alive:
        told = [c.last_error for c in status.connections if c.state not in _WELL]
        told.append(status.spool.last_error if status.spool else None)
        for trouble in filter(None, told):
            whose.setdefault(trouble, []).append(status.name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {trouble}"
        for trouble, names in list(whose.items())[:_TROUBLES]
    ]


def _latency(status: CollectorStatus) -> str:
    p50, p99 = status.latency.p50_ms, status.latency.p99_ms
    return "-" if p50 is None or p99 is None else f"{_ms(p50)}/{_ms(p99)}"


def _ms(latency_ms: float) -> str:
    """Show milliseconds; a replayed market's clock may be years from ours."""
    return f"{latency_ms:.0f}" if abs(latency_ms) < _FAR_MS else "far"


def _counts(counted: Iterable[dict[str, int]]) -> str:
    total: Counter[str] = Counter()
    for counts in counted:
        total.update(counts)
    return ", ".join(f"{what} {n:,}" for what, n in total.most_common()) or "none"


def _stalest(alive: list[CollectorStatus]) -> str:
    """Name the products whose newest row is oldest, and those that are not collected any more."""
    ages = [
        ((status.at_ns - p.recv_ns) / 1e9 if p.recv_ns else float("inf"), name)
        for status in alive
        for name, p in status.products.items()
        if p.broken is None
    ]
    broken = [name for status in alive for name, p in status.products.items() if p.broken]
    oldest = sorted(ages, reverse=True)[:_STALE]
    shown = [f"{name} {'never' if age == float('inf') else f'{age:.0f} s'}" for age, name in oldest]
    return ", ".join(shown + [f"{name} BROKEN" for name in broken]) or "-"


def _size(n: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= factor:
            return f"{n / factor:,.1f} {unit}"
    return f"{n} B"


def _clock(elapsed_s: float) -> str:
    return str(timedelta(seconds=int(elapsed_s)))
