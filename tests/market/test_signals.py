"""Signals follow their formulas, are finite whatever the windows, and are live what they were."""

import datetime
import math
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import QuaverError
from market.features import LOOKBACK_BEATS, FeatureBuilder, features
from market.products import Product, product_of
from market.signals import NAMES, SignalsConfig, names, signals
from market.windows import WINDOW
from tests.market.test_properties_features import Market, markets
from tests.market.test_properties_features import windows_of as quiet_windows_of
from tests.reference.signals import signals_of

ALL = SignalsConfig(**dict.fromkeys(SignalsConfig.__struct_fields__, True))
LISTED = product_of("BTC-USD", "0.01", "0.00000001")
GRIDS = [("0.01", "0.00000001"), ("0.00000001", "1"), ("100", "0.1")]


def windows_of(market: Market) -> np.ndarray:
    """The windows of a market in which trades come and go."""
    windows = quiet_windows_of(market)
    rng = np.random.default_rng(market.seed)
    n = len(windows)
    for name in ("buy_lots", "sell_lots"):
        lots = rng.integers(0, market.most + 1, n)
        lots[rng.random(n) < market.sparse] = 0
        lots[rng.integers(n + 1) :: 7] = market.spike
        lots[~windows["valid"]] = rng.choice([0, -1, 2**40])
        windows[name] = lots
    return windows


def as_records(windows: np.ndarray) -> list[dict[str, Any]]:
    wanted = ("beat", "valid", "bid", "ask", "buy_lots", "sell_lots", "bid_depth", "ask_depth")
    columns = [windows[name].tolist() for name in wanted]
    return [dict(zip(wanted, row, strict=True)) for row in zip(*columns, strict=True)]


def calm(n: int = 69, first_beat: int = 446_566_500) -> np.ndarray:
    """Valid windows at one price, with 10 lots in each bucket and no trade."""
    windows = np.zeros(n, WINDOW)
    windows["beat"], windows["valid"] = first_beat + np.arange(n), True
    windows["bid"], windows["ask"] = 9_999, 10_001
    windows["bid_depth"] = windows["ask_depth"] = 10
    return windows


def of_last(windows: np.ndarray, listed: Product = LISTED) -> dict[str, float]:
    """All signals of the last beat, by name."""
    return dict(zip(names(ALL), signals(windows, listed, ALL)[-1].tolist(), strict=True))


def test_against_the_reference_over_hostile_windows() -> None:
    compared: Counter[str] = Counter()

    @settings(max_examples=12, derandomize=True, deadline=None)
    @given(markets(130), st.sampled_from(GRIDS))
    def run(market: Market, grid: tuple[str, str]) -> None:
        windows = windows_of(market)
        found = signals(windows, product_of("A-B", *grid), ALL)
        wanted = signals_of(as_records(windows), *grid)
        assert found.shape == (len(wanted), len(names(ALL)))
        assert found.dtype == np.float64 and np.isfinite(found).all()
        assert features(windows, float(grid[0])).beats.tolist() == [s["beat"] for s in wanted]
        for column, name in zip(found.T, names(ALL), strict=True):
            expected = [sample[name] for sample in wanted]
            np.testing.assert_allclose(column, expected, rtol=1e-9, atol=1e-9, err_msg=name)
            compared[name] += sum(abs(value) > 1e-9 for value in expected)

    run()
    assert min(compared[name] for name in names(ALL)) > 100, compared


def test_what_is_switched_on_are_these_columns_of_all_of_them() -> None:
    windows = windows_of(Market(1, 120, (), (), 64_000, 1000, 0, 0.3))
    whole = dict(zip(names(ALL), signals(windows, LISTED, ALL).T, strict=True))
    for on in [(), ("taker", "time_of_day"), *((switch,) for switch in NAMES)]:
        config = SignalsConfig(**dict.fromkeys(on, True))
        found = signals(windows, LISTED, config)
        assert names(config) == tuple(name for switch in on for name in NAMES[switch])
        assert found.shape == (120 - LOOKBACK_BEATS, len(names(config)))
        for column, name in zip(found.T, names(config), strict=True):
            assert column.tobytes() == whole[name].tobytes()


def test_nothing_is_on_unless_asked_for() -> None:
    assert names(SignalsConfig()) == ()
    assert set(NAMES) == set(SignalsConfig.__struct_fields__)
    assert list(NAMES) == list(SignalsConfig.__struct_fields__)
    assert len(set(names(ALL))) == len(names(ALL))
    assert signals(calm(70), LISTED, SignalsConfig()).shape == (2, 0)
    with pytest.raises(QuaverError, match="taker"):
        SignalsConfig(taker="no")  # type: ignore[arg-type]
    with pytest.raises(msgspec.ValidationError, match="takers"):
        msgspec.convert({"takers": True}, SignalsConfig)


def test_live_equals_batch_bit_for_bit_also_over_gaps() -> None:
    compared: Counter[str] = Counter()

    @settings(max_examples=25, derandomize=True, deadline=None)
    @given(markets(300), st.sampled_from(GRIDS))
    def run(market: Market, grid: tuple[str, str]) -> None:
        windows, listed = windows_of(market), product_of("A-B", *grid)
        builder, pushed = FeatureBuilder(listed.tick), [np.empty((0, len(names(ALL))))]
        for i in range(len(windows)):
            found = builder.push(windows[i : i + 1])
            pushed.append(signals(builder.recent, listed, ALL))
            assert len(pushed[-1]) == len(found.beats)
        batch = signals(windows, listed, ALL)
        assert np.concatenate(pushed).tobytes() == batch.tobytes()
        compared["samples"] += len(batch)
        compared["broken"] += len(batch) > 0 and bool(market.broken or market.missing)

    run()
    assert compared["samples"] > 500 and compared["broken"] > 5


def test_nothing_after_the_beat_and_nothing_before_its_reach_changes_a_signal() -> None:
    windows = windows_of(Market(3, 200, (), (), 64_000, 1000, 0, 0.3))
    known = signals(windows, LISTED, ALL)[100 - LOOKBACK_BEATS]
    others = windows_of(Market(4, 200, (), (), 900, 50, 0, 0.3))
    others["beat"] = windows["beat"]
    within = slice(100 - LOOKBACK_BEATS, 101)
    others[within] = windows[within]
    found = signals(others, LISTED, ALL)
    assert found[100 - LOOKBACK_BEATS].tobytes() == known.tobytes()
    assert not np.array_equal(found[101 - LOOKBACK_BEATS], signals(windows, LISTED, ALL)[33])


def test_order_flow_by_hand() -> None:
    assert of_last(calm())["order_flow_272s"] == 0.0
    windows = calm()
    windows["bid"][-1] = 10_000  # Ten lots came at a better price, all of it new.
    assert of_last(windows)["order_flow_4s"] == 10 / 10
    windows["bid_depth"][-1, 0] = 30
    assert of_last(windows)["order_flow_4s"] == 30 / ((10 + 10 + 30 + 10) / 4)
    windows = calm()
    windows["ask"][-3:] = 10_005  # What was offered is gone; what is above was there.
    assert of_last(windows)["order_flow_4s"] == 0.0
    assert of_last(windows)["order_flow_32s"] == 1.0
    windows["ask_depth"][-2:, 0] = 16
    windows["ask_depth"][:, 1:] = 999  # Only the nearest bucket counts.
    assert of_last(windows)["order_flow_32s"] == (10 - 6) / ((18 * 10 + 2 * 6) / 18)
    windows["bid_depth"] = windows["ask_depth"] = 0
    assert of_last(windows)["order_flow_32s"] == 0.0


def test_taker_imbalance_by_hand() -> None:
    windows = calm()
    windows["buy_lots"][-1], windows["sell_lots"][-8] = 3, 9
    windows["sell_lots"][-9], windows["buy_lots"][1], windows["buy_lots"][0] = 4, 20, 1000
    found = of_last(windows)
    assert found["taker_4s"] == 1.0
    assert found["taker_32s"] == (3 - 9) / 12
    assert found["taker_272s"] == (23 - 13) / 36
    assert [of_last(calm())[name] for name in NAMES["taker"]] == [0.0] * 3


def test_spread_and_depth_by_hand() -> None:
    windows = calm()
    windows["bid"][-1], windows["ask"][-1] = 9_990, 10_010
    windows["bid_depth"][-1], windows["ask_depth"][-1] = 30, 10
    found = of_last(windows, product_of("A-B", "0.5", "0.001"))
    assert found["spread_bps"] == 20.0
    assert found["depth_imbalance"] == 0.5
    # 800 lots of 0.001 coins at 5,000.
    np.testing.assert_allclose(found["depth_log"], math.log(4_001), rtol=1e-14)
    windows["bid_depth"][-1] = windows["ask_depth"][-1] = 0
    found = of_last(windows)
    assert (found["depth_log"], found["depth_imbalance"]) == (0.0, 0.0)


def test_volatility_by_hand() -> None:
    windows = calm()
    windows["bid"][::2] += 100  # From 10,000 to 10,100 and back at every beat.
    windows["ask"][::2] += 100
    found = of_last(windows)
    step = 1e4 * math.log(1.01)
    np.testing.assert_allclose(found["volatility_32s_bps"], step * math.sqrt(8), rtol=1e-12)
    np.testing.assert_allclose(found["volatility_272s_bps"], step * math.sqrt(68), rtol=1e-12)
    assert of_last(calm())["volatility_272s_bps"] == 0.0


@pytest.mark.parametrize(
    ("moment", "day", "week"),
    [
        ("2026-08-10T00:00:00", 0.0, 0.0),  # A Monday.
        ("2026-08-10T06:00:00", 0.25, 0.25 / 7),
        ("2026-08-13T12:00:00", 0.5, 3.5 / 7),
        ("2026-08-16T23:59:56", 1 - 4 / 86_400, 1 - 4 / (7 * 86_400)),
    ],
)
def test_the_time_of_day_is_that_of_the_beats_end(moment: str, day: float, week: float) -> None:
    end = datetime.datetime.fromisoformat(f"{moment}+00:00")
    last = int(end.timestamp()) // 4 - 1
    found = of_last(calm(first_beat=last - 68))
    wanted = [f(math.tau * share) for share in (day, week) for f in (math.sin, math.cos)]
    np.testing.assert_allclose([found[n] for n in NAMES["time_of_day"]], wanted, atol=1e-12)


@pytest.mark.parametrize("name", ["buy_lots", "sell_lots", "bid_depth", "ask_depth"])
def test_negative_lots_are_refused_and_name_their_beat(name: str) -> None:
    windows = calm(75)
    windows[name][3] = -1
    with pytest.raises(ValueError, match=r"negative, but are in beat 446566503$"):
        signals(windows, LISTED, ALL)
    windows["valid"][3] = False
    assert len(signals(windows, LISTED, ALL)) == 3


def test_what_are_no_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="WINDOW dtype"):
        signals(np.zeros(3), LISTED, ALL)
    with pytest.raises(ValueError, match="ascending"):
        signals(calm()[::-1], LISTED, ALL)
