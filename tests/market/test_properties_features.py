"""Features against the plain reference, over hostile windows (section 4).

Beats are invalid or missing anywhere, depths are zero or huge, and what invalid beats hold must
not be looked at. That serving gives the same bits is in `test_properties_windows.py` as well.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.features import FeatureBuilder, Features, features, valid_run
from market.windows import WINDOW
from tests.reference.features import samples_of

NAMES = ["beat", "valid", "bid", "ask", "bid_depth", "ask_depth"]
REACH = 68


class Market(NamedTuple):
    """What the windows are made of; everything else follows from the seed."""

    seed: int
    beats: int
    broken: tuple[int, ...]  # Places of invalid beats.
    missing: tuple[int, ...]  # Places before which beats are missing.
    middle: int  # Ticks.
    most: int  # Lots in a bucket, usually.
    spike: int  # Lots in a bucket, at times.
    sparse: float  # How likely a bucket is empty, and how likely a whole side is.


def windows_of(market: Market) -> np.ndarray:
    """The windows of a market."""
    rng = np.random.default_rng([market.seed, market.beats, len(market.broken)])
    n = market.beats
    windows = np.zeros(n, WINDOW)
    steps = np.ones(n, np.int64)
    steps[[at for at in market.missing if at < n]] = rng.integers(2, 100)
    windows["beat"] = 10**8 + np.cumsum(steps)
    windows["valid"] = ~np.isin(np.arange(n), market.broken)
    bid = np.maximum(market.middle + rng.integers(-5, 6, n) * (market.middle // 9), 1)
    windows["bid"], windows["ask"] = bid, bid + rng.integers(1, 4, n) ** 9
    for name in ("bid_depth", "ask_depth"):
        depth = rng.integers(0, market.most + 1, (n, 20))
        depth[rng.random((n, 20)) < market.sparse] = 0
        depth[rng.random(n) < market.sparse] = 0
        stretch = rng.integers(n + 1)
        depth[stretch : stretch + rng.integers(4)] = 0
        depth[rng.integers(n + 1) :: 7, rng.integers(20)] = market.spike
        windows[name] = depth
    for name in NAMES[2:]:  # What an invalid beat holds is nothing.
        windows[name][~windows["valid"]] = rng.choice([0, -1, 2**40])
    return windows


@st.composite
def markets(draw: st.DrawFn, most_beats: int) -> Market:
    """Markets of up to so many beats, broken in few places, so that there are samples."""
    beats = draw(st.sampled_from([*range(100, most_beats), 0, 1, 67, 68, 69, 70]))
    places = st.lists(st.integers(0, max(beats - 1, 0)), max_size=2).map(tuple)
    return Market(
        seed=draw(st.integers(0, 2**32 - 1)),
        beats=beats,
        broken=draw(places),
        missing=draw(places),
        middle=draw(st.sampled_from([2, 50, 64_000, 10**9, 2**50])),
        most=draw(st.sampled_from([0, 1, 1000, 10**9, 10**15, 2**56])),
        spike=draw(st.sampled_from([0, 10**16, 2**60])),
        sparse=draw(st.sampled_from([0.0, 0.3, 0.9, 0.97])),
    )


def assert_reference(market: Market, tick: str) -> Counter[str]:
    """Features equal the reference; what was compared."""
    windows = windows_of(market)
    columns = [windows[name].tolist() for name in NAMES]
    records = [dict(zip(NAMES, row, strict=True)) for row in zip(*columns, strict=True)]
    wanted = samples_of(records, tick)
    found = features(windows, float(tick))
    assert found.beats.tolist() == [sample["beat"] for sample in wanted]
    for name, width in (("medians", 10), ("bids", 20), ("asks", 20)):
        expected = np.array([sample[name] for sample in wanted]).reshape(-1, width)
        values = getattr(found, name)
        assert values.dtype == np.float64 and values.shape == expected.shape
        np.testing.assert_allclose(values, expected, rtol=1e-14, atol=0)
    return Counter(
        samples=len(wanted),
        none=len(windows) - len(wanted),
        unequal=int((found.bids != found.asks).any(axis=1).sum()),
        empty=int((found.bids.sum(axis=1) == 0).sum()),
        lone=int((found.bids.max(axis=1, initial=0) == 1).sum()),
    )


def swept(cases: int, most_beats: int) -> Counter[str]:
    """Compare that many markets; what was compared."""
    compared: Counter[str] = Counter()

    @settings(max_examples=cases, derandomize=True, deadline=None)
    @given(markets(most_beats), st.sampled_from(["0.01", "0.00000001", "1", "0.00025", "100"]))
    def run(market: Market, tick: str) -> None:
        compared.update(assert_reference(market, tick))

    run()
    return compared


def test_features_of_hostile_windows_equal_the_reference() -> None:
    compared = swept(50, 180)
    assert compared["samples"] > 500 and compared["none"] > 500
    assert min(compared.values()) > 0, compared


@pytest.mark.slow
def test_features_of_many_hostile_windows_equal_the_reference() -> None:
    compared = swept(250, 240)
    assert compared["samples"] > 5000 and compared["none"] > 5000


def joined(parts: list[Features]) -> list[bytes]:
    """The bytes of features in parts, in order."""
    return [np.concatenate(columns).tobytes() for columns in zip(*parts, strict=True)]


def test_incremental_equals_batch_one_by_one_and_in_overlapping_chunks_bit_for_bit() -> None:
    compared: Counter[str] = Counter()

    @settings(max_examples=60, derandomize=True, deadline=None)
    @given(markets(200), st.sampled_from([0.01, 1e-8, 100.0]), st.integers(1, 90))
    def run(market: Market, tick: float, step: int) -> None:
        windows = windows_of(market)
        whole = features(windows, tick)
        nothing, builder = features(windows[:0], tick), FeatureBuilder(tick)
        pushed = [builder.push(windows[i : i + 1]) for i in range(len(windows))]
        assert {len(found.beats) for found in pushed} <= {0, 1}
        starts = range(0, len(windows), step)
        chunks = [features(windows[max(i - REACH, 0) : i + step], tick) for i in starts]
        assert joined([nothing, *pushed]) == joined([nothing, *chunks]) == joined([whole])
        compared["samples"] += len(whole.beats)
        compared["none"] += len(windows) - len(whole.beats)

    run()
    assert compared["samples"] > 500 and compared["none"] > 500


@settings(max_examples=200, derandomize=True, deadline=None)
@given(markets(200))
def test_the_length_of_a_valid_run_counts_consecutive_valid_beats(market: Market) -> None:
    windows = windows_of(market)
    run, before, wanted = 0, None, []
    for beat, valid in zip(windows["beat"].tolist(), windows["valid"].tolist(), strict=True):
        run = (run if before == beat - 1 else 0) + 1 if valid else 0
        before = beat
        wanted.append(run)
    assert valid_run(windows).tolist() == wanted
