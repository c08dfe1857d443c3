"""L2 updates through the book with a window every 4 s, on a deep book and on a thin one.

Every book reads the same level changes from memory and gives the same 900 samples: best bid and
ask and the size per 0.1 % from the mid out to 2 %, on both sides. Before the clock starts, all
samples are compared: integers, so equal or not. Ours also notes the beat's other fields.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Result, compare, report
from benchmarks.workload import BEATS, BTC, THIN, Shape, Workload, workload
from benchmarks.yardsticks import python_books, sorted_vector
from market.events import Kind, mark
from market.windows import BEAT_NS, WindowBuilder

SAMPLED = ("bid", "ask", "bid_depth", "ask_depth")
SLOW_BEATS = 45  # What books driven from Python are given: the first twentieth.

Run = Callable[[], object]


def measure() -> list[Result]:
    """Measure both books beside every yardstick that is installed."""
    return [*_measure(BTC, "btc"), *_measure(THIN, "thin")]


def _measure(shape: Shape, name: str) -> list[Result]:
    made = workload(shape)
    print(made.describe())  # noqa: T201
    ours = partial(_ours, made.events)
    against = _compiled(made)
    for yardstick, (run, _) in against.items():
        _check(f"{yardstick} on {name}", run(), ours())
    part = _first_beats(made.events, SLOW_BEATS)
    for yardstick, (run, amount) in _from_python(part, 2 * shape.within).items():
        found = [np.array(column) for column in zip(*run(), strict=True)]
        _check(f"{yardstick} on {name}", dict(zip(SAMPLED, found, strict=True)), _ours(part))
        against[yardstick] = run, amount
    title = f"L2 updates through the book, sampled every 4 s: {name}"
    return compare(title, "updates/s", ours, against, made.changes, runs=7)


def _ours(events: NDArray[np.void]) -> NDArray[np.void]:
    return WindowBuilder().feed(events)


def _compiled(made: Workload) -> dict[str, tuple[Run, int]]:
    """Return the compiled yardsticks, each with the number of rows that it applies."""
    sample, room = sorted_vector.sample_book, 2 * made.shape.levels
    against: dict[str, tuple[Run, int]] = {
        f"sorted vectors, {style.__name__}": (
            partial(sample, made.events, room, BEATS, style),
            made.changes,
        )
        for style in (sorted_vector.plain, sorted_vector.tuned)
    }
    try:
        from benchmarks.yardsticks import hftbacktest_roi
    except ImportError as missing:
        print(f"hftbacktest is skipped: {missing}")  # noqa: T201
        return against
    low, high = made.mids
    bounds = int(0.978 * low), int(1.022 * high)  # 2 %, and a mid that errs by 0.2 %.
    run = partial(hftbacktest_roi.sample_book, hftbacktest_roi.rows_of(made.events), *bounds, BEATS)
    return against | {"hftbacktest ROI, local-only": (run, made.changes)}


def _from_python(part: NDArray[np.void], deepest: int) -> dict[str, tuple[Run, int]]:
    """Return the yardsticks driven from Python, on a part of the rows."""
    against: dict[str, tuple[Run, int]] = {}
    for name, make in (
        ("sortedcontainers", partial(python_books.sorted_dicts, part)),
        ("nautilus_trader", partial(python_books.nautilus, part, deepest)),
    ):
        try:
            against[name] = make(), len(part) - 1
        except ImportError as missing:
            print(f"{name} is skipped: {missing}")  # noqa: T201
    return against


def _first_beats(events: NDArray[np.void], beats: int) -> NDArray[np.void]:
    end_ns = int(events["ns"][0]) + beats * BEAT_NS
    end = np.array([mark(Kind.CLOCK, end_ns, end_ns)], events.dtype)
    return np.concatenate([events[events["ns"] < end_ns], end])


def _check(name: str, found, ours: NDArray[np.void]) -> None:  # type: ignore[no-untyped-def]
    for field in SAMPLED:
        if not np.array_equal(found[field], ours[field]):
            raise SystemExit(f"{name} gives another {field} than ours; nothing was measured")


if __name__ == "__main__":
    report(measure())
