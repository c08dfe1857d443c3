"""One frozen, typed configuration: defaults, then a TOML file, then `--set key=value`.

Each folder defines its own part beside the code that reads it; this module only puts them together
and turns what a user wrote into them, with errors that name the key and what it may be.
"""

import contextlib
import difflib
import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from actors.connection import ConnectionConfig, check_url
from actors.plan import FleetConfig
from actors.quarantine import QuarantineConfig
from actors.raw import SIMULATED
from actors.spool import SpoolConfig
from datasets.health import HealthConfig
from datasets.imports import parse_increments
from datasets.recipe import Recipe
from market.actions import Fees
from market.cross import CrossConfig
from market.errors import QuaverError
from market.external import ExternalConfig
from market.products import UNIVERSE, Product, product
from market.signals import SignalsConfig
from market.trader import TraderConfig
from sim.flow import FlowConfig
from tune.config import SweepConfig, TrainConfig
from tune.models import SeedConfig, changed
from tune.search import check_space

LIVE_FEED = "wss://advanced-trade-ws.coinbase.com"
LIVE_REST = "https://api.coinbase.com/api/v3/brokerage"

_REPLACED = ("sweep.space", "increments")  # Tables that are one value: another takes its place.
_MODEL = "sweep.train.model"
_OPEN = "sweep.trial_resources."  # A table that takes keys it does not have, and keeps the others.

_Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]


def _default_sweep() -> SweepConfig:
    """A small sweep, for hours of data; months deserve more of everything."""
    small = SeedConfig(lstm_hidden=16, book_hidden=(16,), embedding_dim=4, interaction_hidden=(16,))
    return SweepConfig(
        train=TrainConfig(model=small, epochs=8, batch_size=256, learning_rate=1e-3),
        space={"objective": ["advantage", "bce"], "model.lstm_hidden": [16, 32]},
    )


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the HTTP endpoint listens."""

    port: Annotated[int, msgspec.Meta(ge=0, le=65535, description="0: any free port")] = 8000


class DemoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much the demo does; the market is simulated."""

    products: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=25)] = (
        "BTC-USD",
        "ETH-USD",
        "SOL-USD",
        "XRP-USD",
    )
    hours: Annotated[
        float, msgspec.Meta(ge=1.5, description="event time to record, as fast as it goes")
    ] = 8.0
    live_speed: Annotated[
        float, msgspec.Meta(gt=0, le=60, description="event seconds per second while trading")
    ] = 20.0
    live_beats: Annotated[int, msgspec.Meta(ge=20, description="beats to trade on paper")] = 60
    # Quiet enough, and with an edge that lasts long enough, for a few hours to teach it.
    market: FlowConfig = FlowConfig(
        tick_s=1.0,
        activity=0.1,
        volatility_bps=0.8,
        unrest=0.2,
        trend_bps=0.0,
        edge_bps=28.0,
        drift_time_s=300.0,
        book_tilt=1.0,
    )


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be configured."""

    products: Annotated[
        tuple[str, ...], msgspec.Meta(min_length=1, description="products to collect and trade")
    ] = tuple(listed.id for listed in UNIVERSE)
    feed_url: Annotated[
        str,
        msgspec.Meta(min_length=1, description="Advanced Trade feed, or `simulated` for [demo]'s"),
    ] = LIVE_FEED
    wire_format: Annotated[
        Literal["coinbase-advanced", "coinbase-exchange"],
        msgspec.Meta(description="of the feed's frames; a replayed capture may have another"),
    ] = "coinbase-advanced"
    increments: Annotated[
        dict[str, str],
        msgspec.Meta(
            description='price and size grid of products, "QUOTE,BASE" by id; those of any other '
            "are the venue's, or the built-in table's"
        ),
    ] = {}
    rest_url: Annotated[
        str,
        msgspec.Meta(
            description="whose /market/products lists increments and status; empty: Coinbase's for "
            "its own feed, the built-in table for any other"
        ),
    ] = ""
    ray_address: Annotated[
        str, msgspec.Meta(min_length=1, description="`local` starts a Ray for this command")
    ] = "local"
    fees: Fees = Fees()
    signals: SignalsConfig = SignalsConfig()
    cross: CrossConfig = CrossConfig()
    external: ExternalConfig = ExternalConfig()
    split: Annotated[
        tuple[_Share, _Share, _Share],
        msgspec.Meta(description="shares of the beats for train, validation and test"),
    ] = (0.6, 0.2, 0.2)
    fleet: FleetConfig = FleetConfig()
    connection: ConnectionConfig = ConnectionConfig()
    spool: SpoolConfig = SpoolConfig()
    quarantine: QuarantineConfig = QuarantineConfig()
    health: HealthConfig = HealthConfig()
    trader: TraderConfig = TraderConfig()
    sweep: SweepConfig = msgspec.field(default_factory=_default_sweep)
    serve: ServeConfig = ServeConfig()
    demo: DemoConfig = DemoConfig()

    @property
    def recipe(self) -> Recipe:
        """What samples are made by, but for the nearest coins, which lie under a root."""
        return Recipe(
            fees=self.fees, signals=self.signals, cross=self.cross, external=self.external
        )


def load_config(path: Path | None, overrides: list[str]) -> Config:
    """Return the configuration of a TOML file (None: defaults) with `key=value` overrides.

    QuaverError names the key that is wrong, and the nearest right one.
    """
    values = msgspec.to_builtins(Config())
    if path is not None:
        _merge(values, _read(path), str(path), set())
    replaced: set[str] = set()
    for override in overrides:
        _merge(values, _parse(override), f"--set {override}", replaced)
    for name, number in _numbers(values):
        if isinstance(number, int) and number.bit_length() > 63:
            raise QuaverError(f"configuration: {name} is a whole number beyond 64 bits")
        if not math.isfinite(number):
            raise QuaverError(f"configuration: {name} is {number}; give a finite number")
    try:
        config = msgspec.convert(values, Config)
    except msgspec.ValidationError as e:
        raise QuaverError(f"configuration: {e}") from None
    _check(config)
    return config


def grids(config: Config) -> dict[str, Product]:
    """Return the products whose increments are configured, by id."""
    return dict(parse_increments(f"{p}={grid}") for p, grid in config.increments.items())


def _check(config: Config) -> None:
    """Raise a QuaverError for what the types alone do not say."""
    given = grids(config)
    for name, ids in (("products", config.products), ("demo.products", config.demo.products)):
        for product_id in ids:
            if name == "demo.products" or product_id not in given:
                product(product_id)
            if ids.count(product_id) > 1:
                raise QuaverError(f"configuration: {name} has {product_id} more than once")
    if config.feed_url != SIMULATED:
        try:
            check_url(config.feed_url)
        except QuaverError as e:
            raise QuaverError(f"configuration: feed_url: {e}; or {SIMULATED}") from None
    if config.rest_url and not config.rest_url.startswith(("http://", "https://")):
        raise QuaverError(
            f"configuration: rest_url: {config.rest_url!r} is no address; write it like {LIVE_REST}"
        )
    check_space(config.sweep)
    if config.sweep.train.model.products != len(UNIVERSE):
        raise QuaverError(
            f"configuration: sweep.train.model.products is {config.sweep.train.model.products}, "
            f"but there are {len(UNIVERSE)} products; leave it out"
        )
    if abs(sum(config.split) - 1) > 1e-9:
        raise QuaverError(f"configuration: split {config.split} must sum to 1")


def as_toml(config: Config) -> str:
    """Return the configuration as TOML, every key with its value."""
    lines: list[str] = []
    _write(msgspec.to_builtins(config), "", lines)
    return "\n".join(lines).strip() + "\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as e:  # Of TOML, of its encoding or of a number too long.
        raise QuaverError(f"configuration {path} cannot be read: {e}") from None


def _parse(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise QuaverError(f"--set {override!r} is not KEY=VALUE, for example fees.taker_bps=60")
    for value in (text, msgspec.json.encode(text).decode()):  # A bare word is a string.
        with contextlib.suppress(ValueError):
            return tomllib.loads(f"{key} = {value}")
    raise QuaverError(f"--set {override!r}: {key!r} is no key; write it as in a TOML file")


def _merge(
    into: dict[str, Any], given: dict[str, Any], source: str, replaced: set[str], above: str = ""
) -> None:
    """Put what is given in place; `replaced` are the values of _REPLACED that its kind has set."""
    for key, value in given.items():
        name = f"{above}{key}"
        if key not in into and above != _OPEN:
            near = difflib.get_close_matches(key, into, n=1, cutoff=0.0)
            hint = f"; did you mean {above}{near[0]}?" if near else ""
            raise QuaverError(f"{source}: there is no key {name}{hint}")
        if isinstance(into.get(key), dict) and name not in _REPLACED:
            if not isinstance(value, dict):
                raise QuaverError(f"{source}: {name} is a table of keys, not a value")
            if name == _MODEL and "name" in value:  # Another model has other keys.
                into[key] = changed(into[key], {"name": value["name"]}, f"{source}: {name}")
            _merge(into[key], value, source, replaced, f"{name}.")
        elif name in replaced and isinstance(value, dict):
            into[key] = into[key] | value
        else:
            into[key] = value
            replaced |= {name} & set(_REPLACED)


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number with the dotted name of its key."""
    if isinstance(value, float | int):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner, name)


def _write(table: dict[str, Any], name: str, lines: list[str]) -> None:
    values = {k: v for k, v in table.items() if not isinstance(v, dict) and v is not None}
    if name:
        lines.append(f"\n[{name}]")
    lines += [f"{_key(k)} = {_value(v)}" for k, v in values.items()]
    for key, inner in table.items():
        if isinstance(inner, dict):
            _write(inner, f"{name}.{_key(key)}" if name else _key(key), lines)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return msgspec.json.encode(value).decode()


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else f'"{key}"'
