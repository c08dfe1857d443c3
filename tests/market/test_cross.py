"""Cross-coin signals: the definition in decimals, and live what a batch gives, bit for bit."""

from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.cross import (
    GIVEN_UP_BEATS,
    LATE_BEATS,
    MOST_NEIGHBOURS,
    WIDTH,
    CrossBuilder,
    CrossConfig,
    cross,
    mids,
    names,
    references_of,
)
from market.errors import QuaverError
from market.windows import BEAT_NS, WINDOW, after_break

FIRST = 446_563_257


def market(
    seed: int, count: int, start: int = FIRST, broken: float = 0.0, holes: float = 0.0
) -> np.ndarray:
    """Windows of a product from `start` on, some beats invalid, some missing."""
    rng = np.random.default_rng(seed)
    windows = np.zeros(count, WINDOW)
    windows["beat"] = start + np.arange(count)
    windows["valid"] = rng.random(count) >= broken
    windows["bid"] = np.maximum(64_000 + np.cumsum(rng.integers(-400, 401, count)), 1)
    windows["ask"] = windows["bid"] + rng.integers(1, 9, count)
    for name in ("bid", "ask"):  # What an invalid beat holds is nothing.
        windows[name][~windows["valid"]] = rng.choice([0, -7, 2**62])
    return windows[rng.random(count) >= holes]


def plain(beat: int, windows: np.ndarray | None) -> list[float]:
    """The columns of one reference, in decimals."""
    mid2 = {}
    for row in windows if windows is not None else ():
        if row["valid"]:
            mid2[int(row["beat"])] = int(row["bid"]) + int(row["ask"])
    returns = []
    for back in (1, 8, 68):
        if beat not in mid2 or beat - back not in mid2:
            return [0.0, 0.0, 0.0, 0.0]
        returns.append(float((Decimal(mid2[beat]) / mid2[beat - back]).ln() * 10_000))
    return [*returns, 1.0]


def batch(beats: np.ndarray, found: list[np.ndarray | None]) -> np.ndarray:
    return cross(beats, [None if w is None else mids(w) for w in found])


CASES: dict[str, Any] = {
    "unbroken": market(1, 160),
    "too short": market(2, 68),
    "just long enough": market(3, 69),
    "invalid beats": market(4, 700, broken=0.05),
    "missing beats": market(5, 700, holes=0.05),
    "both": market(6, 700, broken=0.1, holes=0.1),
    "starts late": market(7, 300, start=FIRST + 250),
    "ends early": market(8, 100),
    "before the first beat asked for": market(9, 500, start=FIRST - 300),
    "empty": np.zeros(0, WINDOW),
    "none": None,
}


@pytest.mark.parametrize("name", CASES)
def test_against_decimals(name: str) -> None:
    beats = FIRST + np.arange(330)
    found = batch(beats, [CASES[name]])
    wanted = np.array([plain(int(beat), CASES[name]) for beat in beats])
    assert found.shape == (330, WIDTH) and found.dtype == np.float64
    np.testing.assert_array_equal(found[:, -1], wanted[:, -1])
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=0)


def test_the_cases_hold_known_and_unknown_beats() -> None:
    known = {
        name: int(batch(FIRST + np.arange(700), [windows])[:, -1].sum())
        for name, windows in CASES.items()
    }
    assert known["unbroken"] == 160 - 68 and known["just long enough"] == 1
    assert known["too short"] == known["empty"] == known["none"] == 0
    assert known["starts late"] == 300 - 68 and known["ends early"] == 100 - 68
    assert known["before the first beat asked for"] == 200
    assert 100 < known["both"] < known["invalid beats"] < 700 - 68


def test_only_the_four_beats_named_are_needed() -> None:
    windows = market(1, 69)
    last = windows["beat"][-1:]
    assert batch(last, [windows])[0, -1] == 1
    for back in range(69):
        for change in ("invalid", "missing"):
            changed = windows.copy()
            if change == "invalid":
                changed["valid"][68 - back] = False
            else:
                changed = np.delete(changed, 68 - back)
            row = batch(last, [changed])[0]
            if back in (0, 1, 8, 68):
                assert row.tolist() == [0, 0, 0, 0], (back, change)
            else:
                assert row.tolist() == batch(last, [windows])[0].tolist(), (back, change)


def test_a_return_is_positive_where_the_median_rose() -> None:
    windows = market(1, 69)
    windows["bid"], windows["ask"] = 9_999, 10_001
    windows["bid"][-1], windows["ask"][-1] = 10_099, 10_101
    windows["bid"][0], windows["ask"][0] = 10_199, 10_201
    up, same, down, known = batch(windows["beat"][-1:], [windows])[0]
    assert up == same == pytest.approx(99.50330853) and down == pytest.approx(-98.52296443)
    assert known == 1


def test_the_columns_of_references_stand_side_by_side() -> None:
    beats = FIRST + np.arange(300)
    found = [CASES["both"], None, CASES["unbroken"]]
    side_by_side = np.hstack([batch(beats, [windows]) for windows in found])
    np.testing.assert_array_equal(batch(beats, found), side_by_side)
    assert batch(beats, []).shape == (300, 0) and batch(beats[:0], found).shape == (0, 12)


def test_beats_asked_for_need_not_be_those_of_the_reference() -> None:
    windows = CASES["both"]
    beats = FIRST + np.arange(-50, 900)
    every = batch(beats, [windows])
    some = np.random.default_rng(1).random(len(beats)) < 0.3
    np.testing.assert_array_equal(batch(beats[some], [windows]), every[some])


def test_nothing_after_a_beat_is_read() -> None:
    windows = CASES["both"]
    every = batch(FIRST + np.arange(700), [windows])
    scrambled = market(99, 700, broken=0.3)
    for k in (69, 300, 555):
        past = windows["beat"] <= FIRST + k
        future = scrambled[scrambled["beat"] > FIRST + k]
        for known in (windows[past], np.concatenate([windows[past], future])):
            np.testing.assert_array_equal(batch(FIRST + np.arange(k + 1), [known]), every[: k + 1])


def test_columns_are_named_in_order_and_say_their_unit() -> None:
    assert names(CrossConfig()) == ()
    assert names(CrossConfig(btc_eth=True, neighbours=1)) == (
        "btc_return_4s_bps",
        "btc_return_32s_bps",
        "btc_return_272s_bps",
        "btc_known",
        "eth_return_4s_bps",
        "eth_return_32s_bps",
        "eth_return_272s_bps",
        "eth_known",
        "near1_return_4s_bps",
        "near1_return_32s_bps",
        "near1_return_272s_bps",
        "near1_known",
    )
    for neighbours in range(MOST_NEIGHBOURS + 1):
        config = CrossConfig(btc_eth=True, neighbours=neighbours)
        assert len(names(config)) == WIDTH * len(references_of("SOL-USD", config))
        assert len(set(names(config))) == len(names(config))


def test_a_product_is_no_reference_of_its_own_and_majors_are_no_neighbours() -> None:
    nearest = ("ETH-USD", "ADA-USD", "SOL-USD", "BTC-USD", "XRP-USD")
    both = CrossConfig(btc_eth=True, neighbours=2)
    assert references_of("SOL-USD", both, nearest) == ("BTC-USD", "ETH-USD", "ADA-USD", "XRP-USD")
    assert references_of("BTC-USD", both, nearest) == (None, "ETH-USD", "ADA-USD", "SOL-USD")
    alone = CrossConfig(neighbours=2)
    assert references_of("SOL-USD", alone, nearest) == ("ETH-USD", "ADA-USD")
    assert references_of("SOL-USD", alone, ("ADA-USD",)) == ("ADA-USD", None)
    assert references_of("ETH-USD", CrossConfig(btc_eth=True)) == ("BTC-USD", None)


@pytest.mark.parametrize("wrong", [{"neighbours": -1}, {"neighbours": 9}, {"btc_eth": 1}])
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(QuaverError, match=f"cross: {next(iter(wrong))}"):
        CrossConfig(**wrong)


def test_a_configuration_survives_json() -> None:
    config = CrossConfig(btc_eth=True, neighbours=3)
    assert msgspec.json.decode(msgspec.json.encode(config), type=CrossConfig) == config
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"nearest": 3}', type=CrossConfig)


def test_windows_that_cannot_be_are_refused() -> None:
    windows = market(1, 10)
    with pytest.raises(ValueError, match=f"{FIRST + 5} is followed by {FIRST + 5}"):
        mids(windows[[0, 5, 5, 6]])
    with pytest.raises(ValueError, match="ascending"):
        mids(windows[::-1])
    with pytest.raises(ValueError, match="WINDOW dtype"):
        mids(windows["beat"])
    with pytest.raises(ValueError, match="ascending"):
        cross(windows["beat"][::-1], [mids(windows)])
    for bid, ask in ((0, 5), (7, 7), (8, 7), (5, 2**62)):
        unsound = windows.copy()
        unsound["bid"][4], unsound["ask"][4] = bid, ask
        with pytest.raises(ValueError, match=f"beat {FIRST + 4} has bid {bid} and ask {ask}"):
            mids(unsound)


def test_day_by_day_is_what_one_partition_gives() -> None:
    """A day's references are read with the last 68 beats of the day before."""
    midnight = FIRST + 300
    beats = FIRST + np.arange(200, 500)
    for name in ("unbroken", "invalid beats", "missing beats", "both", "starts late"):
        windows = CASES[name]
        before, within = windows[windows["beat"] < midnight], windows[windows["beat"] >= midnight]
        evening = batch(beats[beats < midnight], [before])
        morning = batch(beats[beats >= midnight], [np.concatenate([before[-68:], within])])
        whole = batch(beats, [windows])
        assert np.concatenate([evening, morning]).tobytes() == whole.tobytes()
    assert whole[:, 3].any() and batch(beats, [CASES["invalid beats"]])[100:168, 3].any()


def test_the_largest_prices_are_exact() -> None:
    windows = market(1, 69)
    windows["bid"], windows["ask"] = 2**62 - 2, 2**62 - 1
    windows["bid"][0], windows["ask"][0] = 1, 2
    row = batch(windows["beat"][-1:], [windows])[0]
    assert row == pytest.approx(plain(FIRST + 68, windows), rel=1e-13)


REFERENCES = {
    "BTC-USD": (None, "ETH-USD", "SOL-USD"),
    "ETH-USD": ("BTC-USD", None, "SOL-USD"),
    "ADA-USD": ("BTC-USD", "ETH-USD", None),
}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    broken=st.sampled_from([0.0, 0.02, 0.2]),
    holes=st.sampled_from([0.0, 0.02, 0.2]),
    late=st.integers(0, 150),
    breaks=st.booleans(),
)
def test_live_gives_the_bits_of_the_batch(
    seed: int, broken: float, holes: float, late: int, breaks: bool
) -> None:
    beats = FIRST + np.arange(250)
    windows = {
        "BTC-USD": market(seed, 250, broken=broken),
        "ETH-USD": market(seed + 1, 250, broken=broken, holes=holes),
        "SOL-USD": market(seed + 2, 250 - late, start=FIRST + late, holes=holes),
        "ADA-USD": market(seed + 3, 250),
    }
    builder = CrossBuilder(REFERENCES)
    live: dict[str, list[np.ndarray]] = {name: [] for name in REFERENCES}
    for beat in beats.tolist():
        due = {name: rows[rows["beat"] == beat] for name, rows in windows.items()}
        if breaks:  # As execution says of the first beat that is missing.
            due = {name: rows if len(rows) else after_break(beat) for name, rows in due.items()}
        builder.push(due)
        for name in REFERENCES:
            live[name].append(builder.row(name, beat))
    for name, refs in REFERENCES.items():
        wanted = batch(beats, [None if ref is None else windows[ref] for ref in refs])
        assert np.array(live[name]).tobytes() == wanted.tobytes()
    assert wanted[:, 3].any()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), ahead=st.integers(0, LATE_BEATS), pieces=st.integers(1, 700))
def test_a_product_behind_its_references_gets_the_same_bits(
    seed: int, ahead: int, pieces: int
) -> None:
    """Whole runs of beats may come at once, and of one websocket long before another's."""
    windows = market(seed, 1400, broken=0.01)
    builder = CrossBuilder({"ADA-USD": ("BTC-USD",)})
    wanted = batch(windows["beat"], [windows])
    for start in range(0, 1400, pieces):
        builder.push({"BTC-USD": windows[start : start + pieces]})
        at = max(0, min(start + pieces, 1400) - 1 - ahead)
        row = builder.row("ADA-USD", int(windows["beat"][at]))
        assert row.tobytes() == wanted[at].tobytes()


def test_what_has_not_come_or_is_long_past_is_not_known() -> None:
    windows = market(1, 3000)
    builder = CrossBuilder({"ADA-USD": ("BTC-USD", "ETH-USD", None)})
    assert builder.watched == {"BTC-USD", "ETH-USD"}
    builder.push({"BTC-USD": windows[:100], "ADA-USD": windows[:100]})
    assert builder.waits_for("ADA-USD", FIRST + 99) == ()  # Of ETH nothing ever came.
    for silent in (1, GIVEN_UP_BEATS):
        assert builder.waits_for("ADA-USD", FIRST + 99 + silent) == ("BTC-USD",)
    assert builder.waits_for("ADA-USD", FIRST + 100 + GIVEN_UP_BEATS) == ()
    assert builder.absent("ADA-USD", FIRST + 99) == ("ETH-USD",)
    assert builder.absent("ADA-USD", FIRST + 900) == ("BTC-USD", "ETH-USD")
    assert builder.row("ADA-USD", FIRST + 99)[[3, 7, 11]].tolist() == [1, 0, 0]
    assert not builder.row("ADA-USD", FIRST + 100).any()
    for at in range(100, 3000):
        builder.push({"BTC-USD": windows[at : at + 1]})
        late = at - LATE_BEATS
        assert builder.row("ADA-USD", FIRST + late)[3] == (late >= 68)
    assert not builder.row("ADA-USD", FIRST + 1000).any()
    at_once = CrossBuilder({"ADA-USD": ("BTC-USD",)})
    at_once.push({"BTC-USD": windows})
    assert at_once.row("ADA-USD", FIRST + 2999 - LATE_BEATS)[3] == 1


def test_windows_that_raise_are_not_added_nor_those_beside_them() -> None:
    windows = market(1, 80)
    builder = CrossBuilder({"ADA-USD": ("BTC-USD", "ETH-USD")})
    builder.push({"BTC-USD": windows[:70], "ETH-USD": windows[:70]})
    before = builder.row("ADA-USD", FIRST + 69).tobytes()
    unsound = windows[70:71].copy()
    unsound["bid"] = unsound["ask"]
    for wrong in (unsound, windows[69:70]):
        with pytest.raises(ValueError):
            builder.push({"BTC-USD": windows[70:71], "ETH-USD": wrong})
    assert builder.row("ADA-USD", FIRST + 69).tobytes() == before
    builder.push({"BTC-USD": windows[70:71], "ETH-USD": windows[70:71]})
    assert builder.row("ADA-USD", FIRST + 70)[[3, 7]].tolist() == [1, 1]


def test_the_beat_is_four_seconds_as_the_names_say() -> None:
    assert BEAT_NS == 4_000_000_000
