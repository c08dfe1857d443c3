"""The commands about the market and recordings of it: import, record, health, replay, exchange."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.options import (
    CheckFailed,
    ConfigOption,
    DataOption,
    DaysOption,
    IncrementsOption,
    ProductsOption,
    SetOption,
    WireFormat,
    app,
    console,
    parse_speed,
)
from market.errors import QuaverError


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
    with Display(console) as display, display.stage("import") as stage:
        done = import_files(Store(out), files, format_.value, grids, stage)
    for capture in done:
        losses = {k: n for k, n in capture.counts.items() if k in ("gaps", "duplicates", "corrupt")}
        lost = ", ".join(f"{n} {name}" for name, n in losses.items() if n) or "no losses"
        console.print(
            f"{capture.path}: {capture.frames:,} frames, {capture.rows:,} events of "
            f"{', '.join(capture.products)}; {lost}",
            soft_wrap=True,
            markup=False,
        )
        if capture.skipped:
            console.print(
                f"  skipped, their grid is not known: {', '.join(capture.skipped)} "
                f"(give --increments {capture.skipped[0]}=QUOTE,BASE)",
                soft_wrap=True,
            )
    console.print(f"next: quaver build --data {out}", soft_wrap=True, markup=False)


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

    The table: books that are known of those wanted, levels and trades a second, latency from the
    venue's time to ours, gaps, what the data root has taken, what waits in the spool; below, the
    reasons, the products whose newest row is oldest, and what does not work at this moment.
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
        run_stop(chosen, console)
    elif data is None:
        raise QuaverError("say where to record to: --data FOLDER or --data s3://bucket/prefix")
    else:
        run_record(chosen, Store(data), console)


@app.command()
def health(
    data: DataOption,
    products: ProductsOption = None,
    days: DaysOption = None,
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
    fine = run_health(Store(data), chosen, products, days, latency, as_json, console)
    if not fine:
        raise CheckFailed


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
    from cluster.replay import run_replay

    run_replay(files, parse_speed(speed), port, console)


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

    It speaks the protocol of Coinbase Advanced Trade. The addresses are printed: give the websocket
    to `quaver record --feed`, and look at the rest with REST=http://...:

    curl $REST/time; curl $REST/market/products; curl "$REST/market/product_book?product_id=BTC-USD"

    Event time is the clock's; at another speed it begins with the first subscription or request. A
    schedule of faults is SEED:RATE, in faults
    a minute of event time; single ones go to the same port:

    curl -d '{"kind":"drop","count":3}' http://127.0.0.1:PORT/sim/faults

    Whoever signs with the key of --key-file can trade. The fees are those of the configuration.
    """
    from cluster.config import load_config
    from cluster.exchange import ExchangeOptions, run_exchange
    from market.products import UNIVERSE

    listed = tuple(one.id for one in UNIVERSE)
    options = ExchangeOptions(
        products=listed if products is None else tuple(products.split(",")),
        speed=parse_speed(speed),
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
    run_exchange(options, console)
