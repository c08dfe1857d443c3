"""Splits follow time, and no label or feature window crosses a border."""

import numpy as np
import pytest

from datasets.splits import split_by_time
from market.errors import QuaverError


def test_borders_and_purge_by_hand() -> None:
    masks = split_by_time(np.arange(1000, 2000, dtype=np.int64))
    kept = {name: np.flatnonzero(mask) + 1000 for name, mask in masks.items()}
    # Borders at 1600 and 1800: the earlier side ends 75 before, the later side starts 68 after.
    assert (kept["train"][0], kept["train"][-1]) == (1000, 1524)
    assert (kept["validation"][0], kept["validation"][-1]) == (1668, 1724)
    assert (kept["test"][0], kept["test"][-1]) == (1868, 1999)


def test_windows_never_cross_and_products_share_the_borders() -> None:
    beats = np.random.default_rng(1).integers(0, 5000, size=20_000)
    masks = split_by_time(beats)
    train, validation, test = (beats[masks[name]] for name in ("train", "validation", "test"))
    assert train.max() + 75 < validation.min() - 68
    assert validation.max() + 75 < test.min() - 68
    assert not (masks["train"] & masks["validation"]).any()


def test_a_hole_does_not_empty_a_part() -> None:
    beats = np.concatenate([np.arange(1000), np.arange(100_000, 101_000)])
    masks = split_by_time(beats)
    assert min(mask.sum() for mask in masks.values()) > 200


def test_zero_fractions_leave_that_part_empty_and_purge_nothing_there() -> None:
    masks = split_by_time(np.arange(1000), (0.8, 0.2, 0.0))
    assert masks["validation"].sum() == 200 - 68
    assert not masks["test"].any()


def test_refusals() -> None:
    with pytest.raises(QuaverError, match="too few"):
        split_by_time(np.arange(200))
    with pytest.raises(QuaverError, match="no samples"):
        split_by_time(np.arange(0))
    with pytest.raises(QuaverError, match="sum to 1"):
        split_by_time(np.arange(2000), (0.5, 0.2, 0.2))
