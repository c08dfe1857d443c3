"""Imports: plain files of others to raw partitions on disk, in one process.

Ours reads, checks, feeds the books, encodes and writes. The yardsticks only read the same file and
get ticks and lots by rounding floats: msgspec a frame at a time, or pyarrow's CSV reader, which has
threads of its own. Times are those of the processor, all threads together: what a core does.
"""

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from pyarrow import csv

from actors.store import Store
from benchmarks.decode import SEED, by_struct, recorded_frames
from benchmarks.harness import Result, compare_cpu, report
from datasets.imports import import_capture
from datasets.tardis import import_tardis
from market.products import UNIVERSE, Product, product
from sim.wire import Listing, shared_frame

UNIT = "updates/CPU-s"
FRAMES, CHANGES = 100_000, 5
# As many as come within the time of a part: a recording of hours is that over and over, while in
# few frames of 55 products most of the work is to begin 55 partitions.
FRAMES_OF_A_PART = 530_000
UPDATES_S = 1_500_000  # Of one core, from plain frames to raw partitions.
_START_NS = int(np.datetime64("2026-08-09T05:00:00", "ns").astype(np.int64))
_FRAME_NS = 1_666_667  # 600 frames a second: 3,000 updates.


def measure() -> list[Result]:
    """Measure frames of one product and of all 55, a recording's, and Tardis CSV."""
    folder = Path(tempfile.mkdtemp(prefix="quaver-imports-"))
    try:
        results = []
        for name, frames, limit in _captures():
            path = folder / "capture.jsonl"
            amount = _written(path, frames)
            results += compare_cpu(
                f"import, {name}",
                UNIT,
                partial(_import_capture, path, folder / "root"),
                {"msgspec struct + float + round, read only": partial(_by_struct, path)},
                amount,
                limit,
            )
        return results + _measure_tardis(folder)
    finally:
        shutil.rmtree(folder)


def _captures() -> Iterator[tuple[str, Iterable[bytes], int | None]]:
    """Yield what is imported, and how many updates of it a core must do in a second."""
    yield "5 changes a frame", frames_of((product("BTC-USD"),), FRAMES), UPDATES_S
    yield "5 changes a frame, 55 products", frames_of(UNIVERSE, FRAMES_OF_A_PART), UPDATES_S
    yield "no more than 3 minutes of 55 products", frames_of(UNIVERSE, FRAMES), None
    for name, frames in recorded_frames().items():
        yield name, _renumbered(frames * 20), None


def _written(path: Path, frames: Iterable[bytes]) -> int:
    """Write a capture; return how many levels it has."""
    levels = 0
    with path.open("wb") as file:
        for frame in frames:
            file.write(frame + b"\n")
            levels += frame.count(b'"price_level"')
    return levels


def _renumbered(frames: list[bytes]) -> list[bytes]:
    """Return frames with numbers that follow each other, as if nothing came twice."""
    number = re.compile(rb'(?<="sequence_num":)\d+')
    return [number.sub(b"%d" % n, frame, count=1) for n, frame in enumerate(frames)]


def frames_of(products: tuple[Product, ...], count: int) -> Iterator[bytes]:
    """Yield a snapshot of each product and frames of five changes of one of them at a time.

    Changes are within 400 ticks of the middle, which stays, so that books are known throughout.
    """
    rng = np.random.default_rng(SEED)
    listings = [Listing(p) for p in products]
    middle = 100_000
    number = 0
    for listing in listings:
        sides = [{middle + s * i: 1000 for i in range(1, 401)} for s in (-1, 1)]
        yield _frame(number, listing.snapshot(*sides))
        number += 1
    which = rng.integers(0, len(products), count)
    sides = rng.integers(0, 2, (count, CHANGES))
    ticks = middle + rng.integers(2, 401, (count, CHANGES)) * np.where(sides, 1, -1)
    lots = rng.integers(0, 10**6, (count, CHANGES))
    for n, at in enumerate(which.tolist()):
        changes = zip(sides[n].tolist(), ticks[n].tolist(), lots[n].tolist(), strict=True)
        yield _frame(number, listings[at].updates(changes, _START_NS + number * _FRAME_NS))
        number += 1


def _frame(number: int, events: bytes) -> bytes:
    return shared_frame("level2", _START_NS + number * _FRAME_NS, events).numbered(number)


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
    us = _START_NS // 1000 + np.arange(count) // CHANGES * 2_000
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
    return compare_cpu("import, Tardis CSV", UNIT, ours, against, count, 1_000_000)


if __name__ == "__main__":
    report(measure())
