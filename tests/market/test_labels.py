"""Labels equal what a search over action sequences finds (section 6)."""

import random
from typing import Any

import numpy as np
import pytest

from market.actions import Fees
from market.labels import labels, optimal
from market.windows import WINDOW
from tests.reference.labels import breadth_first, exhaustive, labels_of

TOLERANCE_BPS = 1e-6
FEES = [(0.0, 0.0), (120.0, 60.0), (5.0, 0.0), (0.0, 3.0), (40.0, 25.0), (900.0, 0.0)]


def as_windows(records: list[dict[str, Any]]) -> np.ndarray:
    """Plain dicts as window rows; 0 stands for null trade extremes, as the table has it."""
    windows = np.zeros(len(records), dtype=WINDOW)
    for row, record in zip(windows, records, strict=True):
        for name, value in record.items():
            row[name] = 0 if value is None else value
    return windows


def small_market(rng: random.Random, count: int, holes: float, middle: int) -> list[dict[str, Any]]:
    """Beats on a few ticks, so that ties and fills are frequent; some invalid, some missing."""
    beat, records = rng.randrange(10**9), []
    for _ in range(count):
        beat += 1 if rng.random() >= holes else rng.randrange(2, 4)
        bid = middle + rng.randrange(-2, 3)
        ask = bid + rng.choice([1, 1, 2, 3])
        trades = rng.choice([0, 0, 1, 3])
        low, high = sorted(middle + rng.randrange(-3, 5) for _ in range(2))
        valid = rng.random() >= holes
        records.append(
            {
                "beat": beat,
                "valid": valid,
                "bid": bid if valid else 0,
                "ask": ask if valid else 0,
                "low_ask": ask - rng.choice([0, 0, 1, 2]),
                "high_bid": bid + rng.choice([0, 0, 1, 2]),
                "trade_low": low if trades else None,
                "trade_high": high if trades else None,
                "trades": trades,
            }
        )
    return records


def walk(seed: int, count: int) -> list[dict[str, Any]]:
    """A random walk with quiet stretches, jumps and wicks."""
    rng = random.Random(seed)
    middle, records = 64_000, []
    for beat in range(count):
        middle += rng.choice([0, 0, 1, -1, rng.randrange(-30, 31)])
        spread = rng.choice([1, 1, 2, 8])
        bid, ask = middle, middle + spread
        trades = rng.randrange(3)
        wick = rng.choice([0, 0, 0, 5, 25])
        records.append(
            {
                "beat": 1000 + beat,
                "valid": True,
                "bid": bid,
                "ask": ask,
                "low_ask": ask - rng.choice([0, wick]),
                "high_bid": bid + rng.choice([0, wick]),
                "trade_low": bid - rng.choice([0, wick]) if trades else None,
                "trade_high": ask + rng.choice([0, wick]) if trades else None,
                "trades": trades,
            }
        )
    return records


def compare(found: np.ndarray, wanted: list[list[float] | None]) -> int:
    """Assert equal labels, NaN exactly where there is none; return how many rows have labels."""
    assert found.shape == (len(wanted), 5) and found.dtype == np.float64
    for row, expected in zip(found, wanted, strict=True):
        if expected is None:
            assert np.isnan(row).all()
        else:
            assert np.abs(row - np.array(expected)).max() < TOLERANCE_BPS
    return sum(expected is not None for expected in wanted)


@pytest.mark.parametrize("horizon", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(20))
def test_small_markets_against_all_action_sequences(seed: int, horizon: int) -> None:
    rng = random.Random(1000 * horizon + seed)
    taker, maker = FEES[seed % len(FEES)]
    middle = rng.choice([4, 40, 1000, 6_470_000, 10**12])
    records = small_market(rng, horizon + 8, rng.choice([0.0, 0.0, 0.08]), middle)
    found = labels(as_windows(records), Fees(taker_bps=taker, maker_bps=maker), horizon)
    compare(found, labels_of(records, taker, maker, horizon, exhaustive))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_five_beats_ahead_against_all_action_sequences(seed: int) -> None:
    rng = random.Random(seed)
    taker, maker = FEES[seed % len(FEES)]
    records = small_market(rng, 11, 0.0, 1000)
    found = labels(as_windows(records), Fees(taker_bps=taker, maker_bps=maker), 5)
    assert compare(found, labels_of(records, taker, maker, 5, exhaustive)) == 6


@pytest.mark.parametrize("fees", FEES)
def test_pruning_loses_nothing(fees: tuple[float, float]) -> None:
    rng = random.Random(5)
    records = small_market(rng, 24, 0.02, 1000)
    everything = labels_of(records, *fees, 4, exhaustive)
    pruned = labels_of(records, *fees, 4, breadth_first)
    assert compare(np.array([row or [np.nan] * 5 for row in pruned]), everything) > 5


@pytest.mark.slow
@pytest.mark.parametrize("fees", [(5.0, 0.0), (0.0, 0.0), (120.0, 60.0)])
def test_a_random_walk_at_the_full_horizon_against_the_breadth_first_search(
    fees: tuple[float, float],
) -> None:
    records = walk(7, 200)
    found = labels(as_windows(records), Fees(taker_bps=fees[0], maker_bps=fees[1]))
    assert compare(found, labels_of(records, *fees, 75)) == 125


@pytest.mark.slow
def test_invalid_beats_and_holes_at_the_full_horizon() -> None:
    records = walk(8, 420)
    records[100]["valid"] = False
    del records[250:253]
    for record in records[340:]:
        record["beat"] += 1
    found = labels(as_windows(records), Fees())
    count = compare(found, labels_of(records, 5.0, 0.0, 75))
    # Runs of 100, 149, 87 and 77 beats: each has as many labels as it has beats past the 75th.
    assert count == 25 + 74 + 15 + 2 - (0 if len(records) == 417 else 1)


def test_no_label_where_the_horizon_is_not_whole() -> None:
    records = walk(9, 20)
    assert np.isnan(labels(as_windows(records), Fees(), 20)).all()
    assert np.isnan(labels(as_windows(records), Fees(), 19)[1:]).all()
    assert not np.isnan(labels(as_windows(records), Fees(), 19)[0]).any()
    assert labels(as_windows([]), Fees()).shape == (0, 5)


def two_beats(**following: Any) -> np.ndarray:
    """bid 999, ask 1001, and then a beat that stays there but for what is given."""
    first = {"beat": 5, "valid": True, "bid": 999, "ask": 1001, "low_ask": 1001, "high_bid": 999}
    return as_windows([first, {**first, "beat": 6, **following}])


def test_one_beat_by_hand() -> None:
    values = labels(two_beats(), Fees(taker_bps=10.0, maker_bps=0.0), 1)[0]
    # Median 1000: a forced order loses half the spread, 1 tick, and 10 bp of 1001 or 999.
    assert values == pytest.approx([-10 - 10.01, 0, -10 - 9.99, 0, 0], abs=1e-9)


@pytest.mark.parametrize(
    ("following", "buys", "sells"),
    [
        ({"low_ask": 1000}, True, False),
        ({"low_ask": 1001}, False, False),
        ({"trades": 1, "trade_low": 1000, "trade_high": 1000}, False, False),
        ({"trades": 1, "trade_low": 999, "trade_high": 1000}, True, False),
        ({"trades": 1, "trade_low": 1000, "trade_high": 1001}, False, True),
        ({"high_bid": 1000}, False, True),
        ({"high_bid": 1000, "low_ask": 1000}, True, True),
    ],
)
def test_resting_orders_fill_by_the_strict_rules(
    following: dict[str, int], buys: bool, sells: bool
) -> None:
    # Bid 989, ask 993 (median 991) afterwards: a sale at 1000 gains 9, a purchase loses 9.
    windows = two_beats(**following)
    windows["bid"][1], windows["ask"][1] = 989, 993
    values = labels(windows, Fees(taker_bps=0.0, maker_bps=0.0), 1)[0]
    assert values[1] == pytest.approx(-90.0 if buys else 0.0, abs=1e-9)
    assert values[3] == pytest.approx(90.0 if sells else 0.0, abs=1e-9)


def test_maker_fee_is_charged_on_resting_fills() -> None:
    values = labels(two_beats(low_ask=1000, high_bid=1000), Fees(taker_bps=0, maker_bps=7.0), 1)[0]
    assert values[[1, 3]] == pytest.approx([-7.0, -7.0], abs=1e-9)


def test_labels_do_not_depend_on_what_lies_outside_their_beats() -> None:
    records = walk(10, 60)
    whole = labels(as_windows(records), Fees(), 20)
    part = labels(as_windows(records[15:45]), Fees(), 20)
    assert part[:10].tobytes() == whole[15:25].tobytes()


def test_optimal_marks_all_within_the_tolerance_of_the_best() -> None:
    values = np.array(
        [
            [3.0, 3.0, 1.0, 2.0, 3.0],
            [0.0, -0.5e-6, -2e-6, -1.0, -3.0],
            [-5.0, -4.0, -4.0 - 0.9e-6, -4.0 - 1.1e-6, -6.0],
            [np.nan] * 5,
            [0.0] * 5,
        ]
    )
    assert optimal(values).tolist() == [
        [True, True, False, False, True],
        [True, True, False, False, False],
        [False, True, True, False, False],
        [False] * 5,
        [True] * 5,
    ]
