"""The scene of the chaos test: an exchange with every fault, a fleet that somebody kills,
and a customer.

A process of its own, `python -m tests.chaos.scene FOLDER ROOT`, so that its Ray finds the root's
keys in the environment. It says a line at each kill, and leaves what was seen in FOLDER.
"""

import asyncio
import contextlib
import os
import pickle
import random
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from actors import fleet
from actors.collector import CollectorSpec
from actors.connection import ConnectionConfig
from actors.plan import FleetConfig, plan
from actors.spool import SpoolConfig
from actors.status import CollectorStatus
from market.products import product
from sim.accounts import AccountConfig
from sim.actor import ExchangeActor
from sim.exchange_config import DEFAULT_START_NS, ExchangeConfig
from sim.faults import FaultConfig
from sim.flow import FlowConfig
from tests.chaos.customer import Account, Customer
from tests.sim.venue import KEY

IDS = ("COTI-USD", "FIDA-USD", "JTO-USD", "KAITO-USD", "PYTH-USD", "SEI-USD")
SPEED = 10.0
SECONDS = 720.0  # Of event time.
PER_MINUTE = 18.0  # Faults, over all connections.
KILLS = 5
SECOND_NS = 10**9
END_NS = DEFAULT_START_NS + round(SECONDS * SECOND_NS)
ACCOUNT = AccountConfig(
    owner="alice",
    balances={name.split("-")[0]: Decimal(10_000) for name in IDS} | {"USD": Decimal(10_000)},
    keys=(KEY,),
)
CONNECTION = ConnectionConfig(silence_s=2.0, snapshot_s=2.0, max_backoff_s=0.2)


class Kill(NamedTuple):
    """A collector that was killed, and when."""

    name: str
    ns: int  # Our own clock.


class Seen(NamedTuple):
    """What was seen of a run while it went on."""

    live: list[tuple[str, NDArray[np.void]]]  # Windows in the order in which they were streamed.
    kills: list[Kill]
    last: dict[str, CollectorStatus | str]
    collector_of: dict[str, str]
    account: Account


async def chaos(folder: Path, root: str) -> Seen:
    """Run exchange, faults, fleet, consumer and killer until the market ends."""
    exchange = ExchangeActor.remote(
        ExchangeConfig(
            products=IDS,
            market=FlowConfig(seed=11, activity=0.3),
            duration_s=SECONDS,
            speed=SPEED,
            tape=str(folder / "tape"),
            per_address_per_s=8,
            faults=FaultConfig(
                seed=5,
                rate_per_minute=PER_MINUTE,
            ),
            accounts=(ACCOUNT,),
        )
    )
    url = await exchange.start.remote()
    customer = Customer(await exchange.start_rest.remote(), IDS)
    groups = plan(tuple(product(name) for name in IDS), FleetConfig(products_per_connection=2))
    specs = [
        CollectorSpec(
            name=fleet.name_of(place),
            url=url,
            groups=websockets,
            root=root,
            source="simulated exchange under chaos",
            connection=CONNECTION,
            spool=SpoolConfig(segment_rows=20_000, segment_s=10.0),
        )
        for place, websockets in enumerate(groups)
    ]
    running = await asyncio.to_thread(fleet.start, specs)
    live: list[tuple[str, NDArray[np.void]]] = []
    kills: list[Kill] = []

    due = asyncio.Queue[None]()
    draw = random.Random(7)

    async def consume() -> None:
        wanted = draw.randrange(60, 130)
        async for closed in fleet.windows(running.actors):
            live.extend(closed)
            if len(live) >= wanted:
                due.put_nowait(None)
                wanted += draw.randrange(60, 130)

    consuming = asyncio.create_task(consume())
    trading = asyncio.create_task(customer.trade())
    over = asyncio.ensure_future(exchange.finished.remote())
    for _ in range(KILLS):
        await due.get()
        kills.append(await asyncio.to_thread(kill_one, running.actors, draw))
        print(f"killed {kills[-1].name}", flush=True)  # noqa: T201
    await over
    customer.stop.set()
    await trading
    account = await customer.account()
    last = await asyncio.to_thread(fleet.stop, running.actors)
    consuming.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await consuming
    await exchange.stop.remote()
    ray.kill(exchange)
    collector_of = {p.id: s.name for s in specs for group in s.groups for p in group}
    return Seen(live, kills, last, collector_of, account)


def kill_one(actors: dict[str, Any], draw: random.Random) -> Kill:
    """Kill a collector that is receiving, with SIGKILL."""
    while True:
        name = draw.choice(sorted(actors))
        told = fleet.statuses({name: actors[name]}, 5.0)[name]
        if isinstance(told, CollectorStatus) and receives(told):
            os.kill(told.pid, signal.SIGKILL)
            return Kill(name, time.time_ns())


def receives(told: CollectorStatus) -> bool:
    """Whether a collector has a book, and a frame came within the last tenth of a second."""
    ages_s = [connection.last_frame_age_s for connection in told.connections]
    return told.synced > 0 and all(age_s is not None and age_s < 0.1 for age_s in ages_s)


def main() -> None:
    """Play the scene on a Ray of its own."""
    folder, root = Path(sys.argv[1]), sys.argv[2]
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    try:
        seen = asyncio.run(chaos(folder, root))
    finally:
        ray.shutdown()
    (folder / "seen.pickle").write_bytes(pickle.dumps(seen))


if __name__ == "__main__":
    # What is pickled here is looked for there.
    sys.modules["tests.chaos.scene"] = sys.modules["__main__"]
    for one in (Kill, Seen):
        one.__module__ = "tests.chaos.scene"
    main()
