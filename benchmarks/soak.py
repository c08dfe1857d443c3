"""The fleet under ten times the venue's load, for minutes, in docs/soak.md.

The simulated exchange runs in a process of its own on this machine, with 55 products whose order
flow makes ten times the level changes that were measured at the venue. The fleet reads it as
`quaver record` does, into a folder, while another reader takes its windows. `make soak`, or
`python -m benchmarks.soak --minutes 5`; the exit code is 1 if a limit is not met.

A frame is stamped by the exchange, in its envelope, just before it is written to the socket. From
then to the moment when the collector has its rows in the book, counted for every frame, is
frame-to-book. Both clocks are this machine's. Memory is what a process does not share (RSS less
shared), sampled twice a second, and grows by what the least-squares line through the least of each
minute says: a segment of the spool comes and goes within one.
"""

import argparse
import asyncio
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from actors import fleet
from actors.latency import Latency
from actors.raw import partitions, read_manifest, read_partition
from actors.status import CollectorStatus
from actors.store import Store
from benchmarks.__main__ import ROOT, replaced, where
from benchmarks.soak_table import Beat, Run, Sample, Sent, losses_of, rows_of, table_of
from cluster.config import load_config
from cluster.record import specs_of
from cluster.session import ray_session
from market.events import Kind
from market.products import UNIVERSE
from market.windows import BEAT_NS
from sim.exchange import Exchange
from sim.exchange_config import ExchangeConfig
from sim.flow import FlowConfig
from sim.market_feed import Client, frame_at
from sim.wire import SECOND_NS, Frame, Request

PAGE = ROOT / "docs" / "soak.md"
MINUTES = 5.0
# Conflation over 50 ms swallows repeats: 15 times the orders make 10 times the level changes.
ACTIVITY = 15.0
_WARM_UP_S = 180.0  # By then most products have seen as many trades as are remembered of each.
_SAMPLE_S = 0.5
_READY_S = 300.0


class Stamping(Exchange):
    """An exchange whose frames say when they were sent."""

    def __init__(self, config: ExchangeConfig) -> None:
        super().__init__(config)
        self.late = Latency()
        self.changes = self.trades = 0
        self._began_ns: int | None = None

    async def _step(self, at_ns: int) -> None:
        now_ns = time.monotonic_ns()
        if self._began_ns is None:
            self._began_ns = now_ns - at_ns
        if at_ns >= self.config.start_ns + _WARM_UP_S * SECOND_NS:
            self.late.add(now_ns - at_ns - self._began_ns)
        await super()._step(at_ns)

    async def _publish(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.channel == "level2":
                self.changes += frame.tail.count(b'"price_level"')
            elif frame.channel == "market_trades":
                self.trades += frame.tail.count(b'"trade_id"')
            await super()._publish([frame_at(frame, time.time_ns())])

    async def _answer(self, client: Client, request: Request | str) -> None:
        self.now_ns = time.time_ns()  # What a snapshot is stamped with.
        await super()._answer(client, request)


def main() -> None:
    """Run, print the table, write it, and exit with 1 if a limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after the warm-up")
    parser.add_argument("--root", type=Path, help="record into this empty folder, and keep it")
    options = parser.parse_args()
    root = options.root or Path(tempfile.mkdtemp(prefix="quaver-soak-"))
    try:
        run = soak(options.minutes * 60, root)
    finally:
        if options.root is None:
            shutil.rmtree(root)
    rows = rows_of(run)
    table = table_of(rows, f"{where()} {os.cpu_count()} cores, {options.minutes:g} minutes.")
    print(table)  # noqa: T201
    PAGE.write_text(replaced(PAGE.read_text("utf-8"), table), "utf-8")
    missed = [row for row in rows if row.missed]
    for row in missed:
        print(f"missed: {row.what}: {row.measured}, limit {row.limit}")  # noqa: T201
    raise SystemExit(1 if missed else 0)


def soak(seconds: float, root: Path) -> Run:
    """Let the fleet record for so long after the warm-up; return what was measured."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    exchange = context.Process(target=_exchange, args=(theirs, _WARM_UP_S + seconds), daemon=True)
    exchange.start()
    try:
        url = _received(pipe, _READY_S)
        config = load_config(None, [f"feed_url={url}", "connection.follow_end=true"])
        with ray_session("local"):
            running = fleet.start(specs_of(config, str(root), UNIVERSE))
            windows = Windows(running.actors)
            first, last, samples = _watch(running.actors, exchange.pid)
            beats = windows.beats()
            stopped = fleet.stop(running.actors)
        sent = _received(pipe, _READY_S)
    finally:
        exchange.kill()
        exchange.join()
    store = Store(str(root))
    return Run(
        first=first,
        last=last,
        samples=samples,
        beats=[b for b in beats if b.beat * BEAT_NS >= first[0].at_ns],
        sent=sent,
        recorded=_recorded(store),
        losses=losses_of(list(stopped.values()), _gaps(store)),
        root_bytes=sum(p.stat().st_size for p in (root / "raw").rglob("*") if p.is_file()),
    )


def _exchange(pipe: Connection, seconds: float) -> None:
    """Run the exchange for so much event time, which is the wall's."""
    products = tuple(product.id for product in UNIVERSE)
    config = ExchangeConfig(
        products=products,
        market=FlowConfig(activity=ACTIVITY),
        start_ns=time.time_ns(),
        duration_s=seconds,
    )

    async def run() -> Sent:
        async with Stamping(config) as exchange:
            pipe.send(exchange.url)
            await exchange.finished()
            return Sent(exchange.changes, exchange.trades, exchange.late)

    pipe.send(asyncio.run(run()))


def _received(pipe: Connection, timeout_s: float) -> Any:
    if not pipe.poll(timeout_s):
        raise SystemExit(f"the exchange said nothing for {timeout_s:.0f} s")
    return pipe.recv()


class Windows:
    """Reads the windows of the fleet until its market ends."""

    def __init__(self, actors: dict[str, Any]) -> None:
        self._found: dict[int, Beat] = {}
        self._actors = actors
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read()), daemon=True)
        self._thread.start()

    def beats(self) -> list[Beat]:
        """Wait for the end; return every beat, the first and the last too."""
        self._thread.join()
        return [self._found[beat] for beat in sorted(self._found)]

    async def _read(self) -> None:
        async for closed in fleet.windows(self._actors):
            for _, windows in closed:
                for beat, changes, valid in windows[["beat", "updates", "valid"]].tolist():
                    had = self._found.get(beat, Beat(beat, 0, 0, 0))
                    self._found[beat] = Beat(
                        beat, had.changes + changes, had.windows + 1, had.valid + valid
                    )


def _watch(
    actors: dict[str, Any], exchange: int
) -> tuple[list[CollectorStatus], list[CollectorStatus], list[Sample]]:
    """Return statuses after the warm-up and at the end of the market, and looks in between."""
    first: list[CollectorStatus] = []
    samples: list[Sample] = []
    known = {exchange: psutil.Process(exchange), os.getpid(): psutil.Process()}
    names = {exchange: "exchange", os.getpid(): "driver, with the consumer"}
    began_s = time.monotonic()
    while True:
        time.sleep(_SAMPLE_S)
        told = fleet.statuses(actors, _READY_S)
        statuses = [one for one in told.values() if isinstance(one, CollectorStatus)]
        if len(statuses) < len(told):
            raise SystemExit(f"a collector does not answer: {told}")
        if time.monotonic() - began_s < _WARM_UP_S:
            continue
        first = first or statuses
        names |= {status.pid: status.name for status in statuses}
        for child in psutil.Process().children(recursive=True):
            known.setdefault(child.pid, child)
        spool_bytes = statuses[0].spool.spool_bytes if statuses[0].spool else 0
        samples.append(_sample(spool_bytes, known, names))
        if all(status.ended for status in statuses):
            return first, statuses, samples


def _sample(spool_bytes: int, known: dict[int, psutil.Process], names: dict[int, str]) -> Sample:
    cpu_s: Counter[str] = Counter()
    memory_mb: Counter[str] = Counter()
    for pid, process in known.items():
        with suppress(psutil.NoSuchProcess), process.oneshot():
            times, memory = process.cpu_times(), process.memory_info()
            name = names.get(pid, "Ray's own")
            cpu_s[name] += times.user + times.system
            memory_mb[name] += (memory.rss - memory.shared) / 1e6
    machine = psutil.cpu_times()
    busy_s = sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice
    return Sample(
        at_s=time.monotonic(),
        spool_bytes=spool_bytes,
        cpu_s=dict(cpu_s),
        memory_mb=dict(memory_mb),
        others_cpu_s=busy_s - sum(cpu_s.values()),
        load=os.getloadavg()[0],
    )


def _gaps(store: Store) -> list[str]:
    """Return the reasons of all gaps recorded, but for the beginning."""
    found = []
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert manifest
        found += [gap.reason for one in manifest.sessions for gap in one.gaps]
    return [reason for reason in found if reason != "start"]


def _recorded(store: Store) -> tuple[int, int]:
    """Return how many changes and trades are under the root."""
    changes = trades = 0
    for product_id, day in partitions(store):
        manifest = read_manifest(store, product_id, day)
        assert manifest
        kinds = read_partition(store, manifest)["kind"]
        changes += int((kinds == Kind.CHANGE).sum())
        trades += int((kinds == Kind.TRADE).sum())
    return changes, trades


if __name__ == "__main__":
    main()
