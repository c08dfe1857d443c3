"""Batches: every row once an epoch, in an order that seed and epoch alone decide."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import batches
from datasets.batches import Batches, Part
from datasets.samples import Samples

ROOT = Path(__file__).resolve().parents[2]


def numbered(n: int) -> Samples:
    """Samples whose every column tells the row."""
    row = np.arange(n, dtype=np.float64)
    features = {name: np.outer(row, np.ones(w)) for name, w in (("medians", 10), ("bids", 20))}
    return Samples(
        beat=np.arange(n, dtype=np.int64),
        product=(np.arange(n) // 100).astype(np.int32),
        asks=-features["bids"],
        label=np.outer(row, [1.0, -1.0, 0.0, 2.0, 3.0]),
        signals=np.outer(row, [0.5, 4.0]),
        **features,
    )


def rows_of(found: list[Samples]) -> list[int]:
    """The rows that batches bring, after a look that their columns are of the same rows."""
    for batch in found:
        np.testing.assert_array_equal(batch.product, batch.beat // 100)
        for column in (
            batch.medians,
            batch.bids,
            -batch.asks,
            batch.label[:, :1],
            2 * batch.signals[:, :1],
        ):
            assert (column == batch.beat[:, None]).all()
    return [row for batch in found for row in batch.beat.tolist()]


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of 40 rows, so that few rows are many groups."""
    monkeypatch.setattr(batches, "BLOCK_ROWS", 8)
    monkeypatch.setattr(batches, "GROUP_BLOCKS", 5)


@given(
    n=st.integers(1, 300), size=st.integers(1, 100), seed=st.integers(0, 3), at=st.integers(0, 400)
)
@settings(max_examples=60, deadline=None)
def test_every_row_comes_once_and_any_batch_can_be_gone_on_from(
    n: int, size: int, seed: int, at: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BLOCK_ROWS", 8)
        patch.setattr(batches, "GROUP_BLOCKS", 5)
        part = Part.of(numbered(n))
        found = [rows_of([batch]) for batch in Batches(part, size, seed).epoch(1)]
        assert sorted(row for batch in found for row in batch) == list(range(n))
        assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
        tail = [rows_of([batch]) for batch in Batches(part, size, seed).epoch(1, from_batch=at)]
        assert tail == found[at:]


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("n", [30, 200])
def test_each_epoch_and_each_seed_has_an_order_of_its_own(n: int) -> None:
    part = Part.of(numbered(n))
    orders = [
        tuple(rows_of(list(Batches(part, 16, seed).epoch(epoch))))
        for seed in (0, 1)
        for epoch in (1, 2, 3)
    ]
    assert len(set(orders)) == 6
    assert tuple(range(n)) not in orders


@pytest.mark.usefixtures("small_groups")
def test_a_group_mixes_blocks_from_anywhere() -> None:
    n = 4000
    order = np.array(rows_of(list(Batches(Part.of(numbered(n)), 20, 0).epoch(1))))
    groups = order.reshape(-1, 40)
    # Five blocks of eight neighbours each, and the rows of all five drawn in turn.
    assert {len(set((group // 8).tolist())) for group in groups} == {5}
    spread = np.mean([np.ptp(group) for group in groups])
    assert spread > n / 2
    same_block = np.mean(order[1:] // 8 == order[:-1] // 8)
    assert same_block < 0.3  # 7 of 39 if the rows of a group are drawn at random.


def test_a_set_smaller_than_a_group_is_shuffled_row_by_row() -> None:
    n = 20_000
    order = np.array(rows_of(list(Batches(Part.of(numbered(n)), 512, 0).epoch(1))))
    # Of a random permutation, rows and places correlate by some 1 / sqrt(n).
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 5 / np.sqrt(n)
    assert np.mean(abs(np.diff(order)) < batches.BLOCK_ROWS) < 0.12  # 2 * 1024 / n.


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("from_batch", [0, 9])
def test_what_a_batch_holds_was_fetched_before_and_once(
    monkeypatch: pytest.MonkeyPatch, from_batch: int
) -> None:
    fetched: list[int] = []

    def fetch(_: Part, first: int, last: int) -> None:
        fetched.extend(range(first, last + 1))

    monkeypatch.setattr(Part, "fetch", fetch)
    n, ahead = 208, []  # 26 whole blocks, of which five are a group.
    for batch in Batches(Part.of(numbered(n)), 16, 0).epoch(1, from_batch):
        assert set(batch.beat.tolist()) <= set(fetched)
        ahead.append(len(fetched))
    assert len(fetched) == len(set(fetched))
    if from_batch:
        assert len(fetched) <= n - 3 * 40  # Nine batches use up three groups of 40 rows.
    else:
        assert len(fetched) == n
        assert ahead[:2] == [2 * 40, 2 * 40]  # The first group and the next, not all.


@pytest.mark.usefixtures("small_groups")
def test_only_labelled_rows_of_the_part_come() -> None:
    samples = numbered(200)
    samples.label[::3] = np.nan
    mask = samples.beat >= 50
    wanted = [row for row in range(50, 200) if row % 3]
    part = Part.of(samples, mask)
    assert len(part) == len(wanted)
    assert sorted(rows_of(list(Batches(part, 16, 0).epoch(1)))) == wanted
    in_order = list(part.in_order(16))
    assert rows_of(in_order) == wanted
    assert [len(batch) for batch in in_order] == [16] * 6 + [4]
    assert np.concatenate(list(part.column("beat"))).tolist() == wanted
    assert part.products() == [0, 1]


def test_batches_are_copies() -> None:
    samples = numbered(10)
    for batch in (next(Batches(Part.of(samples), 4, 0).epoch(1)), Part.of(samples).take(slice(4))):
        batch.medians[:] = np.nan
    assert np.isfinite(samples.medians).all()


def test_a_part_without_rows_has_no_batches() -> None:
    part = Part.of(numbered(5), np.zeros(5, bool))
    assert list(Batches(part, 4, 0).epoch(1)) == [] == list(part.in_order(4))
    assert part.products() == []


def test_another_process_finds_the_same_order() -> None:
    code = (
        "from datasets.batches import Batches, Part\n"
        "from tests.datasets.test_batches import numbered, rows_of\n"
        "print(rows_of(list(Batches(Part.of(numbered(3000)), 64, 7).epoch(3))))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == str(
        rows_of(list(Batches(Part.of(numbered(3000)), 64, 7).epoch(3)))
    )
