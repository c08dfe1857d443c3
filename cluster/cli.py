"""`quaver`: one command per stage of the pipeline, and `demo`, which runs them all.

Exit codes: 0 done, 1 something the user can mend (one line says what), 2 a check failed (`health`),
130 stopped by Ctrl-C.
"""

import json
import signal
import sys
import textwrap
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from market.errors import QuaverError

app = typer.Typer(
    name="quaver",
    help="From Coinbase's websocket to an order: collect, prepare, train, judge, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
_RAY_LOGS = "/tmp/ray/session_latest/logs"
_USAGE, _STOPPED = 2, 130  # Exit codes of the command line library.
_CHECK_FAILED = 2  # Ours.
# Held, because Ray's sessions turn `sys.stdout` to their log.
_console = Console(file=sys.stdout)
_errors = Console(stderr=True)

DataOption = Annotated[
    str, typer.Option("--data", help="data root: a folder or s3://bucket/prefix", metavar="ROOT")
]
NameOption = Annotated[str, typer.Option("--name", help="name of the sweep")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file; see quaver show-config")
]
IncrementsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--increments",
        help="price and size grid of a product, e.g. BTC-USD=0.01,0.00000001; may repeat",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="one configuration value, e.g. fees.taker_bps=60; may repeat"),
]


class _CheckFailed(Exception):
    """A check has been made and shown, and found something bad."""


class WireFormat(StrEnum):
    """Formats of frames."""

    ADVANCED = "coinbase-advanced"
    EXCHANGE = "coinbase-exchange"
    TARDIS = "tardis"


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

    run_demo(load_config(config, set_ or []), out, _console)


@app.command("import")
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(help="captures, one JSON frame a line, or Tardis CSV files; plain or gzip"),
    ],
    format_: Annotated[WireFormat, typer.Option("--format", help="the feed they were taken from")],
    out: Annotated[
        str, typer.Option("--out", help="data root: a folder or s3://bucket/prefix", metavar="ROOT")
    ],
    increments: IncrementsOption = None,
) -> None:
    """Read captured frames into raw partitions.

    A line {"type":"disconnect"} marks a lost connection. Tardis files (incremental_book_L2 and
    trades) are read together, in order of local_timestamp. Importing a file again replaces what it
    wrote. Products of the universe need no --increments; others without are skipped.
    """
    from actors.store import Store
    from cluster.progress import Display
    from cluster.stages import import_files
    from datasets.imports import parse_increments

    grids = dict(parse_increments(text) for text in increments or [])
    with Display(_console) as display, display.stage("import") as stage:
        done = import_files(Store(out), files, format_.value, grids, stage)
    for capture in done:
        losses = {k: n for k, n in capture.counts.items() if k in ("gaps", "duplicates", "corrupt")}
        lost = ", ".join(f"{n} {name}" for name, n in losses.items() if n) or "no losses"
        _console.print(
            f"{capture.path}: {capture.frames:,} frames, {capture.rows:,} events of "
            f"{', '.join(capture.products)}; {lost}",
            soft_wrap=True,
        )
        if capture.skipped:
            _console.print(
                f"  skipped, their grid is not known: {', '.join(capture.skipped)} "
                f"(give --increments {capture.skipped[0]}=QUOTE,BASE)",
                soft_wrap=True,
            )
    _console.print(f"next: quaver build --data {out}")


@app.command()
def build(data: DataOption, config: ConfigOption = None, set_: SetOption = None) -> None:
    """Build windows and samples from all raw partitions under a root, in parallel.

    A sample needs the 69 valid beats up to its own, its label the 75 after. Building again gives
    the same files.
    """
    from actors.store import Store
    from cluster.config import load_config
    from cluster.progress import Display
    from cluster.session import ray_session
    from cluster.stages import build_tables

    chosen, store = load_config(config, set_ or []), Store(data)
    with Display(_console) as display, display.stage("build") as stage:
        stage.update(0, 1, "starting Ray")
        with ray_session(chosen.ray_address):
            results = build_tables(store, chosen, stage)
    labelled = sum(b.valid for b in results if b.stage == "samples")
    if labelled:
        _console.print(f"next: quaver sweep --data {data}")
    else:
        _console.print(
            "windows are built, but no sample has a label: that takes 144 valid beats in a row "
            "(ten minutes without a gap) of a product of the universe"
        )


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
    """Train every variant of the grid with Ray Tune and export the best model.

    Checkpoints and TensorBoard scalars are written after every epoch. The grid is `sweep.grid` in
    the configuration.
    """
    from actors.store import Store
    from cluster import stages
    from cluster.config import load_config
    from cluster.progress import Display
    from cluster.session import ray_session

    chosen, store = load_config(config, set_ or []), Store(data)
    with Display(_console) as display, display.stage("sweep") as stage:
        stage.update(0, 1, "starting Ray")
        with ray_session(chosen.ray_address):
            result = stages.sweep(store, chosen, name, resume, stage)
    for trial in result.trials:
        won = "  <- exported" if trial.name == result.best else ""
        _console.print(
            f"{trial.name}: captures {trial.metrics.best_value_bps:.3f} bp a decision on validation"
            f"{won}",
            highlight=False,
        )
    _console.print(f"TensorBoard: tensorboard --logdir {data}/runs/{name}", soft_wrap=True)
    _console.print(f"next: quaver report --data {data} --name {name}", soft_wrap=True)


@app.command()
def report(
    data: DataOption,
    name: NameOption = "sweep",
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Judge the best model of a sweep on the test split and write report.html.

    Confusion matrix and value captured beside the lines that take no skill; a backtest with
    reserves and fees beside buy-and-hold and the label oracle.
    """
    from actors.store import Store
    from cluster import stages
    from cluster.config import load_config
    from cluster.progress import Display

    chosen, store = load_config(config, set_ or []), Store(data)
    with Display(_console) as display, display.stage("judge") as stage:
        judged = stages.judge(store, chosen, name, stage)
    stages.print_summary(judged, stages.write_report_to(store, judged), _console)


@app.command()
def record(
    data: Annotated[
        str | None,
        typer.Option("--data", help="data root: a folder or s3://bucket/prefix", metavar="ROOT"),
    ] = None,
    feed: Annotated[
        str | None, typer.Option("--feed", help="websocket; default: Coinbase's live feed")
    ] = None,
    products: Annotated[
        str | None,
        typer.Option("--products", help="ids with commas between, e.g. BTC-USD,ETH-USD"),
    ] = None,
    wire_format: Annotated[
        WireFormat | None, typer.Option("--wire-format", help="of the feed's frames")
    ] = None,
    increments: IncrementsOption = None,
    stop: Annotated[
        bool, typer.Option("--stop", help="stop the fleet that runs on the cluster")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Record a live feed into raw partitions, with a table of what happens.

    Collectors restart by themselves, on another node if theirs is gone. Ctrl-C stops them with
    everything written; what the data root did not take waits in the spool for the next start. Where
    the same fleet runs already, this only shows it.
    """
    from actors.store import Store
    from cluster.config import load_config
    from cluster.record import run_record, run_stop

    overrides = [*(set_ or []), *([f"feed_url={feed}"] if feed else [])]
    if products is not None:
        ids = [part.strip() for part in products.split(",") if part.strip()]
        overrides.append(f"products={json.dumps(ids)}")
    if wire_format:
        overrides.append(f"wire_format={wire_format.value}")
    if increments:
        given = [text.partition("=") for text in increments]
        table = ", ".join(f"{json.dumps(p)} = {json.dumps(grid)}" for p, _, grid in given)
        overrides.append(f"increments={{{table}}}")
    chosen = load_config(config, overrides)
    if stop:
        run_stop(chosen, _console)
    elif data is None:
        raise QuaverError("say where to record to: --data FOLDER or --data s3://bucket/prefix")
    else:
        run_record(chosen, Store(data), _console)


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
    run_serve(load_config(config, overrides), Store(data), name, record, _console)


@app.command()
def health(
    data: DataOption,
    day: Annotated[
        list[str] | None, typer.Option("--day", help="only this UTC day; may repeat")
    ] = None,
    product: Annotated[
        list[str] | None, typer.Option("--product", help="only this product; may repeat")
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="read the parts for latencies, or not")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Tell per product and day what raw partitions cover, what they lost to what, and how late.

    Exits with 2 if something is worse than the floor, `health.*` in the configuration. A product's
    first day counts from its first row, the newest day up to the last row of any product; days
    without anything in between count as lost.
    """
    from actors.store import Store
    from cluster.config import load_config
    from cluster.health import run_health

    chosen = load_config(config, set_ or [])
    fine = run_health(Store(data), chosen, day or [], product or [], latency, as_json, _console)
    if not fine:
        raise _CheckFailed


@app.command()
def replay(
    files: Annotated[
        list[Path], typer.Argument(help="captures: one JSON frame a line, plain or gzip")
    ],
    speed: Annotated[
        str, typer.Option("--speed", help="event seconds per second, or max: as the client reads")
    ] = "1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="port on 127.0.0.1; 0: any free one")
    ] = 0,
) -> None:
    """Serve recorded captures over a websocket, frame by frame as the venue sent them.

    Starts when a client subscribes to level2, and closes the connection normally at the end. Each
    further file, like a line {"type":"disconnect"}, is another connection of the client's.
    """
    from cluster.replay import parse_speed, run_replay

    run_replay(files, parse_speed(speed), port, _console)


@app.command()
def exchange(
    products: Annotated[
        str | None, typer.Option("--products", help="ids, comma-separated; default: all 55")
    ] = None,
    speed: Annotated[
        str, typer.Option("--speed", help="event seconds per second, or `max`: as clients read")
    ] = "1",
    seed: Annotated[int, typer.Option("--seed", min=0, help="same seed, same market")] = 1,
    activity: Annotated[
        float, typer.Option("--activity", min=0.01, max=100, help="1: the venue's measured rate")
    ] = 1.0,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="of the websocket")] = 0,
    rest_port: Annotated[int, typer.Option("--rest-port", min=0, max=65535, help="of REST")] = 0,
    duration: Annotated[
        float | None, typer.Option("--duration", min=0.001, help="event seconds; default: endless")
    ] = None,
    faults: Annotated[
        str | None, typer.Option("--faults", help="a schedule of faults", metavar="SEED:RATE")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="where clients find a key; without, nobody can trade"),
    ] = None,
    usd: Annotated[str, typer.Option("--usd", help="what the key's account holds")] = "100000",
    tape: Annotated[
        Path | None, typer.Option("--tape", help="folder for every frame as it should be sent")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Run a simulated exchange: market data, orders and faults, on a websocket and over REST.

    Addresses are printed; ports are free ones unless given. RATE is in faults a minute of event
    time; single ones: POST /sim/faults. The fees are those of the configuration.
    """
    from cluster.config import load_config
    from cluster.exchange import ExchangeOptions, run_exchange
    from market.products import UNIVERSE

    ids = tuple(products.split(",")) if products else tuple(one.id for one in UNIVERSE)
    options = ExchangeOptions(
        products=ids,
        speed=speed,
        seed=seed,
        activity=activity,
        port=port,
        rest_port=rest_port,
        duration_s=duration,
        faults=faults,
        key_path=key_file,
        usd=usd,
        tape=tape,
        fees=load_config(config, set_ or []).fees,
    )
    run_exchange(options, _console)


@app.command("show-config")
def show_config(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Print the configuration as TOML: every key with its value."""
    from cluster.config import as_toml, load_config

    typer.echo(as_toml(load_config(config, set_ or [])), nl=False)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 1."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except QuaverError as e:
        _fail(str(getattr(e, "cause", e)))  # From another process it comes inside Ray's own.
    except _CheckFailed:
        sys.exit(_CHECK_FAILED)
    except SystemExit as e:
        if e.code == _STOPPED:
            _errors.print("stopped")
        sys.exit(1 if e.code == _USAGE else e.code)
    except Exception as e:
        from ray.exceptions import RayError, RayTaskError

        # A task's error is one in our code: its traceback is the only one that there is.
        if not isinstance(e, RayError) or isinstance(e, RayTaskError):
            raise
        why = textwrap.shorten((str(e).splitlines() or [type(e).__name__])[-1], 200)
        _fail(f"a Ray process died: {why}; its log is in {_RAY_LOGS}")


def _fail(said: str) -> NoReturn:
    _errors.print(f"[bold red]error:[/] {escape(said)}", soft_wrap=True, highlight=False)
    sys.exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
