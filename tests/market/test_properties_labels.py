"""Labels against searches over action sequences, in hostile markets (section 6).

Prices sit where orders just fill and just do not, beats are invalid or missing anywhere, prices
leap tenfold, and many actions are optimal together.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.actions import Fees
from market.labels import advantage, labels, optimal
from market.windows import WINDOW
from tests.reference.labels import (
    Search,
    breadth_first,
    exact_breadth_first,
    exhaustive,
    labels_of,
)

TOLERANCE_BPS = 1e-6
NAMES = ["beat", "valid", "bid", "ask", "low_ask", "high_bid", "trades", "trade_low", "trade_high"]
FEES = [(5, 0), (0, 0), (120, 60), (9999, 9999), (9999, 0), (0, 9999), (0.5, 0.25), (3, 7)]


class Market(NamedTuple):
    """What the windows are made of; everything else follows from the seed."""

    seed: int
    beats: int
    middle: int  # Ticks where the price starts.
    path: str  # "still", "walk" or "leaps".
    spread: int  # The widest, in ticks; 1 is one tick always.
    broken: float  # How likely a beat is invalid, and how likely beats are missing before it.


def windows_of(market: Market) -> np.ndarray:
    """The windows of a market."""
    rng = np.random.default_rng([market.seed, market.beats, market.middle, market.spread])
    n = market.beats
    if market.path == "leaps":
        # Never more than a factor of 100 between two beats: beyond, float64 cannot tell 1e-6 bp.
        decade = np.cumsum(rng.choice([0, 0, 0, 0, 0, 1, 2], n)) % 3
        middle = market.middle * 10**decade + rng.integers(-2, 3, n)
    elif market.path == "walk":
        middle = market.middle + np.cumsum(rng.integers(-9, 10, n))
    else:
        middle = market.middle + rng.integers(-1, 2, n) * (rng.random(n) < 0.2)
    bid = np.maximum(middle, 1)
    ask = bid + rng.integers(1, market.spread + 1, n)
    windows = np.zeros(n, WINDOW)
    windows["beat"] = 10**9 + np.cumsum(1 + (rng.random(n) < market.broken) * rng.integers(1, 4, n))
    windows["valid"] = rng.random(n) >= market.broken
    windows["bid"], windows["ask"] = bid, ask

    # Extremes around the prices at which resting orders of the beat before would fill.
    buy_at, sell_at = np.roll(ask, 1) - 1, np.roll(bid, 1) + 1
    beside = rng.choice([-1, 0, 0, 1, 1, 10**6], (4, n))
    windows["low_ask"] = np.clip(buy_at + beside[0], 1, ask)
    windows["high_bid"] = np.maximum(sell_at - beside[1], bid)
    windows["trades"] = trades = rng.choice([0, 1, 5], n)
    windows["trade_low"] = np.where(trades > 0, np.maximum(buy_at + beside[2], 1), 0)
    high = np.maximum(np.maximum(sell_at - beside[3], 1), windows["trade_low"])
    windows["trade_high"] = np.where(trades > 0, high, 0)

    # What an invalid beat holds is nothing.
    for name in NAMES[2:]:
        nothing = rng.choice([0, -1, 1, 2**40], n) * rng.integers(0, 2)
        windows[name] = np.where(windows["valid"], windows[name], nothing)
    return windows


@st.composite
def markets(draw: st.DrawFn, beats: st.SearchStrategy[int], broken: tuple[float, ...]) -> Market:
    """Markets of some length, with so much broken."""
    return Market(
        seed=draw(st.integers(0, 2**32 - 1)),
        beats=draw(beats),
        middle=draw(st.sampled_from([3, 40, 1000, 64_000, 10**7])),
        path=draw(st.sampled_from(["still", "walk", "leaps"])),
        spread=draw(st.sampled_from([1, 2, 4, 100])),
        broken=draw(st.sampled_from(broken)),
    )


def as_dicts(windows: np.ndarray) -> list[dict]:
    """Windows as plain dicts; null trade extremes where there was no trade."""
    records = [
        dict(zip(NAMES, row, strict=True))
        for row in zip(*(windows[name].tolist() for name in NAMES), strict=True)
    ]
    for record in records:
        if not record["trades"]:
            record["trade_low"] = record["trade_high"] = None
    return records


def compare(
    windows: np.ndarray, fees: tuple[float, float], horizon: int, search: Search
) -> Counter[str]:
    """Labels against a search; how many rows there were with a label and without."""
    found = labels(windows, Fees(taker_bps=fees[0], maker_bps=fees[1]), horizon)
    wanted = labels_of(as_dicts(windows), *fees, horizon, search)
    there = np.array([row is not None for row in wanted], bool)
    assert found.shape == (len(wanted), 5) and found.dtype == np.float64
    assert np.isnan(found[~there]).all()
    if there.any():
        expected = np.array([row for row in wanted if row is not None])
        assert np.abs(found[there] - expected).max() < TOLERANCE_BPS
    return Counter(labels=int(there.sum()), none=int((~there).sum()))


def searched(cases: int, horizons: list[int], more: int, search: Search) -> Counter[str]:
    """Compare with a search in that many markets; how many rows, and of which horizons."""
    compared: Counter[str] = Counter()

    @settings(max_examples=cases, derandomize=True, deadline=None)
    @given(st.data(), st.sampled_from(horizons), st.sampled_from(FEES))
    def run(data: st.DataObject, horizon: int, fees: tuple[float, float]) -> None:
        length = st.sampled_from([*range(horizon + 2, horizon + more), 0, 1, horizon])
        market = data.draw(markets(length, (0, 0, 0.5 / horizon)))
        counts = compare(windows_of(market), fees, horizon, search)
        compared.update(counts)
        compared["horizons"] += not compared[f"{horizon}"]
        compared[f"{horizon}"] += counts["labels"]

    run()
    return compared


SHORT, LONG = list(range(1, 6)), [1, 2, 75, 80, *range(1, 81)]


def test_every_action_sequence_of_short_horizons() -> None:
    compared = searched(100, SHORT, 10, exhaustive)
    assert all(compared[f"{horizon}"] > 10 for horizon in SHORT)
    assert compared["labels"] > 200 and compared["none"] > 200


def test_the_breadth_first_search_at_any_horizon() -> None:
    compared = searched(50, LONG, 20, breadth_first)
    assert all(compared[f"{horizon}"] for horizon in LONG[:4])
    assert compared["labels"] > 100 and compared["none"] > 200


@pytest.mark.slow
def test_every_action_sequence_of_short_horizons_in_many_markets() -> None:
    compared = searched(600, SHORT, 16, exhaustive)
    assert compared["labels"] > 2000 and compared["none"] > 1000


@pytest.mark.slow
def test_the_breadth_first_search_at_any_horizon_in_many_markets() -> None:
    compared = searched(120, LONG, 50, breadth_first)
    assert compared["horizons"] > 40
    assert compared["labels"] > 1000 and compared["none"] > 1000


def exact_labels(
    windows: np.ndarray, fees: tuple[float, float], horizon: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(whether there is a label, labels, optimal actions) by the search in whole numbers."""
    columns = {name: windows[name].astype(np.int64) for name in NAMES}
    taker, maker = (round(100 * bps) for bps in fees)
    profits, mid2 = exact_breadth_first(columns, taker, maker, horizon)
    beats = windows["beat"]
    there = np.zeros(len(windows), bool)
    for k in range(len(profits)):
        whole = beats[k + horizon] - beats[k] == horizon
        there[k] = whole and windows["valid"][k : k + horizon + 1].all()
    values = np.full((len(windows), 5), np.nan)
    choices = np.zeros((len(windows), 5), bool)
    kept = there[: len(profits)]
    profits, mid2 = profits[kept], mid2[kept, None]
    values[there] = profits / (100 * mid2)  # In bp: / 2e6 ticks, / (mid2 / 2), * 1e4.
    choices[there] = (profits.max(axis=1, keepdims=True) - profits) / (100 * mid2) <= TOLERANCE_BPS
    return there, values, choices


def exactly(cases: int, beats: tuple[int, int]) -> Counter[str]:
    """Compare with the search in whole numbers in that many markets; what was reached."""
    reached: Counter[str] = Counter()

    @settings(max_examples=cases, derandomize=True, deadline=None)
    @given(
        markets(st.integers(*beats), (0, 0.001, 0.01)),
        st.sampled_from([1, 2, 3, 10, 37, 73, 74, 75, 75, 75, 76, 80]),
        st.sampled_from(FEES),
    )
    def run(market: Market, horizon: int, fees: tuple[float, float]) -> None:
        windows = windows_of(market)
        found = labels(windows, Fees(taker_bps=fees[0], maker_bps=fees[1]), horizon)
        there, values, choices = exact_labels(windows, fees, horizon)
        assert (np.isnan(found) == ~there[:, None]).all()
        assert not there.any() or np.abs(found - values)[there].max() < TOLERANCE_BPS
        assert (optimal(found) == choices).all()
        np.testing.assert_array_equal(advantage(found), found - found[:, 4:])

        reached["labels"] += int(there.sum())
        reached["none"] += int((~there).sum())
        reached["holes"] += int((np.diff(windows["beat"]) > 1).sum())
        reached["labels at 75"] += int(there.sum()) * (horizon == 75)
        for count in range(1, 6):
            reached[f"{count} optimal"] += int((choices.sum(axis=1) == count).sum())
        now, then = windows[:-1][there[:-1]], windows[1:][there[:-1]]
        buy_at, sell_at, traded = now["ask"] - 1, now["bid"] + 1, then["trades"] > 0
        for name, here in {
            "low_ask == P": then["low_ask"] == buy_at,
            "low_ask == P + 1": then["low_ask"] == buy_at + 1,
            "trade_low == P": traded & (then["trade_low"] == buy_at) & (then["low_ask"] > buy_at),
            "trade_low == P - 1": traded & (then["trade_low"] == buy_at - 1),
            "high_bid == P": then["high_bid"] == sell_at,
            "high_bid == P - 1": then["high_bid"] == sell_at - 1,
            "trade_high == P": traded
            & (then["trade_high"] == sell_at)
            & (then["high_bid"] < sell_at),
            "trade_high == P + 1": traded & (then["trade_high"] == sell_at + 1),
            "one tick apart": now["ask"] - now["bid"] == 1,
            "tenfold": abs(np.log10(then["bid"] / now["bid"])) > 0.9,
        }.items():
            reached[name] += int(here.sum())

    run()
    return reached


def test_exact_values_and_ties_over_long_runs() -> None:
    reached = exactly(60, (1, 400))
    assert min(reached.values()) > 0, reached


@pytest.mark.slow
def test_exact_values_and_ties_over_many_long_runs() -> None:
    reached = exactly(250, (1, 900))
    assert min(reached.values()) > 5, reached


@pytest.mark.parametrize("horizon", [1, 2, 5, 40, 75])
def test_the_search_in_whole_numbers_is_the_breadth_first_search(horizon: int) -> None:
    for i, fees in enumerate(FEES):
        path = ["still", "walk", "leaps"][i % 3]
        windows = windows_of(Market(i, horizon + 6, [3, 64_000][i % 2], path, 3, 0.0))
        _, values, _ = exact_labels(windows, fees, horizon)
        wanted = labels_of(as_dicts(windows), *fees, horizon, breadth_first)
        np.testing.assert_allclose(values[:6], wanted[:6], rtol=0, atol=1e-7)
        assert np.isnan(values[6:]).all()
