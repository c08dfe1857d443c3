"""The stages of the pipeline, each from what lies under a root to what it leaves there.

`quaver demo` runs them one after the other, the other commands run one each.
"""

from pathlib import Path

import msgspec
import numpy as np
import ray

from actors.collector import CollectorSpec
from actors.fleet import CollectorActor
from actors.plan import in_one
from actors.raw import SIMULATED
from actors.store import Store
from cluster.config import Config
from cluster.progress import Stage
from cluster.session import LOCAL
from datasets.batches import Part
from datasets.imports import Imported, import_capture
from datasets.neighbours import check_before, with_nearest
from datasets.sample_cache import CachedSamples, OnFile, samples_under
from datasets.samples import Samples
from datasets.splits import split_by_time
from datasets.tardis import import_tardis
from market.errors import QuaverError
from market.products import UNIVERSE, Product, product
from sim.actor import ExchangeActor
from sim.exchange_config import ExchangeConfig
from tune.checkpoint import MODEL_FILE
from tune.results import SweepResult
from tune.run_folder import Splits, folder
from tune.sweep import SweepProgress, run_sweep

PRODUCT_IDS = tuple(listed.id for listed in UNIVERSE)
_POLL_S = 0.5
_HOUR_NS = 3_600 * 1_000_000_000


def import_files(
    store: Store,
    files: list[Path],
    wire_format: str,
    increments: dict[str, Product],
    stage: Stage,
) -> list[Imported]:
    """Import captures, one after the other."""
    done: list[Imported] = []
    if wire_format == "tardis":
        name = f"{files[0].name} and {len(files) - 1} more" if len(files) > 1 else files[0].name
        done.append(
            import_tardis(
                store,
                files,
                increments,
                lambda rows: stage.update(0, len(files), f"{name}: {rows:,} rows"),
            )
        )
        files = []
    for path in files:
        prefix = f"{path.name}: "
        stage.update(len(done), len(files), f"{prefix}reading")
        imported = import_capture(
            store,
            path,
            wire_format,
            increments,
            lambda frames, prefix=prefix: stage.update(
                len(done), len(files), f"{prefix}{frames:,} frames"
            ),
        )
        done.append(imported)
    frames, rows = sum(i.frames for i in done), sum(i.rows for i in done)
    stage.update(len(done), len(files), f"{frames:,} frames, {rows:,} events")
    return done


def collect_simulated(config: Config, store: Store, stage: Stage) -> int:
    """Record the demo's simulated market over a real websocket; return its last event time."""
    hours = config.demo.hours
    exchange = ExchangeActor.remote(
        ExchangeConfig(
            products=config.demo.products,
            market=config.demo.market,
            duration_s=hours * 3600,
            speed=None,
        )
    )
    url = ray.get(exchange.start.remote())
    connection = msgspec.structs.replace(config.connection, follow_end=True)
    spec = CollectorSpec(
        name="demo",
        url=url,
        groups=in_one([product(p) for p in config.demo.products]),
        root=store.root,
        source=f"{SIMULATED} exchange, seed {config.demo.market.seed}",
        connection=connection,
        spool=config.spool,
    )
    collector = CollectorActor.remote(spec)
    ray.get(collector.told.remote())  # Raises why, if it cannot collect.
    finished, exchange_over, start_ns = collector.finished.remote(), exchange.finished.remote(), 0
    while True:
        over, _ = ray.wait([finished], timeout=_POLL_S)
        if ray.wait([exchange_over], timeout=0)[0]:
            ray.get(exchange_over)  # Raises what broke it, which the collector would never know.
        status = ray.get(collector.status.remote())
        counts, clock_ns = status.counts, status.clock_ns
        start_ns = start_ns or clock_ns
        frames = sum(counts.get(name, 0) for name in ("l2_data", "market_trades", "heartbeats"))
        stage.update(
            (clock_ns - start_ns) / _HOUR_NS,
            hours,
            f"{frames:,} frames, {counts.get('valid windows', 0):,} valid windows, "
            f"{counts.get('gaps', 0)} gaps",
        )
        if over:
            break
    ray.get(finished)
    for actor in (collector, exchange):
        ray.kill(actor)
    return int(clock_ns)


def split_samples(
    store: Store, config: Config, on_file: OnFile = lambda done, of: None
) -> tuple[CachedSamples, Samples, Splits]:
    """Return the samples under a root and the parts that they are split into.

    Validation and test are of products of which train holds labelled samples: of others a model
    knows nothing, and live it does not trade them. QuaverError as from `CachedSamples.open` and
    `split_by_time`, and where the nearest coins that samples look at were worked out from beats of
    validation.
    """
    recipe = with_nearest(store, config.recipe)
    cached = samples_under(store, recipe)
    samples = cached.open(on_file)
    splits = split_by_time(samples.beat, config.split)
    check_before(store, recipe, int(samples.beat[splits["validation"]].min()))
    known = np.isin(samples.product, Part.of(samples, splits["train"]).products())
    for name in ("validation", "test"):
        splits[name] &= known
    return cached, samples, splits


def sweep(store: Store, config: Config, name: str, resume: bool, stage: Stage) -> SweepResult:
    """Train every variant of the space on the train split; the best is exported."""
    cached, samples, splits = split_samples(
        store, config, lambda done, of: stage.update(done, of, "copying samples to local disk")
    )

    def show(p: SweepProgress) -> None:
        best = "" if p.best_value_bps is None else f", best captures {p.best_value_bps:.2f} bp"
        note = f"{p.finished_trials} of {p.total_trials} trials done, {p.running_trials} run{best}"
        stage.update(p.finished_epochs, p.total_epochs, note)
        if p.warning:
            stage.say(p.warning)

    stage.update(0, 1, f"{int(samples.labelled.sum()):,} labelled samples")
    return run_sweep(
        cached,
        splits,
        config.sweep,
        name=name,
        store=store,
        products=PRODUCT_IDS,
        resume=resume,
        can_grow=config.ray_address != LOCAL,
        on_progress=show,
    )


def model_path(store: Store, name: str) -> str:
    """Return where the best model of a sweep lies; QuaverError if there is none."""
    path = f"{folder(name)}/best/{MODEL_FILE}"
    if not store.exists(path):
        raise QuaverError(
            f"there is no finished sweep {name!r} in {store.root}; "
            f"run quaver sweep --data {store.root} --name {name}"
        )
    return path
