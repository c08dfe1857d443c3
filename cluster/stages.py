"""The stages of the pipeline, each from what lies under a root to what it leaves there.

`quaver demo` runs them one after the other, the other commands run one each.
"""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import ray
from numpy.typing import NDArray
from rich.console import Console

from actors.collector import CollectorSpec
from actors.fleet import CollectorActor
from actors.plan import in_one
from actors.raw import SIMULATED, day_of, partitions, read_manifest
from actors.store import Store
from cluster.config import Config
from cluster.progress import Stage
from cluster.session import LOCAL
from datasets.batches import Part
from datasets.imports import Imported, import_capture
from datasets.neighbours import check_before, with_nearest
from datasets.recipe import differences
from datasets.sample_cache import CachedSamples, OnFile, samples_under
from datasets.samples import Samples
from datasets.splits import split_by_time
from datasets.tables import read_windows, stored
from datasets.tardis import import_tardis
from market.errors import QuaverError
from market.products import UNIVERSE, Product, product
from market.windows import BEAT_NS
from sim.actor import ExchangeActor
from sim.baselines import compare
from sim.exchange_config import ExchangeConfig
from sim.report import Data, ProductScore, ReportData, Sweep, Trial, metrics, render
from tune.baselines import FITTED, fitted, majority
from tune.checkpoint import MODEL_FILE, load_model
from tune.looks import look
from tune.run_folder import Splits, check_unseen, folder, trained_on
from tune.scoring import score
from tune.sweep import RESULTS_FILE, SweepProgress, SweepResult, run_sweep

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

    QuaverError as from `CachedSamples.open` and `split_by_time`, and where the nearest coins that
    samples look at were worked out from beats of validation.
    """
    recipe = with_nearest(store, config.recipe)
    cached = samples_under(store, recipe)
    samples = cached.open(on_file)
    splits = split_by_time(samples.beat, config.split)
    check_before(store, recipe, int(samples.beat[splits["validation"]].min()))
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


def judge(store: Store, config: Config, name: str, stage: Stage) -> ReportData:
    """Score the best model of a sweep on validation and test, and trade the test split with it.

    Beside it stand rules that take no skill and baselines trained here, on the same samples. That
    the model looks at the test split is noted first, see `tune.looks`.
    """
    content = store.read(model_path(store, name))
    model, meta = load_model(content, products=PRODUCT_IDS)
    cached, samples, splits = split_samples(store, config)
    if meta.recipe != cached.recipe:
        raise QuaverError(
            f"the model of sweep {name} was trained on other samples: "
            f"{differences(meta.recipe, cached.recipe)}; sweep again, under another name"
        )
    check_unseen(store, name, cached.recipe, samples, splits)
    train_part, validation_part = trained_on(samples, splits)
    test = Part(samples, np.flatnonzero(splits["test"]))
    if not len(validation_part):
        raise QuaverError("there is no labelled sample of validation; use a longer recording")
    others = {}
    for done, other in enumerate(FITTED, 1):
        stage.update(done, 6, f"training the baseline {other}")
        others[other] = fitted(other, train_part, validation_part)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    looks = look(store, Part.of(samples, splits["test"]), content, name, now)
    stage.update(3, 6, f"predicting {len(validation_part):,} and {len(test):,} samples")
    result = msgspec.json.decode(store.read(f"{folder(name)}/{RESULTS_FILE}"), type=SweepResult)
    best = next(trial for trial in result.trials if trial.name == result.best)
    softened = float(best.params.get("temperature_bps", config.sweep.train.temperature_bps))
    action = majority(train_part.column("label"))
    seen = score(model, meta, validation_part, action, others, softened)
    scored = score(model, meta, test, action, others, softened)
    stage.update(4, 6, "trading the test split")
    beats, of_product = (np.concatenate(list(test.column(c))) for c in ("beat", "product"))
    traded = {i: PRODUCT_IDS[i] for i in test.products()}  # As live trading does.
    windows = {p: _windows_between(store, p, beats.min(), beats.max() + 1) for p in traded.values()}
    by_product = {p: of_product == i for i, p in traded.items()}
    study = compare(
        windows,
        {p: (beats[mine], scored.values[mine]) for p, mine in by_product.items()},
        {p: product(p) for p in traded.values()},
        config.fees,
        config.trader,
    )
    stage.update(6, 6, f"{len(test):,} samples, {study.model.orders:,} orders")
    sources = _sources(store, list(traded.values()))
    return ReportData(
        name=name,
        created=now,
        data=Data(
            source=", ".join(sources),
            simulated=any(source.startswith(SIMULATED) for source in sources),
            products=list(traded.values()),
            first_beat=int(beats.min()),
            last_beat=int(beats.max()),
            windows=sum(len(w) for w in windows.values()),
            valid_windows=sum(int(w["valid"].sum()) for w in windows.values()),
            samples=len(test),
            labelled=scored.whole.samples if scored.whole else 0,
        ),
        score=scored.whole,
        validation=seen.whole,
        looks=looks,
        backtest=study,
        sweep=_sweep_section(result),
        products=[
            ProductScore(
                product=p,
                windows=len(windows[p]),
                valid_windows=int(windows[p]["valid"].sum()),
                samples=int(by_product[p].sum()),
                score=scored.products.get(i),
            )
            for i, p in traded.items()
        ],
        days=scored.days,
    )


def _windows_between(store: Store, product_id: str, first: int, last: int) -> NDArray[np.void]:
    days = [day for p, day in stored(store, "windows") if p == product_id]
    wanted = {day_of(first * BEAT_NS), day_of(last * BEAT_NS)}
    within = [d for d in days if min(wanted) <= d <= max(wanted)]
    if not within:
        raise QuaverError(
            f"there are samples but no windows of {product_id} in {store.root}; "
            f"run quaver build --data {store.root}"
        )
    windows = np.concatenate([read_windows(store, product_id, day) for day in within])
    return windows[(windows["beat"] >= first) & (windows["beat"] <= last)]


def _sources(store: Store, products: list[str]) -> list[str]:
    """Where the frames of these products came from, training's included."""
    found: set[str] = set()
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day) if product_id in products else None
        found |= {session.source for session in manifest.sessions} if manifest else set()
    return sorted(found) or ["unknown: the raw partitions are gone"]


def _sweep_section(result: SweepResult) -> Sweep:
    return Sweep(
        metric="validation value captured, bp",
        mode="max",
        winner=result.best,
        trials=[
            Trial(name=t.name, params=t.params, metrics=_shown(t.metrics) if t.metrics else {})
            for t in result.trials
        ],
    )


def _shown(metrics: msgspec.Struct) -> dict[str, float]:
    fields = msgspec.structs.asdict(metrics)
    return {k: float(v) for k, v in fields.items() if isinstance(v, int | float)}


def write_report_to(store: Store, report: ReportData) -> str:
    """Write reports/<name>/report.html and metrics.json; return where the page is."""
    folder = f"reports/{report.name}"
    store.write(f"{folder}/metrics.json", metrics(report))
    store.write(f"{folder}/report.html", render(report).encode())
    return f"{store.root}/{folder}/report.html"


def print_summary(report: ReportData, page: str, console: Console) -> None:
    """Print the few numbers that matter, each beside its zero-skill line, and where the page is."""
    score, study, live = report.score, report.backtest, report.live
    lines = []
    if score:
        lines.append(
            f"right choices   {score.accuracy:.1%}   majority {score.majority.accuracy:.1%}, "
            f"random {score.random.accuracy:.1%}, always NO_OP {score.no_op.accuracy:.1%}"
        )
        lines.append(
            f"value captured  {score.value_bps:.2f} bp a decision   NO_OP 0, "
            + "".join(f"{name} {each.value_bps:.2f}, " for name, each in score.others.items())
            + f"oracle {score.oracle_bps:.2f}"
        )
    if report.looks and report.looks.models > 1:
        lines.append(f"{report.looks.models} models have looked at this test split by now")
    if study:
        model = study.model
        lines.append(
            f"test backtest   {model.excess_usd:+,.2f} USD against holding, after "
            f"{model.fees_usd:,.2f} fees   buy-and-hold {study.buy_and_hold.excess_usd:+,.2f}, "
            f"label oracle {study.oracle.excess_usd:+,.2f}"
        )
    if live:
        lines.append(
            f"paper trading   {live.excess_usd:+,.2f} USD against holding, {live.beats} beats, "
            f"{live.orders} orders, {live.taker_fills + live.maker_fills} fills"
        )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if report.data.simulated:
        console.print("[dim]simulated market: these numbers are no claim of skill[/]")
    console.print(f"report: {page}", soft_wrap=True, highlight=False)
