"""A week built day by day is the week in one piece, row by row, with gaps at its midnights."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from actors.raw import partitions
from actors.recorder import Parts, Recorder
from actors.store import Store
from actors.stream import ProductStream
from datasets.partition import build_samples, build_windows
from datasets.recipe import Recipe
from datasets.tables import read_windows, stored, table_path
from market.events import ASK, BID, EVENT, Kind, Reason, mark
from market.features import features
from market.labels import labels
from market.products import product
from market.windows import WindowBuilder
from tests.actors.wire import BEAT_NS, BTC, DAY_NS, MIDNIGHT_NS, SECOND_NS, assert_same_rows

RECIPE = Recipe()
MIDDLE = 10_000
# Of each midnight of the week: seconds before or after it in which the book is not known.
GAPS = (
    None,
    (-8, 0),  # Back with the first frame of the day.
    (0, 2),  # Lost with the first frame of the day.
    (-6, 5),
    (-1, 1_200),
    (-700, -4),  # Back in the last beat of the day.
)
START_NS = MIDNIGHT_NS - DAY_NS // 2
HALF_NS = 900 * SECOND_NS  # Of every midnight so much before and after is dense.


def times() -> list[int]:
    """When frames come: every 20 s, around midnight every second, some on it to the nanosecond."""
    found = set(range(START_NS, START_NS + 6 * DAY_NS, 20 * SECOND_NS))
    for day in range(6):
        midnight_ns = MIDNIGHT_NS + day * DAY_NS
        found |= set(range(midnight_ns - HALF_NS, midnight_ns + HALF_NS, SECOND_NS))
        found |= {midnight_ns - 1, midnight_ns, midnight_ns + 1}
    return sorted(found)


def row(ns: int, kind: Kind, side: int, price: int, size: int, last: bool) -> tuple[int, ...]:
    return (ns, 0, kind, side, last, 0, price, size, ns if kind == Kind.TRADE else 0)


def snapshot(ns: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    sizes = rng.integers(1, 10**6, 60).tolist()
    bids = [row(ns, Kind.SNAPSHOT, BID, MIDDLE - 1 - i, sizes[i], False) for i in range(30)]
    asks = [row(ns, Kind.SNAPSHOT, ASK, MIDDLE + 1 + i, sizes[30 + i], i == 29) for i in range(30)]
    return bids + asks


def week() -> list[NDArray[np.void]]:
    """Frames of one product over six midnights, its book lost and found again around them."""
    rng = np.random.default_rng(7)
    at_ns = [MIDNIGHT_NS + day * DAY_NS for day in range(len(GAPS))]
    lost = [
        (midnight_ns + gap[0] * SECOND_NS, midnight_ns + gap[1] * SECOND_NS)
        for midnight_ns, gap in zip(at_ns, GAPS, strict=True)
        if gap
    ]
    frames, known = [], False
    for ns in times():
        if any(a <= ns < b for a, b in lost):
            rows = [mark(Kind.UNSYNC if known else Kind.CLOCK, ns, 0, Reason.GAP if known else 0)]
            known = False
        elif not known:
            rows, known = snapshot(ns, rng), True
        elif rng.random() < 0.2:
            price = MIDDLE + int(rng.integers(-3, 4))
            rows = [
                row(ns, Kind.TRADE, int(rng.integers(2)), price, int(rng.integers(1, 99)), True)
            ]
        else:
            side, away = int(rng.integers(2)), int(rng.integers(2, 60))
            price = MIDDLE + (away if side == ASK else -away)
            size = int(rng.integers(0, 10**6)) * int(rng.random() < 0.8)
            rows = [row(ns, Kind.CHANGE, side, price, size, True)]
        frames.append(np.array(rows, EVENT))
    return [*frames, np.array([mark(Kind.END, ns, 0)], EVENT)]


@pytest.mark.slow
def test_a_week_built_day_by_day_is_the_week_in_one_piece(tmp_path: Path) -> None:
    store, frames, listed = Store(str(tmp_path)), week(), product(BTC)
    whole = WindowBuilder().feed(np.concatenate(frames))
    parts = Parts(store, "a made-up venue", 20_000)
    stream = ProductStream(Recorder(parts), listed)
    for frame in frames:
        stream.apply(frame)
    parts.close()
    days = [day for _, day in partitions(store)]
    assert len(days) == 7

    for day in days:
        build_windows(store, BTC, day)
    for day in reversed(days):  # In any order.
        build_samples(store, BTC, day, RECIPE)
    assert len(whole) == 6 * DAY_NS // BEAT_NS - 5  # Frames end 20 s before the six days do.
    assert_same_rows(np.concatenate([read_windows(store, BTC, day) for day in days]), whole)

    wanted = features(whole, listed.tick)
    label = labels(whole, RECIPE.fees)[np.searchsorted(whole["beat"], wanted.beats)]
    assert stored(store, "samples") == [(BTC, day) for day in days]
    tables = [pq.read_table(tmp_path / table_path("samples", BTC, day)) for day in days]
    assert sum(len(table) for table in tables) == len(wanted.beats) > 100_000
    assert np.concatenate([t["beat"].to_numpy() for t in tables]).tolist() == wanted.beats.tolist()
    for name in ("medians", "bids", "asks"):
        found = [t[name].combine_chunks().flatten().to_numpy() for t in tables]
        np.testing.assert_array_equal(np.concatenate(found), getattr(wanted, name).reshape(-1))
    present = np.concatenate(
        [t["label"].combine_chunks().is_valid().to_numpy(False) for t in tables]
    )
    assert present.tolist() == (~np.isnan(label[:, 0])).tolist()
    found = [t["label"].combine_chunks().drop_null().flatten().to_numpy() for t in tables]
    np.testing.assert_array_equal(np.concatenate(found), label[present].reshape(-1))
    # Samples reach over the midnight that has no gap, and over none that has.
    for day, gap in enumerate(GAPS):
        border = (MIDNIGHT_NS + day * DAY_NS) // BEAT_NS
        after = (wanted.beats >= border) & (wanted.beats < border + 60)
        assert after.sum() == (60 if gap is None else 0)
