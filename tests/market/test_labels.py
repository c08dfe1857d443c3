"""Labels equal what a search over action sequences finds (section 6)."""

import random
from typing import Any

import numpy as np
import pytest

from market.actions import Fees
from market.labels import advantage, labels, optimal
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


def leaps(seed: int, count: int, middle: int, factor: int) -> list[dict[str, Any]]:
    """The same walk, but the price is at times `factor` times as high for a while."""
    rng = random.Random(seed)
    records, high = walk(seed, count), False
    for record in records:
        high ^= rng.random() < 0.15
        for name in ("bid", "ask", "low_ask", "high_bid", "trade_low", "trade_high"):
            if record[name] is not None:
                record[name] += middle * (factor if high else 1)
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
    assert np.isnan(labels(as_windows(walk(9, 20)), Fees(), 2**63)).all()
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


@pytest.mark.parametrize("horizon", range(1, 13))
@pytest.mark.parametrize("first", [0, 446_563_257, -7])
def test_every_place_of_the_block_borders(horizon: int, first: int) -> None:
    records = walk(20 + horizon, 3 * horizon + 12)
    for i, record in enumerate(records):
        record["beat"] = first + i
    found = labels(as_windows(records), Fees(), horizon)
    assert compare(found, labels_of(records, 5.0, 0.0, horizon)) == 2 * horizon + 12


@pytest.mark.parametrize("horizon", range(1, 13))
@pytest.mark.parametrize("gap", ["invalid", "missing", "both"])
def test_runs_shorter_than_the_horizon_as_long_and_longer(horizon: int, gap: str) -> None:
    rng = random.Random(horizon)
    lengths = [horizon + more for more in (-1, 0, 1, 2, 2 * horizon, horizon - 1)] + [1, 2, 3]
    lengths = rng.sample([length for length in lengths if length], k=6)
    records, beat = walk(40 + horizon, sum(lengths) + len(lengths)), 0
    ends = np.cumsum([length + 1 for length in lengths]) - 1
    for i, record in enumerate(records):
        beat += 2 if i in ends and gap == "both" else 1
        record["beat"] = beat
        record["valid"] = i not in ends
    if gap == "missing":
        records = [record for record in records if record["valid"]]
    found = labels(as_windows(records), Fees(taker_bps=1.0), horizon)
    labelled = compare(found, labels_of(records, 1.0, 0.0, horizon))
    assert labelled == sum(max(length - horizon, 0) for length in lengths)


@pytest.mark.parametrize("horizon", [1, 2, 3, 5])
def test_a_cut_at_every_beat(horizon: int) -> None:
    for place in range(16):
        for missing in (False, True):
            records = walk(60, 16)
            records[place]["valid"] = False
            if missing:
                del records[place]
            found = labels(as_windows(records), Fees(), horizon)
            labelled = compare(found, labels_of(records, 5.0, 0.0, horizon))
            assert labelled == max(place - horizon, 0) + max(15 - place - horizon, 0)


# Reference and product round differently: cash of some 1e3 times the median, summed 40 times, may
# err by 40 * 1e3 * 2^-53 * 1e4 bp = 4e-8 bp.
@pytest.mark.parametrize("horizon", [2, 9, 40])
@pytest.mark.parametrize("factor", [1, 10, 100])
@pytest.mark.parametrize("middle", [40, 64_000, 10**12, 2**50])
def test_prices_that_leap(horizon: int, factor: int, middle: int) -> None:
    records = leaps(horizon, horizon + 30, middle, factor)
    for fees in FEES[:3]:
        found = labels(as_windows(records), Fees(taker_bps=fees[0], maker_bps=fees[1]), horizon)
        assert compare(found, labels_of(records, *fees, horizon)) == 30


@pytest.mark.parametrize("horizon", [1, 2, 7, 30])
@pytest.mark.parametrize("middle", [2**57 - 200_000, 2**61])
def test_prices_as_large_as_they_come(horizon: int, middle: int) -> None:
    records = leaps(70, horizon + 30, middle, 1)
    found = labels(as_windows(records), Fees(), horizon)
    assert compare(found, labels_of(records, 5.0, 0.0, horizon)) == 30


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1, 73])
def test_block_borders_at_the_full_horizon(first: int) -> None:
    records = walk(80 + first, 75 * 2 + 80)
    for i, record in enumerate(records):
        record["beat"] = 74 * 6_034_638 + first + i
    records[78]["valid"] = False  # Before it 78 valid beats, after it 151.
    assert compare(labels(as_windows(records), Fees()), labels_of(records, 5.0, 0.0, 75)) == 3 + 76


@pytest.mark.parametrize("horizon", [1, 2, 3, 20])
def test_labels_do_not_depend_on_what_lies_outside_their_beats(horizon: int) -> None:
    records = walk(10, 60)
    whole = labels(as_windows(records), Fees(), horizon)
    for start in range(60 - horizon):
        part = labels(as_windows(records[start : start + horizon + 5]), Fees(), horizon)
        labelled = part[~np.isnan(part[:, 0])]
        assert len(labelled) == min(5, 60 - start - horizon)
        assert labelled.tobytes() == whole[start : start + len(labelled)].tobytes()


def test_a_view_and_a_read_only_array_give_the_same() -> None:
    windows = as_windows(walk(11, 40))
    wanted = labels(windows, Fees(), 5)
    double = np.zeros(80, WINDOW)
    double[::2] = windows
    assert labels(double[::2], Fees(), 5).tobytes() == wanted.tobytes()
    windows.flags.writeable = False
    assert labels(windows, Fees(), 5).tobytes() == wanted.tobytes()


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


def test_advantage_is_what_is_above_doing_nothing() -> None:
    values = np.array([[3.0, 1.0, -2.0, 0.5, 1.5], [np.nan] * 5])
    found = advantage(values)
    assert found[0].tolist() == [1.5, -0.5, -3.5, -1.0, 0.0]
    assert np.isnan(found[1]).all()
    assert advantage(np.zeros((0, 5))).shape == optimal(np.zeros((0, 5))).shape == (0, 5)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(5),
        np.zeros((3, 4)),
        np.zeros((5, 3)),
        np.zeros((1, 3, 5)),
        np.zeros((3, 5), np.float32),
        np.zeros((3, 5), int),
        [[0.0] * 5],
        None,
    ],
)
def test_values_that_are_no_labels_are_refused(values: Any) -> None:
    for function in (optimal, advantage):
        with pytest.raises(ValueError, match=r"^values must be"):
            function(values)


@pytest.mark.parametrize("horizon", [0, -1, 75.0, "75", None, True, np.float64(3)])
def test_horizons_that_are_none_are_refused(horizon: Any) -> None:
    with pytest.raises(ValueError, match=r"^horizon must be a whole number of beats from 1, got"):
        labels(two_beats(), Fees(), horizon)


def test_a_horizon_may_be_an_integer_of_numpy() -> None:
    assert not np.isnan(labels(two_beats(), Fees(), np.int64(1))[0]).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("fees", [None, 5.0, (5.0, 0.0), {"taker_bps": 5.0}, Fees])
def test_fees_that_are_none_are_refused(fees: Any) -> None:
    with pytest.raises(ValueError, match=r"^fees must be Fees, got"):
        labels(two_beats(), fees, 1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("beat", 7, "ascending order of beat, without duplicates, but beat 7 is followed by 7"),
        ("beat", 9, "ascending order of beat, without duplicates, but beat 9 is followed by 7"),
        ("bid", 0, "but beat 6 has bid 0 and ask 1001"),
        ("bid", -5, "but beat 6 has bid -5 and ask 1001"),
        ("ask", 999, "but beat 6 has bid 999 and ask 999"),
        ("ask", 998, "but beat 6 has bid 999 and ask 998"),
        ("ask", 2**62, "but beat 6 has bid 999 and ask 4611686018427387904"),
    ],
)
def test_windows_that_cannot_be_are_refused(field: str, value: int, message: str) -> None:
    first = {"valid": True, "bid": 999, "ask": 1001, "low_ask": 1001, "high_bid": 999}
    windows = as_windows([{**first, "beat": beat} for beat in (5, 6, 7)])
    windows[field][1] = value
    with pytest.raises(ValueError, match=f"^windows.*{message}$"):
        labels(windows, Fees(), 1)
    if field != "beat":  # What an invalid beat's prices are does not matter.
        windows["valid"][1] = False
        assert np.isnan(labels(windows, Fees(), 1)).all()


@pytest.mark.parametrize(
    "windows",
    [
        None,
        [],
        np.zeros(3),
        as_windows([]).reshape(0, 1),
        np.zeros((2, 2), WINDOW),
        np.zeros((), WINDOW),
    ],
)
def test_what_is_no_row_of_windows_is_refused(windows: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^windows must have (the WINDOW dtype|one dimension), got"
    ):
        labels(windows, Fees(), 1)
