"""`quaver exchange`: the simulated exchange in a process of its own, until Ctrl-C."""

import asyncio
import json
import time
from decimal import Decimal
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from rich.console import Console
from rich.live import Live

from market.actions import Fees
from market.errors import QuaverError
from market.products import UNIVERSE
from sim.accounts import AccountConfig
from sim.auth import ApiKey, key_file, new_key
from sim.exchange import Exchange
from sim.exchange_config import ExchangeConfig
from sim.faults import parse_schedule
from sim.flow import FlowConfig
from sim.rest import Rest
from sim.rest_calls import PREFIX
from sim.wire import timestamp_text

# As the venue's documents have them; those of REST are from an older page.
PER_ADDRESS_PER_S, PUBLIC_PER_S, PRIVATE_PER_S = 8, 10, 30
_KEY_NAME = "organizations/simulated/apiKeys/customer"
_OWNER = "customer"
_REFRESH_S = 0.5
_LISTED = frozenset(one.id for one in UNIVERSE)


class ExchangeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for, amounts and schedules as text."""

    products: tuple[str, ...]
    speed: float | None
    seed: int
    activity: float
    port: int
    rest_port: int
    duration_s: float | None
    faults: str | None
    key_path: Path | None
    usd: str
    tape: Path | None
    fees: Fees


def run_exchange(options: ExchangeOptions, console: Console) -> None:
    """Run until the duration is over or Ctrl-C; QuaverError for what cannot be run."""
    config = _config(options)
    asyncio.run(_run(config, options, console))


def load_key(path: Path) -> ApiKey:
    """Return the key that clients find in a file; it is written if there is none.

    QuaverError if the file holds something else: a real key is never replaced.
    """
    if not path.exists():
        key, pem = new_key(_KEY_NAME, _OWNER)
        try:
            path.touch(mode=0o600)
            path.write_text(key_file(_KEY_NAME, pem))
        except OSError as e:
            raise QuaverError(f"cannot write the key to {path}: {e.strerror}") from None
        return key
    try:
        said = json.loads(path.read_text())
        name, private = said["name"], load_pem_private_key(said["privateKey"].encode(), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise QuaverError(f"{path} holds no key; name a file that does not exist yet") from None
    if name != _KEY_NAME:
        raise QuaverError(f"{path} holds a key of another venue; name a file of its own")
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return ApiKey(name=name, public_pem=public.decode(), owner=_OWNER)


def _config(options: ExchangeOptions) -> ExchangeConfig:
    for id in options.products:
        if id not in _LISTED:
            raise QuaverError(
                f"--products: {id!r} is not one of the {len(_LISTED)} products that are traded "
                f"here; write them like {UNIVERSE[0].id},{UNIVERSE[1].id}"
            )
    usd = _amount(options.usd)
    faults = parse_schedule(options.faults) if options.faults else None
    accounts: tuple[AccountConfig, ...] = ()
    if options.key_path is not None:
        balances = {"USD": usd}
        keys = (load_key(options.key_path),)
        accounts = (AccountConfig(owner=_OWNER, balances=balances, keys=keys),)
    return ExchangeConfig(
        products=options.products,
        market=FlowConfig(seed=options.seed, activity=options.activity),
        start_ns=time.time_ns(),
        duration_s=options.duration_s,
        speed=options.speed,
        by_the_clock=options.speed == 1.0,
        port=options.port,
        per_address_per_s=PER_ADDRESS_PER_S,
        tape=None if options.tape is None else str(options.tape),
        faults=faults,
        accounts=accounts,
        fees=options.fees,
    )


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except ArithmeticError:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise QuaverError(f"--usd {text!r} is no amount of money")
    return amount


async def _run(config: ExchangeConfig, options: ExchangeOptions, console: Console) -> None:
    count = len(config.products)
    console.print(f"preparing {count} {'books' if count > 1 else 'book'}", highlight=False)
    exchange = Exchange(config)
    rest = Rest(exchange, options.rest_port, public_per_s=PUBLIC_PER_S, private_per_s=PRIVATE_PER_S)
    async with exchange, rest:
        console.print(f"websocket: {exchange.url}", highlight=False)
        console.print(f"REST: {rest.url}{PREFIX}", highlight=False)
        if options.key_path is not None:
            console.print(f"key: {options.key_path}", highlight=False, soft_wrap=True)
        over = asyncio.ensure_future(exchange.finished())
        with Live(console=console, auto_refresh=False, transient=True) as live:
            frames = 0
            while not (await asyncio.wait([over], timeout=_REFRESH_S))[0]:
                sent = sum(client.sequence_num for client in exchange.clients)
                live.update(_line(exchange, max(0, sent - frames) / _REFRESH_S), refresh=True)
                frames = sent
                exchange.tape.flush()
        over.result()


def _line(exchange: Exchange, frames_per_s: float) -> str:
    orders = f", {len(exchange.broker.placed)} orders" if exchange.broker else ""
    return (
        f"{timestamp_text(exchange.now_ns)[:19]}  {len(exchange.clients)} connections, "
        f"{frames_per_s:,.0f} frames/s{orders}, {len(exchange.tape.faults)} faults  (Ctrl-C stops)"
    )
