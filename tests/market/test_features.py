"""Features follow section 4, and serving computes them bit for bit as training does."""

import random
from typing import Any

import numpy as np
import pytest

from market.features import FeatureBuilder, features
from market.windows import WINDOW
from tests.reference.features import samples_of

LAGS = [68, 60, 53, 45, 38, 30, 23, 15, 8, 0]


def market(seed: int, count: int, broken: tuple[int, ...] = (), holes: tuple[int, ...] = ()) -> Any:
    """Plain window records; beats at `broken` are invalid, those at `holes` are missing."""
    rng = random.Random(seed)
    middle, records = 64_000, []
    for beat in range(count):
        middle = max(middle + rng.randrange(-40, 41), 10)
        valid = beat not in broken
        top = rng.choice([0, 1, 10**6, 10**14])
        record = {
            "beat": 446_563_257 + beat,
            "valid": valid,
            "bid": middle if valid else 0,
            "ask": middle + rng.randrange(1, 9) if valid else 0,
            "bid_depth": [rng.randrange(top + 1) if valid else 0 for _ in range(20)],
            "ask_depth": [rng.randrange(top + 1) if valid else 0 for _ in range(20)],
        }
        if beat not in holes:
            records.append(record)
    return records


def as_windows(records: list[dict[str, Any]]) -> np.ndarray:
    """Plain dicts as window rows."""
    windows = np.zeros(len(records), dtype=WINDOW)
    for row, record in zip(windows, records, strict=True):
        for name, value in record.items():
            row[name] = value
    return windows


CASES = {
    "unbroken": market(1, 160),
    "just enough": market(2, 69),
    "one short": market(3, 68),
    "invalid beats": market(4, 400, broken=(0, 69, 70, 150, 230, 399)),
    "missing beats": market(5, 400, holes=(80, 81, 82, 200, 310)),
    "both": market(6, 500, broken=(10, 100, 101, 300), holes=(190, 191, 399)),
    "empty": [],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tick", ["0.01", "0.00001", "0.00000001", "1"])
def test_against_the_reference(name: str, tick: str) -> None:
    records = CASES[name]
    beats, medians, bids, asks = features(as_windows(records), float(tick))
    wanted = samples_of(records, tick)
    assert beats.tolist() == [sample["beat"] for sample in wanted]
    assert (medians.shape, bids.shape, asks.shape) == (
        (len(wanted), 10),
        (len(wanted), 20),
        (len(wanted), 20),
    )
    assert {medians.dtype, bids.dtype, asks.dtype} == {np.dtype(np.float64)}
    for i, sample in enumerate(wanted):
        np.testing.assert_allclose(medians[i], sample["medians"], rtol=1e-14)
        np.testing.assert_allclose(bids[i], sample["bids"], rtol=1e-12, atol=1e-300)
        np.testing.assert_allclose(asks[i], sample["asks"], rtol=1e-12, atol=1e-300)


def test_the_cases_hold_samples() -> None:
    counts = {name: len(samples_of(records, "1")) for name, records in CASES.items()}
    assert counts["unbroken"] == 160 - 68 and counts["just enough"] == 1
    assert counts["one short"] == counts["empty"] == 0
    # Runs between broken beats: 68, 79, 79 and 168 beats long; 68 are needed before the first.
    assert counts["invalid beats"] == 0 + 11 + 11 + 100
    assert counts["missing beats"] == 12 + 49 + 41 + 21


@pytest.mark.parametrize("name", CASES)
def test_live_offline_parity_pushed_one_by_one_equals_batch_bit_for_bit(name: str) -> None:
    windows = as_windows(CASES[name])
    batch = features(windows, 0.01)
    builder = FeatureBuilder(0.01)
    pushed = [builder.push(windows[i : i + 1]) for i in range(len(windows))]
    assert all(len(found[0]) in (0, 1) for found in pushed)
    for part in range(4):
        joined = np.concatenate([found[part] for found in pushed]) if pushed else batch[part]
        assert joined.dtype == batch[part].dtype
        assert joined.tobytes() == batch[part].tobytes()


def test_medians_are_where_they_should_be_and_oldest_first() -> None:
    records = market(7, 69)
    for i, record in enumerate(records):
        record["bid"], record["ask"] = 1000 + 2 * i, 1001 + 2 * i
    _, medians, _, _ = features(as_windows(records), 0.5)
    assert medians[0].tolist() == [(1000.5 + 2 * (68 - lag)) * 0.5 for lag in LAGS]


def test_depth_by_hand() -> None:
    records = market(8, 69)
    for record in records:
        record["bid_depth"], record["ask_depth"] = [7] * 20, [0] * 20
    for record, lots in zip(records[-3:], (10, 20, 60), strict=True):
        record["bid_depth"] = [0] * 20
        record["bid_depth"][lots // 10] = lots
    _, _, bids, asks = features(as_windows(records), 0.01)
    expected = np.zeros(20)
    expected[[1, 2, 6]] = 10 / 90, 20 / 90, 60 / 90
    np.testing.assert_allclose(bids[0], expected, rtol=1e-15)
    assert asks[0].tolist() == [0.0] * 20


def test_features_use_nothing_after_their_beat() -> None:
    records = market(9, 120)
    whole = features(as_windows(records), 0.01)
    early = features(as_windows(records[:100]), 0.01)
    for part in range(4):
        assert early[part].tobytes() == whole[part][:32].tobytes()
