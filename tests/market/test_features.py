"""Features follow section 4, and serving computes them bit for bit as training does."""

import random
from typing import Any

import numpy as np
import pytest

from market.features import LOOKBACK_BEATS, FeatureBuilder, features, valid_run
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


def test_a_single_lot_is_the_whole_depth() -> None:
    records = market(14, 69)
    for record in records:
        record["bid_depth"], record["ask_depth"] = [0] * 20, [0] * 20
    records[-2]["ask_depth"] = [0] * 19 + [1]
    _, _, bids, asks = features(as_windows(records), 0.01)
    assert bids[0].tolist() == [0.0] * 20
    assert asks[0].tolist() == [0.0] * 19 + [1.0]


def test_features_use_nothing_after_their_beat() -> None:
    records = market(9, 120)
    whole = features(as_windows(records), 0.01)
    early = features(as_windows(records[:100]), 0.01)
    for part in range(4):
        assert early[part].tobytes() == whole[part][:32].tobytes()


def test_runs_by_hand() -> None:
    beats = [3, 4, 5, 6, 8, 9, 10, 12, 13]
    valid = [1, 1, 0, 1, 1, 1, 1, 0, 1]
    windows = as_windows(
        [{"beat": b, "valid": v, "bid": 1, "ask": 2} for b, v in zip(beats, valid, strict=True)]
    )
    assert valid_run(windows).tolist() == [1, 2, 0, 1, 1, 2, 3, 0, 1]
    assert valid_run(windows[:0]).tolist() == []


def test_a_view_and_a_read_only_array_give_the_same() -> None:
    windows = as_windows(market(10, 80))
    wanted = features(windows, 0.01)
    double = np.zeros(160, WINDOW)
    double[::2] = windows
    windows.flags.writeable = False
    for found in (features(double[::2], 0.01), features(windows, 0.01)):
        for part in range(4):
            assert found[part].tobytes() == wanted[part].tobytes()


@pytest.mark.parametrize("top", [2**57 - 1, 2**57, 2**60])
def test_books_as_full_as_they_come(top: int) -> None:
    records = market(11, 72)
    for i, record in enumerate(records):
        record["bid_depth"] = [top, 7, *[0] * 16, i, top]
        record["ask_depth"] = [2**61 // 20] * 20
    _, _, bids, asks = features(as_windows(records), 1.0)
    for row, sample in enumerate(samples_of(records, "1")):
        np.testing.assert_allclose(bids[row], sample["bids"], rtol=1e-15, atol=1e-300)
        np.testing.assert_allclose(asks[row], [0.05] * 20, rtol=1e-15)


@pytest.mark.parametrize("side", ["bid_depth", "ask_depth"])
@pytest.mark.parametrize("beat", [70, 71, 72])
@pytest.mark.parametrize("lots", [[-1], [-(2**63)], [2**61, 2**61, 2**61, 2**61], [2**63 - 1] * 2])
def test_depths_that_cannot_be_are_refused(side: str, beat: int, lots: list[int]) -> None:
    windows = as_windows(market(12, 75))
    first = int(windows["beat"][0])
    windows[side][beat, 20 - len(lots) :] = lots
    message = rf"^windows: bid_depth and ask_depth must .* {first + beat - 2} .. {first + beat}$"
    with pytest.raises(ValueError, match=message):
        features(windows, 0.01)


@pytest.mark.parametrize("quote_increment", [0, 0.0, -0.01, np.nan, np.inf, "0.01", None, True])
def test_increments_that_are_none_are_refused(quote_increment: Any) -> None:
    with pytest.raises(ValueError, match=r"^quote_increment must be positive and finite, got"):
        features(as_windows([]), quote_increment)
    with pytest.raises(ValueError, match=r"^quote_increment must be positive and finite, got"):
        FeatureBuilder(quote_increment)


@pytest.mark.parametrize(
    ("field", "value"),
    [("beat", 5), ("beat", 7), ("bid", 0), ("bid", 1001), ("ask", -1), ("ask", 2**62)],
)
def test_windows_that_cannot_be_are_refused(field: str, value: int) -> None:
    windows = as_windows([{"beat": b, "valid": True, "bid": 999, "ask": 1001} for b in (5, 6, 7)])
    windows[field][1] = value
    for function in (valid_run, lambda rows: features(rows, 0.01)):
        with pytest.raises(ValueError, match=r"^windows"):
            function(windows)


@pytest.mark.parametrize(
    "windows", [None, [], np.zeros(3), np.zeros((2, 2), WINDOW), np.zeros((), WINDOW)]
)
def test_what_is_no_row_of_windows_is_refused(windows: Any) -> None:
    message = r"^windows must have (the WINDOW dtype|one dimension), got"
    for function in (valid_run, lambda rows: features(rows, 0.01), FeatureBuilder(0.01).push):
        with pytest.raises(ValueError, match=message):
            function(windows)


def test_a_push_that_is_refused_leaves_no_trace() -> None:
    windows = as_windows(market(13, 3 * LOOKBACK_BEATS))
    wanted, found = FeatureBuilder(0.01), FeatureBuilder(0.01)
    for i in range(len(windows)):
        bad = windows[i : i + 1].copy()
        bad["ask"] = bad["bid"]
        refused = [bad, windows[i : i + 2], windows[:0]]
        if i:
            refused.append(windows[i - 1 : i])
        for window in refused[: 1 if i == len(windows) - 1 else None]:
            with pytest.raises(ValueError, match=r"^window"):
                found.push(window)
        pair = wanted.push(windows[i : i + 1]), found.push(windows[i : i + 1])
        assert [part.tobytes() for part in pair[0]] == [part.tobytes() for part in pair[1]]
        assert len(pair[0].beats) == (i >= LOOKBACK_BEATS)
