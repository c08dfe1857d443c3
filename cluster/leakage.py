"""`quaver check-leakage`: whether anything that a model sees knows what it must not, as a table."""

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from actors.raw import known_partitions
from actors.store import Store
from cluster.config import Config
from cluster.progress import Display, Stage
from datasets.leakage import DayChecked, Finding, check_features
from datasets.loader import load_samples
from datasets.neighbours import with_nearest
from datasets.recipe import Recipe
from datasets.splits import split_by_time
from datasets.table_manifest import Partition, read_table_manifests
from datasets.todo import choose
from market.errors import QuaverError
from tune.shuffled import COVERAGE, Border, Score, ShuffledCheck, check_shuffled, check_splits

_MOST_SAMPLES = 1_000_000  # In memory at once for the model: about a gigabyte.


class ModelChecked(msgspec.Struct, kw_only=True):
    """What the splits and a model on shuffled labels say; `skipped` is why there is no model."""

    days: int  # Of products, whose samples were read.
    borders: list[Border] = []
    shuffled: ShuffledCheck | None = None
    skipped: str | None = None


def run_check(
    config: Config,
    store: Store,
    products: str | None,
    days: str | None,
    beats: int,
    seed: int,
    as_json: bool,
    console: Console,
) -> bool:
    """Check a root and show what was found; return whether nothing leaks."""
    recorded, _ = known_partitions(store)
    if not recorded:
        raise QuaverError(f"there are no raw partitions in {store.root}; record or import first")
    todo, recipe = choose(recorded, products, days), with_nearest(store, config.recipe)
    with Display(Console(stderr=True)) as display:
        with display.stage("features") as stage:
            stage.update(0, 1, "reading")
            checked = check_features(
                store, recipe, todo, beats, seed, lambda done, of: _show(stage, done, of)
            )
        with display.stage("shuffled labels") as stage:
            stage.update(0, 1, "reading")
            model = _check_model(store, recipe, config.split, todo, seed)
            stage.update(1, 1, f"{model.days} days of products")
    leaks = sum(len(day.findings) for day in checked) + len(model.borders)
    leaks += model.shuffled is not None and model.shuffled.shuffled.scores
    if as_json:
        said = {"root": store.root, "fine": not leaks, "days": checked, "model": model}
        console.file.write(msgspec.json.format(msgspec.json.encode(said), indent=1).decode() + "\n")
    else:
        print_checked(checked, model, leaks, console)
    return not leaks


def print_checked(
    checked: list[DayChecked], model: ModelChecked, leaks: int, console: Console
) -> None:
    """Print a line per product and day, then what leaks, then what the model scores."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for name in ("product", "day (UTC)"):
        table.add_column(name, no_wrap=True)
    for name in ("beats tried", "windows", "samples", "leaks"):
        table.add_column(name, justify="right", no_wrap=True)
    for day in checked:
        figures = (len(day.cuts), day.windows, day.samples, len(day.findings))
        style = "red" if day.findings else ""
        table.add_row(day.product, day.day, *(f"{n:,}" for n in figures), style=style)
    console.print(table)
    found = [text_of(one) for day in checked for one in day.findings]
    found += [
        f"{border.samples:,} samples of {border.parts[1]}, the first of beat {border.beat}, "
        f"{border.why} {border.parts[0]}"
        for border in model.borders
    ]
    for line in found:
        _say(console, line, "red")
    if model.shuffled is None:
        _say(console, f"no model was trained: {model.skipped}", "yellow")
    else:
        _print_model(model.shuffled, console)
    tried = sum(len(day.cuts) for day in checked)
    said = f"{leaks} leaks" if leaks else "nothing leaks"
    _say(console, f"{said}; {tried} beats tried", "bold red" if leaks else "green")


def text_of(one: Finding) -> str:
    """Return a finding as a line."""
    more = f" and {one.beats - 1:,} more" if one.beats > 1 else ""
    how = {
        "future cut off": f"with the rows after beat {one.cut} cut off",
        "future scrambled": f"with other rows after beat {one.cut}",
        "past scrambled": f"with other windows before beat {one.cut}",
    }[one.how]
    why = (
        "building again gives the same: this code looks there"
        if one.built_so
        else "building again gives something else than is stored: see quaver build --force"
    )
    return (
        f"{one.product} {one.day} {one.table}: {one.column} of beat {one.beat}{more} is not what "
        f"is stored {how}; {why}"
    )


def _check_model(
    store: Store,
    recipe: Recipe,
    split: tuple[float, float, float],
    todo: list[Partition],
    seed: int,
) -> ModelChecked:
    manifests = read_table_manifests(store, "samples", todo)
    chosen = _that_fit({of: one.rows for of, one in manifests.items() if one.rows}, seed)
    if not chosen:
        return ModelChecked(days=0, skipped="there are no samples")
    samples, model = load_samples(store, recipe, chosen), ModelChecked(days=len(chosen))
    try:
        splits = split_by_time(samples.beat, split)
    except QuaverError as e:
        model.skipped = str(e)
        return model
    model.borders = check_splits(samples, splits, recipe)
    model.shuffled = check_shuffled(samples, splits, seed)
    if model.shuffled is None:
        model.skipped = "too few beats of validation have a label to tell skill from chance"
    return model


def _that_fit(rows: dict[Partition, int], seed: int) -> list[Partition]:
    """Return days of products that fit into memory: products with all theirs, else the newest."""
    kept: list[Partition] = []
    room, products = _MOST_SAMPLES, sorted({product_id for product_id, _ in rows})
    for place in np.random.default_rng(seed).permutation(len(products)):
        mine = sorted((of for of in rows if of[0] == products[place]), reverse=True)
        fit = int(np.searchsorted(np.cumsum([rows[of] for of in mine]), room, side="right"))
        if fit == len(mine) or not kept:
            kept += mine[: max(fit, 1)]
            room -= sum(rows[of] for of in mine[:fit])
    return sorted(kept)


def _print_model(model: ShuffledCheck, console: Console) -> None:
    _say(
        console,
        f"a model on shuffled labels earns {_interval(model.shuffled)} by its choice of time "
        f"({COVERAGE:.1%} interval, {model.blocks} blocks): "
        f"{'it scores' if model.shuffled.scores else 'nothing'}",
        "red" if model.shuffled.scores else "",
    )
    _say(
        console,
        f"the same on the true labels: {_interval(model.true)}; over NO_OP it captures "
        f"{model.true.value_bps:.3f} bp of the oracle's {model.oracle_bps:.3f} "
        f"({model.train:,} samples of train, {model.validation:,} of validation)",
        "dim",
    )


def _interval(score: Score) -> str:
    return f"{score.timing_bps:+.3f} bp [{score.low_bps:+.3f}, {score.high_bps:+.3f}]"


def _show(stage: Stage, done: int, of: int) -> None:
    stage.update(done, of, f"{done} of {of} days of products")


def _say(console: Console, line: str, style: str) -> None:
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
