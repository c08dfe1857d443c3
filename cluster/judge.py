"""`quaver report`: the best model of a sweep judged on test, and traded there."""

from datetime import UTC, datetime

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from actors.raw import SIMULATED, day_of, partitions, read_manifest
from actors.store import Store
from cluster.config import Config
from cluster.progress import Stage
from cluster.stages import PRODUCT_IDS, model_path, split_samples
from datasets.batches import Part
from datasets.recipe import differences
from datasets.tables import read_windows, stored
from market.errors import QuaverError
from market.products import product
from market.windows import BEAT_NS
from sim.baselines import compare
from sim.report import Data, ProductScore, ReportData, Sweep, Trial, metrics, render
from tune.baselines import FITTED, fitted, majority
from tune.checkpoint import load_model
from tune.looks import look
from tune.objectives import check_edge
from tune.results import RESULTS_FILE, SweepResult
from tune.run_folder import check_unseen, folder, trained_on
from tune.scoring import PartScore, score
from tune.search import configured
from tune.training import EpochMetrics

# Of each trial; results.json has all.
_SHOWN = ("best_value_bps", "best_epoch", "epoch", "validation_loss")


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
    identity = check_unseen(store, name, cached.recipe, samples, splits)
    train_part, validation_part = trained_on(samples, splits)
    test = Part(samples, np.flatnonzero(splits["test"]))
    if not len(validation_part):
        raise QuaverError("there is no labelled sample of validation; use a longer recording")
    if not len(test):
        raise QuaverError(
            "test holds no sample of a product that train knows; use a longer recording"
        )
    check_edge(meta.objective, config.trader.min_edge_bps)
    others = {}
    for done, other in enumerate(FITTED, 1):
        stage.update(done, 6, f"training the baseline {other}")
        others[other] = fitted(other, train_part, validation_part)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    looks = look(store, test, content, config.trader, name, now)
    stage.update(3, 6, f"predicting {len(validation_part):,} and {len(test):,} samples")
    result = msgspec.json.decode(store.read(f"{folder(name)}/{RESULTS_FILE}"), type=SweepResult)
    best = next(trial for trial in result.trials if trial.name == result.best)
    softened = configured(identity.config.train, best.params).temperature_bps
    action = majority(train_part.column("label"))
    edge_bps = config.trader.min_edge_bps
    seen = score(model, meta, validation_part, action, others, softened, edge_bps)
    scored = score(model, meta, test, action, others, softened, edge_bps)
    stage.update(4, 6, "trading the test split")
    report = _traded(store, config, test, scored, name, now)
    stage.update(6, 6, f"{len(test):,} samples, {report.backtest.model.orders:,} orders")
    return msgspec.structs.replace(
        report, validation=seen.whole, looks=looks, sweep=_sweep_section(result)
    )


def _traded(
    store: Store, config: Config, test: Part, scored: PartScore, name: str, now: str
) -> ReportData:
    """Return what is known of the test split, with its trading by what the model predicted."""
    beats, of_product = (np.concatenate(list(test.column(c))) for c in ("beat", "product"))
    traded = {i: PRODUCT_IDS[i] for i in test.products()}
    windows = {p: _windows_between(store, p, beats.min(), beats.max() + 1) for p in traded.values()}
    by_product = {p: of_product == i for i, p in traded.items()}
    study = compare(
        windows,
        {p: (beats[mine], scored.values[mine]) for p, mine in by_product.items()},
        {p: product(p) for p in traded.values()},
        config.fees,
        config.trader,
    )
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
        backtest=study,
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
        significance=result.significance,
        trials=[
            Trial(name=t.name, params=t.params, metrics=_shown(t.metrics) if t.metrics else {})
            for t in result.trials
        ],
    )


def _shown(metrics: EpochMetrics) -> dict[str, float]:
    return {name: float(getattr(metrics, name)) for name in _SHOWN}


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
    if report.looks and report.looks.looks > 1:
        lines.append(f"looks at this test split so far: {report.looks.looks}")
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
