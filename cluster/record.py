"""`quaver record`: start the fleet or find it, show it, stop it with everything written."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from actors import fleet
from actors.collector import CollectorSpec
from actors.listing import fetch_products
from actors.plan import plan
from actors.raw import SIMULATED
from actors.status import CollectorStatus
from actors.store import Store
from cluster.config import LIVE_FEED, LIVE_REST, Config, grids
from cluster.session import ray_session
from market.errors import QuaverError
from market.products import Product, product

_REFRESH_S = 0.5
_LINE_S = 10.0  # Between two lines where there is no terminal.
_LISTING_S = 10.0
_FAR_MS = 100_000.0
_STALE = 3  # Products shown, those with the oldest rows.

Statuses = dict[str, CollectorStatus | str]


def run_record(config: Config, store: Store, console: Console) -> None:
    """Record until Ctrl-C or the market's end.

    The command that started the fleet stops it; one that found it running leaves it so.
    """
    if config.feed_url == SIMULATED:
        raise QuaverError("what is simulated is not worth keeping; give --feed a websocket")
    if why := store.check():
        _say(console, f"[bold yellow]warning:[/] {store.root} is away: {escape(why)}; what is "
             "received waits in the spool")  # fmt: skip
    specs = specs_of(config, store.root, listed_products(config, console))
    with ray_session(config.ray_address), _interrupts() as interrupted:
        running = fleet.start(specs)
        if not running.started:
            console.print("a fleet that records this runs already; Ctrl-C leaves it running")
        began = time.monotonic()
        try:
            _show(running.actors, store.root, interrupted, console)
        finally:
            if running.started:
                console.print("stopping; what was received is being written", highlight=False)
                last = fleet.stop(running.actors)
                _summary(last, time.monotonic() - began, store.root, console)
            else:
                console.print("detached; the fleet goes on (quaver record --stop ends it)")


def run_stop(config: Config, console: Console) -> None:
    """Stop the fleet that runs in the Ray of `ray_address`."""
    if config.ray_address == "local":
        raise QuaverError(
            "--stop is for a fleet on a cluster; say where it is with --set ray_address=host:port"
        )
    with ray_session(config.ray_address), _interrupts():
        actors = fleet.running()
        if not actors:
            raise QuaverError(f"no fleet runs in the Ray at {config.ray_address!r}")
        told = fleet.statuses(actors, _LISTING_S).values()
        began_ns = min((s.started_ns for s in told if isinstance(s, CollectorStatus)), default=0)
        since_s = (time.time_ns() - began_ns) / 1e9 if began_ns else 0.0
        _summary(fleet.stop(actors), since_s, "its data root", console)


def listed_products(config: Config, console: Console) -> tuple[Product, ...]:
    """Return the configured products as the venue lists them; say what is left out, and why.

    Those whose increments are configured are not asked for.
    """
    given = grids(config)
    ours = tuple(given[p] for p in config.products if p in given)
    others = [p for p in config.products if p not in given]
    return (*ours, *_listed(config, others, console)) if others else ours


def _listed(config: Config, wanted: list[str], console: Console) -> tuple[Product, ...]:
    rest_url = config.rest_url or (LIVE_REST if config.feed_url == LIVE_FEED else "")
    if not rest_url:
        _say(console, "increments: the built-in table, as rest_url is not set for this feed")
        return tuple(product(product_id) for product_id in wanted)
    try:
        listing = fetch_products(rest_url, wanted, _LISTING_S)
    except QuaverError as e:
        _say(console, f"[bold yellow]warning:[/] {escape(str(e))}; going on with that")
        return tuple(product(product_id) for product_id in wanted)
    for product_id, why in listing.left_out.items():
        _say(console, f"[bold yellow]{product_id} is left out:[/] {escape(why)}")
    for product_id, how in listing.changed.items():
        _say(console, f"increments of {product_id} are not the table's: {how}")
    if not listing.products:
        raise QuaverError(f"none of the configured products can be recorded from {rest_url}")
    return tuple(listing.products)


def specs_of(config: Config, root: str, products: tuple[Product, ...]) -> list[CollectorSpec]:
    """Return what each collector of the fleet is told to do."""
    return [
        CollectorSpec(
            name=fleet.name_of(place),
            url=config.feed_url,
            groups=groups,
            wire_format=config.wire_format,
            root=root,
            connection=config.connection,
            spool=config.spool,
            quarantine=config.quarantine,
        )
        for place, groups in enumerate(plan(products, config.fleet))
    ]


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event: however often they come, stopping is not cut short."""
    interrupted = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _show(
    actors: dict[str, object], root: str, interrupted: threading.Event, console: Console
) -> None:
    """Show the fleet until it is interrupted or its market has ended."""
    rates, began, said_s, problems = Rates(), time.monotonic(), 0.0, set[str]()
    with Live(console=console, refresh_per_second=2, transient=False) as display:
        while not interrupted.wait(_REFRESH_S):
            statuses = fleet.statuses(actors, _REFRESH_S)
            alive = [s for s in statuses.values() if isinstance(s, CollectorStatus)]
            per_s, elapsed_s = rates.of(statuses), time.monotonic() - began
            for status in alive:
                for problem in set(_problems(status)) - problems:
                    problems.add(problem)
                    _say(console, f"[bold red]{status.name}:[/] {escape(problem)}")
            if console.is_terminal:
                display.update(table(statuses, per_s, elapsed_s, root))
            elif elapsed_s - said_s >= _LINE_S or not said_s:
                said_s = elapsed_s
                _say(console, line(statuses, per_s, elapsed_s))
            if alive and len(alive) == len(actors) and all(s.ended for s in alive):
                return


def _problems(status: CollectorStatus) -> list[str]:
    why = status.spool.last_error if status.spool else None
    return [*status.problems, *([why] if why else [])]


def table(statuses: Statuses, per_s: dict[str, float], elapsed_s: float, root: str) -> Table:
    """Return the live table, within 80 columns."""
    shown = Table(title=f"{_clock(elapsed_s)}  {root}", box=None, padding=(0, 1, 0, 0))
    shown.add_column("collector")
    shown.add_column("state", width=13)
    for name in ("books", "upd/s", "p50/p99 ms", "gaps", "rows", "spool", "buffer"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, status in statuses.items():
        if isinstance(status, str):
            shown.add_row(name, status)
            continue
        spool = status.spool
        shown.add_row(
            name,
            _state(status),
            f"{status.synced}/{len(status.products)}",
            f"{per_s.get(name, 0.0):,.0f}",
            _latency(status),
            str(sum(status.gaps.values())),
            _count(status.rows),
            _size(spool.spool_bytes) if spool else "-",
            _count(spool.buffered_rows) if spool else "-",
        )
    alive = [s for s in statuses.values() if isinstance(s, CollectorStatus)]
    shown.caption = f"gaps: {_gaps(alive)}\noldest: {_stalest(alive)}"
    return shown


def line(statuses: Statuses, per_s: dict[str, float], elapsed_s: float) -> str:
    """Return the state of the fleet in one line."""
    alive = [s for s in statuses.values() if isinstance(s, CollectorStatus)]
    away = [f"{name} {status}" for name, status in statuses.items() if isinstance(status, str)]
    synced, products = sum(s.synced for s in alive), sum(len(s.products) for s in alive)
    p99 = max((s.latency.p99_ms for s in alive if s.latency.p99_ms is not None), default=None)
    waiting = sum(s.spool.spool_bytes for s in alive if s.spool)
    return ", ".join(
        [
            f"{_clock(elapsed_s)} {synced}/{products} books",
            f"{sum(per_s.values()):,.0f} updates/s",
            f"p99 {'-' if p99 is None else _ms(p99)} ms",
            f"gaps: {_gaps(alive)}",
            f"{sum(s.rows for s in alive):,} rows",
            f"spool {_size(waiting)}",
            *away,
        ]
    )


def _summary(last: Statuses, elapsed_s: float, root: str, console: Console) -> None:
    """Say what was recorded, and what is not under the root yet."""
    alive = [s for s in last.values() if isinstance(s, CollectorStatus)]
    rows, products = sum(s.rows for s in alive), sum(len(s.products) for s in alive)
    _say(
        console,
        f"recorded {rows:,} rows of {products} products in {_clock(elapsed_s)}; gaps: "
        f"{_gaps(alive)}; {root}",
    )
    for status in alive:
        if status.spool and status.spool.last_error:
            _say(console, f"[bold yellow]{status.name}:[/] {status.spool.last_error}")
    for name, status in last.items():
        if isinstance(status, str):
            _say(console, f"[bold red]{name}:[/] {status}; the next start finishes its spool")


def _state(status: CollectorStatus) -> str:
    if status.ended:
        return "ended"
    if status.overflowing:
        return "no room"
    states = Counter(connection.state.value for connection in status.connections)
    (state, times), *others = states.most_common()
    return f"{times}/{states.total()} {state}" if others else state


def _latency(status: CollectorStatus) -> str:
    p50, p99 = status.latency.p50_ms, status.latency.p99_ms
    return "-" if p50 is None or p99 is None else f"{_ms(p50)}/{_ms(p99)}"


def _ms(latency_ms: float) -> str:
    """Show milliseconds; a replayed market's clock may be years from ours."""
    return f"{latency_ms:.0f}" if abs(latency_ms) < _FAR_MS else "far"


def _gaps(alive: list[CollectorStatus]) -> str:
    total: Counter[str] = Counter()
    for status in alive:
        total.update(status.gaps)
    return ", ".join(f"{reason} {n:,}" for reason, n in total.most_common()) or "none"


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


def _count(n: int) -> str:
    return f"{n:,}" if n < 1_000_000 else f"{n / 1e6:,.1f} M"


def _size(n: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= factor:
            return f"{n / factor:,.1f} {unit}"
    return f"{n} B"


def _clock(elapsed_s: float) -> str:
    return str(timedelta(seconds=int(elapsed_s)))


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False)
