"""Cross-coin signals day by day are those of one partition, and nothing is lost at midnight."""

from pathlib import Path

import numpy as np
import pytest

from actors.raw import day_of, day_start_ns
from actors.store import Store
from datasets.cross import cross_of_day
from datasets.tables import write_windows
from market.cross import cross, mids
from market.windows import BEAT_NS, WINDOW

DAYS = ("2026-08-08", "2026-08-09", "2026-08-10")
FIRST = day_start_ns(DAYS[0]) // BEAT_NS
DAY_BEATS = 21_600


def market(seed: int, first: int, last: int, broken: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    windows = np.zeros(last - first, WINDOW)
    windows["beat"] = np.arange(first, last)
    windows["valid"] = rng.random(len(windows)) >= broken
    windows["bid"] = 10**6 + np.cumsum(rng.integers(-50, 51, len(windows)))
    windows["ask"] = windows["bid"] + 2
    return windows[near_midnight(windows["beat"]) & (rng.random(len(windows)) >= broken)]


def near_midnight(beats: np.ndarray) -> np.ndarray:
    """Only these are looked at, to be quick."""
    return (beats - FIRST + 500) % DAY_BEATS < 810


@pytest.fixture
def windows() -> dict[str, np.ndarray]:
    """One product always there, one with gaps, one that starts just before a midnight."""
    middle, last = FIRST + DAY_BEATS, FIRST + 2 * DAY_BEATS + 300
    return {
        "BTC-USD": market(1, middle - 400, last, 0.0),
        "ETH-USD": market(2, FIRST + 20_000, last, 0.01),
        "SOL-USD": market(3, middle + DAY_BEATS - 30, last, 0.0),
    }


def test_day_by_day_equals_one_partition(tmp_path: Path, windows: dict[str, np.ndarray]) -> None:
    store = Store(str(tmp_path))
    for name, rows in windows.items():
        days = np.array([day_of(int(beat) * BEAT_NS) for beat in rows["beat"]])
        for day in set(days):
            write_windows(store, name, day, rows[days == day])
    references = ("BTC-USD", None, "ETH-USD", "SOL-USD", "ADA-USD")
    beats = np.arange(FIRST + DAY_BEATS - 500, FIRST + 2 * DAY_BEATS + 310)
    beats = beats[near_midnight(beats)]
    parts = []
    for day in DAYS:
        start = day_start_ns(day) // BEAT_NS
        mine = beats[(beats >= start) & (beats < start + DAY_BEATS)]
        parts.append(cross_of_day(store, day, mine, references))
    found = [windows.get(name or "") for name in references]
    whole = cross(beats, [None if rows is None else mids(rows) for rows in found])
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    first = int(np.searchsorted(beats, FIRST + 2 * DAY_BEATS))  # Of the last day.
    assert whole[first : first + 10, 3].all()
    assert not whole[first + 37, 15] and whole[first + 38, 15]
