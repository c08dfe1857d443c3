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


def report(results: Iterable[Result]) -> None:
    """Print one JSON line per result, which `python -m benchmarks` reads."""
    for result in results:
        print(json.dumps(result._asdict()), flush=True)  # noqa: T201
