"""What `quaver record` shows of a fleet: a table, a line where there is no terminal, a summary."""

import time
from collections import Counter, deque
from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from actors.connection import ConnectionState
from actors.latency import Latency
from actors.status import CollectorStatus

_FAR_MS = 100_000.0
_LATELY_S = 10.0
_STALE = 3  # Products shown, those with the oldest rows.
_TROUBLES = 3
_WELL = (ConnectionState.STREAMING, ConnectionState.CLOSED_BY_VENUE, ConnectionState.STOPPED)

Statuses = dict[str, CollectorStatus | str]  # By collector: its status, or why there is none.


class Lately(NamedTuple):
    """What a collector did in the last seconds."""

    updates_per_s: float
    latency: Latency


class Newest:
    """The statuses of the last ten seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, CollectorStatus]]] = deque()

    def of(self, statuses: Statuses) -> dict[str, Lately]:
        """Return what each collector did that answered now and before, in one process."""
        now = time.monotonic()
        while self._seen and self._seen[0][0] < now - _LATELY_S:
            self._seen.popleft()
        alive = {n: s for n, s in statuses.items() if isinstance(s, CollectorStatus)}
        found = {}
        for name, status in alive.items():
            for at_s, then in self._seen:
                before = then.get(name)
                if before and before.pid == status.pid:
                    per_s = (status.updates - before.updates) / max(1e-3, now - at_s)
                    found[name] = Lately(per_s, status.latency.since(before.latency))
                    break
        self._seen.append((now, alive))
        return found


def table(statuses: Statuses, lately: dict[str, Lately], elapsed_s: float, root: str) -> Table:
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
            f"{lately[name].updates_per_s if name in lately else 0:,.0f}",
            _latency(lately.get(name)),
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


def line(statuses: Statuses, lately: dict[str, Lately], elapsed_s: float) -> str:
    """Return the state of the fleet in one line."""
    alive = _alive(statuses)
    away = [f"{name} {status}" for name, status in statuses.items() if isinstance(status, str)]
    synced, products = sum(s.synced for s in alive), sum(len(s.products) for s in alive)
    latency = Latency.sum(one.latency for one in lately.values()).percentiles_ms(99)
    spools = [s.spool for s in alive if s.spool]
    return ", ".join(
        [
            f"{_clock(elapsed_s)} {synced}/{products} books",
            f"{sum(one.updates_per_s for one in lately.values()):,.0f} updates/s",
            f"p99 {_ms(latency[0]) if latency else '-'} ms",
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


def _latency(lately: Lately | None) -> str:
    found = lately.latency.percentiles_ms(50, 99) if lately else None
    return f"{_ms(found[0])}/{_ms(found[1])}" if found else "-"


def _ms(latency_ms: float) -> str:
    """Show milliseconds; a replayed market's clock may be years from ours."""
    return f"{latency_ms:.0f}" if latency_ms < _FAR_MS else "far"


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
