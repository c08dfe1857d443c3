"""The commands from recordings to trading.

Demo, build, check-leakage, sweep, report, serve, show-config.
"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cluster.options import (
    CheckFailed,
    ConfigOption,
    DataOption,
    DaysOption,
    NameOption,
    ProductsOption,
    SetOption,
    app,
    console,
)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", help="folder for the demo's data; replaced by every run")
    ] = Path("data/demo"),
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Run the whole pipeline once on a simulated market, and write a report.

    Simulated exchange, websocket, books, windows, raw partitions, samples, a small sweep, confusion
    matrix and backtest on the test split, then a Serve app that predicts over HTTP and trades a
    paper account. Needs no keys and no internet; takes a few minutes on two cores.
    """
    from cluster.config import load_config
    from cluster.demo import run_demo

    run_demo(load_config(config, set_ or []), out, console)


@app.command()
def build(
    data: DataOption,
    products: ProductsOption = None,
    days: DaysOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="build also what is up to date; gives the same files")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Build windows and samples from the raw partitions under a root, in parallel.

    One task per product and UTC day: its events become windows (one record every four seconds), its
    windows and those of the days beside it become samples (features and labels). A sample needs the
    69 valid beats up to its own, its label the 75 after.

    Only what is missing or stale is built: a manifest.json beside each table says from what and by
    which code it was made. New raw data of a day makes its windows stale, and the samples of that
    day and of those beside it. Building again, or after a build that was killed, gives the same
    files. Windows and samples whose raw partition is gone are removed.

    What cannot be built is named at the end, with exit code 1; all else is built, and what was
    there before stays. While an S3 server is away, the build waits, up to a quarter of an hour.
    With --days and --products, all windows that the samples wanted are made from are built too.

    [signals], [cross] and [external] in the configuration add inputs to samples (docs/data.md).
    Which coins are nearest is worked out by the first build that asks for it, from train of all
    windows, and kept in signals/neighbours.json; remove that file to have it worked out again.

        quaver build --data s3://bucket/prefix --products BTC-USD --days 2026-08-01..2026-08-31
    """
    from actors.store import Store
    from cluster.build import run_build
    from cluster.config import load_config

    run_build(load_config(config, set_ or []), Store(data), products, days, force, console)


@app.command("check-leakage")
def check_leakage(
    data: DataOption,
    beats: Annotated[
        int, typer.Option("--beats", min=1, help="random beats, spread over products and days")
    ] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="same seed, same beats")] = 1,
    products: ProductsOption = None,
    days: DaysOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Check that nothing which is stored of a beat knows what came after it.

    At random beats the raw rows after the beat are cut off, then replaced by others, and windows
    and samples are rebuilt: up to the beat they must be what is stored, labels up to a horizon
    before. What samples know of other products and of external series is cut and replaced too.
    Labels must not depend on what was before their beat either.

    Then labels are shuffled: a model trained on them must earn nothing by its choice of time. Last,
    no sample's windows may cross a border between train, validation and test.

    Exits with 2 if something leaks. What is not found at these beats may be found at others: give
    another --seed, or more --beats. Runs in this process, without Ray.
    """
    from actors.store import Store
    from cluster.config import load_config
    from cluster.leakage import run_check

    chosen = load_config(config, set_ or [])
    if not run_check(chosen, Store(data), products, days, beats, seed, as_json, console):
        raise CheckFailed


@app.command()
def sweep(
    data: DataOption,
    name: NameOption = "sweep",
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with a sweep that was interrupted")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Search for the best model with Ray Tune, and export it.

    What is tried is [sweep] in the configuration, examples/sweep.toml has an example: lists, which
    are tried in full, and ranges to draw from, by the dotted path of a training field; how many
    draws, by chance or by Optuna; and whether trials that fall behind are stopped (ASHA). The same
    seed draws the same trials. As many run at once as their resources fit, on this machine or on
    the cluster at ray_address.

    Checkpoints and TensorBoard scalars are written after every epoch. At the end: the table of all
    trials, also as runs/NAME/results.json, and whether the best of so many is more than luck.

        quaver sweep --data s3://bucket/prefix --name wide --config examples/sweep.toml
    """
    from actors.store import Store
    from cluster import stages
    from cluster.config import load_config
    from cluster.progress import Display
    from cluster.session import ray_session
    from cluster.sweep_view import print_sweep
    from tune.run_folder import check_name

    chosen, store = load_config(config, set_ or []), Store(data)
    check_name(store, name, resume, chosen.sweep)  # Before a Ray is started for it.
    with Display(console) as display, display.stage("sweep") as stage:
        stage.update(0, 1, "starting Ray")
        with ray_session(chosen.ray_address):
            result = stages.sweep(store, chosen, name, resume, stage)
    print_sweep(result, console)
    given = "".join(f" --set {shlex.quote(each)}" for each in set_ or [])
    given = (f" --config {shlex.quote(str(config))}" if config else "") + given
    where = shlex.quote(data)
    said = f"TensorBoard: tensorboard --logdir {shlex.quote(f'{data}/runs/{name}')}\n"
    said += f"next: quaver report --data {where} --name {name}{given}"
    console.print(said, soft_wrap=True, markup=False)


@app.command()
def report(
    data: DataOption,
    name: NameOption = "sweep",
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Judge the best model of a sweep on the test split and write report.html.

    Confusion matrix, calibration and value captured, beside the lines that take no skill and a
    linear and a boosted model trained here; a backtest with reserves and fees beside buy-and-hold
    and the label oracle. How often this test split was looked at is counted and said.
    """
    from actors.store import Store
    from cluster import judge as judging
    from cluster.config import load_config
    from cluster.progress import Display

    chosen, store = load_config(config, set_ or []), Store(data)
    with Display(console) as display, display.stage("judge") as stage:
        judged = judging.judge(store, chosen, name, stage)
    judging.print_summary(judged, judging.write_report_to(store, judged), console)


@app.command()
def serve(
    data: DataOption,
    name: NameOption = "sweep",
    feed: Annotated[
        str | None,
        typer.Option(
            "--feed", help="websocket to trade on, or `simulated`; default: Coinbase's live feed"
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="also record raw partitions under the data root")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Serve the best model of a sweep over HTTP and trade a paper account on a live feed.

    POST /v1/predict, GET /health, GET /v1/positions. Runs until Ctrl-C. No real order is sent.
    """
    from actors.store import Store
    from cluster.config import load_config
    from cluster.live import run_serve

    overrides = [*(set_ or []), *([f"feed_url={feed}"] if feed else [])]
    run_serve(load_config(config, overrides), Store(data), name, record, console)


@app.command("show-config")
def show_config(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Print the configuration as TOML: every key with its value."""
    from cluster.config import as_toml, load_config

    typer.echo(as_toml(load_config(config, set_ or [])), nl=False)
