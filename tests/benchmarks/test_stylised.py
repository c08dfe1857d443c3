"""The stylised facts are right on windows whose facts are known by construction."""

import math

import numpy as np
import pytest

from benchmarks.stylised import (
    PAGE,
    _facts_of,
    _rows,
    autocorrelation,
    measure,
    median_of,
    table_of,
)
from market.events import ASK, BID, EVENT, Kind, mark
from market.windows import WINDOW

BEAT_NS = 4_000_000_000


def windows(bids: list[int], asks: list[int]) -> np.ndarray:
    made = np.zeros(len(bids), WINDOW)
    made["beat"], made["valid"] = np.arange(len(bids)), True
    made["bid"], made["ask"], made["updates"] = bids, asks, 8
    made["bid_depth"][:, 0], made["bid_depth"][:, 1] = 1, 3
    made["ask_depth"][:, 0], made["ask_depth"][:, 19] = 300, 100
    return made


def test_the_facts_of_windows_made_by_hand() -> None:
    facts = measure(windows([100, 100, 100, 110, 110], [101, 101, 103, 113, 113]), 7.0)
    assert (facts.beats, facts.spread_median, facts.levels_near) == (5, 3, 7.0)
    assert facts.spread_p90 == 3
    assert facts.spread_bps == pytest.approx(3 / 111.5 * 1e4)
    assert facts.updates_per_s == 2.0
    assert facts.moved == 0.5  # 201 201 203 223 223: two of four steps.
    returns = [0.0, math.log(203 / 201) * 1e4, math.log(223 / 203) * 1e4, 0.0]
    assert facts.return_bps == pytest.approx(np.std(returns))
    assert facts.depth[:2] == (0.5, 0.375) and facts.depth[19] == 0.125
    assert sum(facts.depth) == 1.0
    assert np.isnan(facts.returns).all()  # Too few to say.


def test_invalid_beats_do_not_count_and_no_return_goes_over_them() -> None:
    made = windows([100, 100, 500, 200, 200], [101, 101, 501, 201, 201])
    made["valid"][2] = False
    facts = measure(made, 0.0)
    assert (facts.beats, facts.moved, facts.return_bps) == (4, 0.0, 0.0)


def test_autocorrelation_of_an_alternating_and_of_a_broken_series() -> None:
    alternating = np.tile([1.0, -1.0], 50)
    assert autocorrelation(alternating) == pytest.approx((-1, 1, -1, 1, -1))
    broken = alternating.copy()
    broken[::5] = np.nan
    assert autocorrelation(broken)[1] == pytest.approx(1.0)
    assert np.isnan(autocorrelation(np.ones(100))).all()


def test_all_returns_count_and_thirty_pairs_are_enough() -> None:
    bids = [100, 200] * 16
    facts = measure(windows(bids, [bid + 1 for bid in bids]), 0.0)  # 31 returns, 30 pairs at lag 1.
    assert facts.returns[0] == pytest.approx(-1.0)
    assert np.isnan(facts.returns[1:]).all()
    assert np.isnan(facts.magnitudes[1:]).all()


def test_levels_are_counted_within_two_per_cent_of_the_mid() -> None:
    book = [(BID, 999, 5), (BID, 981, 5), (BID, 980, 5), (ASK, 1001, 5), (ASK, 1019, 5)]
    book += [(ASK, 1020, 5), (ASK, 1500, 5)]
    events = [_rows(book, Kind.SNAPSHOT, BEAT_NS)]
    for beat in range(2, 6):
        events.append(np.array([mark(Kind.CLOCK, beat * BEAT_NS, 0)], EVENT))
        events.append(_rows([(BID, 990, beat)], Kind.CHANGE, beat * BEAT_NS))
    facts = _facts_of(iter(events))
    # 999 990 981 and 1001 1019 are nearer than 20 ticks; 990 is not there at the first close.
    assert facts.levels_near == pytest.approx((2 + 3 * 2.5) / 4)
    assert (facts.beats, facts.updates_per_s, facts.spread_median) == (3, 0.25, 2)


def test_the_table_has_a_column_per_market_and_leaves_out_what_is_not_known() -> None:
    facts = measure(windows([100, 100, 101], [101, 101, 102]), 7.0)
    assert median_of([facts, facts._replace(beats=5), facts._replace(beats=9)]).beats == 5
    lines = table_of({"one": facts, "two": facts}).splitlines()
    assert lines[0] == "| | one | two |"
    assert "| spread, ticks, median | 1 | 1 |" in lines
    assert "| share of depth, bucket 1 | 0.375 | 0.375 |" in lines
    assert "| autocorrelation of returns, lag 1 |  |  |" in lines
    assert PAGE.read_text("utf-8").count("<!-- table: make bench -->") == 1
