"""`quaver record`: start the fleet or find it, show it, stop it with everything written."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from actors import fleet
from actors.collector import CollectorSpec
from actors.listing import fetch_products
from actors.plan import plan
from actors.raw import SIMULATED
from actors.status import CollectorStatus
from actors.store import Store
from cluster.config import LIVE_FEED, LIVE_REST, Config, grids
from cluster.record_view import Newest, Statuses, line, summary, table
from cluster.session import ray_session
from market.errors import QuaverError
from market.products import Product, product

_REFRESH_S = 0.5
_LINE_S = 10.0  # Between two lines where there is no terminal.
_LISTING_S = 10.0


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
    _say(console, f"starting Ray and the collectors ({len(specs)})")
    with _interrupts() as interrupted, ray_session(config.ray_address):
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
                _summarise(last, time.monotonic() - began, store.root, console)
            else:
                console.print("detached; the fleet goes on (quaver record --stop ends it)")


def run_stop(config: Config, console: Console) -> None:
    """Stop the fleet that runs in the Ray of `ray_address`."""
    if config.ray_address == "local":
        raise QuaverError(
            "--stop is for a fleet on a cluster; say where it is with --set ray_address=host:port"
        )
    with _interrupts(), ray_session(config.ray_address):
        actors = fleet.running()
        if not actors:
            raise QuaverError(f"no fleet runs in the Ray at {config.ray_address!r}")
        told = fleet.statuses(actors, _LISTING_S).values()
        began_ns = min((s.started_ns for s in told if isinstance(s, CollectorStatus)), default=0)
        since_s = (time.time_ns() - began_ns) / 1e9 if began_ns else 0.0
        _summarise(fleet.stop(actors), since_s, "its data root", console)


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
    """Turn Ctrl-C and SIGTERM into an event: however often they come, stopping is not cut short.

    Nor is Ray, whose processes would be left behind.
    """
    interrupted = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(
    actors: dict[str, object], root: str, interrupted: threading.Event, console: Console
) -> None:
    """Show the fleet until it is interrupted or its market has ended."""
    newest, began, said_s, problems = Newest(), time.monotonic(), 0.0, set[str]()
    with Live(console=console, refresh_per_second=2, transient=False) as display:
        while not interrupted.wait(_REFRESH_S):
            statuses = fleet.statuses(actors, _REFRESH_S)
            alive = [s for s in statuses.values() if isinstance(s, CollectorStatus)]
            lately, elapsed_s = newest.of(statuses), time.monotonic() - began
            for status in alive:
                for problem in set(status.problems) - problems:
                    problems.add(problem)
                    _say(console, f"[bold red]{status.name}:[/] {escape(problem)}")
            if console.is_terminal:
                display.update(table(statuses, lately, elapsed_s, root))
            elif elapsed_s - said_s >= _LINE_S or not said_s:
                said_s = elapsed_s
                _say(console, line(statuses, lately, elapsed_s))
            if alive and len(alive) == len(actors) and all(s.ended for s in alive):
                return


def _summarise(last: Statuses, elapsed_s: float, root: str, console: Console) -> None:
    for text in summary(last, elapsed_s, root):
        _say(console, text)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False)
