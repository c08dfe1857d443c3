"""Serving a model: the Serve application beside a collector whose windows it trades on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import numpy as np
import ray
import requests
from rich.console import Console
from rich.live import Live as LiveDisplay
from rich.table import Table

from actors.collector import CollectorSpec
from actors.fleet import NAMESPACE, CollectorActor
from actors.plan import in_one
from actors.raw import SIMULATED
from actors.store import Store
from cluster.config import Config
from cluster.progress import Stage
from cluster.session import ray_session
from cluster.stages import PRODUCT_IDS, model_path
from datasets.recipe import differences
from datasets.samples import Samples
from market.actions import Action
from market.errors import QuaverError
from market.features import LOOKBACK_BEATS
from market.products import product
from serve_app import app
from serve_app.execution_config import ExecutionConfig
from sim.actor import ExchangeActor
from sim.exchange_config import ExchangeConfig
from sim.report import Live
from tune.checkpoint import ModelMeta, load_model
from tune.evaluate import predict

_COLLECTOR = "collector"
_POLL_S = 0.5
_TIMEOUT_S = 10.0
_STALLED_S = 60.0
_CHECKED_SAMPLES = 50


class Serving(NamedTuple):
    """A running application."""

    url: str
    collector: Any  # Handle of the collector's actor.


@contextmanager
def serving(
    config: Config,
    store: Store,
    name: str,
    feed_url: str,
    products: tuple[str, ...],
    ports: app.Ports,
    *,
    record: bool = False,
) -> Iterator[Serving]:
    """Collect a feed and trade it on paper with the best model of a sweep.

    Ray must have been started with `app.ray_environment(ports)`.
    """
    model = store.read(model_path(store, name))
    _, meta = load_model(model, products=PRODUCT_IDS)
    spec = CollectorSpec(
        name=_COLLECTOR,
        url=feed_url,
        groups=in_one([product(p) for p in collected(config, meta, products)]),
        wire_format=config.wire_format,
        root=store.root if record else None,
        connection=config.connection,
        spool=config.spool,
        quarantine=config.quarantine,
    )
    collector = CollectorActor.options(name=_COLLECTOR, namespace=NAMESPACE).remote(spec)
    execution = ExecutionConfig(
        products=products,
        trader=config.trader,
        fees=config.fees,
        source=_COLLECTOR,
        source_namespace=NAMESPACE,
        external_root=store.root,
    )
    try:
        ray.get(collector.told.remote())  # Raises why, if it cannot collect.
        yield Serving(app.start(model, execution, ports), collector)
    finally:
        # The recording first: an impatient second Ctrl-C must not cost it.
        ray.get(collector.stop.remote())
        app.stop()
        ray.kill(collector)


def collected(config: Config, meta: ModelMeta, products: tuple[str, ...]) -> tuple[str, ...]:
    """Return the products to collect for those traded: also those that the model looks at.

    A simulated market has no others than its own.
    """
    looked_at = {name for p in products for name in meta.recipe.references_of(p) if name}
    if config.feed_url == SIMULATED:
        looked_at &= set(config.demo.products)
    return (*products, *sorted(looked_at - set(products)))


def run_serve(config: Config, store: Store, name: str, record: bool, console: Console) -> None:
    """Serve and trade until Ctrl-C or until collecting fails, showing what happens."""
    if record and config.feed_url == SIMULATED:
        raise QuaverError("--record is for a venue's feed: what is simulated is not worth keeping")
    _, meta = load_model(store.read(model_path(store, name)), products=PRODUCT_IDS)
    made_by = msgspec.structs.replace(meta.recipe, nearest={})
    if made_by != config.recipe:
        raise QuaverError(
            f"the model of sweep {name} was trained with other settings than the configuration's: "
            f"{differences(made_by, config.recipe)}; set them as they were, or sweep again"
        )
    wanted = config.demo.products if config.feed_url == SIMULATED else config.products
    if not (traded := tuple(p for p in wanted if p in meta.trained)):
        raise QuaverError(
            f"the model of sweep {name} was trained for {', '.join(meta.trained)}, "
            "none of which is in `products`"
        )
    if left_out := [p for p in wanted if p not in traded]:
        console.print(
            f"trading {', '.join(traded)}; {len(left_out)} other products of the configuration are "
            "unknown to the model",
            soft_wrap=True,
        )
    if watched := collected(config, meta, traded)[len(traded) :]:
        names = ", ".join(watched)
        console.print(f"watching {names} too: the model looks at them", soft_wrap=True)
    ports = app.free_ports(config.serve.port)
    console.print(f"starting; windows come from {config.feed_url}", soft_wrap=True)
    with (
        ray_session(config.ray_address, app.ray_environment(ports)),
        _feed(config) as url,
        serving(config, store, name, url, traded, ports, record=record) as running,
        LiveDisplay(console=console, refresh_per_second=2) as display,
    ):
        if not console.is_terminal:
            console.print(f"serving on {running.url}", soft_wrap=True, highlight=False)
        over = running.collector.finished.remote()
        while not ray.wait([over], timeout=_POLL_S)[0]:
            display.update(_table(running))
        ray.get(over)


@contextmanager
def _feed(config: Config) -> Iterator[str]:
    """Yield the feed's address; the simulated market is started and stopped here."""
    if config.feed_url != SIMULATED:
        yield config.feed_url
        return
    # Its time starts now and runs ahead of ours, so that no window is ever too old to trade on.
    exchange = ExchangeActor.remote(
        ExchangeConfig(
            products=config.demo.products,
            market=config.demo.market,
            start_ns=time.time_ns(),
            speed=config.demo.live_speed,
        )
    )
    try:
        yield ray.get(exchange.start.remote())
    finally:
        ray.kill(exchange)


def trade_simulated(
    config: Config, store: Store, name: str, test: Samples, ports: app.Ports, stage: Stage
) -> tuple[Live, int]:
    """Trade the demo's simulated market on paper, and check HTTP predictions against the model.

    Returns what was traded and how many predictions were checked.
    """
    stage.update(0, 1, "starting the exchange, the collector and Serve")
    config = msgspec.structs.replace(config, feed_url=SIMULATED)
    with (
        _feed(config) as url,
        serving(config, store, name, url, config.demo.products, ports) as running,
    ):
        checked = _check_predictions(running.url, store, name, test)
        health = _wait_for_beats(running, config, stage)
        return _live(health, _answer(running.url, "/v1/positions"), config), checked


def _check_predictions(url: str, store: Store, name: str, test: Samples) -> int:
    """Ask for predictions over HTTP; they must be those of the model itself."""
    model, _ = load_model(store.read(model_path(store, name)), products=PRODUCT_IDS)
    mask = np.zeros(len(test), bool)
    mask[:: max(1, len(test) // _CHECKED_SAMPLES)] = True
    asked = test.select(mask)
    body = {
        "samples": [
            {"product": PRODUCT_IDS[p], "medians": m, "bids": b, "asks": a, "signals": s}
            for p, m, b, a, s in zip(
                asked.product.tolist(),
                asked.medians.tolist(),
                asked.bids.tolist(),
                asked.asks.tolist(),
                asked.signals.tolist(),
                strict=True,
            )
        ]
    }
    answer = requests.post(f"{url}/v1/predict", json=body, timeout=_TIMEOUT_S)
    answer.raise_for_status()
    served = [[p["values"][a.name] for a in Action] for p in answer.json()["predictions"]]
    if not np.allclose(served, predict(model, asked), rtol=1e-4, atol=1e-3):
        raise QuaverError("the served predictions are not those of the model; this is a bug")
    return len(asked)


def _wait_for_beats(running: Serving, config: Config, stage: Stage) -> dict[str, Any]:
    """Wait until enough beats were decided on; QuaverError if the market or trading stalls."""
    products, wanted = len(config.demo.products), config.demo.live_beats
    seen, seen_at = -1, time.monotonic()
    while True:
        health = _answer(running.url, "/health")["execution"]
        decided = health["predictions"] // products
        warm_up = min(health["beats"], LOOKBACK_BEATS)
        note = (
            f"{decided} beats traded, {health['orders']} orders, {health['fills']} fills"
            if decided
            else f"filling five minutes of features, beat {health['beats']}"
        )
        stage.update(warm_up + decided, LOOKBACK_BEATS + wanted, note)
        if decided >= wanted:
            return dict(health)
        if health["beats"] > seen:
            seen, seen_at = health["beats"], time.monotonic()
        if time.monotonic() - seen_at > _STALLED_S:
            status = ray.get(running.collector.status.remote())
            raise QuaverError(f"no beat came for {_STALLED_S:.0f} s: {health}, collector {status}")
        time.sleep(_POLL_S)


def _live(health: dict[str, Any], positions: dict[str, Any], config: Config) -> Live:
    latency = health["decision_latency_ms"]
    equity, deposited, held = (
        float(positions[key]) for key in ("equity_usd", "deposited_usd", "held_usd")
    )
    return Live(
        simulated=True,
        beats=health["predictions"] // len(config.demo.products),
        predictions=health["predictions"],
        orders=health["orders"],
        taker_fills=health["taker_fills"],
        maker_fills=health["maker_fills"],
        blocked=health["blocked"],
        positions={p: row["net_units"] for p, row in positions["products"].items()},
        equity_usd=equity,
        profit_usd=equity - deposited,
        excess_usd=equity - held,
        latency_ms={key: latency[key] for key in ("p50", "p99", "max")},
    )


def _table(running: Serving) -> Table:
    health, positions = _get(running.url, "/health"), _get(running.url, "/v1/positions")
    status = ray.get(running.collector.status.remote())
    counts, states = status.counts, [c.state.value for c in status.connections]
    errors = [c.last_error for c in status.connections if c.last_error]
    table = Table(title=f"{running.url}  (paper account; Ctrl-C stops)", show_header=False)
    table.add_row(
        "feed",
        f"{', '.join(states)}; {status.synced} of {len(status.products)} books "
        f"synced; {counts.get('gaps', 0)} gaps, {counts.get('corrupt', 0)} corrupt; last error: "
        f"{errors[0] if errors else 'none'}",
    )
    table.add_row(
        "windows",
        f"{counts.get('windows', 0):,}, valid {counts.get('valid windows', 0):,}, lost to slow "
        f"trading {counts.get('items dropped for a slow consumer', 0)}",
    )
    if health is None or positions is None:
        table.add_row("trading", "no answer")
        return table
    trading = health["execution"]
    table.add_row(
        "trading",
        f"{trading['stream']['state']}; {trading['beats']} beats, {trading['predictions']:,} "
        f"predictions, {trading['orders']} orders, {trading['fills']} fills; last error: "
        f"{trading['last_error'] or 'none'}",
    )
    blocked = ", ".join(f"{limit} {n}" for limit, n in trading["blocked"].items())
    table.add_row("blocked", blocked or "nothing")
    equity, held = float(positions["equity_usd"]), float(positions["held_usd"])
    table.add_row("equity", f"{equity:,.2f} USD ({equity - held:+,.2f} against holding)")
    return table


def _answer(url: str, path: str) -> dict[str, Any]:
    """Ask until there is an answer; QuaverError if none comes for a minute."""
    until = time.monotonic() + _STALLED_S
    while (answer := _get(url, path)) is None:
        if time.monotonic() > until:
            raise QuaverError(f"{url}{path} has not answered for {_STALLED_S:.0f} s")
        time.sleep(_POLL_S)
    return answer


def _get(url: str, path: str) -> dict[str, Any] | None:
    """Ask the application; None if it does not answer, which it may not under load."""
    try:
        answer = requests.get(f"{url}{path}", timeout=_TIMEOUT_S)
        content = answer.json()
    except requests.RequestException:
        return None
    said = dict(content)
    return None if answer.status_code != 200 or "error" in said.get("execution", said) else said
