"""What the commands share: the application, its console, and options that several of them take."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from market.errors import QuaverError

app = typer.Typer(
    name="quaver",
    help="From Coinbase's websocket to an order: collect, prepare, train, judge, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
# Held, because Ray's sessions turn `sys.stdout` to their log.
console = Console(file=sys.stdout)

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
ProductsOption = Annotated[
    str | None,
    typer.Option("--products", help="only these, e.g. BTC-USD,ETH-USD; default: all"),
]
DaysOption = Annotated[
    str | None,
    typer.Option(
        "--days", help="only these UTC days, e.g. 2026-08-09,2026-08-10 or 2026-08-01..2026-08-31"
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="one configuration value, e.g. fees.taker_bps=60; may repeat"),
]


class CheckFailed(Exception):
    """A check has been made and shown, and found something bad."""


def parse_speed(text: str) -> float | None:
    """Return event seconds per second, None for `max`; QuaverError if it is neither."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1e6:
        raise QuaverError(f"--speed {text!r}: write a positive number, or `max`")
    return speed


class WireFormat(StrEnum):
    """Formats of frames."""

    ADVANCED = "coinbase-advanced"
    EXCHANGE = "coinbase-exchange"
    TARDIS = "tardis"
