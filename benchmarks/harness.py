"""How every benchmark measures: ours and each yardstick in alternation, medians, in one process.

Absolute speeds move by tens of per cent between machines and between minutes; the ratio of two
medians taken in alternation moves much less, so ratios are what the table states.
"""

import json
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import NamedTuple


class Result(NamedTuple):
    """One row of the table: our figure beside one yardstick's or one limit."""

    name: str
    value: float
    unit: str
    ratio: float  # How many times better than `against`; more is better, also for a limit.
    against: str


class Table(NamedTuple):
    """A table of its own for docs/benchmarks.md."""

    name: str
    text: str


def compare(
    name: str,
    unit: str,
    ours: Callable[[], object],
    against: dict[str, tuple[Callable[[], object], int]],
    amount: int,
    runs: int = 5,
) -> list[Result]:
    """Return one result per yardstick, from medians of `runs` runs in alternation.

    `against` gives each yardstick its work and its own amount: slow ones may do less. Everything
    runs once before, so that nothing is compiled while the clock runs.
    """
    work = [(ours, amount), *against.values()]
    for call, _ in work:
        call()
    times: list[list[float]] = [[] for _ in work]
    for _ in range(runs):
        for (call, _), taken in zip(work, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    value, *speeds = (n / median(taken) for (_, n), taken in zip(work, times, strict=True))
    results = [
        Result(name, value, unit, value / speed, yardstick)
        for yardstick, speed in zip(against, speeds, strict=True)
    ]
    for result, speed in zip(results, speeds, strict=True):
        print(  # noqa: T201
            f"{name}: {value:,.0f} {unit}; {result.against}: {speed:,.0f}; "
            f"ratio {result.ratio:.2f}",
            flush=True,
        )
    return results


def compare_cpu(
    name: str,
    unit: str,
    ours: Callable[[], object],
    against: dict[str, Callable[[], object]],
    amount: int,
    limit: int | None,
    runs: int = 5,
) -> list[Result]:
    """Measure as `compare` does, but the processor's time, and against a limit of `unit` too.

    All do the same amount. Print also the rate on the wall.
    """
    work = [ours, *against.values()]
    taken: list[list[float]] = [[] for _ in work]
    walls = []
    for run in range(runs + 1):
        for times, call in zip(taken, work, strict=True):
            wall, start = time.perf_counter(), time.process_time()
            call()
            if run:  # The first one compiles.
                times.append(time.process_time() - start)
                walls += [time.perf_counter() - wall] if call is ours else []
    value, *others = (amount / median(times) for times in taken)
    results = [
        Result(name, value, unit, value / other, yardstick)
        for yardstick, other in zip(against, others, strict=True)
    ]
    if limit:
        results.append(Result(name, value, unit, value / limit, f"limit {limit:,} {unit}"))
    print(  # noqa: T201
        f"{name}: {value:,.0f} {unit}, {amount / median(walls):,.0f} a second on the wall; "
        + "; ".join(f"{r.against}: ratio {r.ratio:.2f}" for r in results),
        flush=True,
    )
    return results


def report(results: Iterable[Result], tables: Iterable[Table] = ()) -> None:
    """Print one JSON line per result and table, which `python -m benchmarks` reads."""
    for found in (*results, *tables):
        print(json.dumps(found._asdict()), flush=True)  # noqa: T201
