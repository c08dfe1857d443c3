"""Imports: plain files of others to raw partitions on disk, in one process.

Ours reads, checks, feeds the books, encodes and writes. The yardsticks only read the same file and
get ticks and lots by rounding floats: msgspec a frame at a time, or pyarrow's CSV reader, which has
threads of its own. Times are those of the processor, all threads together: what a core does.
"""

import re
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from pyarrow import csv

from actors.store import Store
from benchmarks.decode import SEED, by_struct, recorded_frames
from benchmarks.harness import Result, report
from datasets.imports import import_capture
from datasets.tardis import import_tardis
from market.products import UNIVERSE, Product, product
from sim.wire import Envelope, Listing

RUNS = 5
FRAMES, CHANGES = 100_000, 5
UPDATES_S = 1_500_000  # Of one core, from plain frames to raw partitions.
_START = np.datetime64("2026-08-09T05:00:00", "ns")
_FRAME_NS = 1_666_667  # 600 frames a second: 3,000 updates.


def measure() -> list[Result]:
    """Measure frames of one product and of all 55, a recording's, and Tardis CSV."""
    folder = Path(tempfile.mkdtemp(prefix="quaver-imports-"))
    try:
        results = []
        for name, frames in _captures().items():
            path = folder / "capture.jsonl"
            path.write_bytes(b"\n".join(frames) + b"\n")
            levels = sum(frame.count(b'"price_level"') for frame in frames)
            limit = UPDATES_S if name.startswith("5 changes") else None
            results += _measure(
                f"import, {name}",
                levels,
                partial(_import_capture, path, folder / "root"),
                {"msgspec struct + float + round, read only": partial(_by_struct, path)},
                limit,
            )
        return results + _measure_tardis(folder)
    finally:
        shutil.rmtree(folder)


def _captures() -> dict[str, list[bytes]]:
    made = {
        "5 changes a frame": list(frames_of((product("BTC-USD"),), FRAMES)),
        "5 changes a frame, 55 products": list(frames_of(UNIVERSE, FRAMES)),
    }
    recorded = recorded_frames()
    return made | {name: _renumbered(found * 20) for name, found in recorded.items()}


def _renumbered(frames: list[bytes]) -> list[bytes]:
    """Return frames with numbers that follow each other, as if nothing came twice."""
    number = re.compile(rb'(?<="sequence_num":)\d+')
    return [number.sub(b"%d" % n, frame, count=1) for n, frame in enumerate(frames)]


def frames_of(products: tuple[Product, ...], count: int) -> list[bytes]:
    """Return a snapshot of each product and frames of five changes of one of them at a time.

    Changes are within 400 ticks of the middle, which stays, so that books are known throughout.
    """
    rng = np.random.default_rng(SEED)
    listings = [Listing(p) for p in products]
    middle = 100_000
    frames, number = [], 0
    for listing in listings:
        sides = [{middle + s * i: 1000 for i in range(1, 401)} for s in (-1, 1)]
        frames.append(_frame(number, listing.snapshot(*sides)))
        number += 1
    which = rng.integers(0, len(products), count).tolist()
    sides = rng.integers(0, 2, (count, CHANGES)).tolist()
    ticks = rng.integers(2, 401, (count, CHANGES)).tolist()
    lots = rng.integers(0, 10**6, (count, CHANGES)).tolist()
    for at, side, distance, size in zip(which, sides, ticks, lots, strict=True):
        changes = [
            (s, middle + (d if s else -d), q) for s, d, q in zip(side, distance, size, strict=True)
        ]
        ns = int((_START + number * _FRAME_NS).astype(np.int64))
        frames.append(_frame(number, listings[at].updates(changes, ns)))
        number += 1
    return frames


def _frame(number: int, events: object) -> bytes:
    timestamp = f"{_START + number * _FRAME_NS}Z"
    return msgspec.json.encode(Envelope("l2_data", timestamp, number, events))


def _measure(
    name: str,
    amount: int,
    ours: Callable[[], object],
    against: dict[str, Callable[[], object]],
    limit: int | None,
) -> list[Result]:
    """Measure as `harness.compare` does, but the processor's time; print also that on the wall."""
    work = [ours, *against.values()]
    taken: list[list[float]] = [[] for _ in work]
    walls = []
    for run in range(RUNS + 1):
        for times, call in zip(taken, work, strict=True):
            wall, start = time.perf_counter(), time.process_time()
            call()
            if run:  # The first one compiles.
                times.append(time.process_time() - start)
                walls += [time.perf_counter() - wall] if call is ours else []
    value, *others = (amount / median(times) for times in taken)
    unit = "updates/CPU-s"
    results = [
        Result(name, value, unit, value / other, yardstick)
        for yardstick, other in zip(against, others, strict=True)
    ]
    if limit:
        results.append(Result(name, value, unit, value / limit, f"limit {limit:,} updates/s"))
    print(  # noqa: T201
        f"{name}: {value:,.0f} {unit}, {amount / median(walls):,.0f} updates/s on the wall; "
        + "; ".join(f"{r.against}: ratio {r.ratio:.2f}" for r in results),
        flush=True,
    )
    return results


def _import_capture(path: Path, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    import_capture(Store(str(root)), path, "coinbase-advanced", {})


def _by_struct(path: Path) -> None:
    with path.open("rb") as file:
        while lines := file.readlines(1 << 17):
            by_struct(lines)


def _measure_tardis(folder: Path) -> list[Result]:
    path = folder / "book.csv"
    count = 1_000_000
    rng = np.random.default_rng(SEED)
    us = int(_START.astype(np.int64)) // 1000 + np.arange(count) // CHANGES * 2_000
    cents = 10_000_000 + rng.integers(1, 400, count) * np.where(rng.integers(0, 2, count), 1, -1)
    lots = rng.integers(0, 10**8, count)
    rows = ["exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount"]
    rows += [
        f"coinbase,BTC-USD,{t},{t + 5_000},{'true' if i < CHANGES else 'false'},"
        f"{'ask' if c > 10_000_000 else 'bid'},{c // 100}.{c % 100:02d},0.{q:08d}"
        for i, (t, c, q) in enumerate(zip(us.tolist(), cents.tolist(), lots.tolist(), strict=True))
    ]
    path.write_text("\n".join(rows) + "\n")
    root = folder / "root"

    def ours() -> None:
        shutil.rmtree(root, ignore_errors=True)
        import_tardis(Store(str(root)), [path], {})

    def by_pyarrow() -> None:
        table = csv.read_csv(path)
        for name, units in (("price", 100), ("amount", 10**8)):
            np.rint(table[name].to_numpy() * units).astype(np.int64)

    against = {"pyarrow CSV + float + round, read only": by_pyarrow}
    return _measure("import, Tardis CSV", count, ours, against, 1_000_000)


if __name__ == "__main__":
    report(measure())
