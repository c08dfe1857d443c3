"""The books' workload keeps what docs/benchmarks.md says of it, checked row by row with dicts."""

import numpy as np
import pytest

from benchmarks.workload import BEATS, BTC, START_NS, THIN, TOP, Shape, workload
from benchmarks.yardsticks.sorted_vector import plain, sample_book, tuned
from market.events import ASK, BID, Kind
from market.windows import BEAT_NS

UPDATES = 5_000


@pytest.mark.parametrize("shape", [BTC, THIN])
def test_the_workload_keeps_its_promises(shape: Shape) -> None:
    events = workload(shape, UPDATES).events
    first = 2 * shape.levels
    assert (events["kind"][:first] == Kind.SNAPSHOT).all()
    assert (events["kind"][first:-1] == Kind.CHANGE).all() and events["kind"][-1] == Kind.CLOCK
    assert (events["ns"][0], events["ns"][-1]) == (START_NS, START_NS + BEATS * BEAT_NS)
    frames = np.diff(np.flatnonzero(events["last"][first:-1]), prepend=-1)
    assert events["last"][first - 1] == events["last"][-2] == 1
    assert 1 == frames.min() and 5 <= frames.max() <= 9
    assert (np.diff(events["ns"]) >= 0).all()
    within_frame = np.flatnonzero(events["last"][:-1] == 0)
    assert (events["ns"][within_frame] == events["ns"][within_frame + 1]).all()

    books: tuple[dict[int, int], dict[int, int]] = ({}, {})
    deleted = on_top = 0
    for row, (side, price, size) in enumerate(events[["side", "price", "size"]][:-1].tolist()):
        if row == first:
            assert [len(book) for book in books] == [shape.levels, shape.levels]
            near = [sum(100 * abs(p - shape.mid) < 2 * shape.mid for p in book) for book in books]
            assert all(abs(n - shape.within) <= 1 for n in near)
            best = max(books[BID]), min(books[ASK])
        book = books[side]
        if row >= first and row % 10 == 0:
            better = sum(p < price if side == ASK else p > price for p in book)
            on_top += better < TOP
        if size:
            book[price] = size
        else:
            assert row >= first and price in book
            del book[price]
            deleted += 1
        if row >= first:
            touched = price in (*best,) or best[0] < price < best[1]
            best = (max(books[BID]), min(books[ASK])) if touched else best
            assert best[0] < best[1]
    assert 0.37 < deleted / UPDATES < 0.43
    assert 0.8 < 10 * on_top / UPDATES < 0.9
    assert all(abs(len(book) / shape.levels - 1) < 0.05 for book in books)


def test_the_same_seed_gives_the_same_rows() -> None:
    one, same, other = (workload(THIN, 100, seed).events for seed in (1, 1, 2))
    assert (one == same).all() and not (one == other).all()


def test_both_sorted_vectors_sample_what_a_plain_sum_gives() -> None:
    events = workload(THIN, UPDATES).events
    samples = sample_book(events, 2 * THIN.levels, BEATS, plain)
    assert (samples == sample_book(events, 2 * THIN.levels, BEATS, tuned)).all()
    book: dict[tuple[int, int], int] = {}
    for side, price, size in events[["side", "price", "size"]][:-1].tolist():
        book[side, price] = size
    mid2 = int(samples["bid"][-1] + samples["ask"][-1])
    depth = np.zeros((2, 20), np.int64)
    for (side, price), size in book.items():
        bucket = 1000 * abs(2 * price - mid2) // mid2
        depth[side, min(bucket, 19)] += size if bucket < 20 else 0
    assert (samples["bid_depth"][-1] == depth[BID]).all()
    assert (samples["ask_depth"][-1] == depth[ASK]).all()
