"""Building: raw partitions to windows to samples, one partition in one process, and many with Ray.

Ours is all that `quaver build` does to a partition: read and hash its parts, decode them, rebuild
the book, compare its hash, make windows, features and labels, write both tables. One yardstick only
reads the same parts into numpy columns with pyarrow, the other only feeds rows from memory to the
book. Times are the processor's, all threads together: what a core does.
"""

import multiprocessing
import os
import re
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors.raw import DAY_NS, day_of, partition_path
from actors.store import Store, sha256
from benchmarks.__main__ import where
from benchmarks.build_table import Cost, Measured, of_one_more, table_of
from benchmarks.harness import Result, Table, compare_cpu, report
from benchmarks.partitions import CHANGES, DAY_BEATS, FIRST_NS, PARTS, Day, a_day, record_day
from benchmarks.workload import BTC, THIN, Shape
from cluster.session import ray_session
from datasets.build import build, find_todo
from datasets.partition import build_samples, build_windows
from datasets.recipe import Recipe
from datasets.table_manifest import TableManifest, finish
from datasets.tables import read_windows, write_windows
from market.cross import CrossConfig
from market.products import UNIVERSE, product
from market.signals import SignalsConfig
from market.windows import BEAT_NS, WindowBuilder

LIMIT = 5_000_000  # Level changes a second and core.
MEMORY_LIMIT_MB = 512
RUNS = 5
GROWTH, ROUNDS = (1, 10, 100), 3
SMALL = 20  # Times smaller is a partition of those that are built by the hundred.
RECIPE, SPLIT = Recipe(), (0.6, 0.2, 0.2)
PRODUCT, OTHERS = "ADA-USD", ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "DOGE-USD")
EVERY_SIGNAL = Recipe(
    signals=SignalsConfig(**dict.fromkeys(SignalsConfig.__struct_fields__, True)),
    cross=CrossConfig(btc_eth=True, neighbours=3),
    nearest={PRODUCT: OTHERS},
)


def measure() -> tuple[list[Result], Table]:
    """Measure a partition of both books, the memory it takes, and builds of 1 to 100."""
    folder = Path(tempfile.mkdtemp(prefix="quaver-build-"))
    try:
        results: list[Result] = []
        for name, shape in (("btc", BTC), ("thin", THIN)):
            results += _measure_partition(folder / name, name, shape)
        rates = [r.value for r in results if "limit" in r.against]
        results += _measure_signals(folder / "btc")
        results.append(_measure_memory(folder / "btc"))
        small = a_day(THIN, CHANGES // SMALL)
        growth, start_s = _measure_growth(folder, small)
        small_cpu_s = _small_cpu_s(Store(str(folder / f"{GROWTH[-1]}")))
        measured = Measured(
            growth=growth,
            small=small.changes,
            small_cpu_s=small_cpu_s,
            mean_changes=CHANGES,
            mean_cpu_s=sum(CHANGES / rate for rate in rates) / len(rates),
            mean_bytes=sum(p.stat().st_size for p in (folder / "btc" / "raw").rglob("*.parquet")),
            cores=os.cpu_count() or 1,
            start_s=start_s,
        )
        load = f"Load average {os.getloadavg()[0]:.0f}."
        return [*results, *_growth_results(measured)], Table(
            "build", table_of(measured, f"{where()} {load}")
        )
    finally:
        shutil.rmtree(folder)


def _measure_partition(root: Path, name: str, shape: Shape) -> list[Result]:
    """Build one partition over and over, with the windows that its samples read in place."""
    store, made = Store(str(root)), a_day(shape, CHANGES)
    day = record_day(store, PRODUCT, made)
    build_windows(store, PRODUCT, day)
    windows = read_windows(store, PRODUCT, day)
    for number in (-1, 0, 1):
        windows["beat"] = FIRST_NS // BEAT_NS + np.arange(len(windows)) + number * DAY_BEATS
        for other in (PRODUCT, *OTHERS) if number else OTHERS:
            _put_windows(store, other, day_of(FIRST_NS + number * DAY_NS), windows)
    paths = sorted((root / partition_path(PRODUCT, day)).glob("*.parquet"))
    return compare_cpu(
        f"raw partition to samples: {name}",
        "changes/CPU-s",
        partial(_build_one, RECIPE, store, PRODUCT, day),
        {
            "pyarrow to numpy columns, read only": partial(_read_columns, paths),
            "its rows in memory through the book alone": lambda: WindowBuilder().feed(made.events),
        },
        made.changes,
        LIMIT,
        RUNS,
    )


def _measure_signals(root: Path) -> list[Result]:
    """Build the partition with all that a sample can hold, of five other coins too."""
    store, day = Store(str(root)), day_of(FIRST_NS)
    return compare_cpu(
        "raw partition to samples with every signal: btc",
        "changes/CPU-s",
        partial(_build_one, EVERY_SIGNAL, store, PRODUCT, day),
        {"the same without signals": partial(_build_one, RECIPE, store, PRODUCT, day)},
        CHANGES,
        LIMIT,
        RUNS,
    )


def _put_windows(store: Store, product_id: str, day: str, windows: NDArray[np.void]) -> None:
    listed = product(product_id)
    data = write_windows(store, product_id, day, windows)
    manifest = TableManifest(
        table="windows",
        product=product_id,
        day=day,
        inputs_sha256="",
        code_sha256="",
        rows=len(windows),
        valid=len(windows),
        units=(f"{listed.quote_increment:f}", f"{listed.base_increment:f}"),
        bytes=len(data),
        sha256=sha256(data),
    )
    finish(store, manifest)


def _build_one(recipe: Recipe, store: Store, product_id: str, day: str) -> None:
    build_windows(store, product_id, day)
    build_samples(store, product_id, day, recipe)


def _read_columns(paths: list[Path]) -> None:
    for path in paths:
        table = pq.ParquetFile(path).read(use_threads=False)
        for name in table.column_names:
            table[name].to_numpy()


def _measure_memory(root: Path) -> Result:
    """Return what a process that builds the partition has at most, in MB of 2^20 bytes."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(str(root), theirs))
    process.start()
    theirs.close()
    before_mb, peak_mb = pipe.recv()
    process.join()
    name = f"memory of a build: btc, {PARTS} parts"
    print(f"{name}: {peak_mb:.0f} MB, {before_mb:.0f} of them before it")  # noqa: T201
    limit = f"limit {MEMORY_LIMIT_MB} MB"
    return Result(name, peak_mb, "MB", MEMORY_LIMIT_MB / peak_mb, limit)


def _peak(root: str, pipe) -> None:  # type: ignore[no-untyped-def]
    before_mb = _peak_mb()
    _build_one(RECIPE, Store(root), PRODUCT, day_of(FIRST_NS))
    pipe.send((before_mb, _peak_mb()))


def _peak_mb() -> float:
    """The most memory this process had; `getrusage` would count what it was forked from."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def _measure_growth(folder: Path, small: Day) -> tuple[list[Cost], float]:
    """Return what builds of few and of many partitions cost, and what the first one took."""
    stores = []
    for count in GROWTH:
        store = Store(str(folder / f"{count}"))
        for n in range(count):  # Ten days of a product, so that most days have both neighbours.
            record_day(store, UNIVERSE[n // 10].id, small, n % 10, PARTS // SMALL)
        stores.append(store)
    found: list[list[Cost]] = [[] for _ in GROWTH]
    began_s = time.perf_counter()
    with ray_session("local"):
        first = _built(stores[0], GROWTH[0])
        start_s = time.perf_counter() - began_s - first.wall_s
        # Nor does the second count: only with two tasks at once do all workers start.
        _built(stores[1], GROWTH[1])
        for _ in range(ROUNDS):
            for costs, store, count in zip(found, stores, GROWTH, strict=True):
                costs.append(_built(store, count))
    medians = [
        Cost(costs[0].partitions, *(median(cost[i] for cost in costs) for i in (1, 2, 3)))
        for costs in found
    ]
    return medians, start_s + first.wall_s - medians[0].wall_s


def _built(store: Store, count: int) -> Cost:
    """Build everything under a root anew; return what it cost."""
    for table in ("windows", "samples"):
        shutil.rmtree(Path(store.root) / table, ignore_errors=True)
    cpu_s, driver_s, wall_s = _tree_cpu_s(), time.process_time(), time.perf_counter()
    build(store, find_todo(store, RECIPE), SPLIT)
    return Cost(
        count,
        time.perf_counter() - wall_s,
        _tree_cpu_s() - cpu_s,
        time.process_time() - driver_s,
    )


def _tree_cpu_s() -> float:
    """What this process and all that it started have used; those that ended count too."""
    own = psutil.Process()
    return sum(sum(p.cpu_times()[:4]) for p in [own, *own.children(recursive=True)])


def _small_cpu_s(store: Store) -> float:
    """Return what a partition of those built by the hundred costs without Ray."""
    days = [day_of(FIRST_NS + number * DAY_NS) for number in range(10)]

    def all_days() -> None:
        for stage in (build_windows, partial(_samples, RECIPE)):
            for day in days:
                stage(store, UNIVERSE[0].id, day)

    all_days()
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        all_days()
        taken.append(time.process_time() - start)
    return median(taken) / len(days)


def _samples(recipe: Recipe, store: Store, product_id: str, day: str) -> object:
    return build_samples(store, product_id, day, recipe)


def _growth_results(measured: Measured) -> list[Result]:
    few, some, many = measured.growth
    of_few, of_many = of_one_more(few, some), of_one_more(some, many)
    unit = "CPU-s a partition"
    name = f"build with Ray, of {some.partitions} to {many.partitions} partitions, each more"
    return [
        Result(
            name,
            of_many.cpu_s,
            unit,
            of_few.cpu_s / of_many.cpu_s,
            f"of {few.partitions} to {some.partitions}",
        ),
        Result(
            name,
            of_many.cpu_s,
            unit,
            measured.small_cpu_s / of_many.cpu_s,
            "the same without Ray",
        ),
    ]


if __name__ == "__main__":
    found, table = measure()
    report(found, [table])
